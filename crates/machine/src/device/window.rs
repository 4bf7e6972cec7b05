//! Bounded windows on memory that a device shares with us: registers, and frames it reads and writes.
//!
//! Every access is checked against the window, so the code above needs no `unsafe`. An access outside loads zero and
//! stores nothing: offsets come from our own arithmetic on checked numbers, and a slip must not become a wild write.
use core::ptr::NonNull;

/// An integer that can be loaded and stored at once.
pub trait Word: Copy + Default {}
impl Word for u8 {}
impl Word for u16 {}
impl Word for u32 {}
impl Word for u64 {}

/// A run of mapped memory, accessed with volatile loads and stores.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    base: NonNull<u8>,
    len: usize,
}

impl Window {
    /// A window on `len` bytes at `base`.
    ///
    /// # Safety
    /// The bytes must stay mapped, readable and writable, for as long as the window is used, and no Rust reference to any of
    /// them may exist.
    pub const unsafe fn new(base: NonNull<u8>, len: usize) -> Window {
        Window { base, len }
    }

    /// A smaller window into this one.
    pub fn part(&self, offset: usize, len: usize) -> Option<Window> {
        if offset.checked_add(len)? > self.len {
            return None;
        }
        // SAFETY: `offset` is at most `self.len`, so the sum stays in (or one past) the memory the window was made of.
        let base = unsafe { self.base.add(offset) };
        Some(Window { base, len })
    }

    fn place<T>(&self, offset: usize) -> Option<NonNull<T>> {
        let size = size_of::<T>();
        let fits = offset.checked_add(size).is_some_and(|end| end <= self.len);
        let aligned = (self.base.as_ptr() as usize).wrapping_add(offset).is_multiple_of(size);
        debug_assert!(fits && aligned, "access outside a device window");
        if !fits || !aligned {
            return None;
        }
        // SAFETY: the whole access lies in the window, as just checked.
        Some(unsafe { self.base.add(offset) }.cast())
    }

    /// Loads the word at `offset`.
    pub fn load<T: Word>(&self, offset: usize) -> T {
        match self.place::<T>(offset) {
            // SAFETY: in bounds and aligned (`place`), mapped (`new`), and every bit pattern is a value of an integer.
            Some(at) => unsafe { at.read_volatile() },
            None => T::default(),
        }
    }

    /// Stores the word at `offset`.
    pub fn store<T: Word>(&self, offset: usize, value: T) {
        if let Some(at) = self.place::<T>(offset) {
            // SAFETY: in bounds and aligned (`place`), mapped and without references into it (`new`).
            unsafe { at.write_volatile(value) }
        }
    }

    /// Copies bytes out; what does not fit in the window is left as it was.
    pub fn copy_out(&self, offset: usize, into: &mut [u8]) {
        if let Some(from) = self.part(offset, into.len()) {
            // SAFETY: both sides have `into.len()` bytes and cannot overlap, for no reference reaches the window. Should a
            // misbehaving device write meanwhile, we read some mixture of bytes; the callers check what they copied.
            unsafe { from.base.as_ptr().copy_to_nonoverlapping(into.as_mut_ptr(), into.len()) }
        }
    }

    /// Copies bytes in, if they fit.
    pub fn copy_in(&self, offset: usize, from: &[u8]) {
        if let Some(into) = self.part(offset, from.len()) {
            // SAFETY: both sides have `from.len()` bytes and cannot overlap, for no reference reaches the window.
            unsafe { into.base.as_ptr().copy_from_nonoverlapping(from.as_ptr(), from.len()) }
        }
    }

    /// Fills the window with zeros.
    pub fn clear(&self) {
        // SAFETY: the whole window is mapped and writable (`new`).
        unsafe { self.base.as_ptr().write_bytes(0, self.len) }
    }
}

/// Memory that a device may read and write: a window and its physical address.
#[derive(Clone, Copy, Debug)]
pub struct Dma {
    window: Window,
    phys: u64,
}

impl Dma {
    /// Names `window`'s physical address. Its pages must be contiguous; the caller keeps that.
    pub const fn new(window: Window, phys: u64) -> Dma {
        Dma { window, phys }
    }

    /// The memory.
    pub const fn window(&self) -> &Window {
        &self.window
    }

    /// Physical address of the byte at `offset`.
    pub const fn phys(&self, offset: usize) -> u64 {
        self.phys + offset as u64
    }

    /// A smaller piece of it.
    pub fn part(&self, offset: usize, len: usize) -> Option<Dma> {
        Some(Dma { window: self.window.part(offset, len)?, phys: self.phys(offset) })
    }
}
