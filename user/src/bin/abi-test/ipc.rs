//! System V and POSIX interprocess communication.
use crate::{
    Outcome, Subtest,
    check::{call, fails, same, text, that, works},
};
use shimos_user::raw::{self, Disposition};
use std::{
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

/// The subtests.
pub const TESTS: &[Subtest] = &[
    ("ipc/shared-memory", shared_memory),
    ("ipc/shared-memory-removed", shared_memory_removed),
    ("ipc/shared-memory-errors", shared_memory_errors),
    ("ipc/shared-memory-places", shared_memory_places),
    ("ipc/semaphores", semaphores),
    ("ipc/semaphores-wait", semaphores_wait),
    ("ipc/semaphores-undo", semaphores_undo),
    ("ipc/semaphores-errors", semaphores_errors),
    ("ipc/messages", messages),
    ("ipc/messages-wait", messages_wait),
    ("ipc/messages-errors", messages_errors),
    ("ipc/keys", keys),
    ("ipc/proc", proc_files),
    ("ipc/queue", queue),
    ("ipc/queue-wait", queue_wait),
    ("ipc/queue-notify", queue_notify),
    ("ipc/queue-thread", queue_thread),
    ("ipc/queue-errors", queue_errors),
    ("ipc/dev-shm", dev_shm),
];

const CREATE: u64 = 0o1000;
const EXCLUSIVE: u64 = 0o2000;
const NO_WAIT: u64 = 0o4000;
const RMID: u64 = 0;
const SET: u64 = 1;
const STAT: u64 = 2;
const UNDO: u16 = 0x1000;

fn half(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap_or_default())
}

fn long(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap_or_default())
}

fn status(number: i64, id: u64) -> Result<[u8; 128], String> {
    let mut bytes = [0_u8; 128];
    let place = bytes.as_mut_ptr() as u64;
    let arguments = if number == libc::SYS_semctl { [id, 0, STAT, place] } else { [id, STAT, place, 0] };
    works("IPC_STAT", call(number, &arguments))?;
    Ok(bytes)
}

fn shared_memory() -> Outcome {
    let id = works("shmget", call(libc::SYS_shmget, &[0, 10_000, 0o600]))?;
    let at = works("shmat", call(libc::SYS_shmat, &[id, 0, 0]))?;
    let read_only = works("shmat", call(libc::SYS_shmat, &[id, 0, 0o10000]))?;
    same("zeros", raw::word(at).load(Ordering::SeqCst), 0)?;
    let child = raw::fork(|| {
        raw::word(at + 8192).store(77, Ordering::SeqCst);
        call(libc::SYS_shmdt, &[at]).map_or(1, |_| 0)
    })
    .map_err(text)?;
    same("child", raw::exit_of(child).map_err(text)?, 0)?;
    same("seen by both", raw::word(read_only + 8192).load(Ordering::SeqCst), 77)?;
    let child = raw::fork(|| {
        raw::word(read_only).store(1, Ordering::SeqCst);
        0
    })
    .map_err(text)?;
    same("read-only", raw::exit_of(child).map_err(text)?, 256 + libc::SIGSEGV)?;
    fails("and stays so", call(libc::SYS_mprotect, &[read_only, 4096, 3]), libc::EACCES)?;
    let about = status(libc::SYS_shmctl, id)?;
    same("size", long(&about, 48), 10_000)?;
    same("attached", long(&about, 88), 2)?;
    same("mode", word(&about, 20), 0o600)?;
    same("creator", word(&about, 80), std::process::id())?;
    that("last", word(&about, 84) != 0 && long(&about, 56) != 0)?;
    works("shmdt", call(libc::SYS_shmdt, &[read_only]))?;
    fails("shmdt again", call(libc::SYS_shmdt, &[read_only]), libc::EINVAL)?;
    same("attached", long(&status(libc::SYS_shmctl, id)?, 88), 1)?;
    works("shmdt", call(libc::SYS_shmdt, &[at]))?;
    works("IPC_RMID", call(libc::SYS_shmctl, &[id, RMID]))?;
    fails("gone", call(libc::SYS_shmat, &[id, 0, 0]), libc::EINVAL)
}

