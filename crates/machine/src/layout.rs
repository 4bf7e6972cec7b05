//! The kernel half of the address space. The same addresses in every kernel; what is behind them is each kernel's own,
//! save for what is said to be shared.
//!
//! | what | access | whose |
//! |---|---|---|
//! | image: text, rodata | read (and execute text) | shared |
//! | image: data, bss | read, write | own |
//! | direct map: drivers' memory and pool | read, write | own |
//! | direct map: a peer's pool, after `map_dead` or `map_lent` | read | the peer's |
//! | heap, stacks, table window | read, write | own |
//! | shared area: master table, peers' outgoing parts | read | shared |
//! | shared area: commons, own outgoing part | read, write | shared |
//! | GDT and TSS | read | own |
//! | top page table | read, write | own |
//! | boot facts, IDT | read | shared |
//! | local APIC, device registers | read, write | own core's |

/// Bytes of a large page.
pub const LARGE: u64 = 2 << 20;
/// What the image's addresses exceed its load addresses by.
pub const IMAGE_OFFSET: u64 = 0xffff_ffff_8000_0000;
/// The direct map: physical address `p` is at `DIRECT_BASE + p`, where mapped at all.
pub const DIRECT_BASE: u64 = 0xffff_8800_0000_0000;
/// Physical memory that the direct map can show.
pub const DIRECT_BYTES: u64 = 512 << 30;
/// The rest of the kernel half, one top-level entry.
pub const FIXED_BASE: u64 = 0xffff_c000_0000_0000;
/// The heap, in large pages.
pub const HEAP_BASE: u64 = FIXED_BASE;
/// The shared memory area.
pub const SHARED_BASE: u64 = FIXED_BASE + (64 << 30);
/// GDT and TSS, one page.
pub const CPU_PAGE: u64 = FIXED_BASE + (128 << 30);
/// The local APIC's registers, one page.
pub const LAPIC_BASE: u64 = CPU_PAGE + 0x1000;
/// The kernel's IDT, one page.
pub const IDT_BASE: u64 = CPU_PAGE + 0x2000;
/// The IDT of parked and starting cores, one page. Kernels see it too, and their own core's stack of those below: an NMI on the
/// way from one set of tables to the other finds both.
pub const PARK_IDT_BASE: u64 = CPU_PAGE + 0x3000;
/// The kernel's top page table, one page: the top of the loaded address space comes and goes there.
pub const ROOT_BASE: u64 = CPU_PAGE + 0xc000;
/// The stacks of parked cores, one page each.
pub const PARK_STACKS_BASE: u64 = CPU_PAGE + 0x8_0000;
/// Bytes of the stack of one parked core.
pub const PARK_STACK_BYTES: u64 = 4096;
/// Pages of all stacks of parked cores.
pub const PARK_STACK_PAGES: u64 = shimos_abi::ids::MAX_KERNELS as u64;
/// The boot facts ([`crate::info::Info`]).
pub const INFO_BASE: u64 = CPU_PAGE + 0x10000;
/// Where the kernel's stacks lie: each below its top, with an unmapped page under it.
pub const STACKS_BASE: u64 = CPU_PAGE + 0x100_0000;
/// Distance of the stacks' tops.
pub const STACK_STRIDE: u64 = 0x10_0000;
/// Pages of the event loop's stack.
pub const STACK_PAGES: u64 = 128;
/// Pages of the stack for traps from user mode.
pub const ENTRY_STACK_PAGES: u64 = 1;
/// Pages of each stack of the interrupt stack table.
pub const IST_STACK_PAGES: u64 = 4;
/// Stacks: the event loop's, the one for entries from user mode, and those of NMI, #DF, #MC and #DB.
pub const STACKS: [u64; 6] =
    [STACK_PAGES, ENTRY_STACK_PAGES, IST_STACK_PAGES, IST_STACK_PAGES, IST_STACK_PAGES, IST_STACK_PAGES];
/// Window on those of the kernel's own page tables that change while it runs.
pub const TABLES_BASE: u64 = FIXED_BASE + (192 << 30);
/// Device registers.
pub const MMIO_BASE: u64 = FIXED_BASE + (256 << 30);
/// Page tables of the device registers' window.
pub const MMIO_TABLES: usize = 4;
/// Pages in the device registers' window.
pub const MMIO_PAGES: usize = MMIO_TABLES * 512;
/// Bytes of the drivers' memory.
pub const DMA_BYTES: usize = LARGE as usize;

/// Top of stack `n` of [`STACKS`].
pub const fn stack_top(n: usize) -> u64 {
    STACKS_BASE + (n as u64 + 1) * STACK_STRIDE
}

/// Selector of the kernel's code.
pub const KERNEL_CODE: u16 = 0x08;
/// Selector of the kernel's data.
pub const KERNEL_DATA: u16 = 0x10;
/// Selector that SYSRET counts from: user data is 8, user code 16 above it.
pub const USER_BASE: u16 = 0x1b;
/// Selector of user data.
pub const USER_DATA: u16 = 0x23;
/// Selector of user code.
pub const USER_CODE: u16 = 0x2b;
/// Selector of the task state.
pub const TASK: u16 = 0x30;
