//! A simulated core whose user mode is the fuzzer: what a thread would do next is asked of it.
use super::state::{Drive, State};
use shimos_abi::{
    addr::{Frame, PAGE, UserAddr, UserPage},
    control::{Device, Fault},
    ids::{KernelId, Life},
    time::Nanos,
};
use shimos_fuzz::Memory;
use shimos_hal::{
    Access, Events, Fenced, Fpu, FrameSource, Identity, Machine, Mapping, OutOfFrames, Regs, Rights, Trap,
    machine::DeviceError,
};
use shimos_soft::{SoftMachine, SoftSpace};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::AtomicU64};

/// A core of the simulated machine with the fuzzer for a processor.
pub struct FuzzMachine {
    soft: SoftMachine,
    state: Arc<Mutex<State>>,
}

/// The memory of the thread that runs.
struct UserMemory<'a> {
    soft: &'a mut SoftMachine,
    space: &'a SoftSpace,
    /// The first place that was not mapped as it must be.
    missing: Option<(u64, Access)>,
}

impl UserMemory<'_> {
    /// The frame behind an address, if the access is allowed now.
    fn frame(&mut self, addr: u64, access: Access) -> Option<Frame> {
        let page = UserAddr(addr).page()?;
        let mapping: Option<Mapping> = self.soft.lookup(self.space, UserPage(page.0));
        let found = mapping.filter(|mapping| access == Access::Read || mapping.rights.contains(Rights::WRITE));
        if found.is_none() {
            self.missing.get_or_insert((addr, access));
        }
        found.map(|mapping| mapping.frame)
    }
    /// Stores bytes, or says where that cannot be done now.
    fn store(&mut self, addr: u64, bytes: &[u8]) -> bool {
        let mut at = addr;
        let mut rest = bytes;
        while !rest.is_empty() {
            let offset = at as usize % PAGE;
            let (now, later) = rest.split_at(rest.len().min(PAGE - offset));
            let Some(frame) = self.frame(at, Access::Write) else { return false };
            self.soft.write_frame(frame, offset, now);
            at += now.len() as u64;
            rest = later;
        }
        true
    }
}

impl Memory for UserMemory<'_> {
    fn read(&mut self, addr: u64, into: &mut [u8]) -> bool {
        let mut at = addr;
        let mut rest = into;
        while !rest.is_empty() {
            let offset = at as usize % PAGE;
            let count = rest.len().min(PAGE - offset);
            let Some(frame) = self.frame(at, Access::Read) else { return false };
            let (now, later) = rest.split_at_mut(count);
            self.soft.read_frame(frame, offset, now);
            at += count as u64;
            rest = later;
        }
        true
    }
}

