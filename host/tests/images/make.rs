//! Archives and images for the tests, made by hand so that they can be wrong.
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use shimos::{
    images::{
        blob::Limits,
        furnish::Agents,
        import::{self, Import},
        reader::Reader,
        store::{Kept, Store},
    },
    paths::Paths,
};
use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
};

/// A tar archive in the making.
#[derive(Clone, Default)]
pub struct Tar(Vec<u8>);

/// A header with a kind, name and size.
pub fn header(kind: u8, name: &[u8], size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    let gnu = header.as_gnu_mut().expect("a header of this kind");
    gnu.name[..name.len()].copy_from_slice(name);
    header.set_entry_type(tar::EntryType::new(kind));
    header.set_size(size);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(1_700_000_000);
    header.set_cksum();
    header
}

impl Tar {
    pub fn new() -> Tar {
        Tar::default()
    }
    /// Adds bytes as they are.
    pub fn raw(mut self, bytes: &[u8]) -> Tar {
        self.0.extend_from_slice(bytes);
        self
    }
    /// Adds a header and content.
    pub fn with(self, header: &tar::Header, content: &[u8]) -> Tar {
        let pad = content.len().next_multiple_of(512) - content.len();
        self.raw(header.as_bytes()).raw(content).raw(&vec![0; pad])
    }
    pub fn file(self, name: &str, content: &[u8]) -> Tar {
        self.with(&header(b'0', name.as_bytes(), content.len() as u64), content)
    }
    pub fn directory(self, name: &str) -> Tar {
        let mut header = header(b'5', name.as_bytes(), 0);
        header.set_mode(0o755);
        header.set_cksum();
        self.with(&header, b"")
    }
    pub fn link(self, kind: u8, name: &str, target: &str) -> Tar {
        let mut header = header(kind, name.as_bytes(), 0);
        let gnu = header.as_gnu_mut().expect("a header of this kind");
        gnu.linkname[..target.len()].copy_from_slice(target.as_bytes());
        header.set_cksum();
        self.with(&header, b"")
    }
    pub fn symlink(self, name: &str, target: &str) -> Tar {
        self.link(b'2', name, target)
    }
    pub fn hard_link(self, name: &str, target: &str) -> Tar {
        self.link(b'1', name, target)
    }
    /// Further attributes of the entry that follows.
    pub fn attribute(self, key: &str, value: &[u8]) -> Tar {
        let rest = [b" ", key.as_bytes(), b"=", value, b"\n"].concat();
        let mut len = rest.len() + 1;
        while len != rest.len() + len.to_string().len() {
            len = rest.len() + len.to_string().len();
        }
        let record = [len.to_string().as_bytes(), &rest].concat();
        self.with(&header(b'x', b"attributes", record.len() as u64), &record)
    }
    /// The bytes, without an end.
    pub fn unfinished(self) -> Vec<u8> {
        self.0
    }
    /// The bytes.
    pub fn end(self) -> Vec<u8> {
        self.raw(&[0; 1024]).0
    }
}

/// The SHA-256 of bytes, in digits.
pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Compresses bytes.
pub type Packer = fn(&[u8]) -> Vec<u8>;

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    out.write_all(bytes).expect("compresses");
    out.finish().expect("compresses")
}
pub fn bzip2(bytes: &[u8]) -> Vec<u8> {
    let mut out = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
    out.write_all(bytes).expect("compresses");
    out.finish().expect("compresses")
}
pub fn xz(bytes: &[u8]) -> Vec<u8> {
    let options = lzma_rust2::XzOptions::with_preset(1);
    let mut out = lzma_rust2::XzWriter::new(Vec::new(), options).expect("options");
    out.write_all(bytes).expect("compresses");
    out.finish().expect("compresses")
}
pub fn zstd(bytes: &[u8]) -> Vec<u8> {
    ruzstd::encoding::compress_to_vec(bytes, ruzstd::encoding::CompressionLevel::Fastest)
}

/// What the configuration of an image says.
pub fn config(layers: &[Vec<u8>]) -> Value {
    let digests: Vec<String> = layers.iter().map(|layer| format!("sha256:{}", sha256(layer))).collect();
    json!({
        "architecture": "amd64",
        "os": "linux",
        "config": {
            "User": "web:log",
            "Env": ["PATH=/bin", "GREETING=hello"],
            "Entrypoint": ["/bin/tool"],
            "Cmd": ["serve"],
            "WorkingDir": "/srv/work",
        },
        "rootfs": { "type": "layers", "diff_ids": digests },
    })
}

/// What `docker save` writes, its parts open to change.
#[derive(Clone)]
pub struct Docker {
    pub manifest: Value,
    pub files: Vec<(String, Vec<u8>)>,
}

