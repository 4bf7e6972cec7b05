//! Paths: from what a program says to nodes of its name space.
use crate::{
    blocks::BlockReader,
    context::{Context, Result},
    devpts::{Pts, Trees},
    files::{Kind as Open, Place},
    proc::{Present, Proc},
};
use shimos_abi::errno::Errno;
use shimos_hal::Machine;
use shimos_vfs::{
    Actor, Credentials, Fault, Kind, Last, Metadata, NodeId, Resolved, Sources, Special, Start, Tree, Want,
    resolve as walk,
};

/// `AT_FDCWD`.
pub const AT_FDCWD: u64 = (-100_i64) as u64;

impl<M: Machine> Context<'_, M> {
    /// Asks the name space.
    pub fn with_tree<T>(
        &mut self,
        work: impl FnOnce(&Tree, &mut Sources<'_>) -> core::result::Result<T, Fault>,
    ) -> core::result::Result<T, Fault> {
        self.with_tree_mut(|tree, sources| work(tree, sources))
    }

    /// Changes the name space.
    pub fn with_tree_mut<T>(
        &mut self,
        work: impl FnOnce(&mut Tree, &mut Sources<'_>) -> core::result::Result<T, Fault>,
    ) -> core::result::Result<T, Fault> {
        let identity = self.services.machine.identity();
        let (life, build_kernels) = (identity.life, identity.kernels);
        let services = &mut *self.services;
        let cached = services.blocks.len();
        let moment = Present { machine: &services.machine, frames: &services.frames, cached };
        let program = &mut self.resident.program;
        let proc = Proc {
            caller: self.pid,
            thread: self.tid,
            head: &program.head,
            processes: &program.processes,
            threads: &program.threads,
            spaces: &program.spaces,
            tables: &program.tables,
            descriptions: &program.descriptions,
            objects: &program.objects,
            life,
            kernels: build_kernels,
            moment: &moment,
        };
        let synthetic = Trees { proc, pts: Pts { pairs: &program.pairs } };
        let mut blocks = BlockReader { cache: &mut services.blocks, machine: &services.machine };
        let mut sources = Sources { blocks: &mut blocks, synthetic: &synthetic };
        work(&mut program.tree, &mut sources)
    }

    /// The caller as the name space knows it.
    pub fn access(&self) -> Result<Credentials> {
        Ok(self.process()?.credentials.access())
    }

    /// Changes the name space on behalf of the caller.
    pub fn change<T>(
        &mut self,
        work: impl FnOnce(&mut Tree, &mut Sources<'_>, &Actor<'_>) -> core::result::Result<T, Fault>,
    ) -> Result<T> {
        let credentials = self.access()?;
        let now = self.services.machine.wall_clock() as i64;
        Ok(self.with_tree_mut(|tree, sources| work(tree, sources, &Actor { credentials: &credentials, now }))?)
    }

    /// Walks a path from the directory that `dirfd` names.
    pub fn resolve_at(&mut self, dirfd: u64, path: &[u8], last: Last) -> Result<Resolved> {
        let own = self.whereabouts()?;
        let cwd = if dirfd as i32 == AT_FDCWD as i32 || path.first() == Some(&b'/') {
            own.cwd
        } else {
            match self.description(dirfd)?.kind {
                Open::Directory(node) | Open::Path(node) => node,
                _ => return Err(Errno::ENOTDIR.into()),
            }
        };
        let start = Start { root: own.root, cwd };
        let who = self.access()?;
        Ok(self.with_tree(|tree, sources| walk(tree, sources, &who, &start, path, last))?)
    }

    /// What stat(2) tells of a node.
    pub fn metadata(&mut self, node: NodeId) -> Result<Metadata> {
        Ok(self.with_tree(|tree, sources| tree.metadata(sources, node))?)
    }
}

/// Walks a path from the caller's working directory to an existing node.
pub fn resolve<M: Machine>(c: &mut Context<'_, M>, path: &[u8]) -> Result<NodeId> {
    Ok(c.resolve_at(AT_FDCWD, path, Last::Follow)?.existing()?)
}

/// A file that the caller may execute, and where its name is.
pub fn executable<M: Machine>(c: &mut Context<'_, M>, path: &[u8]) -> Result<(NodeId, Place)> {
    let found = c.resolve_at(AT_FDCWD, path, Last::Follow)?;
    let node = found.existing()?;
    let metadata = c.metadata(node)?;
    if metadata.kind != Kind::Regular {
        return Err(Errno::EACCES.into());
    }
    c.access()?.check(&metadata, Want::EXECUTE)?;
    Ok((node, Place { dir: found.parent, name: found.name }))
}

/// Makes the node of a bound UNIX socket; EADDRINUSE if the name is taken.
pub fn make_socket<M: Machine>(c: &mut Context<'_, M>, path: &[u8]) -> Result<NodeId> {
    let found = c.resolve_at(AT_FDCWD, path, Last::Name)?;
    if found.node.is_some() {
        return Err(Errno::EADDRINUSE.into());
    }
    let mode = 0o777 & !c.whereabouts()?.umask as u16;
    let node =
        c.change(|tree, sources, actor| tree.mknod(sources, actor, found.parent, &found.name, mode, Special::Socket))?;
    c.resident.notice_in(found.parent, &found.name, crate::event::inotify::mask::CREATE, 0);
    Ok(c.resident.program.tree.canonical(node))
}