fn shared_memory_removed() -> Outcome {
    let key = 0x5100_0000 | u64::from(std::process::id());
    let id = works("shmget", call(libc::SYS_shmget, &[key, 4096, CREATE | 0o600]))?;
    let at = works("shmat", call(libc::SYS_shmat, &[id, 0, 0]))?;
    raw::word(at).store(5, Ordering::SeqCst);
    works("IPC_RMID", call(libc::SYS_shmctl, &[id, RMID]))?;
    fails("not by key", call(libc::SYS_shmget, &[key, 4096, 0]), libc::ENOENT)?;
    let about = status(libc::SYS_shmctl, id)?;
    same("marked", (word(&about, 20), word(&about, 0)), (0o1600, 0))?;
    // As long as it is there it can be attached.
    let again = works("shmat", call(libc::SYS_shmat, &[id, 0, 0]))?;
    same("content", raw::word(again).load(Ordering::SeqCst), 5)?;
    works("shmdt", call(libc::SYS_shmdt, &[at]))?;
    let child = raw::fork(|| if raw::word(again).load(Ordering::SeqCst) == 5 { 0 } else { 1 }).map_err(text)?;
    same("child", raw::exit_of(child).map_err(text)?, 0)?;
    works("shmdt", call(libc::SYS_shmdt, &[again]))?;
    fails("gone", call(libc::SYS_shmctl, &[id, RMID]), libc::EINVAL)?;
    // The end of a process detaches.
    let (mut hear, mut tell) = std::io::pipe().map_err(text)?;
    let child = raw::fork(|| {
        let id = call(libc::SYS_shmget, &[0, 4096, 0o600]).unwrap_or(u64::MAX);
        let attached = call(libc::SYS_shmat, &[id, 0, 0]).is_ok() && call(libc::SYS_shmctl, &[id, RMID]).is_ok();
        let told = std::io::Write::write_all(&mut tell, &id.to_le_bytes()).is_ok();
        if attached && told { 0 } else { 1 }
    })
    .map_err(text)?;
    same("child", raw::exit_of(child).map_err(text)?, 0)?;
    let mut bytes = [0; 8];
    std::io::Read::read_exact(&mut hear, &mut bytes).map_err(text)?;
    fails("gone with it", call(libc::SYS_shmat, &[u64::from_le_bytes(bytes), 0, 0]), libc::EINVAL)
}

fn shared_memory_errors() -> Outcome {
    fails("no size", call(libc::SYS_shmget, &[0, 0, 0o600]), libc::EINVAL)?;
    fails("no such id", call(libc::SYS_shmctl, &[0x7fff_fff0, STAT, 0]), libc::EINVAL)?;
    fails("a negative id", call(libc::SYS_shmctl, &[-1_i64 as u64, STAT, 0]), libc::EINVAL)?;
    fails("nothing there", call(libc::SYS_shmdt, &[0x10000]), libc::EINVAL)?;
    fails("an odd address", call(libc::SYS_shmdt, &[0x10001]), libc::EINVAL)?;
    let id = works("shmget", call(libc::SYS_shmget, &[0, 4096, 0o600]))?;
    let place = raw::Map::anonymous(8192, libc::MAP_PRIVATE).map_err(text)?;
    fails("taken", call(libc::SYS_shmat, &[id, place.addr(), 0]), libc::EINVAL)?;
    fails("odd", call(libc::SYS_shmat, &[id, place.addr() + 5, 0]), libc::EINVAL)?;
    fails("remap nowhere", call(libc::SYS_shmat, &[id, 0, 0o40000]), libc::EINVAL)?;
    fails("no such command", call(libc::SYS_shmctl, &[id, 99, 0]), libc::EINVAL)?;
    fails("a bad address", call(libc::SYS_shmctl, &[id, STAT, 8]), libc::EFAULT)?;
    works("IPC_RMID", call(libc::SYS_shmctl, &[id, RMID])).map(|_| ())
}

fn shared_memory_places() -> Outcome {
    let id = works("shmget", call(libc::SYS_shmget, &[0, 3 * 4096, 0o600]))?;
    let place = raw::Map::anonymous(8 * 4096, libc::MAP_PRIVATE).map_err(text)?;
    place.set(0, 1);
    let at = works("SHM_REMAP and SHM_RND", call(libc::SYS_shmat, &[id, place.addr() + 77, 0o60000]))?;
    same("rounded", at, place.addr())?;
    same("in place of what was there", place.get(0), 0)?;
    // A hole in the middle makes two attachments of it; one shmdt removes both.
    works("munmap", call(libc::SYS_munmap, &[at + 4096, 4096]))?;
    same("attached", long(&status(libc::SYS_shmctl, id)?, 88), 2)?;
    works("shmdt", call(libc::SYS_shmdt, &[at]))?;
    same("attached", long(&status(libc::SYS_shmctl, id)?, 88), 0)?;
    works("IPC_RMID", call(libc::SYS_shmctl, &[id, RMID])).map(|_| ())
}

/// struct sembuf.
fn operations(all: &[(u16, i16, u16)]) -> Vec<u8> {
    all.iter().flat_map(|(n, by, flags)| [n.to_le_bytes(), by.to_le_bytes(), flags.to_le_bytes()].concat()).collect()
}

