//! The machine layer's own test, selected by the word `selftest` on the command line; needs three kernels.
//!
//! Every kernel runs a small user program that traps in every way. Then kernel 1 dies in every way that can be ordered,
//! one incarnation after the other, and kernel 0 fences it, looks at what it left and restarts it. Last kernel 0 hangs,
//! and kernel 1 does the same for it. Each check that fails prints a line with `selftest: FAIL`; the end is `selftest:
//! PASS` or not.
use core::sync::atomic::{AtomicU64, Ordering::SeqCst};
use shimos_abi::{
    addr::{Frame, PAGE, UserAddr, UserPage},
    control::{Device, Fault, GATEWAY, address_of, mac_of},
    ids::{Incarnation, KernelId, Life, ProgramId},
    shared::{
        commons::{MAILBOX_FENCE, MAILBOX_PROBED},
        death, outgoing,
    },
    time::Nanos,
};
use shimos_hal::{Access, Events, Fenced, Fpu, FrameSource, Machine, Regs, Rights, Trap};
use shimos_machine::{Bare, say};

/// The deaths of kernel 1, in order of its incarnations, and the exception that each must end in (0: a panic, 255: a
/// hang).
const DEATHS: [(Fault, u64); 11] = [
    (Fault::NullPointer, 14),
    (Fault::Panic, 0),
    (Fault::InfiniteLoop, 255),
    (Fault::IrqDeadlock, 255),
    (Fault::ReadPeer, 14),
    (Fault::WritePeer, 14),
    (Fault::WriteText, 14),
    (Fault::WriteRodata, 14),
    (Fault::ExecuteData, 14),
    (Fault::WritePeerShared, 14),
    (Fault::StackOverflow, 8),
];

/// Where the program lies, its data, and a page that is mapped only when it faults.
const CODE: u64 = 0x40_0000;
const DATA: u64 = 0x50_0000;
const LATE: u64 = 0x60_0000;
/// Where the program spins, and what is behind the loop.
const SPIN: core::ops::Range<u64> = CODE + 0x97..CODE + 0x9c;
/// A word that must be fresh in every incarnation.
static PRISTINE: AtomicU64 = AtomicU64::new(0x5348_494d_4f53);

/// The program. System call 39 must return 42; 1 lets another thread's vector registers in between; 2 comes with odd
/// flags; 4 is the end, and 5 says that something was wrong.
#[rustfmt::skip]
const PROGRAM: &[u8] = &[
    0xb8, 39, 0, 0, 0,                                      // mov eax, 39
    0x48, 0xbb, 0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11, // mov rbx, 0x1122334455667788
    0x49, 0xc7, 0xc4, 0x99, 0, 0, 0,                        // mov r12, 0x99
    0x0f, 0x05,                                             // syscall
    0x48, 0x83, 0xf8, 0x2a,                                 // cmp rax, 42
    0x0f, 0x85, 0x8b, 0, 0, 0,                              // jne bad
    0x49, 0xbd, 0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11, // mov r13, 0x1122334455667788
    0x4c, 0x39, 0xeb,                                       // cmp rbx, r13
    0x75, 0x7c,                                             // jne bad
    0x49, 0x81, 0xfc, 0x99, 0, 0, 0,                        // cmp r12, 0x99
    0x75, 0x73,                                             // jne bad
    0x64, 0x48, 0x8b, 0x04, 0x25, 0, 0, 0, 0,               // mov rax, fs:[0]
    0x48, 0x83, 0xf8, 0x4d,                                 // cmp rax, 77
    0x75, 0x64,                                             // jne bad
    0x48, 0xc7, 0x04, 0x25, 0, 0, 0x60, 0, 5, 0, 0, 0,      // mov qword ptr [0x600000], 5
    0x48, 0x83, 0x3c, 0x25, 0, 0, 0x60, 0, 5,               // cmp qword ptr [0x600000], 5
    0x75, 0x4d,                                             // jne bad
    0x66, 0x0f, 0x76, 0xc0,                                 // pcmpeqd xmm0, xmm0
    0xb8, 1, 0, 0, 0,                                       // mov eax, 1
    0x0f, 0x05,                                             // syscall
    0x66, 0x48, 0x0f, 0x7e, 0xc0,                           // movq rax, xmm0
    0x48, 0x83, 0xf8, 0xff,                                 // cmp rax, -1
    0x75, 0x37,                                             // jne bad
    0x0f, 0x0b,                                             // ud2
    0x55,                                                   // push rbp
    0x9c,                                                   // pushf
    0x48, 0x81, 0x0c, 0x24, 0, 4, 4, 0,                     // or qword ptr [rsp], 0x40400
    0x9d,                                                   // popf
    0xb8, 2, 0, 0, 0,                                       // mov eax, 2
    0x0f, 0x05,                                             // syscall
    0xfc,                                                   // cld
    0xb8, 3, 0, 0, 0,                                       // mov eax, 3
    0x49, 0xc7, 0xc7, 0, 0, 0, 0,                           // mov r15, 0
    0x49, 0xff, 0xc7,                                       // spin: inc r15
    0xeb, 0xfb,                                             // jmp spin
    0x48, 0xb8, 0, 0, 0, 0, 0, 0x80, 0, 0,                  // mov rax, 0x800000000000
    0xb8, 4, 0, 0, 0,                                       // mov eax, 4
    0x0f, 0x05,                                             // syscall
    0xb8, 5, 0, 0, 0,                                       // bad: mov eax, 5
    0x0f, 0x05,                                             // syscall
    0xeb, 0xf7,                                             // jmp bad
];

