//! What threads and processes may share or have of their own (clone(2)): directories, descriptor tables, signal actions.
//!
//! A process has one of each. A thread that was made without sharing has another one of its own. Processes that were made
//! with sharing name the same group, and what one changes is changed in all of its group.
use crate::{
    context::{Context, Result, Stop},
    files::FilesId,
    process::Process,
    signal::Action,
    thread::Thread,
};
use minicbor::{Decode, Encode};
use shimos_hal::Machine;
use shimos_vfs::NodeId;

/// Where paths begin, and the bits that new files do not get.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Whereabouts {
    /// Working directory.
    #[n(0)]
    pub cwd: NodeId,
    /// Root directory.
    #[n(1)]
    pub root: NodeId,
    /// File mode creation mask.
    #[n(2)]
    pub umask: u32,
    /// Who else has the same ones.
    #[n(3)]
    pub group: Option<u32>,
}

impl Process {
    /// Its directories and mask.
    pub fn whereabouts(&self) -> Whereabouts {
        Whereabouts { cwd: self.cwd, root: self.root, umask: self.umask, group: self.place_group }
    }
    /// A thread with things of its own becomes the only one: they are the process's now. Signal actions are shared no
    /// more. Returns the table that nobody of the process needs then.
    pub fn inherit(&mut self, thread: &mut Thread) -> Option<FilesId> {
        if let Some(own) = thread.whereabouts.take() {
            self.set_whereabouts(own);
        }
        self.action_group = None;
        thread.files.take().map(|own| core::mem::replace(&mut self.files, own))
    }
    /// Sets them.
    pub fn set_whereabouts(&mut self, new: Whereabouts) {
        (self.cwd, self.root, self.umask, self.place_group) = (new.cwd, new.root, new.umask, new.group);
    }
}

impl<M: Machine> Context<'_, M> {
    /// The caller's directories and mask.
    pub fn whereabouts(&self) -> Result<Whereabouts> {
        let own = self.resident.program.threads.get(&self.tid).and_then(|thread| thread.whereabouts);
        match own {
            Some(own) => Ok(own),
            None => Ok(self.process()?.whereabouts()),
        }
    }

    /// Changes the caller's directories or mask, and those of all that share them.
    pub fn move_to(&mut self, new: Whereabouts) -> Result<()> {
        self.thread()?;
        let (pid, program) = (self.pid, &mut self.resident.program);
        let own = program.threads.get_mut(&self.tid).and_then(|thread| thread.whereabouts.as_mut());
        match own {
            Some(own) => *own = new,
            None => program.processes.get_mut(&pid).ok_or(Stop::Gone)?.set_whereabouts(new),
        }
        if new.group.is_some() {
            for process in program.processes.values_mut().filter(|process| process.place_group == new.group) {
                process.set_whereabouts(new);
            }
            let threads = program.threads.values_mut().filter_map(|thread| thread.whereabouts.as_mut());
            for other in threads.filter(|other| other.group == new.group) {
                *other = new;
            }
        }
        Ok(())
    }

    /// The caller's directories and mask, in a group that another may join.
    pub fn shared_whereabouts(&mut self) -> Result<Whereabouts> {
        let mut now = self.whereabouts()?;
        if now.group.is_none() {
            now.group = Some(self.resident.program.fresh_id());
            self.move_to(now)?;
        }
        Ok(now)
    }

    /// The caller's descriptor table.
    pub fn files(&self) -> Result<FilesId> {
        let own = self.resident.program.threads.get(&self.tid).and_then(|thread| thread.files);
        match own {
            Some(own) => Ok(own),
            None => Ok(self.process()?.files),
        }
    }

    /// Gives the caller another table in place of its own.
    pub fn set_files(&mut self, files: FilesId) -> Result<()> {
        let thread = self.thread()?;
        match &mut thread.files {
            Some(own) => *own = files,
            None => self.process_mut()?.files = files,
        }
        Ok(())
    }

    /// Gives the caller directories and a mask that it shares with nobody (unshare(2)).
    pub fn part_whereabouts(&mut self) -> Result<()> {
        let now = Whereabouts { group: None, ..self.whereabouts()? };
        let (pid, tid) = (self.pid, self.tid);
        if self.resident.program.has_other_threads(pid, tid) || self.thread()?.whereabouts.is_some() {
            self.thread()?.whereabouts = Some(now);
        } else {
            self.process_mut()?.set_whereabouts(now);
        }
        Ok(())
    }

    /// Gives the caller a copy of its table that it shares with nobody (unshare(2), close_range(2)).
    pub fn part_files(&mut self) -> Result<()> {
        let files = self.files()?;
        let (pid, tid) = (self.pid, self.tid);
        let own = self.thread()?.files.is_some();
        let others = self.resident.program.threads_of(pid).any(|thread| thread.tid != tid && thread.files.is_none());
        let users = self.resident.program.tables.get(&files).map_or(1, |table| table.users);
        if users <= 1 && (own || !others) {
            return Ok(());
        }
        let copy = crate::syscall::copy_table(self.resident, files);
        if own || !others {
            self.services.drop_table(self.resident, files);
            self.set_files(copy)?;
        } else {
            // The table stays the process's, for its other threads.
            self.thread()?.files = Some(copy);
        }
        Ok(())
    }

    /// Sets what the caller does at a signal, and all that share it.
    pub fn set_action(&mut self, index: usize, action: Action) -> Result<()> {
        let process = self.process_mut()?;
        let group = process.action_group;
        let pid = process.pid;
        for process in self.resident.program.processes.values_mut() {
            let shares = process.pid == pid || group.is_some() && process.action_group == group;
            if shares && let Some(slot) = process.actions.get_mut(index) {
                *slot = action;
            }
        }
        Ok(())
    }
}
