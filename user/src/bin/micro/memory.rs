//! Mappings and page faults.
//!
//! Pages of 4 KiB are measured: the anonymous mappings ask for no larger ones.
use crate::{
    Row,
    timing::{Measured, measure, repeat},
};
use shimos_user::raw::{self, Map};
use std::{
    error::Error,
    fs::File,
    io::{Read, Write, pipe},
    os::fd::AsRawFd,
    time::{Duration, Instant},
};

/// The rows.
pub const ROWS: &[Row] =
    &[("mmap", map_unmap), ("page_fault", page_fault), ("file_fault", file_fault), ("cow_fault", cow_fault)];

const PAGE: usize = 4096;
/// Pages of one mapping.
const PAGES: u64 = 512;

fn anonymous(pages: u64) -> Result<Map, Box<dyn Error>> {
    let map = Map::anonymous(pages as usize * PAGE, libc::MAP_PRIVATE)?;
    // A kernel without large pages refuses that, and need not be asked.
    let _ = raw::call(libc::SYS_madvise, [map.addr(), map.len() as u64, libc::MADV_NOHUGEPAGE as u64, 0, 0, 0]);
    Ok(map)
}

/// A mapping of 16 pages made and removed, untouched.
fn map_unmap() -> Measured {
    repeat(|count| {
        for _ in 0..count {
            drop(Map::anonymous(16 * PAGE, libc::MAP_PRIVATE)?);
        }
        Ok(())
    })
}

/// The first store to a page of anonymous memory.
fn page_fault() -> Measured {
    measure(|count| {
        let mut took = Duration::ZERO;
        let mut left = count;
        while left > 0 {
            let pages = left.min(PAGES);
            let map = anonymous(pages)?;
            let start = Instant::now();
            for page in 0..pages as usize {
                map.set(page * PAGE, 1);
            }
            took += start.elapsed();
            left -= pages;
        }
        Ok(took)
    })
}

/// The first load from a page of a file that is cached.
fn file_fault() -> Measured {
    let file = File::open("/proc/self/exe")?;
    let pages = file.metadata()?.len() / PAGE as u64;
    let len = pages as usize * PAGE;
    let (prot, flags) = (libc::PROT_READ, libc::MAP_PRIVATE);
    // All of it is cached from here on.
    let mut whole = Vec::new();
    File::open("/proc/self/exe")?.read_to_end(&mut whole)?;
    let per_map = measure(|count| {
        let mut took = Duration::ZERO;
        for _ in 0..count {
            let map = Map::new(len, prot, flags, file.as_raw_fd(), 0)?;
            let start = Instant::now();
            for page in 0..pages as usize {
                map.get(page * PAGE);
            }
            took += start.elapsed();
        }
        Ok(took)
    })?;
    Ok(per_map / pages as f64)
}

/// The first store to a page that is shared since a fork, in the child.
fn cow_fault() -> Measured {
    let map = anonymous(PAGES)?;
    for page in 0..PAGES as usize {
        map.set(page * PAGE, 1);
    }
    measure(|count| {
        let mut took = Duration::ZERO;
        let mut left = count;
        while left > 0 {
            let pages = left.min(PAGES);
            let (mut from, mut to) = pipe()?;
            let child = raw::fork(|| {
                let start = Instant::now();
                for page in 0..pages as usize {
                    map.set(page * PAGE, 2);
                }
                let nanos = start.elapsed().as_nanos() as u64;
                i32::from(to.write_all(&nanos.to_le_bytes()).is_err())
            })?;
            let mut nanos = [0; 8];
            from.read_exact(&mut nanos)?;
            raw::exit_of(child)?;
            took += Duration::from_nanos(u64::from_le_bytes(nanos));
            left -= pages;
        }
        Ok(took)
    })
}
