//! The memory that a kernel is confined to, as runs of physical pages.
use crate::paging::{DEVICE, LARGE_PAGE, NO_EXECUTE, PRESENT, READ_ONLY, READ_WRITE, USER, WRITE, build::Builder};

/// Bytes of a page.
const PAGE: u64 = 4096;

/// A run of pages and what may be done with them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Run {
    /// Physical address.
    pub first: u64,
    /// Pages.
    pub pages: u64,
    /// Flags of the entries.
    pub flags: u64,
}

/// All accesses through nested tables count as those of user mode (AMD64 manual 2, 15.25.5).
const NESTED_READ: u64 = PRESENT | USER;
const NESTED_DATA: u64 = READ_WRITE | USER;

impl Run {
    /// Pages that are read.
    pub const fn data(first: u64, pages: u64) -> Run {
        Run { first, pages, flags: READ_ONLY | USER }
    }
    /// Pages that are read and written.
    pub const fn own(first: u64, pages: u64) -> Run {
        Run { first, pages, flags: NESTED_DATA }
    }
    /// Pages that are read, and executed.
    pub const fn code(first: u64, pages: u64) -> Run {
        Run { first, pages, flags: NESTED_READ }
    }
    /// Pages with everything: programs run from there.
    pub const fn pool(first: u64, pages: u64) -> Run {
        Run { first, pages, flags: NESTED_DATA & !NO_EXECUTE }
    }
    /// Device registers: from the page of the first byte to that of the last.
    pub const fn registers(first: u64, bytes: u64) -> Run {
        let start = first & !(PAGE - 1);
        let end = first.saturating_add(bytes).saturating_add(PAGE - 1) & !(PAGE - 1);
        Run { first: start, pages: end.saturating_sub(start) / PAGE, flags: DEVICE | USER }
    }
    /// The same pages, gone.
    pub const fn hidden(self) -> Run {
        Run { flags: 0, ..self }
    }
    /// Whether stores are allowed.
    pub const fn is_writable(self) -> bool {
        self.flags & WRITE != 0
    }

    /// Puts the run into nested tables, in large pages where it is made of them.
    pub fn map(self, tables: &mut Builder) {
        const LARGE: u64 = crate::layout::LARGE;
        if self.first.is_multiple_of(LARGE) && (self.pages * PAGE).is_multiple_of(LARGE) {
            let flags = if self.flags == 0 { 0 } else { self.flags | LARGE_PAGE };
            for n in 0..self.pages * PAGE / LARGE {
                let at = self.first + n * LARGE;
                tables.set_large(at, if flags == 0 { 0 } else { at | flags });
            }
        } else {
            for n in 0..self.pages {
                let at = self.first + n * PAGE;
                tables.set(at, if self.flags == 0 { 0 } else { at | self.flags });
            }
        }
    }
}
