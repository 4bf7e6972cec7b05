//! An address space: its mappings and which pages it holds; mmap, munmap, mprotect, brk.
use crate::{
    backing::Backing,
    frames::Frames,
    mappings::{HIGHEST, LOWEST, MAX_MAPPINGS, Mappings, ProtectError},
    objects::Objects,
    page_set::PageSet,
    vma::{Prot, Sharing, Source, Vma, VmaFlags},
};
use alloc::{collections::BTreeMap, string::String, vec::Vec};
use minicbor::{Decode, Encode};
use shimos_abi::{
    addr::{Frame, PAGE, USER_END, UserAddr, UserPage},
    errno::Errno,
    kept::Kept,
};
use shimos_hal::{Machine, Rights};

/// What work on an address space needs besides the space itself.
pub struct Context<'a, M: Machine> {
    /// The machine.
    pub machine: &'a mut M,
    /// The frames of the pool.
    pub frames: &'a mut Frames,
    /// The program's objects.
    pub objects: &'a mut Objects,
    /// The root image's files.
    pub backing: &'a mut dyn Backing<M>,
    /// The page tables of this very address space.
    pub tables: &'a mut M::Space,
}

impl<M: Machine> Context<'_, M> {
    /// The same with the page tables of another address space.
    pub fn with_tables<'b>(&'b mut self, tables: &'b mut M::Space) -> Context<'b, M> {
        Context {
            machine: &mut *self.machine,
            frames: &mut *self.frames,
            objects: &mut *self.objects,
            backing: &mut *self.backing,
            tables,
        }
    }
}

/// Whether changes are noted for the next checkpoint.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Tracking {
    /// They are not.
    #[default]
    Off,
    /// They are.
    On,
}

/// Where mappings go that shall have small addresses.
const LOW_FROM: UserPage = UserPage(0x4000_0000 / PAGE as u64);
const LOW_TO: UserPage = UserPage(0x8000_0000 / PAGE as u64);

/// How far a job that is done in steps has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Progress {
    /// It is finished.
    Done,
    /// There is more to do.
    More,
}

/// Where a mapping shall go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    /// Anywhere.
    Anywhere,
    /// Here if it is free, else anywhere.
    Near(UserPage),
    /// Here, in place of what is there (MAP_FIXED).
    Fixed(UserPage),
    /// In the second gigabyte (MAP_32BIT).
    Low,
    /// Here, or fail with EEXIST (MAP_FIXED_NOREPLACE).
    FixedIfFree(UserPage),
}

/// A mapping to make.
#[derive(Clone, Debug)]
pub struct MapRequest {
    /// What the program may do.
    pub prot: Prot,
    /// What mprotect(2) may grant later.
    pub may: Prot,
    /// Who sees stores.
    pub sharing: Sharing,
    /// What it shows.
    pub source: Source,
    /// What is special.
    pub flags: VmaFlags,
    /// Path for /proc/pid/maps.
    pub name: String,
}

impl MapRequest {
    /// Private memory of zeros.
    pub fn anonymous(prot: Prot) -> MapRequest {
        MapRequest {
            prot,
            may: Prot::all(),
            sharing: Sharing::Private,
            source: Source::Anonymous,
            flags: VmaFlags::empty(),
            name: String::new(),
        }
    }
}

/// Where mremap(2) may put a mapping.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RemapTo {
    /// It must stay.
    InPlace,
    /// It may move if it cannot grow where it is.
    MayMove,
    /// It must move here, in place of what is there.
    Fixed(UserPage),
}

/// What is special about an mremap(2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Remap {
    /// The old place is free afterwards.
    Move,
    /// The old place stays mapped, without its pages (MREMAP_DONTUNMAP).
    Leave,
}

