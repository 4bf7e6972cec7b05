//! A program that maps a file for itself, changes every other page, and compares all of them for ever: to be watched while
//! kernels die under it.
//!
//! A page that was not changed is read from the file again after a takeover. The kernel may map its neighbours then, and must
//! not take them from the file where the program has changed them.
use crate::check::works;
use shimos_user::raw::Map;
use std::{
    fs::{self, File},
    io::Write,
    os::fd::AsRawFd,
    process::ExitCode,
};

const PAGE: usize = 4096;
/// Pages that are compared, at most.
const MOST: usize = 256;
/// Bytes below the file: pages of an image come home from the lowest on, and the file's are to be read before.
const BELOW: usize = 32 << 20;
/// Comparisons of all pages in a round.
const PASSES: usize = 4000;
/// What every other page begins with.
const OWN: u8 = 0xa5;

/// Runs for ever; prints the number of each round.
pub fn run() -> ExitCode {
    match rounds() {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            println!("wrong: {why}");
            ExitCode::FAILURE
        }
    }
}

fn rounds() -> Result<(), String> {
    let path = "/proc/self/exe";
    let content = works("read", fs::read(path))?;
    let file = works("open", File::open(path))?;
    let pages = (content.len() / PAGE).min(MOST);
    let prot = libc::PROT_READ | libc::PROT_WRITE;
    let map = works("map", Map::new(pages * PAGE, prot, libc::MAP_PRIVATE, file.as_raw_fd(), 0))?;
    let below = works("map below", Map::new(BELOW, prot, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0))?;
    (0..BELOW).step_by(PAGE).for_each(|at| below.set(at, OWN));
    let first: Vec<u8> = content.chunks_exact(PAGE).map(|page| page[0]).take(pages).collect();
    for page in (0..pages).filter(|page| page % 2 == 1) {
        map.set(page * PAGE, OWN ^ first[page]);
    }
    for round in 1_u64.. {
        for _ in 0..PASSES {
            for (page, byte) in first.iter().enumerate() {
                let (found, wanted) = (map.get(page * PAGE), if page % 2 == 1 { OWN ^ byte } else { *byte });
                if found != wanted {
                    return Err(format!("page {page} begins with {found:#x}, not with {wanted:#x}"));
                }
            }
        }
        println!("{round}");
        works("flush", std::io::stdout().flush())?;
    }
    Ok(())
}
