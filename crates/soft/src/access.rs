//! What a core may touch: frames and devices, and who has them.
use crate::{
    cores::Phase,
    death::{Step, fault},
    world::Inner,
};
use shimos_abi::{
    addr::{Frame, PAGE},
    console,
    control::Device,
    ids::Life,
    time::Nanos,
};
use shimos_hal::{Events, FrameSource, machine::DeviceError};

/// Copies out of a frame that `core` may read.
pub(crate) fn read(inner: &Inner, core: usize, frame: Frame, offset: usize, into: &mut [u8]) -> Step<()> {
    if !inner.readable(core, frame) {
        return fault(format!("read of {frame:?}, which is not its own"));
    }
    if inner.frames.read(frame, offset, into) { Ok(()) } else { fault(format!("read across the end of {frame:?}")) }
}

/// Copies into a frame that `core` may write.
pub(crate) fn write(inner: &mut Inner, core: usize, frame: Frame, offset: usize, from: &[u8]) -> Step<()> {
    if !inner.owns(core, frame) {
        return fault(format!("write to {frame:?}, which is not its own"));
    }
    if inner.cores[core].tables.contains(&frame) {
        return fault(format!("write to {frame:?}, which holds page tables"));
    }
    lent(inner, core, frame)?;
    if inner.frames.write(frame, offset, from) { Ok(()) } else { fault(format!("write across the end of {frame:?}")) }
}

/// A frame that a program on another kernel still maps must not change.
pub(crate) fn lent(inner: &Inner, core: usize, frame: Frame) -> Step<()> {
    for (peer, other) in inner.cores.iter().enumerate() {
        if peer != core && other.foreign.contains_key(&frame) {
            return fault(format!("{frame:?} got a new use while k{peer} still maps it"));
        }
    }
    Ok(())
}

/// Notes that an address space of `core` maps `frame` once more, or once less.
pub(crate) fn count_foreign(inner: &mut Inner, core: usize, frame: Frame, more: i32) {
    if inner.owns(core, frame) {
        return;
    }
    let foreign = &mut inner.cores[core].foreign;
    let count = foreign.get(&frame).copied().unwrap_or(0).saturating_add_signed(more);
    if count == 0 {
        foreign.remove(&frame);
    } else {
        foreign.insert(frame, count);
    }
}

/// Hands frames for page tables on and keeps the world's book of them.
pub(crate) struct Tables<'a> {
    pub frames: &'a mut dyn FrameSource,
    pub taken: Vec<Frame>,
}

impl FrameSource for Tables<'_> {
    fn take(&mut self) -> Option<Frame> {
        let frame = self.frames.take()?;
        self.taken.push(frame);
        Some(frame)
    }
    fn give(&mut self, frame: Frame) {
        self.frames.give(frame);
    }
}

/// Notes the frames that now hold page tables of `core`.
pub(crate) fn book(inner: &mut Inner, core: usize, taken: &[Frame]) -> Step<()> {
    for frame in taken {
        if !inner.owns(core, *frame) {
            return fault(format!("page table in {frame:?}, which is not its own"));
        }
        if !inner.cores[core].tables.insert(*frame) {
            return fault(format!("{frame:?} given out for two page tables"));
        }
        lent(inner, core, *frame)?;
        inner.frames.write(*frame, 0, &[0xee; PAGE]);
    }
    Ok(())
}

/// Who drives a device.
pub(crate) fn owner(inner: &Inner, device: Device) -> Option<Life> {
    match device {
        Device::Console => inner.console.owner,
        Device::Block => inner.disk.owner,
        Device::Network => inner.card.owner,
    }
}

/// Gives a device to `core`, after a reset.
pub(crate) fn claim(inner: &mut Inner, core: usize, device: Device) -> Step<Result<(), DeviceError>> {
    let life = inner.cores[core].life;
    if let Some(owner) = owner(inner, device)
        && owner != life
    {
        let other = &inner.cores[owner.kernel.index()];
        if other.life == owner && !matches!(other.phase, Phase::Parked | Phase::Booting(_)) {
            return fault(format!("took {device:?} from {owner}, which is not fenced"));
        }
    }
    inner.now = inner.now + Nanos::micros(50);
    match device {
        Device::Console => {
            inner.console.owner = Some(life);
            inner.console.output.extend([console::CUT, b'\r']);
            if !inner.console.input.is_empty() {
                inner.ring(core, Events::CONSOLE);
            }
        }
        Device::Block if inner.disk.content.is_empty() => {
            return Ok(Err(DeviceError::Absent));
        }
        Device::Block => inner.disk.reset(life),
        Device::Network => {
            inner.card.owner = Some(life);
            inner.card.arrived.clear();
        }
    }
    Ok(Ok(()))
}
