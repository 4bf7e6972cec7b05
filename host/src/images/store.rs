//! Where images are kept: one directory for each, named by what it was made from.
//!
//! A directory appears under its final name only when it is whole. Who changes anything holds the store's lock.
use super::{Image, config::Config};
use crate::{
    exclusive::{self, Held},
    paths::Paths,
    usage::usage,
};
use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use std::{
    fs,
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

/// The file system of an image.
const ROOT: &str = "root.erofs";
/// All else that is known of it.
const CONFIG: &str = "config.json";
/// Hexadecimal digits of a whole digest.
const DIGITS: usize = 64;
/// Digits that people are shown; as few may be given.
const SHOWN: usize = 12;
const FEWEST: usize = 4;
/// Longest name of an image.
const NAME_MAX: usize = 255;

/// An image in the store.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Kept {
    /// What it was made from, as a digest.
    pub digest: String,
    /// Its directory.
    pub directory: PathBuf,
    /// What it is called.
    pub names: Vec<String>,
    /// What it was made from, for people.
    pub source: String,
    /// When it was made, in seconds since 1970.
    pub created: u64,
    /// Bytes of the file system.
    pub size: u64,
    /// Which agents of Shimos are in it.
    pub agents: String,
    /// What it says about the program to run.
    pub config: Config,
}

impl Kept {
    /// The file system.
    pub fn file(&self) -> PathBuf {
        self.directory.join(ROOT)
    }

    /// As users of images see it.
    pub fn image(&self) -> Image {
        let agents: String = self.agents.chars().take(SHOWN).collect();
        Image { file: self.file(), digest: format!("{}-{agents}", self.digest), config: self.config.clone() }
    }

    /// The digest as people see it.
    pub fn short(&self) -> &str {
        self.digest.get(..SHOWN).unwrap_or(&self.digest)
    }

    /// As JSON.
    pub fn to_json(&self) -> Value {
        json!({
            "digest": self.digest,
            "names": self.names,
            "source": self.source,
            "created": self.created,
            "size": self.size,
            "agents": self.agents,
            "config": self.config.to_json(),
        })
    }

    fn read(directory: &Path) -> Option<Kept> {
        let digest = directory.file_name()?.to_str().filter(|name| is_digest(name))?.to_string();
        let value: Value = serde_json::from_str(&fs::read_to_string(directory.join(CONFIG)).ok()?).ok()?;
        let text = |name: &str| Some(value.get(name)?.as_str()?.to_string());
        let names = value.get("names")?.as_array()?.iter();
        Some(Kept {
            digest,
            directory: directory.to_path_buf(),
            names: names.filter_map(|name| name.as_str().map(str::to_string)).collect(),
            source: text("source")?,
            created: value.get("created")?.as_u64()?,
            size: fs::metadata(directory.join(ROOT)).ok()?.len(),
            agents: text("agents")?,
            config: Config::from_json(value.get("config")?),
        })
    }

    fn write(&self) -> Result<()> {
        write_config(&self.directory, self)
    }
}

fn write_config(directory: &Path, kept: &Kept) -> Result<()> {
    let (path, new) = (directory.join(CONFIG), directory.join("config.json.new"));
    fs::write(&new, format!("{:#}\n", kept.to_json()))
        .and_then(|()| fs::rename(&new, &path))
        .with_context(|| format!("cannot write {}", path.display()))
}

