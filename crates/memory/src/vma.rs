//! One mapping of an address space.
use crate::objects::ObjectId;
use alloc::string::String;
use bitflags::bitflags;
use minicbor::{Decode, Encode};
use shimos_abi::addr::{PAGE, USER_END, UserPage};

/// What a program may do with a mapping; the bits are those of mmap(2).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Encode, Decode)]
#[cbor(transparent)]
pub struct Prot(#[n(0)] u8);

bitflags! {
    impl Prot: u8 {
        /// Load.
        const READ = 1;
        /// Store.
        const WRITE = 2;
        /// Fetch instructions.
        const EXECUTE = 4;
    }
}

/// What else is special about a mapping.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Encode, Decode)]
#[cbor(transparent)]
pub struct VmaFlags(#[n(0)] u16);

bitflags! {
    impl VmaFlags: u16 {
        /// It grows to lower addresses when touched below its start.
        const GROWS_DOWN = 1;
        /// The main thread's stack.
        const STACK = 2;
        /// The heap of brk(2).
        const HEAP = 4;
        /// A child gets no copy of it.
        const DONT_FORK = 8;
        /// A child gets it empty.
        const WIPE_ON_FORK = 16;
        /// mlock(2).
        const LOCKED = 32;
        /// Locked, but only what is touched.
        const LOCKED_ON_FAULT = 64;
        /// Not in core files.
        const NO_DUMP = 128;
    }
}

/// Who sees a store.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode)]
#[cbor(index_only)]
pub enum Sharing {
    /// This address space alone.
    #[n(0)]
    Private,
    /// All that map the object.
    #[n(1)]
    Shared,
}

/// What a mapping shows before the program stores to it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode)]
pub enum Source {
    /// Zeros.
    #[n(0)]
    Anonymous,
    /// An object of this program.
    #[n(1)]
    Object {
        /// Which.
        #[n(0)]
        id: ObjectId,
        /// The object's page at the mapping's start.
        #[n(1)]
        first: u64,
    },
    /// A file of the read-only root image.
    #[n(2)]
    Image {
        /// Which.
        #[n(0)]
        nid: u64,
        /// The file's page at the mapping's start.
        #[n(1)]
        first: u64,
    },
}

impl Source {
    /// The source of the page `pages` further on.
    #[must_use]
    pub fn advance(self, pages: u64) -> Source {
        match self {
            Source::Anonymous => Source::Anonymous,
            Source::Object { id, first } => Source::Object { id, first: first.wrapping_add(pages) },
            Source::Image { nid, first } => Source::Image { nid, first: first.wrapping_add(pages) },
        }
    }
    /// The offset in bytes at the mapping's start, as /proc/pid/maps shows it.
    pub fn offset(self) -> u64 {
        match self {
            Source::Anonymous => 0,
            Source::Object { first, .. } | Source::Image { first, .. } => first.wrapping_mul(PAGE as u64),
        }
    }
}

/// One mapping: a run of pages with one source and one protection.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Vma {
    /// The first page.
    #[n(0)]
    pub first: UserPage,
    /// The page behind the last.
    #[n(1)]
    pub end: UserPage,
    /// What the program may do.
    #[n(2)]
    pub prot: Prot,
    /// What mprotect(2) may grant.
    #[n(3)]
    pub may: Prot,
    /// Who sees stores.
    #[n(4)]
    pub sharing: Sharing,
    /// What it shows.
    #[n(5)]
    pub source: Source,
    /// What is special.
    #[n(6)]
    pub flags: VmaFlags,
    /// Path for /proc/pid/maps; empty for none.
    #[n(7)]
    pub name: String,
}

/// The part of a [`Vma`] that a page fault needs, seen from one page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Area {
    pub prot: Prot,
    pub sharing: Sharing,
    /// The source of this page itself.
    pub source: Source,
    pub first: UserPage,
    pub end: UserPage,
}

impl Vma {
    /// How many pages.
    pub fn pages(&self) -> u64 {
        self.end.0.saturating_sub(self.first.0)
    }
    /// Whether it holds the page.
    pub fn contains(&self, page: UserPage) -> bool {
        self.first <= page && page < self.end
    }
    /// What a fault at `page` needs to know.
    pub(crate) fn area(&self, page: UserPage) -> Area {
        Area {
            prot: self.prot,
            sharing: self.sharing,
            source: self.source.advance(page.0.wrapping_sub(self.first.0)),
            first: self.first,
            end: self.end,
        }
    }
    /// Whether `next`, which starts where this ends, is the same mapping going on.
    pub(crate) fn continues_in(&self, next: &Vma) -> bool {
        self.end == next.first
            && self.prot == next.prot
            && self.may == next.may
            && self.sharing == next.sharing
            && self.flags == next.flags
            && self.source.advance(self.pages()) == next.source
            && self.name == next.name
    }
    /// Cuts it in two at `page`, which lies inside; returns the upper part.
    pub(crate) fn split_off(&mut self, page: UserPage) -> Vma {
        let mut upper = self.clone();
        upper.first = page;
        upper.source = self.source.advance(page.0.saturating_sub(self.first.0));
        self.end = page;
        upper
    }
    /// Whether decoded values make sense.
    pub fn validate(&self) -> Result<(), &'static str> {
        if self.first >= self.end || self.end.0 > USER_END / PAGE as u64 {
            return Err("mapping outside the user half");
        }
        let first = match self.source {
            Source::Anonymous => 0,
            Source::Object { first, .. } | Source::Image { first, .. } => first,
        };
        match first.checked_add(self.pages()) {
            Some(end) if end <= 1 << 36 => Ok(()),
            _ => Err("mapping beyond the largest file"),
        }
    }
}
