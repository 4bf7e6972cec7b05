//! Names of the control protocol's values, as people write and read them.
use shimos_abi::control::{
    Cause, DeathCause, DetectedBy, Device, Fault, FencedBy, KernelState, Partition, ProcessState,
};
pub use shimos_policy::words::{integrity_word as integrity, on_crash_word as on_crash, output_word as output};

/// All faults by name.
pub const FAULTS: [(&str, Fault); 26] = [
    ("null-pointer", Fault::NullPointer),
    ("panic", Fault::Panic),
    ("infinite-loop", Fault::InfiniteLoop),
    ("irq-deadlock", Fault::IrqDeadlock),
    ("read-peer", Fault::ReadPeer),
    ("write-peer", Fault::WritePeer),
    ("write-text", Fault::WriteText),
    ("write-rodata", Fault::WriteRodata),
    ("execute-data", Fault::ExecuteData),
    ("write-peer-shared", Fault::WritePeerShared),
    ("stack-overflow", Fault::StackOverflow),
    ("damage-page", Fault::DamagePage),
    ("damage-records", Fault::DamageRecords),
    ("nmi-loop", Fault::NmiLoop),
    ("double-fault", Fault::DoubleFault),
    ("dead-core", Fault::DeadCore),
    ("lost-ipis", Fault::LostIpis),
    ("stall", Fault::Stall),
    ("slow", Fault::Slow),
    ("wild-heap", Fault::WildHeap),
    ("wild-tables", Fault::WildTables),
    ("wild-outgoing", Fault::WildOutgoing),
    ("wild-queue", Fault::WildQueue),
    ("wild-commons", Fault::WildCommons),
    ("triple-fault", Fault::TripleFault),
    ("map-peer", Fault::MapPeer),
];

/// The name of a fault.
pub fn fault(fault: Fault) -> &'static str {
    FAULTS.into_iter().find(|(_, known)| *known == fault).map_or("unknown", |(name, _)| name)
}

/// What keeps kernels apart.
pub fn partition(partition: Partition) -> &'static str {
    match partition {
        Partition::None => "none",
        Partition::Svm => "svm",
    }
}

/// How a death was noticed.
pub fn detected_by(how: DetectedBy) -> &'static str {
    match how {
        DetectedBy::DeathRecord => "death-record",
        DetectedBy::Heartbeat => "heartbeat",
    }
}

/// How a fence was proven.
pub fn fenced_by(how: FencedBy) -> &'static str {
    match how {
        FencedBy::Itself => "itself",
        FencedBy::Message => "message",
        FencedBy::Nmi => "nmi",
        FencedBy::Init => "init",
    }
}

/// Why a kernel died.
pub fn cause(cause: DeathCause) -> &'static str {
    match cause {
        DeathCause::Panic => "panic",
        DeathCause::Exception => "exception",
        DeathCause::Hang => "hang",
        DeathCause::Requested => "requested",
    }
}

/// Why a program went on in another kernel.
pub fn handover(cause: Cause) -> &'static str {
    match cause {
        Cause::Death => "death",
        Cause::Move => "move",
        Cause::Rollback => "rollback",
        Cause::Reset => "reset",
    }
}

/// A kernel's state.
pub fn state(state: KernelState) -> &'static str {
    match state {
        KernelState::Down => "down",
        KernelState::Booting => "booting",
        KernelState::Running => "running",
        KernelState::Panicked => "panicked",
        KernelState::Fenced => "fenced",
    }
}

/// A device.
pub fn device(device: Device) -> &'static str {
    match device {
        Device::Console => "console",
        Device::Block => "block",
        Device::Network => "network",
    }
}

/// What a process does.
pub fn process(state: ProcessState) -> &'static str {
    match state {
        ProcessState::Running => "running",
        ProcessState::Sleeping => "sleeping",
        ProcessState::Stopped => "stopped",
        ProcessState::Zombie => "zombie",
    }
}
