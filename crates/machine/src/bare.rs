//! The bare machine: [`shimos_hal::Machine`] on a real (or emulated) core.
use crate::{
    apic::{Ipi, LAPIC},
    arch::wait_for_interrupt,
    boot::cores::mailbox,
    clock,
    console::Console,
    death,
    device::{Aim, Bus, Devices, Interrupts},
    dma, fault, fpu, frames,
    info::{info, life, me},
    layout::SHARED_BASE,
    mmio,
    paging::{kernel::Peer, space::Space},
    power, random,
    shell::call::{Answer, Call, ask},
    timer::{self, Alarm},
    traps, user, vectors,
};
use core::{
    cell::UnsafeCell,
    ptr::NonNull,
    sync::atomic::{
        AtomicU64,
        Ordering::{Relaxed, SeqCst},
    },
};
use shimos_abi::{
    addr::{Frame, PAGE, UserPage},
    control::{Device, Fault, Partition},
    ids::{Incarnation, KernelId, Life, MAX_KERNELS},
    shared::{
        Layout,
        commons::{MAILBOX_COMMAND, MAILBOX_PARKED},
    },
    time::Nanos,
};
use shimos_hal::{
    Events, Fenced, Fpu, FrameSource, Identity, Machine, Mapping, OutOfFrames, Regs, Rights, Scrub, Trap, UserClock,
    machine::DeviceError,
};

/// This core, as the kernel's machine. There is one in a kernel.
pub struct Bare {
    identity: Identity,
    console: Console,
    card: Card,
}

/// What the network card does with a received frame. While the kernel looks at the card by itself, an interrupt would only
/// cost time.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Card {
    /// It is not driven here.
    Absent,
    /// It keeps quiet.
    Quiet,
    /// It interrupts.
    Announces,
}

/// The devices, where interrupt handlers find them too.
struct DeviceCell(UnsafeCell<Option<Devices>>);

// SAFETY: a kernel runs on one core. Interrupts are only let in by `idle`, `run` and ordered faults, and nothing holds
// a reference from `devices` then.
unsafe impl Sync for DeviceCell {}

static DEVICES: DeviceCell = DeviceCell(UnsafeCell::new(None));

fn devices() -> &'static mut Devices {
    // SAFETY: see `DeviceCell`; callers use it in one expression and keep no reference.
    let cell = unsafe { &mut *DEVICES.0.get() };
    cell.get_or_insert_with(|| Devices::new(info().found))
}

/// Quiets the devices that interrupt with a vector; says which want attention.
pub(crate) fn ack_device(vector: u8) -> Events {
    devices().ack_interrupt(vector)
}

/// What drivers get from the machine.
struct KernelBus;

// SAFETY: `mmio::map` maps registers for the rest of this incarnation, `dma::alloc` hands out mapped pages once.
unsafe impl Bus for KernelBus {
    fn map_registers(&mut self, phys: u64, len: usize) -> Option<NonNull<u8>> {
        mmio::map(phys, len).and_then(|range| NonNull::new(range.address()))
    }
    fn take_dma(&mut self, pages: usize) -> Option<(u64, NonNull<u8>)> {
        let memory = dma::alloc(pages.checked_mul(PAGE)?)?;
        Some((memory.phys, NonNull::new(memory.virt)?))
    }
}

/// When each core was sent INIT, and for how long that one is enough.
static INITED: [AtomicU64; MAX_KERNELS] = [const { AtomicU64::new(0) }; MAX_KERNELS];
const INIT_LASTS: Nanos = Nanos::millis(250);

fn word_of(life: Life) -> u64 {
    u64::from(life.incarnation.0) + 1
}

