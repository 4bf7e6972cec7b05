//! Work that one process of a checkout does at a time.
use anyhow::{Context, Result};
use rustix::fs::{FlockOperation, flock};
use std::{
    fs::{self, File},
    path::Path,
};

/// Holds a lock file until this is dropped, or until the process ends in whatever way.
#[derive(Debug)]
pub struct Held {
    _file: File,
}

/// Waits until nobody else holds a lock file. Its directory is made if it is not there. `busy` is said before a wait.
pub fn hold(path: &Path, busy: &str) -> Result<Held> {
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory).with_context(|| format!("cannot make the directory {}", directory.display()))?;
    }
    let file = File::create(path).with_context(|| format!("cannot make {}", path.display()))?;
    if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
        eprintln!("shimos: {busy}");
        flock(&file, FlockOperation::LockExclusive).with_context(|| format!("cannot lock {}", path.display()))?;
    }
    Ok(Held { _file: file })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    #[test]
    fn one_at_a_time() {
        let directory = std::env::temp_dir().join(format!("shimos-exclusive-{}", std::process::id()));
        let path = directory.join("not/there/lock");
        let inside = AtomicU32::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..50 {
                        let held = hold(&path, "waiting").expect("a lock");
                        assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                        std::thread::yield_now();
                        inside.fetch_sub(1, Ordering::SeqCst);
                        drop(held);
                    }
                });
            }
        });
        fs::remove_dir_all(directory).expect("removes");
    }
}
