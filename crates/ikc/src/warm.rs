//! A start of the machine over the memory of an earlier one: what of the shared area still holds.
//!
//! A reset ends all lives at once, and leaves the memory as it is. The boot core finds the master table where it would
//! lay it out anew and believes it only if its seal and every number agree ([`examine`]). Then it brings the commons into
//! the state in which all cores are parked and are ordered to boot their next incarnations ([`resume`]): from there on the
//! programs are recovered like those of any dead kernel. What the words say may be damaged; what makes no sense is dropped.
use crate::{Area, Home, sync::Ordering};
use crc32fast::Hasher;
use shimos_abi::{
    control::Device,
    ids::{Incarnation, KernelId, Life, MAX_PROGRAMS, ProgramId},
    shared::{LAYOUT_VERSION, MASTER_MAGIC, commons, master},
    time::Nanos,
};

/// Starts in a row that did not last; then the next one is cold.
pub const MOST_TRIES: u64 = 12;
/// Incarnations beyond this are not believed.
const MOST_LIVES: u64 = 1 << 24;
/// Bounds of a daemons' interval that is believed.
const HEARTBEATS: core::ops::RangeInclusive<u64> = 1_000_000..=60_000_000_000;

/// What the master table says of a kernel's core and memory, in the order of the entry's words.
pub type Entry = [u64; 5];
const _: () = assert!(master::ENTRY_POOL_FRAMES + 1 == 5 && master::ENTRY_FIRST == 5);

/// Why the memory of an earlier start is not used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unusable {
    /// There is none: this memory has not been used.
    Fresh,
    /// The master table is of another version.
    Version,
    /// The master table is damaged.
    Damaged,
    /// The machine is laid out differently now.
    Layout,
    /// Too many starts in a row did not last.
    TooOften,
}

impl Unusable {
    /// In words.
    pub const fn why(self) -> &'static str {
        match self {
            Unusable::Fresh => "there was none",
            Unusable::Version => "it is of another version",
            Unusable::Damaged => "its master table is damaged",
            Unusable::Layout => "the memory is laid out differently now",
            Unusable::TooOften => "too many starts in a row did not last",
        }
    }
}

/// What a start over an earlier one has found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Resumed {
    /// How many starts there were, this one among them.
    pub starts: u64,
    /// Programs with an image.
    pub found: u64,
    /// Programs that cannot go on.
    pub gone: u64,
}

/// The first incarnation of a kernel in this start of the machine.
fn first_word(kernel: KernelId) -> usize {
    master::ENTRIES + kernel.index() * master::ENTRY_WORDS + master::ENTRY_FIRST
}

fn seal_of(area: Area) -> u64 {
    let mut hasher = Hasher::new();
    for word in (0..master::WORDS).filter(|word| *word != master::SEAL) {
        hasher.update(&area.load(word).to_le_bytes());
    }
    u64::from(hasher.finalize()) | 1 << 32
}

/// Seals the master table as it stands. Only the boot core writes there.
pub fn seal(area: Area) {
    area.store(master::SEAL, seal_of(area), Ordering::SeqCst);
}

/// Whether the area is that of an earlier start of the machine as it is now. `entry` is what each kernel's entry must say.
pub fn examine(area: Area, entry: impl Fn(KernelId) -> Entry) -> Result<(), Unusable> {
    if area.load(master::MAGIC) != MASTER_MAGIC {
        return Err(Unusable::Fresh);
    }
    if area.load(master::VERSION) != LAYOUT_VERSION {
        return Err(Unusable::Version);
    }
    if area.load(master::SEAL) != seal_of(area) {
        return Err(Unusable::Damaged);
    }
    let same = |kernel: KernelId| {
        let at = master::ENTRIES + kernel.index() * master::ENTRY_WORDS;
        (at..).zip(entry(kernel)).all(|(word, expected)| area.load(word) == expected)
    };
    if area.load(master::KERNELS) != area.layout().kernels() as u64 || !area.kernels().all(same) {
        return Err(Unusable::Layout);
    }
    if area.load(commons::TRIES) >= MOST_TRIES {
        return Err(Unusable::TooOften);
    }
    Ok(())
}

/// The latest time that a kernel of the earlier start has told; one after `limit` is not believed.
pub fn last_time(area: Area, limit: Nanos) -> Nanos {
    area.kernels().map(|kernel| area.stamp_time(kernel)).filter(|time| *time <= limit).max().unwrap_or(Nanos(0))
}

/// A life in a word, if it can be one: a number that is one too large.
fn lived(word: u64) -> Option<u64> {
    word.checked_sub(1).filter(|incarnation| (1..MOST_LIVES).contains(incarnation))
}

