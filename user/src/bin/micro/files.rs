//! Small files in the writable part of the file system: made, read, removed.
use crate::{
    Row,
    timing::{Measured, measure},
};
use std::{
    error::Error,
    fs,
    io::{Read, Write},
    time::{Duration, Instant},
};

/// The rows.
pub const ROWS: &[Row] = &[("file_create", create), ("file_read", read), ("file_delete", delete)];

/// Files at a time.
const FILES: u64 = 64;
/// Bytes of each.
const SIZE: usize = 1024;

/// The times of the three steps for `count` files.
fn steps(count: u64) -> Result<[Duration; 3], Box<dyn Error>> {
    let mut took = [Duration::ZERO; 3];
    let directory = format!("/tmp/micro-{}", std::process::id());
    fs::create_dir(&directory)?;
    let content = [5; SIZE];
    let mut left = count;
    while left > 0 {
        let some = left.min(FILES);
        let names: Vec<String> = (0..some).map(|number| format!("{directory}/{number}")).collect();
        let start = Instant::now();
        for name in &names {
            fs::File::create(name)?.write_all(&content)?;
        }
        let created = Instant::now();
        let mut buffer = [0; SIZE];
        for name in &names {
            fs::File::open(name)?.read_exact(&mut buffer)?;
        }
        let read = Instant::now();
        for name in &names {
            fs::remove_file(name)?;
        }
        for (sum, span) in took.iter_mut().zip([created - start, read - created, read.elapsed()]) {
            *sum += span;
        }
        left -= some;
    }
    fs::remove_dir(&directory)?;
    Ok(took)
}

fn create() -> Measured {
    measure(|count| Ok(steps(count)?[0]))
}

fn read() -> Measured {
    measure(|count| Ok(steps(count)?[1]))
}

fn delete() -> Measured {
    measure(|count| Ok(steps(count)?[2]))
}
