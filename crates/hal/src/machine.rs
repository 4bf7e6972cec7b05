//! The machine trait.
use crate::{Fenced, Fpu, Regs, Trap};
use bitflags::bitflags;
use core::sync::atomic::AtomicU64;
use shimos_abi::{
    addr::{Frame, FrameRange, PAGE, UserPage},
    control::{Device, Fault, Partition},
    ids::{KernelId, Life},
    shared::Layout,
    time::Nanos,
};

/// Who this kernel is and what it was given.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Kernel and incarnation.
    pub life: Life,
    /// How many kernels the machine has.
    pub kernels: usize,
    /// The frames of its private memory that are not the kernel itself: pages of programs, caches, images.
    /// The first frame is the head of the reserved memory and is never handed out.
    pub pool: FrameRange,
    /// All of its private memory, in bytes.
    pub memory: u64,
    /// APIC id of each kernel's core.
    pub apic_ids: [u32; shimos_abi::ids::MAX_KERNELS],
}

bitflags! {
    /// What user code may do with a page.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Rights: u8 {
        /// Store. (Every mapped page can be loaded.)
        const WRITE = 1;
        /// Fetch instructions.
        const EXECUTE = 2;
    }
    /// What has happened since [`Machine::take_events`] was last called.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct Events: u8 {
        /// A peer rang.
        const IKC = 1;
        /// The time asked for has come.
        const TIMER = 2;
        /// The network card wants attention.
        const NETWORK = 4;
        /// The disk wants attention.
        const BLOCK = 8;
        /// The console has input.
        const CONSOLE = 16;
        /// A machine check that this core outlives.
        const MACHINE_CHECK = 32;
    }
}

/// How much of the shared code is looked at, at once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scrub {
    /// The next part, in some microseconds: work for idle time.
    Part,
    /// All of it.
    All,
}

/// One page of an address space.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mapping {
    /// The frame behind it.
    pub frame: Frame,
    /// What user code may do with it.
    pub rights: Rights,
    /// Whether it was written since the bit was last cleared.
    pub dirty: bool,
}

/// The machine's clock as a program computes it: `((counter - base) * scale) >> 32` nanoseconds, 0 before `base`. The
/// same for all kernels and for as long as the machine is on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct UserClock {
    /// The time-stamp counter at time 0.
    pub base: u64,
    /// Nanoseconds of a tick, times 2^32.
    pub scale: u64,
    /// CLOCK_REALTIME at time 0.
    pub wall: u64,
}

/// There is no free frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OutOfFrames;

/// A device that cannot be used, and why.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DeviceError {
    /// The machine has none.
    Absent,
    /// It did not confirm its reset in time; frames it may still write must not be reused.
    ResetUnconfirmed,
    /// Its queue is full; try again after a completion.
    Busy,
    /// The transfer failed.
    Io,
}

/// Where page tables come from.
pub trait FrameSource {
    /// A free frame, of any content.
    fn take(&mut self) -> Option<Frame>;
    /// Gives a frame back.
    fn give(&mut self, frame: Frame);
}

/// One core with its private memory, its devices and its view of the shared area.
pub trait Machine {
    /// The page tables of one address space.
    type Space;

    /// Who we are.
    fn identity(&self) -> &Identity;
    /// The machine's monotonic clock.
    fn now(&self) -> Nanos;
    /// CLOCK_REALTIME, in nanoseconds since 1970.
    fn wall_clock(&self) -> u64;
    /// How programs can tell the time by themselves; `None` where their counter is not the same on all cores at all times.
    fn user_clock(&self) -> Option<UserClock> {
        None
    }
    /// Bytes of the kernel's heap: those in use, and all. A machine whose heap has no end says so.
    fn heap(&self) -> (usize, usize) {
        (0, usize::MAX)
    }
    /// What keeps the kernels of the machine apart.
    fn partition(&self) -> Partition {
        Partition::None
    }
    /// All is well: the machine's watchdog, if it has one, waits anew before it resets the machine.
    fn kick_watchdog(&mut self) {}
    /// Compares the code that all kernels share with what it was, if the machine has kept that, and sets it right.
    fn scrub(&mut self, _scrub: Scrub) {}
    /// 64 random bits.
    fn random(&mut self) -> u64;

