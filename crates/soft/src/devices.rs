//! The machine's devices: console, disk, network card. Each has at most one owner, the core that claimed it last.
use crate::frames::Frames;
use shimos_abi::{
    addr::{Frame, PAGE},
    ids::Life,
    time::Nanos,
};
use shimos_hal::machine::DeviceError;
use std::collections::VecDeque;

/// Requests that the disk holds at a time.
const DISK_QUEUE: usize = 16;
/// Frames that the card holds in each direction.
pub(crate) const CARD_QUEUE: usize = 256;

/// The console.
#[derive(Debug, Default)]
pub(crate) struct Console {
    pub owner: Option<Life>,
    pub output: Vec<u8>,
    pub input: VecDeque<u8>,
}

/// A read that is under way.
#[derive(Debug)]
pub(crate) struct Request {
    tag: u64,
    block: u64,
    frame: Frame,
    due: Nanos,
}

/// The disk. A read lands in its frame when it is due, whether or not the kernel that asked for it still lives: only a
/// claim, which resets the disk, stops it.
#[derive(Debug, Default)]
pub(crate) struct Disk {
    pub owner: Option<Life>,
    pub content: Vec<u8>,
    pub requests: Vec<Request>,
    pub done: VecDeque<(u64, Result<(), DeviceError>)>,
}

impl Disk {
    pub fn blocks(&self) -> u64 {
        self.content.len().div_ceil(PAGE) as u64
    }
    pub fn reset(&mut self, owner: Life) {
        self.owner = Some(owner);
        self.requests.clear();
        self.done.clear();
    }
    pub fn read(&mut self, tag: u64, block: u64, frame: Frame, due: Nanos) -> Result<(), DeviceError> {
        if self.requests.len() + self.done.len() >= DISK_QUEUE {
            return Err(DeviceError::Busy);
        }
        self.requests.push(Request { tag, block, frame, due });
        Ok(())
    }
    pub fn due(&self) -> Option<Nanos> {
        self.requests.iter().map(|r| r.due).min()
    }
    /// Finishes what is due; true if anything was.
    pub fn finish(&mut self, now: Nanos, frames: &mut Frames) -> bool {
        let mut any = false;
        while let Some(place) = self.requests.iter().position(|r| r.due <= now) {
            any = true;
            let request = self.requests.remove(place);
            let start = (request.block as usize).saturating_mul(PAGE);
            let result = if request.block < self.blocks() {
                let end = (start + PAGE).min(self.content.len());
                let mut page = [0; PAGE];
                page[..end - start].copy_from_slice(&self.content[start..end]);
                frames.write(request.frame, 0, &page);
                Ok(())
            } else {
                Err(DeviceError::Io)
            };
            self.done.push_back((request.tag, result));
        }
        any
    }
}

/// The network card.
#[derive(Debug, Default)]
pub(crate) struct Card {
    pub owner: Option<Life>,
    /// Frames on their way to the machine, and when they arrive.
    pub coming: VecDeque<(Nanos, Vec<u8>)>,
    /// Frames that have arrived.
    pub arrived: VecDeque<Vec<u8>>,
    /// Frames that the machine has sent.
    pub sent: VecDeque<Vec<u8>>,
}

impl Card {
    /// Lets frames arrive that are due; true if any did. Without an owner they are lost.
    pub fn arrive(&mut self, now: Nanos) -> bool {
        let mut any = false;
        while self.coming.front().is_some_and(|(due, _)| *due <= now) {
            let Some((_, packet)) = self.coming.pop_front() else {
                break;
            };
            if self.owner.is_some() && self.arrived.len() < CARD_QUEUE {
                self.arrived.push_back(packet);
                any = true;
            }
        }
        any
    }
}