fn operate(id: u64, all: &[(u16, i16, u16)]) -> raw::Answer {
    let bytes = operations(all);
    call(libc::SYS_semop, &[id, bytes.as_ptr() as u64, all.len() as u64])
}

fn value(id: u64, number: u64) -> raw::Answer {
    call(libc::SYS_semctl, &[id, number, libc::GETVAL as u64])
}

fn semaphores() -> Outcome {
    let id = works("semget", call(libc::SYS_semget, &[0, 3, 0o600]))?;
    let values = [3_u16, 0, 7];
    works("SETALL", call(libc::SYS_semctl, &[id, 0, libc::SETALL as u64, values.as_ptr() as u64]))?;
    works("semop", operate(id, &[(0, -2, 0), (1, 0, 0), (2, 1, 0)]))?;
    let mut got = [0_u16; 3];
    works("GETALL", call(libc::SYS_semctl, &[id, 0, libc::GETALL as u64, got.as_mut_ptr() as u64]))?;
    same("values", got, [1, 0, 8])?;
    let no_wait = NO_WAIT as u16;
    fails("all or nothing", operate(id, &[(2, -1, no_wait), (0, -2, no_wait)]), libc::EAGAIN)?;
    same("nothing", value(id, 2), Ok(8))?;
    fails("not zero", operate(id, &[(2, 0, no_wait)]), libc::EAGAIN)?;
    works("SETVAL", call(libc::SYS_semctl, &[id, 2, libc::SETVAL as u64, 0]))?;
    works("zero", operate(id, &[(2, 0, no_wait)]))?;
    same("who", call(libc::SYS_semctl, &[id, 0, libc::GETPID as u64]), Ok(std::process::id().into()))?;
    let about = status(libc::SYS_semctl, id)?;
    same("count", long(&about, 80), 3)?;
    that("operated", long(&about, 48) != 0)?;
    let mut set = about;
    set[20..24].copy_from_slice(&0o644_u32.to_le_bytes());
    works("IPC_SET", call(libc::SYS_semctl, &[id, 0, SET, set.as_ptr() as u64]))?;
    same("mode", word(&status(libc::SYS_semctl, id)?, 20), 0o644)?;
    works("IPC_RMID", call(libc::SYS_semctl, &[id, 0, RMID]))?;
    fails("gone", value(id, 0), libc::EINVAL)
}

/// Waits until `holds`; generously long.
fn until(what: &str, mut holds: impl FnMut() -> bool) -> Outcome {
    let begun = Instant::now();
    while !holds() {
        if begun.elapsed() > Duration::from_secs(20) {
            return Err(format!("{what}: not within 20 s"));
        }
        std::thread::yield_now();
    }
    Ok(())
}

fn semaphores_wait() -> Outcome {
    let id = works("semget", call(libc::SYS_semget, &[0, 2, 0o600]))?;
    let count = |number, command| call(libc::SYS_semctl, &[id, number, command]);
    let grow = raw::fork(|| operate(id, &[(0, -2, 0)]).map_or(1, |_| 0)).map_err(text)?;
    until("GETNCNT", || count(0, libc::GETNCNT as u64) == Ok(1))?;
    works("one", operate(id, &[(0, 1, 0)]))?;
    same("not enough", raw::wait(grow, libc::WNOHANG).map_err(text)?.0, 0)?;
    works("two", operate(id, &[(0, 1, 0)]))?;
    // What waited is served at once: nobody else may take it.
    same("taken", value(id, 0), Ok(0))?;
    same("status", raw::exit_of(grow).map_err(text)?, 0)?;
    works("up", operate(id, &[(1, 1, 0)]))?;
    let zero = raw::fork(|| operate(id, &[(1, 0, 0)]).map_or(1, |_| 0)).map_err(text)?;
    until("GETZCNT", || count(1, libc::GETZCNT as u64) == Ok(1))?;
    works("SETVAL", call(libc::SYS_semctl, &[id, 1, libc::SETVAL as u64, 0]))?;
    same("status", raw::exit_of(zero).map_err(text)?, 0)?;
    // Time limits.
    let wanted = operations(&[(0, -1, 0)]);
    let limit = [0_u64, 20_000_000];
    let begun = Instant::now();
    let waited = call(libc::SYS_semtimedop, &[id, wanted.as_ptr() as u64, 1, limit.as_ptr() as u64]);
    fails("too late", waited, libc::EAGAIN)?;
    that("not too early", begun.elapsed() >= Duration::from_millis(20))?;
    same("waits no more", count(0, libc::GETNCNT as u64), Ok(0))?;
    let bad = [0_u64, 2_000_000_000];
    let waited = call(libc::SYS_semtimedop, &[id, wanted.as_ptr() as u64, 1, bad.as_ptr() as u64]);
    fails("no time", waited, libc::EINVAL)?;
    // A signal ends it, also with SA_RESTART.
    let interrupted = raw::fork(|| {
        let _ = raw::on_signal(libc::SIGUSR1, Disposition::Count(libc::SA_RESTART));
        operate(id, &[(0, -1, 0)]).map_or_else(|errno| errno, |_| 0)
    })
    .map_err(text)?;
    until("GETNCNT", || count(0, libc::GETNCNT as u64) == Ok(1))?;
    raw::kill(interrupted, libc::SIGUSR1).map_err(text)?;
    same("interrupted", raw::exit_of(interrupted).map_err(text)?, libc::EINTR)?;
    same("waits no more", count(0, libc::GETNCNT as u64), Ok(0))?;
    let removed = raw::fork(|| operate(id, &[(0, -1, 0)]).map_or_else(|errno| errno, |_| 0)).map_err(text)?;
    until("GETNCNT", || count(0, libc::GETNCNT as u64) == Ok(1))?;
    works("IPC_RMID", call(libc::SYS_semctl, &[id, 0, RMID]))?;
    same("removed", raw::exit_of(removed).map_err(text)?, libc::EIDRM)
}

