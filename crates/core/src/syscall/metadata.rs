//! What files are: stat and what changes it.
use super::{Arguments, clock, transfer::flags};
use crate::{
    content,
    context::{Context, Result},
    devpts::{self, Change},
    event::inotify::mask,
    files::{Kind as Open, Place},
    names::AT_FDCWD,
    notice::Subject,
    proc,
};
use alloc::vec::Vec;
use shimos_abi::{addr::PAGE, errno::Errno};
use shimos_hal::Machine;
use shimos_vfs::{Kind, Last, Metadata, NodeId, Rdev, Times, Want};

const AT_SYMLINK_NOFOLLOW: u64 = 0x100;
const AT_EACCESS: u64 = 0x200;
const AT_NO_AUTOMOUNT: u64 = 0x800;
const AT_EMPTY_PATH: u64 = 0x1000;
const UTIME_NOW: u64 = 0x3fff_ffff;
const UTIME_OMIT: u64 = 0x3fff_fffe;

/// Metadata of what has no node: pipes and sockets.
fn anonymous(kind: Kind, ino: u64) -> Metadata {
    let (rdev, size) = (Rdev::default(), 0);
    Metadata {
        kind,
        mode: if kind == Kind::Socket { 0o777 } else { 0o600 },
        uid: 0,
        gid: 0,
        nlink: 1,
        ino,
        rdev,
        size,
        atime: 0,
        mtime: 0,
        ctime: 0,
    }
}

/// Metadata, and the minor number of the device that the file is on.
type Found = (Metadata, u32);

fn of_node<M: Machine>(c: &mut Context<'_, M>, node: NodeId) -> Result<Found> {
    Ok((c.metadata(node)?, proc::device_of(node)))
}

/// What fstat(2) tells of a descriptor.
fn of_descriptor<M: Machine>(c: &mut Context<'_, M>, fd: u64) -> Result<Found> {
    let kind = &c.description(fd)?.kind;
    Ok(match kind {
        Open::PipeReader(pipe) | Open::PipeWriter(pipe) | Open::PipeBoth(pipe) => {
            (anonymous(Kind::Fifo, pipe.0.into()), proc::PIPE_DEVICE)
        }
        Open::Process(pid, _) => (anonymous(Kind::Fifo, pid.0.into()), proc::EVENT_DEVICE),
        Open::Event(_, event) => (anonymous(Kind::Fifo, event.0.into()), proc::EVENT_DEVICE),
        Open::Socket(_) | Open::Unix(_) | Open::Netlink(_) => {
            let number = kind.socket_number().unwrap_or_default();
            (anonymous(Kind::Socket, number.into()), proc::SOCKET_DEVICE)
        }
        other => {
            let node = other.node().ok_or(Errno::EBADF)?;
            of_node(c, node)?
        }
    })
}

/// struct stat of x86-64.
fn stat_bytes((m, device): &Found) -> [u8; 144] {
    let mut bytes = [0; 144];
    let mut put = |at: usize, value: u64| bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
    put(0, (*device).into());
    put(8, m.ino);
    put(16, m.nlink.into());
    put(24, u64::from(m.st_mode()) | u64::from(m.uid) << 32);
    put(32, m.gid.into());
    put(40, m.rdev.encoded());
    put(48, m.size);
    put(56, PAGE as u64);
    put(64, m.size.div_ceil(512));
    for (at, time) in [(72, m.atime), (88, m.mtime), (104, m.ctime)] {
        put(at, time.div_euclid(1_000_000_000) as u64);
        put(at + 8, time.rem_euclid(1_000_000_000) as u64);
    }
    bytes
}

pub fn stat<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    newfstatat(c, [AT_FDCWD, a[0], a[1], 0, 0, 0])
}

pub fn lstat<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    newfstatat(c, [AT_FDCWD, a[0], a[1], AT_SYMLINK_NOFOLLOW, 0, 0])
}

pub fn fstat<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    let metadata = of_descriptor(c, a[0])?;
    let mut bytes = stat_bytes(&metadata);
    if let Open::Event(..) | Open::Process(..) = c.description(a[0])?.kind {
        // No type of file at all.
        bytes[24..28].copy_from_slice(&u32::from(metadata.0.mode).to_le_bytes());
    }
    c.write_bytes(a[1], &bytes)?;
    Ok(0)
}