/// Frames of the pool, one after the other; the first ones keep what outlasts an incarnation.
struct Frames {
    next: Frame,
}

impl FrameSource for Frames {
    fn take(&mut self) -> Option<Frame> {
        self.next = Frame(self.next.0 + 1);
        Some(Frame(self.next.0 - 1))
    }
    fn give(&mut self, _frame: Frame) {}
}

/// Counts what fails.
struct Checks {
    life: Life,
    failed: u32,
}

impl Checks {
    fn that(&mut self, holds: bool, what: &str) {
        if !holds {
            self.failed += 1;
            say!("selftest: FAIL {}: {what}", self.life);
        }
    }
}

/// Runs the test, this kernel's part of it.
pub fn run(mut machine: Bare) -> ! {
    let life = machine.identity().life;
    let mut checks = Checks { life, failed: 0 };
    checks.that(PRISTINE.swap(1, SeqCst) == 0x5348_494d_4f53, "data is fresh");
    frames(&mut machine, &mut checks);
    program(&mut machine, &mut checks);
    if life.kernel.0 == 0 {
        devices(&mut machine, &mut checks);
    }
    let started = u64::from(life.incarnation.0);
    match (life.kernel.0, life.incarnation.0) {
        (0, 1) => {
            monitor(&mut machine, &mut checks);
            store(&machine, outgoing::LOAD, u64::from(checks.failed));
            store(&machine, outgoing::STAMP, 100);
            machine.inject(Fault::IrqDeadlock, 0);
        }
        (0, _) => {
            let failed = u64::from(checks.failed) + load(&machine, KernelId(1), outgoing::LOAD);
            say!("selftest: {}", if failed == 0 { "PASS" } else { "FAIL" });
            machine.power_off();
        }
        (1, n) => {
            let at = usize::try_from(n).unwrap_or(1) - 1;
            let first = machine.identity().pool.first;
            if at > 0 {
                checks.that(machine.read_word(first, at - 1) == at as u64, "the pool outlasts a death");
            }
            machine.write_word(first, at, u64::from(n));
            store(&machine, outgoing::LOAD, u64::from(checks.failed));
            store(&machine, outgoing::STAMP, started);
            match DEATHS.get(at) {
                Some(&(fault, _)) => {
                    // What a peer lends may be read, and nothing else of it.
                    machine.map_lent(KernelId(2));
                    machine.inject(fault, 0);
                    checks.that(false, "the machine let it happen");
                }
                None => rescue(&mut machine, &mut checks),
            }
        }
        _ => store(&machine, outgoing::STAMP, started),
    }
    loop {
        machine.idle(Nanos::NEVER);
        machine.take_events();
    }
}