fn semaphores_undo() -> Outcome {
    let id = works("semget", call(libc::SYS_semget, &[0, 2, 0o600]))?;
    works("SETVAL", call(libc::SYS_semctl, &[id, 0, libc::SETVAL as u64, 5]))?;
    let child = raw::fork(|| {
        let done = operate(id, &[(0, -3, UNDO), (1, 4, UNDO)]).is_ok();
        let seen = value(id, 0) == Ok(2) && value(id, 1) == Ok(4);
        // A child of one's own inherits nothing to undo.
        let other = raw::fork(|| 0).and_then(raw::exit_of);
        if done && seen && other.is_ok() && value(id, 0) == Ok(2) { 0 } else { 1 }
    })
    .map_err(text)?;
    same("child", raw::exit_of(child).map_err(text)?, 0)?;
    same("undone", (value(id, 0), value(id, 1)), (Ok(5), Ok(0)))?;
    // Whoever waits is served by it.
    works("SETVAL", call(libc::SYS_semctl, &[id, 0, libc::SETVAL as u64, 1]))?;
    let holder = raw::fork(|| {
        let held = operate(id, &[(0, -1, UNDO)]).is_ok();
        let _ = operate(id, &[(1, 1, 0)]);
        while !matches!(call(libc::SYS_semctl, &[id, 0, libc::GETNCNT as u64]), Ok(1)) {
            std::thread::yield_now();
        }
        i32::from(!held)
    })
    .map_err(text)?;
    works("wait for it", operate(id, &[(1, -1, 0)]))?;
    works("served by its end", operate(id, &[(0, -1, 0)]))?;
    same("holder", raw::exit_of(holder).map_err(text)?, 0)?;
    works("IPC_RMID", call(libc::SYS_semctl, &[id, 0, RMID])).map(|_| ())
}

fn semaphores_errors() -> Outcome {
    fails("too many", call(libc::SYS_semget, &[0, 32_001, 0o600]), libc::EINVAL)?;
    fails("none", call(libc::SYS_semget, &[0, 0, 0o600]), libc::EINVAL)?;
    let id = works("semget", call(libc::SYS_semget, &[0, 1, 0o600]))?;
    fails("no such semaphore", operate(id, &[(1, 1, 0)]), libc::EFBIG)?;
    fails("no operation", operate(id, &[]), libc::EINVAL)?;
    fails("too many operations", operate(id, &[(0, 0, 0); 501]), libc::E2BIG)?;
    works("up", operate(id, &[(0, 32767, 0)]))?;
    fails("too high", operate(id, &[(0, 1, 0)]), libc::ERANGE)?;
    fails("SETVAL", call(libc::SYS_semctl, &[id, 0, libc::SETVAL as u64, 32768]), libc::ERANGE)?;
    fails("no such number", value(id, 1), libc::EINVAL)?;
    fails("no such command", call(libc::SYS_semctl, &[id, 0, 99]), libc::EINVAL)?;
    works("IPC_RMID", call(libc::SYS_semctl, &[id, 0, RMID])).map(|_| ())
}

fn send(id: u64, kind: i64, bytes: &[u8], flags: u64) -> raw::Answer {
    let message = [&kind.to_le_bytes()[..], bytes].concat();
    call(libc::SYS_msgsnd, &[id, message.as_ptr() as u64, bytes.len() as u64, flags])
}

