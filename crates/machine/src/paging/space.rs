//! Address spaces of programs: the lower half of the tables, in frames of the pool. The upper half is the kernel's own
//! and the same in all of them, so the kernel works under whatever space ran last.
use super::{ACCESSED, ADDRESS, DIRTY, NO_EXECUTE, PRESENT, USER, WRITE};
use crate::{
    arch::{invlpg, write_cr3},
    boot::stage::start_page,
    frames,
};
use alloc::vec::Vec;
use core::{
    cell::Cell,
    sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
};
use shimos_abi::addr::{Frame, PAGE, USER_END, UserPage};
use shimos_hal::{FrameSource, Mapping, OutOfFrames, Rights};

/// More changed pages than this and the whole space is flushed instead.
const FLUSH_ONE_BY_ONE: usize = 32;

/// Physical address of the tables that are loaded now, 0 for the kernel's own.
static LOADED: AtomicU64 = AtomicU64::new(0);
/// Whether stale translations of the loaded space may be about.
static STALE: AtomicBool = AtomicBool::new(false);

/// The page tables of one address space. A table stays until the space ends, also when it is empty.
#[derive(Debug)]
pub struct Space {
    root: Frame,
    /// All tables below the root.
    tables: Vec<Frame>,
    /// The table of pages that was used last: for which addresses, and where it is. What comes next is mostly near.
    last: Cell<Option<(u64, Frame)>>,
}

/// One table on the way down: level 3 is the top, 0 holds pages.
#[derive(Clone, Copy)]
struct Table {
    frame: Frame,
    level: u32,
}

impl Table {
    #[inline]
    fn index(self, page: UserPage) -> usize {
        (page.0 >> (9 * self.level)) as usize & 511
    }
    #[inline]
    fn get(self, index: usize) -> u64 {
        frames::read_word(self.frame, index)
    }
    #[inline]
    fn set(self, index: usize, value: u64) {
        frames::write_word(self.frame, index, value);
    }
    #[inline]
    fn below(self, entry: u64) -> Option<Table> {
        (entry & PRESENT != 0).then(|| Table { frame: frame_of(entry), level: self.level.saturating_sub(1) })
    }
}

#[inline]
fn frame_of(entry: u64) -> Frame {
    Frame(((entry & ADDRESS) / PAGE as u64) as u32)
}

#[inline]
fn mapping_of(entry: u64) -> Option<Mapping> {
    if entry & PRESENT == 0 {
        return None;
    }
    let mut rights = Rights::empty();
    rights.set(Rights::WRITE, entry & WRITE != 0);
    rights.set(Rights::EXECUTE, entry & NO_EXECUTE == 0);
    Some(Mapping { frame: frame_of(entry), rights, dirty: entry & DIRTY != 0 })
}

#[inline]
fn flags(rights: Rights) -> u64 {
    let write = if rights.contains(Rights::WRITE) { WRITE } else { 0 };
    let execute = if rights.contains(Rights::EXECUTE) { 0 } else { NO_EXECUTE };
    PRESENT | USER | ACCESSED | write | execute
}