    /// The shared memory area. Storing where this kernel is no writer is a fault and kills it.
    fn shared(&self) -> &'static [AtomicU64];
    /// How the shared area is laid out.
    fn layout(&self) -> Layout {
        Layout::new(self.identity().kernels)
    }
    /// Interrupts a peer's core ([`Events::IKC`] there).
    fn notify(&self, peer: KernelId);

    /// Copies out of a frame of the pool or of memory mapped by [`Machine::map_dead`] or [`Machine::map_lent`].
    /// `offset + into.len()` is at most a page.
    fn read_frame(&self, frame: Frame, offset: usize, into: &mut [u8]);
    /// Copies into a frame of the pool.
    fn write_frame(&mut self, frame: Frame, offset: usize, from: &[u8]);
    /// Copies a whole frame into one of the pool.
    fn copy_frame(&mut self, from: Frame, to: Frame);
    /// Copies `len` bytes from a place of a readable frame to a place of a frame of the pool. On both sides they lie within
    /// the frame.
    fn copy_part(&mut self, from: (Frame, usize), to: (Frame, usize), len: usize) {
        let mut buffer = [0; PAGE];
        if let Some(bytes) = buffer.get_mut(..len) {
            self.read_frame(from.0, from.1, bytes);
            self.write_frame(to.0, to.1, bytes);
        }
    }
    /// Fills a frame of the pool with zeros.
    fn zero_frame(&mut self, frame: Frame);
    /// Reads the 64-bit word at place `index` (below 512) of a readable frame.
    fn read_word(&self, frame: Frame, index: usize) -> u64;
    /// Reads the words from place `index` on, which all lie in the frame.
    #[inline]
    fn read_words<const N: usize>(&self, frame: Frame, index: usize) -> [u64; N] {
        core::array::from_fn(|at| self.read_word(frame, index.wrapping_add(at)))
    }
    /// Writes the 64-bit word at place `index` of a frame of the pool, in one store.
    fn write_word(&mut self, frame: Frame, index: usize, value: u64);
    /// Whether `frame` may be read now: what an image says must pass here first.
    fn readable(&self, frame: Frame) -> bool;

    /// An empty address space.
    fn new_space(&mut self, frames: &mut dyn FrameSource) -> Result<Self::Space, OutOfFrames>;
    /// No thread runs in this address space any more: what changes in it from here on needs no care.
    fn retire_space(&mut self, _: &mut Self::Space) {}
    /// Ends an address space and gives its page-table frames back. Frames mapped in it are not touched.
    fn drop_space(&mut self, space: Self::Space, frames: &mut dyn FrameSource);
    /// Maps a page, in place of whatever was mapped there.
    fn map(
        &mut self,
        space: &mut Self::Space,
        page: UserPage,
        frame: Frame,
        rights: Rights,
        frames: &mut dyn FrameSource,
    ) -> Result<(), OutOfFrames>;
    /// Maps the pages from `first` on for which there is a frame. They lie in one aligned run of 64, so they share a page
    /// table, and none is mapped if there is no frame for that.
    fn map_run(
        &mut self,
        space: &mut Self::Space,
        first: UserPage,
        run: &[Option<Frame>],
        rights: Rights,
        frames: &mut dyn FrameSource,
    ) -> Result<(), OutOfFrames> {
        for (at, frame) in run.iter().enumerate() {
            if let Some(frame) = frame {
                self.map(space, UserPage(first.0 + at as u64), *frame, rights, frames)?;
            }
        }
        Ok(())
    }
    /// Unmaps a page; returns what was there.
    fn unmap(&mut self, space: &mut Self::Space, page: UserPage) -> Option<Mapping>;
    /// What is mapped at a page.
    fn lookup(&self, space: &Self::Space, page: UserPage) -> Option<Mapping>;
    /// Calls `visit` for every mapped page in `first..end`, in order, skipping what is empty in large steps. The mapping
    /// is changed to what `visit` returns: other rights, or `None` to unmap it.
    fn update(
        &mut self,
        space: &mut Self::Space,
        first: UserPage,
        end: UserPage,
        visit: &mut dyn FnMut(UserPage, Mapping) -> Option<Rights>,
    );
    /// Takes the right to store from pages of one aligned run of 512, which starts at `first`: a bit of `pages` for each.
    /// Calls `visit` for those that are mapped, in order.
    fn protect_run(
        &mut self,
        space: &mut Self::Space,
        first: UserPage,
        pages: &[u64; 8],
        mut visit: impl FnMut(UserPage, Frame),
    ) {
        for at in (0..512).filter(|at| pages.get(at / 64).is_some_and(|word| word >> (at % 64) & 1 != 0)) {
            let page = UserPage(first.0 + at as u64);
            self.update(space, page, UserPage(page.0 + 1), &mut |page, mapping| {
                visit(page, mapping.frame);
                Some(mapping.rights - Rights::WRITE)
            });
        }
    }