fn receive(id: u64, len: usize, kind: i64, flags: u64) -> Result<(i64, Vec<u8>), i32> {
    let mut message = vec![0_u8; 8 + len];
    let got = call(libc::SYS_msgrcv, &[id, message.as_mut_ptr() as u64, len as u64, kind as u64, flags])?;
    message.truncate(8 + got as usize);
    Ok((long(&message, 0) as i64, message.split_off(8)))
}

fn messages() -> Outcome {
    let id = works("msgget", call(libc::SYS_msgget, &[0, 0o600]))?;
    for (kind, bytes) in [(5, &b"five"[..]), (2, b"two"), (9, b""), (2, b"second"), (4, b"four")] {
        works("msgsnd", send(id, kind, bytes, 0))?;
    }
    let about = status(libc::SYS_msgctl, id)?;
    same("bytes and messages", (long(&about, 72), long(&about, 80), long(&about, 88)), (17, 5, 16384))?;
    same("MSG_COPY", receive(id, 10, 1, 0o40000 | NO_WAIT), Ok((2, b"two".to_vec())))?;
    fails("MSG_COPY beyond", receive(id, 10, 5, 0o40000 | NO_WAIT), libc::ENOMSG)?;
    same("of a type", receive(id, 10, 2, 0), Ok((2, b"two".to_vec())))?;
    same("not of a type", receive(id, 10, 5, 0o20000), Ok((9, Vec::new())))?;
    same("lowest up to", receive(id, 10, -4, 0), Ok((2, b"second".to_vec())))?;
    fails("too long", receive(id, 2, 0, 0), libc::E2BIG)?;
    same("cut", receive(id, 2, 0, 0o10000), Ok((5, b"fi".to_vec())))?;
    same("the last", receive(id, 10, 0, 0), Ok((4, b"four".to_vec())))?;
    fails("empty", receive(id, 10, 0, NO_WAIT), libc::ENOMSG)?;
    works("IPC_RMID", call(libc::SYS_msgctl, &[id, RMID])).map(|_| ())
}

fn messages_wait() -> Outcome {
    let id = works("msgget", call(libc::SYS_msgget, &[0, 0o600]))?;
    let child = raw::fork(|| {
        for n in 0..200_u32 {
            match receive(id, 4, 3, 0) {
                Ok((3, bytes)) if bytes == n.to_le_bytes() => {}
                _ => return 1,
            }
            if send(id, 4, &n.to_le_bytes(), 0).is_err() {
                return 2;
            }
        }
        0
    })
    .map_err(text)?;
    for n in 0..200_u32 {
        works("msgsnd", send(id, 3, &n.to_le_bytes(), 0))?;
        same("answer", receive(id, 4, 4, 0), Ok((4, n.to_le_bytes().to_vec())))?;
    }
    same("child", raw::exit_of(child).map_err(text)?, 0)?;
    let block = [1; 8192];
    works("fill", send(id, 1, &block, 0))?;
    works("fill", send(id, 1, &block, 0))?;
    fails("full", send(id, 1, b"x", NO_WAIT), libc::EAGAIN)?;
    let sender = raw::fork(|| send(id, 2, b"x", 0).map_or(1, |_| 0)).map_err(text)?;
    works("make room", receive(id, 8192, 1, 0))?;
    same("sender", raw::exit_of(sender).map_err(text)?, 0)?;
    same("what it sent", receive(id, 1, 2, 0), Ok((2, b"x".to_vec())))?;
    let (mut hear, tell) = std::io::pipe().map_err(text)?;
    let removed = raw::fork(|| {
        let mut tell = &tell;
        let _ = std::io::Write::write_all(&mut tell, b"x");
        receive(id, 1, 7, 0).map_or_else(|errno| errno, |_| 0)
    })
    .map_err(text)?;
    let _ = std::io::Read::read(&mut hear, &mut [0]);
    let state = format!("/proc/{removed}/stat");
    until("it waits", || std::fs::read_to_string(&state).is_ok_and(|stat| stat.contains(") S ")))?;
    works("IPC_RMID", call(libc::SYS_msgctl, &[id, RMID]))?;
    same("removed", raw::exit_of(removed).map_err(text)?, libc::EIDRM)
}

fn messages_errors() -> Outcome {
    let id = works("msgget", call(libc::SYS_msgget, &[0, 0o600]))?;
    fails("no type", send(id, 0, b"x", 0), libc::EINVAL)?;
    fails("too long", send(id, 1, &[0; 8193], 0), libc::EINVAL)?;
    fails("MSG_COPY waits", receive(id, 1, 0, 0o40000), libc::EINVAL)?;
    fails("MSG_COPY with MSG_EXCEPT", receive(id, 1, 0, 0o60000 | NO_WAIT), libc::EINVAL)?;
    fails("no such command", call(libc::SYS_msgctl, &[id, 99]), libc::EINVAL)?;
    works("IPC_RMID", call(libc::SYS_msgctl, &[id, RMID]))?;
    fails("gone", send(id, 1, b"x", 0), libc::EINVAL)
}

