//! Checkpoint images in reserved memory (D3, D10): page maps, records, generations, commit by one store; and the reading
//! of a dead kernel's images, which are hostile input. The format is described in `docs/image-format.md`.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod error;
pub mod layout;
mod mend;
mod page_counts;
mod page_map;
pub mod reader;
pub mod record;
mod record_frames;
pub mod saved_page;
pub mod slots;
mod sums;
pub mod teardown;
mod walk;
pub mod writer;

#[cfg(test)]
#[path = "../../memory/src/fake.rs"]
mod fake;
#[cfg(test)]
mod tests;

pub use error::{ImageError, WriteError};
pub use layout::{Base, PageKey, SlotState};
pub use reader::{Image, Mend};
pub use record::{Record, RecordWriter, Records};
pub use saved_page::SavedPage;
pub use slots::{Held, Retained, Slots, retained};
pub use teardown::Teardown;
pub use writer::Writer;
