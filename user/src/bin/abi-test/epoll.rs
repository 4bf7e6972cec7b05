//! epoll.
use crate::{
    Outcome, Subtest,
    check::{fails, same, text, that, works},
};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use shimos_user::raw::{self, Answer, Disposition};
use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    os::fd::{AsRawFd, OwnedFd, RawFd},
    time::{Duration, Instant},
};

/// The subtests.
pub const TESTS: &[Subtest] = &[
    ("epoll/level", level),
    ("epoll/edge", edge),
    ("epoll/edge-of-room", edge_of_room),
    ("epoll/oneshot", oneshot),
    ("epoll/order", order),
    ("epoll/bad-arguments", bad_arguments),
    ("epoll/closed", closed),
    ("epoll/nested", nested),
    ("epoll/loops", loops),
    ("epoll/exclusive", exclusive),
    ("epoll/hangup", hangup),
    ("epoll/wakes", wakes),
    ("epoll/mask", mask),
    ("epoll/timeout", timeout),
    ("epoll/tcp", tcp),
    ("epoll/many", many),
];

/// EPOLLIN.
pub const IN: u32 = libc::EPOLLIN as u32;
const OUT: u32 = libc::EPOLLOUT as u32;
const ERR: u32 = libc::EPOLLERR as u32;
const HUP: u32 = libc::EPOLLHUP as u32;
const RDHUP: u32 = libc::EPOLLRDHUP as u32;
/// EPOLLET.
pub const ET: u32 = libc::EPOLLET as u32;
const ONESHOT: u32 = libc::EPOLLONESHOT as u32;
const EXCLUSIVE: u32 = libc::EPOLLEXCLUSIVE as u32;
const ADD: i32 = libc::EPOLL_CTL_ADD;
const MOD: i32 = libc::EPOLL_CTL_MOD;
const DEL: i32 = libc::EPOLL_CTL_DEL;

/// Takes a descriptor that a call has made.
pub fn owned(what: &str, got: Answer) -> Result<OwnedFd, String> {
    works(what, got.map(raw::descriptor))
}

/// A new set.
pub fn set() -> Result<OwnedFd, String> {
    owned("epoll_create1", raw::call(libc::SYS_epoll_create1, [libc::EPOLL_CLOEXEC as u64, 0, 0, 0, 0, 0]))
}

/// struct epoll_event, which is packed.
fn entry(events: u32, data: u64) -> [u8; 12] {
    let mut bytes = [0; 12];
    bytes[..4].copy_from_slice(&events.to_le_bytes());
    bytes[4..].copy_from_slice(&data.to_le_bytes());
    bytes
}

fn control(epoll: &OwnedFd, operation: i32, fd: RawFd, events: u32, data: u64) -> Answer {
    let entry = entry(events, data);
    let arguments = [epoll.as_raw_fd() as u64, operation as u64, fd as u64, entry.as_ptr() as u64, 0, 0];
    raw::call(libc::SYS_epoll_ctl, arguments)
}

/// Watches a descriptor; what is told of it is its number.
pub fn add(epoll: &OwnedFd, fd: &impl AsRawFd, events: u32) -> Outcome {
    let fd = fd.as_raw_fd();
    works("add", control(epoll, ADD, fd, events, fd as u64)).map(drop)
}

/// Events and data, at most 8.
pub fn wait(epoll: &OwnedFd, millis: i32) -> Result<Vec<(u32, u64)>, i32> {
    wait_for(epoll, 8, millis)
}

fn wait_for(epoll: &OwnedFd, most: usize, millis: i32) -> Result<Vec<(u32, u64)>, i32> {
    let mut bytes = vec![0_u8; most * 12];
    let arguments = [epoll.as_raw_fd() as u64, bytes.as_mut_ptr() as u64, most as u64, millis as u64, 0, 0];
    let count = raw::call(libc::SYS_epoll_wait, arguments)? as usize;
    let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    Ok((0..count).map(|i| (word(i * 12), u64::from(word(i * 12 + 4)) | u64::from(word(i * 12 + 8)) << 32)).collect())
}