fn keys() -> Outcome {
    let key = 0x5200_0000 | u64::from(std::process::id());
    for (get, sizes, control) in [
        (libc::SYS_shmget, Some(4096), libc::SYS_shmctl),
        (libc::SYS_semget, Some(2), libc::SYS_semctl),
        (libc::SYS_msgget, None, libc::SYS_msgctl),
    ] {
        let find = |size: u64, flags: u64| match sizes {
            Some(_) => call(get, &[key, size, flags]),
            None => call(get, &[key, flags]),
        };
        let size = sizes.unwrap_or_default();
        fails("no such key", find(size, 0), libc::ENOENT)?;
        let id = works("make", find(size, CREATE | EXCLUSIVE | 0o600))?;
        same("find", find(size, 0o600), Ok(id))?;
        same("find or make", find(0, CREATE | 0o600), Ok(id))?;
        fails("there already", find(size, CREATE | EXCLUSIVE), libc::EEXIST)?;
        if sizes.is_some() {
            fails("larger", find(size + 1, 0), libc::EINVAL)?;
        }
        let remove = if control == libc::SYS_semctl { [id, 0, RMID] } else { [id, RMID, 0] };
        works("remove", call(control, &remove))?;
        fails("removed", find(size, 0), libc::ENOENT)?;
        let next = works("make again", find(size, CREATE | 0o600))?;
        that("another identifier", next != id)?;
        let remove = if control == libc::SYS_semctl { [next, 0, RMID] } else { [next, RMID, 0] };
        works("remove", call(control, &remove))?;
    }
    Ok(())
}

fn proc_files() -> Outcome {
    let read = |path: &str| std::fs::read_to_string(path).map_err(|error| format!("{path}: {error}"));
    let id = works("shmget", call(libc::SYS_shmget, &[0, 12345, 0o640]))?;
    let listed = read("/proc/sysvipc/shm")?;
    let line = listed.lines().find(|line| line.split_whitespace().nth(1) == Some(&id.to_string()));
    let fields: Vec<&str> = line.ok_or("not listed")?.split_whitespace().collect();
    same("shm", &fields[2..4], &["640", "12345"][..])?;
    works("IPC_RMID", call(libc::SYS_shmctl, &[id, RMID]))?;
    same("sem columns", read("/proc/sysvipc/sem")?.lines().next().map(|l| l.split_whitespace().count()), Some(10))?;
    same("msg columns", read("/proc/sysvipc/msg")?.lines().next().map(|l| l.split_whitespace().count()), Some(14))?;
    for name in ["shmmax", "shmall", "shmmni", "msgmax", "msgmnb", "msgmni", "sem"] {
        that(name, read(&format!("/proc/sys/kernel/{name}"))?.split_whitespace().all(|n| n.parse::<u64>().is_ok()))?;
    }
    let mut info = [0_u8; 72];
    works("IPC_INFO", call(libc::SYS_shmctl, &[0, 3, info.as_mut_ptr() as u64]))?;
    same("shmmni", read("/proc/sys/kernel/shmmni")?.trim().parse(), Ok(long(&info, 16)))
}

fn open_queue(name: &str, flags: i32, attributes: Option<(u64, u64)>) -> raw::Answer {
    let name = std::ffi::CString::new(name).unwrap_or_default();
    let fields = attributes.map(|(most, size)| [0, most, size, 0, 0, 0, 0, 0_u64]);
    let place = fields.as_ref().map_or(0, |fields| fields.as_ptr() as u64);
    call(libc::SYS_mq_open, &[name.as_ptr() as u64, flags as u64, 0o600, place])
}

fn unlink_queue(name: &str) -> raw::Answer {
    let name = std::ffi::CString::new(name).unwrap_or_default();
    call(libc::SYS_mq_unlink, &[name.as_ptr() as u64])
}

fn queue_send(fd: u64, bytes: &[u8], priority: u64, until: Option<[u64; 2]>) -> raw::Answer {
    let limit = until.as_ref().map_or(0, |until| until.as_ptr() as u64);
    call(libc::SYS_mq_timedsend, &[fd, bytes.as_ptr() as u64, bytes.len() as u64, priority, limit])
}

fn queue_receive(fd: u64, len: usize, until: Option<[u64; 2]>) -> Result<(u32, Vec<u8>), i32> {
    let limit = until.as_ref().map_or(0, |until| until.as_ptr() as u64);
    let (mut bytes, mut priority) = (vec![0_u8; len], 0_u32);
    let place = &raw mut priority as u64;
    let got = call(libc::SYS_mq_timedreceive, &[fd, bytes.as_mut_ptr() as u64, len as u64, place, limit])?;
    bytes.truncate(got as usize);
    Ok((priority, bytes))
}

