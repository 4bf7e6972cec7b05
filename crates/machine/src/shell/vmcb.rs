//! The block that describes a guest to the processor (AMD64 manual 2, appendix B), and what an exit means.

/// A segment of the guest.
#[derive(Clone, Copy, Default)]
#[repr(C)]
pub struct Segment {
    /// Selector.
    pub selector: u16,
    /// Attributes: access byte, and the flags above it without a gap.
    pub attributes: u16,
    /// Limit, in bytes.
    pub limit: u32,
    /// Base.
    pub base: u64,
}

/// The control area: what the processor intercepts, and why it came back.
#[repr(C)]
pub struct Control {
    intercepts: [u32; 6],
    reserved: [u8; 0x28],
    /// Physical address of the permission map of I/O ports.
    pub io_map: u64,
    /// Physical address of the permission map of model-specific registers.
    pub msr_map: u64,
    tsc_offset: u64,
    asid: u32,
    /// 1: forget all translations at the next entry.
    pub flush: u32,
    virtual_interrupt: u64,
    /// Bit 0: interrupts are held off for one instruction.
    pub shadow: u64,
    exit_code: u64,
    exit_info: [u64; 2],
    exit_event: u64,
    nested: u64,
    reserved_2: [u64; 2],
    /// An event that the guest gets at the next entry.
    pub event: u64,
    nested_root: u64,
    reserved_3: [u8; 0x348],
}

/// The state of the guest that VMRUN loads and an exit stores.
#[repr(C)]
pub struct Saved {
    es: Segment,
    cs: Segment,
    ss: Segment,
    ds: Segment,
    fs: Segment,
    gs: Segment,
    gdtr: Segment,
    ldtr: Segment,
    idtr: Segment,
    tr: Segment,
    reserved: [u8; 0x2b],
    /// Privilege level of the guest.
    pub cpl: u8,
    reserved_2: [u8; 4],
    /// EFER.
    pub efer: u64,
    reserved_3: [u8; 0x70],
    cr4: u64,
    /// Page tables of the guest.
    pub cr3: u64,
    cr0: u64,
    dr7: u64,
    dr6: u64,
    /// Flags.
    pub rflags: u64,
    /// Instruction pointer.
    pub rip: u64,
    reserved_4: [u8; 0x58],
    /// Stack pointer.
    pub rsp: u64,
    reserved_5: [u8; 0x18],
    /// RAX.
    pub rax: u64,
    reserved_6: [u8; 0x40],
    /// Address of the last page fault.
    pub cr2: u64,
    reserved_7: [u8; 0x20],
    pat: u64,
    reserved_8: [u8; 0x990],
}

/// The whole block, one page.
#[repr(C)]
pub struct Vmcb {
    /// Control area.
    pub control: Control,
    /// The guest's state.
    pub saved: Saved,
}

const _: () = {
    use core::mem::offset_of;
    assert!(size_of::<Vmcb>() == 4096);
    assert!(offset_of!(Control, io_map) == 0x40 && offset_of!(Control, asid) == 0x58);
    assert!(offset_of!(Control, exit_code) == 0x70 && offset_of!(Control, nested) == 0x90);
    assert!(offset_of!(Control, event) == 0xa8 && offset_of!(Control, nested_root) == 0xb0);
    assert!(offset_of!(Vmcb, saved) == 0x400);
    assert!(offset_of!(Saved, cpl) == 0xcb && offset_of!(Saved, efer) == 0xd0 && offset_of!(Saved, cr4) == 0x148);
    assert!(offset_of!(Saved, rip) == 0x178 && offset_of!(Saved, rsp) == 0x1d8 && offset_of!(Saved, rax) == 0x1f8);
    assert!(offset_of!(Saved, cr2) == 0x240 && offset_of!(Saved, pat) == 0x268);
};

/// SVM is on: EFER.SVME. A guest must have it, too.
pub const SVME: u64 = 1 << 12;
/// What a kernel may have in EFER: SCE, LME, LMA, NXE.
pub const EFER_OF_KERNELS: u64 = 0xd01;
/// An event is there.
const EVENT_VALID: u64 = 1 << 31;
/// The exception "invalid opcode", as an event.
pub const INVALID_OPCODE: u64 = EVENT_VALID | 3 << 8 | 6;
/// The exception "general protection", with an error code of 0, as an event.
pub const GENERAL_PROTECTION: u64 = EVENT_VALID | 1 << 11 | 3 << 8 | 13;

/// Intercepts of the fourth word: NMI, INVLPGA, protected I/O ports, protected registers, shutdown.
const INTERCEPTS_3: u32 = 1 << 1 | 1 << 26 | 1 << 27 | 1 << 28 | 1 << 31;
/// Intercepts of the fifth word: VMRUN, VMMCALL, VMLOAD, VMSAVE, STGI, CLGI, SKINIT.
const INTERCEPTS_4: u32 = 0x7f;

