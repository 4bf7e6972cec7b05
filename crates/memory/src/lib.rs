//! Memory of programs: frames with reference counts, mappings, shared objects, address spaces, page faults and
//! copy-on-write (D10). Plain data over [`shimos_hal::Machine`]; the hardware's page tables are a cache of it.
//!
//! Every mapped page holds one reference on its frame, and so does every image. A page whose frame has more than one
//! reference is mapped read-only and copied at the next write; so fork and checkpoint are the same thing.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(test)]
extern crate std;

mod advise;
mod ahead;
pub mod backing;
mod chunk_map;
pub mod direct;
mod fault;
pub mod fork;
pub mod frames;
mod gaps;
pub mod limits;
pub mod mappings;
mod object_io;
pub mod objects;
pub mod page_set;
pub mod space;
pub mod track;
mod usage;
pub mod user;
pub mod vma;

pub use backing::{Backing, BackingError};
pub use direct::Bytes;
pub use fault::{AROUND, MemoryFault, Segv};
pub use frames::Frames;
pub use limits::{Limits, LockFuture};
pub use mappings::Mappings;
pub use objects::{Object, ObjectId, Objects, Stale};
pub use page_set::PageSet;
pub use space::{AddressSpace, Context, MapRequest, Place, Progress, Remap, RemapTo, Tracking};
pub use track::{AdoptError, Adopted, ObjectChanges};
pub use usage::{Presence, Usage};
pub use user::Partial;
pub use vma::{Prot, Sharing, Source, Vma, VmaFlags};

#[cfg(test)]
mod fake;
#[cfg(test)]
mod tests;
