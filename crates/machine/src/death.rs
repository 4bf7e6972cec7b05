//! Dying: the death record in the own outgoing part (multikernel practice: fixed place, fixed size, no allocation), a
//! ring for every peer, one line on the serial port if nobody else prints there, and then the park page.
use crate::{
    apic::{Ipi, LAPIC},
    boot::{
        cores::{device_owner, mailbox},
        image,
    },
    clock::now,
    info::{info, life},
    layout::{SHARED_BASE, STACK_PAGES, stack_top},
    park, say, serial,
    shell::call::{Call, ask},
    vectors,
};
use core::{
    arch::asm,
    fmt::{self, Write},
    panic::PanicInfo,
    sync::atomic::{
        AtomicBool, AtomicU64,
        Ordering::{Relaxed, SeqCst},
    },
};
use shimos_abi::{
    control::{DeathCause, Device, Partition},
    shared::{Layout, commons::MAILBOX_RUNNING, death, outgoing},
};

/// The general registers, in the order in which the trap entry leaves them on the stack.
#[derive(Clone, Copy, Default)]
#[repr(C)]
#[allow(missing_docs, reason = "the names are the processor's")]
pub struct Registers {
    pub rax: u64,
    pub rbx: u64,
    pub rcx: u64,
    pub rdx: u64,
    pub rsi: u64,
    pub rdi: u64,
    pub rbp: u64,
    pub r8: u64,
    pub r9: u64,
    pub r10: u64,
    pub r11: u64,
    pub r12: u64,
    pub r13: u64,
    pub r14: u64,
    pub r15: u64,
}

/// What the processor says of an exception.
#[derive(Clone, Copy, Default)]
#[allow(missing_docs, reason = "the names are the processor's")]
pub struct Exception {
    pub vector: u64,
    pub code: u64,
    pub rip: u64,
    pub rsp: u64,
    pub flags: u64,
    pub address: u64,
}

/// Whether this kernel runs under its own tables, and its life is known.
static STARTED: AtomicBool = AtomicBool::new(false);
/// Whether it is dying already.
static DYING: AtomicBool = AtomicBool::new(false);

/// From here on a panic is this kernel's death and not a failed boot.
pub(crate) fn started() {
    STARTED.store(true, Relaxed);
}

/// Whether that is so.
pub(crate) fn is_started() -> bool {
    STARTED.load(Relaxed)
}

/// The record's bytes of text.
struct Text {
    bytes: [u8; death::MESSAGE_BYTES],
    len: usize,
}

impl Write for Text {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = &mut self.bytes[self.len..];
        let len = text.len().min(room.len());
        room[..len].copy_from_slice(&text.as_bytes()[..len]);
        self.len += len;
        Ok(())
    }
}

fn own_word(word: usize) -> &'static AtomicU64 {
    let at = Layout::new(info().kernels as usize).outgoing(life().kernel) + word;
    // SAFETY: inside our own outgoing part, which is mapped writable and accessed as atomic words only.
    unsafe { &*((SHARED_BASE + at as u64 * 8) as *const AtomicU64) }
}

/// An exception in kernel mode.
pub(crate) fn exception(registers: &Registers, what: Exception) -> ! {
    let name = match what.vector {
        0 => "division error",
        1 => "debug exception",
        6 => "invalid opcode",
        8 => "double fault",
        13 => "general protection fault",
        14 if what.code & 16 != 0 => "page fault: execute",
        14 if what.code & 2 != 0 => "page fault: write",
        14 => "page fault: read",
        18 => "machine check",
        _ => "exception",
    };
    let (vector, rip, address) = (what.vector, what.rip, what.address);
    die(
        DeathCause::Exception,
        registers,
        what,
        format_args!("{name} (vector {vector}) at {rip:#x}, address {address:#x}"),
    )
}

/// A panic in Rust code.
pub(crate) fn panic(info: &PanicInfo) -> ! {
    if !STARTED.load(Relaxed) {
        say!("shimos: boot failed: {info}");
        crate::arch::stop()
    }
    let mut registers = Registers::default();
    let mut what = Exception::default();
    // SAFETY: only reads registers.
    unsafe {
        asm!(
            "mov {}, rbp", "mov {}, rsp", "lea {}, [rip]",
            out(reg) registers.rbp, out(reg) what.rsp, out(reg) what.rip,
            options(nomem, nostack)
        );
    }
    die(DeathCause::Panic, &registers, what, format_args!("{info}"))
}

/// The administrator's or a test's wish; and the end of all other deaths.
pub(crate) fn park() -> ! {
    if info().partition == Partition::Svm {
        // The shell parks the core; it does not come back.
        let _ = ask(Call::Park);
    }
    // SAFETY: nothing of this kernel runs after this.
    unsafe { park::park_enter(life().kernel.0.into()) }
}