/// What a path with `AT_` flags names.
fn named<M: Machine>(c: &mut Context<'_, M>, dirfd: u64, path: &[u8], flags: u64) -> Result<Found> {
    if path.is_empty() && flags & AT_EMPTY_PATH != 0 {
        if dirfd as i32 == AT_FDCWD as i32 {
            let cwd = c.whereabouts()?.cwd;
            return of_node(c, cwd);
        }
        return of_descriptor(c, dirfd);
    }
    let last = if flags & AT_SYMLINK_NOFOLLOW != 0 { Last::Keep } else { Last::Follow };
    let found = c.resolve_at(dirfd, path, last)?;
    let node = found.existing()?;
    match found.metadata {
        Some(metadata) => Ok((metadata, proc::device_of(node))),
        None => of_node(c, node),
    }
}

pub fn newfstatat<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    if a[3] & !(AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH | AT_NO_AUTOMOUNT) != 0 {
        return Err(Errno::EINVAL.into());
    }
    let path = c.read_path(a[1])?;
    let metadata = named(c, a[0], &path, a[3])?;
    c.write_bytes(a[2], &stat_bytes(&metadata))?;
    Ok(0)
}

pub fn statx<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    const BASIC: u32 = 0x7ff;
    let path = c.read_path(a[1])?;
    if a[2] & !(AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH | AT_NO_AUTOMOUNT | 0x6000) != 0 || a[3] & 0x8000_0000 != 0 {
        return Err(Errno::EINVAL.into());
    }
    let (m, device) = named(c, a[0], &path, a[2])?;
    let mut bytes = [0_u8; 256];
    bytes[0..4].copy_from_slice(&BASIC.to_le_bytes());
    bytes[4..8].copy_from_slice(&(PAGE as u32).to_le_bytes());
    bytes[16..20].copy_from_slice(&m.nlink.to_le_bytes());
    bytes[20..24].copy_from_slice(&m.uid.to_le_bytes());
    bytes[24..28].copy_from_slice(&m.gid.to_le_bytes());
    bytes[28..30].copy_from_slice(&(m.st_mode() as u16).to_le_bytes());
    bytes[32..40].copy_from_slice(&m.ino.to_le_bytes());
    bytes[40..48].copy_from_slice(&m.size.to_le_bytes());
    bytes[48..56].copy_from_slice(&m.size.div_ceil(512).to_le_bytes());
    for (at, time) in [(64, m.atime), (96, m.ctime), (112, m.mtime)] {
        bytes[at..at + 8].copy_from_slice(&time.div_euclid(1_000_000_000).to_le_bytes());
        bytes[at + 8..at + 12].copy_from_slice(&(time.rem_euclid(1_000_000_000) as u32).to_le_bytes());
    }
    bytes[128..132].copy_from_slice(&m.rdev.major.to_le_bytes());
    bytes[132..136].copy_from_slice(&m.rdev.minor.to_le_bytes());
    bytes[140..144].copy_from_slice(&device.to_le_bytes());
    c.write_bytes(a[4], &bytes)?;
    Ok(0)
}

pub fn access<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    faccessat2(c, [AT_FDCWD, a[0], a[1], 0, 0, 0])
}

pub fn faccessat<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    faccessat2(c, [a[0], a[1], a[2], 0, 0, 0])
}

pub fn faccessat2<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    if a[2] & !7 != 0 || a[3] & !(AT_EACCESS | AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH) != 0 {
        return Err(Errno::EINVAL.into());
    }
    let path = c.read_path(a[1])?;
    let (metadata, _) = named(c, a[0], &path, a[3])?;
    let process = c.process()?;
    let who = if a[3] & AT_EACCESS != 0 { process.credentials.access() } else { process.credentials.real_access() };
    who.check(&metadata, Want::from_bits_truncate(a[2] as u8))?;
    Ok(0)
}

/// What a path and `AT_` flags, or a descriptor alone, name.
fn subject_at<M: Machine>(c: &mut Context<'_, M>, dirfd: u64, path: &[u8], flags: u64) -> Result<Subject> {
    if path.is_empty() && flags & AT_EMPTY_PATH != 0 {
        return c.subject_of(dirfd, Errno::EBADF);
    }
    let last = if flags & AT_SYMLINK_NOFOLLOW != 0 { Last::Keep } else { Last::Follow };
    let found = c.resolve_at(dirfd, path, last)?;
    let node = found.existing()?;
    Ok(Subject { node, place: Some(Place { dir: found.parent, name: found.name }) })
}

fn set_mode<M: Machine>(c: &mut Context<'_, M>, subject: &Subject, mode: u64) -> Result<u64> {
    let node = subject.node;
    if devpts::change(c, node, Change::Mode(mode as u16))?.is_some() {
        return Ok(0);
    }
    c.change(|tree, sources, actor| tree.set_mode(sources, actor, node, mode as u16 & 0o7777))?;
    c.notice_subject(subject, mask::ATTRIB)?;
    Ok(0)
}

