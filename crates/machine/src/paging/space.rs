//! Address spaces of programs: the lower half of the tables, in frames of the pool. The upper half is the kernel's own.
//!
//! All spaces share one top table, the kernel's: to load a space is to write its few top entries there. What was cached of
//! the space before is forgotten page by page, as far as its entries say that they were used, so the kernel's own
//! translations outlive the change. Where many were used, everything is forgotten at once. This relies on accessed flags:
//! a translation is cached only if the flags of its page and of its directory entry are set (SDM 3, 4.10.2.3), and
//! INVLPG drops what is cached of the upper levels, whatever its address (SDM 3, 4.10.4.1; AMD: while EFER.TCE is clear).
use super::{ACCESSED, ADDRESS, DIRTY, NO_EXECUTE, PRESENT, USER, WRITE};
use crate::{
    arch::{invlpg, write_cr3},
    boot::stage::start_page,
    frames,
    layout::ROOT_BASE,
};
use alloc::{collections::BTreeMap, rc::Rc, vec::Vec};
use core::{
    cell::{Cell, RefCell, UnsafeCell},
    sync::atomic::{AtomicBool, Ordering::Relaxed},
};
use shimos_abi::addr::{Frame, PAGE, USER_END, UserPage};
use shimos_hal::{FrameSource, Mapping, OutOfFrames, Rights};

/// More changed or used pages than this, and everything is forgotten at once.
const FLUSH_ONE_BY_ONE: usize = 32;
/// Pieces of tables that are looked through for used pages, at most.
const LOOK_THROUGH: u32 = 128;
/// Entries of a piece of a table. What is looked through is known by pieces.
const PIECE: usize = 8;

/// Whether stale translations of the loaded space may be about.
static STALE: AtomicBool = AtomicBool::new(false);

/// The shape of the space that is loaded, if one is.
struct Loaded(UnsafeCell<Option<Rc<Shape>>>);

// SAFETY: a kernel runs on one core, and only the functions below use it, none of which is called by an interrupt handler.
unsafe impl Sync for Loaded {}

static LOADED: Loaded = Loaded(UnsafeCell::new(None));

fn loaded() -> &'static mut Option<Rc<Shape>> {
    // SAFETY: see `Loaded`: callers use it in one expression and keep no reference.
    unsafe { &mut *LOADED.0.get() }
}

/// Where the tables of a space are.
#[derive(Debug, Default)]
struct Shape {
    /// The tables below the top, by place in it.
    top: RefCell<Vec<(usize, Frame)>>,
    /// The tables of pages, by the numbers of their pages without the last nine bits.
    leaves: RefCell<BTreeMap<u64, Leaf>>,
}

/// A table of pages.
#[derive(Clone, Copy, Debug)]
struct Leaf {
    frame: Frame,
    /// The directory above.
    directory: Frame,
    /// One bit a piece: it has or had an entry.
    pieces: u64,
}

