//! Building page tables while all memory is mapped one to one: at boot and at the start of each incarnation.
use super::{ADDRESS, LARGE_PAGE, PRESENT, USER, WRITE};
use crate::layout::LARGE;

/// Page tables being built in a run of pages.
pub struct Builder {
    root: u64,
    next: u64,
    end: u64,
    /// Flags of entries that name tables.
    table: u64,
}

impl Builder {
    /// Starts new tables in the free pages `next..end`.
    ///
    /// # Safety
    /// Those pages belong to nobody else, and are mapped one to one for as long as the builder is used.
    pub unsafe fn new(next: u64, end: u64) -> Builder {
        let mut builder = Builder { root: 0, next, end, table: PRESENT | WRITE };
        builder.root = builder.page();
        builder
    }
    /// Starts nested tables: all that is looked up there counts as user mode's.
    ///
    /// # Safety
    /// As for [`Builder::new`].
    pub unsafe fn nested(next: u64, end: u64) -> Builder {
        // SAFETY: the caller's.
        Builder { table: PRESENT | WRITE | USER, ..unsafe { Builder::new(next, end) } }
    }
    /// Physical address of the top table.
    pub fn root(&self) -> u64 {
        self.root
    }
    /// A zeroed page. Running out is a mistake in the plan of the memory.
    pub fn page(&mut self) -> u64 {
        let page = self.next;
        assert!(page < self.end, "boot: too few pages for page tables");
        self.next += 4096;
        // SAFETY: `new`'s caller gave the page to us.
        unsafe { core::ptr::write_bytes(page as *mut u64, 0, 512) };
        page
    }
    fn entry(&mut self, table: u64, index: u64) -> &mut u64 {
        // SAFETY: `table` is one of our own pages, mapped one to one; the index is masked.
        unsafe { &mut *((table + (index & 511) * 8) as *mut u64) }
    }
    /// The table below `table` at `index`, made if needed.
    fn below(&mut self, table: u64, index: u64) -> u64 {
        let found = *self.entry(table, index);
        if found & PRESENT != 0 {
            return found & ADDRESS;
        }
        let page = self.page();
        *self.entry(table, index) = page | self.table;
        page
    }
    /// Puts given pages in as the tables for `virt`: the one below the top (`level` 3) or a directory (`level` 2) or a
    /// table (`level` 1).
    pub fn install(&mut self, level: u32, virt: u64, page: u64) {
        let mut table = self.root;
        for above in (level + 1..=3).rev() {
            table = self.below(table, virt >> (12 + 9 * above));
        }
        *self.entry(table, virt >> (12 + 9 * level)) = page | self.table;
    }
    /// Writes the entry of a small page.
    pub fn set(&mut self, virt: u64, entry: u64) {
        let top = self.root;
        let third = self.below(top, virt >> 39);
        let second = self.below(third, virt >> 30);
        let first = self.below(second, virt >> 21);
        *self.entry(first, virt >> 12) = entry;
    }
    /// Writes the entry of a large page.
    pub fn set_large(&mut self, virt: u64, entry: u64) {
        let top = self.root;
        let third = self.below(top, virt >> 39);
        let second = self.below(third, virt >> 30);
        *self.entry(second, virt >> 21) = entry;
    }
    /// Maps one small page.
    pub fn map(&mut self, virt: u64, phys: u64, flags: u64) {
        self.set(virt, phys | flags);
    }
    /// Maps a run of small pages.
    pub fn map_run(&mut self, virt: u64, phys: u64, pages: u64, flags: u64) {
        for n in 0..pages {
            self.map(virt + n * 4096, phys + n * 4096, flags);
        }
    }
    /// Maps a run of large pages; all addresses are multiples of their size.
    pub fn map_large(&mut self, virt: u64, phys: u64, count: u64, flags: u64) {
        for n in 0..count {
            self.set_large(virt + n * LARGE, (phys + n * LARGE) | flags | LARGE_PAGE);
        }
    }
}
