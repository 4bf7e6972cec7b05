//! Hardware partitioning: each kernel runs as a guest of a small shell of its own core (AMD64 manual 2, chapter 15).
//!
//! The shell has no life of its own. It runs when a kernel starts, when one asks for something ([`call`]), and when one
//! did what it must not: then it writes the death record, rings the peers and parks the core, where a kernel without a
//! shell would have reset the machine or written into a peer. Nested page tables ([`ground`]) confine the kernel to its
//! memory; permission maps ([`permit`]) to the registers and ports that it needs. NMIs are probes and the order to park:
//! the shell takes them, so that a kernel cannot be deaf to them, not even in an NMI's handler that never ends. Interrupts
//! go straight to the kernel, and so does everything else that is not listed in [`vmcb`].
//!
//! The shell trusts no kernel: it reads the boot facts, its own memory, which no kernel can reach, and words of the shared
//! area. It runs with the global interrupt flag clear, on a stack of its own, under the page tables of starting cores.
pub mod call;
pub mod ground;
pub mod mend;
mod original;
pub mod permit;
mod record;
pub mod vmcb;

use crate::{
    arch::{cpuid, rdmsr, wrmsr},
    boot::{cores::mailbox, image},
    info::{INFO_PAGES, Info, KernelInfo, info},
    layout::{CPU_PAGE, IDT_BASE, KERNEL_CODE, KERNEL_DATA, LARGE, stack_top},
    paging::build::Builder,
    park, watchdog,
};
use core::{arch::global_asm, mem::offset_of, sync::atomic::Ordering::SeqCst};
use ground::Run;
use record::Cause;
use shimos_abi::{
    addr::FrameRange,
    control::{Device, Partition},
    ids::{KernelId, MAX_KERNELS},
    shared::{
        Layout, PAGE_WORDS,
        commons::{self, MAILBOX_FENCE, MAILBOX_PROBE_RIP},
        outgoing,
    },
};
use vmcb::{Entry, Exit, Tables, Vmcb};

const EFER: u32 = 0xc000_0080;
const VM_CR: u32 = 0xc001_0114;
const VM_HSAVE_PA: u32 = 0xc001_0117;
/// VM_CR: SVM is locked off.
const SVM_DISABLED: u64 = 1 << 4;

/// Pages at the start of the shells' memory that all use: the permission maps, and the copy of the image.
fn common_pages() -> u64 {
    permit::MSR_PAGES + permit::IO_PAGES + original::pages()
}
/// Pages of one shell before its tables: the guest's block, what the processor saves of the host, the stack.
const OWN_PAGES: u64 = 2 + STACK_PAGES;
const STACK_PAGES: u64 = 4;

/// What the processor offers: SVM with nested paging, not locked off.
pub fn offered() -> bool {
    const SVM: u32 = 1 << 2;
    const NESTED_PAGING: u32 = 1;
    let [_, _, features, _] = cpuid(0x8000_0001, 0);
    let [_, _, _, more] = cpuid(0x8000_000a, 0);
    features & SVM != 0 && more & NESTED_PAGING != 0 && rdmsr(VM_CR) & SVM_DISABLED == 0
}

/// Pages that the nested tables of one kernel take at most.
fn table_pages(gigabytes: u64, kernels: u64) -> u64 {
    let shared = Layout::new(kernels as usize).words() as u64 * 8 / LARGE + 2;
    // Upper tables, directories, and tables of pages: image, boot facts, shared area, interrupt controllers, devices.
    6 + gigabytes.max(4) + image::end() / LARGE + 4 + shared + 8 + 24
}

fn pages_each(info: &Info, kernels: u64) -> u64 {
    OWN_PAGES + table_pages(info.gigabytes, kernels)
}

/// Bytes that the shells of a machine take.
pub fn bytes(info: &Info, kernels: u64) -> u64 {
    match info.partition {
        Partition::None => 0,
        Partition::Svm => (common_pages() + kernels * pages_each(info, kernels)) * 4096,
    }
}

