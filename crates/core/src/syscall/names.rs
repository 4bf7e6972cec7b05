//! Making, removing and listing names.
use super::Arguments;
use crate::{
    context::{Context, Result},
    event::inotify::mask,
    files::Kind as Open,
    names::AT_FDCWD,
    rights::{DAC_READ_SEARCH, SYS_CHROOT},
    sharing::Whereabouts,
};
use alloc::vec::Vec;
use shimos_abi::errno::Errno;
use shimos_hal::Machine;
use shimos_vfs::{DeviceClass, Kind, Last, NodeId, Rdev, RenameMode, Resolved, Special, Want};

pub fn mkdir<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    mkdirat(c, [AT_FDCWD, a[0], a[1], 0, 0, 0])
}

pub fn mkdirat<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    let path = c.read_path(a[1])?;
    let found = c.resolve_at(a[0], &path, Last::Name)?;
    found.check_new_directory()?;
    let mode = a[2] as u16 & 0o1777 & !c.whereabouts()?.umask as u16;
    c.change(|tree, sources, actor| tree.mkdir(sources, actor, found.parent, &found.name, mode))?;
    c.resident.notice_in(found.parent, &found.name, mask::CREATE | mask::ISDIR, 0);
    Ok(0)
}

pub fn mknod<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    mknodat(c, [AT_FDCWD, a[0], a[1], a[2], 0, 0])
}

pub fn mknodat<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    let path = c.read_path(a[1])?;
    let found = c.resolve_at(a[0], &path, Last::Name)?;
    found.check_new()?;
    let mode = a[2] as u16 & 0o7777 & !c.whereabouts()?.umask as u16;
    let rdev = Rdev::decoded(a[3]);
    let special = match a[2] as u32 & 0o170_000 {
        0 | 0o100_000 => {
            c.change(|tree, sources, actor| tree.create(sources, actor, found.parent, &found.name, mode))?;
            c.resident.notice_in(found.parent, &found.name, mask::CREATE, 0);
            return Ok(0);
        }
        0o010_000 => Special::Fifo,
        0o140_000 => Special::Socket,
        0o020_000 => Special::Device { class: DeviceClass::Char, rdev },
        0o060_000 => Special::Device { class: DeviceClass::Block, rdev },
        _ => return Err(Errno::EINVAL.into()),
    };
    c.change(|tree, sources, actor| tree.mknod(sources, actor, found.parent, &found.name, mode, special))?;
    c.resident.notice_in(found.parent, &found.name, mask::CREATE, 0);
    Ok(0)
}

pub fn rmdir<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    const AT_REMOVEDIR: u64 = 0x200;
    unlinkat(c, [AT_FDCWD, a[0], AT_REMOVEDIR, 0, 0, 0])
}

pub fn unlink<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    unlinkat(c, [AT_FDCWD, a[0], 0, 0, 0, 0])
}

pub fn unlinkat<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    const AT_REMOVEDIR: u64 = 0x200;
    if a[2] & !AT_REMOVEDIR != 0 {
        return Err(Errno::EINVAL.into());
    }
    let path = c.read_path(a[1])?;
    let found = c.resolve_at(a[0], &path, Last::Name)?;
    if a[2] & AT_REMOVEDIR != 0 {
        match found.name.as_slice() {
            b"" => return Err(Errno::EBUSY.into()),
            b"." => return Err(Errno::EINVAL.into()),
            b".." => return Err(Errno::ENOTEMPTY.into()),
            _ => {}
        }
        found.existing()?;
        c.change(|tree, sources, actor| tree.rmdir(sources, actor, found.parent, &found.name))?;
        c.resident.notice_in(found.parent, &found.name, mask::DELETE | mask::ISDIR, 0);
    } else {
        found.check_unlink()?;
        c.change(|tree, sources, actor| tree.unlink(sources, actor, found.parent, &found.name))?;
        if let Some(node) = found.node {
            c.resident.notice_self(node, mask::ATTRIB);
        }
        c.resident.notice_in(found.parent, &found.name, mask::DELETE, 0);
    }
    Ok(0)
}

pub fn rename<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    renameat2(c, [AT_FDCWD, a[0], AT_FDCWD, a[1], 0, 0])
}

