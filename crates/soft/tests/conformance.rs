//! What the kernel may rely on of a `Machine`, shown on the simulated one; and what the simulated one adds.
#![allow(missing_docs)]
use shimos_abi::{
    addr::{Frame, FrameRange, PAGE, UserAddr, UserPage},
    control::{Device, Fault},
    ids::{Incarnation, KernelId, Life},
    shared::{commons, death, outgoing},
    time::Nanos,
};
use shimos_hal::{Access, Events, Fpu, FrameSource, Machine, OutOfFrames, Regs, Rights, Trap, machine::DeviceError};
use shimos_soft::{
    Config, Crash, End, Next, Phase, SoftMachine, SoftSpace, Threads, Turn, World,
    asm::{Asm, CODE, Reg},
};
use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::atomic::Ordering,
};

const K0: KernelId = KernelId(0);
const K1: KernelId = KernelId(1);

struct Pool(Vec<Frame>);

impl Pool {
    fn of(range: FrameRange) -> Pool {
        Pool((1..range.count as usize).rev().map(|i| range.at(i)).collect())
    }
}

impl FrameSource for Pool {
    fn take(&mut self) -> Option<Frame> {
        self.0.pop()
    }
    fn give(&mut self, frame: Frame) {
        self.0.push(frame);
    }
}

/// A booted core.
struct Node {
    machine: SoftMachine,
    pool: Pool,
}

fn booted(config: Config) -> (World, Vec<Node>) {
    let count = config.kernels;
    let world = World::new(config);
    let mut nodes: Vec<Option<Node>> = (0..count).map(|_| None).collect();
    while nodes.iter().any(Option::is_none) {
        if let Next::Boot(core) = world.advance() {
            let mut machine = SoftMachine::new(&world, core);
            let pool = Pool::of(machine.identity().pool);
            machine.idle(Nanos::NEVER);
            nodes[core.index()] = Some(Node { machine, pool });
        }
    }
    (world, nodes.into_iter().flatten().collect())
}

fn two() -> (World, Node, Node) {
    let (world, mut nodes) = booted(Config::new(2, 1));
    let second = nodes.remove(1);
    (world, nodes.remove(0), second)
}

/// How `work` ends.
fn end(world: &World, kernel: KernelId, work: impl FnOnce()) -> Option<End> {
    catch_unwind(AssertUnwindSafe(work)).err().map(|payload| world.settle(kernel, payload))
}

fn word(world: &World, index: usize) -> u64 {
    world.shared()[index].load(Ordering::SeqCst)
}

/// An address space that holds `asm`'s code, a stack and data.
fn program(node: &mut Node, asm: &Asm) -> (SoftSpace, Regs) {
    let mut space = node.machine.new_space(&mut node.pool).unwrap();
    for (index, piece) in asm.code().chunks(PAGE).enumerate() {
        let frame = node.pool.take().unwrap();
        node.machine.zero_frame(frame);
        node.machine.write_frame(frame, 0, piece);
        let page = UserPage(CODE / PAGE as u64 + index as u64);
        node.machine.map(&mut space, page, frame, Rights::EXECUTE, &mut node.pool).unwrap();
    }
    for page in [0x700, 0x701] {
        let frame = node.pool.take().unwrap();
        node.machine.zero_frame(frame);
        node.machine.map(&mut space, UserPage(page), frame, Rights::WRITE, &mut node.pool).unwrap();
    }
    (space, Regs { rip: CODE, rsp: 0x70_1000, ..Regs::default() })
}

