//! The words that any kernel may change, by compare-and-swap alone: election, devices' owners, programs' homes,
//! mailboxes.
//!
//! Each is one word that says everything, so a kernel that dies between two of them leaves nothing half done.
use crate::{Area, sync::Ordering};
use shimos_abi::{
    control::Device,
    ids::{Incarnation, KernelId, Life, MAX_PROGRAMS, ProgramId},
    shared::commons,
    time::Nanos,
};

/// Who is the active monitor.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct Election {
    /// Counts elections.
    pub term: u32,
    /// The kernel whose monitor daemon is active.
    pub monitor: KernelId,
}

impl Election {
    /// As a word.
    pub const fn to_word(self) -> u64 {
        (self.term as u64) << 32 | self.monitor.0 as u64
    }
    /// From a word.
    pub const fn from_word(word: u64) -> Election {
        Election { term: (word >> 32) as u32, monitor: KernelId(word as u16) }
    }
    /// The next election, won by `monitor`.
    pub const fn won_by(self, monitor: KernelId) -> Election {
        Election { term: self.term.wrapping_add(1), monitor }
    }
}

/// Who works on the recovery of a kernel.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Hash)]
pub struct Claim {
    /// The term whose monitor does.
    pub term: u32,
    /// Which incarnation of the kernel is dealt with.
    pub incarnation: Incarnation,
}

impl Claim {
    /// As a word.
    pub const fn to_word(self) -> u64 {
        (self.term as u64) << 32 | self.incarnation.0 as u64
    }
    /// From a word.
    pub const fn from_word(word: u64) -> Claim {
        Claim { term: (word >> 32) as u32, incarnation: Incarnation(word as u32) }
    }
}

/// Where the one living copy of a program is.
///
/// Encoded as `kernel:16 | incarnation:32 | image's kernel:8 | kind:8`, from the high bits down.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Hash)]
pub enum Home {
    /// There is no such program.
    #[default]
    Free,
    /// It lives here and has no committed image: it dies with this life.
    Held(Life),
    /// It lives here, and a committed image of it exists.
    Protected {
        /// Where it lives.
        life: Life,
        /// Whose private memory holds its last committed image. After a takeover this is the dead kernel (in whatever
        /// later incarnation) until the taker has committed a checkpoint of its own.
        image: KernelId,
        /// Takeovers since a checkpoint of it was committed; 15 at most.
        falls: u8,
    },
    /// It lives here still, stopped, and its last image here may be taken by one other kernel. Whichever changes this
    /// word first has it: the taker, or this life when it takes the offer back.
    Offered {
        /// Where it lives; the image is in the memory of the same kernel.
        life: Life,
        /// Who may take it.
        to: KernelId,
    },
}

impl Home {
    /// As a word.
    pub const fn to_word(self) -> u64 {
        const fn life_bits(life: Life) -> u64 {
            (life.kernel.0 as u64) << 48 | (life.incarnation.0 as u64) << 16
        }
        match self {
            Home::Free => 0,
            Home::Held(life) => life_bits(life) | 1,
            Home::Protected { life, image, falls } => {
                life_bits(life) | (image.0 as u64 & 0xff) << 8 | (falls as u64 & 0xf) << 4 | 2
            }
            Home::Offered { life, to } => life_bits(life) | (to.0 as u64 & 0xff) << 8 | 3,
        }
    }
    /// From a word; one that makes no sense is free of any life.
    pub const fn from_word(word: u64) -> Home {
        let life = Life { kernel: KernelId((word >> 48) as u16), incarnation: Incarnation((word >> 16) as u32) };
        let other = KernelId((word >> 8 & 0xff) as u16);
        match (word & 0xf, (word >> 4 & 0xf) as u8) {
            (1, 0) => Home::Held(life),
            (2, falls) => Home::Protected { life, image: other, falls },
            (3, 0) => Home::Offered { life, to: other },
            _ => Home::Free,
        }
    }
    /// Where the program lives.
    pub const fn life(self) -> Option<Life> {
        match self {
            Home::Free => None,
            Home::Held(life) | Home::Protected { life, .. } | Home::Offered { life, .. } => Some(life),
        }
    }
    /// The home of a program of which this life has committed a checkpoint.
    pub const fn committed(life: Life) -> Home {
        Home::Protected { life, image: life.kernel, falls: 0 }
    }
    /// The same home in another life: what a taker puts in place of a dead one.
    pub const fn moved_to(self, to: Life) -> Home {
        match self {
            Home::Free => Home::Free,
            Home::Held(_) => Home::Held(to),
            Home::Protected { image, falls, .. } => {
                Home::Protected { life: to, image, falls: if falls < 15 { falls + 1 } else { 15 } }
            }
            Home::Offered { life, .. } => Home::Protected { life: to, image: life.kernel, falls: 0 },
        }
    }
    /// Whose memory holds its last committed image, if there is one.
    pub const fn image(self) -> Option<KernelId> {
        match self {
            Home::Free | Home::Held(_) => None,
            Home::Protected { image, .. } => Some(image),
            Home::Offered { life, .. } => Some(life.kernel),
        }
    }
}

