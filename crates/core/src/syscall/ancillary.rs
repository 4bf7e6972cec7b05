//! Control messages (cmsg(3)): what comes along with a message besides its bytes.
use super::{receiving::Received, sending::Outgoing};
use crate::{
    context::{Context, Result},
    files::{Descriptor, OnExec},
    unix::Owner,
};
use alloc::vec::Vec;
use shimos_abi::{errno::Errno, ids::Pid, time::Nanos};
use shimos_hal::Machine;
use shimos_net::{Control, Stamp};

const SOL_SOCKET: i32 = 1;
const SCM_RIGHTS: i32 = 1;
const SCM_CREDENTIALS: i32 = 2;
/// Bytes of `struct cmsghdr`.
const HEADER: usize = 16;
/// Descriptors in one message, at most (SCM_MAX_FD).
const MAX_FILES: usize = 253;
/// Bytes of control messages in one call (net.core.optmem_max).
const MAX_CONTROL: u64 = 20480;
/// MSG_CTRUNC.
const TRUNCATED: u32 = 8;

/// Which control messages a socket takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Takes {
    /// Descriptors and credentials.
    Files,
    /// What is for the network.
    Network,
}

/// Reads the control messages of a message to send.
pub fn read<M: Machine>(c: &mut Context<'_, M>, addr: u64, len: u64, takes: Takes, out: &mut Outgoing) -> Result<()> {
    if len > MAX_CONTROL {
        return Err(Errno::ENOBUFS.into());
    }
    if addr == 0 || len < HEADER as u64 {
        return Ok(());
    }
    let bytes = c.read_bytes(addr, len as usize)?;
    let mut at = 0;
    while let Some(head) = bytes.get(at..at + HEADER) {
        let word = |at: usize| head.get(at..at + 4).and_then(|b| b.first_chunk::<4>()).copied().unwrap_or_default();
        let len = head.first_chunk::<8>().map_or(0, |len| u64::from_le_bytes(*len));
        let (level, kind) = (i32::from_le_bytes(word(8)), i32::from_le_bytes(word(12)));
        let len = usize::try_from(len).map_err(|_| Errno::EINVAL)?;
        let end = at.checked_add(len).filter(|end| len >= HEADER && *end <= bytes.len()).ok_or(Errno::EINVAL)?;
        let data = bytes.get(at + HEADER..end).unwrap_or_default();
        match (takes, level, kind) {
            (Takes::Files, SOL_SOCKET, SCM_RIGHTS) => {
                for fd in data.as_chunks::<4>().0 {
                    let fd = u32::from_le_bytes(*fd);
                    let description = c.descriptor(fd.into())?.description;
                    out.files.push(description);
                }
                if out.files.len() > MAX_FILES {
                    return Err(Errno::EINVAL.into());
                }
            }
            (Takes::Files, SOL_SOCKET, SCM_CREDENTIALS) => out.credentials = Some(credentials(c, data)?),
            (Takes::Files, SOL_SOCKET, _) => return Err(Errno::EINVAL.into()),
            (Takes::Files, ..) => {}
            // Descriptors and credentials are for UNIX sockets; elsewhere they are ignored.
            (Takes::Network, SOL_SOCKET, SCM_RIGHTS | SCM_CREDENTIALS) => {}
            (Takes::Network, SOL_SOCKET, _) => return Err(Errno::EINVAL.into()),
            (Takes::Network, ..) => out.control.push(Control { level, kind, bytes: data.to_vec() }),
        }
        at = at.saturating_add(len.next_multiple_of(8));
    }
    Ok(())
}

/// `struct ucred`: who the caller says it is, if it may.
fn credentials<M: Machine>(c: &Context<'_, M>, data: &[u8]) -> Result<Owner> {
    let [pid, uid, gid] = data.as_chunks::<4>().0 else { return Err(Errno::EINVAL.into()) };
    let (pid, uid, gid) = (Pid(u32::from_le_bytes(*pid)), u32::from_le_bytes(*uid), u32::from_le_bytes(*gid));
    let process = c.process()?;
    let ids = &process.credentials;
    let own = pid == process.pid
        && [ids.uid, ids.euid, ids.suid].contains(&uid)
        && [ids.gid, ids.egid, ids.sgid].contains(&gid);
    if !own && ids.euid != 0 {
        return Err(Errno::EPERM.into());
    }
    c.process_by(pid)?;
    Ok((pid, uid, gid))
}