#[test]
fn frames_keep_what_is_written_and_only_the_pool_is_ours() {
    let (world, mut a, _b) = two();
    let frame = a.pool.take().unwrap();
    a.machine.zero_frame(frame);
    a.machine.write_frame(frame, 4090, b"abcdef");
    a.machine.write_word(frame, 1, 0x1122_3344_5566_7788);
    let mut out = [0; 6];
    a.machine.read_frame(frame, 4090, &mut out);
    assert_eq!(&out, b"abcdef");
    assert_eq!(a.machine.read_word(frame, 1), 0x1122_3344_5566_7788);
    let other = a.pool.take().unwrap();
    a.machine.copy_frame(frame, other);
    assert_eq!(a.machine.read_word(other, 1), 0x1122_3344_5566_7788);
    // Parts go between frames, and within one also where they overlap; nothing around them changes.
    a.machine.zero_frame(other);
    a.machine.copy_part((frame, 4090), (other, 3), 6);
    a.machine.copy_part((other, 3), (other, 5), 6);
    a.machine.copy_part((other, 0), (other, PAGE), 0);
    let mut out = [0; 12];
    a.machine.read_frame(other, 0, &mut out);
    assert_eq!(&out, b"\0\0\0ababcdef\0");
    a.machine.copy_part((frame, 0), (other, 0), PAGE);
    assert_eq!(a.machine.read_word(other, 1), 0x1122_3344_5566_7788);
    assert!(a.machine.readable(frame) && !a.machine.readable(world.pool(K1).first) && !a.machine.readable(Frame(!0)));

    let foreign = world.pool(K1).first;
    let died = end(&world, K0, || a.machine.zero_frame(foreign));
    assert!(matches!(died, Some(End::Fault(_))));
    assert_eq!(world.phase(K0), Phase::Parked);
    assert_eq!(word(&world, world.layout().outgoing(K0) + outgoing::DEATH + death::VALID), death::MAGIC);
    assert_eq!(world.violations().len(), 1);
}

#[test]
fn page_tables_take_frames_and_give_them_back() {
    let (_world, mut a, _b) = two();
    let free = a.pool.0.len();
    let mut space = a.machine.new_space(&mut a.pool).unwrap();
    let (one, two) = (a.pool.take().unwrap(), a.pool.take().unwrap());
    a.machine.map(&mut space, UserPage(16), one, Rights::WRITE, &mut a.pool).unwrap();
    a.machine.map(&mut space, UserPage(1 << 20), two, Rights::EXECUTE, &mut a.pool).unwrap();
    assert!(a.pool.0.len() < free - 3);
    assert_eq!(a.machine.lookup(&space, UserPage(16)).unwrap().frame, one);
    assert_eq!(a.machine.lookup(&space, UserPage(17)), None);
    let mut seen = Vec::new();
    a.machine.update(&mut space, UserPage(0), UserPage(1 << 30), &mut |page, mapping| {
        seen.push((page, mapping.frame));
        (page == UserPage(16)).then_some(Rights::empty())
    });
    assert_eq!(seen, [(UserPage(16), one), (UserPage(1 << 20), two)]);
    assert_eq!(a.machine.lookup(&space, UserPage(16)).unwrap().rights, Rights::empty());
    assert_eq!(a.machine.lookup(&space, UserPage(1 << 20)), None);
    assert_eq!(a.machine.unmap(&mut space, UserPage(16)).unwrap().frame, one);
    a.machine.drop_space(space, &mut a.pool);
    assert_eq!(a.pool.0.len(), free - 2);
}

#[test]
fn running_out_of_frames_is_an_error() {
    let (_world, mut a, _b) = two();
    let frame = a.pool.take().unwrap();
    a.pool.0.truncate(2);
    let mut space = a.machine.new_space(&mut a.pool).unwrap();
    assert_eq!(a.machine.map(&mut space, UserPage(5), frame, Rights::WRITE, &mut a.pool), Err(OutOfFrames));
    assert_eq!(a.machine.lookup(&space, UserPage(5)), None);
    a.machine.drop_space(space, &mut a.pool);
    assert_eq!(a.pool.0.len(), 2);
}

#[test]
fn a_program_runs_to_its_system_call_and_can_be_restarted_there() {
    let (_world, mut a, _b) = two();
    let mut asm = Asm::new();
    let (sum, i, n) = (Reg::Rbx, Reg::R12, Reg::R13);
    asm.set(sum, 0).set(i, 0).set(n, 10);
    let again = asm.here();
    asm.add_set(i, i, 1).add(sum, sum, i).if_less(i, n, again);
    asm.push(sum).load(Reg::Rdi, Reg::Rsp, 0).set(Reg::Rax, 39).syscall();
    let (space, mut regs) = program(&mut a, &asm);
    let mut fpu = Fpu::default();
    let trap = loop {
        match a.machine.run(&space, &mut regs, &mut fpu, Nanos::NEVER) {
            Trap::Interrupted => a.machine.take_events(),
            other => break other,
        };
    };
    assert_eq!(trap, Trap::Syscall);
    assert_eq!((regs.rax, regs.rdi, regs.rsp), (39, 55, 0x70_0ff8));
    assert_eq!(regs.rcx, regs.rip);
    regs.rip -= 2;
    assert_eq!(a.machine.run(&space, &mut regs, &mut fpu, Nanos::NEVER), Trap::Syscall);
    let stack = a.machine.lookup(&space, UserPage(0x700)).unwrap();
    assert!(stack.dirty);
    assert!(!a.machine.lookup(&space, UserPage(0x701)).unwrap().dirty);
}

