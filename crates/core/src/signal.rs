//! Signals: sets, dispositions, what is pending.
use alloc::vec::Vec;
use minicbor::{Decode, Encode};
use shimos_abi::ids::Pid;

/// A signal number, 1 to 64.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Encode, Decode)]
#[cbor(transparent)]
pub struct Signal(#[n(0)] u8);

#[allow(missing_docs, reason = "the names are those of signal(7)")]
impl Signal {
    pub const HUP: Signal = Signal(1);
    pub const INT: Signal = Signal(2);
    pub const QUIT: Signal = Signal(3);
    pub const ILL: Signal = Signal(4);
    pub const TRAP: Signal = Signal(5);
    pub const BUS: Signal = Signal(7);
    pub const ABRT: Signal = Signal(6);
    pub const SYS: Signal = Signal(31);
    pub const FPE: Signal = Signal(8);
    pub const KILL: Signal = Signal(9);
    pub const SEGV: Signal = Signal(11);
    pub const PIPE: Signal = Signal(13);
    pub const ALRM: Signal = Signal(14);
    pub const CHLD: Signal = Signal(17);
    pub const XCPU: Signal = Signal(24);
    pub const VTALRM: Signal = Signal(26);
    pub const PROF: Signal = Signal(27);
    pub const CONT: Signal = Signal(18);
    pub const STOP: Signal = Signal(19);
    pub const TSTP: Signal = Signal(20);
    pub const TTIN: Signal = Signal(21);
    pub const TTOU: Signal = Signal(22);
    pub const URG: Signal = Signal(23);
    pub const WINCH: Signal = Signal(28);
    pub const IO: Signal = Signal(29);
    /// The first real-time signal.
    pub const RT_MIN: u8 = 32;

    /// The signal of that number, if there is one.
    pub const fn new(number: u64) -> Option<Signal> {
        if number >= 1 && number <= 64 { Some(Signal(number as u8)) } else { None }
    }
    /// Its number.
    pub const fn number(self) -> u8 {
        self.0
    }
    /// Its place in tables of 64; always below 64, also for a decoded number out of range.
    pub const fn index(self) -> usize {
        (self.0.wrapping_sub(1) & 63) as usize
    }
    /// What happens where the program says nothing (signal(7)).
    pub const fn default_effect(self) -> Effect {
        match self {
            Signal::CHLD | Signal::URG | Signal::WINCH => Effect::Ignore,
            Signal::CONT => Effect::Continue,
            Signal::STOP | Signal::TSTP | Signal::TTIN | Signal::TTOU => Effect::Stop,
            Signal(3 | 4 | 5 | 6 | 7 | 8 | 11 | 24 | 25 | 31) => Effect::Core,
            _ => Effect::Terminate,
        }
    }
}

/// The default effect of a signal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Effect {
    /// Nothing.
    Ignore,
    /// A stopped process goes on.
    Continue,
    /// The process stops.
    Stop,
    /// The process ends.
    Terminate,
    /// The process ends, and would leave a core file.
    Core,
}