impl Space {
    /// An empty space.
    pub(crate) fn new(source: &mut dyn FrameSource) -> Result<Space, OutOfFrames> {
        let root = source.take().ok_or(OutOfFrames)?;
        frames::zero(root);
        for &(index, entry) in &start_page().top {
            frames::write_word(root, index as usize, entry);
        }
        Ok(Space { root, tables: Vec::new(), last: Cell::new(None) })
    }
    /// Gives all tables back.
    pub(crate) fn free(self, source: &mut dyn FrameSource) {
        if LOADED.load(Relaxed) == self.root.addr() {
            load_kernel();
        }
        for table in self.tables {
            source.give(table);
        }
        source.give(self.root);
    }
    fn top(&self) -> Table {
        Table { frame: self.root, level: 3 }
    }
    #[inline]
    fn is_loaded(&self) -> bool {
        LOADED.load(Relaxed) == self.root.addr()
    }
    #[inline]
    fn leaf(&self, page: UserPage) -> Option<Table> {
        match self.last.get() {
            Some((span, frame)) if span == page.0 >> 9 => Some(Table { frame, level: 0 }),
            _ => self.walk(page),
        }
    }
    fn walk(&self, page: UserPage) -> Option<Table> {
        let mut table = self.top();
        while table.level > 0 {
            table = table.below(table.get(table.index(page)))?;
        }
        self.last.set(Some((page.0 >> 9, table.frame)));
        Some(table)
    }
    /// The table of pages, made if it is not there.
    fn reach(&mut self, page: UserPage, source: &mut dyn FrameSource) -> Result<Table, OutOfFrames> {
        if let Some(leaf) = self.leaf(page) {
            return Ok(leaf);
        }
        let mut table = self.top();
        while table.level > 0 {
            let index = table.index(page);
            table = match table.below(table.get(index)) {
                Some(below) => below,
                None => {
                    let new = source.take().ok_or(OutOfFrames)?;
                    frames::zero(new);
                    self.tables.push(new);
                    table.set(index, new.addr() | PRESENT | WRITE | USER | ACCESSED);
                    Table { frame: new, level: table.level - 1 }
                }
            };
        }
        self.last.set(Some((page.0 >> 9, table.frame)));
        Ok(table)
    }
    #[inline]
    fn changed(&self, page: UserPage) {
        if self.is_loaded() {
            invlpg(page.addr().0);
        }
    }
    /// Maps a page.
    pub(crate) fn map(
        &mut self,
        page: UserPage,
        frame: Frame,
        rights: Rights,
        source: &mut dyn FrameSource,
    ) -> Result<(), OutOfFrames> {
        assert!(page.addr().0 < USER_END, "mapping outside of the user half");
        assert!(frames::readable(frame), "mapping a frame that is not readable");
        let table = self.reach(page, source)?;
        let index = table.index(page);
        let old = table.get(index);
        table.set(index, frame.addr() | flags(rights));
        if old & PRESENT != 0 {
            self.changed(page);
        }
        Ok(())
    }
    /// Unmaps a page.
    pub(crate) fn unmap(&mut self, page: UserPage) -> Option<Mapping> {
        let table = self.leaf(page)?;
        let index = table.index(page);
        let old = mapping_of(table.get(index))?;
        table.set(index, 0);
        self.changed(page);
        Some(old)
    }
    /// What is mapped at a page.
    #[inline]
    pub(crate) fn lookup(&self, page: UserPage) -> Option<Mapping> {
        let table = self.leaf(page)?;
        mapping_of(table.get(table.index(page)))
    }
    /// Visits what is mapped in a range. A page that loses the right to store is clean again.
    pub(crate) fn update(
        &mut self,
        first: UserPage,
        end: UserPage,
        visit: &mut dyn FnMut(UserPage, Mapping) -> Option<Rights>,
    ) {
        let end = end.0.min(USER_END / PAGE as u64);
        let mut at = first.0;
        let mut changes = 0;
        while at < end {
            let mut table = self.top();
            if let Some(leaf) = self.leaf(UserPage(at)) {
                table = leaf;
            }
            while table.level > 0
                && let Some(below) = table.below(table.get(table.index(UserPage(at))))
            {
                table = below;
            }
            if table.level > 0 {
                // Nothing there: on to what the next entry of this table covers.
                let span = 1 << (9 * table.level);
                at = (at / span + 1) * span;
                continue;
            }
            let stop = end.min((at / 512 + 1) * 512);
            while at < stop {
                let page = UserPage(at);
                at += 1;
                let index = table.index(page);
                let entry = table.get(index);
                let Some(old) = mapping_of(entry) else { continue };
                let new = match visit(page, old) {
                    None => 0,
                    Some(rights) => {
                        let dirty = if rights.contains(Rights::WRITE) { entry & DIRTY } else { 0 };
                        old.frame.addr() | flags(rights) | dirty
                    }
                };
                if new | ACCESSED != entry | ACCESSED {
                    table.set(index, new);
                    changes += 1;
                    if changes <= FLUSH_ONE_BY_ONE {
                        self.changed(page);
                    }
                }
            }
        }
        if changes > FLUSH_ONE_BY_ONE && self.is_loaded() {
            STALE.store(true, Relaxed);
        }
    }
    /// Makes this the space that user mode sees.
    #[inline]
    pub(crate) fn load(&self) {
        if !self.is_loaded() || STALE.load(Relaxed) {
            // SAFETY: the kernel half of these tables is the one we run under now.
            unsafe { write_cr3(self.root.addr()) };
            LOADED.store(self.root.addr(), Relaxed);
            STALE.store(false, Relaxed);
        }
    }
}

fn load_kernel() {
    // SAFETY: the kernel's own tables, which every space copies.
    unsafe { write_cr3(start_page().root) };
    LOADED.store(0, Relaxed);
    STALE.store(false, Relaxed);
}