fn is_digest(text: &str) -> bool {
    text.len() == DIGITS && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// Whether an image may be called so.
pub fn check_name(name: &str) -> Result<()> {
    let odd = |byte: u8| !(byte.is_ascii_alphanumeric() || b"._:/@+-".contains(&byte));
    let starts_well = name.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
    if !starts_well || name.len() > NAME_MAX || name.bytes().any(odd) {
        return Err(usage(format!(
            "'{name}' cannot be the name of an image; use letters, digits and . _ : / @ + -, a letter or digit first"
        )));
    }
    if is_digest(name) {
        return Err(usage("a name that looks like a digest would be mistaken for one; choose another"));
    }
    Ok(())
}

/// The images of one build directory.
#[derive(Clone, Debug)]
pub struct Store {
    directory: PathBuf,
}

impl Store {
    /// The store.
    pub fn of(paths: &Paths) -> Store {
        Store { directory: paths.build.join("images") }
    }

    /// All images, the oldest first.
    pub fn list(&self) -> Vec<Kept> {
        let items = fs::read_dir(&self.directory).into_iter().flatten().flatten();
        let mut kept: Vec<Kept> = items.filter_map(|item| Kept::read(&item.path())).collect();
        kept.sort_by(|a, b| (a.created, &a.digest).cmp(&(b.created, &b.digest)));
        kept
    }

    /// The image of this digest.
    pub fn get(&self, digest: &str) -> Option<Kept> {
        Kept::read(&self.directory.join(digest))
    }

    /// The image of a name, of a digest or of the start of one.
    pub fn find(&self, wanted: &str) -> Result<Kept> {
        let all = self.list();
        if let Some(kept) = all.iter().rev().find(|kept| kept.names.iter().any(|name| name == wanted)) {
            return Ok(kept.clone());
        }
        let digits = wanted.strip_prefix("sha256:").unwrap_or(wanted);
        if digits.len() >= FEWEST {
            let mut of_digest = all.iter().filter(|kept| kept.digest.starts_with(digits));
            match (of_digest.next(), of_digest.next()) {
                (Some(kept), None) => return Ok(kept.clone()),
                (Some(_), Some(_)) => {
                    return Err(usage(format!("several images begin with {digits}; give more of it")));
                }
                _ => {}
            }
        }
        Err(usage(format!("there is no image '{wanted}'; ./shimos image list shows those there are")))
    }

    /// Waits until nobody else changes the store.
    pub fn lock(&self) -> Result<Locked> {
        let directory = &self.directory;
        let lock = exclusive::hold(&directory.join("lock"), "another shimos works on the images; waiting for it")?;
        // Whose lock this was before has ended: nothing unfinished belongs to anybody.
        for item in fs::read_dir(directory).into_iter().flatten().flatten() {
            if item.file_name().to_string_lossy().starts_with("work-") {
                let _ = fs::remove_dir_all(item.path());
            }
        }
        let work = directory.join(format!("work-{}", std::process::id()));
        fs::create_dir(&work).with_context(|| format!("cannot make the directory {}", work.display()))?;
        Ok(Locked { store: self.clone(), work, _lock: lock })
    }
}

/// The store, for whoever changes it. What lies in the work directory goes when this is dropped.
#[derive(Debug)]
pub struct Locked {
    /// The store.
    pub store: Store,
    work: PathBuf,
    _lock: Held,
}

impl Drop for Locked {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.work);
    }
}

impl Locked {
    /// A directory for what is unfinished, on the same file system as the store.
    pub fn work(&self) -> &Path {
        &self.work
    }

    /// Keeps a file system that was made in the work directory.
    pub fn keep(&self, root: &Path, digest: &str, source: &str, agents: &str, config: Config) -> Result<Kept> {
        let new = self.work.join("new");
        fs::create_dir(&new).with_context(|| format!("cannot make the directory {}", new.display()))?;
        fs::rename(root, new.join(ROOT)).with_context(|| format!("cannot move {}", root.display()))?;
        let created = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let directory = self.store.directory.join(digest);
        let size = fs::metadata(new.join(ROOT))?.len();
        let (names, agents, source) = (Vec::new(), agents.to_string(), source.to_string());
        let kept = Kept { digest: digest.to_string(), directory, names, source, created, size, agents, config };
        write_config(&new, &kept)?;
        // Whatever is there already under this name was not whole.
        let _ = fs::remove_dir_all(&kept.directory);
        fs::rename(&new, &kept.directory).with_context(|| format!("cannot move to {}", kept.directory.display()))?;
        Ok(kept)
    }

    /// Puts another file system into the place of an image's own one, made from it with other agents.
    pub fn renew(&self, kept: &mut Kept, root: &Path, agents: &str) -> Result<()> {
        // Between the two steps the agents are newer than the image says: it is renewed once more then.
        fs::rename(root, kept.file()).with_context(|| format!("cannot move to {}", kept.file().display()))?;
        kept.agents = agents.to_string();
        kept.write()
    }

    /// Gives an image a name; another image that had it loses it.
    pub fn name(&self, digest: &str, name: &str) -> Result<Kept> {
        check_name(name)?;
        let mut kept = self.store.get(digest).context("the image is gone")?;
        if !kept.names.iter().any(|known| known == name) {
            kept.names.push(name.to_string());
            kept.write()?;
        }
        for mut other in self.store.list() {
            if other.digest != kept.digest && other.names.iter().any(|known| known == name) {
                other.names.retain(|known| known != name);
                other.write()?;
            }
        }
        Ok(kept)
    }

    /// Takes one of its names from an image.
    pub fn unname(&self, mut kept: Kept, name: &str) -> Result<Kept> {
        kept.names.retain(|known| known != name);
        kept.write()?;
        Ok(kept)
    }

    /// Removes an image.
    pub fn remove(&self, kept: &Kept) -> Result<()> {
        let gone = self.work.join("gone");
        fs::rename(&kept.directory, &gone).with_context(|| format!("cannot remove {}", kept.directory.display()))?;
        if fs::remove_dir_all(&gone).is_err() {
            bail!("cannot remove all of {}", gone.display());
        }
        Ok(())
    }
}
