//! The shared memory area: where everything in it lies.
//!
//! The area is an array of 64-bit words, and every access to it is an atomic access to one word, so that a peer that dies
//! or scribbles in the middle of anything leaves nothing undefined. Offsets count words. Single writers (D7): a kernel
//! writes its own *outgoing part* and, by compare-and-swap alone, the *commons*; everything else it only reads, and its
//! page tables see to that.
//!
//! ```text
//! master table | commons | outgoing part of k0 | outgoing part of k1 | ...
//! ```
use crate::ids::{KernelId, MAX_KERNELS, MAX_PROGRAMS};

/// Words in a page.
pub const PAGE_WORDS: usize = 512;

/// First word of the master table: says that the area is laid out.
pub const MASTER_MAGIC: u64 = u64::from_le_bytes(*b"SHIMOS\x01\0");
/// Version of everything in this file.
pub const LAYOUT_VERSION: u64 = 2;

/// The master table: written once at boot, then read-only for all. Read through the machine layer; kept here so that the
/// numbers have one home.
pub mod master {
    /// Words of the whole table.
    pub const WORDS: usize = super::PAGE_WORDS * 2;
    /// [`super::MASTER_MAGIC`].
    pub const MAGIC: usize = 0;
    /// [`super::LAYOUT_VERSION`].
    pub const VERSION: usize = 1;
    /// Number of kernels.
    pub const KERNELS: usize = 2;
    /// Clock: TSC ticks a second.
    pub const TSC_HZ: usize = 3;
    /// Clock: local APIC timer ticks a second, at divider 1.
    pub const LAPIC_HZ: usize = 4;
    /// TSC value at the machine's time 0.
    pub const TSC_BASE: usize = 5;
    /// CLOCK_REALTIME in nanoseconds at the machine's time 0.
    pub const WALL_BASE: usize = 6;
    /// CRC-32 of the words before this one and behind it: a later start of the machine believes the table only with it.
    pub const SEAL: usize = 7;
    /// How many starts of the machine this memory has seen, this one among them: 1 is a cold start.
    pub const STARTS: usize = 8;
    /// The machine's time at this start; 0 at a cold one.
    pub const STARTED: usize = 9;
    /// Programs with an image that this start has found.
    pub const FOUND: usize = 10;
    /// Programs that this start could not keep: they were not protected, or their home word made no sense.
    pub const GONE: usize = 11;
    /// First of the per-kernel entries.
    pub const ENTRIES: usize = 64;
    /// Words of a per-kernel entry.
    pub const ENTRY_WORDS: usize = 8;
    /// In an entry: APIC id.
    pub const ENTRY_APIC: usize = 0;
    /// In an entry: first private frame.
    pub const ENTRY_PRIVATE: usize = 1;
    /// In an entry: number of private frames.
    pub const ENTRY_PRIVATE_FRAMES: usize = 2;
    /// In an entry: first frame of the pool.
    pub const ENTRY_POOL: usize = 3;
    /// In an entry: number of frames of the pool.
    pub const ENTRY_POOL_FRAMES: usize = 4;
    /// In an entry: the incarnation that this start of the machine begins with. Lives before it ended at a reset.
    pub const ENTRY_FIRST: usize = 5;
    /// In an entry: physical address of the kernel's page tables. For whoever looks from outside.
    pub const ENTRY_TABLES: usize = 6;
}