/// Whether programs are kept off a kernel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Drained {
    /// They are moved away, and no new ones come.
    Yes,
    /// They may come.
    No,
}

/// Whether a kernel is to have a fresh life.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Rebooting {
    /// As soon as nothing lives there.
    Asked,
    /// It has it, or nobody asked.
    Done,
}

/// Whether a kernel may use the memory that a device of an earlier life may write.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Quarantine {
    /// Not from its next life on.
    Begin,
    /// From its next life on it may.
    End,
}

const fn owner_word(owner: Option<Life>) -> u64 {
    match owner {
        None => 0,
        Some(life) => (life.incarnation.0 as u64) << 32 | life.kernel.0 as u64,
    }
}

/// The life in an owner's word.
fn life_of(word: u64) -> Option<Life> {
    let life = Life { kernel: KernelId(word as u16), incarnation: Incarnation((word >> 32) as u32) };
    (word != 0).then_some(life)
}

/// A word that holds an incarnation plus one, or 0 for none.
fn incarnation(word: u64) -> Option<Incarnation> {
    (word as u32).checked_sub(1).map(Incarnation)
}

impl Area {
    /// The active monitor.
    pub fn election(self) -> Election {
        Election::from_word(self.load(commons::MONITOR))
    }
    /// Elects `monitor` if `seen` still holds; returns what holds now. Only one of all nominations from `seen` wins.
    pub fn elect(self, seen: Election, monitor: KernelId) -> Election {
        let next = seen.won_by(monitor);
        match self.exchange(commons::MONITOR, seen.to_word(), next.to_word()) {
            Ok(()) => next,
            Err(now) => Election::from_word(now),
        }
    }
    /// The daemons' interval; zero if nobody has set it.
    pub fn heartbeat(self) -> Nanos {
        Nanos(self.load(commons::HEARTBEAT))
    }
    /// Sets the daemons' interval.
    pub fn set_heartbeat(self, interval: Nanos) {
        let mut seen = self.load(commons::HEARTBEAT);
        while let Err(now) = self.exchange(commons::HEARTBEAT, seen, interval.0) {
            seen = now;
        }
    }

    /// Whether the administrator keeps programs off `kernel`.
    pub fn is_drained(self, kernel: KernelId) -> bool {
        self.bit(commons::DRAINED, kernel)
    }
    /// Keeps programs off `kernel`, or lets them come again.
    pub fn set_drained(self, kernel: KernelId, drained: Drained) {
        self.set_bit(commons::DRAINED, kernel, drained == Drained::Yes);
    }
    /// Whether `kernel` is on its way to a fresh life that the administrator has asked for; that life lets programs come.
    pub fn is_rebooting(self, kernel: KernelId) -> bool {
        self.bit(commons::REBOOTING, kernel)
    }
    /// Says that `kernel` is to have a fresh life, or has it.
    pub fn set_rebooting(self, kernel: KernelId, rebooting: Rebooting) {
        self.set_bit(commons::REBOOTING, kernel, rebooting == Rebooting::Asked);
    }
    /// Whether a device that an earlier life of `kernel` drove may write into that kernel's memory still.
    pub fn is_quarantined(self, kernel: KernelId) -> bool {
        self.bit(commons::QUARANTINED, kernel)
    }
    /// Says that such a device may, or that its reset was confirmed after all.
    pub fn set_quarantined(self, kernel: KernelId, quarantine: Quarantine) {
        self.set_bit(commons::QUARANTINED, kernel, quarantine == Quarantine::Begin);
    }
    fn bit(self, word: usize, kernel: KernelId) -> bool {
        1_u64.checked_shl(kernel.0.into()).is_some_and(|bit| self.load(word) & bit != 0)
    }
    fn set_bit(self, word: usize, kernel: KernelId, wanted: bool) {
        let Some(bit) = 1_u64.checked_shl(kernel.0.into()) else { return };
        let mut seen = self.load(word);
        while let Err(now) = self.exchange(word, seen, if wanted { seen | bit } else { seen & !bit }) {
            seen = now;
        }
    }

    /// The life that drives a device. Incarnations count from 1; an all-zero word is no owner.
    pub fn owner(self, device: Device) -> Option<Life> {
        life_of(self.load(commons::DEVICE_OWNERS + device as usize))
    }
    /// Moves a device from one owner to another; fails with the owner that it has.
    pub fn move_owner(self, device: Device, from: Option<Life>, to: Option<Life>) -> Result<(), Option<Life>> {
        let word = commons::DEVICE_OWNERS + device as usize;
        self.exchange(word, owner_word(from), owner_word(to)).map_err(life_of)
    }
    /// The life that was the last to set about taking a device.
    pub fn taker(self, device: Device) -> Option<Life> {
        life_of(self.load(commons::DEVICE_TAKERS + device as usize))
    }
    /// Sets about taking a device after `from`; fails with who did meanwhile.
    pub fn move_taker(self, device: Device, from: Option<Life>, to: Option<Life>) -> Result<(), Option<Life>> {
        let word = commons::DEVICE_TAKERS + device as usize;
        self.exchange(word, owner_word(from), owner_word(to)).map_err(life_of)
    }