impl Bare {
    pub(crate) fn new() -> Bare {
        let info = info();
        let mut apic_ids = [0; MAX_KERNELS];
        for (to, from) in apic_ids.iter_mut().zip(&info.entries[..info.kernels as usize % (MAX_KERNELS + 1)]) {
            *to = from.apic;
        }
        let identity = Identity {
            life: life(),
            kernels: info.kernels as usize,
            pool: me().pool,
            memory: u64::from(me().private.count) * PAGE as u64,
            apic_ids,
        };
        Bare { identity, console: Console::new(), card: Card::Absent }
    }
    /// Has received frames announced from now on. Returns whether one waits that was not.
    #[cold]
    fn listen(&mut self) -> bool {
        let waits = devices().net().is_some_and(|card| {
            card.announce(Interrupts::Wanted);
            card.has_received()
        });
        self.card = Card::Announces;
        if waits {
            traps::raise(Events::NETWORK);
        }
        waits
    }
    /// The kernel's command line.
    pub fn cmdline(&self) -> &'static str {
        info().cmdline()
    }
    fn apic_of(&self, kernel: KernelId) -> Option<u32> {
        self.identity.apic_ids[..self.identity.kernels].get(kernel.index()).copied()
    }
}

impl Machine for Bare {
    type Space = Space;

