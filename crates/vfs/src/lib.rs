//! The name space of one program: a read-only root image (EROFS, uncompressed) under a writable layer in memory, with
//! synthetic trees mounted into it.
//!
//! The crate does no input or output. Blocks of the image come through [`Blocks`]; a block that is not at hand is
//! [`Fault::Missing`], which the kernel waits for before it makes the whole call again. A call that fails leaves nothing
//! changed that anyone can see.
//!
//! File content is not here. A written file names an object ([`ObjectId`]) whose pages the kernel keeps; pages that the
//! object lacks come from the image ([`Backing`]) or are zeros.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod access;
mod attributes;
mod change;
mod devices;
pub mod erofs;
mod extended;
pub mod fault;
mod listing;
pub mod mounts;
pub mod node;
mod pins;
pub mod remembered;
mod rename;
pub mod tree;
mod validate;
pub mod walk;
mod ways;

pub use access::{Actor, Credentials, Want};
pub use attributes::Times;
pub use change::Special;
pub use erofs::{Image, Inode, OpenError, Piece};
pub use extended::Replace;
pub use fault::{Blocks, Fault, Sources};
pub use mounts::{Link, Mount, NoSynthetic, Synthetic};
pub use node::{Backing, Content, DeviceClass, DirEntry, Kind, Metadata, Nameless, NodeId, ObjectId, Rdev, Written};
pub use remembered::Remembered;
pub use rename::RenameMode;
pub use tree::Tree;
pub use walk::{Last, Resolved, Start, resolve};

/// Longest name in a directory, in bytes.
pub const NAME_MAX: usize = 255;
/// Longest path, in bytes, the final NUL included.
pub const PATH_MAX: usize = 4096;