/// The events that are told now, whatever they are of.
fn now(epoll: &OwnedFd) -> Result<Vec<u32>, i32> {
    Ok(wait(epoll, 0)?.into_iter().map(|(events, _)| events).collect())
}

fn pair() -> Result<(OwnedFd, OwnedFd), String> {
    works("socketpair", socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::NONBLOCK, None))
}

fn level() -> Outcome {
    let epoll = set()?;
    let (mut reader, mut writer) = std::io::pipe().map_err(text)?;
    works("add", control(&epoll, ADD, reader.as_raw_fd(), IN, 0x1234_5678_9abc_def0))?;
    same("nothing", wait(&epoll, 0), Ok(vec![]))?;
    writer.write_all(b"xy").map_err(text)?;
    for _ in 0..3 {
        same("ready", wait(&epoll, -1), Ok(vec![(IN, 0x1234_5678_9abc_def0)]))?;
    }
    let mut byte = [0];
    reader.read_exact(&mut byte).map_err(text)?;
    same("one left", now(&epoll), Ok(vec![IN]))?;
    reader.read_exact(&mut byte).map_err(text)?;
    same("empty", now(&epoll), Ok(vec![]))?;
    works("modify", control(&epoll, MOD, reader.as_raw_fd(), 0, 5))?;
    writer.write_all(b"z").map_err(text)?;
    same("not asked for", now(&epoll), Ok(vec![]))?;
    works("modify", control(&epoll, MOD, reader.as_raw_fd(), IN, 6))?;
    same("asked for", wait(&epoll, 0), Ok(vec![(IN, 6)]))?;
    works("delete", control(&epoll, DEL, reader.as_raw_fd(), 0, 0))?;
    same("gone", now(&epoll), Ok(vec![]))
}

fn edge() -> Outcome {
    let epoll = set()?;
    let (mut reader, mut writer) = std::io::pipe().map_err(text)?;
    add(&epoll, &reader, IN | ET)?;
    writer.write_all(b"xyz").map_err(text)?;
    same("told", now(&epoll), Ok(vec![IN]))?;
    same("once", now(&epoll), Ok(vec![]))?;
    let mut byte = [0];
    reader.read_exact(&mut byte).map_err(text)?;
    same("taking some out is no news", now(&epoll), Ok(vec![]))?;
    writer.write_all(b"more").map_err(text)?;
    same("more is news", now(&epoll), Ok(vec![IN]))?;
    works("modify", control(&epoll, MOD, reader.as_raw_fd(), IN | ET, 0))?;
    same("asked anew", now(&epoll), Ok(vec![IN]))?;
    let late = set()?;
    add(&late, &reader, IN | ET)?;
    same("what is there when it is added", now(&late), Ok(vec![IN]))?;
    drop(writer);
    same("the end", now(&epoll), Ok(vec![IN | HUP]))?;
    same("once", now(&epoll), Ok(vec![]))
}

fn edge_of_room() -> Outcome {
    let epoll = set()?;
    let (one, two) = pair()?;
    add(&epoll, &one, IN | OUT | ET)?;
    same("room at first", now(&epoll), Ok(vec![OUT]))?;
    same("once", now(&epoll), Ok(vec![]))?;
    let chunk = [7; 4096];
    let mut sent = 0;
    while let Ok(count) = rustix::io::write(&one, &chunk) {
        sent += count;
    }
    that("it fills up", sent >= 4096)?;
    same("no room", now(&epoll), Ok(vec![]))?;
    let mut into = vec![0; 65536];
    let mut got = 0;
    while got < sent {
        got += works("read", rustix::io::read(&two, &mut into))?;
    }
    same("room again", now(&epoll), Ok(vec![OUT]))?;
    works("write", rustix::io::write(&two, b"x"))?;
    same("data", now(&epoll), Ok(vec![IN | OUT]))?;
    same("once", now(&epoll), Ok(vec![]))?;
    works("write", rustix::io::write(&two, b"x"))?;
    same("more data", now(&epoll), Ok(vec![IN | OUT]))
}

