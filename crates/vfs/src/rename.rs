//! Renaming.
use crate::{
    access::{Actor, Want},
    change::is_dots,
    fault::{Fault, Sources},
    node::{Kind, Metadata, NodeId},
    tree::{Found, Tree, Within},
};
use shimos_abi::errno::Errno;

/// What a rename does where the new name is there already.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RenameMode {
    /// It takes the place.
    Replace,
    /// It fails (RENAME_NOREPLACE).
    NoReplace,
    /// The two change places (RENAME_EXCHANGE).
    Exchange,
}

/// One side of a rename.
#[derive(Clone, Copy)]
struct Side<'a> {
    dir: NodeId,
    name: &'a [u8],
    found: Found,
}

/// The file at one side.
#[derive(Clone, Copy)]
struct Subject {
    node: NodeId,
    metadata: Metadata,
}

impl Subject {
    fn is_directory(&self) -> bool {
        self.metadata.kind == Kind::Directory
    }
}

impl Tree {
    /// Moves the file `from` (directory and name) to `to`.
    pub fn rename(
        &mut self,
        sources: &mut Sources<'_>,
        actor: &Actor<'_>,
        from: (NodeId, &[u8]),
        to: (NodeId, &[u8]),
        mode: RenameMode,
    ) -> Result<(), Fault> {
        if is_dots(from.1) {
            return Err(Errno::EBUSY.into());
        }
        if is_dots(to.1) {
            return Err(if mode == RenameMode::NoReplace { Errno::EEXIST } else { Errno::EBUSY }.into());
        }
        if to.1.contains(&b'/') || to.1.contains(&0) {
            return Err(Errno::EINVAL.into());
        }
        match (self.canonical(from.0), self.canonical(to.0)) {
            (NodeId::Synthetic { mount, .. }, NodeId::Synthetic { mount: other, .. }) if mount == other => {
                return Err(Errno::EPERM.into());
            }
            (NodeId::Synthetic { .. }, _) | (_, NodeId::Synthetic { .. }) => return Err(Errno::EXDEV.into()),
            _ => {}
        }
        let from = Side { dir: self.canonical(from.0), name: from.1, found: self.find(sources, from.0, from.1)? };
        let to = Side { dir: self.canonical(to.0), name: to.1, found: self.find(sources, to.0, to.1)? };
        let moved = self.subject(sources, &from)?.ok_or(Errno::ENOENT)?;
        let other = self.subject(sources, &to)?;
        match (mode, &other) {
            (RenameMode::NoReplace, Some(_)) => return Err(Errno::EEXIST.into()),
            (RenameMode::Exchange, None) => return Err(Errno::ENOENT.into()),
            _ => {}
        }
        if moved.is_directory() && self.is_within(sources, to.dir, moved.node)? == Within::Inside {
            return Err(Errno::EINVAL.into());
        }
        if let Some(other) = &other {
            if other.is_directory() && self.is_within(sources, from.dir, other.node)? == Within::Inside {
                let errno = if mode == RenameMode::Exchange { Errno::EINVAL } else { Errno::ENOTEMPTY };
                return Err(errno.into());
            }
            // Two names of one file: nothing to do.
            if moved.node == other.node {
                return Ok(());
            }
        }
        self.check_rename(sources, actor, (&from, &moved), (&to, other.as_ref()), mode)?;

        let from_dir = self.copy_up(sources, from.dir)?;
        let to_dir = self.copy_up(sources, to.dir)?;
        let moved_id = self.copy_up(sources, moved.node)?;
        let other_id = match &other {
            Some(other) => Some(self.copy_up(sources, other.node)?),
            None => None,
        };
        // From here on nothing fails.
        self.ways.forget();
        self.set_entry(to_dir, to.name, moved_id, to.found)?;
        if moved.is_directory() {
            self.directory_mut(moved_id)?.parent = NodeId::Upper(to_dir);
            self.count_subdirectory(from_dir, to_dir)?;
        }
        match other_id {
            Some(id) if mode == RenameMode::Exchange => {
                self.set_entry(from_dir, from.name, id, from.found)?;
                if other.is_some_and(|other| other.is_directory()) {
                    self.directory_mut(id)?.parent = NodeId::Upper(from_dir);
                    self.count_subdirectory(to_dir, from_dir)?;
                }
                self.node_mut(id)?.ctime = actor.now;
            }
            other_id => {
                self.clear_entry(from_dir, from.name, from.found)?;
                if let Some(id) = other_id {
                    if other.is_some_and(|other| other.is_directory()) {
                        self.directory_mut(id)?.parent = NodeId::Upper(to_dir);
                        let dir = self.node_mut(to_dir)?;
                        dir.nlink = dir.nlink.saturating_sub(1);
                    }
                    self.lose_name(id, actor.now)?;
                }
            }
        }
        self.node_mut(moved_id)?.ctime = actor.now;
        for dir in [from_dir, to_dir] {
            let dir = self.node_mut(dir)?;
            (dir.mtime, dir.ctime) = (actor.now, actor.now);
        }
        Ok(())
    }

    fn subject(&self, sources: &mut Sources<'_>, side: &Side<'_>) -> Result<Option<Subject>, Fault> {
        match side.found.node {
            Some(node) => Ok(Some(Subject { node, metadata: self.metadata(sources, node)? })),
            None => Ok(None),
        }
    }

    /// All that may forbid a rename once both sides are known and no loop would come of it.
    fn check_rename(
        &self,
        sources: &mut Sources<'_>,
        actor: &Actor<'_>,
        (from, moved): (&Side<'_>, &Subject),
        (to, other): (&Side<'_>, Option<&Subject>),
        mode: RenameMode,
    ) -> Result<(), Fault> {
        self.check_removal(sources, actor, from.dir, &moved.metadata)?;
        match other {
            None => {
                self.check_change(sources, actor, to.dir)?;
            }
            Some(other) => {
                self.check_removal(sources, actor, to.dir, &other.metadata)?;
                if mode != RenameMode::Exchange && moved.is_directory() != other.is_directory() {
                    return Err(if moved.is_directory() { Errno::ENOTDIR } else { Errno::EISDIR }.into());
                }
            }
        }
        // A directory that moves elsewhere has its `..` written.
        if from.dir != to.dir {
            if moved.is_directory() {
                actor.credentials.check(&moved.metadata, Want::WRITE)?;
            }
            if let Some(other) = other
                && mode == RenameMode::Exchange
                && other.is_directory()
            {
                actor.credentials.check(&other.metadata, Want::WRITE)?;
            }
        }
        for subject in [Some(moved), other].into_iter().flatten() {
            if subject.is_directory() {
                self.check_idle(subject.node)?;
            }
        }
        if let Some(other) = other
            && mode == RenameMode::Replace
            && other.is_directory()
        {
            self.check_empty(sources, other.node)?;
        }
        Ok(())
    }

    /// One subdirectory less in `from`, one more in `to`.
    fn count_subdirectory(&mut self, from: u64, to: u64) -> Result<(), Errno> {
        let dir = self.node_mut(from)?;
        dir.nlink = dir.nlink.saturating_sub(1);
        let dir = self.node_mut(to)?;
        dir.nlink = dir.nlink.saturating_add(1);
        Ok(())
    }
}
