//! What lies at an address of a kernel.
use addr2line::Loader;
use anyhow::{Result, anyhow};
use std::path::Path;

/// The symbols of a kernel.
pub struct Symbols {
    loader: Loader,
    /// The checkout's folder as it stands in the names of its files.
    root: String,
}

/// A place in the source: functions that were compiled into one another are several at one address.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Place {
    /// The function.
    pub function: String,
    /// File and line, if known.
    pub line: Option<String>,
}

impl Symbols {
    /// Reads a kernel's file, made from the checkout at `root`.
    pub fn of(kernel: &Path, root: &Path) -> Result<Symbols> {
        let loader = Loader::new(kernel).map_err(|error| anyhow!("{}: {error}", kernel.display()))?;
        Ok(Symbols { loader, root: format!("{}/", root.display()) })
    }

    /// A file's name, short where it is our own.
    fn shown<'a>(&self, file: &'a str) -> &'a str {
        file.strip_prefix(&self.root).unwrap_or(file)
    }

    /// The places of the instruction at `address`, innermost first.
    pub fn at(&self, address: u64) -> Vec<Place> {
        let mut places = Vec::new();
        if let Ok(mut frames) = self.loader.find_frames(address) {
            while let Ok(Some(frame)) = frames.next() {
                let name = frame.function.as_ref().and_then(|name| Some(name.demangle().ok()?.into_owned()));
                let line = frame.location.and_then(|at| Some(format!("{}:{}", self.shown(at.file?), at.line?)));
                places.push(Place { function: name.unwrap_or_else(|| "?".to_string()), line });
            }
        }
        if places.is_empty()
            && let Some(name) = self.loader.find_symbol(address)
        {
            places.push(Place { function: addr2line::demangle_auto(name.into(), None).into_owned(), line: None });
        }
        places
    }
}
