//! Processes, and switching between them.
use crate::{
    Row,
    timing::{Measured, measure, repeat},
};
use shimos_user::raw;
use std::{
    error::Error,
    io::{Read, Write, pipe},
    os::unix::{net::UnixStream, process::CommandExt},
    process::Command,
    time::{Duration, Instant},
};

/// The rows.
pub const ROWS: &[Row] = &[
    ("fork_exit", fork_exit),
    ("fork_exec", fork_exec),
    ("switch", switch),
    ("pipe", pipe_round),
    ("unix", unix_round),
];

fn fork_exit() -> Measured {
    repeat(|count| {
        for _ in 0..count {
            raw::exit_of(raw::fork(|| 0)?)?;
        }
        Ok(())
    })
}

fn fork_exec() -> Measured {
    let path = std::fs::read_link("/proc/self/exe")?;
    repeat(|count| {
        for _ in 0..count {
            let child = raw::fork(|| {
                let _ = Command::new(&path).arg("exit").exec();
                127
            })?;
            let status = raw::exit_of(child)?;
            if status != 0 {
                return Err(format!("the child ended with {status}").into());
            }
        }
        Ok(())
    })
}

/// Two processes that give way to each other, on one processor; one operation is one sched_yield.
fn switch() -> Measured {
    measure(|count| {
        let (mut ready, mut told) = pipe()?;
        let child = raw::fork(move || {
            let _ = told.write_all(b"r");
            for _ in 0..count {
                let _ = raw::call(libc::SYS_sched_yield, [0; 6]);
            }
            0
        })?;
        ready.read_exact(&mut [0])?;
        let start = Instant::now();
        for _ in 0..count {
            let _ = raw::call(libc::SYS_sched_yield, [0; 6]);
        }
        let took = start.elapsed();
        raw::exit_of(child)?;
        // The other one has yielded as often meanwhile.
        Ok(took / 2)
    })
}

/// A byte there and back between two processes.
fn rounds(count: u64, mut here: impl Read + Write, mut there: impl Read + Write) -> Result<Duration, Box<dyn Error>> {
    let child = raw::fork(|| {
        let mut byte = [0];
        for _ in 0..count {
            if there.read_exact(&mut byte).and_then(|()| there.write_all(&byte)).is_err() {
                return 1;
            }
        }
        0
    })?;
    let mut byte = [1];
    let start = Instant::now();
    for _ in 0..count {
        here.write_all(&byte)?;
        here.read_exact(&mut byte)?;
    }
    let took = start.elapsed();
    raw::exit_of(child)?;
    Ok(took)
}

/// One pipe each way, as one thing to read and write.
struct Pair<R, W>(R, W);

impl<R: Read, W> Read for Pair<R, W> {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        self.0.read(into)
    }
}

impl<R, W: Write> Write for Pair<R, W> {
    fn write(&mut self, from: &[u8]) -> std::io::Result<usize> {
        self.1.write(from)
    }
    fn flush(&mut self) -> std::io::Result<()> {
        self.1.flush()
    }
}

fn pipe_round() -> Measured {
    measure(|count| {
        let ((down, here), (there, up)) = (pipe()?, pipe()?);
        rounds(count, Pair(there, here), Pair(down, up))
    })
}

fn unix_round() -> Measured {
    measure(|count| {
        let (here, there) = UnixStream::pair()?;
        rounds(count, here, there)
    })
}
