//! Gives the frames of a tree or of a whole image back, in bounded steps.
use crate::{
    layout::Tree,
    page_map::PageMap,
    walk::{Event, Walk},
};
use alloc::vec::Vec;
use shimos_abi::addr::{Frame, FrameRange};
use shimos_hal::Machine;
use shimos_memory::{Frames, space::Progress};

/// Frames on their way to being free. Nothing points to them any more.
pub struct Teardown {
    head: Frame,
    walks: Vec<Walk>,
    frames: Vec<Frame>,
}

impl Teardown {
    /// Of the tree that `word` points to, and of some other frames.
    pub(crate) fn new(pool: FrameRange, tree: Tree, word: u64, frames: Vec<Frame>) -> Teardown {
        Teardown { head: pool.first, walks: Walk::new(pool, tree, word).into_iter().collect(), frames }
    }

    /// Takes over what another has not done yet.
    pub(crate) fn join(&mut self, other: Teardown) {
        self.walks.extend(other.walks);
        self.frames.extend(other.frames);
    }

    /// Gives about `max` frames back. After `Done` there is nothing left to do.
    pub fn step<M: Machine>(&mut self, machine: &M, frames: &mut Frames, max: usize) -> Progress {
        self.step_with(machine, frames, max, |frames, frame| frames.release(frame))
    }

    /// The same for a tree of a page map in use, which counts its foreign frames.
    pub(crate) fn step_in<M: Machine>(
        &mut self,
        machine: &M,
        frames: &mut Frames,
        max: usize,
        map: &mut PageMap,
    ) -> Progress {
        self.step_with(machine, frames, max, |frames, frame| map.forget(frames, frame))
    }

    fn step_with<M: Machine>(
        &mut self,
        machine: &M,
        frames: &mut Frames,
        max: usize,
        mut forget: impl FnMut(&mut Frames, Frame),
    ) -> Progress {
        for _ in 0..max {
            if let Some(frame) = self.frames.pop() {
                frames.release(frame);
                continue;
            }
            let Some(walk) = self.walks.last_mut() else { return Progress::Done };
            match walk.next(machine) {
                Some(Event::Entry { entry, .. }) => {
                    let pages = entry.versions.iter().flatten().filter_map(|version| version.page());
                    for frame in pages.filter(|frame| *frame != self.head) {
                        forget(frames, frame);
                    }
                }
                Some(Event::Leave(node)) => frames.release(node),
                Some(Event::Enter(_) | Event::Damaged(_)) => {}
                None => {
                    self.walks.pop();
                }
            }
        }
        Progress::More
    }
}
