//! What a program may have: limits of an address space, memory that it wants kept (mlock(2)).
use crate::{
    mappings::MAX_MAPPINGS,
    space::AddressSpace,
    vma::{Prot, Sharing, Vma, VmaFlags},
};
use minicbor::{Decode, Encode};
use shimos_abi::{
    addr::{PAGE, UserPage},
    errno::Errno,
};

/// Resource limits of an address space.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// RLIMIT_AS, in bytes.
    pub total: u64,
    /// RLIMIT_DATA, in bytes.
    pub data: u64,
    /// RLIMIT_STACK, in bytes.
    pub stack: u64,
}

/// How future mappings are locked (mlockall(2) with MCL_FUTURE).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode)]
#[cbor(index_only)]
pub enum LockFuture {
    /// With all their pages.
    #[n(0)]
    Whole,
    /// With what is touched.
    #[n(1)]
    OnFault,
}

impl LockFuture {
    /// The flags of a mapping that is locked so.
    pub fn flags(self) -> VmaFlags {
        match self {
            LockFuture::Whole => VmaFlags::LOCKED,
            LockFuture::OnFault => VmaFlags::LOCKED | VmaFlags::LOCKED_ON_FAULT,
        }
    }
}

/// Whether a mapping counts as data (RLIMIT_DATA): private, writable, no stack.
fn is_data(prot: Prot, sharing: Sharing, flags: VmaFlags) -> bool {
    sharing == Sharing::Private && prot.contains(Prot::WRITE) && !flags.contains(VmaFlags::GROWS_DOWN)
}

impl AddressSpace {
    /// Sets the limits.
    pub fn set_limits(&mut self, limits: Limits) {
        self.page_limit = limits.total / PAGE as u64;
        self.data_limit = Some(limits.data / PAGE as u64);
        self.stack_limit = limits.stack;
    }
    /// How new mappings are locked, if they are.
    pub fn lock_future(&self) -> Option<LockFuture> {
        self.lock_future
    }
    /// Locks new mappings from now on, or no more.
    pub fn set_lock_future(&mut self, lock: Option<LockFuture>) {
        self.lock_future = lock;
    }
    /// Pages of mappings that are locked.
    pub fn locked_pages(&self) -> u64 {
        let locked = |vma: &&Vma| vma.flags.contains(VmaFlags::LOCKED);
        self.mappings.iter().filter(locked).map(Vma::pages).sum()
    }
    /// Those of `first..end`.
    pub fn locked_pages_in(&self, first: UserPage, end: UserPage) -> u64 {
        let locked = |vma: &&Vma| vma.flags.contains(VmaFlags::LOCKED);
        let within = |vma: &Vma| vma.end.min(end).0.saturating_sub(vma.first.max(first).0);
        self.mappings.overlapping(first, end).filter(locked).map(within).sum()
    }
    /// Locks or unlocks what is mapped in `first..end`; `ENOMEM` if a page of it is not mapped.
    pub fn set_locked(&mut self, first: UserPage, end: UserPage, lock: Option<LockFuture>) -> Result<(), Errno> {
        let all = VmaFlags::LOCKED | VmaFlags::LOCKED_ON_FAULT;
        let set = lock.map_or(VmaFlags::empty(), LockFuture::flags);
        self.mappings.set_flags(first, end, set, all - set).map_err(|_| Errno::ENOMEM)
    }
    /// Sets and clears flags of what is mapped in `first..end`; what is not is no error here.
    pub fn set_mapping_flags(
        &mut self,
        first: UserPage,
        end: UserPage,
        set: VmaFlags,
        clear: VmaFlags,
    ) -> Result<(), Errno> {
        if self.mappings.len() >= MAX_MAPPINGS {
            return Err(Errno::ENOMEM);
        }
        let _ = self.mappings.set_flags(first, end, set, clear);
        Ok(())
    }
    /// Pages that count as data.
    pub fn data_pages(&self) -> u64 {
        self.mappings.iter().filter(|vma| is_data(vma.prot, vma.sharing, vma.flags)).map(Vma::pages).sum()
    }

    /// `ENOMEM` if `pages` more pages are too many, where `replaced` of the same kind go.
    pub(crate) fn check_growth(
        &self,
        pages: u64,
        replaced: u64,
        (prot, sharing, flags): (Prot, Sharing, VmaFlags),
    ) -> Result<(), Errno> {
        let more = pages.saturating_sub(replaced);
        if self.mappings.len() >= MAX_MAPPINGS {
            return Err(Errno::ENOMEM);
        }
        if self.page_limit != u64::MAX / PAGE as u64 && self.page_limit != u64::MAX {
            let total = self.mappings.total_pages().saturating_add(more);
            if total > self.page_limit {
                return Err(Errno::ENOMEM);
            }
        }
        match self.data_limit {
            Some(limit) if limit < u64::MAX / PAGE as u64 && is_data(prot, sharing, flags) => {
                if self.data_pages().saturating_add(more) > limit { Err(Errno::ENOMEM) } else { Ok(()) }
            }
            _ => Ok(()),
        }
    }
}
