//! Locks: whoever holds one goes on to hold it, and nobody gets it in between.
use super::{Case, Gate, Other};
use crate::{
    Outcome,
    check::{call, fails, same, text, that, works},
};
use shimos_user::raw;
use std::{
    fs::{File, OpenOptions},
    io::{PipeWriter, Read, Write, pipe},
    os::fd::AsRawFd,
};

pub const CASES: &[Case] = &[
    ("locks/of-a-process", |gate| held(gate, libc::F_SETLK, libc::F_SETLKW)),
    ("locks/of-a-description", |gate| held(gate, libc::F_OFD_SETLK, libc::F_OFD_SETLKW)),
    ("locks/of-a-whole-file", whole),
];

fn open() -> Result<File, String> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).open("f").map_err(text)
}

fn lock(file: &File, command: i32, kind: i32) -> raw::Answer {
    // l_type, l_whence, l_start 0, l_len 10, l_pid 0.
    let range = [kind as u64, 0, 10, 0];
    call(libc::SYS_fcntl, &[file.as_raw_fd() as u64, command as u64, range.as_ptr() as u64])
}

/// Three wait for what we hold; each writes its number when it has it.
fn waiters(wait: &dyn Fn(&File) -> Outcome, ledger: &PipeWriter) -> Result<Vec<Other>, String> {
    (1..=3_u8)
        .map(|number| {
            let mut ledger = ledger.try_clone().map_err(text)?;
            Other::new(move |next| {
                let own = open()?;
                wait(&own)?;
                ledger.write_all(&[number]).map_err(text)?;
                drop(own);
                next();
                Ok(())
            })
        })
        .collect()
}

fn granted(
    gate: &mut Gate,
    refused: Outcome,
    wait: &dyn Fn(&File) -> Outcome,
    free: impl FnOnce() -> Outcome,
) -> Outcome {
    refused?;
    let (mut grants, ledger) = pipe().map_err(text)?;
    let others = waiters(wait, &ledger)?;
    gate.deaths()?;
    let mut waiting = 0_i32;
    let fd = grants.as_raw_fd() as u64;
    works("FIONREAD", call(libc::SYS_ioctl, &[fd, libc::FIONREAD, &raw mut waiting as u64]))?;
    same("granted in between", std::hint::black_box(waiting), 0)?;
    free()?;
    let mut got = [0; 3];
    grants.read_exact(&mut got).map_err(text)?;
    got.sort();
    same("granted", got, [1, 2, 3])?;
    others.into_iter().try_for_each(Other::end)
}

fn held(gate: &mut Gate, try_it: i32, wait_for_it: i32) -> Outcome {
    let file = open()?;
    works("lock", lock(&file, try_it, libc::F_WRLCK))?;
    let another = Other::new(|next| {
        let own = open()?;
        fails("before", lock(&own, try_it, libc::F_RDLCK), libc::EAGAIN)?;
        next();
        fails("after", lock(&own, try_it, libc::F_RDLCK), libc::EAGAIN)
    })?;
    let wait = |own: &File| works("wait", lock(own, wait_for_it, libc::F_WRLCK)).map(drop);
    granted(gate, Ok(()), &wait, || {
        another.end()?;
        works("unlock", lock(&file, try_it, libc::F_UNLCK)).map(drop)
    })
}

fn whole(gate: &mut Gate) -> Outcome {
    let flock = |file: &File, how: i32| call(libc::SYS_flock, &[file.as_raw_fd() as u64, how as u64]);
    let file = open()?;
    works("lock", flock(&file, libc::LOCK_EX))?;
    let other = open()?;
    let refused = fails("another", flock(&other, libc::LOCK_SH | libc::LOCK_NB), libc::EAGAIN);
    let wait = |own: &File| works("wait", flock(own, libc::LOCK_EX)).map(drop);
    granted(gate, refused, &wait, || {
        that("still refused", flock(&other, libc::LOCK_SH | libc::LOCK_NB) == Err(libc::EAGAIN))?;
        works("unlock", flock(&file, libc::LOCK_UN)).map(drop)
    })
}