/// Frames can be written, read, copied and cleared.
fn frames(machine: &mut Bare, checks: &mut Checks) {
    let (a, b) = (machine.identity().pool.at(100), machine.identity().pool.at(101));
    machine.write_frame(a, 1, b"hello");
    machine.copy_frame(a, b);
    let mut text = [0; 5];
    machine.read_frame(b, 1, &mut text);
    checks.that(&text == b"hello", "copied frame");
    machine.write_word(b, 511, 7);
    machine.copy_frame(b, a);
    checks.that(machine.read_word(a, 511) == 7, "the last word is copied");
    machine.zero_frame(b);
    machine.copy_part((a, 1), (b, 3), 5);
    machine.copy_part((b, 3), (b, 5), 5);
    let mut parts = [1; 12];
    machine.read_frame(b, 0, &mut parts);
    checks.that(&parts == b"\0\0\0hehello\0\0", "parts are copied, also where they overlap");
    machine.zero_frame(b);
    checks.that((0..512).all(|n| machine.read_word(b, n) == 0), "cleared frame");
    let before = machine.now();
    for _ in 0..1000 {
        machine.copy_frame(a, b);
    }
    let copy = machine.now() - before;
    if machine.identity().life.incarnation.0 == 1 && machine.identity().life.kernel.0 == 0 {
        say!(
            "selftest: copying a frame takes {} ns; random {:x}; wall clock {}",
            copy.0 / 1000,
            machine.random(),
            machine.wall_clock()
        );
    }
    let outside = Frame(machine.identity().pool.first.0 - 1);
    checks.that(!machine.readable(outside), "a frame outside is not readable");
}

