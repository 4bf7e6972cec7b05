//! What machines are made of, and where they leave their traces.
use anyhow::{Context, Result, bail};
use shimos::{artifacts, children::Child, image, machine::Files, paths::Paths};
use std::{os::unix::fs::symlink, path::PathBuf, process::Stdio};

/// What all machines of one run share.
#[derive(Clone, Debug)]
pub struct Makings {
    /// Places of our own: a machine that somebody else has started is not ours, and ours are not theirs.
    pub paths: Paths,
    /// Kernel and root image.
    pub files: Files,
    /// The `shimos` tool.
    pub tool: PathBuf,
}

impl Makings {
    /// Takes kernel and image from the environment (`SHIMOS_KERNEL`, `SHIMOS_IMAGE`) or makes them; builds the tool.
    pub fn find() -> Result<Makings> {
        let checkout = Paths::find()?;
        let given = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_file());
        let kernel = match given("SHIMOS_KERNEL") {
            Some(kernel) => kernel,
            None => artifacts::kernel(&checkout)?,
        };
        let image = match given("SHIMOS_IMAGE") {
            Some(image) => image,
            None => image::root(&checkout)?,
        };
        let mut command = artifacts::cargo(&checkout);
        command.args(["build", "--quiet", "--release", "-p", "shimos", "--bin", "shimos", "--target-dir"]);
        command.arg(&checkout.target).stdout(Stdio::null());
        if !Child::spawn(&mut command)?.wait()?.success() {
            bail!("the host tool does not build");
        }
        let tool = checkout.target.join("release/shimos");
        let build = checkout.build.join("whole");
        std::fs::create_dir_all(&build).with_context(|| format!("cannot make {}", build.display()))?;
        // What is built already is not built again for the tool that uses our places.
        let target = build.join("target");
        let _ = std::fs::remove_file(&target);
        symlink(&checkout.target, &target).with_context(|| format!("cannot make {}", target.display()))?;
        let paths = Paths { target, build, root: checkout.root };
        Ok(Makings { paths, files: Files { kernel, image }, tool })
    }
}
