//! A machine for tests: frames in host memory, page tables as a map. The kernel can be made to die before any store: the
//! test unwinds with [`Died`].
use alloc::{collections::BTreeMap, vec, vec::Vec};
use core::sync::atomic::AtomicU64;
use shimos_abi::{
    addr::{Frame, FrameRange, PAGE, UserPage},
    control::{Device, Fault},
    ids::{Incarnation, KernelId, Life, MAX_KERNELS},
    time::Nanos,
};
use shimos_hal::{
    Events, Fenced, Fpu, FrameSource, Identity, Machine, Mapping, OutOfFrames, Regs, Rights, Trap, machine::DeviceError,
};

/// The machine. Frames below `frames.len()` exist; those of `pool` may be written.
#[derive(Clone)]
pub struct Fake {
    identity: Identity,
    frames: Vec<[u8; PAGE]>,
    /// How many stores are still done.
    pub stores_left: u64,
    /// How many stores were done.
    pub stores: u64,
}

/// The kernel died.
pub struct Died;

/// Page tables.
#[derive(Default, Debug)]
pub struct FakeSpace {
    table: Option<Frame>,
    pub pages: BTreeMap<UserPage, Mapping>,
}

impl Fake {
    /// A machine of `total` frames of which `pool` is this kernel's.
    pub fn new(total: usize, pool: FrameRange) -> Fake {
        let life = Life { kernel: KernelId(0), incarnation: Incarnation(1) };
        let identity = Identity { life, kernels: 1, pool, memory: 0, apic_ids: [0; MAX_KERNELS] };
        Fake { identity, frames: vec![[0xee; PAGE]; total], stores_left: u64::MAX, stores: 0 }
    }
    /// Writes into any frame, as a fault would.
    #[allow(dead_code, reason = "used by one of the two crates")]
    pub fn corrupt(&mut self, frame: Frame, offset: usize, value: u8) {
        self.frames[frame.0 as usize][offset] ^= value;
    }
    /// The bytes of a frame.
    pub fn bytes(&self, frame: Frame) -> &[u8; PAGE] {
        &self.frames[frame.0 as usize]
    }
    fn store(&mut self, frame: Frame) -> &mut [u8; PAGE] {
        assert!(self.identity.pool.contains(frame), "store outside the pool: {frame:?}");
        if self.stores_left == 0 {
            std::panic::resume_unwind(alloc::boxed::Box::new(Died));
        }
        self.stores_left -= 1;
        self.stores += 1;
        &mut self.frames[frame.0 as usize]
    }
}

