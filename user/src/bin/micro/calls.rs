//! Single system calls.
use crate::{
    Row,
    timing::{Measured, repeat},
};
use shimos_user::raw::{self, Disposition};
use std::{
    fs::{File, OpenOptions},
    hint::black_box,
    io::{Read, Write},
    os::unix::fs::FileExt,
    time::Instant,
};

/// The rows.
pub const ROWS: &[Row] = &[
    ("null_call", null_call),
    ("read_0", read_0),
    ("write_0", write_0),
    ("read_4k", read_4k),
    ("write_4k", write_4k),
    ("stat", stat),
    ("open_close", open_close),
    ("signal", signal),
    ("clock", clock),
];

/// A file that is there wherever this program is.
const THERE: &str = "/proc/self/exe";

fn null_call() -> Measured {
    repeat(|count| {
        for _ in 0..count {
            let _ = raw::call(libc::SYS_getppid, [0; 6]);
        }
        Ok(())
    })
}

fn read_0() -> Measured {
    let mut file = File::open("/dev/zero")?;
    repeat(|count| {
        for _ in 0..count {
            let _ = file.read(black_box(&mut []))?;
        }
        Ok(())
    })
}

fn write_0() -> Measured {
    let mut file = OpenOptions::new().write(true).open("/dev/null")?;
    repeat(|count| {
        for _ in 0..count {
            let _ = file.write(black_box(&[]))?;
        }
        Ok(())
    })
}

/// A file of 4 KiB that has no name any more.
fn scratch() -> std::io::Result<File> {
    let path = format!("/tmp/micro-{}", std::process::id());
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&path)?;
    std::fs::remove_file(path)?;
    file.write_all_at(&[7; 4096], 0)?;
    Ok(file)
}

fn read_4k() -> Measured {
    let file = scratch()?;
    let mut buffer = [0; 4096];
    repeat(|count| {
        for _ in 0..count {
            file.read_exact_at(black_box(&mut buffer), 0)?;
        }
        Ok(())
    })
}

fn write_4k() -> Measured {
    let file = scratch()?;
    let buffer = [1; 4096];
    repeat(|count| {
        for _ in 0..count {
            file.write_all_at(black_box(&buffer), 0)?;
        }
        Ok(())
    })
}

/// The real name of this program: what `stat` and `open` are asked for.
fn path() -> std::io::Result<std::path::PathBuf> {
    std::fs::read_link(THERE)
}

fn stat() -> Measured {
    let path = path()?;
    repeat(|count| {
        for _ in 0..count {
            black_box(std::fs::metadata(&path)?);
        }
        Ok(())
    })
}

fn open_close() -> Measured {
    let path = path()?;
    repeat(|count| {
        for _ in 0..count {
            black_box(File::open(&path)?);
        }
        Ok(())
    })
}

fn signal() -> Measured {
    raw::on_signal(libc::SIGUSR1, Disposition::Count(0))?;
    let own = std::process::id() as i32;
    repeat(|count| {
        for _ in 0..count {
            raw::kill(own, libc::SIGUSR1)?;
        }
        Ok(())
    })
}

fn clock() -> Measured {
    repeat(|count| {
        for _ in 0..count {
            black_box(Instant::now());
        }
        Ok(())
    })
}