/// The order to park came as an NMI: what the processor was at is left behind, for whoever asks why. Nobody is told;
/// the monitor that sent the NMI waits for the core to park.
pub(crate) fn fenced(registers: &Registers, what: Exception) -> ! {
    if !DYING.swap(true, Relaxed) {
        let message = format_args!("made no progress until an NMI parked it");
        write(DeathCause::Hang, registers, what, message);
    }
    park()
}

fn die(cause: DeathCause, registers: &Registers, what: Exception, message: fmt::Arguments) -> ! {
    // A death while dying, or in a kernel that is not what its core was started for, has nothing more to say.
    let life = life();
    let expected = mailbox(life.kernel.0.into(), MAILBOX_RUNNING).load(SeqCst);
    if DYING.swap(true, Relaxed) || expected != u64::from(life.incarnation.0) + 1 {
        park();
    }
    let text = write(cause, registers, what, message);
    own_word(outgoing::STATE).store(3, SeqCst);
    for (kernel, entry) in info().entries.iter().enumerate().take(info().kernels as usize) {
        if kernel != life.kernel.index() {
            LAPIC.send(entry.apic, Ipi::Fixed(vectors::IKC));
        }
    }
    // A console's owner that lives prints by the same port: our words would end up in the middle of its lines. The monitor
    // tells what the record says.
    let owner = device_owner(Device::Console);
    if owner == 0 || owner == u64::from(life.incarnation.0) << 32 | u64::from(life.kernel.0) {
        serial::cut();
        say!("{life} dies: {}", core::str::from_utf8(&text.bytes[..text.len]).unwrap_or("?"));
    }
    park()
}

/// Writes the death record; returns its text.
fn write(cause: DeathCause, registers: &Registers, what: Exception, message: fmt::Arguments) -> Text {
    let put = |word: usize, value: u64| own_word(outgoing::DEATH + word).store(value, Relaxed);
    own_word(outgoing::DEATH + death::VALID).store(0, SeqCst);
    put(death::INCARNATION, life().incarnation.0.into());
    put(death::CAUSE, cause as u64);
    put(death::TIME, now().0);
    put(death::VECTOR, what.vector);
    put(death::CODE, what.code);
    put(death::RIP, what.rip);
    put(death::RSP, what.rsp);
    put(death::ADDRESS, what.address);
    put(death::FLAGS, what.flags);
    let r = registers;
    let all = [r.rax, r.rbx, r.rcx, r.rdx, r.rsi, r.rdi, r.rbp, r.r8, r.r9, r.r10, r.r11, r.r12, r.r13, r.r14, r.r15];
    for (n, value) in all.into_iter().enumerate() {
        put(death::REGISTERS + n, value);
    }
    trace(registers.rbp, 0, &put);
    let mut text = Text { bytes: [0; death::MESSAGE_BYTES], len: 0 };
    let _ = text.write_fmt(message);
    for (n, bytes) in text.bytes[..text.len].chunks(8).enumerate() {
        let mut word = [0; 8];
        word[..bytes.len()].copy_from_slice(bytes);
        put(death::MESSAGE + n, u64::from_le_bytes(word));
    }
    put(death::MESSAGE_LEN, text.len as u64);
    own_word(outgoing::DEATH + death::VALID).store(death::MAGIC, SeqCst);
    text
}

/// Follows the frame pointers, as long as they stay in the event loop's stack and lead into the text. The stack is mapped
/// `shift` above the address that its kernel knows it by.
pub(crate) fn trace(mut frame: u64, shift: u64, put: &dyn Fn(usize, u64)) {
    let stack = stack_top(0) - STACK_PAGES * 4096..stack_top(0) - 16;
    let text = image::text();
    let text = text.virt..text.virt + text.pages * 4096;
    let mut n = 0;
    while n < death::TRACE_WORDS && stack.contains(&frame) && frame.is_multiple_of(8) {
        let at = frame.wrapping_add(shift) as *const u64;
        // SAFETY: inside the mapped stack, aligned.
        let (next, back) = unsafe { (at.read_volatile(), at.add(1).read_volatile()) };
        if !text.contains(&back) {
            break;
        }
        put(death::TRACE + n, back);
        n += 1;
        if next <= frame {
            break;
        }
        frame = next;
    }
    if n < death::TRACE_WORDS {
        put(death::TRACE + n, 0);
    }
}

#[panic_handler]
fn on_panic(info: &PanicInfo) -> ! {
    panic(info)
}