    /// Runs a thread in user mode until it traps, an interrupt comes, or the clock reaches `until`.
    fn run(&mut self, space: &Self::Space, regs: &mut Regs, fpu: &mut Fpu, until: Nanos) -> Trap;
    /// Writes back what stays loaded between two runs of a thread, if it is loaded: its vector registers, and the bases of
    /// `regs`, which the thread may change by itself.
    fn save_live(&mut self, regs: &mut Regs, fpu: &mut Fpu);
    /// Forgets what is loaded; the next run reloads it from memory (after that was changed).
    fn forget_live(&mut self);
    /// Waits for an interrupt or until the clock reaches `until`.
    fn idle(&mut self, until: Nanos);
    /// What has happened since the last call.
    fn take_events(&mut self) -> Events;

    /// Takes a device: resets it, waits for the reset to be confirmed, sets it up, aims its interrupts here. The console's line so
    /// far is marked as [cut](shimos_abi::console::CUT).
    fn claim(&mut self, device: Device) -> Result<(), DeviceError>;
    /// Gives up, for this life, what a device of an earlier life may write still: the drivers' memory, so that no device can be
    /// taken here, and the frames of the pool that it names, for each of which `visit` is called.
    fn quarantine(&mut self, _visit: &mut dyn FnMut(Frame)) {}
    /// Touches a device no more: another kernel is about to take it. Reads that were started have finished.
    fn release(&mut self, device: Device);
    /// Writes to the console; returns how many bytes it took. Owner only.
    fn console_write(&mut self, bytes: &[u8]) -> usize;
    /// Reads what was typed at the console. Owner only.
    fn console_read(&mut self, into: &mut [u8]) -> usize;
    /// Size of the disk in 4 KiB blocks. Owner only.
    fn block_count(&self) -> u64;
    /// Starts to read 4 KiB block `block` into `frame` of the pool. Owner only.
    fn block_read(&mut self, tag: u64, block: u64, frame: Frame) -> Result<(), DeviceError>;
    /// A finished request. Owner only.
    fn block_done(&mut self) -> Option<(u64, Result<(), DeviceError>)>;
    /// Sends an Ethernet frame. Owner only.
    fn net_send(&mut self, packet: &[u8]) -> Result<(), DeviceError>;
    /// Takes a received Ethernet frame, if there is one; returns its length. Owner only.
    fn net_receive(&mut self, into: &mut [u8]) -> Option<usize>;

    /// Sends a non-maskable interrupt: a probe, or the order to park if the mailbox's fence word says so.
    fn send_nmi(&mut self, peer: KernelId);
    /// Sends INIT and then SIPI into the park stub. Never to the boot core (multikernel trap 1): there it does nothing and
    /// returns false.
    fn send_init(&mut self, peer: KernelId) -> bool;
    /// The proof that a life has ended, once its core has acknowledged that it is parked.
    fn confirm_parked(&self, life: Life) -> Option<Fenced>;
    /// Makes a dead kernel's private memory readable here.
    fn map_dead(&mut self, dead: &Fenced);
    /// Makes another kernel's private memory readable because it holds pages lent to a program that lives here now.
    fn map_lent(&mut self, owner: KernelId);
    /// Makes it unreadable again.
    fn unmap_peer(&mut self, peer: KernelId);
    /// Re-initialises the dead kernel's core and boots its next incarnation there. Frames of its pool are left as they
    /// are: the new incarnation keeps those that its images still hold.
    fn restart(&mut self, dead: Fenced) -> Life;
    /// Parks this core, for good. The caller has said all it had to say.
    fn park(&mut self) -> !;
    /// Dies in the given way, or is injured and goes on. What hits at random goes by the seed.
    fn inject(&mut self, fault: Fault, seed: u64);
    /// Switches the machine off.
    fn power_off(&mut self) -> !;
}