    #[inline]
    fn identity(&self) -> &Identity {
        &self.identity
    }
    #[inline]
    fn now(&self) -> Nanos {
        clock::now()
    }
    fn wall_clock(&self) -> u64 {
        info().wall_base.saturating_add(clock::now().0)
    }
    fn user_clock(&self) -> Option<UserClock> {
        let info = info();
        clock::is_steady().then_some(UserClock { base: info.tsc_base, scale: info.tsc_scale, wall: info.wall_base })
    }
    #[inline]
    fn heap(&self) -> (usize, usize) {
        crate::heap::usage()
    }
    fn partition(&self) -> Partition {
        info().partition
    }
    fn kick_watchdog(&mut self) {
        crate::watchdog::kick();
    }
    fn scrub(&mut self, scrub: Scrub) {
        let _ = ask(Call::Scrub(scrub));
    }
    fn random(&mut self) -> u64 {
        random::next()
    }
    #[inline]
    fn shared(&self) -> &'static [AtomicU64] {
        let words = Layout::new(self.identity.kernels).words();
        // SAFETY: the whole area is mapped here, and accessed as atomic words by everyone. Stores where the page tables
        // forbid them fault.
        unsafe { core::slice::from_raw_parts(SHARED_BASE as *const AtomicU64, words) }
    }
    fn notify(&self, peer: KernelId) {
        if let (Some(apic), false) = (self.apic_of(peer), fault::loses_ipis()) {
            LAPIC.send(apic, Ipi::Fixed(vectors::IKC));
        }
    }

    #[inline]
    fn read_frame(&self, frame: Frame, offset: usize, into: &mut [u8]) {
        frames::read(frame, offset, into);
    }
    #[inline]
    fn write_frame(&mut self, frame: Frame, offset: usize, from: &[u8]) {
        frames::write(frame, offset, from);
    }
    #[inline]
    fn copy_frame(&mut self, from: Frame, to: Frame) {
        frames::copy(from, to);
    }
    #[inline]
    fn copy_part(&mut self, from: (Frame, usize), to: (Frame, usize), len: usize) {
        frames::copy_part(from, to, len);
    }
    #[inline]
    fn zero_frame(&mut self, frame: Frame) {
        frames::zero(frame);
    }
    #[inline]
    fn read_word(&self, frame: Frame, index: usize) -> u64 {
        frames::read_word(frame, index)
    }
    #[inline]
    fn read_words<const N: usize>(&self, frame: Frame, index: usize) -> [u64; N] {
        frames::read_words(frame, index)
    }
    #[inline]
    fn write_word(&mut self, frame: Frame, index: usize, value: u64) {
        frames::write_word(frame, index, value);
    }
    #[inline]
    fn readable(&self, frame: Frame) -> bool {
        frames::readable(frame)
    }

    fn new_space(&mut self, _: &mut dyn FrameSource) -> Result<Space, OutOfFrames> {
        Ok(Space::default())
    }
    fn retire_space(&mut self, space: &mut Space) {
        space.unload();
    }
    fn drop_space(&mut self, space: Space, frames: &mut dyn FrameSource) {
        space.free(frames);
    }
    #[inline]
    fn map(
        &mut self,
        space: &mut Space,
        page: UserPage,
        frame: Frame,
        rights: Rights,
        frames: &mut dyn FrameSource,
    ) -> Result<(), OutOfFrames> {
        space.map(page, frame, rights, frames)
    }
    fn map_run(
        &mut self,
        space: &mut Space,
        first: UserPage,
        run: &[Option<Frame>],
        rights: Rights,
        frames: &mut dyn FrameSource,
    ) -> Result<(), OutOfFrames> {
        space.map_run(first, run, rights, frames)
    }
    #[inline]
    fn unmap(&mut self, space: &mut Space, page: UserPage) -> Option<Mapping> {
        space.unmap(page)
    }
    #[inline]
    fn lookup(&self, space: &Space, page: UserPage) -> Option<Mapping> {
        space.lookup(page)
    }
    fn update(
        &mut self,
        space: &mut Space,
        first: UserPage,
        end: UserPage,
        visit: &mut dyn FnMut(UserPage, Mapping) -> Option<Rights>,
    ) {
        space.update(first, end, visit);
    }
    #[inline]
    fn protect_run(
        &mut self,
        space: &mut Space,
        first: UserPage,
        pages: &[u64; 8],
        visit: impl FnMut(UserPage, Frame),
    ) {
        space.protect_run(first, pages, visit);
    }

    #[inline]
    fn run(&mut self, space: &Space, regs: &mut Regs, fpu: &mut Fpu, until: Nanos) -> Trap {
        if timer::set(until) == Alarm::Due || self.card == Card::Quiet && self.listen() {
            return Trap::Interrupted;
        }
        space.load();
        if !fpu::is_loaded(fpu) {
            fpu::load(fpu);
            user::load_bases(regs);
        }
        user::enter(regs)
    }
    fn save_live(&mut self, regs: &mut Regs, fpu: &mut Fpu) {
        if fpu::is_loaded(fpu) {
            fpu::save(fpu);
            user::store_bases(regs);
        }
    }
    #[inline]
    fn forget_live(&mut self) {
        fpu::forget();
    }
    fn idle(&mut self, until: Nanos) {
        while !traps::pending() && timer::set(until) == Alarm::Set {
            if self.card == Card::Quiet && self.listen() {
                break;
            }
            wait_for_interrupt();
        }
    }
    #[inline]
    fn take_events(&mut self) -> Events {
        if self.card == Card::Announces {
            self.card = Card::Quiet;
            if let Some(card) = devices().net() {
                card.announce(Interrupts::Spared);
            }
        }
        traps::take()
    }

    fn claim(&mut self, device: Device) -> Result<(), DeviceError> {
        let apic_id = LAPIC.id();
        if ask(Call::ShowDevice(device)) == Answer::Refused {
            return Err(DeviceError::Io);
        }
        match device {
            Device::Console => self.console.claim(),
            Device::Block => devices().claim_block(&mut KernelBus, Aim { apic_id, vector: vectors::BLOCK }),
            Device::Network => {
                let claimed = devices().claim_net(&mut KernelBus, Aim { apic_id, vector: vectors::NETWORK });
                self.card = if claimed.is_ok() { Card::Announces } else { Card::Absent };
                claimed
            }
        }
    }
    fn quarantine(&mut self, visit: &mut dyn FnMut(Frame)) {
        dma::give_up(visit);
    }
    fn release(&mut self, device: Device) {
        // The registers stay mapped for the next claim, the memory that the device writes is its own until then.
        match device {
            Device::Console => {}
            Device::Block => devices().release_block(),
            Device::Network => {
                self.card = Card::Absent;
                devices().release_net();
            }
        }
        // It cannot be refused.
        let _ = ask(Call::HideDevice(device));
    }
    fn console_write(&mut self, bytes: &[u8]) -> usize {
        self.console.write(bytes)
    }
    fn console_read(&mut self, into: &mut [u8]) -> usize {
        self.console.read(into)
    }
    fn block_count(&self) -> u64 {
        devices().block_count()
    }
    fn block_read(&mut self, tag: u64, block: u64, frame: Frame) -> Result<(), DeviceError> {
        if !dma::owns(frame) {
            return Err(DeviceError::Io);
        }
        let device = devices().block().ok_or(DeviceError::Absent)?;
        // SAFETY: the frame is of our pool, and frames are never Rust objects.
        unsafe { device.read(tag, block, frame.addr()) }
    }
    fn block_done(&mut self) -> Option<(u64, Result<(), DeviceError>)> {
        devices().block()?.done()
    }
    fn net_send(&mut self, packet: &[u8]) -> Result<(), DeviceError> {
        devices().net().ok_or(DeviceError::Absent)?.send(packet)
    }
    fn net_receive(&mut self, into: &mut [u8]) -> Option<usize> {
        devices().net()?.receive(into)
    }

    fn send_nmi(&mut self, peer: KernelId) {
        if let Some(apic) = self.apic_of(peer) {
            LAPIC.send(apic, Ipi::Nmi);
        }
    }
    fn send_init(&mut self, peer: KernelId) -> bool {
        let Some(apic) = self.apic_of(peer) else { return false };
        if peer.0 == info().boot_kernel as u16 || peer == self.identity.life.kernel {
            return false;
        }
        let page = info().trampoline_page();
        // A core that slept may look at both at once, the start first: then it waits for another after INIT. So there are two,
        // and if this is soon asked for again there is no INIT before them.
        let last = &INITED[peer.index() % MAX_KERNELS];
        let now = clock::now();
        if now.0.saturating_sub(last.load(Relaxed)) < INIT_LASTS.0 {
            last.store(0, Relaxed);
        } else {
            last.store(now.0, Relaxed);
            LAPIC.send(apic, Ipi::Init);
        }
        for wait in [Nanos::micros(50), Nanos::micros(200)] {
            let start = clock::now();
            while clock::now() < start + wait {
                core::hint::spin_loop();
            }
            LAPIC.send(apic, Ipi::Startup(page));
        }
        true
    }
    fn confirm_parked(&self, life: Life) -> Option<Fenced> {
        let parked = life.kernel.index() < self.identity.kernels
            && mailbox(life.kernel.0.into(), MAILBOX_PARKED).load(SeqCst) == word_of(life);
        parked.then(|| Fenced::acknowledged(life))
    }
    fn map_dead(&mut self, dead: &Fenced) {
        frames::set_readable(dead.life().kernel, Peer::Readable);
    }
    fn map_lent(&mut self, owner: KernelId) {
        frames::set_readable(owner, Peer::Readable);
    }
    fn unmap_peer(&mut self, peer: KernelId) {
        frames::set_readable(peer, Peer::Hidden);
    }
    fn restart(&mut self, dead: Fenced) -> Life {
        let kernel = dead.life().kernel;
        let next = Life { kernel, incarnation: Incarnation(dead.life().incarnation.0.saturating_add(1)) };
        // Only forward: of two who restart the same life, the second changes nothing.
        mailbox(kernel.0.into(), MAILBOX_COMMAND).fetch_max(word_of(next), SeqCst);
        self.send_nmi(kernel);
        next
    }
    fn park(&mut self) -> ! {
        death::park()
    }
    fn inject(&mut self, fault: Fault, seed: u64) {
        fault::inject(fault, seed);
    }
    fn power_off(&mut self) -> ! {
        power::off()
    }
}
