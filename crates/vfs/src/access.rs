//! Who acts, and what a file's mode lets them do.
use crate::node::{Kind, Metadata};
use alloc::vec::Vec;
use bitflags::bitflags;
use minicbor::{Decode, Encode};
use shimos_abi::errno::Errno;

/// What decides who may use a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Gate {
    /// What it is.
    pub kind: Kind,
    /// Its permission bits.
    pub mode: u16,
    /// Its owner.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
}

impl Gate {
    /// That of a file.
    pub fn of(file: &Metadata) -> Gate {
        Gate { kind: file.kind, mode: file.mode, uid: file.uid, gid: file.gid }
    }
}

/// The ids that decide about access to files (on Linux: the file-system ids and the supplementary groups).
#[derive(Clone, PartialEq, Eq, Debug, Default, Encode, Decode)]
pub struct Credentials {
    /// User.
    #[n(0)]
    pub uid: u32,
    /// Group.
    #[n(1)]
    pub gid: u32,
    /// More groups.
    #[n(2)]
    pub groups: Vec<u32>,
}

impl Credentials {
    /// The superuser.
    pub const ROOT: Credentials = Credentials { uid: 0, gid: 0, groups: Vec::new() };

    /// Whether these are the superuser's.
    pub fn is_root(&self) -> bool {
        self.uid == 0
    }
    /// Whether `gid` is one of the groups.
    pub fn in_group(&self, gid: u32) -> bool {
        self.gid == gid || self.groups.contains(&gid)
    }
    /// Whether a file with this metadata may be used in all the ways of `want`; EACCES otherwise.
    pub fn check(&self, file: &Metadata, want: Want) -> Result<(), Errno> {
        self.check_gate(&Gate::of(file), want)
    }
    /// The same with the part of the metadata that counts.
    pub fn check_gate(&self, file: &Gate, want: Want) -> Result<(), Errno> {
        let mode = file.mode;
        if self.is_root() {
            // The superuser may do everything but execute what nobody may execute.
            let executable = file.kind == Kind::Directory || mode & 0o111 != 0;
            return if want.contains(Want::EXECUTE) && !executable { Err(Errno::EACCES) } else { Ok(()) };
        }
        let bits = if self.uid == file.uid {
            mode >> 6
        } else if self.in_group(file.gid) {
            mode >> 3
        } else {
            mode
        };
        if want.bits() & !(bits as u8 & 7) == 0 { Ok(()) } else { Err(Errno::EACCES) }
    }
}

bitflags! {
    /// Ways to use a file. The bits are those of access(2).
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Want: u8 {
        /// Execute it, or search it if it is a directory.
        const EXECUTE = 1;
        /// Write.
        const WRITE = 2;
        /// Read.
        const READ = 4;
    }
}

/// Who changes the tree, and when.
#[derive(Clone, Copy, Debug)]
pub struct Actor<'a> {
    /// Whose rights count, and who owns what is made.
    pub credentials: &'a Credentials,
    /// CLOCK_REALTIME in nanoseconds since 1970: the time stamp of the change.
    pub now: i64,
}
