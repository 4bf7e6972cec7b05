//! Faults that can be ordered.
use minicbor::{Decode, Encode};

/// A fault to inject (paper, Table III, and the isolation tests).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Encode, Decode)]
#[cbor(index_only)]
pub enum Fault {
    /// Unable to handle kernel NULL pointer.
    #[n(0)]
    NullPointer,
    /// Call of panic.
    #[n(1)]
    Panic,
    /// `while (1)` in the kernel, interrupts on.
    #[n(2)]
    InfiniteLoop,
    /// Deadlock with interrupts off.
    #[n(3)]
    IrqDeadlock,
    /// Read a peer's private memory.
    #[n(4)]
    ReadPeer,
    /// Write a peer's private memory.
    #[n(5)]
    WritePeer,
    /// Write the kernel's own text.
    #[n(6)]
    WriteText,
    /// Write the kernel's own read-only data.
    #[n(7)]
    WriteRodata,
    /// Execute data.
    #[n(8)]
    ExecuteData,
    /// Write a peer's outgoing part of the shared area.
    #[n(9)]
    WritePeerShared,
    /// Overflow the kernel's stack.
    #[n(10)]
    StackOverflow,
    /// Overwrite a page of the newest generation of an image, and panic.
    #[n(11)]
    DamagePage,
    /// Overwrite the records of the newest generation of an image, and panic.
    #[n(12)]
    DamageRecords,
    /// Never come back from an NMI.
    #[n(14)]
    NmiLoop,
    /// An exception that cannot be delivered.
    #[n(15)]
    DoubleFault,
    /// The core answers nothing any more. On the boot core it hangs in an NMI: INIT would reset the machine.
    #[n(16)]
    DeadCore,
    /// From now on, no interrupt reaches a peer or comes from one. Nobody dies of that.
    #[n(17)]
    LostIpis,
    /// Stand still much longer than is waited for, and then go on as if nothing was.
    #[n(18)]
    Stall,
    /// Stand still for two heartbeats, which is not too long.
    #[n(19)]
    Slow,
    /// Overwrite words of the own heap, and go on.
    #[n(20)]
    WildHeap,
    /// Overwrite an entry of the own page tables, and go on.
    #[n(21)]
    WildTables,
    /// Overwrite words of the own outgoing part, and go on.
    #[n(22)]
    WildOutgoing,
    /// Overwrite the own queues to all peers, and go on.
    #[n(23)]
    WildQueue,
    /// Overwrite a word of the commons, and go on. Every kernel uses these.
    #[n(24)]
    WildCommons,
    /// Break the core so that it can report nothing any more: the machine is reset.
    #[n(13)]
    TripleFault,
    /// Map a peer's private memory into the own page tables, and write there.
    #[n(25)]
    MapPeer,
}