fn oneshot() -> Outcome {
    let epoll = set()?;
    let (reader, mut writer) = std::io::pipe().map_err(text)?;
    add(&epoll, &reader, IN | ONESHOT)?;
    writer.write_all(b"x").map_err(text)?;
    same("told", now(&epoll), Ok(vec![IN]))?;
    writer.write_all(b"y").map_err(text)?;
    same("not again", now(&epoll), Ok(vec![]))?;
    works("modify", control(&epoll, MOD, reader.as_raw_fd(), IN | ONESHOT, 0))?;
    same("asked anew", now(&epoll), Ok(vec![IN]))?;
    same("not again", now(&epoll), Ok(vec![]))
}

/// What is told goes behind the others, so that nobody starves.
fn order() -> Outcome {
    let epoll = set()?;
    let mut pipes = Vec::new();
    for _ in 0..3 {
        let (reader, mut writer) = std::io::pipe().map_err(text)?;
        add(&epoll, &reader, IN)?;
        writer.write_all(b"x").map_err(text)?;
        pipes.push((reader, writer));
    }
    let mut seen = Vec::new();
    for _ in 0..6 {
        seen.push(works("wait", wait_for(&epoll, 1, 0))?[0].1);
    }
    let fds: Vec<u64> = pipes.iter().map(|(reader, _)| reader.as_raw_fd() as u64).collect();
    same("in turn", seen, [fds.clone(), fds].concat())
}

fn bad_arguments() -> Outcome {
    fails("size", raw::call(libc::SYS_epoll_create, [0; 6]), libc::EINVAL)?;
    drop(owned("epoll_create", raw::call(libc::SYS_epoll_create, [1, 0, 0, 0, 0, 0]))?);
    fails("flags", raw::call(libc::SYS_epoll_create1, [1, 0, 0, 0, 0, 0]), libc::EINVAL)?;
    let epoll = set()?;
    let (reader, _writer) = std::io::pipe().map_err(text)?;
    let fd = reader.as_raw_fd();
    fails("modify what is not there", control(&epoll, MOD, fd, IN, 0), libc::ENOENT)?;
    fails("delete what is not there", control(&epoll, DEL, fd, IN, 0), libc::ENOENT)?;
    works("add", control(&epoll, ADD, fd, IN, 0))?;
    fails("twice", control(&epoll, ADD, fd, IN, 0), libc::EEXIST)?;
    fails("an operation", control(&epoll, 9, fd, IN, 0), libc::EINVAL)?;
    fails("itself", control(&epoll, ADD, epoll.as_raw_fd(), IN, 0), libc::EINVAL)?;
    fails("no descriptor", control(&epoll, ADD, 999, IN, 0), libc::EBADF)?;
    let one = entry(IN, 0);
    let arguments = [999, ADD as u64, fd as u64, one.as_ptr() as u64, 0, 0];
    fails("no set", raw::call(libc::SYS_epoll_ctl, arguments), libc::EBADF)?;
    let arguments = [fd as u64, ADD as u64, epoll.as_raw_fd() as u64, one.as_ptr() as u64, 0, 0];
    fails("not a set", raw::call(libc::SYS_epoll_ctl, arguments), libc::EINVAL)?;
    let arguments = [epoll.as_raw_fd() as u64, ADD as u64, fd as u64, 8, 0, 0];
    fails("no memory", raw::call(libc::SYS_epoll_ctl, arguments), libc::EFAULT)?;
    let file = std::fs::File::create("a").map_err(text)?;
    fails("a file", control(&epoll, ADD, file.as_raw_fd(), IN, 0), libc::EPERM)?;
    let directory = std::fs::File::open(".").map_err(text)?;
    fails("a directory", control(&epoll, ADD, directory.as_raw_fd(), IN, 0), libc::EPERM)?;
    let null = std::fs::File::open("/dev/null").map_err(text)?;
    fails("/dev/null", control(&epoll, ADD, null.as_raw_fd(), IN, 0), libc::EPERM)?;
    let mut room = [0_u8; 24];
    let mut wait = |fd: RawFd, addr: u64, most: i64| {
        let addr = if addr == 0 { room.as_mut_ptr() as u64 } else { addr };
        raw::call(libc::SYS_epoll_wait, [fd as u64, addr, most as u64, 0, 0, 0])
    };
    fails("none", wait(epoll.as_raw_fd(), 0, 0), libc::EINVAL)?;
    fails("negative", wait(epoll.as_raw_fd(), 0, -1), libc::EINVAL)?;
    fails("too many", wait(epoll.as_raw_fd(), 0, i64::from(i32::MAX)), libc::EINVAL)?;
    fails("not a set", wait(fd, 0, 1), libc::EINVAL)?;
    fails("no descriptor", wait(999, 0, 1), libc::EBADF)?;
    let mut byte = [0_u8; 8];
    fails(
        "read",
        raw::call(libc::SYS_read, [epoll.as_raw_fd() as u64, byte.as_mut_ptr() as u64, 8, 0, 0, 0]),
        libc::EINVAL,
    )
}