fn queue() -> Outcome {
    let name = format!("abi-{}", std::process::id());
    let fd = works("mq_open", open_queue(&name, libc::O_RDWR | libc::O_CREAT | libc::O_EXCL, Some((3, 16))))?;
    fails("there already", open_queue(&name, libc::O_RDWR | libc::O_CREAT | libc::O_EXCL, None), libc::EEXIST)?;
    same("close on exec", call(libc::SYS_fcntl, &[fd, libc::F_GETFD as u64]), Ok(1))?;
    for (priority, bytes) in [(1, &b"low"[..]), (7, b"high"), (1, b"lower")] {
        works("send", queue_send(fd, bytes, priority, None))?;
    }
    let mut attributes = [0_u64; 8];
    works("mq_getsetattr", call(libc::SYS_mq_getsetattr, &[fd, 0, attributes.as_mut_ptr() as u64]))?;
    same("attributes", &attributes[..4], &[0, 3, 16, 3][..])?;
    same("highest first", queue_receive(fd, 16, None), Ok((7, b"high".to_vec())))?;
    same("then oldest", queue_receive(fd, 16, None), Ok((1, b"low".to_vec())))?;
    works("unlink", unlink_queue(&name))?;
    fails("no name", open_queue(&name, libc::O_RDWR, None), libc::ENOENT)?;
    same("still there", queue_receive(fd, 16, None), Ok((1, b"lower".to_vec())))?;
    let flags = [libc::O_NONBLOCK as u64, 0, 0, 0, 0, 0, 0, 0];
    works("O_NONBLOCK", call(libc::SYS_mq_getsetattr, &[fd, flags.as_ptr() as u64, 0]))?;
    fails("empty", queue_receive(fd, 16, None), libc::EAGAIN)?;
    let mut poll = libc::pollfd { fd: fd as i32, events: libc::POLLIN | libc::POLLOUT, revents: 0 };
    works("poll", call(libc::SYS_poll, &[&raw mut poll as u64, 1, 0]))?;
    same("room", poll.revents, libc::POLLOUT)?;
    works("close", call(libc::SYS_close, &[fd])).map(|_| ())
}

fn queue_wait() -> Outcome {
    let name = format!("abi-{}", std::process::id());
    let fd = works("mq_open", open_queue(&name, libc::O_RDWR | libc::O_CREAT, Some((2, 8))))?;
    works("unlink", unlink_queue(&name))?;
    let child = raw::fork(|| {
        let all = (0..100_u64).all(|n| queue_send(fd, &n.to_le_bytes(), 0, None).is_ok());
        i32::from(!all)
    })
    .map_err(text)?;
    for n in 0..100_u64 {
        same("in order", queue_receive(fd, 8, None), Ok((0, n.to_le_bytes().to_vec())))?;
    }
    same("child", raw::exit_of(child).map_err(text)?, 0)?;
    fails("long ago", queue_receive(fd, 8, Some([1, 0])), libc::ETIMEDOUT)?;
    fails("no time", queue_receive(fd, 8, Some([1, 1_000_000_000])), libc::EINVAL)?;
    works("one", queue_send(fd, b"1", 0, Some([1, 0])))?;
    works("two", queue_send(fd, b"2", 0, None))?;
    fails("full", queue_send(fd, b"3", 0, Some([1, 0])), libc::ETIMEDOUT)
}

fn queue_notify() -> Outcome {
    let name = format!("abi-{}", std::process::id());
    let fd = works("mq_open", open_queue(&name, libc::O_RDWR | libc::O_CREAT, Some((4, 8))))?;
    works("unlink", unlink_queue(&name))?;
    raw::on_signal(libc::SIGUSR2, Disposition::Count(0)).map_err(text)?;
    let mut event = [0_u8; 64];
    event[8..12].copy_from_slice(&libc::SIGUSR2.to_le_bytes());
    let notify = |event: u64| call(libc::SYS_mq_notify, &[fd, event]);
    works("mq_notify", notify(event.as_ptr() as u64))?;
    fails("taken", notify(event.as_ptr() as u64), libc::EBUSY)?;
    works("send", queue_send(fd, b"x", 0, None))?;
    same("told", (raw::caught(libc::SIGUSR2), raw::last_info().1), (1, -3))?;
    works("send", queue_send(fd, b"y", 0, None))?;
    same("once", raw::caught(libc::SIGUSR2), 1)?;
    // Only the empty queue tells.
    works("mq_notify", notify(event.as_ptr() as u64))?;
    works("send", queue_send(fd, b"z", 0, None))?;
    same("not empty", raw::caught(libc::SIGUSR2), 1)?;
    works("no more", notify(0))?;
    event[12..16].copy_from_slice(&77_u32.to_le_bytes());
    fails("no such way", notify(event.as_ptr() as u64), libc::EINVAL)
}