pub fn chmod<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    fchmodat(c, [AT_FDCWD, a[0], a[1], 0, 0, 0])
}

pub fn fchmod<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    let subject = c.subject_of(a[0], Errno::EINVAL)?;
    set_mode(c, &subject, a[1])
}

pub fn fchmodat<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    let path = c.read_path(a[1])?;
    let subject = subject_at(c, a[0], &path, 0)?;
    set_mode(c, &subject, a[2])
}

fn set_owner<M: Machine>(c: &mut Context<'_, M>, subject: &Subject, uid: u64, gid: u64) -> Result<u64> {
    let node = subject.node;
    let id = |value: u64| (value as u32 != u32::MAX).then_some(value as u32);
    if devpts::change(c, node, Change::Owner(id(uid), id(gid)))?.is_some() {
        return Ok(0);
    }
    c.change(|tree, sources, actor| tree.set_owner(sources, actor, node, id(uid), id(gid)))?;
    c.notice_subject(subject, mask::ATTRIB)?;
    Ok(0)
}

pub fn chown<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    fchownat(c, [AT_FDCWD, a[0], a[1], a[2], 0, 0])
}

pub fn lchown<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    fchownat(c, [AT_FDCWD, a[0], a[1], a[2], AT_SYMLINK_NOFOLLOW, 0])
}

pub fn fchown<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    let subject = c.subject_of(a[0], Errno::EINVAL)?;
    set_owner(c, &subject, a[1], a[2])
}

pub fn fchownat<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    let path = c.read_path(a[1])?;
    let subject = subject_at(c, a[0], &path, a[4])?;
    set_owner(c, &subject, a[2], a[3])
}

/// One time as utimensat(2) gives it.
#[derive(Clone, Copy)]
enum Stamp {
    Now,
    Keep,
    At(i64),
}

fn set_times<M: Machine>(c: &mut Context<'_, M>, subject: &Subject, atime: Stamp, mtime: Stamp) -> Result<u64> {
    let node = subject.node;
    let now = c.services.machine.wall_clock() as i64;
    let times = match (atime, mtime) {
        (Stamp::Keep, Stamp::Keep) => return Ok(0),
        (atime, mtime) => Times { atime: concrete(atime, now), mtime: concrete(mtime, now) },
    };
    if let Some(time) = times.mtime.or(times.atime)
        && devpts::change(c, node, Change::Touched(time))?.is_some()
    {
        return Ok(0);
    }
    c.change(|tree, sources, actor| tree.set_times(sources, actor, node, times))?;
    let events = match (times.atime, times.mtime) {
        (Some(_), Some(_)) => mask::ATTRIB,
        (Some(_), None) => mask::ACCESS,
        _ => mask::MODIFY,
    };
    c.notice_subject(subject, events)?;
    Ok(0)
}

fn concrete(stamp: Stamp, now: i64) -> Option<i64> {
    match stamp {
        Stamp::Now => Some(now),
        Stamp::Keep => None,
        Stamp::At(time) => Some(time),
    }
}

fn stamp(seconds: u64, nanos: u64) -> Result<Stamp> {
    match nanos {
        UTIME_NOW => Ok(Stamp::Now),
        UTIME_OMIT => Ok(Stamp::Keep),
        0..=999_999_999 => Ok(Stamp::At((seconds as i64).saturating_mul(1_000_000_000).saturating_add(nanos as i64))),
        _ => Err(Errno::EINVAL.into()),
    }
}

pub fn utimensat<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    let (atime, mtime) = if a[2] == 0 {
        (Stamp::Now, Stamp::Now)
    } else {
        let words: Vec<u64> = (0..4).map(|i| c.read_u64(a[2].wrapping_add(i * 8))).collect::<Result<_>>()?;
        (stamp(words[0], words[1])?, stamp(words[2], words[3])?)
    };
    let subject = if a[1] == 0 {
        c.subject_of(a[0], Errno::EINVAL)?
    } else {
        let path = c.read_path(a[1])?;
        subject_at(c, a[0], &path, a[3])?
    };
    set_times(c, &subject, atime, mtime)
}

fn timevals<M: Machine>(c: &mut Context<'_, M>, addr: u64) -> Result<(Stamp, Stamp)> {
    if addr == 0 {
        return Ok((Stamp::Now, Stamp::Now));
    }
    let atime = clock::read_timeval(c, addr)?;
    let mtime = clock::read_timeval(c, addr.wrapping_add(16))?;
    Ok((Stamp::At(atime.0 as i64), Stamp::At(mtime.0 as i64)))
}

pub fn futimesat<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    let (atime, mtime) = timevals(c, a[2])?;
    let path = c.read_path(a[1])?;
    let subject = subject_at(c, a[0], &path, 0)?;
    set_times(c, &subject, atime, mtime)
}

