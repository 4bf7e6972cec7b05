//! Going to user mode and coming back, as a function call.
//!
//! `user_enter` saves the kernel's own registers on its stack and loads the thread's. Whatever ends the stay (a trap,
//! an interrupt, a system call) saves the thread's registers where they came from and returns from `user_enter`. There
//! is one kernel a core and every kernel has its own data at the same addresses, so plain statics serve for what other
//! systems keep behind the GS base.
use crate::{
    arch::{read_cr2, wrmsr},
    cpu::{FS_BASE, GS_BASE, has_fsgsbase},
    layout::{USER_CODE, USER_DATA},
    traps,
};
use core::{
    arch::{asm, global_asm},
    mem::offset_of,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};
use shimos_abi::addr::{USER_END, UserAddr};
use shimos_hal::{Access, Regs, Trap};

/// Stands for a vector: a system call.
const SYSCALL: u64 = 0x100;

/// Flags that a thread may set (SDM 3, 2.3): the arithmetic ones, trap, direction, alignment check, identification.
const USER_FLAGS: u64 = 0x24_0dd5;
/// Flags that are always set: interrupts, and the bit that is always one.
const FIXED_FLAGS: u64 = 0x202;

global_asm!(
    r#"
    .section .bss.user, "aw", @nobits
    .balign 64
user_kernel_stack: .skip 8
user_registers: .skip 8
user_scratch: .skip 8
    .global user_vector
user_vector: .skip 8
    .global user_code
user_code: .skip 8

    .text
    .balign 16
    # RDI: the thread's registers, ESI: 1 for SYSRET, 0 for IRET.
    .global user_enter
user_enter:
    push rbp
    mov rbp, rsp
    push rbx
    push r12
    push r13
    push r14
    push r15
    mov [rip + user_kernel_stack], rsp
    mov [rip + user_registers], rdi
    mov rax, [rdi + {rax}]
    mov rbx, [rdi + {rbx}]
    mov rdx, [rdi + {rdx}]
    mov rbp, [rdi + {rbp}]
    mov r8, [rdi + {r8}]
    mov r9, [rdi + {r9}]
    mov r10, [rdi + {r10}]
    mov r12, [rdi + {r12}]
    mov r13, [rdi + {r13}]
    mov r14, [rdi + {r14}]
    mov r15, [rdi + {r15}]
    test esi, esi
    mov rsi, [rdi + {rsi}]
    jz 2f
    mov rcx, [rdi + {rip}]
    mov r11, [rdi + {rflags}]
    mov rsp, [rdi + {rsp}]
    mov rdi, [rdi + {rdi}]
    sysretq
2:  push {user_data}
    push [rdi + {rsp}]
    push [rdi + {rflags}]
    push {user_code}
    push [rdi + {rip}]
    mov rcx, [rdi + {rcx}]
    mov r11, [rdi + {r11}]
    mov rdi, [rdi + {rdi}]
    iretq

    .balign 16
    # On an entry stack: vector, code, rip, cs, rflags, rsp, ss.
    .global trap_from_user
trap_from_user:
    push rax
    mov rax, [rip + user_registers]
    mov [rax + {rcx}], rcx
    mov [rax + {r11}], r11
    mov [rax + {rdi}], rdi
    mov rcx, rax
    pop qword ptr [rcx + {rax}]
    pop qword ptr [rip + user_vector]
    pop qword ptr [rip + user_code]
    pop qword ptr [rcx + {rip}]
    add rsp, 8
    pop qword ptr [rcx + {rflags}]
    pop qword ptr [rcx + {rsp}]
    # No flag of the thread's may reach the kernel: direction, alignment check (which is SMAP's override). A gate clears
    # only some; SYSCALL clears all of them by its mask, and needs none of this.
    push 2
    popfq
    jmp user_leave

    .balign 16
    # RCX: rip, R11: rflags, still on the thread's stack. The thread's registers serve as base in place of a stack; an
    # NMI or a machine check that comes here has a stack of its own.
    .global syscall_entry
syscall_entry:
    mov [rip + user_scratch], rsp
    mov rsp, [rip + user_registers]
    mov [rsp + {rax}], rax
    mov [rsp + {rcx}], rcx
    mov [rsp + {rip}], rcx
    mov [rsp + {r11}], r11
    mov [rsp + {rflags}], r11
    mov [rsp + {rdi}], rdi
    mov rcx, rsp
    mov rax, [rip + user_scratch]
    mov [rcx + {rsp}], rax
    mov qword ptr [rip + user_vector], {syscall}

    # RCX: the thread's registers; RAX, RCX, R11, RDI, RSP, RIP and RFLAGS are already in there.
user_leave:
    mov [rcx + {rbx}], rbx
    mov [rcx + {rdx}], rdx
    mov [rcx + {rsi}], rsi
    mov [rcx + {rbp}], rbp
    mov [rcx + {r8}], r8
    mov [rcx + {r9}], r9
    mov [rcx + {r10}], r10
    mov [rcx + {r12}], r12
    mov [rcx + {r13}], r13
    mov [rcx + {r14}], r14
    mov [rcx + {r15}], r15
    mov rsp, [rip + user_kernel_stack]
    pop r15
    pop r14
    pop r13
    pop r12
    pop rbx
    pop rbp
    ret
"#,
    rax = const offset_of!(Regs, rax),
    rbx = const offset_of!(Regs, rbx),
    rcx = const offset_of!(Regs, rcx),
    rdx = const offset_of!(Regs, rdx),
    rsi = const offset_of!(Regs, rsi),
    rdi = const offset_of!(Regs, rdi),
    rbp = const offset_of!(Regs, rbp),
    rsp = const offset_of!(Regs, rsp),
    r8 = const offset_of!(Regs, r8),
    r9 = const offset_of!(Regs, r9),
    r10 = const offset_of!(Regs, r10),
    r11 = const offset_of!(Regs, r11),
    r12 = const offset_of!(Regs, r12),
    r13 = const offset_of!(Regs, r13),
    r14 = const offset_of!(Regs, r14),
    r15 = const offset_of!(Regs, r15),
    rip = const offset_of!(Regs, rip),
    rflags = const offset_of!(Regs, rflags),
    user_data = const USER_DATA,
    user_code = const USER_CODE,
    syscall = const SYSCALL,
);

