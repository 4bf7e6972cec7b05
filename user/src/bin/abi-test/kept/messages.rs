//! Interprocess communication: pipes, UNIX sockets with descriptors under way, System V and POSIX objects.
use super::{Case, Gate, Other};
use crate::{
    Outcome,
    check::{call, fails, same, text, that, works},
    net::{get, receive, receive_message, send_message},
};
use shimos_user::raw;
use std::{
    fs::File,
    io::{PipeWriter, Read, Seek, SeekFrom, Write, pipe},
    os::{
        fd::AsRawFd,
        unix::net::{UnixDatagram, UnixStream},
    },
    sync::atomic::Ordering::SeqCst,
};

pub const CASES: &[Case] = &[
    ("messages/pipe-full-with-a-writer-that-waits", pipe_full),
    ("messages/descriptor-under-way-arrives-once", descriptor),
    ("messages/unix-datagrams", datagrams),
    ("messages/unix-credentials", credentials),
    ("messages/shared-memory-removed", shared_memory),
    ("messages/semaphore-undo", undo),
    ("messages/system-v-queue", queue),
    ("messages/posix-queue-and-notification", posix_queue),
];

/// Bytes of a known order.
fn numbered(from: usize, count: usize) -> Vec<u8> {
    (from..from + count).map(|n| (n % 251) as u8).collect()
}

fn pipe_full(gate: &mut Gate) -> Outcome {
    const MORE: usize = 100_000;
    let (mut read, mut write) = pipe().map_err(text)?;
    let fd = write.as_raw_fd() as u64;
    let room = works("size", call(libc::SYS_fcntl, &[fd, libc::F_SETPIPE_SZ as u64, 8192]))? as usize;
    write.write_all(&numbered(0, room)).map_err(text)?;
    let mut more: PipeWriter = write.try_clone().map_err(text)?;
    let writer = Other::new(|next| {
        more.write_all(&numbered(room, MORE)).map_err(text)?;
        next();
        Ok(())
    })?;
    gate.deaths()?;
    same("its size", works("size", call(libc::SYS_fcntl, &[fd, libc::F_GETPIPE_SZ as u64]))?, room as u64)?;
    let mut all = vec![0; room + MORE];
    read.read_exact(&mut all).map_err(text)?;
    that("the same bytes", all == numbered(0, room + MORE))?;
    writer.end()
}

fn descriptor(gate: &mut Gate) -> Outcome {
    let (one, two) = UnixStream::pair().map_err(text)?;
    std::fs::write("f", "0123456789").map_err(text)?;
    let mut file = File::open("f").map_err(text)?;
    file.seek(SeekFrom::Start(4)).map_err(text)?;
    let number = file.as_raw_fd().to_le_bytes();
    works("send", send_message(&one, b"x", &[], Some((libc::SOL_SOCKET, libc::SCM_RIGHTS, &number))))?;
    works("send", send_message(&one, b"yz", &[], None))?;
    drop(file);
    std::fs::remove_file("f").map_err(text)?;
    gate.deaths()?;
    let message = works("receive", receive_message(&two, 1, 64, 0))?;
    let [(libc::SOL_SOCKET, libc::SCM_RIGHTS, bytes)] = message.control.as_slice() else {
        return Err(format!("{:?}", message.control));
    };
    let number = i32::from_le_bytes(bytes.as_slice().try_into().unwrap_or_default());
    let mut file = File::from(raw::own(number));
    let mut rest = String::new();
    file.read_to_string(&mut rest).map_err(text)?;
    same("its place", rest.as_str(), "456789")?;
    let message = works("receive", receive_message(&two, 8, 64, libc::MSG_DONTWAIT))?;
    same("the rest", (message.bytes.as_slice(), message.control.len()), (b"yz".as_slice(), 0))?;
    fails("nothing more", receive(&two, 8, libc::MSG_DONTWAIT), libc::EAGAIN)
}

fn datagrams(gate: &mut Gate) -> Outcome {
    let to = UnixDatagram::bind("s").map_err(text)?;
    let from = UnixDatagram::bind("from").map_err(text)?;
    from.send_to(b"first", "s").map_err(text)?;
    from.send_to(b"", "s").map_err(text)?;
    from.send_to(b"third", "s").map_err(text)?;
    gate.deaths()?;
    let mut bytes = [0; 16];
    for wanted in [b"first".as_slice(), b"", b"third"] {
        let (count, name) = to.recv_from(&mut bytes).map_err(text)?;
        same("datagram", &bytes[..count], wanted)?;
        same("from", name.as_pathname().map(|path| path.display().to_string()), Some("from".to_string()))?;
    }
    from.send_to(b"after", "s").map_err(text)?;
    same("after", to.recv(&mut bytes).map_err(text)?, 5)
}

fn credentials(gate: &mut Gate) -> Outcome {
    let listener = std::os::unix::net::UnixListener::bind("s").map_err(text)?;
    let client = UnixStream::connect("s").map_err(text)?;
    let before = works("peer", get(&client, libc::SOL_SOCKET, libc::SO_PEERCRED, 12))?;
    gate.deaths()?;
    same("peer", works("peer", get(&client, libc::SOL_SOCKET, libc::SO_PEERCRED, 12))?, before)?;
    let (accepted, _) = listener.accept().map_err(text)?;
    let seen = works("peer", get(&accepted, libc::SOL_SOCKET, libc::SO_PEERCRED, 12))?;
    same("who connected", seen.get(..4), Some(std::process::id().to_le_bytes().as_slice()))
}

