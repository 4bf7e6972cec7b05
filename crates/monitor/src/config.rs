//! How long the daemons wait for what.
use shimos_abi::{ids::KernelId, time::Nanos};

/// The bounds. Host preemption of half a second happens: what follows a wrong guess must be harmless, and is (D9).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Config {
    /// The kernel on the boot core, which must not be sent INIT: that resets the machine.
    pub boot: KernelId,
    /// Intervals without a change that make a suspicion, and intervals without an acknowledgement that make an
    /// election.
    pub missed: u32,
    /// The interval when nobody has set one.
    pub interval: Nanos,
    /// How long a core may leave a probe unanswered: its virtual processor may be standing still.
    pub stall_grace: Nanos,
    /// The least time between two probes of a core that answers without progress.
    pub probe_gap: Nanos,
    /// How long a kernel that left a death record may take to park itself.
    pub self_park: Nanos,
    /// How long a core may take to follow the message.
    pub message: Nanos,
    /// How long a core may take to park after the non-maskable interrupt, before the next step.
    pub nmi: Nanos,
    /// How long a core may take to park after INIT and SIPI, before they are sent again.
    pub init: Nanos,
    /// How long the last step of the ladder is repeated.
    pub fence: Nanos,
    /// When a core that could not be fenced is tried again.
    pub fence_retry: Nanos,
    /// How long a target may take to adopt a program or a device.
    pub order: Nanos,
    /// When all targets are asked again after all refused.
    pub retry: Nanos,
    /// How long the takeovers may keep the dead core from being restarted.
    pub takeover: Nanos,
    /// How long a kernel may take to boot.
    pub boot_time: Nanos,
    /// Wait before the second restart in a row; doubles with each more.
    pub backoff: Nanos,
    /// Failed boots in a row after which the core is retired.
    pub boot_failures: u32,
    /// A kernel that lived shorter than this counts as a failed boot.
    pub short_life: Nanos,
    /// A program is given up after so many takeovers in a row that ended in another death before a checkpoint; 15 at most.
    pub falls: u8,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            boot: KernelId(0),
            missed: 3,
            interval: Nanos::millis(50),
            stall_grace: Nanos::secs(1),
            probe_gap: Nanos::millis(10),
            self_park: Nanos::millis(5),
            message: Nanos::millis(5),
            nmi: Nanos::millis(20),
            init: Nanos::millis(100),
            fence: Nanos::secs(3),
            fence_retry: Nanos::secs(10),
            order: Nanos::secs(3),
            retry: Nanos::millis(500),
            takeover: Nanos::secs(20),
            boot_time: Nanos::secs(5),
            backoff: Nanos::millis(100),
            boot_failures: 5,
            short_life: Nanos::millis(200),
            falls: 8,
        }
    }
}

impl Config {
    /// The daemons' interval, given what the administrator has set.
    pub fn interval(&self, set: Nanos) -> Nanos {
        if set == Nanos(0) { self.interval } else { set.clamp(Nanos::millis(1), Nanos::secs(3600)) }
    }
}