impl FuzzMachine {
    /// The fuzzer's core over a simulated one.
    pub fn new(soft: SoftMachine, state: Arc<Mutex<State>>) -> FuzzMachine {
        FuzzMachine { soft, state }
    }
    fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
        state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Machine for FuzzMachine {
    type Space = SoftSpace;

    fn run(&mut self, space: &SoftSpace, regs: &mut Regs, fpu: &mut Fpu, until: Nanos) -> Trap {
        if self.soft.now() >= until {
            return Trap::Interrupted;
        }
        let mut state = FuzzMachine::lock(&self.state);
        let mut memory = UserMemory { soft: &mut self.soft, space, missing: None };
        match state.drive(fpu.tag, regs, &mut memory) {
            Drive::Call(step) => {
                for (addr, bytes) in &step.stores {
                    if !memory.store(*addr, bytes) {
                        let (addr, access) = memory.missing.unwrap_or((*addr, Access::Write));
                        state.faulted(fpu.tag);
                        return Trap::PageFault { addr: UserAddr(addr), access };
                    }
                }
                state.issued(fpu.tag);
                let [rdi, rsi, rdx, r10, r8, r9] = step.arguments;
                *regs = Regs { rax: step.number, rdi, rsi, rdx, r10, r8, r9, ..*regs };
                Trap::Syscall
            }
            Drive::Missing => {
                let (addr, access) = memory.missing.unwrap_or((0, Access::Read));
                Trap::PageFault { addr: UserAddr(addr), access }
            }
            Drive::Rest => Trap::Interrupted,
        }
    }

    fn identity(&self) -> &Identity {
        self.soft.identity()
    }
    fn now(&self) -> Nanos {
        self.soft.now()
    }
    fn wall_clock(&self) -> u64 {
        self.soft.wall_clock()
    }
    fn random(&mut self) -> u64 {
        self.soft.random()
    }
    fn shared(&self) -> &'static [AtomicU64] {
        self.soft.shared()
    }
    fn notify(&self, peer: KernelId) {
        self.soft.notify(peer);
    }
    fn read_frame(&self, frame: Frame, offset: usize, into: &mut [u8]) {
        self.soft.read_frame(frame, offset, into);
    }
    fn write_frame(&mut self, frame: Frame, offset: usize, from: &[u8]) {
        self.soft.write_frame(frame, offset, from);
    }
    fn copy_frame(&mut self, from: Frame, to: Frame) {
        self.soft.copy_frame(from, to);
    }
    fn zero_frame(&mut self, frame: Frame) {
        self.soft.zero_frame(frame);
    }
    fn read_word(&self, frame: Frame, index: usize) -> u64 {
        self.soft.read_word(frame, index)
    }
    fn write_word(&mut self, frame: Frame, index: usize, value: u64) {
        self.soft.write_word(frame, index, value);
    }
    fn readable(&self, frame: Frame) -> bool {
        self.soft.readable(frame)
    }
    fn new_space(&mut self, frames: &mut dyn FrameSource) -> Result<SoftSpace, OutOfFrames> {
        self.soft.new_space(frames)
    }
    fn drop_space(&mut self, space: SoftSpace, frames: &mut dyn FrameSource) {
        self.soft.drop_space(space, frames);
    }
    fn map(
        &mut self,
        space: &mut SoftSpace,
        page: UserPage,
        frame: Frame,
        rights: Rights,
        frames: &mut dyn FrameSource,
    ) -> Result<(), OutOfFrames> {
        self.soft.map(space, page, frame, rights, frames)
    }
    fn unmap(&mut self, space: &mut SoftSpace, page: UserPage) -> Option<Mapping> {
        self.soft.unmap(space, page)
    }
    fn lookup(&self, space: &SoftSpace, page: UserPage) -> Option<Mapping> {
        self.soft.lookup(space, page)
    }
    fn update(
        &mut self,
        space: &mut SoftSpace,
        first: UserPage,
        end: UserPage,
        visit: &mut dyn FnMut(UserPage, Mapping) -> Option<Rights>,
    ) {
        self.soft.update(space, first, end, visit);
    }
    fn save_live(&mut self, regs: &mut Regs, fpu: &mut Fpu) {
        self.soft.save_live(regs, fpu);
    }
    fn forget_live(&mut self) {
        self.soft.forget_live();
    }
    fn idle(&mut self, until: Nanos) {
        self.soft.idle(until);
    }
    fn take_events(&mut self) -> Events {
        self.soft.take_events()
    }
    fn claim(&mut self, device: Device) -> Result<(), DeviceError> {
        self.soft.claim(device)
    }
    fn release(&mut self, device: Device) {
        self.soft.release(device);
    }
    fn console_write(&mut self, bytes: &[u8]) -> usize {
        self.soft.console_write(bytes)
    }
    fn console_read(&mut self, into: &mut [u8]) -> usize {
        self.soft.console_read(into)
    }
    fn block_count(&self) -> u64 {
        self.soft.block_count()
    }
    fn block_read(&mut self, tag: u64, block: u64, frame: Frame) -> Result<(), DeviceError> {
        self.soft.block_read(tag, block, frame)
    }
    fn block_done(&mut self) -> Option<(u64, Result<(), DeviceError>)> {
        self.soft.block_done()
    }
    fn net_send(&mut self, packet: &[u8]) -> Result<(), DeviceError> {
        self.soft.net_send(packet)
    }
    fn net_receive(&mut self, into: &mut [u8]) -> Option<usize> {
        self.soft.net_receive(into)
    }
    fn send_nmi(&mut self, peer: KernelId) {
        self.soft.send_nmi(peer);
    }
    fn send_init(&mut self, peer: KernelId) -> bool {
        self.soft.send_init(peer)
    }
    fn confirm_parked(&self, life: Life) -> Option<Fenced> {
        self.soft.confirm_parked(life)
    }
    fn map_dead(&mut self, dead: &Fenced) {
        self.soft.map_dead(dead);
    }
    fn map_lent(&mut self, owner: KernelId) {
        self.soft.map_lent(owner);
    }
    fn unmap_peer(&mut self, peer: KernelId) {
        self.soft.unmap_peer(peer);
    }
    fn restart(&mut self, dead: Fenced) -> Life {
        self.soft.restart(dead)
    }
    fn park(&mut self) -> ! {
        self.soft.park()
    }
    fn inject(&mut self, fault: Fault, seed: u64) {
        self.soft.inject(fault, seed);
    }
    fn power_off(&mut self) -> ! {
        self.soft.power_off()
    }
}
