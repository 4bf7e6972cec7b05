//! Mode, owner, times and size.
use crate::{
    access::{Actor, Want},
    erofs::BLOCK,
    fault::{Fault, Sources},
    node::{Backing, Body, Kind, Metadata, Node, NodeId, Written},
    tree::Tree,
};
use shimos_abi::errno::Errno;

/// Largest file.
const MAX_SIZE: u64 = i64::MAX as u64 - BLOCK;
const SET_UID: u16 = 0o4000;
const SET_GID: u16 = 0o2000;
const GROUP_EXECUTE: u16 = 0o010;

/// New time stamps, in nanoseconds since 1970; what is `None` stays.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Times {
    /// Time of the last access.
    pub atime: Option<i64>,
    /// Time of the last change of content.
    pub mtime: Option<i64>,
}

impl Tree {
    /// Moves a file to the writable layer if it may be changed there.
    fn change(&mut self, sources: &mut Sources<'_>, node: NodeId) -> Result<&mut Node, Fault> {
        let id = self.copy_up(sources, node)?;
        if !matches!(self.node(id)?.body, Body::File { .. }) {
            self.ways.forget();
        }
        Ok(self.node_mut(id)?)
    }

    fn owned(&self, sources: &mut Sources<'_>, actor: &Actor<'_>, node: NodeId) -> Result<Metadata, Fault> {
        let metadata = self.metadata(sources, node)?;
        let who = actor.credentials;
        if who.is_root() || who.uid == metadata.uid { Ok(metadata) } else { Err(Errno::EPERM.into()) }
    }

    /// Sets the permission bits (chmod). EOPNOTSUPP for symbolic links.
    pub fn set_mode(
        &mut self,
        sources: &mut Sources<'_>,
        actor: &Actor<'_>,
        node: NodeId,
        mode: u16,
    ) -> Result<(), Fault> {
        let metadata = self.metadata(sources, node)?;
        if metadata.kind == Kind::Symlink {
            return Err(Errno::EOPNOTSUPP.into());
        }
        self.owned(sources, actor, node)?;
        let mut mode = mode & 0o7777;
        if !actor.credentials.is_root() && !actor.credentials.in_group(metadata.gid) {
            mode &= !SET_GID;
        }
        let file = self.change(sources, node)?;
        file.mode = mode;
        file.ctime = actor.now;
        Ok(())
    }

    /// Sets owner and group (chown); what is `None` stays. Set-id bits of files are taken off, as on Linux.
    pub fn set_owner(
        &mut self,
        sources: &mut Sources<'_>,
        actor: &Actor<'_>,
        node: NodeId,
        uid: Option<u32>,
        gid: Option<u32>,
    ) -> Result<(), Fault> {
        let metadata = self.metadata(sources, node)?;
        let who = actor.credentials;
        if !who.is_root() {
            let may = who.uid == metadata.uid
                && uid.is_none_or(|uid| uid == metadata.uid)
                && gid.is_none_or(|gid| gid == metadata.gid || who.in_group(gid));
            if !may && (uid.is_some() || gid.is_some()) {
                return Err(Errno::EPERM.into());
            }
        }
        let file = self.change(sources, node)?;
        file.uid = uid.unwrap_or(file.uid);
        file.gid = gid.unwrap_or(file.gid);
        if metadata.kind != Kind::Directory {
            file.mode &= !SET_UID;
            if file.mode & GROUP_EXECUTE != 0 {
                file.mode &= !SET_GID;
            }
        }
        file.ctime = actor.now;
        Ok(())
    }

    /// Sets time stamps (utimensat). Who may write the file may set them to the present.
    pub fn set_times(
        &mut self,
        sources: &mut Sources<'_>,
        actor: &Actor<'_>,
        node: NodeId,
        times: Times,
    ) -> Result<(), Fault> {
        if times == Times::default() {
            return Ok(());
        }
        let now = Some(actor.now);
        if let Err(fault) = self.owned(sources, actor, node) {
            if fault != Errno::EPERM.into() || times != (Times { atime: now, mtime: now }) {
                return Err(fault);
            }
            self.check_access(sources, actor.credentials, node, Want::WRITE)?;
        }
        let file = self.change(sources, node)?;
        file.atime = times.atime.unwrap_or(file.atime);
        file.mtime = times.mtime.unwrap_or(file.mtime);
        file.ctime = actor.now;
        Ok(())
    }

    /// Makes a file's content changeable: it gets an object of its own, over what it has in the image. Copies no content.
    pub fn open_for_write(&mut self, sources: &mut Sources<'_>, node: NodeId) -> Result<Written, Fault> {
        // Says what is wrong with a file that is none.
        self.content(sources, node)?;
        match &self.change(sources, node)?.body {
            Body::File { object, size, backing } => Ok(Written { object: *object, size: *size, backing: *backing }),
            _ => Err(Errno::EINVAL.into()),
        }
    }

    /// Sets the size of a regular file (truncate). The kernel drops the object's pages behind the new end and clears the
    /// rest of the last one; of the image's content nothing behind the new end is ever seen again.
    pub fn set_size(&mut self, sources: &mut Sources<'_>, node: NodeId, size: u64, now: i64) -> Result<Written, Fault> {
        if size > MAX_SIZE {
            return Err(Errno::EFBIG.into());
        }
        self.content(sources, node)?;
        let file = self.change(sources, node)?;
        (file.mtime, file.ctime) = (now, now);
        let Body::File { object, size: current, backing } = &mut file.body else { return Err(Errno::EINVAL.into()) };
        *current = size;
        *backing = match *backing {
            Some(Backing { nid, len }) if size > 0 => Some(Backing { nid, len: len.min(size) }),
            _ => None,
        };
        Ok(Written { object: *object, size, backing: *backing })
    }

    /// Notes that content was written up to byte `end`: the file has at least that size. For nodes that were opened for
    /// write.
    pub fn wrote(&mut self, node: NodeId, end: u64, now: i64) -> Result<(), Errno> {
        let NodeId::Upper(id) = self.canonical(node) else { return Err(Errno::EINVAL) };
        if end > MAX_SIZE {
            return Err(Errno::EFBIG);
        }
        let file = self.node_mut(id)?;
        let Body::File { size, .. } = &mut file.body else { return Err(Errno::EINVAL) };
        *size = (*size).max(end);
        (file.mtime, file.ctime) = (now, now);
        Ok(())
    }
}