/// Writes what all shells use. By the boot core, once.
///
/// # Safety
/// The shells' memory was taken for them, and is mapped one to one.
pub unsafe fn write_common(info: &Info) {
    let map = |at: u64, pages: u64| {
        // SAFETY: the caller's; nobody else uses these pages yet.
        unsafe { core::slice::from_raw_parts_mut(at as *mut u8, pages as usize * 4096) }
    };
    permit::write_msr_map(map(info.shell, permit::MSR_PAGES));
    let ports = permit::ports(info.power.pm1a, watchdog::ports(info.watchdog));
    permit::write_io_map(map(info.shell + permit::MSR_PAGES * 4096, permit::IO_PAGES), &ports);
    original::keep(info);
}

/// The general registers of a guest that the processor does not keep, in the order of the code below.
#[derive(Default)]
#[repr(C)]
struct General {
    rbx: u64,
    rcx: u64,
    rdx: u64,
    rsi: u64,
    rdi: u64,
    rbp: u64,
    high: [u64; 8],
}

global_asm!(
    r#"
    # RDI, RSI, RDX: passed on. RCX: the shell's stack.
shell_leave_stage:
    mov rsp, rcx
    xor ebp, ebp
    call {main}
    ud2

    # RDI: physical address of the guest's block. RSI: its general registers. Runs the guest until it comes back.
shell_enter:
    push rbx
    push rbp
    push r12
    push r13
    push r14
    push r15
    push rsi
    mov rax, rdi
    mov rbx, [rsi + {rbx}]
    mov rcx, [rsi + {rcx}]
    mov rdx, [rsi + {rdx}]
    mov rdi, [rsi + {rdi}]
    mov rbp, [rsi + {rbp}]
    mov r8, [rsi + {high}]
    mov r9, [rsi + {high} + 8]
    mov r10, [rsi + {high} + 16]
    mov r11, [rsi + {high} + 24]
    mov r12, [rsi + {high} + 32]
    mov r13, [rsi + {high} + 40]
    mov r14, [rsi + {high} + 48]
    mov r15, [rsi + {high} + 56]
    mov rsi, [rsi + {rsi}]
    # Nothing may come between; VMRUN lets interrupts in again, to the guest.
    clgi
    vmrun rax
    push rsi
    mov rsi, [rsp + 8]
    mov [rsi + {rbx}], rbx
    mov [rsi + {rcx}], rcx
    mov [rsi + {rdx}], rdx
    mov [rsi + {rdi}], rdi
    mov [rsi + {rbp}], rbp
    mov [rsi + {high}], r8
    mov [rsi + {high} + 8], r9
    mov [rsi + {high} + 16], r10
    mov [rsi + {high} + 24], r11
    mov [rsi + {high} + 32], r12
    mov [rsi + {high} + 40], r13
    mov [rsi + {high} + 48], r14
    mov [rsi + {high} + 56], r15
    pop qword ptr [rsi + {rsi}]
    add rsp, 8
    pop r15
    pop r14
    pop r13
    pop r12
    pop rbp
    pop rbx
    cld
    ret
"#,
    main = sym shell_main,
    rbx = const offset_of!(General, rbx),
    rcx = const offset_of!(General, rcx),
    rdx = const offset_of!(General, rdx),
    rsi = const offset_of!(General, rsi),
    rdi = const offset_of!(General, rdi),
    rbp = const offset_of!(General, rbp),
    high = const offset_of!(General, high),
);

unsafe extern "C" {
    fn shell_leave_stage(kernel: u32, word: u64, root: u64, stack: u64) -> !;
    fn shell_enter(vmcb: u64, general: &mut General);
}

