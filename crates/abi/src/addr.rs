//! Addresses that cannot be mistaken for one another.
use minicbor::{Decode, Encode};

/// Bytes in a page and in a frame.
pub const PAGE: usize = 4096;
/// The first address that is no user address: the end of the lower canonical half, less one guard page as on Linux.
pub const USER_END: u64 = 0x0000_7fff_ffff_f000;

/// A physical 4 KiB page frame, by number (physical address divided by 4096).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Encode, Decode)]
#[cbor(transparent)]
pub struct Frame(#[n(0)] pub u32);

impl Frame {
    /// The frame's first physical address.
    pub const fn addr(self) -> u64 {
        self.0 as u64 * PAGE as u64
    }
}

/// A run of physical frames.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode)]
pub struct FrameRange {
    /// The first frame.
    #[n(0)]
    pub first: Frame,
    /// How many frames.
    #[n(1)]
    pub count: u32,
}

impl FrameRange {
    /// Whether `frame` lies in the range.
    pub const fn contains(self, frame: Frame) -> bool {
        frame.0 >= self.first.0 && frame.0 - self.first.0 < self.count
    }
    /// The place of `frame` in the range, if it lies there.
    pub const fn index(self, frame: Frame) -> Option<usize> {
        if self.contains(frame) { Some((frame.0 - self.first.0) as usize) } else { None }
    }
    /// The frame at place `index`. The caller keeps `index` below `count`.
    pub const fn at(self, index: usize) -> Frame {
        Frame(self.first.0 + index as u32)
    }
}

/// An address in a program's address space, as the program gave it: not checked in any way.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Encode, Decode)]
#[cbor(transparent)]
pub struct UserAddr(#[n(0)] pub u64);

impl UserAddr {
    /// The page that holds the address, if it is a user address.
    pub const fn page(self) -> Option<UserPage> {
        if self.0 < USER_END { Some(UserPage(self.0 / PAGE as u64)) } else { None }
    }
    /// Where in its page the address lies.
    pub const fn offset(self) -> usize {
        self.0 as usize % PAGE
    }
}

/// A page of the user half, by number (address divided by 4096). Always below [`USER_END`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Encode, Decode)]
#[cbor(transparent)]
pub struct UserPage(#[n(0)] pub u64);

impl UserPage {
    /// The page's first address.
    pub const fn addr(self) -> UserAddr {
        UserAddr(self.0 * PAGE as u64)
    }
}