/// A set of signals, in the kernel's form: bit n-1 is signal n.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Encode, Decode)]
#[cbor(transparent)]
pub struct SigSet(#[n(0)] pub u64);

impl SigSet {
    /// The two that cannot be blocked.
    const UNBLOCKABLE: u64 = 1 << 8 | 1 << 18;

    /// Whether it holds `signal`.
    pub const fn has(self, signal: Signal) -> bool {
        self.0 >> signal.index() & 1 == 1
    }
    /// With `signal`.
    pub const fn with(self, signal: Signal) -> SigSet {
        SigSet(self.0 | 1 << signal.index())
    }
    /// As a mask: without what cannot be blocked.
    pub const fn as_mask(self) -> SigSet {
        SigSet(self.0 & !Self::UNBLOCKABLE)
    }
}

/// What a program asked for with sigaction(2); the fields are those of the kernel's structure.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Encode, Decode)]
pub struct Action {
    /// Handler address, or 0 (default) or 1 (ignore).
    #[n(0)]
    pub handler: u64,
    /// `SA_` flags.
    #[n(1)]
    pub flags: u64,
    /// Return trampoline.
    #[n(2)]
    pub restorer: u64,
    /// Blocked while the handler runs.
    #[n(3)]
    pub mask: SigSet,
}

impl Action {
    /// `SIG_IGN`.
    pub const IGNORE: u64 = 1;
}

/// Where a signal came from: the part of siginfo_t that programs look at.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Encode, Decode)]
pub struct Info {
    /// `si_code`.
    #[n(0)]
    pub code: i32,
    /// Sender.
    #[n(1)]
    pub pid: u32,
    /// Sender's user.
    #[n(2)]
    pub uid: u32,
    /// `si_status`, or the value sent along.
    #[n(3)]
    pub value: u64,
    /// Faulting address.
    #[n(4)]
    pub addr: u64,
}

impl Info {
    /// `SI_USER`: sent by kill(2).
    pub fn from_user(pid: Pid, uid: u32) -> Info {
        Info { code: 0, pid: pid.0, uid, ..Info::default() }
    }
    /// `SI_KERNEL`.
    pub fn from_kernel() -> Info {
        Info { code: 0x80, ..Info::default() }
    }
}

/// A queue of signals has no room for another one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NoRoom;

/// Signals that wait to be delivered. Ordinary ones are pending once, real-time ones queue up.
#[derive(Clone, PartialEq, Eq, Debug, Default, Encode, Decode)]
pub struct Pending {
    #[n(0)]
    queue: Vec<(Signal, Info)>,
}

impl Pending {
    /// Adds a signal; `room` is how many may still queue up (`RLIMIT_SIGPENDING`). Real-time signals that find no room are
    /// refused, unless they are sent by kill(2) or the kernel: those lose their details, and are pending once.
    pub fn push(&mut self, signal: Signal, info: Info, room: usize) -> Result<(), NoRoom> {
        let known = self.queue.iter().any(|(s, _)| *s == signal);
        let queues = signal.number() >= Signal::RT_MIN;
        let told = info.code == 0 || info.code == Info::from_kernel().code;
        match (queues, known) {
            (false, true) => {}
            (true, _) if room > 0 => self.queue.push((signal, info)),
            (true, _) if !told => return Err(NoRoom),
            (true, true) => {}
            (true, false) => self.queue.push((signal, Info::default())),
            (false, false) => self.queue.push((signal, info)),
        }
        Ok(())
    }
    /// How many there are.
    pub fn len(&self) -> usize {
        self.queue.len()
    }
    /// Whether none is pending.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }
    /// Whether a signal is pending with such an info.
    pub fn has(&self, signal: Signal, such: impl Fn(&Info) -> bool) -> bool {
        self.queue.iter().any(|(pending, info)| *pending == signal && such(info))
    }
    /// The pending set.
    #[inline]
    pub fn set(&self) -> SigSet {
        self.queue.iter().fold(SigSet::default(), |set, (signal, _)| set.with(*signal))
    }
    /// Takes the first, lowest-numbered one that `allowed` holds.
    pub fn take(&mut self, allowed: SigSet) -> Option<(Signal, Info)> {
        let faults = [Signal::ILL, Signal::TRAP, Signal::BUS, Signal::FPE, Signal::SEGV];
        // What the thread's own instruction has caused goes before all others.
        let order = |(signal, info): &(Signal, Info)| (!faults.contains(signal) || info.code <= 0, *signal);
        let first = self.queue.iter().filter(|(signal, _)| allowed.has(*signal)).map(order).min()?;
        let at = self.queue.iter().position(|pending| order(pending) == first)?;
        Some(self.queue.remove(at))
    }
    /// Forgets a signal.
    pub fn discard(&mut self, signal: Signal) {
        self.queue.retain(|(pending, _)| *pending != signal);
    }
}
