//! The local APIC, in xAPIC mode (SDM 3, chapter 11). Interrupts are only ever sent to one core by its id: a shorthand
//! or broadcast would reach kernels that it is not meant for.
use crate::{
    arch::{pause, rdmsr, rdtsc, wrmsr},
    layout::LAPIC_BASE,
    vectors,
};

const ID: u64 = 0x20;
const TPR: u64 = 0x80;
const EOI: u64 = 0xb0;
const LDR: u64 = 0xd0;
const DFR: u64 = 0xe0;
const SVR: u64 = 0xf0;
const ISR: u64 = 0x100;
const ESR: u64 = 0x280;
const ICR_LOW: u64 = 0x300;
const ICR_HIGH: u64 = 0x310;
const LVT_CMCI: u64 = 0x2f0;
const LVT_TIMER: u64 = 0x320;
const LVT_ERROR: u64 = 0x370;
const TIMER_INITIAL: u64 = 0x380;
const TIMER_CURRENT: u64 = 0x390;
const TIMER_DIVIDE: u64 = 0x3e0;
const MASKED: u32 = 1 << 16;
const APIC_BASE_MSR: u32 = 0x1b;

/// What an interrupt to another core does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ipi {
    /// An ordinary interrupt.
    Fixed(u8),
    /// A non-maskable interrupt.
    Nmi,
    /// INIT.
    Init,
    /// Start-up, at the page of that number.
    Startup(u8),
}

/// The registers of this core's local APIC, wherever they are mapped.
#[derive(Clone, Copy)]
pub struct Lapic {
    base: u64,
}

/// The local APIC as every kernel maps it.
pub const LAPIC: Lapic = Lapic { base: LAPIC_BASE };

impl Lapic {
    /// The registers at another address.
    ///
    /// # Safety
    /// They are mapped there, uncached.
    pub const unsafe fn at(base: u64) -> Lapic {
        Lapic { base }
    }
    fn read(self, register: u64) -> u32 {
        // SAFETY: `base` maps the register page (see `at` and `LAPIC`); all registers are 32 bits wide and aligned.
        unsafe { ((self.base + register) as *const u32).read_volatile() }
    }
    fn write(self, register: u64, value: u32) {
        // SAFETY: as for `read`; the offsets are those of writable registers.
        unsafe { ((self.base + register) as *mut u32).write_volatile(value) }
    }
    /// This core's APIC id.
    pub fn id(self) -> u32 {
        self.read(ID) >> 24
    }
    /// Ends an interrupt.
    pub fn eoi(self) {
        self.write(EOI, 0);
    }

    /// Sets the APIC up from any state, also that of a core whose kernel died inside an interrupt: soft-disable, mask
    /// all local vectors, end what is in service, clear the error register (written twice, SDM 3, 11.5.3), enable.
    pub fn init(self) {
        let base = rdmsr(APIC_BASE_MSR);
        if base & 0x800 == 0 {
            // SAFETY: sets the global enable bit of the APIC that every 64-bit processor has.
            unsafe { wrmsr(APIC_BASE_MSR, base | 0x800) };
        }
        self.write(SVR, u32::from(vectors::SPURIOUS));
        self.quiet();
        for _ in 0..256 {
            let busy = (0..8).any(|n| self.read(ISR + n * 16) != 0);
            if !busy {
                break;
            }
            self.eoi();
        }
        self.write(TPR, 0);
        self.write(DFR, 0xffff_ffff);
        self.write(LDR, 0);
        self.write(ESR, 0);
        self.write(ESR, 0);
        self.write(SVR, 0x100 | u32::from(vectors::SPURIOUS));
        self.write(LVT_ERROR, u32::from(vectors::ERROR));
        self.write(TIMER_DIVIDE, 0b1011);
        self.write(LVT_TIMER, u32::from(vectors::TIMER));
        self.write(TIMER_INITIAL, 0);
    }
    /// Masks every local source that the APIC has.
    pub fn quiet(self) {
        let last = self.read(0x30) >> 16 & 0xff;
        // Timer, LINT0, LINT1, error, performance, thermal; the version register says how many there are.
        let order = [LVT_TIMER, 0x350, 0x360, LVT_ERROR, 0x340, 0x330];
        for (n, at) in order.iter().enumerate() {
            if n as u32 <= last {
                self.write(*at, MASKED);
            }
        }
        if last >= 6 {
            self.write(LVT_CMCI, MASKED);
        }
        self.write(TIMER_INITIAL, 0);
    }
    /// Lets the timer fire once after `ticks`; 0 stops it.
    pub fn timer(self, ticks: u32) {
        self.write(TIMER_INITIAL, ticks);
    }
    /// Starts the timer for a measurement: nothing fires.
    pub fn timer_measure(self) {
        self.write(TIMER_DIVIDE, 0b1011);
        self.write(LVT_TIMER, MASKED);
        self.write(TIMER_INITIAL, u32::MAX);
    }
    /// What is left on the timer.
    pub fn timer_left(self) -> u32 {
        self.read(TIMER_CURRENT)
    }
    /// Sends an interrupt to one core. Waits, within a bound, until the one before has left: the command register is
    /// two writes and a second command would overwrite the first (SDM 3, 11.6.1).
    pub fn send(self, target: u32, ipi: Ipi) {
        self.wait_sent();
        let command = match ipi {
            Ipi::Fixed(vector) => u32::from(vector) | 1 << 14,
            Ipi::Nmi => 4 << 8 | 1 << 14,
            Ipi::Init => 5 << 8 | 1 << 14,
            Ipi::Startup(page) => 6 << 8 | u32::from(page) | 1 << 14,
        };
        self.write(ICR_HIGH, target << 24);
        self.write(ICR_LOW, command);
        self.wait_sent();
    }
    fn wait_sent(self) {
        let start = rdtsc();
        // About a hundred milliseconds on any processor; a stuck APIC must not hang its kernel too.
        while self.read(ICR_LOW) & 1 << 12 != 0 && rdtsc().wrapping_sub(start) < 300_000_000 {
            pause();
        }
    }
}
