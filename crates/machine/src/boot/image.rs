//! Where the parts of the kernel's image lie.
use crate::layout::IMAGE_OFFSET;
use core::ptr::addr_of;

unsafe extern "C" {
    static __text_start: u8;
    static __text_end: u8;
    static __rodata_start: u8;
    static __rodata_end: u8;
    static __data_start: u8;
    static __data_end: u8;
    static __bss_start: u8;
    static __bss_end: u8;
}

/// A part of the image, whole pages.
#[derive(Clone, Copy)]
pub struct Part {
    /// Address.
    pub virt: u64,
    /// Physical address where it was loaded.
    pub phys: u64,
    /// Pages.
    pub pages: u64,
}

fn part(start: *const u8, end: *const u8) -> Part {
    let (start, end) = (start as u64, end as u64);
    Part { virt: start, phys: start - IMAGE_OFFSET, pages: (end - start).div_ceil(4096) }
}

/// Code, shared.
pub fn text() -> Part {
    part(addr_of!(__text_start), addr_of!(__text_end))
}
/// Constants, shared.
pub fn rodata() -> Part {
    part(addr_of!(__rodata_start), addr_of!(__rodata_end))
}
/// Initialised data as loaded: the pattern that every incarnation copies.
pub fn data() -> Part {
    part(addr_of!(__data_start), addr_of!(__data_end))
}
/// Zeroed data; where it was loaded serves the boot core and starting cores.
pub fn bss() -> Part {
    part(addr_of!(__bss_start), addr_of!(__bss_end))
}
/// First free physical address behind the image.
pub fn end() -> u64 {
    addr_of!(__bss_end) as u64 - IMAGE_OFFSET
}