pub fn renameat<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    renameat2(c, [a[0], a[1], a[2], a[3], 0, 0])
}

pub fn renameat2<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    let mode = match a[4] {
        0 => RenameMode::Replace,
        1 => RenameMode::NoReplace,
        2 => RenameMode::Exchange,
        _ => return Err(Errno::EINVAL.into()),
    };
    let (old, new) = (c.read_path(a[1])?, c.read_path(a[3])?);
    let from = c.resolve_at(a[0], &old, Last::Name)?;
    let to = c.resolve_at(a[2], &new, Last::Name)?;
    for end in [&from, &to] {
        if matches!(end.name.as_slice(), b"" | b"." | b"..") {
            return Err(Errno::EBUSY.into());
        }
    }
    let moved = from.existing()?;
    from.check_rename(&to, mode)?;
    let kind = c.kind_mask(moved)?;
    let kind_there = if let Some(node) = to.node { c.kind_mask(node)? } else { 0 };
    c.change(|tree, sources, actor| {
        tree.rename(sources, actor, (from.parent, &from.name), (to.parent, &to.name), mode)
    })?;
    let same =
        to.node.is_some_and(|node| c.resident.program.tree.origin(node) == c.resident.program.tree.origin(moved));
    if same || !c.files_are_watched() {
        return Ok(0);
    }
    notice_move(c, moved, &from, &to, kind);
    match to.node {
        Some(other) if mode == RenameMode::Exchange => notice_move(c, other, &to, &from, kind_there),
        Some(other) => c.resident.notice_self(other, mask::ATTRIB),
        None => {}
    }
    Ok(0)
}

/// Tells of a file that was moved.
fn notice_move<M: Machine>(c: &mut Context<'_, M>, moved: NodeId, from: &Resolved, to: &Resolved, kind: u32) {
    let cookie = c.move_cookie();
    c.resident.notice_in(from.parent, &from.name, mask::MOVED_FROM | kind, cookie);
    c.resident.notice_in(to.parent, &to.name, mask::MOVED_TO | kind, cookie);
    c.resident.notice_self(moved, mask::MOVE_SELF);
}

pub fn link<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    linkat(c, [AT_FDCWD, a[0], AT_FDCWD, a[1], 0, 0])
}

pub fn linkat<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    const AT_SYMLINK_FOLLOW: u64 = 0x400;
    const AT_EMPTY_PATH: u64 = 0x1000;
    let (old, new) = (c.read_path(a[1])?, c.read_path(a[3])?);
    if a[4] & !(AT_SYMLINK_FOLLOW | AT_EMPTY_PATH) != 0 {
        return Err(Errno::EINVAL.into());
    }
    let node = if old.is_empty() && a[4] & AT_EMPTY_PATH != 0 {
        if !c.process()?.rights.has(DAC_READ_SEARCH) {
            return Err(Errno::ENOENT.into());
        }
        c.description(a[0])?.kind.node().ok_or(Errno::ENOENT)?
    } else {
        let last = if a[4] & AT_SYMLINK_FOLLOW != 0 { Last::Follow } else { Last::Keep };
        c.resolve_at(a[0], &old, last)?.existing()?
    };
    let to = c.resolve_at(a[2], &new, Last::Name)?;
    to.check_new()?;
    c.change(|tree, sources, actor| tree.link(sources, actor, node, to.parent, &to.name))?;
    c.resident.notice_self(node, mask::ATTRIB);
    c.resident.notice_in(to.parent, &to.name, mask::CREATE, 0);
    Ok(0)
}

pub fn symlink<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    symlinkat(c, [a[0], AT_FDCWD, a[1], 0, 0, 0])
}

pub fn symlinkat<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    let (target, path) = (c.read_path(a[0])?, c.read_path(a[2])?);
    if target.is_empty() {
        return Err(Errno::ENOENT.into());
    }
    let found = c.resolve_at(a[1], &path, Last::Name)?;
    found.check_new()?;
    c.change(|tree, sources, actor| tree.symlink(sources, actor, found.parent, &found.name, &target))?;
    c.resident.notice_in(found.parent, &found.name, mask::CREATE, 0);
    Ok(0)
}

pub fn readlink<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    readlinkat(c, [AT_FDCWD, a[0], a[1], a[2], 0, 0])
}