fn shared_memory(gate: &mut Gate) -> Outcome {
    let id = works("shmget", call(libc::SYS_shmget, &[0, 10_000, 0o600]))?;
    let at = works("shmat", call(libc::SYS_shmat, &[id, 0, 0]))?;
    works("IPC_RMID", call(libc::SYS_shmctl, &[id, 0]))?;
    raw::word(at + 8192).store(5, SeqCst);
    let child = Other::new(|next| {
        next();
        same("seen by the child", raw::word(at + 8192).swap(6, SeqCst), 5)
    })?;
    gate.deaths()?;
    child.end()?;
    same("seen by the parent", raw::word(at + 8192).load(SeqCst), 6)?;
    works("shmdt", call(libc::SYS_shmdt, &[at]))?;
    fails("gone", call(libc::SYS_shmat, &[id, 0, 0]), libc::EINVAL)
}

/// What a process took of a semaphore comes back when it is killed, to who waits for it.
fn undo(gate: &mut Gate) -> Outcome {
    const SETVAL: u64 = 16;
    let id = works("semget", call(libc::SYS_semget, &[0, 1, 0o600]))?;
    works("SETVAL", call(libc::SYS_semctl, &[id, 0, SETVAL, 1]))?;
    let down = |flags: u16| {
        let operation = [0_u16, u16::MAX, flags];
        call(libc::SYS_semop, &[id, operation.as_ptr() as u64, 1])
    };
    let (mut told, mut tell) = pipe().map_err(text)?;
    let holder = Other::new(|next| {
        works("down", down(0x1000))?;
        tell.write_all(b"t").map_err(text)?;
        next();
        Ok(())
    })?;
    told.read_exact(&mut [0]).map_err(text)?;
    let waiter = Other::new(|next| {
        works("wait", down(0))?;
        next();
        Ok(())
    })?;
    gate.deaths()?;
    fails("taken", down(0o4000), libc::EAGAIN)?;
    raw::kill(holder.pid, libc::SIGKILL).map_err(text)?;
    works("wait", raw::exit_of(holder.pid))?;
    waiter.end()?;
    works("IPC_RMID", call(libc::SYS_semctl, &[id, 0, 0])).map(drop)
}

fn queue(gate: &mut Gate) -> Outcome {
    let id = works("msgget", call(libc::SYS_msgget, &[0, 0o600]))?;
    let send = |kind: u64, value: u64| call(libc::SYS_msgsnd, &[id, [kind, value].as_ptr() as u64, 8, 0]);
    let receive = |kind: i64| {
        let mut message = [0_u64; 2];
        call(libc::SYS_msgrcv, &[id, message.as_mut_ptr() as u64, 8, kind as u64, 0])?;
        Ok::<_, i32>(std::hint::black_box(message))
    };
    for (kind, value) in [(1, 11), (2, 22), (1, 33)] {
        works("send", send(kind, value))?;
    }
    let waiter = Other::new(|next| {
        same("what it waited for", works("receive", receive(9))?, [9, 99])?;
        next();
        Ok(())
    })?;
    gate.deaths()?;
    same("by its kind", works("receive", receive(2))?, [2, 22])?;
    same("in order", works("receive", receive(0))?, [1, 11])?;
    same("in order", works("receive", receive(0))?, [1, 33])?;
    works("send", send(9, 99))?;
    waiter.end()?;
    works("IPC_RMID", call(libc::SYS_msgctl, &[id, 0])).map(drop)
}

fn posix_queue(gate: &mut Gate) -> Outcome {
    const SIGNAL: i32 = 41;
    let set = 1_u64 << (SIGNAL - 1);
    works("block", raw::mask(libc::SIG_BLOCK, set))?;
    let make = |name: &str| {
        let name = std::ffi::CString::new(format!("{name}-{}", std::process::id())).unwrap_or_default();
        let attributes = [0_u64, 4, 8, 0, 0, 0, 0, 0];
        let flags = (libc::O_RDWR | libc::O_CREAT) as u64;
        let made = call(libc::SYS_mq_open, &[name.as_ptr() as u64, flags, 0o600, attributes.as_ptr() as u64])?;
        call(libc::SYS_mq_unlink, &[name.as_ptr() as u64])?;
        Ok::<_, i32>(made)
    };
    let send = |fd: u64, bytes: &[u8], priority: u64| {
        call(libc::SYS_mq_timedsend, &[fd, bytes.as_ptr() as u64, bytes.len() as u64, priority, 0])
    };
    let receive = |fd: u64| {
        let (mut bytes, mut priority) = ([0_u8; 8], 0_u32);
        let places = [bytes.as_mut_ptr() as u64, &raw mut priority as u64];
        let count = call(libc::SYS_mq_timedreceive, &[fd, places[0], 8, places[1], 0])?;
        Ok::<_, i32>((bytes[..count as usize].to_vec(), std::hint::black_box(priority)))
    };
    let (full, told) = (works("mq_open", make("full"))?, works("mq_open", make("told"))?);
    works("send", send(full, b"low", 1))?;
    works("send", send(full, b"high", 7))?;
    let mut event = [0_u64; 8];
    event[0] = 77;
    event[1] = SIGNAL as u64;
    works("notify", call(libc::SYS_mq_notify, &[told, event.as_ptr() as u64]))?;
    gate.deaths()?;
    same("first", works("receive", receive(full))?, (b"high".to_vec(), 7))?;
    same("second", works("receive", receive(full))?, (b"low".to_vec(), 1))?;
    works("send", send(told, b"x", 0))?;
    let mut info = [0_u32; 32];
    let time = [10_u64, 0];
    let places = [&raw const set as u64, info.as_mut_ptr() as u64, time.as_ptr() as u64];
    same(
        "signal",
        works("wait", call(libc::SYS_rt_sigtimedwait, &[places[0], places[1], places[2], 8]))?,
        SIGNAL as u64,
    )?;
    let value = std::hint::black_box(info)[6];
    // The value follows pid and uid.
    same("value", value, 77)
}
