//! Names: kernels, incarnations, programs, epochs.
use core::fmt;
use minicbor::{Decode, Encode};

/// The most kernels one machine may have.
pub const MAX_KERNELS: usize = 64;
/// The most programs one machine may have; a program's id is below this.
pub const MAX_PROGRAMS: usize = 256;
/// Process ids that belong to one program: program `p` owns `p * PIDS_PER_PROGRAM ..`.
///
/// Ids are unique over the whole machine and stay with the program wherever it runs (D13), and the id alone tells which
/// program it is. The largest is below Linux's `pid_max` of 2^22.
pub const PIDS_PER_PROGRAM: u32 = 1 << 14;

macro_rules! name {
    ($(#[$doc:meta])* $name:ident($inner:ty), $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Encode, Decode, Default)]
        #[cbor(transparent)]
        pub struct $name(#[n(0)] pub $inner);
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "{}"), self.0)
            }
        }
    };
}

name!(
    /// One kernel: the instance that runs on one core, whichever incarnation. Not a core number and not an APIC id.
    KernelId(u16), "k"
);
name!(
    /// Counts the boots of one kernel; a new one at every boot, so that what an earlier one said can be told apart.
    Incarnation(u32), "i"
);
name!(
    /// The local APIC id of a core: what interrupts are addressed to. Ids need not be contiguous.
    ApicId(u32), "apic"
);
name!(
    /// A program: a process tree with its own address on the network, its own writable files and its own process ids.
    /// The unit of protection, of takeover and of moves.
    ProgramId(u16), "p"
);
name!(
    /// A process or thread id as programs see it.
    Pid(u32), ""
);
name!(
    /// Counts the checkpoints of one program, from 1.
    Epoch(u32), "e"
);

impl KernelId {
    /// The kernel's place in tables that have one entry a kernel.
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

impl ProgramId {
    /// The first program of a machine, `shimosd`: through it the machine is asked.
    pub const DAEMON: ProgramId = ProgramId(1);

    /// The program that owns a process id.
    pub const fn of(pid: Pid) -> ProgramId {
        ProgramId((pid.0 / PIDS_PER_PROGRAM) as u16)
    }
    /// The first process id of this program: that of its init process.
    pub const fn first_pid(self) -> Pid {
        Pid(self.0 as u32 * PIDS_PER_PROGRAM + 1)
    }
}

/// One life of one kernel.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Encode, Decode)]
pub struct Life {
    /// Which kernel.
    #[n(0)]
    pub kernel: KernelId,
    /// Which of its boots.
    #[n(1)]
    pub incarnation: Incarnation,
}

impl fmt::Display for Life {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.kernel, self.incarnation.0)
    }
}
