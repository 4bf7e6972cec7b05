//! How much memory a mapping uses, for /proc/PID/smaps and pagemap.
use crate::space::{AddressSpace, Context, Tracking};
use shimos_abi::addr::{PAGE, UserPage};
use shimos_hal::Machine;

/// Pages of a mapping that are in memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Usage {
    /// Pages of its own that nobody else has.
    pub private: u64,
    /// Pages of its own that copies of the address space have as well.
    pub copied: u64,
    /// Pages of files and objects that nobody else has mapped.
    pub lone: u64,
    /// Pages of files and objects that others have mapped as well.
    pub shared: u64,
    /// All of them in bytes, each divided by the number of those who have it.
    pub proportion: u64,
}

impl Usage {
    /// All pages.
    pub fn pages(&self) -> u64 {
        self.private + self.copied + self.lone + self.shared
    }
}

impl AddressSpace {
    /// The memory that the pages `first..end` use. Pages that show nothing but zeros count as none, as on Linux.
    pub fn usage<M: Machine>(&self, cx: &mut Context<'_, M>, first: UserPage, end: UserPage) -> Usage {
        let mut usage = Usage::default();
        let zero = cx.frames.zero_frame(cx.machine);
        let frames = &*cx.frames;
        cx.machine.update(cx.tables, first, end, &mut |page, mapping| {
            let owned = self.owned.contains(page.0);
            if !owned && Some(mapping.frame) == zero {
                return Some(mapping.rights);
            }
            // An image holds what has not changed since; a cache or an object holds what it lends.
            let imaged = owned && self.tracking == Tracking::On && !self.changed.contains(page.0);
            let others = u32::from(imaged || !owned);
            let holders = u64::from(frames.references(mapping.frame).saturating_sub(others).max(1));
            let count = match (owned, holders) {
                (true, 1) => &mut usage.private,
                (true, _) => &mut usage.copied,
                (false, 1) => &mut usage.lone,
                (false, _) => &mut usage.shared,
            };
            *count += 1;
            usage.proportion += PAGE as u64 / holders;
            Some(mapping.rights)
        });
        usage
    }

    /// What is at a page: `None` where nothing is in memory.
    pub fn presence(&self, page: UserPage) -> Option<Presence> {
        if self.owned.contains(page.0) {
            Some(Presence::Own)
        } else if self.borrowed.contains(page.0) {
            Some(Presence::Borrowed)
        } else {
            None
        }
    }
}

/// Whose frame a page in memory shows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Presence {
    /// The address space's own.
    Own,
    /// That of a file or an object, or zeros.
    Borrowed,
}
