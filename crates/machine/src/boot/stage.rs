//! The start of an incarnation, on its own core, under the stage page tables: everything that the kernel will use is
//! made anew in its private memory. The heap and the pool are left as they are; the pool holds the images.
use super::{image, warm::TSC_ADJUST};
use crate::{
    arch::wrmsr,
    info::{INFO_PAGES, Info, KernelInfo, info},
    layout::{
        CPU_PAGE, DIRECT_BASE, DMA_BYTES, HEAP_BASE, IDT_BASE, INFO_BASE, KERNEL_DATA, LAPIC_BASE, LARGE, MMIO_BASE,
        MMIO_TABLES, PARK_IDT_BASE, PARK_STACK_BYTES, PARK_STACKS_BASE, ROOT_BASE, SHARED_BASE, STACKS, TABLES_BASE,
        TASK, stack_top,
    },
    paging::{CODE, DEVICE, READ_ONLY, READ_WRITE, build::Builder},
    shell,
};
use core::{
    arch::global_asm,
    mem::{offset_of, size_of},
};
use shimos_abi::{
    control::Partition,
    ids::{KernelId, MAX_KERNELS},
    shared::{Layout, PAGE_WORDS, commons, outgoing},
};

/// The task state segment (SDM 3, 8.7).
#[repr(C, packed(4))]
struct TaskState {
    zero: u32,
    stacks: [u64; 3],
    zero_2: u64,
    interrupt_stacks: [u64; 7],
    zero_3: u64,
    zero_4: u16,
    io_map: u16,
}

/// The kernel's page of processor structures. Read-only for the kernel itself.
#[repr(C)]
pub struct StartPage {
    gdt: [u64; 8],
    task: TaskState,
    /// Physical address of the kernel's own page tables.
    pub root: u64,
}

/// The kernel's page of processor structures, once it runs.
pub fn start_page() -> &'static StartPage {
    // SAFETY: every kernel's tables map its page here, read-only, and it is complete before they are loaded.
    unsafe { &*(CPU_PAGE as *const StartPage) }
}

global_asm!(
    r#"
    # RDI: page tables, RSI: stack, EDX: which kernel, RCX: incarnation plus one. An NMI on the way finds the handlers of
    # parked cores, and a stack: both sets of tables have them.
stage_leave:
    lea eax, [rdx + 1]
    imul rax, rax, {stack_bytes}
    mov r8, {stacks}
    lea rsp, [r8 + rax]
    lgdt [rip + park_gdtr]
    mov cr3, rdi
    mov rsp, rsi
    sub rsp, 16
    mov word ptr [rsp], 63
    mov rax, {gdt}
    mov [rsp + 2], rax
    lgdt [rsp]
    mov word ptr [rsp], 4095
    mov rax, {idt}
    mov [rsp + 2], rax
    lidt [rsp]
    mov rsp, rsi
    xor ebp, ebp
    mov edi, edx
    mov rsi, rcx
    call {entry}
    ud2
"#,
    gdt = const CPU_PAGE,
    idt = const IDT_BASE,
    entry = sym crate::start::kernel_start,
    stack_bytes = const PARK_STACK_BYTES,
    stacks = const PARK_STACKS_BASE,
);

unsafe extern "C" {
    fn stage_leave(root: u64, stack: u64, kernel: u32, word: u64) -> !;
}

/// Prepares the private memory of `kernel` and goes over to it. `word` is the incarnation plus one.
pub extern "C" fn stage_main(kernel: u32, word: u64) -> ! {
    let entry = &info().entries[kernel as usize % MAX_KERNELS];
    // SAFETY: the private memory is this kernel's alone, mapped one to one under the stage tables; the earlier
    // incarnation has ended, and this core is the only one that starts the next. Nothing has told a time here yet.
    unsafe {
        if info().tsc_adjust != 0 {
            // The boot core has seen that the register is there. A kernel in a shell may not write it.
            wrmsr(TSC_ADJUST, info().tsc_adjust);
        }
        let root = prepare(kernel, entry);
        match info().partition {
            Partition::None => stage_leave(root, stack_top(0), kernel, word),
            Partition::Svm => shell::start(kernel, word, root),
        }
    }
}