unsafe extern "C" {
    fn user_enter(registers: *mut Regs, how: u32);
    /// Traps from user mode; part of the stubs.
    pub(crate) fn trap_from_user();
    /// Where SYSCALL leads.
    pub(crate) fn syscall_entry();
    static user_vector: u64;
    static user_code: u64;
}

/// The FS and GS bases that were loaded last. Where threads have the instructions they may have loaded others since.
static BASES: [AtomicU64; 2] = [AtomicU64::new(0), AtomicU64::new(0)];

/// Makes an address canonical: bit 47 counts for all above it.
#[inline]
fn canonical(address: u64) -> u64 {
    ((address << 16) as i64 >> 16) as u64
}

/// Loads a thread's FS and GS bases.
pub(crate) fn load_bases(regs: &Regs) {
    load_base(0, regs.fs_base);
    load_base(1, regs.gs_base);
}

/// Writes back what a thread has made of its bases. Without the instructions only a system call can change them.
pub(crate) fn store_bases(regs: &mut Regs) {
    if has_fsgsbase() {
        regs.fs_base = store_base(0);
        regs.gs_base = store_base(1);
    }
}

fn load_base(which: usize, value: u64) {
    let value = canonical(value);
    if !has_fsgsbase() && BASES[which].load(Relaxed) == value {
        return;
    }
    BASES[which].store(value, Relaxed);
    // SAFETY: the kernel uses neither base; the value is canonical; the instructions are there if the flag says so.
    unsafe {
        match (has_fsgsbase(), which) {
            (true, 0) => asm!("wrfsbase {}", in(reg) value, options(nostack)),
            (true, _) => asm!("wrgsbase {}", in(reg) value, options(nostack)),
            (false, 0) => wrmsr(FS_BASE, value),
            (false, _) => wrmsr(GS_BASE, value),
        }
    }
}

/// Reads a base back. Only with the instructions for it.
fn store_base(which: usize) -> u64 {
    let value;
    // SAFETY: only reads; the caller knows that the instructions are there.
    unsafe {
        if which == 0 {
            asm!("rdfsbase {}", out(reg) value, options(nostack));
        } else {
            asm!("rdgsbase {}", out(reg) value, options(nostack));
        }
    }
    value
}

/// Runs the thread until something ends its stay. The address space is loaded, the timer set. A vector of 32 and above
/// has been dealt with when this returns.
#[inline]
pub(crate) fn enter(regs: &mut Regs) -> Trap {
    if regs.rip >= USER_END {
        // To load such an address would fault in the kernel (SDM 2, IRET and SYSRET). The fetch would fault just as
        // well.
        return Trap::PageFault { addr: UserAddr(regs.rip), access: Access::Execute };
    }
    regs.rflags = regs.rflags & USER_FLAGS | FIXED_FLAGS;
    // SYSRET loads RIP and RFLAGS from RCX and R11, so it serves exactly when these are equal, as behind a system call.
    let fast = regs.rcx == regs.rip && regs.r11 == regs.rflags;
    // SAFETY: all that user mode can do is bounded by its page tables and ends in one of the entries above, which
    // return here.
    let (vector, code) = unsafe {
        user_enter(regs, fast.into());
        ((&raw const user_vector).read_volatile(), (&raw const user_code).read_volatile())
    };
    if vector == SYSCALL { Trap::Syscall } else { trap_of(vector, code) }
}

/// What a vector and its code stand for.
fn trap_of(vector: u64, code: u64) -> Trap {
    match vector {
        14 => {
            let address = read_cr2();
            assert!(code & 8 == 0, "reserved bit set in a page table");
            let access = match (code & 16 != 0, code & 2 != 0) {
                (true, _) => Access::Execute,
                (false, true) => Access::Write,
                (false, false) => Access::Read,
            };
            Trap::PageFault { addr: UserAddr(address), access }
        }
        32.. => {
            traps::interrupt(vector as u8);
            Trap::Interrupted
        }
        _ => Trap::Exception { vector: vector as u8, code },
    }
}