/// The page tables of one address space. A table stays until the space ends, also when it is empty.
#[derive(Debug, Default)]
pub struct Space {
    shape: Rc<Shape>,
    /// All tables.
    tables: Vec<Frame>,
    /// The table of pages that was used last, and where it is. What comes next is mostly near.
    last: Cell<Option<(u64, Leaf)>>,
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

/// The entry of a page that was not used yet.
#[inline]
fn entry_of(frame: Frame, rights: Rights) -> u64 {
    let write = if rights.contains(Rights::WRITE) { WRITE } else { 0 };
    let execute = if rights.contains(Rights::EXECUTE) { 0 } else { NO_EXECUTE };
    frame.addr() | PRESENT | USER | write | execute
}

/// The entry for a table.
fn table_entry(table: Frame) -> u64 {
    table.addr() | PRESENT | WRITE | USER
}

/// Place in a table `level` levels above that of pages.
#[inline]
fn place(page: UserPage, level: u32) -> usize {
    (page.0 >> (9 * level)) as usize & 511
}

impl Space {
    /// Gives all tables back.
    pub(crate) fn free(self, source: &mut dyn FrameSource) {
        self.unload();
        for table in self.tables {
            source.give(table);
        }
    }
    #[inline]
    fn is_loaded(&self) -> bool {
        loaded().as_ref().is_some_and(|shape| Rc::ptr_eq(shape, &self.shape))
    }
    /// The table of a page.
    #[inline]
    fn leaf(&self, page: UserPage) -> Option<Leaf> {
        match self.last.get() {
            Some((span, leaf)) if span == page.0 >> 9 => Some(leaf),
            _ => self.find(page),
        }
    }
    fn find(&self, page: UserPage) -> Option<Leaf> {
        let leaf = *self.shape.leaves.borrow().get(&(page.0 >> 9))?;
        self.last.set(Some((page.0 >> 9, leaf)));
        Some(leaf)
    }
    /// A new, empty table.
    fn table(&mut self, source: &mut dyn FrameSource) -> Result<Frame, OutOfFrames> {
        let table = source.take().ok_or(OutOfFrames)?;
        frames::zero(table);
        self.tables.push(table);
        Ok(table)
    }
    /// The table of pages, made if it is not there.
    fn reach(&mut self, page: UserPage, source: &mut dyn FrameSource) -> Result<Leaf, OutOfFrames> {
        if let Some(leaf) = self.leaf(page) {
            return Ok(leaf);
        }
        let at = place(page, 3);
        let found = self.shape.top.borrow().iter().find(|(place, _)| *place == at).map(|(_, frame)| *frame);
        let third = match found {
            Some(table) => table,
            None => {
                let table = self.table(source)?;
                self.shape.top.borrow_mut().push((at, table));
                if self.is_loaded() {
                    set_top(at, table_entry(table));
                }
                table
            }
        };
        let directory = match frames::read_word(third, place(page, 2)) {
            0 => {
                let table = self.table(source)?;
                frames::write_word(third, place(page, 2), table_entry(table));
                table
            }
            entry => frame_of(entry),
        };
        let frame = self.table(source)?;
        frames::write_word(directory, place(page, 1), table_entry(frame));
        let leaf = Leaf { frame, directory, pieces: 0 };
        self.shape.leaves.borrow_mut().insert(page.0 >> 9, leaf);
        self.last.set(Some((page.0 >> 9, leaf)));
        Ok(leaf)
    }
    /// Notes that the piece of a table that a page is in has an entry.
    #[inline]
    fn note_piece(&self, page: UserPage, mut leaf: Leaf) {
        let bit = 1 << (place(page, 0) / PIECE);
        if leaf.pieces & bit == 0 {
            leaf.pieces |= bit;
            self.shape.leaves.borrow_mut().insert(page.0 >> 9, leaf);
            self.last.set(Some((page.0 >> 9, leaf)));
        }
    }
    /// A page's entry was `old` and is another now.
    #[inline]
    fn changed(&self, page: UserPage, old: u64) {
        if old & ACCESSED != 0 && self.is_loaded() {
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
        let leaf = self.reach(page, source)?;
        let index = place(page, 0);
        let old = frames::read_word(leaf.frame, index);
        frames::write_word(leaf.frame, index, entry_of(frame, rights));
        self.note_piece(page, leaf);
        self.changed(page, old);
        Ok(())
    }
    /// Maps pages of one aligned run of 64.
    pub(crate) fn map_run(
        &mut self,
        first: UserPage,
        run: &[Option<Frame>],
        rights: Rights,
        source: &mut dyn FrameSource,
    ) -> Result<(), OutOfFrames> {
        let place = place(first, 0);
        assert!(first.addr().0 < USER_END && place % 64 + run.len() <= 64, "mapping more than a run");
        let leaf = self.reach(first, source)?;
        let words = &frames::words(leaf.frame)[place..place + run.len()];
        for (at, (word, frame)) in words.iter().zip(run).enumerate() {
            let Some(frame) = *frame else { continue };
            assert!(frames::readable(frame), "mapping a frame that is not readable");
            let page = UserPage(first.0 + at as u64);
            let old = word.load(Relaxed);
            word.store(entry_of(frame, rights), Relaxed);
            self.changed(page, old);
        }
        for at in (0..run.len()).step_by(PIECE).chain(run.len().checked_sub(1)) {
            if let Some(leaf) = self.leaf(first) {
                self.note_piece(UserPage(first.0 + at as u64), leaf);
            }
        }
        Ok(())
    }
    /// Unmaps a page.
    pub(crate) fn unmap(&mut self, page: UserPage) -> Option<Mapping> {
        let leaf = self.leaf(page)?;
        let index = place(page, 0);
        let old = frames::read_word(leaf.frame, index);
        let mapping = mapping_of(old)?;
        frames::write_word(leaf.frame, index, 0);
        self.changed(page, old);
        Some(mapping)
    }
    /// What is mapped at a page.
    #[inline]
    pub(crate) fn lookup(&self, page: UserPage) -> Option<Mapping> {
        mapping_of(frames::read_word(self.leaf(page)?.frame, place(page, 0)))
    }
    /// Visits what is mapped in a range. A page that loses the right to store is clean again.
    pub(crate) fn update(
        &mut self,
        first: UserPage,
        end: UserPage,
        visit: &mut dyn FnMut(UserPage, Mapping) -> Option<Rights>,
    ) {
        let end = end.0.min(USER_END / PAGE as u64);
        let is_loaded = self.is_loaded();
        let mut at = first.0;
        let mut changes = 0;
        while at < end {
            let Some(leaf) = self.leaf(UserPage(at)) else {
                // Nothing there: on to the next table.
                match self.shape.leaves.borrow().range(at >> 9..).next() {
                    Some((span, _)) => at = span << 9,
                    None => break,
                }
                continue;
            };
            let words = frames::words(leaf.frame);
            let stop = end.min((at / 512 + 1) * 512);
            while at < stop {
                let page = UserPage(at);
                at += 1;
                let word = &words[place(page, 0)];
                let entry = word.load(Relaxed);
                let Some(old) = mapping_of(entry) else { continue };
                let new = match visit(page, old) {
                    None => 0,
                    Some(rights) => {
                        let dirty = if rights.contains(Rights::WRITE) { entry & DIRTY } else { 0 };
                        entry_of(old.frame, rights) | dirty
                    }
                };
                if new | ACCESSED == entry | ACCESSED {
                    continue;
                }
                word.store(new, Relaxed);
                if is_loaded && entry & ACCESSED != 0 {
                    changes += 1;
                    if changes <= FLUSH_ONE_BY_ONE {
                        invlpg(page.addr().0);
                    }
                }
            }
        }
        if changes > FLUSH_ONE_BY_ONE {
            STALE.store(true, Relaxed);
        }
    }
    /// Takes the right to store from pages of the table that starts at `first`, a bit for each, and visits those that are mapped.
    /// They are clean then.
    #[inline]
    pub(crate) fn protect_run(&mut self, first: UserPage, pages: &[u64; 8], mut visit: impl FnMut(UserPage, Frame)) {
        assert!(first.addr().0 < USER_END && place(first, 0) == 0, "not the beginning of a table");
        let Some(leaf) = self.leaf(first) else { return };
        let is_loaded = self.is_loaded();
        let words = frames::words(leaf.frame);
        let mut changes = 0;
        for (run, (words, bits)) in words.chunks(64).zip(pages).enumerate() {
            let mut left = *bits;
            while left != 0 {
                let at = left.trailing_zeros() as usize;
                left &= left - 1;
                let entry = words[at].load(Relaxed);
                if entry & PRESENT == 0 {
                    continue;
                }
                let page = UserPage(first.0 + (run * 64 + at) as u64);
                visit(page, frame_of(entry));
                if entry & (WRITE | DIRTY) != 0 {
                    words[at].store(entry & !(WRITE | DIRTY | ACCESSED), Relaxed);
                    if is_loaded && entry & ACCESSED != 0 {
                        changes += 1;
                        if changes <= FLUSH_ONE_BY_ONE {
                            invlpg(page.addr().0);
                        }
                    }
                }
            }
        }
        if changes > FLUSH_ONE_BY_ONE {
            STALE.store(true, Relaxed);
        }
    }
    /// Makes this the space that user mode sees.
    #[inline]
    pub(crate) fn load(&self) {
        if !self.is_loaded() {
            leave();
            for (at, table) in &*self.shape.top.borrow() {
                set_top(*at, table_entry(*table));
            }
            *loaded() = Some(self.shape.clone());
        }
        if STALE.load(Relaxed) {
            flush();
        }
    }
    /// No thread will run in this space before the next [`Space::load`]: changes need no care from here on.
    pub(crate) fn unload(&self) {
        if self.is_loaded() {
            leave();
            // Before the tables are used for anything else.
            if STALE.load(Relaxed) {
                flush();
            }
        }
    }
}

/// Writes an entry of the top table.
fn set_top(at: usize, entry: u64) {
    assert!(at < 256, "an entry of the kernel half");
    // SAFETY: the kernel's own top table is mapped there; the entry is of the user half.
    unsafe { (ROOT_BASE as *mut u64).add(at).write_volatile(entry) }
}

/// Forgets all translations.
fn flush() {
    // SAFETY: the kernel's own tables, under which it runs already.
    unsafe { write_cr3(start_page().root) };
    STALE.store(false, Relaxed);
}

/// Takes the loaded space out of the top table, and forgets what is cached of it; `STALE` says if that is still to be done.
fn leave() {
    let Some(shape) = loaded().take() else { return };
    for (at, _) in &*shape.top.borrow() {
        set_top(*at, 0);
    }
    if !STALE.load(Relaxed) && forget_used(&shape).is_none() {
        STALE.store(true, Relaxed);
    }
}

/// Forgets the translations of used pages, and that they were used. `None` if there are too many.
fn forget_used(shape: &Shape) -> Option<()> {
    let (mut used, mut looked) = (0, 0);
    for (span, leaf) in &*shape.leaves.borrow() {
        let place = *span as usize % 512;
        let entry = frames::read_word(leaf.directory, place);
        if entry & ACCESSED == 0 {
            continue;
        }
        frames::write_word(leaf.directory, place, entry & !ACCESSED);
        looked += leaf.pieces.count_ones();
        if looked > LOOK_THROUGH {
            return None;
        }
        let (pieces, _) = frames::words(leaf.frame).as_chunks::<PIECE>();
        let mut left = leaf.pieces;
        while left != 0 {
            let at = left.trailing_zeros() as usize;
            left &= left - 1;
            let Some(piece) = pieces.get(at) else { break };
            if piece.iter().fold(0, |all, word| all | word.load(Relaxed)) & ACCESSED == 0 {
                continue;
            }
            for (index, word) in piece.iter().enumerate() {
                let entry = word.load(Relaxed);
                if entry & ACCESSED != 0 {
                    word.store(entry & !ACCESSED, Relaxed);
                    invlpg(UserPage(span << 9 | (at * PIECE + index) as u64).addr().0);
                    used += 1;
                }
            }
            if used > FLUSH_ONE_BY_ONE {
                return None;
            }
        }
    }
    if used == 0 {
        // The upper levels may be cached all the same.
        invlpg(0);
    }
    Some(())
}