/// An entry belongs to a number and what it was open on; it goes when that goes.
fn closed() -> Outcome {
    let epoll = set()?;
    let (reader, mut writer) = std::io::pipe().map_err(text)?;
    let other = reader.try_clone().map_err(text)?;
    let number = reader.as_raw_fd();
    add(&epoll, &reader, IN)?;
    works("the copy is another entry", control(&epoll, ADD, other.as_raw_fd(), IN, 1))?;
    works("delete it", control(&epoll, DEL, other.as_raw_fd(), IN, 1))?;
    writer.write_all(b"x").map_err(text)?;
    drop(reader);
    same("still open by the copy", wait(&epoll, 0), Ok(vec![(IN, number as u64)]))?;
    fails("but not by this number", control(&epoll, DEL, number, 0, 0), libc::EBADF)?;
    drop(other);
    same("gone", wait(&epoll, 0), Ok(vec![]))?;
    let (reader, _writer) = std::io::pipe().map_err(text)?;
    add(&epoll, &reader, IN)?;
    same("a new one", wait(&epoll, 0), Ok(vec![]))
}

fn nested() -> Outcome {
    let (outer, inner) = (set()?, set()?);
    let (mut reader, mut writer) = std::io::pipe().map_err(text)?;
    add(&outer, &inner, IN)?;
    add(&inner, &reader, IN)?;
    same("nothing", wait(&outer, 0), Ok(vec![]))?;
    writer.write_all(b"x").map_err(text)?;
    same("the inner set", wait(&outer, 0), Ok(vec![(IN, inner.as_raw_fd() as u64)]))?;
    same("the pipe", wait(&inner, 0), Ok(vec![(IN, reader.as_raw_fd() as u64)]))?;
    let mut fds = [rustix::event::PollFd::new(&inner, rustix::event::PollFlags::IN)];
    same("a set is polled", works("poll", rustix::event::poll(&mut fds, None))?, 1)?;
    reader.read_exact(&mut [0]).map_err(text)?;
    same("nothing more", wait(&outer, 0), Ok(vec![]))?;
    let edges = set()?;
    add(&edges, &inner, IN | ET)?;
    same("nothing", wait(&edges, 0), Ok(vec![]))?;
    writer.write_all(b"x").map_err(text)?;
    same("told", wait(&edges, 0), Ok(vec![(IN, inner.as_raw_fd() as u64)]))?;
    same("once", wait(&edges, 0), Ok(vec![]))
}

fn loops() -> Outcome {
    let (one, two, three) = (set()?, set()?, set()?);
    add(&one, &two, IN)?;
    fails("back", control(&two, ADD, one.as_raw_fd(), IN, 0), libc::ELOOP)?;
    add(&two, &three, IN)?;
    fails("around", control(&three, ADD, one.as_raw_fd(), IN, 0), libc::ELOOP)?;
    let mut chain = vec![set()?];
    let refused = (0..10).find_map(|_| {
        let next = set().ok()?;
        let answer = control(&next, ADD, chain[chain.len() - 1].as_raw_fd(), IN, 0);
        chain.push(next);
        answer.err()
    });
    same("too deep", refused, Some(libc::ELOOP))
}

