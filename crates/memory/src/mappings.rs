//! The mappings of an address space, in order.
use crate::{
    gaps::Full,
    objects::ObjectId,
    vma::{Area, Prot, Source, Vma, VmaFlags},
};
use alloc::{collections::BTreeMap, vec::Vec};
use core::cell::Cell;
use minicbor::{Decode, Encode};
use shimos_abi::addr::{PAGE, USER_END, UserPage};

/// Pages kept free below a mapping that grows down.
pub const STACK_GUARD: u64 = 256;
/// The first page that may be mapped.
pub const LOWEST: UserPage = UserPage(16);
/// The page behind the last that may be mapped.
pub const HIGHEST: UserPage = UserPage(USER_END / PAGE as u64);

/// Mappings of one address space, at most (vm.max_map_count).
pub const MAX_MAPPINGS: usize = 65_530;

/// Some page of a range is not mapped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NotMapped;

/// Why a protection cannot be changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ProtectError {
    /// Some page of the range is not mapped; what lies below it was changed.
    NotMapped,
    /// A mapping does not allow it; what lies below it was changed.
    Forbidden,
}

/// Mappings by first page. They never overlap.
#[derive(Clone, Default, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Mappings {
    #[n(0)]
    by_first: BTreeMap<u64, Vma>,
    #[cbor(skip)]
    full: Full,
    #[cbor(skip)]
    recent: Recent,
}

/// The mapping that was asked for last, as seen from its first page: most faults come from the same one as the fault before.
#[derive(Clone, Default, Debug)]
struct Recent(Cell<Option<Area>>);

impl PartialEq for Recent {
    /// It says nothing that the mappings themselves do not say.
    fn eq(&self, _: &Recent) -> bool {
        true
    }
}

impl Eq for Recent {}