/// Control messages for a receiver, as far as there is room.
struct Writer {
    bytes: Vec<u8>,
    room: usize,
    flags: u32,
}

impl Writer {
    fn left(&self) -> usize {
        self.room.saturating_sub(self.bytes.len())
    }

    /// Adds a message; what does not fit is cut off, and said to be.
    fn put(&mut self, level: i32, kind: i32, data: &[u8]) {
        let left = self.left();
        if left < HEADER {
            self.flags |= TRUNCATED;
            return;
        }
        let most = left - HEADER;
        if data.len() > most {
            self.flags |= TRUNCATED;
        }
        let data = data.get(..most).unwrap_or(data);
        self.bytes.extend_from_slice(&((HEADER + data.len()) as u64).to_le_bytes());
        self.bytes.extend_from_slice(&level.to_le_bytes());
        self.bytes.extend_from_slice(&kind.to_le_bytes());
        self.bytes.extend_from_slice(data);
        let padded = self.bytes.len().next_multiple_of(8).min(self.room);
        self.bytes.resize(padded, 0);
    }
}

/// Gives what came along with a message: control messages at `addr`. Returns how many bytes they are, and message flags.
pub fn write<M: Machine>(
    c: &mut Context<'_, M>,
    addr: u64,
    len: u64,
    on_exec: OnExec,
    received: &mut Received,
) -> Result<(u64, u32)> {
    let room = if addr == 0 { 0 } else { usize::try_from(len).unwrap_or(usize::MAX).min(1 << 20) };
    let mut writer = Writer { bytes: Vec::new(), room, flags: 0 };
    if let Some(stamp) = received.stamp {
        let (kind, bytes) = stamp_bytes(c, stamp);
        writer.put(SOL_SOCKET, kind, &bytes);
    }
    for message in &received.control {
        writer.put(message.level, message.kind, &message.bytes);
    }
    if let Some((pid, uid, gid)) = received.credentials {
        let bytes = [pid.0.to_le_bytes(), uid.to_le_bytes(), gid.to_le_bytes()].concat();
        writer.put(SOL_SOCKET, SCM_CREDENTIALS, &bytes);
    }
    let most = writer.left().saturating_sub(HEADER) / 4;
    let files = core::mem::take(&mut received.files);
    let mut fds = Vec::new();
    for description in files {
        if fds.len() >= most * 4 {
            writer.flags |= TRUNCATED;
            c.release_description(description);
            continue;
        }
        match c.install(Descriptor { description, on_exec }) {
            Ok(fd) => fds.extend_from_slice(&(fd as u32).to_le_bytes()),
            Err(_) => writer.flags |= TRUNCATED,
        }
    }
    if !fds.is_empty() {
        writer.put(SOL_SOCKET, SCM_RIGHTS, &fds);
    }
    if !writer.bytes.is_empty() {
        c.write_bytes(addr, &writer.bytes)?;
    }
    Ok((writer.bytes.len() as u64, writer.flags))
}

/// When a datagram came, in the form that was asked for.
fn stamp_bytes<M: Machine>(c: &Context<'_, M>, stamp: Stamp) -> (i32, Vec<u8>) {
    const MICROS: [i32; 2] = [29, 63];
    const TIMESTAMPING: i32 = 37;
    let age = c.services.machine.now() - stamp.at;
    let wall = Nanos(c.services.machine.wall_clock().saturating_sub(age.0));
    let (seconds, nanos) = (wall.0 / 1_000_000_000, wall.0 % 1_000_000_000);
    let fraction = if MICROS.contains(&stamp.kind) { nanos / 1000 } else { nanos };
    let mut bytes = [seconds.to_le_bytes(), fraction.to_le_bytes()].concat();
    if stamp.kind == TIMESTAMPING {
        // Three times: by software, and two by hardware that there is not.
        bytes.resize(48, 0);
    }
    (stamp.kind, bytes)
}

/// What a UNIX socket's message says about its sender, for a receiver that wants to know.
pub fn sender<M: Machine>(c: &Context<'_, M>, out: &Outgoing) -> Result<Owner> {
    match out.credentials {
        Some(credentials) => Ok(credentials),
        None => {
            let process = c.process()?;
            Ok((process.pid, process.credentials.uid, process.credentials.gid))
        }
    }
}