fn exclusive() -> Outcome {
    let (reader, mut writer) = std::io::pipe().map_err(text)?;
    let (one, two) = (set()?, set()?);
    add(&one, &reader, IN | EXCLUSIVE)?;
    add(&two, &reader, IN | EXCLUSIVE)?;
    writer.write_all(b"x").map_err(text)?;
    that("somebody is told", !works("wait", wait(&one, 0))?.is_empty() || !works("wait", wait(&two, 0))?.is_empty())?;
    fails("no change", control(&one, MOD, reader.as_raw_fd(), IN, 0), libc::EINVAL)?;
    fails("not once", control(&set()?, ADD, reader.as_raw_fd(), IN | EXCLUSIVE | ONESHOT, 0), libc::EINVAL)?;
    fails("no set", control(&one, ADD, two.as_raw_fd(), IN | EXCLUSIVE, 0), libc::EINVAL)?;
    let three = set()?;
    add(&three, &writer, OUT)?;
    fails("no becoming", control(&three, MOD, writer.as_raw_fd(), OUT | EXCLUSIVE, 0), libc::EINVAL)
}

fn hangup() -> Outcome {
    let epoll = set()?;
    let (one, two) = pair()?;
    add(&epoll, &one, IN | RDHUP)?;
    works("shutdown", rustix::net::shutdown(&two, rustix::net::Shutdown::Write))?;
    same("half", now(&epoll), Ok(vec![IN | RDHUP]))?;
    drop(two);
    same("whole", now(&epoll), Ok(vec![IN | RDHUP | HUP]))?;
    let (reader, writer) = std::io::pipe().map_err(text)?;
    let epoll = set()?;
    add(&epoll, &writer, 0)?;
    drop(reader);
    same("an error is told unasked", now(&epoll), Ok(vec![ERR]))
}

fn wakes() -> Outcome {
    let epoll = set()?;
    let (mut reader, mut writer) = std::io::pipe().map_err(text)?;
    add(&epoll, &reader, IN | ET)?;
    let child = raw::fork(|| {
        for _ in 0..100 {
            if writer.write_all(b"x").is_err() {
                return 1;
            }
            std::thread::yield_now();
        }
        0
    })
    .map_err(text)?;
    let mut got = 0;
    while got < 100 {
        let told = works("wait", wait(&epoll, 20_000))?;
        same("one thing", told.len(), 1)?;
        let mut into = [0; 256];
        got += reader.read(&mut into).map_err(text)?;
    }
    same("status", raw::exit_of(child).map_err(text)?, 0)
}

fn mask() -> Outcome {
    raw::on_signal(libc::SIGUSR1, Disposition::Count(libc::SA_RESTART)).map_err(text)?;
    works("block", raw::mask(libc::SIG_BLOCK, 1 << (libc::SIGUSR1 - 1)))?;
    raw::kill(std::process::id() as i32, libc::SIGUSR1).map_err(text)?;
    let epoll = set()?;
    let (mut room, none) = ([0_u8; 12], 0_u64);
    let place = room.as_mut_ptr() as u64;
    let arguments = [epoll.as_raw_fd() as u64, place, 1, 5000, &raw const none as u64, 8];
    fails("epoll_pwait", raw::call(libc::SYS_epoll_pwait, arguments), libc::EINTR)?;
    same("caught", raw::caught(libc::SIGUSR1), 1)?;
    raw::kill(std::process::id() as i32, libc::SIGUSR1).map_err(text)?;
    let time = [5_u64, 0];
    let arguments = [epoll.as_raw_fd() as u64, place, 1, time.as_ptr() as u64, &raw const none as u64, 8];
    fails("epoll_pwait2", raw::call(libc::SYS_epoll_pwait2, arguments), libc::EINTR)?;
    same("caught", raw::caught(libc::SIGUSR1), 2)?;
    let arguments = [epoll.as_raw_fd() as u64, place, 1, 0, &raw const none as u64, 4];
    fails("a size", raw::call(libc::SYS_epoll_pwait, arguments), libc::EINVAL)
}