/// SIGEV_THREAD as the C library has it: a message of 32 bytes to a netlink socket, whose last byte says why.
fn queue_thread() -> Outcome {
    let name = format!("abi-{}", std::process::id());
    let fd = works("mq_open", open_queue(&name, libc::O_RDWR | libc::O_CREAT, Some((4, 8))))?;
    works("unlink", unlink_queue(&name))?;
    let kind = (libc::SOCK_RAW | libc::SOCK_NONBLOCK) as u64;
    let socket = works("socket", call(libc::SYS_socket, &[libc::AF_NETLINK as u64, kind, 0]))?;
    let cookie = [7_u8; 32];
    let event = |socket: u64| {
        let mut event = [0_u64; 8];
        (event[0], event[1]) = (cookie.as_ptr() as u64, socket | 2 << 32);
        call(libc::SYS_mq_notify, &[fd, event.as_ptr() as u64])
    };
    let read = || {
        let mut got = [0_u8; 64];
        let count = call(libc::SYS_recvfrom, &[socket, got.as_mut_ptr() as u64, 64, 0, 0, 0])?;
        Ok::<_, i32>((count, got[0], got[31]))
    };
    fails("no descriptor", event(999), libc::EBADF)?;
    fails("no socket", event(fd), libc::ENOTSOCK)?;
    works("mq_notify", event(socket))?;
    fails("taken", event(socket), libc::EBUSY)?;
    fails("nothing yet", read(), libc::EAGAIN)?;
    works("send", queue_send(fd, b"x", 0, None))?;
    same("told", read(), Ok((32, 7, 1)))?;
    works("receive", queue_receive(fd, 8, None))?;
    works("mq_notify", event(socket))?;
    works("no more", call(libc::SYS_mq_notify, &[fd, 0]))?;
    same("removed", read(), Ok((32, 7, 2)))
}

fn queue_errors() -> Outcome {
    let create = libc::O_RDWR | libc::O_CREAT;
    fails("none", open_queue("abi-none", libc::O_RDWR, None), libc::ENOENT)?;
    fails("a slash", open_queue("a/b", create, None), libc::EACCES)?;
    fails("no messages", open_queue("abi-bad", create, Some((0, 1))), libc::EINVAL)?;
    fails("a long name", open_queue(&"n".repeat(256), create, None), libc::ENAMETOOLONG)?;
    fails("unlink none", unlink_queue("abi-none"), libc::ENOENT)?;
    let name = format!("abi-{}", std::process::id());
    let fd = works("mq_open", open_queue(&name, create, Some((1, 4))))?;
    let reader = works("mq_open", open_queue(&name, libc::O_RDONLY, None))?;
    works("unlink", unlink_queue(&name))?;
    fails("too long", queue_send(fd, b"12345", 0, None), libc::EMSGSIZE)?;
    fails("too short", queue_receive(fd, 3, None), libc::EMSGSIZE)?;
    fails("priority", queue_send(fd, b"1", 32768, None), libc::EINVAL)?;
    fails("read only", queue_send(reader, b"1", 0, None), libc::EBADF)?;
    fails("no queue", queue_send(0, b"1", 0, None), libc::EBADF)?;
    fails("no descriptor", queue_send(999, b"1", 0, None), libc::EBADF)
}

fn dev_shm() -> Outcome {
    // What sem_open(3) and shm_open(3) do: a file, a second name for it, a shared mapping of each.
    let (first, second) =
        (format!("/dev/shm/abi-a-{}", std::process::id()), format!("/dev/shm/abi-b-{}", std::process::id()));
    let open = |path: &str| std::fs::OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
    let file = open(&first).map_err(text)?;
    file.set_len(32).map_err(text)?;
    std::fs::hard_link(&first, &second).map_err(text)?;
    std::fs::remove_file(&first).map_err(text)?;
    let other = open(&second).map_err(text)?;
    let map = |file: &std::fs::File| {
        raw::Map::new(
            32,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED,
            std::os::fd::AsRawFd::as_raw_fd(file),
            0,
        )
    };
    let (a, b) = (map(&file).map_err(text)?, map(&other).map_err(text)?);
    let child = raw::fork(|| {
        a.set(5, 9);
        0
    })
    .map_err(text)?;
    same("child", raw::exit_of(child).map_err(text)?, 0)?;
    same("one content", b.get(5), 9)?;
    std::fs::remove_file(&second).map_err(text)?;
    same("no file", half(&[u8::from(open("/dev/shm/abi-x/y").is_err()), 0], 0), 1)
}