impl Machine for Fake {
    type Space = FakeSpace;
    fn identity(&self) -> &Identity {
        &self.identity
    }
    fn now(&self) -> Nanos {
        Nanos(0)
    }
    fn wall_clock(&self) -> u64 {
        0
    }
    fn random(&mut self) -> u64 {
        4
    }
    fn shared(&self) -> &'static [AtomicU64] {
        &[]
    }
    fn notify(&self, _: KernelId) {}
    fn read_frame(&self, frame: Frame, offset: usize, into: &mut [u8]) {
        into.copy_from_slice(&self.bytes(frame)[offset..offset + into.len()]);
    }
    fn write_frame(&mut self, frame: Frame, offset: usize, from: &[u8]) {
        self.store(frame)[offset..offset + from.len()].copy_from_slice(from);
    }
    fn copy_frame(&mut self, from: Frame, to: Frame) {
        let content = *self.bytes(from);
        *self.store(to) = content;
    }
    fn zero_frame(&mut self, frame: Frame) {
        self.store(frame).fill(0);
    }
    fn read_word(&self, frame: Frame, index: usize) -> u64 {
        u64::from_le_bytes(self.bytes(frame)[index * 8..index * 8 + 8].try_into().unwrap())
    }
    fn write_word(&mut self, frame: Frame, index: usize, value: u64) {
        self.store(frame)[index * 8..index * 8 + 8].copy_from_slice(&value.to_le_bytes());
    }
    fn readable(&self, frame: Frame) -> bool {
        (frame.0 as usize) < self.frames.len()
    }
    fn new_space(&mut self, frames: &mut dyn FrameSource) -> Result<FakeSpace, OutOfFrames> {
        Ok(FakeSpace { table: Some(frames.take().ok_or(OutOfFrames)?), ..FakeSpace::default() })
    }
    fn drop_space(&mut self, space: FakeSpace, frames: &mut dyn FrameSource) {
        space.table.into_iter().for_each(|table| frames.give(table));
    }
    fn map(
        &mut self,
        space: &mut FakeSpace,
        page: UserPage,
        frame: Frame,
        rights: Rights,
        _: &mut dyn FrameSource,
    ) -> Result<(), OutOfFrames> {
        space.pages.insert(page, Mapping { frame, rights, dirty: false });
        Ok(())
    }
    fn unmap(&mut self, space: &mut FakeSpace, page: UserPage) -> Option<Mapping> {
        space.pages.remove(&page)
    }
    fn lookup(&self, space: &FakeSpace, page: UserPage) -> Option<Mapping> {
        space.pages.get(&page).copied()
    }
    fn update(
        &mut self,
        space: &mut FakeSpace,
        first: UserPage,
        end: UserPage,
        visit: &mut dyn FnMut(UserPage, Mapping) -> Option<Rights>,
    ) {
        let pages: Vec<UserPage> = space.pages.range(first..end).map(|(page, _)| *page).collect();
        for page in pages {
            let mapping = space.pages[&page];
            match visit(page, mapping) {
                Some(rights) => {
                    space.pages.insert(page, Mapping { rights, ..mapping });
                }
                None => {
                    space.pages.remove(&page);
                }
            }
        }
    }
    fn run(&mut self, _: &FakeSpace, _: &mut Regs, _: &mut Fpu, _: Nanos) -> Trap {
        Trap::Interrupted
    }
    fn save_live(&mut self, _: &mut Regs, _: &mut Fpu) {}
    fn forget_live(&mut self) {}
    fn idle(&mut self, _: Nanos) {}
    fn take_events(&mut self) -> Events {
        Events::empty()
    }
    fn claim(&mut self, _: Device) -> Result<(), DeviceError> {
        Err(DeviceError::Absent)
    }
    fn release(&mut self, _: Device) {}
    fn console_write(&mut self, _: &[u8]) -> usize {
        0
    }
    fn console_read(&mut self, _: &mut [u8]) -> usize {
        0
    }
    fn block_count(&self) -> u64 {
        0
    }
    fn block_read(&mut self, _: u64, _: u64, _: Frame) -> Result<(), DeviceError> {
        Err(DeviceError::Absent)
    }
    fn block_done(&mut self) -> Option<(u64, Result<(), DeviceError>)> {
        None
    }
    fn net_send(&mut self, _: &[u8]) -> Result<(), DeviceError> {
        Err(DeviceError::Absent)
    }
    fn net_receive(&mut self, _: &mut [u8]) -> Option<usize> {
        None
    }
    fn send_nmi(&mut self, _: KernelId) {}
    fn send_init(&mut self, _: KernelId) -> bool {
        false
    }
    fn confirm_parked(&self, _: Life) -> Option<Fenced> {
        None
    }
    fn map_dead(&mut self, _: &Fenced) {}
    fn map_lent(&mut self, _: KernelId) {}
    fn unmap_peer(&mut self, _: KernelId) {}
    fn restart(&mut self, dead: Fenced) -> Life {
        dead.life()
    }
    fn park(&mut self) -> ! {
        panic!("parked")
    }
    fn inject(&mut self, _: Fault, _: u64) {}
    fn power_off(&mut self) -> ! {
        panic!("switched off")
    }
}