#[test]
fn faults_leave_the_instruction_to_be_tried_again() {
    let (_world, mut a, _b) = two();
    let mut asm = Asm::new();
    asm.set(Reg::Rax, CODE).store(Reg::Rax, Reg::Rax, 8).set(Reg::Rbx, 0).div(Reg::Rax, Reg::Rax, Reg::Rbx);
    asm.invalid().set(Reg::Rax, 0x700_0000).load(Reg::Rbx, Reg::Rax, 3).set(Reg::Rax, 0x70_0000).jump_to(Reg::Rax);
    let (space, mut regs) = program(&mut a, &asm);
    let mut fpu = Fpu::default();
    let mut run = |regs: &mut Regs| a.machine.run(&space, regs, &mut fpu, Nanos::NEVER);
    let fault = |addr, access| Trap::PageFault { addr: UserAddr(addr), access };
    assert_eq!(run(&mut regs), fault(CODE + 8, Access::Write));
    assert_eq!(regs.rip, CODE + 16);
    assert_eq!(run(&mut regs), fault(CODE + 8, Access::Write));
    regs.rip += 16;
    assert_eq!(run(&mut regs), Trap::Exception { vector: 0, code: 0 });
    regs.rip += 16;
    assert_eq!(run(&mut regs), Trap::Exception { vector: 6, code: 0 });
    regs.rip += 16;
    assert_eq!(run(&mut regs), fault(0x700_0003, Access::Read));
    regs.rip += 16;
    assert_eq!(run(&mut regs), fault(0x70_0000, Access::Execute));
    assert_eq!(regs.rip, 0x70_0000);
}

#[test]
fn an_access_across_two_pages_needs_both() {
    let (_world, mut a, _b) = two();
    let mut asm = Asm::new();
    asm.set(Reg::Rax, 0x70_1ffc).set(Reg::Rbx, !0).store(Reg::Rbx, Reg::Rax, 0);
    let (space, mut regs) = program(&mut a, &asm);
    let trap = a.machine.run(&space, &mut regs, &mut Fpu::default(), Nanos::NEVER);
    assert_eq!(trap, Trap::PageFault { addr: UserAddr(0x70_2000), access: Access::Write });
    let frame = a.machine.lookup(&space, UserPage(0x701)).unwrap().frame;
    assert_eq!(a.machine.read_word(frame, 511), 0);
}

#[test]
fn time_and_interrupts_end_a_run() {
    let (_world, mut a, b) = two();
    let mut asm = Asm::new();
    let again = asm.here();
    asm.jump(again);
    let (space, mut regs) = program(&mut a, &asm);
    let mut fpu = Fpu::default();
    a.machine.take_events();
    let until = a.machine.now() + Nanos::micros(30);
    assert_eq!(a.machine.run(&space, &mut regs, &mut fpu, until), Trap::Interrupted);
    assert!(a.machine.now() >= until);
    assert_eq!(a.machine.take_events(), Events::TIMER);
    b.machine.notify(K0);
    let before = a.machine.now();
    assert_eq!(a.machine.run(&space, &mut regs, &mut fpu, Nanos::NEVER), Trap::Interrupted);
    assert!(a.machine.now() - before < Nanos::micros(2));
    assert_eq!(a.machine.take_events(), Events::IKC);
    assert_eq!(a.machine.take_events(), Events::empty());
}

#[test]
fn vector_registers_stay_loaded_until_they_are_saved() {
    let (_world, mut a, _b) = two();
    let mut asm = Asm::new();
    asm.set(Reg::Rax, 77).vector_set(1, Reg::Rax).syscall();
    let get = asm.here();
    asm.set(Reg::Rbx, 0).vector_get(Reg::Rbx, 1).syscall();
    let _ = get;
    let (space, mut regs) = program(&mut a, &asm);
    let mut fpu = Fpu { tag: 5, area: Vec::new() };
    assert_eq!(a.machine.run(&space, &mut regs, &mut fpu, Nanos::NEVER), Trap::Syscall);
    assert!(fpu.area.is_empty());
    a.machine.save_live(&mut regs, &mut fpu);
    assert!(fpu.area.len() >= 576);
    let read = CODE + 34;
    // Another thread has registers of its own.
    let mut other = Fpu { tag: 6, area: Vec::new() };
    let mut there = Regs { rip: read, ..Regs::default() };
    assert_eq!(a.machine.run(&space, &mut there, &mut other, Nanos::NEVER), Trap::Syscall);
    assert_eq!(there.rbx, 0);
    // An image of the first one, loaded elsewhere, has what it had.
    let mut copy = Fpu { tag: 5, area: fpu.area.clone() };
    let mut there = Regs { rip: read, ..Regs::default() };
    a.machine.forget_live();
    assert_eq!(a.machine.run(&space, &mut there, &mut copy, Nanos::NEVER), Trap::Syscall);
    assert_eq!(there.rbx, 77);
}

