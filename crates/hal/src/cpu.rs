//! A thread's registers, and why it left user mode.
use alloc::vec::Vec;
use minicbor::{Decode, Encode};
use shimos_abi::addr::UserAddr;

/// The general registers of a thread in user mode.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Encode, Decode)]
#[repr(C)]
#[allow(missing_docs, reason = "the names are the processor's")]
pub struct Regs {
    #[n(0)]
    pub rax: u64,
    #[n(1)]
    pub rbx: u64,
    #[n(2)]
    pub rcx: u64,
    #[n(3)]
    pub rdx: u64,
    #[n(4)]
    pub rsi: u64,
    #[n(5)]
    pub rdi: u64,
    #[n(6)]
    pub rbp: u64,
    #[n(7)]
    pub rsp: u64,
    #[n(8)]
    pub r8: u64,
    #[n(9)]
    pub r9: u64,
    #[n(10)]
    pub r10: u64,
    #[n(11)]
    pub r11: u64,
    #[n(12)]
    pub r12: u64,
    #[n(13)]
    pub r13: u64,
    #[n(14)]
    pub r14: u64,
    #[n(15)]
    pub r15: u64,
    #[n(16)]
    pub rip: u64,
    #[n(17)]
    pub rflags: u64,
    #[n(18)]
    pub fs_base: u64,
    #[n(19)]
    pub gs_base: u64,
}

/// A thread's floating-point and vector registers, in the layout of XSAVE (standard format).
///
/// `tag` is the thread's id: the machine keeps the registers of the thread it ran last loaded, and writes them back
/// only when asked ([`crate::Machine::save_live`]).
#[derive(Clone, PartialEq, Eq, Debug, Default, Encode, Decode)]
pub struct Fpu {
    /// Whose registers they are.
    #[n(0)]
    pub tag: u64,
    /// The save area; empty stands for the state after reset.
    #[n(1)]
    #[cbor(with = "minicbor::bytes")]
    pub area: Vec<u8>,
}

/// What a memory access wants to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// Load.
    Read,
    /// Store.
    Write,
    /// Fetch an instruction.
    Execute,
}

/// Why a thread left user mode.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Trap {
    /// A system call; the number is in `rax`, and `rip` is behind the instruction (2 bytes long).
    Syscall,
    /// A page fault. `rip` is at the instruction.
    PageFault {
        /// The address.
        addr: UserAddr,
        /// What was tried.
        access: Access,
    },
    /// Another exception of the thread's own making, by vector.
    Exception {
        /// Vector number.
        vector: u8,
        /// Error code, or 0.
        code: u64,
    },
    /// Nothing of the thread's making: an interrupt came or the time is up.
    Interrupted,
}