/// How a guest begins: in 64-bit mode, interrupts off.
#[derive(Clone, Copy)]
pub struct Entry {
    /// Its page tables.
    pub root: u64,
    /// Its first instruction.
    pub rip: u64,
    /// Its stack.
    pub rsp: u64,
    /// Selectors of its code and its data.
    pub selectors: [u16; 2],
    /// Address and limit of its GDT.
    pub gdt: (u64, u32),
    /// Address and limit of its IDT.
    pub idt: (u64, u32),
}

/// Physical addresses of what describes a guest beside the block.
#[derive(Clone, Copy)]
pub struct Tables {
    /// Nested page tables.
    pub nested_root: u64,
    /// Permission map of I/O ports.
    pub io_map: u64,
    /// Permission map of model-specific registers.
    pub msr_map: u64,
}

impl Vmcb {
    /// Describes a guest that begins. The block was all zeros.
    pub fn set_up(&mut self, entry: &Entry, tables: &Tables) {
        let control = &mut self.control;
        control.intercepts[3] = INTERCEPTS_3;
        control.intercepts[4] = INTERCEPTS_4;
        control.io_map = tables.io_map;
        control.msr_map = tables.msr_map;
        // One guest a core, so one number does for all; what the last incarnation left in the TLB is forgotten.
        control.asid = 1;
        control.flush = 1;
        control.nested = 1;
        control.nested_root = tables.nested_root;
        let saved = &mut self.saved;
        let flat = Segment { limit: u32::MAX, ..Segment::default() };
        saved.cs = Segment { selector: entry.selectors[0], attributes: 0xa9b, ..flat };
        saved.ss = Segment { selector: entry.selectors[1], attributes: 0xc93, ..flat };
        (saved.ds, saved.es) = (saved.ss, saved.ss);
        saved.gdtr = Segment { base: entry.gdt.0, limit: entry.gdt.1, ..Segment::default() };
        saved.idtr = Segment { base: entry.idt.0, limit: entry.idt.1, ..Segment::default() };
        saved.efer = EFER_OF_KERNELS | SVME;
        // PG, WP, NE, ET, MP, PE; PAE, MCE. The kernel adds what it wants.
        saved.cr0 = 0x8001_0033;
        saved.cr3 = entry.root;
        saved.cr4 = 0x60;
        saved.dr6 = 0xffff_0ff0;
        saved.dr7 = 0x400;
        saved.rflags = 2;
        saved.rip = entry.rip;
        saved.rsp = entry.rsp;
        // The power-up value: the kernels' page tables rely on attribute 3 being uncached.
        saved.pat = 0x0007_0406_0007_0406;
    }
    /// Why the guest came back.
    pub fn exit(&self) -> Exit {
        let [first, second] = self.control.exit_info;
        match self.control.exit_code {
            0x61 => Exit::Nmi,
            0x81 if self.saved.cpl == 0 => Exit::Call,
            0x7a | 0x80..=0x86 => Exit::Forbidden,
            0x7b => Exit::Port((first >> 16) as u16),
            0x7c if first & 1 != 0 => Exit::RegisterWrite,
            0x7c => Exit::RegisterRead,
            0x7f => Exit::TripleFault,
            0x400 => Exit::Outside { address: second, access: Access::of(first) },
            code => Exit::Other(code),
        }
    }
    /// The event that was on its way to the guest when it came back is given to it at the next entry (AMD64 manual 2, 15.7.2).
    pub fn give_again(&mut self) {
        if self.control.exit_event & EVENT_VALID != 0 {
            self.control.event = self.control.exit_event;
        }
    }
    /// The instruction that came here is done; it was so many bytes long.
    pub fn skip(&mut self, bytes: u64) {
        self.saved.rip = self.saved.rip.wrapping_add(bytes);
        self.control.shadow = 0;
    }
}

/// What a guest did to memory that is not its own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// A load.
    Read,
    /// A store.
    Write,
    /// An instruction fetch.
    Execute,
}

impl Access {
    /// From the error code of the fault.
    fn of(code: u64) -> Access {
        match code {
            code if code & 1 << 4 != 0 => Access::Execute,
            code if code & 1 << 1 != 0 => Access::Write,
            _ => Access::Read,
        }
    }
    /// In a word.
    pub const fn name(self) -> &'static str {
        match self {
            Access::Read => "read",
            Access::Write => "write",
            Access::Execute => "execute",
        }
    }
}

/// Why a guest came back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Exit {
    /// A non-maskable interrupt: a probe, or the order to park.
    Nmi,
    /// A call of the kernel.
    Call,
    /// An instruction that is the shell's alone.
    Forbidden,
    /// An I/O port that is not a kernel's.
    Port(u16),
    /// A store to a model-specific register that is not the kernel's to change as it likes.
    RegisterWrite,
    /// A load from one that is not there.
    RegisterRead,
    /// The processor could not even report a fault.
    TripleFault,
    /// An access to memory that is not the guest's.
    Outside {
        /// The physical address.
        address: u64,
        /// What was done.
        access: Access,
    },
    /// Nothing that was asked for.
    Other(u64),
}