pub fn utimes<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    futimesat(c, [AT_FDCWD, a[0], a[1], 0, 0, 0])
}

pub fn utime<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    let (atime, mtime) = if a[1] == 0 {
        (Stamp::Now, Stamp::Now)
    } else {
        let at = c.read_u64(a[1])?;
        let modified = c.read_u64(a[1].wrapping_add(8))?;
        (stamp(at, 0)?, stamp(modified, 0)?)
    };
    let path = c.read_path(a[0])?;
    let subject = subject_at(c, AT_FDCWD, &path, 0)?;
    set_times(c, &subject, atime, mtime)
}

pub fn truncate<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    if (a[1] as i64) < 0 {
        return Err(Errno::EINVAL.into());
    }
    let path = c.read_path(a[0])?;
    let subject = subject_at(c, AT_FDCWD, &path, 0)?;
    let node = subject.node;
    let metadata = c.metadata(node)?;
    match metadata.kind {
        Kind::Regular => {}
        Kind::Directory => return Err(Errno::EISDIR.into()),
        _ => return Err(Errno::EINVAL.into()),
    }
    c.access()?.check(&metadata, Want::WRITE)?;
    content::truncate(c, node, a[1])?;
    c.notice_subject(&subject, mask::MODIFY)?;
    Ok(0)
}

pub fn ftruncate<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    let description = c.description(a[0])?;
    if description.flags & flags::ACCESS_MODE == flags::READ_ONLY || (a[1] as i64) < 0 {
        return Err(Errno::EINVAL.into());
    }
    match description.kind {
        Open::File(node) => {
            content::truncate(c, node, a[1])?;
            let subject = c.subject_of(a[0], Errno::EINVAL)?;
            c.notice_subject(&subject, mask::MODIFY)?;
        }
        // A file of /proc has nothing that could be cut off: the next write replaces all of it.
        Open::Snapshot(..) => {}
        _ => return Err(Errno::EINVAL.into()),
    }
    Ok(0)
}

/// What kind of file system a descriptor or a path is on (statfs(2) lists the numbers).
#[derive(Clone, Copy)]
enum FileSystem {
    Overlay,
    Proc,
    Sys,
    Pts,
    Pipes,
    Sockets,
}

impl FileSystem {
    fn of(node: NodeId) -> FileSystem {
        match node {
            NodeId::Synthetic { mount, .. } if mount == proc::PROC_MOUNT.number => FileSystem::Proc,
            NodeId::Synthetic { mount, .. } if mount == devpts::PTS_MOUNT.number => FileSystem::Pts,
            NodeId::Synthetic { .. } => FileSystem::Sys,
            _ => FileSystem::Overlay,
        }
    }
    const fn magic(self) -> u64 {
        match self {
            FileSystem::Overlay => 0x794c_7630,
            FileSystem::Proc => 0x9fa0,
            FileSystem::Sys => 0x6265_6572,
            FileSystem::Pts => 0x1cd1,
            FileSystem::Pipes => 0x5049_5045,
            FileSystem::Sockets => 0x534f_434b,
        }
    }
}

/// struct statfs. The writable layer over the image has sizes, the others have none.
fn statfs_bytes<M: Machine>(c: &Context<'_, M>, kind: FileSystem) -> Vec<u8> {
    let sizes = match kind {
        FileSystem::Overlay => {
            let (files, limit) = c.resident.program.tree.usage();
            let image = c.resident.program.tree.image().block_count();
            let (total, free) = (c.services.frames.total() as u64, c.services.frames.free_count() as u64);
            [image + total, free, free, limit, limit.saturating_sub(files)]
        }
        _ => [0; 5],
    };
    let mut words = Vec::from([kind.magic(), PAGE as u64]);
    words.extend(sizes);
    words.extend([0, 255, PAGE as u64]);
    let mut bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    bytes.resize(120, 0);
    bytes
}

pub fn statfs<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    let path = c.read_path(a[0])?;
    let node = subject_at(c, AT_FDCWD, &path, 0)?.node;
    let bytes = statfs_bytes(c, FileSystem::of(node));
    c.write_bytes(a[1], &bytes)?;
    Ok(0)
}

pub fn fstatfs<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    let kind = match &c.description(a[0])?.kind {
        Open::Socket(_) | Open::Unix(_) | Open::Netlink(_) => FileSystem::Sockets,
        other => other.node().map_or(FileSystem::Pipes, FileSystem::of),
    };
    let bytes = statfs_bytes(c, kind);
    c.write_bytes(a[1], &bytes)?;
    Ok(0)
}
