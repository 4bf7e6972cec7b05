//! Images with their configuration: what `docker save` writes, and the OCI image layout. As a directory or as an archive.
use super::{
    archive::{self, Kind},
    blob::{Blob, Spool},
    config::Config,
    tree::show,
};
use anyhow::{Context, Result, anyhow, bail, ensure};
use rustix::fs::{Mode, OFlags, ResolveFlags, open, openat2};
use serde_json::Value;
use std::{
    collections::HashMap,
    fs::File,
    path::{Path, PathBuf},
};

/// Largest description of an image.
const DESCRIPTION: u64 = 8 << 20;
/// How deep lists of images may be in one another.
const MAX_DEPTH: usize = 4;
/// Links that one name in an archive may lead through.
const MAX_LINKS: usize = 8;
/// Layers in one image.
const MAX_LAYERS: usize = 512;
const OS: &str = "linux";
const ARCHITECTURE: &str = "amd64";

/// Lists of images.
const INDEX_TYPES: [&str; 2] =
    ["application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json"];
/// Images.
const MANIFEST_TYPES: [&str; 2] =
    ["application/vnd.oci.image.manifest.v1+json", "application/vnd.docker.distribution.manifest.v2+json"];
/// Configurations of images.
const CONFIG_TYPES: [&str; 2] =
    ["application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json"];
/// Layers.
const LAYER_TYPES: [&str; 6] = [
    "application/vnd.oci.image.layer.v1.tar",
    "application/vnd.oci.image.layer.v1.tar+gzip",
    "application/vnd.oci.image.layer.v1.tar+zstd",
    "application/vnd.docker.image.rootfs.diff.tar",
    "application/vnd.docker.image.rootfs.diff.tar.gzip",
    "application/vnd.docker.image.rootfs.diff.tar.zstd",
];

/// Files by name.
pub enum Bundle {
    /// In a directory.
    Directory(PathBuf),
    /// In an archive.
    Archive(HashMap<Vec<u8>, Kind>),
}

/// An image as it was found.
#[derive(Debug)]
pub struct Found {
    /// Its layers, the lowest first, perhaps compressed; and the digest that each must have unpacked.
    pub layers: Vec<(Blob, String)>,
    /// What it says about the program to run.
    pub config: Config,
    /// What it was called.
    pub name: Option<String>,
}

impl Bundle {
    /// The files of an archive.
    pub fn of_archive(archive: &Blob, spool: &mut Spool) -> Result<Bundle> {
        let mut files = HashMap::new();
        for entry in archive::entries(archive, spool)? {
            // A file that is there twice could be two things for two readers.
            let directory = matches!(entry.kind, Kind::Directory);
            let before = files.insert(entry.path.clone(), entry.kind);
            if before.is_some_and(|before| !(directory && matches!(before, Kind::Directory))) {
                bail!("{}: the archive has it twice", show(&entry.path));
            }
        }
        Ok(Bundle::Archive(files))
    }