/// One address space.
///
/// A page is *owned* when its frame belongs to this space (alone, or with copies of the space and with images): these
/// pages are its part of an image. It is *borrowed* when it shows a frame of a file, of an object or the frame of zeros.
#[derive(Clone, Default, Debug, Encode, Decode)]
pub struct AddressSpace {
    /// The mappings.
    #[n(0)]
    pub(crate) mappings: Kept<Mappings>,
    /// Where the heap starts, in bytes.
    #[n(1)]
    pub(crate) brk_start: u64,
    /// Where it ends.
    #[n(2)]
    pub(crate) brk: u64,
    /// Mappings without a wish are placed below this page.
    #[n(3)]
    pub(crate) mmap_top: u64,
    /// RLIMIT_STACK.
    #[n(4)]
    pub(crate) stack_limit: u64,
    /// RLIMIT_AS, in pages.
    #[n(5)]
    pub(crate) page_limit: u64,
    /// RLIMIT_DATA, in pages.
    #[n(6)]
    pub(crate) data_limit: Option<u64>,
    /// How new mappings are locked.
    #[n(7)]
    pub(crate) lock_future: Option<crate::limits::LockFuture>,
    /// The most pages that were in memory, as far as that was more than now.
    #[n(8)]
    #[cbor(default)]
    pub(crate) peak: u64,
    #[cbor(skip)]
    pub(crate) ahead: crate::ahead::Ahead,
    #[cbor(skip)]
    pub(crate) tracking: Tracking,
    #[cbor(skip)]
    pub(crate) owned: PageSet,
    #[cbor(skip)]
    pub(crate) borrowed: PageSet,
    /// Borrowed pages of shared mappings that are mapped writable.
    #[cbor(skip)]
    pub(crate) shared_writable: PageSet,
    /// Owned pages that changed since the last image.
    #[cbor(skip)]
    pub(crate) changed: PageSet,
    /// Owned pages whose frames are foreign.
    #[cbor(skip)]
    pub(crate) lent: PageSet,
    /// Owned pages whose mapping allows nothing: they are not in the page tables.
    #[cbor(skip)]
    pub(crate) hidden: BTreeMap<u64, Frame>,
}

impl AddressSpace {
    /// An empty one. Mappings are placed below `mmap_top`; a stack grows up to `stack_limit` bytes.
    pub fn new(mmap_top: UserPage, stack_limit: u64) -> AddressSpace {
        AddressSpace {
            mmap_top: mmap_top.0.min(HIGHEST.0),
            stack_limit,
            page_limit: u64::MAX,
            ..AddressSpace::default()
        }
    }
    /// The mappings.
    pub fn mappings(&self) -> &Mappings {
        &self.mappings
    }
    /// The object and the place in it behind an address of a shared mapping: what futexes in shared memory are named by.
    pub fn shared_place(&self, addr: UserAddr) -> Option<(crate::objects::ObjectId, u64)> {
        let page = addr.page()?;
        let vma = self.mappings.find(page).filter(|vma| vma.sharing == Sharing::Shared)?;
        match vma.source {
            Source::Object { id, first } => {
                let index = first.checked_add(page.0 - vma.first.0)?;
                Some((id, index.checked_mul(PAGE as u64)? + addr.offset() as u64))
            }
            _ => None,
        }
    }
    /// Pages in memory.
    pub fn resident(&self) -> usize {
        self.owned.len() + self.borrowed.len()
    }
    /// The most pages that were in memory at a time.
    pub fn peak(&self) -> u64 {
        self.peak.max(self.resident() as u64)
    }
    /// Whether a page in memory is its own.
    pub fn owns(&self, page: UserPage) -> bool {
        self.owned.contains(page.0)
    }
    /// Pages in memory that are its own: its part of an image.
    pub fn owned_pages(&self) -> usize {
        self.owned.len()
    }
    /// Where the heap ends.
    pub fn program_break(&self) -> UserAddr {
        UserAddr(self.brk)
    }
    /// Where the heap starts.
    pub fn heap_start(&self) -> UserAddr {
        UserAddr(self.brk_start)
    }
    /// Sets where the heap starts; it is empty then.
    pub fn set_heap(&mut self, start: UserAddr) {
        self.brk_start = start.0;
        self.brk = start.0;
    }