fn timeout() -> Outcome {
    let epoll = set()?;
    let begun = Instant::now();
    same("nothing", wait(&epoll, 60), Ok(vec![]))?;
    that("long enough", begun.elapsed() >= Duration::from_millis(60))?;
    let (mut room, time) = ([0_u8; 12], [0_u64, 30_000_000]);
    let arguments = [epoll.as_raw_fd() as u64, room.as_mut_ptr() as u64, 1, time.as_ptr() as u64, 0, 0];
    let begun = Instant::now();
    same("nothing", raw::call(libc::SYS_epoll_pwait2, arguments), Ok(0))?;
    that("long enough", begun.elapsed() >= Duration::from_millis(30))?;
    let time = [0_u64, 1_000_000_000];
    let arguments = [epoll.as_raw_fd() as u64, room.as_mut_ptr() as u64, 1, time.as_ptr() as u64, 0, 0];
    fails("no time", raw::call(libc::SYS_epoll_pwait2, arguments), libc::EINVAL)
}

fn tcp() -> Outcome {
    let epoll = set()?;
    let listener = TcpListener::bind("127.0.0.1:0").map_err(text)?;
    add(&epoll, &listener, IN)?;
    let mut client = TcpStream::connect(listener.local_addr().map_err(text)?).map_err(text)?;
    same("a connection", wait(&epoll, 20_000), Ok(vec![(IN, listener.as_raw_fd() as u64)]))?;
    let (mut server, _) = listener.accept().map_err(text)?;
    same("accepted", wait(&epoll, 0), Ok(vec![]))?;
    let edges = set()?;
    add(&edges, &server, IN | OUT | RDHUP | ET)?;
    same("room", wait(&edges, 20_000), Ok(vec![(OUT, server.as_raw_fd() as u64)]))?;
    same("once", now(&edges), Ok(vec![]))?;
    for word in [b"one", b"two"] {
        client.write_all(word).map_err(text)?;
        same("data", wait(&edges, 20_000), Ok(vec![(IN | OUT, server.as_raw_fd() as u64)]))?;
        same("once", now(&edges), Ok(vec![]))?;
    }
    let mut words = [0; 6];
    server.read_exact(&mut words).map_err(text)?;
    server.set_nonblocking(true).map_err(text)?;
    let chunk = [0; 65536];
    let mut sent = 0;
    while let Ok(count) = server.write(&chunk) {
        sent += count;
    }
    let mut into = vec![0; 65536];
    let mut got = 0;
    while got < sent {
        got += client.read(&mut into).map_err(text)?;
    }
    let told = works("wait", wait(&edges, 20_000))?;
    same("room again", told, vec![(OUT, server.as_raw_fd() as u64)])?;
    drop(client);
    let told = works("wait", wait(&edges, 20_000))?;
    same("the end", told.last().map(|(events, _)| events & (IN | RDHUP)), Some(IN | RDHUP))
}

/// Many are watched, few are ready.
fn many() -> Outcome {
    let epoll = set()?;
    let mut pairs = Vec::new();
    for _ in 0..200 {
        let pair = pair()?;
        add(&epoll, &pair.0, IN)?;
        pairs.push(pair);
    }
    for at in [3, 77, 150] {
        works("write", rustix::io::write(&pairs[at].1, b"x"))?;
    }
    let mut told: Vec<u64> = works("wait", wait(&epoll, -1))?.into_iter().map(|(_, fd)| fd).collect();
    told.sort_unstable();
    let wanted: Vec<u64> = [3, 77, 150].map(|at: usize| pairs[at].0.as_raw_fd() as u64).to_vec();
    same("those", told, wanted)?;
    drop(pairs);
    same("none", now(&epoll), Ok(vec![]))
}
