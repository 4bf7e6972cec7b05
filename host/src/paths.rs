//! Where things lie.
use anyhow::{Context, Result};
use std::path::{Path, PathBuf};

/// The places of one checkout.
#[derive(Clone, Debug)]
pub struct Paths {
    /// The checkout.
    pub root: PathBuf,
    /// Cargo's target directory.
    pub target: PathBuf,
    /// Everything else that is made: images, downloads, running machines.
    pub build: PathBuf,
}

impl Paths {
    /// From the environment that the launcher sets, or from where this tool was built.
    pub fn find() -> Result<Paths> {
        let root = std::env::var_os("SHIMOS_ROOT")
            .map(PathBuf::from)
            .or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).parent().map(Path::to_path_buf))
            .unwrap_or_default();
        let root = root.canonicalize().with_context(|| format!("no checkout at {}", root.display()))?;
        Ok(match std::env::var_os("SHIMOS_BUILD_DIR").filter(|dir| !dir.is_empty()) {
            Some(dir) => {
                let build = PathBuf::from(dir);
                std::fs::create_dir_all(&build)
                    .with_context(|| format!("cannot make the directory {} (SHIMOS_BUILD_DIR)", build.display()))?;
                let build = build.canonicalize()?;
                Paths { target: build.join("target"), build, root }
            }
            None => Paths { target: root.join("target"), build: root.join("build"), root },
        })
    }

    /// The kernel.
    pub fn kernel(&self) -> PathBuf {
        self.target.join("x86_64-unknown-none/release/shimos-kernel")
    }
    /// A program of `user/`.
    pub fn user(&self, name: &str) -> PathBuf {
        self.user_target().join("x86_64-unknown-linux-gnu/release").join(name)
    }
    /// Target directory of the programs of `user/`: other flags, so another directory.
    pub fn user_target(&self) -> PathBuf {
        self.target.join("user")
    }
    /// Downloads, kept.
    pub fn cache(&self) -> PathBuf {
        self.build.join("cache")
    }
    /// Root images.
    pub fn images(&self) -> PathBuf {
        self.build.join("image")
    }
    /// Running machines, one directory each.
    pub fn runs(&self) -> PathBuf {
        self.build.join("run")
    }
}