/// The commons: words that any kernel may change, by compare-and-swap.
pub mod commons {
    use super::{MAX_KERNELS, MAX_PROGRAMS, PAGE_WORDS};
    /// Where the commons start.
    pub const START: usize = super::master::WORDS;
    /// The election word: term in the high half, the active monitor's kernel id in the low half.
    pub const MONITOR: usize = START;
    /// Timer and monitor daemon interval in nanoseconds (set at run time by the administrator).
    pub const HEARTBEAT: usize = START + 1;
    /// Who writes a line to the serial port directly (kernel id plus one): a courtesy that keeps lines whole. Whoever waits for
    /// it too long takes it.
    pub const SERIAL: usize = START + 2;
    /// Kernels that programs are kept off, one bit each.
    pub const DRAINED: usize = START + 3;
    /// Kernels that are to have a fresh life as soon as nothing lives there, one bit each.
    pub const REBOOTING: usize = START + 4;
    /// Starts of the machine in a row without one that lasted; an active monitor that has run for a while sets it to 0.
    pub const TRIES: usize = START + 5;
    /// Kernels whose devices may write their memory still, one bit each: a reset was not confirmed, and no longer waited for.
    pub const QUARANTINED: usize = START + 6;
    /// Owner of each device: one word a device, see [`crate::control::Device`]; owner kernel id in the low half, owner's
    /// incarnation in the high half.
    pub const DEVICE_OWNERS: usize = START + 8;
    /// Who was the last to set about taking each device: one word a device, in the form of the owner's. Taking a device
    /// resets it, so only one may be at it; the owner word follows when the reset is confirmed.
    pub const DEVICE_TAKERS: usize = START + 12;
    /// One word a program: which life of which kernel holds the one living copy, see `Home` in the monitor crate.
    pub const HOMES: usize = START + 16;
    /// One mailbox a kernel: how a parked core is seen and restarted.
    pub const MAILBOXES: usize = HOMES + MAX_PROGRAMS;
    /// Words of a mailbox, a cache line.
    pub const MAILBOX_WORDS: usize = 8;
    /// In a mailbox: incarnation (plus one) that is proven parked; 0 while it runs. Written by the park stub.
    pub const MAILBOX_PARKED: usize = 0;
    /// In a mailbox: incarnation (plus one) the parked core shall boot next; 0 for stay parked.
    pub const MAILBOX_COMMAND: usize = 1;
    /// In a mailbox: incarnation (plus one) that must park: set before the NMI, so that a stray NMI parks nobody.
    pub const MAILBOX_FENCE: usize = 2;
    /// In a mailbox: count of NMI probes that were answered without parking.
    pub const MAILBOX_PROBED: usize = 3;
    /// In a mailbox: instruction pointer the last answered probe interrupted.
    pub const MAILBOX_PROBE_RIP: usize = 4;
    /// In a mailbox: recovery claim: term that works on the recovery of this kernel (high half), incarnation (low half).
    pub const MAILBOX_CLAIM: usize = 5;
    /// In a mailbox: incarnation (plus one) that was started last on the core; the machine layer's own note.
    pub const MAILBOX_RUNNING: usize = 6;
    /// Words of the commons, whole pages.
    pub const WORDS: usize = (16 + MAX_PROGRAMS + MAX_KERNELS * MAILBOX_WORDS).next_multiple_of(PAGE_WORDS);
}

/// Kinds of packet queues (paper 2.4).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Queue {
    /// Daemon messages: restart commands, control requests.
    Daemon = 0,
    /// Console bytes.
    Console = 1,
    /// Block requests and their answers.
    Block = 2,
    /// Ethernet frames.
    Network = 3,
}

impl Queue {
    /// All kinds, in the order of their numbers.
    pub const ALL: [Queue; 4] = [Queue::Daemon, Queue::Console, Queue::Block, Queue::Network];
}

/// The outgoing part of one kernel: offsets inside it. Only that kernel writes here.
pub mod outgoing {
    use super::{KernelId, MAX_KERNELS, PAGE_WORDS, Queue};
    /// Incarnation (plus one) that owns the part; 0 while there is none.
    pub const INCARNATION: usize = 0;
    /// Timer daemon's latest timestamp: a count that changes at every turn of the event loop that is due (D9).
    pub const STAMP: usize = 1;
    /// The machine's time at that stamp; for people, never for judging.
    pub const STAMP_TIME: usize = 2;
    /// 1 while the kernel looks at its queues by itself and needs no interrupt.
    pub const POLLING: usize = 3;
    /// Runnable threads.
    pub const LOAD: usize = 4;
    /// Free frames.
    pub const FREE_FRAMES: usize = 5;
    /// All frames of the pool.
    pub const POOL_FRAMES: usize = 6;
    /// Life cycle of this kernel as itself sees it: 0 down, 1 booting, 2 running, 3 panicked (death record is valid).
    pub const STATE: usize = 7;
    /// A word that measurements use.
    pub const BENCH: usize = 8;
    /// The program that runs, or that has ordered this kernel's death; 0 for none.
    pub const SUSPECT: usize = 9;
    /// Words of shared code that the shell of this core has set right since a kernel was last told.
    pub const MENDED: usize = 10;
    /// Address of the first of them.
    pub const MENDED_AT: usize = 11;
    /// Acknowledged timestamps: as monitor, the last stamp seen of each kernel.
    pub const ACKS: usize = 64;
    /// Consumed counts of incoming rings: word `peer * 4 + queue`.
    pub const TAILS: usize = ACKS + MAX_KERNELS;
    /// Death record, one page.
    pub const DEATH: usize = PAGE_WORDS;
    /// Words of the death record.
    pub const DEATH_WORDS: usize = PAGE_WORDS;
    /// Status of this kernel and its programs, CBOR behind a sequence word and a length word.
    pub const STATUS: usize = DEATH + DEATH_WORDS;
    /// Words of the status.
    pub const STATUS_WORDS: usize = 8 * PAGE_WORDS;
    /// Log ring: a count of bytes ever written, then the bytes.
    pub const LOG: usize = STATUS + STATUS_WORDS;
    /// Words of the log ring.
    pub const LOG_WORDS: usize = 4 * PAGE_WORDS;
    /// Console: for each program two words, which output stream it has, and how many bytes of it were printed by this kernel
    /// or by owners before it.
    pub const PRINTED: usize = LOG + LOG_WORDS;
    /// Words of these counts.
    pub const PRINTED_WORDS: usize = PAGE_WORDS;
    /// Rings: ring of (peer, queue) at `RINGS + (peer * 4 + queue) * RING_WORDS`. The heads of all four queues to one peer lie
    /// in the first line of the first of them, so that a peer with nothing to read looks at one line.
    pub const RINGS: usize = PRINTED + PRINTED_WORDS;
    /// Descriptors in a ring.
    pub const RING_SLOTS: usize = 64;
    /// Words of a ring: a cache line for head words, then the descriptors.
    pub const RING_WORDS: usize = 8 + RING_SLOTS;
    /// Words of a packet (2 KiB).
    pub const PACKET_WORDS: usize = 256;
    /// Packets in the pool.
    pub const PACKETS: usize = 256;