    /// The file of a name, if there is one.
    pub fn file(&self, name: &str) -> Result<Option<Blob>> {
        match self {
            Bundle::Directory(directory) => {
                let dir = open(directory, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
                    .with_context(|| format!("cannot open {}", directory.display()))?;
                let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
                match openat2(&dir, name, flags, Mode::empty(), ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS) {
                    Ok(file) => {
                        let file = File::from(file);
                        ensure!(file.metadata()?.is_file(), "{} is no file", show(name.as_bytes()));
                        Ok(Some(Blob::of(file)?))
                    }
                    Err(rustix::io::Errno::NOENT) => Ok(None),
                    Err(error) => Err(anyhow!("cannot open {} in it: {error}", show(name.as_bytes()))),
                }
            }
            Bundle::Archive(files) => {
                let mut path = name.as_bytes().to_vec();
                for _ in 0..MAX_LINKS {
                    match files.get(&path) {
                        None => return Ok(None),
                        Some(Kind::File(blob)) => return Ok(Some(blob.clone())),
                        Some(Kind::HardLink(target)) => path.clone_from(target),
                        // docker save wrote layers that are alike as links to one another.
                        Some(Kind::Symlink(text)) => {
                            path = joined(&path, text)
                                .with_context(|| format!("{} leads out of the archive", show(name.as_bytes())))?;
                        }
                        Some(_) => bail!("{} is no file", show(name.as_bytes())),
                    }
                }
                bail!("{} leads through too many links", show(name.as_bytes()))
            }
        }
    }

    fn json(&self, name: &str) -> Result<Option<Value>> {
        let Some(blob) = self.file(name)? else { return Ok(None) };
        Ok(Some(json(&blob).with_context(|| name.to_string())?))
    }

    /// The image in these files; none if they are no image but files of another purpose. Of several one is chosen by name.
    pub fn image(&self, wanted: Option<&str>) -> Result<Option<Found>> {
        if let Some(manifest) = self.json_if_alike("manifest.json")?
            && manifest.as_array().is_some_and(|all| all.iter().any(|image| image.get("Layers").is_some()))
        {
            return self.docker(&manifest, wanted).map(Some);
        }
        if self.file("oci-layout")?.is_some() {
            return self.layout(wanted).map(Some);
        }
        Ok(None)
    }

    /// As [`Bundle::json`]; a file of this name that is something else is no error.
    fn json_if_alike(&self, name: &str) -> Result<Option<Value>> {
        match self {
            Bundle::Directory(directory) if !directory.join(name).is_file() => Ok(None),
            _ => Ok(self.file(name)?.and_then(|blob| json(&blob).ok())),
        }
    }

    /// What `docker save` has written.
    fn docker(&self, manifest: &Value, wanted: Option<&str>) -> Result<Found> {
        let images: Vec<&Value> = manifest.as_array().into_iter().flatten().collect();
        let names = |image: &Value| texts(image.get("RepoTags"));
        let image = match (wanted, images.as_slice()) {
            (Some(wanted), _) => {
                let named = images.iter().find(|image| names(image).iter().any(|name| name == wanted));
                *named.with_context(|| format!("it holds no image '{wanted}'"))?
            }
            (None, [image]) => image,
            (None, _) => {
                let all: Vec<String> = images.iter().flat_map(|image| names(image)).collect();
                bail!("it holds {} images; choose one with --ref: {}", images.len(), all.join(", "));
            }
        };
        let name = wanted.map(str::to_string).or_else(|| names(image).into_iter().next());
        let config = image.get("Config").and_then(Value::as_str).context("its image has no configuration")?;
        let blob =
            self.file(config)?.with_context(|| format!("the configuration {} is missing", show(config.as_bytes())))?;
        if let Some(digits) = digest_in(config) {
            check_digest(&blob, digits).context("the configuration")?;
        }
        let mut layers = Vec::new();
        for layer in texts(image.get("Layers")) {
            let blob =
                self.file(&layer)?.with_context(|| format!("the layer {} is missing", show(layer.as_bytes())))?;
            layers.push(blob);
        }
        finish(&blob, layers, name)
    }

    /// The OCI image layout.
    fn layout(&self, wanted: Option<&str>) -> Result<Found> {
        let layout = self.json("oci-layout")?.context("oci-layout is missing")?;
        let version = layout.get("imageLayoutVersion").and_then(Value::as_str).unwrap_or_default();
        ensure!(version.starts_with("1."), "its layout has the unknown version '{}'", version.escape_default());
        let index = self.json("index.json")?.context("index.json is missing")?;
        let mut candidates = Vec::new();
        self.candidates(&index, None, 0, &mut candidates)?;
        if let Some(wanted) = wanted {
            candidates.retain(|(name, _)| name.as_deref() == Some(wanted));
            ensure!(!candidates.is_empty(), "it holds no image '{}' for {OS} on {ARCHITECTURE}", wanted);
        }
        let (name, manifest) = match candidates.len() {
            0 => bail!("it holds no image for {OS} on {ARCHITECTURE}"),
            1 => candidates.swap_remove(0),
            count => {
                let names: Vec<String> = candidates.into_iter().filter_map(|(name, _)| name).collect();
                bail!("it holds {count} images; choose one with --ref: {}", names.join(", "));
            }
        };
        let manifest = json(&manifest).context("the manifest")?;
        let config = manifest.get("config").context("the manifest names no configuration")?;
        let config = self.blob(config, &CONFIG_TYPES).context("the configuration")?;
        let mut layers = Vec::new();
        for (index, layer) in manifest.get("layers").and_then(Value::as_array).into_iter().flatten().enumerate() {
            layers.push(self.blob(layer, &LAYER_TYPES).with_context(|| format!("layer {}", index + 1))?);
        }
        finish(&config, layers, name)
    }

    /// The images in a list that can be for this machine, with their names.
    fn candidates(
        &self,
        index: &Value,
        name: Option<&str>,
        depth: usize,
        into: &mut Vec<(Option<String>, Blob)>,
    ) -> Result<()> {
        ensure!(depth < MAX_DEPTH, "its lists of images are too deep in one another");
        for item in index.get("manifests").and_then(Value::as_array).into_iter().flatten() {
            if let Some(platform) = item.get("platform") {
                let text = |name| platform.get(name).and_then(Value::as_str);
                if text("architecture") != Some(ARCHITECTURE) || text("os") != Some(OS) {
                    continue;
                }
            }
            let annotation = |name| item.get("annotations")?.get(name)?.as_str();
            let own = annotation("io.containerd.image.name").or(annotation("org.opencontainers.image.ref.name"));
            let name = own.or(name);
            match item.get("mediaType").and_then(Value::as_str).unwrap_or_default() {
                kind if INDEX_TYPES.contains(&kind) => {
                    let below = json(&self.blob(item, &INDEX_TYPES).context("a list of images")?)?;
                    self.candidates(&below, name, depth + 1, into)?;
                }
                _ => {
                    let manifest = self.blob(item, &MANIFEST_TYPES).context("the manifest")?;
                    into.push((name.map(str::to_string), manifest));
                }
            }
        }
        Ok(())
    }

    /// What a descriptor names, once its size and digest were found right.
    fn blob(&self, descriptor: &Value, kinds: &[&str]) -> Result<Blob> {
        let text = |name| descriptor.get(name).and_then(Value::as_str).unwrap_or_default();
        let kind = text("mediaType");
        ensure!(kinds.contains(&kind), "its media type '{}' is unknown", kind.escape_default());
        let digest = text("digest");
        let digits = digest
            .strip_prefix("sha256:")
            .and_then(digest_in)
            .with_context(|| format!("its digest '{}' is none of SHA-256", digest.escape_default()))?;
        let blob =
            self.file(&format!("blobs/sha256/{digits}"))?.with_context(|| format!("the blob {digits} is missing"))?;
        let size = descriptor.get("size").and_then(Value::as_u64).context("it has no size")?;
        ensure!(blob.len() == size, "it has {} bytes, and should have {size}", blob.len());
        check_digest(&blob, digits)?;
        Ok(blob)
    }
}

/// What a configuration and layers are together.
fn finish(config: &Blob, layers: Vec<Blob>, name: Option<String>) -> Result<Found> {
    let config = json(config).context("the configuration")?;
    let text = |name| config.get(name).and_then(Value::as_str).unwrap_or_default();
    let (os, architecture) = (text("os"), text("architecture"));
    if (os, architecture) != (OS, ARCHITECTURE) {
        bail!(
            "the image is for '{}' on '{}'; Shimos runs programs for {OS} on {ARCHITECTURE}",
            os.escape_default(),
            architecture.escape_default()
        );
    }
    let digests = texts(config.get("rootfs").and_then(|root| root.get("diff_ids")));
    ensure!(!layers.is_empty(), "the image has no layers");
    ensure!(layers.len() <= MAX_LAYERS, "the image has {} layers, more than {MAX_LAYERS}", layers.len());
    ensure!(
        digests.len() == layers.len(),
        "the image has {} layers, and its configuration names {}",
        layers.len(),
        digests.len()
    );
    let checked = |digest: String| {
        let digits = digest.strip_prefix("sha256:").and_then(digest_in).map(str::to_string);
        digits.with_context(|| format!("the digest '{}' of a layer is none of SHA-256", digest.escape_default()))
    };
    let digests = digests.into_iter().map(checked).collect::<Result<Vec<String>>>()?;
    let program = config.get("config").map(Config::from_oci).unwrap_or_default();
    Ok(Found { layers: layers.into_iter().zip(digests).collect(), config: program, name })
}

/// Whether a blob has the digest that it should have.
pub fn check_digest(blob: &Blob, wanted: &str) -> Result<()> {
    let found = blob.digest()?;
    ensure!(found == wanted, "its digest is sha256:{found}, and should be sha256:{wanted}");
    Ok(())
}

fn json(blob: &Blob) -> Result<Value> {
    Ok(serde_json::from_slice(&blob.bytes(DESCRIPTION)?)?)
}

/// The strings of a list.
fn texts(value: Option<&Value>) -> Vec<String> {
    let items = value.and_then(Value::as_array).into_iter().flatten();
    items.filter_map(|item| item.as_str().map(str::to_string)).collect()
}

/// The 64 digits that a file's name consists of, apart from directories and `.json`.
fn digest_in(name: &str) -> Option<&str> {
    let last = name.rsplit('/').next().unwrap_or(name);
    let digits = last.strip_suffix(".json").unwrap_or(last);
    let good = digits.len() == 64 && digits.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    good.then_some(digits)
}

/// Where a symbolic link in an archive leads; nothing if that is outside.
fn joined(link: &[u8], text: &[u8]) -> Option<Vec<u8>> {
    if text.starts_with(b"/") {
        return None;
    }
    let mut parts: Vec<&[u8]> = link.split(|byte| *byte == b'/').collect();
    parts.pop();
    for part in text.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => {
                parts.pop()?;
            }
            _ => parts.push(part),
        }
    }
    Some(parts.join(&b'/'))
}

/// Whether a directory holds an image rather than the files of one.
pub fn is_bundle(directory: &Path) -> bool {
    directory.join("oci-layout").is_file() && directory.join("index.json").is_file()
        || directory.join("manifest.json").is_file()
            && matches!(Bundle::Directory(directory.to_path_buf()).json_if_alike("manifest.json"),
                        Ok(Some(Value::Array(all))) if all.iter().any(|image| image.get("Layers").is_some()))
}