/// Runs a prepared kernel as a guest. `word` is the incarnation plus one, `root` are the kernel's page tables.
///
/// # Safety
/// Under the stage tables, on this kernel's own core; nothing of the stack is needed any more.
pub unsafe fn start(kernel: u32, word: u64, root: u64) -> ! {
    let stack = own_memory(info(), kernel) + OWN_PAGES * 4096;
    // SAFETY: the stack is this core's alone and mapped one to one.
    unsafe { shell_leave_stage(kernel, word, root, stack) }
}

fn own_memory(info: &Info, kernel: u32) -> u64 {
    info.shell + (common_pages() + u64::from(kernel) * pages_each(info, info.kernels.into())) * 4096
}

/// The word of a core's first kernel: incarnation 1.
const FIRST_LIFE: u64 = 2;

/// One core's shell, while its kernel runs.
struct Shell {
    kernel: u32,
    /// The incarnation plus one.
    word: u64,
    tables: Builder,
    /// The devices whose registers the kernel has, one bit each.
    devices: u8,
    /// The page of the image that is compared next.
    scrubbed: u64,
}

extern "C" fn shell_main(kernel: u32, word: u64, root: u64) -> ! {
    let info = info();
    let own = own_memory(info, kernel);
    let tables = own + OWN_PAGES * 4096;
    // SAFETY: this memory is this shell's alone, no kernel can reach it, and it is mapped one to one; all zeros is a valid
    // block. SVM is there (`offered`), and the page for the host's state is not used otherwise.
    let (vmcb, tables) = unsafe {
        core::ptr::write_bytes(own as *mut u64, 0, 1024);
        wrmsr(EFER, rdmsr(EFER) | vmcb::SVME);
        wrmsr(VM_HSAVE_PA, own + 4096);
        let end = own + pages_each(info, info.kernels.into()) * 4096;
        (&mut *(own as *mut Vmcb), Builder::nested(tables, end))
    };
    // Each core begins elsewhere, and somewhere else each time.
    let scrubbed = (u64::from(kernel) * 5 + word * 7) % original::PARTS * original::part();
    let mut shell = Shell { kernel, word, tables, devices: 0, scrubbed };
    if word > FIRST_LIFE {
        // A kernel has ended here, and what it died in may be far from what it died of.
        original::scrub_all(kernel, &mut shell.scrubbed);
    }
    ground_of(info, kernel, &mut |run| run.map(&mut shell.tables));
    vmcb.set_up(
        &Entry {
            root,
            rip: crate::start::kernel_start as *const () as u64,
            // As behind a call.
            rsp: stack_top(0) - 8,
            selectors: [KERNEL_CODE, KERNEL_DATA],
            gdt: (CPU_PAGE, 63),
            idt: (IDT_BASE, 4095),
        },
        &Tables {
            nested_root: shell.tables.root(),
            io_map: info.shell + permit::MSR_PAGES * 4096,
            msr_map: info.shell,
        },
    );
    let mut general = General { rdi: kernel.into(), rsi: word, ..General::default() };
    loop {
        // SAFETY: the block describes a guest that can reach this kernel's memory alone; registers that VMRUN does not
        // change are either the guest's or not used here.
        unsafe { shell_enter(own, &mut general) };
        vmcb.control.flush = 0;
        vmcb.control.event = 0;
        match vmcb.exit() {
            Exit::Nmi => {
                shell.nmi(vmcb, &general);
                vmcb.give_again();
            }
            Exit::Call => {
                vmcb.skip(3);
                let number = vmcb.saved.rax;
                vmcb.saved.rax = shell.call(number, general.rdi);
                vmcb.control.flush = (number != call::SCRUB).into();
            }
            Exit::RegisterWrite if general.rcx as u32 == EFER => {
                let value = general.rdx << 32 | vmcb.saved.rax & 0xffff_ffff;
                if value == vmcb::EFER_OF_KERNELS {
                    vmcb.saved.efer = value | vmcb::SVME;
                    vmcb.skip(2);
                } else {
                    vmcb.control.event = vmcb::GENERAL_PROTECTION;
                }
            }
            Exit::RegisterWrite | Exit::RegisterRead | Exit::Port(_) => {
                vmcb.control.event = vmcb::GENERAL_PROTECTION;
            }
            Exit::Forbidden => vmcb.control.event = vmcb::INVALID_OPCODE,
            Exit::TripleFault => shell.end(vmcb, &general, Cause::TripleFault),
            Exit::Outside { address, access } => shell.end(vmcb, &general, Cause::Outside { address, access }),
            Exit::Other(code) => shell.end(vmcb, &general, Cause::Other { code }),
        }
    }
}