/// Where the parts of a kernel part lie, physical addresses; first of all the top table of the direct map.
struct Part {
    base: u64,
    directories: u64,
    mmio_tables: u64,
    window_pages: u64,
    cpu_page: u64,
    own_data: u64,
    own_bss: u64,
    stacks: u64,
    tables: u64,
}

impl Part {
    fn of(info: &Info, entry: &KernelInfo) -> Part {
        let base = entry.private.first.addr();
        let directories = base + 4096;
        let mmio_tables = directories + info.gigabytes * 4096;
        let window_pages = 1 + info.gigabytes + MMIO_TABLES as u64;
        let cpu_page = base + window_pages * 4096;
        let own_data = cpu_page + 4096;
        let own_bss = own_data + image::data().pages * 4096;
        let stacks = own_bss + image::bss().pages * 4096;
        let tables = stacks + STACKS.iter().sum::<u64>() * 4096;
        Part { base, directories, mmio_tables, window_pages, cpu_page, own_data, own_bss, stacks, tables }
    }
}

/// Physical address of a kernel's page tables, the same in every incarnation.
pub fn tables_of(info: &Info, entry: &KernelInfo) -> u64 {
    Part::of(info, entry).tables
}

/// Physical address of a kernel's stacks, the event loop's first.
pub(crate) fn stacks_of(entry: &KernelInfo) -> u64 {
    Part::of(info(), entry).stacks
}

unsafe fn prepare(kernel: u32, entry: &KernelInfo) -> u64 {
    let info = info();
    let (data, bss) = (image::data(), image::bss());
    let Part { base, directories, mmio_tables, window_pages, cpu_page, own_data, own_bss, stacks, tables } =
        Part::of(info, entry);
    let end = base + (u64::from(entry.part_pages) - super::plan::START_STACK_PAGES) * 4096;
    // SAFETY: the caller's: all of it is private memory of this kernel, laid out by `plan`.
    unsafe {
        core::ptr::write_bytes(base as *mut u64, 0, window_pages as usize * 512);
        core::ptr::copy_nonoverlapping(data.phys as *const u64, own_data as *mut u64, data.pages as usize * 512);
        core::ptr::write_bytes(own_bss as *mut u64, 0, bss.pages as usize * 512);
        let mut to = Builder::new(tables, end);
        // Direct map: one directory a GiB, so that peers' pools can be shown later without new tables.
        to.install(3, DIRECT_BASE, base);
        for n in 0..info.gigabytes {
            to.install(2, DIRECT_BASE + (n << 30), directories + n * 4096);
        }
        to.map_large(DIRECT_BASE + entry.dma, entry.dma, DMA_BYTES as u64 / LARGE, READ_WRITE);
        let pool = entry.pool.first.addr();
        to.map_large(DIRECT_BASE + pool, pool, u64::from(entry.pool.count) / 512, READ_WRITE);
        // The image.
        let (text, rodata) = (image::text(), image::rodata());
        to.map_run(text.virt, text.phys, text.pages, CODE);
        to.map_run(rodata.virt, rodata.phys, rodata.pages, READ_ONLY);
        to.map_run(data.virt, own_data, data.pages, READ_WRITE);
        to.map_run(bss.virt, own_bss, bss.pages, READ_WRITE);
        // Heap, stacks, processor structures, windows.
        to.map_large(HEAP_BASE, entry.heap, entry.heap_bytes / LARGE, READ_WRITE);
        let mut place = stacks;
        for (n, pages) in STACKS.into_iter().enumerate() {
            to.map_run(stack_top(n) - pages * 4096, place, pages, READ_WRITE);
            place += pages * 4096;
        }
        to.map(CPU_PAGE, cpu_page, READ_ONLY);
        to.map(ROOT_BASE, to.root(), READ_WRITE);
        to.map(IDT_BASE, info.idt, READ_ONLY);
        if info.partition == Partition::None {
            // For the way to the park page and back. With a shell, only that goes there.
            let own = u64::from(kernel) * PARK_STACK_BYTES;
            to.map(PARK_IDT_BASE, info.park_idt(), READ_ONLY);
            to.map(PARK_STACKS_BASE + own, info.park_stacks() + own, READ_WRITE);
        }
        to.map_run(INFO_BASE, info.info, INFO_PAGES, READ_ONLY);
        to.map(LAPIC_BASE, info.lapic, DEVICE);
        to.map_run(TABLES_BASE, directories, info.gigabytes + MMIO_TABLES as u64, READ_WRITE);
        for n in 0..MMIO_TABLES as u64 {
            to.install(1, MMIO_BASE + n * LARGE, mmio_tables + n * 4096);
        }
        map_shared(&mut to, kernel);
        write_start_page(cpu_page, to.root());
        to.root()
    }
}