/// The last incarnation of a kernel that anything tells of.
fn last_life(area: Area, kernel: KernelId) -> u64 {
    let mailbox = area.layout().mailbox(kernel);
    let words = [commons::MAILBOX_PARKED, commons::MAILBOX_COMMAND, commons::MAILBOX_FENCE, commons::MAILBOX_RUNNING];
    let told = words.iter().filter_map(|word| lived(area.load(mailbox + word)));
    let own = area.incarnation(kernel).map(|incarnation| u64::from(incarnation.0));
    let claimed = u64::from(area.claim(kernel).incarnation.0);
    let homes = area.programs().filter_map(|(_, home)| home.life());
    let homes = homes.filter(|life| life.kernel == kernel).map(|life| u64::from(life.incarnation.0));
    let first = area.load(first_word(kernel));
    told.chain(own).chain(homes).chain([claimed, first]).filter(|life| *life < MOST_LIVES).max().unwrap_or(1).max(1)
}

/// Whether a home can be gone on from.
fn is_usable(area: Area, home: Home) -> bool {
    let kernels = area.layout().kernels();
    let there = |kernel: KernelId| kernel.index() < kernels;
    let lives = |life: Life| there(life.kernel) && (1..MOST_LIVES).contains(&u64::from(life.incarnation.0));
    match home {
        Home::Free | Home::Held(_) => false,
        Home::Protected { life, image, .. } => lives(life) && there(image),
        Home::Offered { life, to } => lives(life) && there(to),
    }
}

/// Brings the commons into the state in which every core is parked after its last life and ordered to boot the next one.
/// `now` is the machine's time. Only the boot core runs.
pub fn resume(area: Area, now: Nanos) -> Resumed {
    let put = |word: usize, value: u64| area.store(word, value, Ordering::SeqCst);
    let lives = area.kernels().map(|kernel| (kernel, last_life(area, kernel)));
    // Homes are looked at for the last lives, and changed only after that.
    for (kernel, last) in lives {
        let mailbox = area.layout().mailbox(kernel);
        for word in 0..commons::MAILBOX_WORDS {
            put(mailbox + word, 0);
        }
        put(mailbox + commons::MAILBOX_RUNNING, last + 1);
        put(mailbox + commons::MAILBOX_PARKED, last + 1);
        put(mailbox + commons::MAILBOX_COMMAND, last + 2);
        put(first_word(kernel), last + 1);
    }
    let (mut found, mut gone) = (0, 0);
    for program in 0..MAX_PROGRAMS {
        let word = area.layout().home(program);
        let home = area.home(ProgramId(program as u16));
        if is_usable(area, home) {
            found += 1;
        } else if area.load(word) != 0 {
            gone += 1;
            // One that was not protected is freed by the kernel that tells of it.
            if !matches!(home, Home::Held(life) if life.kernel.index() < area.layout().kernels()) {
                put(word, 0);
            }
        }
    }
    let election = area.election();
    put(commons::MONITOR, election.won_by(KernelId(0)).to_word());
    if !HEARTBEATS.contains(&area.heartbeat().0) {
        put(commons::HEARTBEAT, 0);
    }
    put(commons::SERIAL, 0);
    let all = u64::MAX >> 64_usize.saturating_sub(area.layout().kernels());
    put(commons::DRAINED, area.load(commons::DRAINED) & all);
    put(commons::REBOOTING, 0);
    // The devices were reset with the machine.
    put(commons::QUARANTINED, 0);
    for device in Device::ALL {
        put(commons::DEVICE_TAKERS + device as usize, 0);
        if area.owner(device).is_some_and(|owner| owner.kernel.index() >= area.layout().kernels()) {
            put(commons::DEVICE_OWNERS + device as usize, 0);
        }
    }
    put(commons::TRIES, area.load(commons::TRIES) + 1);
    let starts = area.load(master::STARTS).saturating_add(1);
    put(master::STARTS, starts);
    put(master::STARTED, now.0);
    put(master::FOUND, found);
    put(master::GONE, gone);
    Resumed { starts, found, gone }
}

/// What the machine's starts say of themselves.
impl Area {
    /// The first incarnation of a kernel in this start of the machine: lives before it ended at a reset.
    pub fn first_incarnation(self, kernel: KernelId) -> Incarnation {
        let word = if kernel.index() < self.layout().kernels() { self.load(first_word(kernel)) } else { 0 };
        Incarnation(u32::try_from(word).unwrap_or(1).max(1))
    }
    /// Whether a life ended when the machine was reset.
    pub fn ended_at_reset(self, life: Life) -> bool {
        life.incarnation < self.first_incarnation(life.kernel)
    }
    /// What the present start has found, if it was not a cold one; and when it was.
    pub fn resumed(self) -> Option<(Resumed, Nanos)> {
        let starts = self.load(master::STARTS);
        let (found, gone) = (self.load(master::FOUND), self.load(master::GONE));
        (starts > 1).then(|| (Resumed { starts, found, gone }, Nanos(self.load(master::STARTED))))
    }
    /// Says that this start of the machine lasts.
    pub fn set_lasting(self) {
        if self.load(commons::TRIES) != 0 {
            self.store(commons::TRIES, 0, Ordering::SeqCst);
        }
    }
}