impl Shell {
    /// Takes the NMI that waits: the end of the kernel, if that is ordered, else a probe.
    fn nmi(&self, vmcb: &Vmcb, general: &General) {
        if mailbox(self.kernel, MAILBOX_FENCE).load(SeqCst) == self.word {
            self.end(vmcb, general, Cause::Fenced)
        }
        // SAFETY: the park page's handler finds the shell's stack, and a core that starts: it parks it if the order has come
        // by now, and counts the probe otherwise.
        unsafe { core::arch::asm!("stgi", "nop", "clgi", options(nostack)) };
        mailbox(self.kernel, MAILBOX_PROBE_RIP).store(vmcb.saved.rip, SeqCst);
    }
    /// The kernel's end: what is known of it, and the core's way into the park page.
    fn end(&self, vmcb: &Vmcb, general: &General, cause: Cause) -> ! {
        record::leave(self.kernel, self.word, vmcb, general, cause);
        self.park()
    }
    fn park(&self) -> ! {
        original::mend_after(self.kernel, self.word);
        // SAFETY: nothing of the guest runs after this; what came meanwhile finds the park page's handlers.
        unsafe {
            core::arch::asm!("stgi", options(nomem, nostack));
            park::park_enter(self.kernel)
        }
    }
}

fn entry(info: &Info, kernel: u32) -> &KernelInfo {
    &info.entries[kernel as usize % MAX_KERNELS]
}

/// A kernel's pool, as a peer sees it: programs of the dead run from where they lie.
fn pool_of_peer(info: &Info, peer: u32) -> Run {
    let FrameRange { first, count } = entry(info, peer).pool;
    Run::code(first.addr(), count.into())
}

/// All that a kernel can reach when it starts.
fn ground_of(info: &Info, kernel: u32, visit: &mut dyn FnMut(Run)) {
    let own = entry(info, kernel);
    let (private, pool) = (own.private.first.addr(), own.pool.first.addr());
    visit(Run::own(private, (pool - private) / 4096));
    visit(Run::pool(pool, own.pool.count.into()));
    let (text, rodata) = (image::text(), image::rodata());
    visit(Run::code(text.phys, text.pages));
    visit(Run::data(rodata.phys, rodata.pages));
    visit(Run::data(info.info, INFO_PAGES));
    visit(Run::data(info.idt, 1));
    let layout = Layout::new(info.kernels as usize);
    let part = layout.outgoing(KernelId(kernel as u16));
    let page = |word: usize| info.shared + word as u64 * 8;
    let pages = |words: usize| words.div_ceil(PAGE_WORDS) as u64;
    visit(Run::data(info.shared, pages(layout.words())));
    visit(Run::own(page(commons::START), pages(commons::WORDS)));
    visit(Run::own(page(part), pages(outgoing::words(layout.kernels()))));
    visit(Run::registers(info.lapic, 4096));
    for io_apic in info.ioapics() {
        visit(Run::registers(io_apic.phys, 4096));
    }
    if info.power.sleep != 0 {
        visit(Run::registers(info.power.sleep, 1));
    }
}

/// The registers of a device.
fn registers_of(info: &Info, device: Device, visit: &mut dyn FnMut(Run)) {
    info.found.registers(device, &mut |phys, len| visit(Run::registers(phys, len as u64)));
}
