//! What every image gets from Shimos: its agents, and the files that say where a program is.
use super::{
    blob::hex,
    tree::{Body, Content, Meta, Node, Tree},
};
use crate::{artifacts, paths::Paths};
use anyhow::{Context, Result};
use sha2::{Digest, Sha256};
use std::fs;

/// Where the agents lie inside.
pub const DIRECTORY: &str = "/usr/lib/shimos";
/// The agent that a machine starts first; it has other names where a machine looks for it.
const FIRST: (&str, [&str; 2]) = ("shimosd", ["/usr/sbin", "/sbin"]);
/// Files that say where a program is, whatever the image has there.
const FILES: [(&str, &str); 3] = [
    ("hostname", "shimos\n"),
    ("hosts", "127.0.0.1 localhost\n127.0.1.1 shimos\n::1 localhost ip6-localhost\n"),
    ("resolv.conf", "nameserver 10.77.0.3\n"),
];

/// Programs of Shimos that run inside.
#[derive(Clone, Debug, Default)]
pub struct Agents {
    files: Vec<(String, Vec<u8>)>,
    digest: String,
}

impl Agents {
    /// Those of this checkout, built if need be.
    pub fn built(paths: &Paths) -> Result<Agents> {
        artifacts::user(paths)?;
        Agents::present(paths)
    }

    /// Those of this checkout as they were built last.
    pub fn present(paths: &Paths) -> Result<Agents> {
        let mut agents = Agents::default();
        let mut hash = Sha256::new();
        for (name, _) in artifacts::USER_PROGRAMS {
            let path = paths.user(name);
            let bytes = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
            hash.update(name);
            hash.update(&bytes);
            agents.files.push((name.to_string(), bytes));
        }
        agents.digest = hex(hash);
        Ok(agents)
    }

    /// What names their content.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// Puts them into an image, into the place of earlier ones.
    pub fn install(&self, tree: &mut Tree) -> Result<()> {
        let directory = tree.reach(DIRECTORY.as_bytes())?;
        for (name, bytes) in &self.files {
            let body = Body::File(Content::Bytes(bytes.as_slice().into()));
            let id = tree.put_into(directory, name.as_bytes(), Node { meta: Meta::of_root(0o755), body })?;
            for place in FIRST.1.iter().filter(|_| *name == FIRST.0) {
                let place = tree.reach(place.as_bytes())?;
                tree.link_into(place, name.as_bytes(), id);
            }
        }
        Ok(())
    }
}

/// Puts the files that say where a program is into an image, and the directory that its program begins in.
pub fn surroundings(tree: &mut Tree, workdir: &str) -> Result<()> {
    let directory = tree.reach(b"/etc")?;
    for (name, text) in FILES {
        let body = Body::File(Content::Bytes(text.as_bytes().into()));
        tree.put_into(directory, name.as_bytes(), Node { meta: Meta::of_root(0o644), body })?;
    }
    tree.reach(workdir.as_bytes()).context("the working directory")?;
    Ok(())
}
