//! Single instructions of the processor, with their rules. References are to the Intel SDM, volumes 2 and 3.
use core::arch::{asm, x86_64::__cpuid_count};

/// Writes a byte to an I/O port.
pub fn outb(port: u16, value: u8) {
    // SAFETY: port output touches no memory of ours; what the device does with it is the caller's business.
    unsafe { asm!("out dx, al", in("dx") port, in("al") value, options(nomem, nostack, preserves_flags)) }
}
/// Writes 16 bits to an I/O port.
pub fn outw(port: u16, value: u16) {
    // SAFETY: as for `outb`.
    unsafe { asm!("out dx, ax", in("dx") port, in("ax") value, options(nomem, nostack, preserves_flags)) }
}
/// Writes 32 bits to an I/O port.
pub fn outl(port: u16, value: u32) {
    // SAFETY: as for `outb`.
    unsafe { asm!("out dx, eax", in("dx") port, in("eax") value, options(nomem, nostack, preserves_flags)) }
}
/// Reads a byte from an I/O port.
pub fn inb(port: u16) -> u8 {
    let value;
    // SAFETY: port input touches no memory of ours.
    unsafe { asm!("in al, dx", in("dx") port, out("al") value, options(nomem, nostack, preserves_flags)) }
    value
}
/// Reads 16 bits from an I/O port.
pub fn inw(port: u16) -> u16 {
    let value;
    // SAFETY: as for `inb`.
    unsafe { asm!("in ax, dx", in("dx") port, out("ax") value, options(nomem, nostack, preserves_flags)) }
    value
}
/// Reads 32 bits from an I/O port.
pub fn inl(port: u16) -> u32 {
    let value;
    // SAFETY: as for `inb`.
    unsafe { asm!("in eax, dx", in("dx") port, out("eax") value, options(nomem, nostack, preserves_flags)) }
    value
}
/// The time-stamp counter.
#[inline]
pub fn rdtsc() -> u64 {
    // SAFETY: every 64-bit processor has it, and ring 0 may always read it.
    unsafe { core::arch::x86_64::_rdtsc() }
}
/// Reads a model-specific register that exists.
#[inline]
pub fn rdmsr(msr: u32) -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: callers name architectural registers whose presence they checked.
    unsafe { asm!("rdmsr", in("ecx") msr, out("eax") low, out("edx") high, options(nomem, nostack, preserves_flags)) }
    u64::from(high) << 32 | u64::from(low)
}
/// Writes a model-specific register.
///
/// # Safety
/// The register exists and the value keeps the processor in a state that the code around expects.
#[inline]
pub unsafe fn wrmsr(msr: u32, value: u64) {
    // SAFETY: the caller's.
    unsafe {
        asm!(
            "wrmsr",
            in("ecx") msr, in("eax") value as u32, in("edx") (value >> 32) as u32,
            options(nostack, preserves_flags)
        );
    }
}
/// CPUID; zeros for a leaf that does not exist.
pub fn cpuid(leaf: u32, sub: u32) -> [u32; 4] {
    let limit = __cpuid_count(leaf & 0x8000_0000, 0).eax;
    if leaf > limit {
        return [0; 4];
    }
    let r = __cpuid_count(leaf, sub);
    [r.eax, r.ebx, r.ecx, r.edx]
}
/// What a hypervisor calls itself; zeros without one. Its leaves have a range of their own.
pub fn hypervisor() -> [u8; 12] {
    const PRESENT: u32 = 1 << 31;
    let mut name = [0; 12];
    if __cpuid_count(1, 0).ecx & PRESENT != 0 {
        let r = __cpuid_count(0x4000_0000, 0);
        for (to, from) in name.chunks_exact_mut(4).zip([r.ebx, r.ecx, r.edx]) {
            to.copy_from_slice(&from.to_le_bytes());
        }
    }
    name
}
/// The address of the last page fault.
#[inline]
pub fn read_cr2() -> u64 {
    let value;
    // SAFETY: reading it has no effect.
    unsafe { asm!("mov {}, cr2", out(reg) value, options(nomem, nostack, preserves_flags)) }
    value
}
/// Control register 3.
pub fn read_cr3() -> u64 {
    let value;
    // SAFETY: reading it has no effect.
    unsafe { asm!("mov {}, cr3", out(reg) value, options(nomem, nostack, preserves_flags)) }
    value
}
/// Switches page tables.
///
/// # Safety
/// The tables map all that the kernel uses, at the same addresses.
#[inline]
pub unsafe fn write_cr3(value: u64) {
    // SAFETY: the caller's.
    unsafe { asm!("mov cr3, {}", in(reg) value, options(nostack, preserves_flags)) }
}
/// Forgets the translation of one page.
#[inline]
pub fn invlpg(address: u64) {
    // SAFETY: only costs time.
    unsafe { asm!("invlpg [{}]", in(reg) address, options(nostack, preserves_flags)) }
}
/// One step of a waiting loop.
pub fn pause() {
    core::hint::spin_loop();
}
/// Waits for an interrupt and takes it. STI holds interrupts off until behind the next instruction (SDM 2, STI), so one
/// that was pending wakes the HLT and none is lost.
pub fn wait_for_interrupt() {
    // SAFETY: the interrupt gates lead to handlers that keep all registers.
    unsafe { asm!("sti", "hlt", "cli", options(nostack)) }
}
/// Lets pending interrupts in, once.
pub fn take_interrupts() {
    // SAFETY: as above.
    unsafe { asm!("sti", "nop", "cli", options(nostack)) }
}
/// Interrupts on.
pub fn sti() {
    // SAFETY: the handlers keep all registers.
    unsafe { asm!("sti", options(nostack)) }
}
/// Interrupts off.
pub fn cli() {
    // SAFETY: only holds interrupts off.
    unsafe { asm!("cli", options(nostack)) }
}
/// Stops this core, for good.
pub fn stop() -> ! {
    loop {
        // SAFETY: with interrupts off this only waits.
        unsafe { asm!("cli", "hlt", options(nomem, nostack)) }
    }
}
