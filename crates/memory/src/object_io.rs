//! Objects as byte strings: read, write, truncate, punch holes.
use crate::{
    backing::Backing,
    fault::MemoryFault,
    frames::Frames,
    objects::{MAX_SIZE, ObjectId, Objects},
};
use shimos_abi::addr::PAGE;
use shimos_hal::Machine;

impl Objects {
    /// Reads bytes at `offset`; returns how many, fewer only at the end.
    pub fn read<M: Machine>(
        &self,
        machine: &mut M,
        frames: &mut Frames,
        backing: &mut dyn Backing<M>,
        id: ObjectId,
        offset: u64,
        into: &mut [u8],
    ) -> Result<usize, MemoryFault> {
        let left = self.size(id).saturating_sub(offset);
        let total = into.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let mut done = 0;
        while done < total {
            let at = offset + done as u64;
            let within = (at % PAGE as u64) as usize;
            let step = (PAGE - within).min(total - done);
            let Some(part) = into.get_mut(done..done + step) else { break };
            match self.page_for_read(machine, frames, backing, id, at / PAGE as u64) {
                Ok(Some(frame)) => machine.read_frame(frame, within, part),
                Ok(None) => part.fill(0),
                // A block that is missing is waited for: programs take a short read of a file for its end.
                Err(fault @ MemoryFault::Missing(_)) => return Err(fault),
                Err(_) if done > 0 => break,
                Err(fault) => return Err(fault),
            }
            done += step;
        }
        Ok(done)
    }

    /// Writes bytes at `offset` and grows the object if need be; returns how many, at least one unless it fails.
    pub fn write<M: Machine>(
        &mut self,
        machine: &mut M,
        frames: &mut Frames,
        backing: &mut dyn Backing<M>,
        id: ObjectId,
        offset: u64,
        from: &[u8],
    ) -> Result<usize, MemoryFault> {
        let before = self.size(id);
        let end = offset.checked_add(from.len() as u64).filter(|end| *end <= MAX_SIZE).ok_or(MemoryFault::Bus)?;
        if end > before {
            self.set_size(id, end);
        }
        let mut done = 0;
        let mut failure = None;
        while done < from.len() {
            let at = offset + done as u64;
            let within = (at % PAGE as u64) as usize;
            let step = (PAGE - within).min(from.len() - done);
            let Some(part) = from.get(done..done + step) else { break };
            match self.page_for_write(machine, frames, backing, id, at / PAGE as u64) {
                Ok(frame) => machine.write_frame(frame, within, part),
                Err(fault) => {
                    failure = Some(fault);
                    break;
                }
            }
            done += step;
        }
        if let Some(fault) = failure {
            let reached = if done > 0 { offset + done as u64 } else { before };
            self.set_size(id, before.max(reached));
            if done == 0 {
                return Err(fault);
            }
        }
        Ok(done)
    }

    /// Sets the size. What lies behind a smaller end is gone; a larger one shows zeros.
    pub fn truncate<M: Machine>(
        &mut self,
        machine: &mut M,
        frames: &mut Frames,
        backing: &mut dyn Backing<M>,
        id: ObjectId,
        size: u64,
    ) -> Result<(), MemoryFault> {
        let before = self.size(id);
        if size > MAX_SIZE {
            return Err(MemoryFault::Bus);
        }
        if size < before {
            // The rest of the last page must read as zeros if the object grows again.
            let within = (size % PAGE as u64) as usize;
            let last = size / PAGE as u64;
            if within > 0 && self.page_for_read(machine, frames, backing, id, last)?.is_some() {
                let frame = self.page_for_write(machine, frames, backing, id, last)?;
                machine.write_frame(frame, within, &[0; PAGE][within..]);
            }
            self.drop_pages(frames, id, size.div_ceil(PAGE as u64), u64::MAX);
            if let Some(object) = self.object_mut(id) {
                object.limit_backed(size);
            }
        }
        self.set_size(id, size);
        Ok(())
    }

    /// Makes `start..end` read as zeros without changing the size; whole pages become holes where nothing lies below.
    pub fn punch<M: Machine>(
        &mut self,
        machine: &mut M,
        frames: &mut Frames,
        backing: &mut dyn Backing<M>,
        id: ObjectId,
        start: u64,
        end: u64,
    ) -> Result<(), MemoryFault> {
        let end = end.min(self.size(id));
        let mut at = start;
        while at < end {
            let index = at / PAGE as u64;
            let within = (at % PAGE as u64) as usize;
            let step = (PAGE - within).min(usize::try_from(end - at).unwrap_or(PAGE));
            let backed = self.get(id).is_some_and(|object| object.shows_backing(index).is_some());
            if step == PAGE && !backed {
                // Nothing shows through behind this either: all whole pages go at once, however many that would be.
                let last = end / PAGE as u64;
                self.drop_pages(frames, id, index, last);
                at = last.saturating_mul(PAGE as u64);
                continue;
            }
            if backed || self.page_for_read(machine, frames, backing, id, index)?.is_some() {
                let frame = self.page_for_write(machine, frames, backing, id, index)?;
                if let Some(zeros) = [0; PAGE].get(..step) {
                    machine.write_frame(frame, within, zeros);
                }
            }
            at += step as u64;
        }
        Ok(())
    }
}