    /// Whether decoded state makes sense.
    pub fn validate(&self) -> Result<(), &'static str> {
        self.mappings.validate()?;
        if self.mmap_top > HIGHEST.0 || self.brk < self.brk_start || self.brk > USER_END {
            return Err("address space with impossible bounds");
        }
        Ok(())
    }

    /// Tells the objects how often this space maps them: after decoding, once for each space.
    pub fn count_mapped(&self, objects: &mut Objects) {
        for vma in self.mappings.iter() {
            if let Source::Object { id, .. } = vma.source {
                objects.add_mapped(id, vma.pages());
            }
        }
    }

    /// Finds `pages` free pages in a row.
    pub(crate) fn find_place(&mut self, pages: u64) -> Result<UserPage, Errno> {
        let low = LOWEST.0.max(self.brk.div_ceil(PAGE as u64));
        self.mappings
            .find_gap(pages, LOWEST, UserPage(self.mmap_top))
            .or_else(|| self.mappings.find_gap(pages, UserPage(low), HIGHEST))
            .ok_or(Errno::ENOMEM)
    }

    /// Makes a mapping of `pages` pages.
    pub fn map<M: Machine>(
        &mut self,
        cx: &mut Context<'_, M>,
        place: Place,
        pages: u64,
        request: MapRequest,
    ) -> Result<UserPage, Errno> {
        if pages == 0 {
            return Err(Errno::EINVAL);
        }
        if pages > HIGHEST.0 {
            return Err(Errno::ENOMEM);
        }
        let replaced = match place {
            Place::Fixed(page) => {
                let end = UserPage(page.0.saturating_add(pages));
                let within = |vma: &Vma| vma.end.min(end).0.saturating_sub(vma.first.max(page).0);
                self.mappings.overlapping(page, end).map(within).sum()
            }
            _ => 0,
        };
        self.check_growth(pages, replaced, (request.prot, request.sharing, request.flags))?;
        let fits = |page: UserPage| page >= LOWEST && page.0.checked_add(pages).is_some_and(|end| end <= HIGHEST.0);
        let free = |page: UserPage| fits(page) && self.mappings.is_free(page, UserPage(page.0.saturating_add(pages)));
        let first = match place {
            Place::Anywhere => self.find_place(pages)?,
            Place::Near(page) if free(page) => page,
            Place::Near(_) => self.find_place(pages)?,
            Place::Low => self.mappings.find_gap(pages, LOW_FROM, LOW_TO).ok_or(Errno::ENOMEM)?,
            Place::Fixed(page) | Place::FixedIfFree(page) if !fits(page) => {
                return Err(if page < LOWEST { Errno::EPERM } else { Errno::ENOMEM });
            }
            Place::FixedIfFree(page) if !free(page) => return Err(Errno::EEXIST),
            Place::Fixed(page) | Place::FixedIfFree(page) => page,
        };
        let vma = Vma {
            first,
            end: UserPage(first.0 + pages),
            prot: request.prot,
            may: request.may | request.prot,
            sharing: request.sharing,
            source: request.source,
            flags: request.flags,
            name: request.name,
        };
        vma.validate().map_err(|_| Errno::EOVERFLOW)?;
        // Counted first: replacing a mapping of the same object must not end it.
        if let Source::Object { id, .. } = vma.source {
            cx.objects.add_mapped(id, pages);
        }
        self.unmap(cx, vma.first, vma.end);
        self.mappings.insert(vma);
        Ok(first)
    }

    /// Removes all mappings in `first..end`.
    pub fn unmap<M: Machine>(&mut self, cx: &mut Context<'_, M>, first: UserPage, end: UserPage) {
        let removed = self.mappings.remove(first, end);
        if removed.is_empty() {
            return;
        }
        self.clear(cx, first, end);
        for vma in removed {
            if let Source::Object { id, .. } = vma.source {
                cx.objects.sub_mapped(cx.frames, id, vma.pages());
            }
        }
    }

    /// Takes all pages in `first..end` out of memory; the mappings stay.
    pub(crate) fn clear<M: Machine>(&mut self, cx: &mut Context<'_, M>, first: UserPage, end: UserPage) {
        let mut from = first.0;
        let mut gone = Vec::new();
        while let Some((low, high)) = self.next_run(from, end.0) {
            self.clear_run(cx, UserPage(low), UserPage(high), &mut gone);
            from = high;
        }
    }

    /// The bounds of pages in memory within one chunk of `from..end`.
    pub(crate) fn next_run(&self, from: u64, end: u64) -> Option<(u64, u64)> {
        let owned = self.owned.chunk_from(from, end).and_then(|chunk| chunk.bounds());
        let borrowed = self.borrowed.chunk_from(from, end).and_then(|chunk| chunk.bounds());
        match (owned, borrowed) {
            (Some(a), Some(b)) if a.0 / crate::page_set::CHUNK == b.0 / crate::page_set::CHUNK => {
                Some((a.0.min(b.0), a.1.max(b.1)))
            }
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }

    /// Clears one run of at most a chunk of pages.
    pub(crate) fn clear_run<M: Machine>(
        &mut self,
        cx: &mut Context<'_, M>,
        first: UserPage,
        end: UserPage,
        gone: &mut Vec<Frame>,
    ) {
        gone.clear();
        cx.machine.update(cx.tables, first, end, &mut |_, mapping| {
            gone.push(mapping.frame);
            None
        });
        for frame in gone.drain(..) {
            cx.frames.release(frame);
        }
        if !self.hidden.is_empty() {
            let kept: Vec<u64> = self.hidden.range(first.0..end.0).map(|(page, _)| *page).collect();
            for page in kept {
                if let Some(frame) = self.hidden.remove(&page) {
                    cx.frames.release(frame);
                }
            }
        }
        if self.tracking == Tracking::On
            && let Some(chunk) = self.owned.chunk_from(first.0, end.0)
        {
            self.changed.insert_chunk(&chunk);
        }
        self.peak = self.peak();
        self.owned.remove_range(first.0, end.0);
        self.borrowed.remove_range(first.0, end.0);
        self.shared_writable.remove_range(first.0, end.0);
        self.lent.remove_range(first.0, end.0);
    }

    /// mprotect(2).
    pub fn protect<M: Machine>(
        &mut self,
        cx: &mut Context<'_, M>,
        first: UserPage,
        end: UserPage,
        prot: Prot,
    ) -> Result<(), Errno> {
        if self.mappings.len() >= MAX_MAPPINGS {
            return Err(Errno::ENOMEM);
        }
        if prot.contains(Prot::WRITE) {
            // Private memory that becomes writable counts as data from here on.
            let new = |vma: &&Vma| vma.sharing == Sharing::Private && !vma.prot.contains(Prot::WRITE);
            let within = |vma: &Vma| vma.end.min(end).0.saturating_sub(vma.first.max(first).0);
            let pages: u64 = self.mappings.overlapping(first, end).filter(new).map(within).sum();
            if pages > 0 && self.data_limit.is_some_and(|limit| self.data_pages().saturating_add(pages) > limit) {
                return Err(Errno::ENOMEM);
            }
        }
        let result = self.mappings.protect(first, end, prot);
        // What was changed before an error must reach the page tables as well: each mapping says what holds.
        let areas: Vec<(UserPage, UserPage, Prot)> = self
            .mappings
            .overlapping(first, end)
            .map(|vma| (vma.first.max(first), vma.end.min(end), vma.prot))
            .collect();
        for (low, high, prot) in areas {
            self.restrict(cx, low, high, prot);
        }
        result.map_err(|error| match error {
            ProtectError::NotMapped => Errno::ENOMEM,
            ProtectError::Forbidden => Errno::EACCES,
        })
    }

    /// Brings the page tables in line with a mapping's protection. Stores are allowed page by page, at a fault.
    fn restrict<M: Machine>(&mut self, cx: &mut Context<'_, M>, first: UserPage, end: UserPage, prot: Prot) {
        let mut from = first.0;
        let mut out = Vec::new();
        while let Some((low, high)) = self.next_run(from, end.0) {
            let execute = crate::fault::read_rights(prot);
            let write = if prot.contains(Prot::WRITE) { Rights::WRITE } else { Rights::empty() };
            cx.machine.update(cx.tables, UserPage(low), UserPage(high), &mut |page, mapping| {
                if prot.is_empty() {
                    out.push((page, mapping.frame));
                    None
                } else {
                    Some(execute | (mapping.rights & write))
                }
            });
            for (page, frame) in out.drain(..) {
                if self.owned.contains(page.0) {
                    self.hidden.insert(page.0, frame);
                } else {
                    cx.frames.release(frame);
                    self.borrowed.remove(page.0);
                }
            }
            if write.is_empty() {
                self.shared_writable.remove_range(low, high);
            }
            from = high;
        }
    }

    /// brk(2): moves the end of the heap if that is possible; returns where it is.
    pub fn set_break<M: Machine>(&mut self, cx: &mut Context<'_, M>, to: UserAddr) -> UserAddr {
        if to.0 < self.brk_start || to.0 > USER_END {
            return UserAddr(self.brk);
        }
        let old = self.brk.div_ceil(PAGE as u64);
        let new = to.0.div_ceil(PAGE as u64);
        if new > old {
            let lock = self.lock_future.map_or(VmaFlags::empty(), crate::limits::LockFuture::flags);
            let request = MapRequest {
                flags: VmaFlags::HEAP | lock,
                name: String::from("[heap]"),
                ..MapRequest::anonymous(Prot::READ | Prot::WRITE)
            };
            if self.map(cx, Place::FixedIfFree(UserPage(old)), new - old, request).is_err() {
                return UserAddr(self.brk);
            }
        } else if new < old {
            self.unmap(cx, UserPage(new), UserPage(old));
        }
        self.brk = to.0;
        to
    }
}