pub fn readlinkat<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    if (a[3] as i32) <= 0 {
        return Err(Errno::EINVAL.into());
    }
    let path = c.read_path(a[1])?;
    let node = if path.is_empty() {
        c.description(a[0])?.kind.node().ok_or(Errno::ENOENT)?
    } else {
        c.resolve_at(a[0], &path, Last::Keep)?.existing()?
    };
    let mut target = match crate::proc::link_text(c, node)? {
        Some(text) => text,
        None => c.with_tree(|tree, sources| tree.readlink(sources, node))?,
    };
    target.truncate(a[3] as usize);
    c.write_bytes(a[2], &target)?;
    Ok(target.len() as u64)
}

pub fn getcwd<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    let Whereabouts { root, cwd, .. } = c.whereabouts()?;
    let mut path = c.with_tree(|tree, sources| tree.path_of(sources, root, cwd))?;
    path.push(0);
    if path.len() as u64 > a[1] {
        return Err(Errno::ERANGE.into());
    }
    c.write_bytes(a[0], &path)?;
    Ok(path.len() as u64)
}

/// chroot(2).
pub fn chroot<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    let path = c.read_path(a[0])?;
    let node = c.resolve_at(AT_FDCWD, &path, Last::Follow)?.existing()?;
    check_directory(c, node)?;
    if !c.process()?.rights.has(SYS_CHROOT) {
        return Err(Errno::EPERM.into());
    }
    let now = c.whereabouts()?;
    c.move_to(Whereabouts { root: node, ..now })?;
    Ok(0)
}

fn check_directory<M: Machine>(c: &mut Context<'_, M>, node: NodeId) -> Result<()> {
    let metadata = c.metadata(node)?;
    if metadata.kind != Kind::Directory {
        return Err(Errno::ENOTDIR.into());
    }
    Ok(c.access()?.check(&metadata, Want::EXECUTE)?)
}

fn enter<M: Machine>(c: &mut Context<'_, M>, node: NodeId) -> Result<u64> {
    check_directory(c, node)?;
    let now = c.whereabouts()?;
    c.move_to(Whereabouts { cwd: node, ..now })?;
    Ok(0)
}

pub fn chdir<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    let path = c.read_path(a[0])?;
    let node = c.resolve_at(AT_FDCWD, &path, Last::Follow)?.existing()?;
    enter(c, node)
}

pub fn fchdir<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    match c.description(a[0])?.kind {
        Open::Directory(node) | Open::Path(node) => enter(c, node),
        _ => Err(Errno::ENOTDIR.into()),
    }
}

/// getdents64(2).
pub fn getdents64<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    const HEAD: usize = 19;
    let id = c.descriptor(a[0])?.description;
    let description = c.description_by(id)?;
    let Open::Directory(dir) = description.kind else { return Err(Errno::ENOTDIR.into()) };
    let room = (a[2] as u32 as usize).min(1 << 16);
    let mut cursor = description.offset;
    let mut bytes: Vec<u8> = Vec::new();
    'fill: loop {
        let entries = match c.with_tree(|tree, sources| tree.read_dir(sources, dir, cursor, 64)) {
            Ok(entries) => entries,
            Err(_) if !bytes.is_empty() => break,
            Err(fault) => return Err(fault.into()),
        };
        if entries.is_empty() {
            break;
        }
        for entry in entries {
            let len = (HEAD + entry.name.len() + 1).next_multiple_of(8);
            if bytes.len() + len > room {
                if bytes.is_empty() {
                    return Err(Errno::EINVAL.into());
                }
                break 'fill;
            }
            let start = bytes.len();
            bytes.extend_from_slice(&entry.ino.to_le_bytes());
            bytes.extend_from_slice(&entry.next.to_le_bytes());
            bytes.extend_from_slice(&(len as u16).to_le_bytes());
            bytes.push(entry.kind.dirent_type());
            bytes.extend_from_slice(&entry.name);
            bytes.resize(start + len, 0);
            cursor = entry.next;
        }
    }
    c.write_bytes(a[1], &bytes)?;
    c.description_by(id)?.offset = cursor;
    c.resident.notice_by(id, mask::ACCESS);
    Ok(bytes.len() as u64)
}