    /// Offset of the head word of the queue to `peer`.
    pub const fn head(peer: KernelId, queue: Queue) -> usize {
        RINGS + peer.index() * Queue::ALL.len() * RING_WORDS + queue as usize
    }
    /// Offset of the descriptors of the queue to `peer`.
    pub const fn slots(peer: KernelId, queue: Queue) -> usize {
        RINGS + (peer.index() * Queue::ALL.len() + queue as usize) * RING_WORDS + 8
    }
    /// Offset of the consumed count of the queue from `peer`.
    pub const fn tail(peer: KernelId, queue: Queue) -> usize {
        TAILS + peer.index() * Queue::ALL.len() + queue as usize
    }
    /// Offset of the packet pool, for a machine of `kernels`.
    pub const fn packets(kernels: usize) -> usize {
        (RINGS + kernels * Queue::ALL.len() * RING_WORDS).next_multiple_of(PAGE_WORDS)
    }
    /// Words of the whole part.
    pub const fn words(kernels: usize) -> usize {
        packets(kernels) + PACKETS * PACKET_WORDS
    }
}

/// Where the parts lie on a machine of a given number of kernels.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Layout {
    kernels: usize,
}

impl Layout {
    /// The layout for `kernels` kernels (1 to [`MAX_KERNELS`]; more counts as that many).
    pub const fn new(kernels: usize) -> Layout {
        Layout { kernels: if kernels > MAX_KERNELS { MAX_KERNELS } else { kernels } }
    }
    /// How many kernels it is for.
    pub const fn kernels(self) -> usize {
        self.kernels
    }
    /// Words of the whole area.
    pub const fn words(self) -> usize {
        self.outgoing(KernelId(self.kernels as u16))
    }
    /// Start of a kernel's outgoing part. A multiple of a page.
    pub const fn outgoing(self, kernel: KernelId) -> usize {
        commons::START + commons::WORDS + kernel.index() * outgoing::words(self.kernels)
    }
    /// Start of a program's home word.
    pub const fn home(self, program: usize) -> usize {
        commons::HOMES + program % MAX_PROGRAMS
    }
    /// Start of a kernel's mailbox.
    pub const fn mailbox(self, kernel: KernelId) -> usize {
        commons::MAILBOXES + kernel.index() * commons::MAILBOX_WORDS
    }
}

/// The death record (multikernel trap 25): what a dying kernel says of itself, at [`outgoing::DEATH`].
pub mod death {
    /// First word of a valid record; written last.
    pub const MAGIC: u64 = u64::from_le_bytes(*b"EPITAPH\x01");
    /// Word: the magic.
    pub const VALID: usize = 0;
    /// Word: incarnation that died.
    pub const INCARNATION: usize = 1;
    /// Word: cause, see `DeathCause` in the control module.
    pub const CAUSE: usize = 2;
    /// Word: machine's time of death.
    pub const TIME: usize = 3;
    /// Word: exception vector, for traps.
    pub const VECTOR: usize = 4;
    /// Word: exception error code.
    pub const CODE: usize = 5;
    /// Word: instruction pointer.
    pub const RIP: usize = 6;
    /// Word: stack pointer.
    pub const RSP: usize = 7;
    /// Word: faulting address (CR2).
    pub const ADDRESS: usize = 8;
    /// Word: RFLAGS.
    pub const FLAGS: usize = 9;
    /// Words: the general registers, rax rbx rcx rdx rsi rdi rbp r8 ... r15.
    pub const REGISTERS: usize = 10;
    /// Words: return addresses, innermost first, 0 ends.
    pub const TRACE: usize = 32;
    /// How many return addresses at most.
    pub const TRACE_WORDS: usize = 32;
    /// Word: bytes of the message, then the message.
    pub const MESSAGE_LEN: usize = 64;
    /// The message's bytes.
    pub const MESSAGE: usize = 65;
    /// How many bytes of message at most.
    pub const MESSAGE_BYTES: usize = 1024;
}
