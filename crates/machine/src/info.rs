//! The boot facts: what the boot core found and decided, written once and read-only for all kernels ever after.
use crate::{device::Found, layout::INFO_BASE};
use core::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use shimos_abi::{
    addr::{FrameRange, PAGE},
    control::Partition,
    ids::{Incarnation, KernelId, Life, MAX_KERNELS},
};

/// One kernel's core and memory.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct KernelInfo {
    /// APIC id of its core.
    pub apic: u32,
    /// Pages of its kernel part: tables, data, stacks.
    pub part_pages: u32,
    /// Its private memory.
    pub private: FrameRange,
    /// The part of it that is the pool.
    pub pool: FrameRange,
    /// Physical address of the heap.
    pub heap: u64,
    /// Bytes of the heap.
    pub heap_bytes: u64,
    /// Physical address of the drivers' memory.
    pub dma: u64,
}

/// An I/O APIC.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct IoApic {
    /// Physical address of its registers.
    pub phys: u64,
    /// First global interrupt it serves.
    pub gsi_base: u32,
    /// Its id.
    pub id: u32,
}

/// An ISA interrupt that is not wired one to one.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct IrqOverride {
    /// The ISA interrupt.
    pub irq: u32,
    /// The global interrupt it arrives at.
    pub gsi: u32,
    /// Polarity and trigger mode, as in the MADT (ACPI 6.5, 5.2.12.5).
    pub flags: u32,
}

/// How the machine is switched off.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct PowerInfo {
    /// I/O port of PM1a_CNT, or 0.
    pub pm1a: u32,
    /// Physical address of the sleep control register of a hardware-reduced machine, or 0.
    pub sleep: u64,
}

/// See the module.
#[repr(C)]
pub struct Info {
    /// Page tables of parked cores.
    pub park_cr3: u64,
    /// Page tables of starting cores: all memory.
    pub stage_cr3: u64,
    /// Kernel on the core of each APIC id; 0xff for none.
    pub by_apic: [u8; 256],
    /// How many kernels.
    pub kernels: u32,
    /// The kernel on the boot core.
    pub boot_kernel: u32,
    /// Physical address of the local APICs.
    pub lapic: u64,
    /// Physical address of the shared area.
    pub shared: u64,
    /// Physical address of this structure and of the kernel's IDT behind it.
    pub info: u64,
    /// Physical address of the kernel's IDT.
    pub idt: u64,
    /// End of physical memory, in GiB, rounded up.
    pub gigabytes: u64,
    /// TSC ticks a second.
    pub tsc_hz: u64,
    /// Local APIC timer ticks a second at divider 1.
    pub lapic_hz: u64,
    /// Nanoseconds of one TSC tick, times 2^32.
    pub tsc_scale: u64,
    /// TSC at the machine's time 0.
    pub tsc_base: u64,
    /// What is added to every core's TSC, if it began anew at a reset; 0 if not.
    pub tsc_adjust: u64,
    /// CLOCK_REALTIME at the machine's time 0.
    pub wall_base: u64,
    /// The kernels.
    pub entries: [KernelInfo; MAX_KERNELS],
    /// Number of I/O APICs.
    pub ioapic_count: u32,
    /// Number of overrides.
    pub override_count: u32,
    /// I/O APICs.
    pub ioapics: [IoApic; 4],
    /// ISA interrupts that are not wired one to one.
    pub overrides: [IrqOverride; 16],
    /// Physical address of PCI configuration space (MCFG, segment 0), or 0.
    pub ecam: u64,
    /// First and last bus of it.
    pub ecam_buses: [u32; 2],
    /// Physical address of the trampoline.
    pub trampoline: u64,
    /// Switching off.
    pub power: PowerInfo,
    /// What keeps kernels apart.
    pub partition: Partition,
    /// Seconds after which the watchdog resets a machine that nobody watches; 0 if there is none.
    pub watchdog: u64,
    /// Physical address of the shells' memory.
    pub shell: u64,
    /// Disk and network card.
    pub found: Found,
    /// Bytes of the command line.
    pub cmdline_len: u64,
    /// The command line.
    pub cmdline: [u8; 2048],
}

/// Pages that [`Info`] takes.
pub const INFO_PAGES: u64 = size_of::<Info>().div_ceil(PAGE) as u64;

impl Info {
    /// Physical address of the IDT of parked cores, behind that of kernels.
    pub fn park_idt(&self) -> u64 {
        self.idt + PAGE as u64
    }
    /// Physical address of the stacks of parked cores, behind that.
    pub fn park_stacks(&self) -> u64 {
        self.idt + 2 * PAGE as u64
    }
    /// The I/O APICs.
    pub fn ioapics(&self) -> &[IoApic] {
        self.ioapics.get(..self.ioapic_count as usize).unwrap_or(&[])
    }
    /// The overrides.
    pub fn overrides(&self) -> &[IrqOverride] {
        self.overrides.get(..self.override_count as usize).unwrap_or(&[])
    }
    /// The trampoline's page number, as SIPI takes it.
    pub fn trampoline_page(&self) -> u8 {
        (self.trampoline >> 12) as u8
    }
    /// The command line.
    pub fn cmdline(&self) -> &str {
        let bytes = self.cmdline.get(..self.cmdline_len as usize).unwrap_or(&[]);
        core::str::from_utf8(bytes).unwrap_or("")
    }
}

/// Nanoseconds of one tick of a clock of `hz`, times 2^32.
pub fn scale_of(hz: u64) -> u64 {
    ((1_000_000_000_u128 << 32) / u128::from(hz.max(1))) as u64
}

/// The boot facts. Only under the page tables of a kernel or of a starting core.
#[inline]
pub fn info() -> &'static Info {
    // SAFETY: all those page tables map the facts here, read-only, and nobody writes them any more.
    unsafe { &*(INFO_BASE as *const Info) }
}

/// This kernel's number and incarnation, set before anything else runs.
static SELF: [AtomicUsize; 2] = [AtomicUsize::new(0), AtomicUsize::new(0)];

/// Sets who this kernel is.
pub(crate) fn set_life(life: Life) {
    SELF[0].store(life.kernel.index(), Relaxed);
    SELF[1].store(life.incarnation.0 as usize, Relaxed);
}

/// Who this kernel is.
#[inline]
pub fn life() -> Life {
    Life { kernel: KernelId(SELF[0].load(Relaxed) as u16), incarnation: Incarnation(SELF[1].load(Relaxed) as u32) }
}

/// This kernel's core and memory.
#[inline]
pub fn me() -> &'static KernelInfo {
    &info().entries[life().kernel.index() % MAX_KERNELS]
}