#[test]
fn sleep_ends_with_the_time_or_a_ring() {
    let (world, mut a, b) = two();
    a.machine.take_events();
    let until = a.machine.now() + Nanos::millis(5);
    a.machine.idle(until);
    assert_eq!(world.advance(), Next::Turn(K0));
    assert!(a.machine.now() >= until);
    assert_eq!(a.machine.take_events(), Events::TIMER);
    a.machine.idle(Nanos::NEVER);
    assert_eq!(world.advance(), Next::Still);
    b.machine.notify(K0);
    assert_eq!(world.advance(), Next::Turn(K0));
    assert_eq!(a.machine.take_events(), Events::IKC);
}

fn fence(world: &World, kernel: KernelId) {
    let mark = u64::from(world.life(kernel).incarnation.0) + 1;
    world.shared()[world.layout().mailbox(kernel) + commons::MAILBOX_FENCE].store(mark, Ordering::SeqCst);
}

#[test]
fn an_nmi_probes_or_parks() {
    let (world, mut a, mut b) = two();
    let life = b.machine.identity().life;
    let mailbox = world.layout().mailbox(K1);
    a.machine.idle(Nanos::NEVER);
    a.machine.send_nmi(K1);
    assert_eq!(world.advance(), Next::Still);
    assert_eq!(word(&world, mailbox + commons::MAILBOX_PROBED), 1);
    assert_eq!(a.machine.confirm_parked(life), None);

    // A hung core is reached as well; a stalled one only when it gets time again.
    let died = end(&world, K1, || b.machine.inject(Fault::IrqDeadlock, 0));
    assert_eq!((died, world.phase(K1)), (Some(End::Crashed(Crash::Hang)), Phase::Hung));
    world.stall(K1, Nanos::millis(3));
    fence(&world, K1);
    let before = world.now();
    a.machine.send_nmi(K1);
    a.machine.idle(before + Nanos::secs(1));
    assert_eq!(world.advance(), Next::Turn(K0));
    assert!(world.now() >= before + Nanos::millis(3));
    assert_eq!(word(&world, mailbox + commons::MAILBOX_PARKED), 2);
    assert_eq!(a.machine.confirm_parked(life).unwrap().life(), life);
    assert_eq!(a.machine.confirm_parked(Life { kernel: K1, incarnation: Incarnation(2) }), None);
}

#[test]
fn a_deaf_core_needs_init_and_core_0_gets_none() {
    let (world, mut a, mut b) = two();
    a.machine.idle(Nanos::NEVER);
    let life = b.machine.identity().life;
    world.kill(K1, Crash::Deaf);
    fence(&world, K1);
    a.machine.send_nmi(K1);
    assert_eq!(world.advance(), Next::Still);
    assert_eq!(a.machine.confirm_parked(life), None);
    assert!(a.machine.send_init(K1));
    assert_eq!(world.advance(), Next::Still);
    assert!(a.machine.confirm_parked(life).is_some());
    assert!(matches!(end(&world, K1, || b.machine.zero_frame(Frame(0))), Some(End::Fault(_))));
    assert!(!a.machine.send_init(K0));
    assert!(a.machine.confirm_parked(a.machine.identity().life).is_none());
}

