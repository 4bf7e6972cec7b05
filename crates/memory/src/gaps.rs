//! Where no room is: so that a search for room does not look at all mappings each time.

/// Sizes that are told apart: powers of two, from 1 page on.
const CLASSES: usize = 8;

/// Derived from the mappings, and never saved. It only says where to begin: what is found does not depend on it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Full {
    /// Searches from here down are remembered; none has been made yet if it is 0.
    window: u64,
    /// For each class: no free run of so many pages ends above this page, within the window.
    above: [u64; CLASSES],
}

impl Eq for Full {}

/// What is derived makes no difference between two address spaces.
impl PartialEq for Full {
    fn eq(&self, _: &Full) -> bool {
        true
    }
}

/// The class whose runs hold `pages` or fewer.
fn class(pages: u64) -> usize {
    (pages.max(1).ilog2() as usize).min(CLASSES - 1)
}

impl Full {
    /// Where a search below `high` may begin.
    pub fn start(&self, pages: u64, high: u64) -> u64 {
        if self.window == high { self.above[class(pages)].min(high) } else { high }
    }

    /// A search that began at [`Full::start`] came down to `top` and has seen no free run of more than `seen` pages.
    pub fn searched(&mut self, pages: u64, high: u64, top: u64, seen: u64) {
        if self.window == 0 {
            *self = Full { window: high, above: [high; CLASSES] };
        }
        if self.window == high {
            for (class, above) in self.above.iter_mut().enumerate().skip(class(pages)) {
                if 1 << class > seen {
                    *above = top.min(*above);
                }
            }
        }
    }

    /// Pages up to `top` have become free, `pages` in a row with those around them.
    pub fn freed(&mut self, pages: u64, top: u64) {
        for above in self.above.iter_mut().take(class(pages) + 1) {
            *above = top.max(*above);
        }
    }

    /// Nothing is known any more.
    pub fn forget(&mut self) {
        *self = Full::default();
    }
}
