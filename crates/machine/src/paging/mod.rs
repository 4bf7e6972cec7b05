//! Page tables (SDM 3, 4.5): building them at boot, changing the kernel's own, and those of address spaces.
pub mod build;
pub mod entry;
pub mod kernel;
pub mod space;

pub use entry::{
    ACCESSED, ADDRESS, CODE, DEVICE, DIRTY, LARGE_PAGE, NO_EXECUTE, PRESENT, READ_ONLY, READ_WRITE, USER, WRITE,
};