    /// Where a program lives.
    pub fn home(self, program: ProgramId) -> Home {
        if usize::from(program.0) >= MAX_PROGRAMS {
            return Home::Free;
        }
        Home::from_word(self.load(self.layout().home(usize::from(program.0))))
    }
    /// Moves a program's home; fails with the home that it has. Whoever succeeds holds the one living copy.
    pub fn move_home(self, program: ProgramId, from: Home, to: Home) -> Result<(), Home> {
        if usize::from(program.0) >= MAX_PROGRAMS {
            return Err(Home::Free);
        }
        self.exchange(self.layout().home(usize::from(program.0)), from.to_word(), to.to_word()).map_err(Home::from_word)
    }
    /// Takes a free program id for a new program of `life`. Ids are handed out from 2: the control daemon has 1.
    pub fn allocate_program(self, life: Life) -> Option<ProgramId> {
        (ProgramId::DAEMON.0 + 1..MAX_PROGRAMS as u16)
            .map(ProgramId)
            .find(|&program| self.move_home(program, Home::Free, Home::Held(life)).is_ok())
    }
    /// All programs and their homes.
    pub fn programs(self) -> impl Iterator<Item = (ProgramId, Home)> {
        (0..MAX_PROGRAMS as u16)
            .map(move |p| (ProgramId(p), self.home(ProgramId(p))))
            .filter(|(_, home)| *home != Home::Free)
    }

    /// The incarnation of `kernel` that is proven parked, if one is. A word for people and machines of state; the proof
    /// itself is the machine's `confirm_parked`.
    pub fn parked(self, kernel: KernelId) -> Option<Incarnation> {
        incarnation(self.mailbox(kernel, commons::MAILBOX_PARKED))
    }
    /// The incarnation that the parked core was told to boot.
    pub fn command(self, kernel: KernelId) -> Option<Incarnation> {
        incarnation(self.mailbox(kernel, commons::MAILBOX_COMMAND))
    }
    /// The incarnation that must park.
    pub fn fence_word(self, kernel: KernelId) -> Option<Incarnation> {
        incarnation(self.mailbox(kernel, commons::MAILBOX_FENCE))
    }
    /// Says which life must park when the next non-maskable interrupt comes.
    pub fn set_fence_word(self, life: Life) {
        let Some(word) = self.mailbox_word(life.kernel, commons::MAILBOX_FENCE) else {
            return;
        };
        let next = u64::from(life.incarnation.0) + 1;
        let mut seen = self.load(word);
        // Never back to an earlier life: a monitor that was superseded may come late.
        while seen < next {
            match self.exchange(word, seen, next) {
                Ok(()) => return,
                Err(now) => seen = now,
            }
        }
    }
    /// Count of answered probes.
    pub fn probed(self, kernel: KernelId) -> u64 {
        self.mailbox(kernel, commons::MAILBOX_PROBED)
    }
    /// Instruction pointer at the last answered probe.
    pub fn probe_rip(self, kernel: KernelId) -> u64 {
        self.mailbox(kernel, commons::MAILBOX_PROBE_RIP)
    }
    /// Who works on the recovery of `kernel`.
    pub fn claim(self, kernel: KernelId) -> Claim {
        Claim::from_word(self.mailbox(kernel, commons::MAILBOX_CLAIM))
    }
    /// Takes the recovery of `kernel` over; fails with the claim that holds.
    pub fn move_claim(self, kernel: KernelId, from: Claim, to: Claim) -> Result<(), Claim> {
        let word = self.mailbox_word(kernel, commons::MAILBOX_CLAIM).ok_or(Claim::default())?;
        self.exchange(word, from.to_word(), to.to_word()).map_err(Claim::from_word)
    }

    fn mailbox_word(self, kernel: KernelId, word: usize) -> Option<usize> {
        (kernel.index() < self.layout().kernels()).then(|| self.layout().mailbox(kernel) + word)
    }
    fn mailbox(self, kernel: KernelId, word: usize) -> u64 {
        self.mailbox_word(kernel, word).map_or(0, |at| self.load(at))
    }
    fn exchange(self, at: usize, from: u64, to: u64) -> Result<(), u64> {
        let word = self.word(at).ok_or(0_u64)?;
        word.compare_exchange(from, to, Ordering::SeqCst, Ordering::SeqCst).map(|_| ())
    }
}