#[test]
fn a_dead_kernel_can_be_read_and_restarted_and_its_pool_stays() {
    let (world, mut a, mut b) = two();
    let frame = b.pool.take().unwrap();
    b.machine.zero_frame(frame);
    b.machine.write_word(frame, 7, 42);
    let life = b.machine.identity().life;
    let died = end(&world, K1, || b.machine.inject(Fault::Panic, 0));
    assert_eq!(died, Some(End::Crashed(Crash::Panic)));
    let record = world.layout().outgoing(K1) + outgoing::DEATH;
    assert_eq!(word(&world, record + death::VALID), death::MAGIC);
    assert_eq!(word(&world, record + death::INCARNATION), 1);
    assert_eq!(word(&world, world.layout().outgoing(K1) + outgoing::STATE), 3);
    assert!(a.machine.take_events().contains(Events::IKC));

    let dead = a.machine.confirm_parked(life).unwrap();
    a.machine.map_dead(&dead);
    assert_eq!(a.machine.read_word(frame, 7), 42);
    assert_eq!(a.machine.restart(dead), Life { kernel: K1, incarnation: Incarnation(2) });
    a.machine.idle(Nanos::NEVER);
    assert_eq!(world.advance(), Next::Boot(K1));
    let mut again = SoftMachine::new(&world, K1);
    assert_eq!(again.identity().life.incarnation, Incarnation(2));
    assert_eq!(again.read_word(frame, 7), 42);
    assert!(a.machine.confirm_parked(life).is_none());

    // While a program of the taker maps the frame, its owner may not use it again.
    a.machine.map_lent(K1);
    let mut space = a.machine.new_space(&mut a.pool).unwrap();
    a.machine.map(&mut space, UserPage(3), frame, Rights::empty(), &mut a.pool).unwrap();
    let died = end(&world, K1, || again.zero_frame(frame));
    assert!(matches!(died, Some(End::Fault(_))));
    a.machine.unmap(&mut space, UserPage(3));
    a.machine.unmap_peer(K1);
    assert!(!a.machine.readable(frame));
    assert!(matches!(
        end(&world, K0, || {
            a.machine.read_word(frame, 7);
        }),
        Some(End::Fault(_))
    ));
}

