//! What the kernel offers to all its programs: memory, the block cache, packets to other kernels, the log.
use crate::{
    accounting::Running,
    blocks::{BlockCache, BlockReader},
    context::Context,
    device::{console::ConsoleOwner, disk::DiskOwner},
    requests::Requests,
    resident::Resident,
    sampling::Sampling,
    signal::Signal,
};
use alloc::{
    collections::{BTreeSet, VecDeque},
    format,
    vec::Vec,
};
use shimos_abi::{
    control::Device,
    ids::{KernelId, Pid, ProgramId},
    shared::Queue,
};
use shimos_hal::{Machine, Scrub};
use shimos_ikc::{Endpoint, Notify, SendError};
use shimos_memory::Frames;
use shimos_vfs::Image;

/// The services.
pub struct Services<M: Machine> {
    /// The machine.
    pub machine: M,
    /// The frames of the pool.
    pub frames: Frames,
    /// The block cache.
    pub blocks: BlockCache,
    /// The machine's own root image, once its head was read.
    pub image: Option<Image>,
    /// The queues to the other kernels.
    pub ikc: Endpoint,
    /// What programs here have asked by /dev/shimos.
    pub requests: Requests,
    /// Ethernet frames for programs that live here.
    pub inbound: VecDeque<Vec<u8>>,
    /// The console, if this kernel drives it.
    pub console: Option<ConsoleOwner>,
    /// The disk, if this kernel drives it.
    pub disk: Option<DiskOwner>,
    /// The network card is driven here.
    pub network: Option<crate::device::network::NetworkOwner>,
    /// Console packets that found the queue full.
    pub unsent_console: VecDeque<Vec<u8>>,
    /// The image that tells programs the time, if the machine's clock allows it.
    pub vdso: Option<Vec<u8>>,
    /// The thread whose vector registers are loaded; its copy in memory is out of date.
    pub loaded: Option<Pid>,
    /// When time in the kernel is measured.
    pub sampling: Sampling,
    /// The thread whose turn it is.
    pub running: Option<Running>,
    /// A program that found no memory, or the heap full: the event loop does something about it.
    pub starved: Option<ProgramId>,
    /// Changed pages that one step of a checkpoint deals with.
    pub save_step: usize,
    unknown_calls: BTreeSet<u64>,
    random: u64,
}

impl<M: Machine> Services<M> {
    /// The services of a kernel that has just started.
    pub fn new(mut machine: M, frames: Frames, ikc: Endpoint) -> Services<M> {
        let random = machine.random();
        let vdso = machine.user_clock().map(crate::vdso::image);
        let life = machine.identity().life;
        Services {
            machine,
            frames,
            blocks: BlockCache::default(),
            image: None,
            ikc,
            requests: Requests::new(life),
            inbound: VecDeque::new(),
            console: None,
            disk: None,
            network: None,
            unsent_console: VecDeque::new(),
            vdso,
            loaded: None,
            sampling: Sampling::default(),
            running: None,
            starved: None,
            save_step: crate::saving::STEP,
            unknown_calls: BTreeSet::new(),
            random,
        }
    }

    /// Forgets the loaded vector registers if they are this thread's: it is no more, or has others now.
    pub fn forget_registers(&mut self, tid: Pid) {
        if self.loaded == Some(tid) {
            self.loaded = None;
            self.machine.forget_live();
        }
    }

    /// Whether calls have left something for the event loop to do.
    pub fn has_work(&self) -> bool {
        self.requests.has_fresh()
            || self.starved.is_some()
            || !self.inbound.is_empty()
            || !self.unsent_console.is_empty()
            || self.blocks.has_wanted()
            || self.console.as_ref().is_some_and(ConsoleOwner::is_busy)
    }

    /// Sends a packet; rings the peer if it sleeps.
    pub fn send(&mut self, to: KernelId, queue: Queue, parts: &[&[u8]]) -> Result<(), SendError> {
        if self.ikc.send(to, queue, parts)? == Notify::Interrupt {
            self.machine.notify(to);
        }
        Ok(())
    }

    /// The kernel that drives a device.
    pub fn owner(&self, device: Device) -> Option<KernelId> {
        self.ikc.area().owner(device).map(|life| life.kernel)
    }

    /// Whether this kernel drives a device.
    pub fn owns(&self, device: Device) -> bool {
        self.ikc.area().owner(device) == Some(self.machine.identity().life)
    }

    /// Writes a line to the kernel's log and to the console.
    pub fn log(&mut self, text: &str) {
        let kernel = self.machine.identity().life.kernel;
        self.ikc.log(format!("{} {text}\n", self.machine.now()).as_bytes());
        let line = format!("[{kernel}] {text}\n");
        crate::device::console::kernel_line(self, &line);
    }

    /// Has the code that all kernels share looked at, and says what was wrong with it.
    pub fn scrub(&mut self, scrub: Scrub) {
        self.machine.scrub(scrub);
        if let Some((words, at)) = self.ikc.take_mended() {
            self.log(&format!("shared code was set right in {words} words, at {at:#x} first"));
        }
    }

    /// Notes a call that is not implemented, once for each number.
    pub fn log_unknown_call(&mut self, number: u64) {
        if self.unknown_calls.len() < 512 && self.unknown_calls.insert(number) {
            self.log(&format!("system call {number} is not implemented: ENOSYS"));
        }
    }

    /// Notes that a signal has ended a process, where that is a fault of the program.
    pub fn log_killed(&mut self, resident: &Resident<M>, pid: Pid, signal: Signal) {
        if [Signal::SEGV, Signal::BUS, Signal::ILL, Signal::FPE].contains(&signal)
            && let Some(process) = resident.program.processes.get(&pid)
        {
            let rip = resident.program.threads.get(&pid).map_or(0, |thread| thread.regs.rip);
            self.log(&format!("{}[{pid}] ended by signal {} at {rip:#x}", process.comm, signal.number()));
        }
    }

    /// A reader of disk blocks.
    pub fn block_reader(&mut self) -> BlockReader<'_, M> {
        BlockReader { cache: &mut self.blocks, machine: &self.machine }
    }

    /// Random bytes for programs.
    pub fn random_bytes(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(count + 8);
        while bytes.len() < count {
            // Each word mixes fresh machine randomness into the running state (splitmix64's finaliser).
            self.random = self.random.wrapping_add(self.machine.random() | 1);
            let mut z = self.random;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            bytes.extend_from_slice(&(z ^ (z >> 31)).to_le_bytes());
        }
        bytes.truncate(count);
        bytes
    }
}

impl<M: Machine> Context<'_, M> {
    /// Random bytes.
    pub fn random_bytes(&mut self, count: usize) -> Vec<u8> {
        self.services.random_bytes(count)
    }
}
