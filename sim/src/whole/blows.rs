//! What may be done to the kernels of a schedule.
use shimos_abi::{ids::KernelId, time::Nanos};
use shimos_random::Random;
use shimos_soft::Crash;

/// Within so long after all programs have shown lines all blows are struck.
const TROUBLE: Nanos = Nanos::millis(15);
/// Calls of the machine, at most, from a blow to the one that it hits.
const STEPS: u64 = 512;

/// One thing that is done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Blow {
    /// A kernel dies in one of its next steps.
    Die(Crash),
    /// A kernel's processor stands still after one of its next steps: to others it may seem dead.
    Stall(Nanos),
    /// A kernel dies, and its next boot dies as well.
    FailBoot(Crash),
    /// Rings between kernels get lost for a while, one in so many millionths.
    LoseRings(u32),
    /// So do frames on the network.
    LosePackets(u32),
    /// A kernel is emptied, or given a fresh life.
    Empty(u64),
    /// The whole machine is reset.
    Reset,
}

impl Blow {
    /// Whether output that a kernel has released may be lost by it, with a kernel that has not died.
    pub fn is_rough(self) -> bool {
        !matches!(self, Blow::Die(crash) | Blow::FailBoot(crash) if crash != Crash::Scribble)
    }
    /// Its name in the tally.
    pub fn name(self) -> &'static str {
        match self {
            Blow::Die(_) => "deaths ordered",
            Blow::Stall(_) => "stalls",
            Blow::FailBoot(_) => "failed boots ordered",
            Blow::LoseRings(_) => "times without rings",
            Blow::LosePackets(_) => "times without packets",
            Blow::Empty(_) => "kernels emptied",
            Blow::Reset => "resets",
        }
    }
}

/// The blows of a schedule and their times after its start, in order: at least one, often several at once.
pub fn of(seed: u64) -> Vec<(Nanos, Blow)> {
    let random = &mut Random::new(seed ^ 0x0b10_3500);
    let count = 1 + random.below(3);
    let mut blows: Vec<(Nanos, Blow)> = Vec::new();
    for number in 0..count {
        let at = match blows.last() {
            Some((last, _)) if random.once_in(3) => *last,
            _ => Nanos(random.below(TROUBLE.0)),
        };
        // The first one always kills, stalls or both.
        let blow = match random.below(if number == 0 { 6 } else { 12 }) {
            0..=3 => Blow::Die(crash(random)),
            4 => Blow::Stall(Nanos::micros(random.below(80_000))),
            5 => Blow::FailBoot(boot_crash(random)),
            6 => Blow::LoseRings(random.below(300_000) as u32),
            7 => Blow::LosePackets(random.below(100_000) as u32),
            8 => Blow::Empty(random.below(3)),
            9 => Blow::Reset,
            _ => Blow::Die(crash(random)),
        };
        blows.push((at, blow));
    }
    blows.sort_by_key(|(at, _)| *at);
    blows
}

fn crash(random: &mut Random) -> Crash {
    random.one(&[
        Crash::Panic,
        Crash::Panic,
        Crash::Exception,
        Crash::Exception,
        Crash::Hang,
        Crash::Deaf,
        Crash::Scribble,
    ])
}

/// A boot that hangs is given some seconds, which takes the simulation long: it is rare.
fn boot_crash(random: &mut Random) -> Crash {
    if random.once_in(16) { crash(random) } else { random.one(&[Crash::Panic, Crash::Exception]) }
}

/// The manner of death that this kernel can be rescued from: nothing wakes core 0 where no NMI reaches it, for INIT would
/// reset the machine.
pub fn curable(crash: Crash, kernel: KernelId) -> Crash {
    if crash == Crash::Deaf && kernel == KernelId(0) { Crash::Hang } else { crash }
}

/// How many steps from now on a blow hits: few are as likely as many.
pub fn distance(random: &mut Random) -> u64 {
    let bits = u64::from(STEPS.ilog2()) + 1;
    let end = 1 << random.below(bits);
    1 + random.below(end)
}