/// The shared area: commons and own outgoing part can be written, the rest only read.
fn map_shared(to: &mut Builder, kernel: u32) {
    let info = info();
    let layout = Layout::new(info.kernels as usize);
    let own = layout.outgoing(KernelId(kernel as u16));
    let own = own..own + outgoing::words(layout.kernels());
    let commons = commons::START..commons::START + commons::WORDS;
    for word in (0..layout.words()).step_by(PAGE_WORDS) {
        let ours = own.contains(&word) || commons.contains(&word);
        let at = word as u64 * 8;
        to.map(SHARED_BASE + at, info.shared + at, if ours { READ_WRITE } else { READ_ONLY });
    }
}

/// Writes GDT and TSS, and loads the task register: that marks the descriptor as busy, which
/// must happen through this mapping, for the kernel's own is read-only.
unsafe fn write_start_page(at: u64, root: u64) {
    const KERNEL_CODE_BITS: u64 = 0x00af_9b00_0000_ffff;
    const KERNEL_DATA_BITS: u64 = 0x00cf_9300_0000_ffff;
    const USER_DATA_BITS: u64 = 0x00cf_f300_0000_ffff;
    const USER_CODE_BITS: u64 = 0x00af_fb00_0000_ffff;
    let base = CPU_PAGE + offset_of!(StartPage, task) as u64;
    let limit = size_of::<TaskState>() as u64 - 1;
    let task_low = limit | (base & 0xff_ffff) << 16 | 0x89 << 40 | (base >> 24 & 0xff) << 56;
    // SAFETY: the page and the tables are private memory of this kernel, mapped one to one; the selectors are those of
    // the table that is loaded here.
    unsafe {
        (at as *mut StartPage).write(StartPage {
            gdt: [0, KERNEL_CODE_BITS, KERNEL_DATA_BITS, 0, USER_DATA_BITS, USER_CODE_BITS, task_low, base >> 32],
            task: TaskState {
                zero: 0,
                stacks: [stack_top(1), 0, 0],
                zero_2: 0,
                interrupt_stacks: [stack_top(2), stack_top(3), stack_top(4), stack_top(5), 0, 0, 0],
                zero_3: 0,
                zero_4: 0,
                io_map: size_of::<TaskState>() as u16,
            },
            root,
        });
        let pointer: [u16; 5] = [63, at as u16, (at >> 16) as u16, (at >> 32) as u16, (at >> 48) as u16];
        core::arch::asm!(
            "lgdt [{pointer}]",
            "mov ss, {data:x}",
            "ltr {task:x}",
            pointer = in(reg) &pointer,
            data = in(reg) u64::from(KERNEL_DATA),
            task = in(reg) u64::from(TASK),
            options(nostack)
        );
    }
}