#[test]
fn a_core_dies_at_exactly_the_step_that_was_asked_for() {
    let (world, mut a, _b) = two();
    let frame = a.pool.take().unwrap();
    a.machine.zero_frame(frame);
    world.kill_at(K0, world.steps(K0) + 3, Crash::Hang);
    let died = end(&world, K0, || (0..10).for_each(|i| a.machine.write_word(frame, i, 1)));
    assert_eq!(died, Some(End::Crashed(Crash::Hang)));
    assert_eq!(
        &world.frame(frame)[..32],
        &[1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
    );
    assert_eq!(word(&world, world.layout().outgoing(K0) + outgoing::DEATH), 0);
}

#[test]
fn a_panic_that_nobody_ordered_is_told_apart() {
    let (world, _a, _b) = two();
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let died = end(&world, K1, || panic!("oh {}", "no"));
    std::panic::set_hook(hook);
    assert_eq!(died, Some(End::Panicked("oh no".into())));
    assert_eq!(word(&world, world.layout().outgoing(K1) + outgoing::STATE), 3);
}

#[test]
fn a_disk_read_lands_late_even_if_its_kernel_is_dead_unless_the_disk_is_reset() {
    for reset in [None, Some(())] {
        let mut config = Config::new(2, 9);
        config.disk = vec![0x11; PAGE * 2 + 5];
        let (world, mut nodes) = booted(config);
        let mut b = nodes.remove(1);
        let a = &mut nodes[0];
        assert!(matches!(b.machine.claim(Device::Block), Ok(())));
        assert_eq!(b.machine.block_count(), 3);
        let frame = b.pool.take().unwrap();
        b.machine.zero_frame(frame);
        b.machine.block_read(1, 9, frame).unwrap();
        b.machine.idle(Nanos::NEVER);
        while world.advance() != Next::Turn(K1) {}
        assert_eq!(b.machine.take_events(), Events::BLOCK);
        assert_eq!(b.machine.block_done(), Some((1, Err(DeviceError::Io))));
        b.machine.block_read(2, 2, frame).unwrap();
        end(&world, K1, || b.machine.inject(Fault::Panic, 0));
        assert_eq!(world.frame(frame)[0], 0);
        if reset.is_some() {
            a.machine.claim(Device::Block).unwrap();
        }
        a.machine.take_events();
        a.machine.idle(world.now() + Nanos::secs(1));
        while world.advance() != Next::Turn(K0) {}
        let page = world.frame(frame);
        assert_eq!((page[0], page[5]), if reset.is_some() { (0, 0) } else { (0x11, 0) });
    }
}

#[test]
fn devices_are_used_by_their_owner_alone() {
    let (world, mut a, mut b) = two();
    assert_eq!(a.machine.claim(Device::Block), Err(DeviceError::Absent));
    a.machine.claim(Device::Console).unwrap();
    a.machine.claim(Device::Network).unwrap();
    let mut rest: &[u8] = b"hello, world\n";
    while !rest.is_empty() {
        let taken = a.machine.console_write(rest);
        rest = &rest[taken..];
    }
    assert_eq!(world.console_output(), b"\x18\rhello, world\n");
    world.console_type(b"ls\n");
    assert_eq!(a.machine.take_events(), Events::CONSOLE);
    let mut typed = [0; 8];
    assert_eq!((a.machine.console_read(&mut typed), &typed[..3]), (3, &b"ls\n"[..]));

    a.machine.net_send(b"out").unwrap();
    assert_eq!(world.advance(), Next::Host);
    assert_eq!(world.wire_take().as_deref(), Some(&b"out"[..]));
    world.wire_send(b"in".to_vec(), Nanos::micros(10));
    assert_eq!(a.machine.net_receive(&mut [0; 8]), None);
    a.machine.idle(Nanos::NEVER);
    assert_eq!(world.advance(), Next::Turn(K0));
    assert_eq!(a.machine.take_events(), Events::NETWORK);
    assert_eq!(a.machine.net_receive(&mut typed), Some(2));

    let died = end(&world, K1, || {
        b.machine.console_write(b"x");
    });
    assert!(matches!(died, Some(End::Fault(_))));
}

#[test]
fn a_device_is_not_taken_from_a_living_owner() {
    let (world, mut a, mut b) = two();
    a.machine.claim(Device::Console).unwrap();
    let died = end(&world, K1, || {
        let _ = b.machine.claim(Device::Console);
    });
    assert!(matches!(died, Some(End::Fault(_))));
}

#[test]
fn stores_to_foreign_parts_are_seen() {
    let (world, a, _b) = two();
    let before = world.snapshot();
    let layout = world.layout();
    a.machine.shared()[layout.outgoing(K0)].store(1, Ordering::Relaxed);
    a.machine.shared()[commons::MONITOR].store(1, Ordering::Relaxed);
    assert_eq!(world.check_shared_writers(&before, K0), Ok(()));
    assert!(world.check_shared_writers(&before, K1).is_err());
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let run = |seed| {
        let mut config = Config::new(3, seed);
        config.timing.stall_ppm = 100_000;
        let (world, mut nodes) = booted(config);
        let mut trace = Vec::new();
        nodes[0].machine.idle(Nanos(0));
        nodes[0].machine.notify(K1);
        for _ in 0..200 {
            let Next::Turn(core) = world.advance() else { break };
            let machine = &mut nodes[core.index()].machine;
            machine.take_events();
            machine.notify(KernelId((core.0 + 1) % 3));
            let until = machine.now() + Nanos(machine.random() % 1_000_000);
            machine.idle(until);
            trace.push((core, world.now()));
        }
        trace
    };
    assert_eq!(run(5).len(), 200);
    assert_ne!(run(5), run(6));
    assert_eq!(run(5), run(5));
}

#[test]
fn threads_change_places_in_the_middle_of_a_turn() {
    let run = || {
        let mut config = Config::new(2, 3);
        config.timing.preempt_ppm = 200_000;
        let world = World::new(config);
        let counter = commons::START + commons::WORDS - 1;
        let mut threads = Threads::new(world.clone(), move |mut machine: SoftMachine| {
            loop {
                // Not atomic: another core may come in between.
                let old = machine.shared()[counter].load(Ordering::SeqCst);
                machine.now();
                machine.shared()[counter].store(old + 1, Ordering::SeqCst);
                machine.take_events();
                let until = machine.now() + Nanos::micros(10);
                machine.idle(until);
                if old > 400 && machine.identity().life.kernel == K1 {
                    machine.inject(Fault::InfiniteLoop, 0);
                }
                if old > 600 {
                    machine.power_off();
                }
            }
        });
        let mut trace = Vec::new();
        loop {
            match threads.advance() {
                Next::Boot(core) => threads.boot(core),
                Next::Turn(core) => match threads.turn(core) {
                    Turn::Passed => trace.push((core, world.now())),
                    Turn::Ended(end) => trace.push((
                        core,
                        if end == End::PowerOff {
                            Nanos(0)
                        } else {
                            dbg!(end);
                            Nanos(1)
                        },
                    )),
                },
                Next::Off => break,
                other => panic!("{other:?}"),
            }
        }
        assert!(trace.contains(&(K1, Nanos(1))) && trace.contains(&(K0, Nanos(0))));
        trace
    };
    assert_eq!(run(), run());
}