impl Docker {
    pub fn new(layers: &[Vec<u8>], config: &Value) -> Docker {
        let config = config.to_string().into_bytes();
        let name = format!("{}.json", sha256(&config));
        let mut files = vec![(name.clone(), config)];
        let mut names = Vec::new();
        for (index, layer) in layers.iter().enumerate() {
            names.push(format!("layer{index}/layer.tar"));
            files.push((format!("layer{index}/layer.tar"), layer.clone()));
        }
        let manifest = json!([{ "Config": name, "RepoTags": ["test/web:1"], "Layers": names }]);
        Docker { manifest, files }
    }
    pub fn tar(&self) -> Tar {
        let tar = self.files.iter().fold(Tar::new(), |tar, (name, bytes)| tar.file(name, bytes));
        tar.file("manifest.json", self.manifest.to_string().as_bytes())
    }
}

/// An OCI image layout, its parts open to change.
#[derive(Clone)]
pub struct Layout {
    pub index: Value,
    pub layout: Value,
    /// By digest.
    pub blobs: Vec<(String, Vec<u8>)>,
}

impl Layout {
    pub fn new(layers: &[Vec<u8>], config: &Value) -> Layout {
        let mut layout =
            Layout { index: Value::Null, layout: json!({ "imageLayoutVersion": "1.0.0" }), blobs: Vec::new() };
        let config = layout.add("application/vnd.oci.image.config.v1+json", config.to_string().into_bytes());
        let layers: Vec<Value> =
            layers.iter().map(|layer| layout.add("application/vnd.oci.image.layer.v1.tar+gzip", gzip(layer))).collect();
        let manifest = json!({ "schemaVersion": 2, "config": config, "layers": layers });
        layout.index_of(&manifest);
        layout
    }
    /// Adds a blob; returns its descriptor.
    pub fn add(&mut self, kind: &str, bytes: Vec<u8>) -> Value {
        let digest = sha256(&bytes);
        let descriptor = json!({ "mediaType": kind, "digest": format!("sha256:{digest}"), "size": bytes.len() });
        self.blobs.push((digest, bytes));
        descriptor
    }
    /// Makes the index lead to a manifest.
    pub fn index_of(&mut self, manifest: &Value) {
        let mut descriptor = self.add("application/vnd.oci.image.manifest.v1+json", manifest.to_string().into_bytes());
        descriptor["annotations"] = json!({ "org.opencontainers.image.ref.name": "test" });
        self.index = json!({ "schemaVersion": 2, "manifests": [descriptor] });
    }
    pub fn tar(&self) -> Tar {
        let tar = self
            .blobs
            .iter()
            .fold(Tar::new(), |tar, (digest, bytes)| tar.file(&format!("blobs/sha256/{digest}"), bytes));
        tar.file("oci-layout", self.layout.to_string().as_bytes()).file("index.json", self.index.to_string().as_bytes())
    }
    pub fn write(&self, directory: &Path) {
        let blobs = directory.join("blobs/sha256");
        fs::create_dir_all(&blobs).expect("directory");
        for (digest, bytes) in &self.blobs {
            fs::write(blobs.join(digest), bytes).expect("writes");
        }
        fs::write(directory.join("oci-layout"), self.layout.to_string()).expect("writes");
        fs::write(directory.join("index.json"), self.index.to_string()).expect("writes");
    }
}

/// A store of its own, gone with the test.
pub struct Place {
    pub directory: PathBuf,
    pub store: Store,
}

impl Place {
    pub fn new() -> Place {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let directory = std::env::temp_dir().join(format!("shimos-images-{}-{count}", std::process::id()));
        fs::create_dir_all(&directory).expect("directory");
        let paths = Paths { root: directory.clone(), target: directory.clone(), build: directory.clone() };
        Place { store: Store::of(&paths), directory }
    }

    pub fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.directory.join(name);
        fs::write(&path, bytes).expect("writes");
        path
    }

    /// Imports bytes as a file.
    pub fn import(&self, bytes: &[u8]) -> anyhow::Result<Kept> {
        self.import_path(&self.write("input", bytes), Limits::default())
    }

    pub fn import_path(&self, source: &Path, limits: Limits) -> anyhow::Result<Kept> {
        import::run(&self.store, &Agents::default(), Import { source, name: None, wanted: None, limits })
    }

    /// Imports bytes that must be refused; returns why, on one line, after a look at what is left.
    pub fn refused(&self, what: &str, bytes: &[u8], limits: Limits) -> String {
        let source = self.write("input", bytes);
        let error = match self.import_path(&source, limits) {
            Ok(kept) => panic!("{what}: imported as {}", kept.digest),
            Err(error) => error,
        };
        assert_eq!(self.left(), ["lock"], "{what}: something is left behind");
        let line = format!("{error:#}");
        assert!(!line.contains('\n') && line.chars().all(|c| !c.is_control()), "{what}: {line}");
        line
    }

    /// What lies in the store.
    pub fn left(&self) -> Vec<String> {
        let items = fs::read_dir(self.directory.join("images")).into_iter().flatten().flatten();
        let mut names: Vec<String> = items.map(|item| item.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    /// The content of a file of an image.
    pub fn text(&self, kept: &Kept, path: &str) -> Option<String> {
        let bytes = Reader::open(&kept.file()).expect("an image").read(path, 1 << 20).expect("reads")?;
        Some(String::from_utf8(bytes).expect("text"))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.directory);
    }
}
