//! Pages made ready before they are touched: who stores to one fresh page after the other will store to the next as well.
use crate::{
    fault::read_rights,
    space::{AddressSpace, Context, Tracking},
    vma::{Area, Prot, Sharing, Source},
};
use shimos_abi::addr::{Frame, UserPage};
use shimos_hal::{Access, FrameSource, Machine, Rights};

/// Pages made ready at a time, at most.
const MOST: u64 = 16;
/// So many pages in a row are taken one by one: what is small holds what was touched, no more.
const PATIENCE: u32 = if cfg!(test) { 2 } else { 16 };

/// What the last stores were like.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Ahead {
    /// The page behind the last one that was made ready.
    next: u64,
    /// How many faults in a row were for the page behind.
    streak: u32,
}

impl AddressSpace {
    /// A store to `page` was made possible. If many before it were to the pages below, makes some more ready, more each time. The content of all pages must be known here: none may still be in an image alone.
    pub fn make_ready_ahead<M: Machine>(&mut self, cx: &mut Context<'_, M>, page: UserPage) {
        let expected = core::mem::replace(&mut self.ahead, Ahead { next: page.0.saturating_add(1), streak: 0 });
        if expected.next != page.0 {
            return;
        }
        let streak = expected.streak.saturating_add(1);
        self.ahead.streak = streak;
        if streak <= PATIENCE || !cx.frames.has_plenty() || !self.hidden.is_empty() {
            return;
        }
        let first = UserPage(page.0.saturating_add(1));
        let Some(area) = self.mappings.area(first) else { return };
        if area.sharing == Sharing::Shared || !area.prot.contains(Prot::WRITE) {
            return;
        }
        let run = MOST.min(1 << (streak - PATIENCE).min(8));
        // Within one aligned run of 64.
        let end = (first.0 + run).min(area.end.0).min((first.0 | 63) + 1);
        let ready = if self.owned.contains(first.0) {
            self.copy_ahead(cx, first, end)
        } else if area.source == Source::Anonymous {
            self.fill_ahead(cx, first, end, area)
        } else {
            0
        };
        self.ahead.next = first.0 + ready;
    }

    /// Copies pages that are still shared with an image or another space. Returns how many are ready.
    fn copy_ahead<M: Machine>(&mut self, cx: &mut Context<'_, M>, first: UserPage, end: u64) -> u64 {
        let mut ready =
            |page: u64| self.owned.contains(page) && self.resolve(cx, UserPage(page), Access::Write).is_ok();
        (first.0..end).take_while(|page| ready(*page)).count() as u64
    }

    /// Gives untouched pages frames of zeros. Returns how many.
    fn fill_ahead<M: Machine>(&mut self, cx: &mut Context<'_, M>, first: UserPage, end: u64, area: Area) -> u64 {
        let taken = self.owned.window(first.0) | self.borrowed.window(first.0);
        let count = (end - first.0).min(taken.trailing_zeros().into());
        let mut frames: [Option<Frame>; MOST as usize] = [None; MOST as usize];
        let mut filled = 0;
        for place in frames.iter_mut().take(count as usize) {
            let Some(frame) = cx.frames.take() else { break };
            cx.machine.zero_frame(frame);
            *place = Some(frame);
            filled += 1;
        }
        let rights = read_rights(area.prot) | Rights::WRITE;
        let run = frames.get(..filled).unwrap_or_default();
        if run.is_empty() || cx.machine.map_run(cx.tables, first, run, rights, cx.frames).is_err() {
            for frame in run.iter().flatten() {
                cx.frames.release(*frame);
            }
            return 0;
        }
        let bits = (1 << filled) - 1;
        self.owned.insert_window(first.0, bits);
        if self.tracking == Tracking::On {
            self.changed.insert_window(first.0, bits);
        }
        filled as u64
    }
}
