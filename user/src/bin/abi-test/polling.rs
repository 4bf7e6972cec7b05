//! poll and select.
use crate::{
    Outcome, Subtest,
    check::{fails, parent_asleep, same, text, that, works},
};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    net::{AddressFamily, SocketFlags, SocketType, socketpair},
};
use shimos_user::raw;
use std::{
    io::Write,
    os::fd::AsRawFd,
    time::{Duration, Instant},
};

/// The subtests.
pub const TESTS: &[Subtest] = &[
    ("poll/pipe", pipe),
    ("poll/timeout", timeout),
    ("poll/wakes", wakes),
    ("poll/hangup", hangup),
    ("poll/files", files),
    ("poll/socket-pair", socket_pair),
    ("poll/select", select),
    ("poll/mask", mask),
    ("poll/bad-arguments", bad_arguments),
];

fn ready(fds: &mut [PollFd<'_>], millis: i64) -> Result<usize, String> {
    let time = Timespec { tv_sec: millis / 1000, tv_nsec: millis % 1000 * 1_000_000 };
    works("poll", poll(fds, Some(&time)))
}

fn pipe() -> Outcome {
    let (reader, mut writer) = std::io::pipe().map_err(text)?;
    let both = PollFlags::IN | PollFlags::OUT;
    let mut fds = [PollFd::new(&reader, both)];
    same("nothing", ready(&mut fds, 0)?, 0)?;
    writer.write_all(b"x").map_err(text)?;
    same("something", ready(&mut fds, 0)?, 1)?;
    same("in", fds[0].revents(), PollFlags::IN)?;
    let mut fds = [PollFd::new(&writer, both)];
    ready(&mut fds, 0)?;
    same("out", fds[0].revents(), PollFlags::OUT)
}

fn timeout() -> Outcome {
    let (reader, _writer) = std::io::pipe().map_err(text)?;
    let begun = Instant::now();
    same("nothing", ready(&mut [PollFd::new(&reader, PollFlags::IN)], 60)?, 0)?;
    let took = begun.elapsed();
    that(&format!("took {took:?}"), took >= Duration::from_millis(60) && took < Duration::from_secs(5))
}

fn wakes() -> Outcome {
    let (reader, mut writer) = std::io::pipe().map_err(text)?;
    let child = raw::fork(|| i32::from(parent_asleep().is_err() || writer.write_all(b"x").is_err())).map_err(text)?;
    let begun = Instant::now();
    same("woken", ready(&mut [PollFd::new(&reader, PollFlags::IN)], 20_000)?, 1)?;
    that("in time", begun.elapsed() < Duration::from_secs(10))?;
    same("status", raw::exit_of(child).map_err(text)?, 0)
}

fn hangup() -> Outcome {
    let (reader, writer) = std::io::pipe().map_err(text)?;
    drop(writer);
    let mut fds = [PollFd::new(&reader, PollFlags::IN)];
    ready(&mut fds, 0)?;
    same("hangup", fds[0].revents(), PollFlags::HUP)?;
    let (reader, writer) = std::io::pipe().map_err(text)?;
    drop(reader);
    let mut fds = [PollFd::new(&writer, PollFlags::OUT)];
    ready(&mut fds, 0)?;
    same("error", fds[0].revents(), PollFlags::OUT | PollFlags::ERR)
}

fn files() -> Outcome {
    let file = std::fs::File::create("a").map_err(text)?;
    let mut fds = [PollFd::new(&file, PollFlags::IN | PollFlags::OUT)];
    same("always", ready(&mut fds, 0)?, 1)?;
    same("both", fds[0].revents(), PollFlags::IN | PollFlags::OUT)
}

fn socket_pair() -> Outcome {
    let (one, two) =
        works("socketpair", socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::empty(), None))?;
    let both = PollFlags::IN | PollFlags::OUT;
    let mut fds = [PollFd::new(&one, both)];
    ready(&mut fds, 0)?;
    same("out", fds[0].revents(), PollFlags::OUT)?;
    works("write", rustix::io::write(&two, b"x"))?;
    ready(&mut fds, 0)?;
    same("both", fds[0].revents(), both)?;
    drop(two);
    ready(&mut fds, 0)?;
    that("hangup", fds[0].revents().contains(PollFlags::HUP | PollFlags::IN))
}

fn select() -> Outcome {
    let (reader, mut writer) = std::io::pipe().map_err(text)?;
    let (r, w) = (reader.as_raw_fd(), writer.as_raw_fd());
    let call = |millis: u64| {
        let (mut reads, mut writes) = ([0_u64; 16], [0_u64; 16]);
        reads[r as usize / 64] |= 1 << (r % 64);
        writes[w as usize / 64] |= 1 << (w % 64);
        let time = [0_u64, millis * 1000];
        let most = r.max(w) as u64 + 1;
        let count = raw::call(
            libc::SYS_select,
            [most, reads.as_mut_ptr() as u64, writes.as_mut_ptr() as u64, 0, time.as_ptr() as u64, 0],
        );
        (count, reads[r as usize / 64] >> (r % 64) & 1, writes[w as usize / 64] >> (w % 64) & 1)
    };
    same("writable", call(0), (Ok(1), 0, 1))?;
    writer.write_all(b"x").map_err(text)?;
    same("both", call(0), (Ok(2), 1, 1))?;
    let time = [0_u64, 30_000];
    let begun = Instant::now();
    same("only sleeps", works("select", raw::call(libc::SYS_select, [0, 0, 0, 0, time.as_ptr() as u64, 0]))?, 0)?;
    that("long enough", begun.elapsed() >= Duration::from_millis(30))?;
    let set = [u64::MAX; 16];
    fails("a bad descriptor", raw::call(libc::SYS_select, [1000, set.as_ptr() as u64, 0, 0, 0, 0]), libc::EBADF)?;
    fails("negative", raw::call(libc::SYS_select, [u64::MAX, 0, 0, 0, 0, 0]), libc::EINVAL)
}

fn mask() -> Outcome {
    raw::on_signal(libc::SIGUSR1, raw::Disposition::Count(0)).map_err(text)?;
    let bit = 1_u64 << (libc::SIGUSR1 - 1);
    works("block", raw::mask(libc::SIG_BLOCK, bit))?;
    raw::kill(std::process::id() as i32, libc::SIGUSR1).map_err(text)?;
    let (none, time) = (0_u64, [5_u64, 0]);
    let arguments = [0, 0, time.as_ptr() as u64, &raw const none as u64, 8, 0];
    fails("ppoll", raw::call(libc::SYS_ppoll, arguments), libc::EINTR)?;
    same("caught", raw::caught(libc::SIGUSR1), 1)?;
    same("blocked again", works("mask", raw::mask(libc::SIG_BLOCK, 0))? & bit, bit)
}

fn bad_arguments() -> Outcome {
    let mut entry = [u64::from(999_u32) | 1 << 32; 1];
    same("answered", works("poll", raw::call(libc::SYS_poll, [entry.as_mut_ptr() as u64, 1, 0, 0, 0, 0]))?, 1)?;
    same("POLLNVAL", entry[0] >> 48, 32)?;
    let mut ignored = [u64::from(u32::MAX) | 1 << 32; 1];
    same("negative", works("poll", raw::call(libc::SYS_poll, [ignored.as_mut_ptr() as u64, 1, 0, 0, 0, 0]))?, 0)?;
    fails("no memory", raw::call(libc::SYS_poll, [8, 1, 0, 0, 0, 0]), libc::EFAULT)?;
    fails("too many", raw::call(libc::SYS_poll, [8, 1 << 31, 0, 0, 0, 0]), libc::EINVAL)
}