impl Mappings {
    /// The mapping that holds `page`.
    pub fn find(&self, page: UserPage) -> Option<&Vma> {
        self.by_first.range(..=page.0).next_back().map(|(_, vma)| vma).filter(|vma| vma.contains(page))
    }
    /// The first mapping that ends above `page`: the one that holds it, or the next.
    pub fn find_from(&self, page: UserPage) -> Option<&Vma> {
        self.find(page).or_else(|| self.by_first.range(page.0..).next().map(|(_, vma)| vma))
    }
    /// The last mapping that starts below `page`.
    pub fn below(&self, page: UserPage) -> Option<&Vma> {
        self.by_first.range(..page.0).next_back().map(|(_, vma)| vma)
    }
    /// All in order.
    pub fn iter(&self) -> impl Iterator<Item = &Vma> {
        self.by_first.values()
    }
    /// The mappings that have pages in `first..end`, in order.
    pub fn overlapping(&self, first: UserPage, end: UserPage) -> impl Iterator<Item = &Vma> {
        let from = self.find(first).map_or(first.0, |vma| vma.first.0);
        self.by_first.range(from..end.0.max(from)).map(|(_, vma)| vma).filter(move |vma| vma.end > first)
    }
    /// How many.
    pub fn len(&self) -> usize {
        self.by_first.len()
    }
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.by_first.is_empty()
    }
    /// All pages of all mappings.
    pub fn total_pages(&self) -> u64 {
        self.iter().map(Vma::pages).sum()
    }
    /// Whether no page of `first..end` is mapped.
    pub fn is_free(&self, first: UserPage, end: UserPage) -> bool {
        self.overlapping(first, end).next().is_none()
    }
    /// Whether all pages of `first..end` are mapped.
    pub fn covers(&self, first: UserPage, end: UserPage) -> bool {
        let mut at = first;
        for vma in self.overlapping(first, end) {
            if vma.first > at {
                return false;
            }
            at = vma.end;
        }
        at >= end
    }
    /// Adds a mapping in place of what was there; returns the parts that had to go. One that continues a neighbour is
    /// joined with it.
    pub fn insert(&mut self, vma: Vma) -> Vec<Vma> {
        if vma.first >= vma.end {
            return Vec::new();
        }
        let removed = self.remove(vma.first, vma.end);
        let (first, end) = (vma.first, vma.end);
        self.by_first_mut().insert(first.0, vma);
        self.join_at(first);
        self.join_at(end);
        removed
    }
    /// Removes what lies in `first..end`; returns the removed parts.
    pub fn remove(&mut self, first: UserPage, end: UserPage) -> Vec<Vma> {
        if first >= end {
            return Vec::new();
        }
        self.cut(first);
        self.cut(end);
        let keys: Vec<u64> = self.by_first.range(first.0..end.0).map(|(key, _)| *key).collect();
        let removed: Vec<Vma> = keys.into_iter().filter_map(|key| self.by_first_mut().remove(&key)).collect();
        if !removed.is_empty() {
            let bottom = self.below(first).map_or(0, |vma| vma.end.0);
            let top = self.by_first.range(first.0..).next().map_or(HIGHEST.0, |(key, _)| *key);
            self.full.freed(top.saturating_sub(bottom), top);
        }
        removed
    }
    /// Changes the protection of `first..end`.
    pub fn protect(&mut self, first: UserPage, end: UserPage, prot: Prot) -> Result<(), ProtectError> {
        let mut at = first;
        while at < end {
            let Some(vma) = self.find(at) else { return Err(ProtectError::NotMapped) };
            if !vma.may.contains(prot) {
                return Err(ProtectError::Forbidden);
            }
            let stop = vma.end.min(end);
            if vma.prot != prot {
                self.change(at, stop, |vma| vma.prot = prot);
            }
            at = stop;
        }
        Ok(())
    }
    /// Sets or clears flags of all mappings in `first..end`.
    pub fn set_flags(
        &mut self,
        first: UserPage,
        end: UserPage,
        set: VmaFlags,
        clear: VmaFlags,
    ) -> Result<(), NotMapped> {
        let complete = self.covers(first, end);
        self.change(first, end, |vma| vma.flags = (vma.flags - clear) | set);
        if clear.contains(VmaFlags::GROWS_DOWN) {
            // What was kept free below it may be used.
            self.full.forget();
        }
        if complete { Ok(()) } else { Err(NotMapped) }
    }
    /// Lets shared mappings of a file of the image show an object; returns where they are.
    pub(crate) fn redirect(&mut self, nid: u64, object: ObjectId) -> Vec<(UserPage, UserPage)> {
        let mut places = Vec::new();
        for vma in self.by_first_mut().values_mut().filter(|vma| vma.sharing == crate::vma::Sharing::Shared) {
            if let Source::Image { nid: mapped, first } = vma.source
                && mapped == nid
            {
                vma.source = Source::Object { id: object, first };
                places.push((vma.first, vma.end));
            }
        }
        places
    }
    /// Moves the start of the mapping at `first` down to `to`. The pages between must be free.
    pub(crate) fn grow_down(&mut self, first: UserPage, to: UserPage) {
        if let Some(mut vma) = self.by_first_mut().remove(&first.0) {
            vma.first = to;
            self.by_first_mut().insert(to.0, vma);
        }
    }
    /// The highest `pages` free pages in a row within `low..high`.
    pub fn find_gap(&mut self, pages: u64, low: UserPage, high: UserPage) -> Option<UserPage> {
        let (mut top, mut seen) = (self.full.start(pages, high.0), 0);
        let fits =
            |bottom: u64, top: u64| top.checked_sub(pages).filter(|start| *start >= bottom.max(low.0)).map(UserPage);
        let mut found = None;
        for vma in self.by_first.range(..top).rev().map(|(_, vma)| vma) {
            found = fits(vma.end.0, top);
            if found.is_some() || top <= low.0 {
                break;
            }
            seen = top.saturating_sub(vma.end.0).max(seen);
            let guard = if vma.flags.contains(VmaFlags::GROWS_DOWN) { STACK_GUARD } else { 0 };
            top = top.min(vma.first.0.saturating_sub(guard));
        }
        self.full.searched(pages, high.0, top, seen);
        found.or_else(|| fits(low.0, top))
    }
    /// Whether decoded mappings make sense.
    pub fn validate(&self) -> Result<(), &'static str> {
        let mut end = LOWEST;
        for (key, vma) in &self.by_first {
            vma.validate()?;
            if vma.first.0 != *key || vma.first < end {
                return Err("mappings overlap or are out of order");
            }
            end = vma.end;
        }
        Ok(())
    }

    /// Where object `id`'s pages `first..end` are mapped: pairs of first page and end.
    pub(crate) fn places_of(&self, id: ObjectId, first: u64, end: u64) -> Vec<(UserPage, UserPage)> {
        let mut places = Vec::new();
        for vma in self.iter() {
            if let Source::Object { id: mapped, first: start } = vma.source
                && mapped == id
            {
                let low = first.max(start);
                let high = end.min(start.saturating_add(vma.pages()));
                if low < high {
                    places.push((UserPage(vma.first.0 + (low - start)), UserPage(vma.first.0 + (high - start))));
                }
            }
        }
        places
    }
    /// What a fault at `page` needs to know.
    pub(crate) fn area(&self, page: UserPage) -> Option<Area> {
        match self.recent.0.get().filter(|area| area.first <= page && page < area.end) {
            Some(area) => Some(Area { source: area.source.advance(page.0 - area.first.0), ..area }),
            None => {
                let vma = self.find(page)?;
                self.recent.0.set(Some(vma.area(vma.first)));
                Some(vma.area(page))
            }
        }
    }

    /// All changes go this way: what was remembered of a mapping is so no more.
    fn by_first_mut(&mut self) -> &mut BTreeMap<u64, Vma> {
        self.recent.0.set(None);
        &mut self.by_first
    }

    fn change(&mut self, first: UserPage, end: UserPage, change: impl Fn(&mut Vma)) {
        if first >= end {
            return;
        }
        self.cut(first);
        self.cut(end);
        let mut starts = Vec::new();
        for (key, vma) in self.by_first_mut().range_mut(first.0..end.0) {
            change(vma);
            starts.push(UserPage(*key));
        }
        for start in starts {
            self.join_at(start);
        }
        self.join_at(end);
    }
    /// Splits the mapping that holds `page` so that one starts there.
    fn cut(&mut self, page: UserPage) {
        if let Some((_, vma)) = self.by_first_mut().range_mut(..page.0).next_back()
            && vma.contains(page)
        {
            let upper = vma.split_off(page);
            self.by_first_mut().insert(page.0, upper);
        }
    }
    /// Joins the mapping that starts at `page` to the one that ends there, if it continues it.
    fn join_at(&mut self, page: UserPage) {
        let Some(upper) = self.by_first.get(&page.0) else { return };
        let Some((key, lower)) = self.by_first.range(..page.0).next_back() else { return };
        if !lower.continues_in(upper) {
            return;
        }
        let (key, end) = (*key, upper.end);
        self.by_first_mut().remove(&page.0);
        if let Some(lower) = self.by_first_mut().get_mut(&key) {
            lower.end = end;
        }
    }
}