/// The disk's first block, an ARP exchange with the gateway, a line on the console: each if the machine has the device. What comes may
/// be seen before its interrupt.
fn devices(machine: &mut Bare, checks: &mut Checks) {
    checks.that(machine.claim(Device::Console).is_ok(), "console");
    checks.that(machine.console_write(b"selftest: console\r\n") == 19, "console takes a line");
    if machine.cmdline().split_ascii_whitespace().any(|word| word == "echo") {
        let mut events = Events::empty();
        let mut byte = [0];
        let end = machine.now() + Nanos::secs(5);
        let mut read = 0;
        while (read == 0 || !events.contains(Events::CONSOLE)) && machine.now() < end {
            machine.idle(end);
            events |= machine.take_events();
            if read == 0 {
                read = machine.console_read(&mut byte);
            }
        }
        checks.that(events.contains(Events::CONSOLE), "the console's interrupt");
        say!("selftest: echo {}", char::from(byte[0]));
    }
    if machine.claim(Device::Block).is_ok() {
        let frame = machine.identity().pool.at(300);
        machine.zero_frame(frame);
        let started = machine.block_read(9, 0, frame).is_ok();
        let mut events = Events::empty();
        let mut done = None;
        let end = machine.now() + Nanos::secs(5);
        while started && (done.is_none() || !events.contains(Events::BLOCK)) && machine.now() < end {
            machine.idle(end);
            events |= machine.take_events();
            done = done.or_else(|| machine.block_done());
        }
        checks.that(done == Some((9, Ok(()))), "disk read");
        checks.that(events.contains(Events::BLOCK), "the disk's interrupt");
        say!("selftest: disk of {} blocks, first word {:x}", machine.block_count(), machine.read_word(frame, 0));
    }
    if machine.claim(Device::Network).is_ok() {
        let mac = mac_of(ProgramId(1));
        let mut packet = [0; 60];
        packet[..6].fill(0xff);
        packet[6..12].copy_from_slice(&mac);
        packet[12..22].copy_from_slice(&[8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
        packet[22..28].copy_from_slice(&mac);
        packet[28..32].copy_from_slice(&address_of(ProgramId(1)));
        packet[38..42].copy_from_slice(&GATEWAY);
        checks.that(machine.net_send(&packet).is_ok(), "send");
        let mut events = Events::empty();
        let mut answer = [0; 2048];
        let end = machine.now() + Nanos::secs(5);
        let mut len = None;
        while (len.is_none() || !events.contains(Events::NETWORK)) && machine.now() < end {
            machine.idle(end);
            events |= machine.take_events();
            len = len.or_else(|| machine.net_receive(&mut answer));
        }
        checks.that(answer[28..32] == GATEWAY && answer[20..22] == [0, 2], "the gateway answers");
        checks.that(events.contains(Events::NETWORK), "the card's interrupt");
        say!("selftest: the gateway's answer has {} bytes", len.unwrap_or(0));
    }
}

/// Runs the user program to its end.
fn program(machine: &mut Bare, checks: &mut Checks) {
    let mut frames = Frames { next: machine.identity().pool.at(200) };
    let (Some(code), Some(data), Some(late)) = (frames.take(), frames.take(), frames.take()) else { return };
    let Ok(mut space) = machine.new_space(&mut frames) else { return };
    machine.zero_frame(data);
    machine.zero_frame(late);
    machine.write_frame(code, 0, PROGRAM);
    machine.write_word(data, 0, 77);
    let page = |at: u64| UserPage(at / PAGE as u64);
    for (at, frame, rights) in [(CODE, code, Rights::EXECUTE), (DATA, data, Rights::WRITE)] {
        checks.that(machine.map(&mut space, page(at), frame, rights, &mut frames).is_ok(), "map");
    }
    let mut regs = Regs { rip: CODE, rsp: DATA + 4096, fs_base: DATA, ..Regs::default() };
    let mut fpu = Fpu { tag: 1, ..Fpu::default() };
    let mut seen = [0u32; 4];
    for _ in 0..10_000 {
        let until = machine.now() + Nanos::millis(2);
        match machine.run(&space, &mut regs, &mut fpu, until) {
            Trap::Syscall => match regs.rax {
                39 => regs.rax = 42,
                1 => {
                    machine.save_live(&mut regs, &mut fpu);
                    checks.that(fpu.area.len() >= 512 && fpu.area[160..176] == [0xff; 16], "saved vector registers");
                    other_thread(machine, &space, checks);
                }
                2 => checks.that(regs.rflags & 0x4_0400 == 0x4_0400, "flags of the thread"),
                4 => {
                    seen[3] += 1;
                    break;
                }
                other => {
                    checks.that(false, "the program found something wrong");
                    say!("{other} {regs:x?}");
                    break;
                }
            },
            Trap::PageFault { addr: UserAddr(LATE), access: Access::Write } => {
                seen[0] += 1;
                let mapped = machine.map(&mut space, page(LATE), late, Rights::WRITE, &mut frames);
                checks.that(mapped.is_ok(), "map late");
            }
            Trap::Exception { vector: 6, .. } => {
                seen[1] += 1;
                regs.rip += 2;
            }
            Trap::Interrupted => {
                let events = machine.take_events();
                if SPIN.contains(&regs.rip) && events.contains(Events::TIMER) {
                    seen[2] += 1;
                    regs.rip = SPIN.end;
                }
            }
            other => {
                checks.that(false, "unexpected trap");
                say!("{other:?} {regs:x?}");
                break;
            }
        }
    }
    checks.that(seen[0] == 1 && seen[1] == 1 && seen[2] == 1 && seen[3] == 1, "each trap came once");
    checks.that(machine.lookup(&space, page(LATE)).is_some_and(|m| m.dirty), "written page is dirty");
    machine.update(&mut space, UserPage(0), page(LATE + 0x1000), &mut |_, old| Some(old.rights - Rights::WRITE));
    checks.that(machine.lookup(&space, page(LATE)).is_some_and(|m| !m.dirty), "write-protected page is clean");
    // Addresses that IRET and SYSRET would choke on come back as faults.
    for rip in [0x8000_0000_0000, 0xffff_ffff_8020_0000, 0x7fff_ffff_f000] {
        regs.rip = rip;
        let trap = run_on(machine, &space, &mut regs, &mut fpu);
        checks
            .that(trap == Trap::PageFault { addr: UserAddr(rip), access: Access::Execute }, "odd instruction pointer");
    }
    // The kernel half is not for user mode: its text faults, as does a store into write-protected data.
    for (at, access, code) in
        [(0xffff_ffff_8020_0000_u64, Access::Read, [0x48, 0x8b, 0x03]), (DATA, Access::Write, [0x48, 0x89, 0x03])]
    {
        machine.write_frame(code_frame(machine, &space), 0, &code);
        regs = Regs { rip: CODE, rbx: at, ..Regs::default() };
        let trap = run_on(machine, &space, &mut regs, &mut fpu);
        checks.that(trap == Trap::PageFault { addr: UserAddr(at), access }, "access that user mode may not do");
    }
    // A system call there and back: `syscall; jmp -4`.
    machine.write_frame(code_frame(machine, &space), 0, &[0x0f, 0x05, 0xeb, 0xfc]);
    regs = Regs { rip: CODE, ..Regs::default() };
    let begin = machine.now();
    for _ in 0..10_000 {
        run_on(machine, &space, &mut regs, &mut fpu);
    }
    let call = machine.now() - begin;
    if checks.life.kernel.0 == 0 && checks.life.incarnation.0 == 1 {
        say!("selftest: a system call takes {} ns", call.0 / 10_000);
    }
    machine.drop_space(space, &mut frames);
}

/// Runs a thread until it traps by itself.
fn run_on(machine: &mut Bare, space: &<Bare as Machine>::Space, regs: &mut Regs, fpu: &mut Fpu) -> Trap {
    loop {
        let trap = machine.run(space, regs, fpu, Nanos::NEVER);
        if trap != Trap::Interrupted {
            return trap;
        }
    }
}

fn code_frame(machine: &Bare, space: &<Bare as Machine>::Space) -> Frame {
    machine.lookup(space, UserPage(CODE / PAGE as u64)).map_or(Frame(0), |mapping| mapping.frame)
}

/// Another thread's vector registers come and go.
fn other_thread(machine: &mut Bare, space: &<Bare as Machine>::Space, checks: &mut Checks) {
    let mut other = Fpu { tag: 2, ..Fpu::default() };
    let mut regs = Regs { rip: CODE + 0x6b, rsp: DATA + 4096, ..Regs::default() };
    let trap = run_on(machine, space, &mut regs, &mut other);
    // Its register is zero, not the first thread's, so it runs to the complaint.
    checks.that(trap == Trap::Syscall && regs.rax == 5, "vector registers are the thread's own");
}

fn store(machine: &Bare, word: usize, value: u64) {
    let at = machine.layout().outgoing(machine.identity().life.kernel) + word;
    machine.shared()[at].store(value, SeqCst);
}

fn load(machine: &Bare, kernel: KernelId, word: usize) -> u64 {
    machine.shared()[machine.layout().outgoing(kernel) + word].load(SeqCst)
}

/// Waits up to ten seconds for something.
fn wait(machine: &mut Bare, mut until: impl FnMut(&mut Bare) -> bool) -> bool {
    let end = machine.now() + Nanos::secs(10);
    while machine.now() < end {
        if until(machine) {
            return true;
        }
        let soon = machine.now() + Nanos::micros(200);
        machine.idle(soon);
        machine.take_events();
    }
    false
}

/// Waits until `life`'s core says that it is parked.
fn parked(machine: &mut Bare, life: Life) -> Option<Fenced> {
    let mut proof = None;
    wait(machine, |machine| {
        proof = machine.confirm_parked(life);
        proof.is_some()
    });
    proof
}

fn order_fence(machine: &mut Bare, life: Life) {
    let at = machine.layout().mailbox(life.kernel) + MAILBOX_FENCE;
    machine.shared()[at].store(u64::from(life.incarnation.0) + 1, SeqCst);
    machine.send_nmi(life.kernel);
}

/// Sends INIT until the core is parked: it may take more than one, as in the monitor's ladder.
fn order_init(machine: &mut Bare, life: Life) -> bool {
    let mut sent = true;
    let end = machine.now() + Nanos::secs(5);
    while machine.confirm_parked(life).is_none() && machine.now() < end {
        sent &= machine.send_init(life.kernel);
        let again = machine.now() + Nanos::millis(100);
        while machine.confirm_parked(life).is_none() && machine.now() < again {
            machine.idle(machine.now() + Nanos::micros(200));
            machine.take_events();
        }
    }
    sent
}

/// Kernel 0: sees kernel 1 through its deaths.
fn monitor(machine: &mut Bare, checks: &mut Checks) {
    for kernel in 1..machine.identity().kernels {
        let here = wait(machine, |machine| load(machine, KernelId(kernel as u16), outgoing::STAMP) != 0);
        checks.that(here, "every kernel starts");
    }
    let victim = KernelId(1);
    for (n, (fault, expected)) in DEATHS.into_iter().enumerate() {
        let life = Life { kernel: victim, incarnation: Incarnation(n as u32 + 1) };
        let here = wait(machine, |machine| load(machine, victim, outgoing::STAMP) == n as u64 + 1);
        checks.that(here, "the next incarnation starts");
        if expected == 255 {
            let pause = machine.now() + Nanos::millis(20);
            while machine.now() < pause {
                machine.idle(pause);
                machine.take_events();
            }
            checks.that(machine.confirm_parked(life).is_none(), "a hung kernel is not parked");
            let probed = machine.layout().mailbox(victim) + MAILBOX_PROBED;
            let before = machine.shared()[probed].load(SeqCst);
            machine.send_nmi(victim);
            let answered = wait(machine, |machine| machine.shared()[probed].load(SeqCst) > before);
            checks.that(answered, "a probe is answered");
            checks.that(machine.confirm_parked(life).is_none(), "a probe parks nobody");
            let begin = machine.now();
            if fault == Fault::IrqDeadlock {
                checks.that(order_init(machine, life), "INIT can be sent");
            } else {
                order_fence(machine, life);
            }
            checks.that(parked(machine, life).is_some(), "the fence works");
            say!("selftest: {fault:?} fenced within {} us", (machine.now() - begin).0 / 1000);
        }
        let Some(proof) = parked(machine, life) else {
            checks.that(false, "a dead kernel is parked");
            say!("selftest: {fault:?}");
            return;
        };
        if expected != 255 {
            let word = |machine: &Bare, at: usize| load(machine, victim, outgoing::DEATH + at);
            let valid = word(machine, death::VALID) == death::MAGIC
                && word(machine, death::INCARNATION) == u64::from(life.incarnation.0)
                && word(machine, death::VECTOR) == expected
                && word(machine, death::TRACE) != 0
                && load(machine, victim, outgoing::STATE) == 3;
            checks.that(valid, "the death record is right");
        }
        look_at_the_dead(machine, checks, &proof);
        let next = machine.restart(proof);
        checks.that(next.incarnation.0 == life.incarnation.0 + 1, "the next incarnation is the next");
    }
    let last = DEATHS.len() as u64 + 1;
    checks.that(wait(machine, |machine| load(machine, victim, outgoing::STAMP) == last), "the last incarnation starts");
}

/// A dead kernel's pool can be read while it is mapped, and only then.
fn look_at_the_dead(machine: &mut Bare, checks: &mut Checks, dead: &Fenced) {
    let entry = shimos_abi::shared::master::ENTRIES
        + dead.life().kernel.index() * shimos_abi::shared::master::ENTRY_WORDS
        + shimos_abi::shared::master::ENTRY_POOL;
    let first = Frame(machine.shared()[entry].load(SeqCst) as u32);
    checks.that(!machine.readable(first), "a peer's pool is hidden");
    machine.map_dead(dead);
    checks.that(machine.readable(first), "a dead kernel's pool is readable");
    let place = dead.life().incarnation.0 as usize - 1;
    checks.that(machine.read_word(first, place) == place as u64 + 1, "it holds what the dead wrote");
    machine.unmap_peer(dead.life().kernel);
    checks.that(!machine.readable(first), "the pool is hidden again");
}

/// Kernel 1, at the end: fences and restarts kernel 0, whose core never gets an INIT.
fn rescue(machine: &mut Bare, checks: &mut Checks) {
    let boot = KernelId(0);
    let life = Life { kernel: boot, incarnation: Incarnation(1) };
    checks.that(wait(machine, |machine| load(machine, boot, outgoing::STAMP) == 100), "kernel 0 comes to its end");
    checks.that(!machine.send_init(boot), "the boot core gets no INIT");
    order_fence(machine, life);
    let failed = u64::from(checks.failed) + load(machine, boot, outgoing::LOAD);
    store(machine, outgoing::LOAD, failed);
    match parked(machine, life) {
        Some(proof) => {
            machine.restart(proof);
        }
        None => say!("selftest: FAIL kernel 0 could not be fenced"),
    }
}
