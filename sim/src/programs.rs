//! The programs that run in the simulation, written for the simulated processor. They make real Linux system calls.
//!
//! Each says how it gets on by lines `X 00000001`, counted from 1: its letter, then a number with eight digits.
use shimos_abi::control::Request;
use shimos_soft::asm::{
    Arg, Asm, Label,
    Reg::{self, R12, R13, R14, R15, Rax, Rbp, Rbx, Rdi, Rdx},
};

mod system {
    pub const READ: u64 = 0;
    pub const WRITE: u64 = 1;
    pub const OPEN: u64 = 2;
    pub const CLOSE: u64 = 3;
    pub const PIPE: u64 = 22;
    pub const NANOSLEEP: u64 = 35;
    pub const SOCKET: u64 = 41;
    pub const ACCEPT: u64 = 43;
    pub const BIND: u64 = 49;
    pub const LISTEN: u64 = 50;
    pub const SETSOCKOPT: u64 = 54;
    pub const FORK: u64 = 57;
    pub const CLOCK_GETTIME: u64 = 228;
}

/// Port of the echo server.
pub const ECHO_PORT: u16 = 7;
/// So many lines a program that rests shows without a rest, and how long it rests from then on.
const BUSY: u64 = 8;
const REST: u64 = 60_000_000;
/// Length of a progress line.
const LINE: usize = 11;

/// A program with the parts that all of them need.
struct Program {
    asm: Asm,
    line: u64,
    failed: Label,
    /// Subroutine: writes `rdx` bytes at `rsi` to descriptor `rdi`, all of them.
    write_all: Label,
    /// Subroutine: reads `rdx` bytes to `rsi` from descriptor `rdi`, all of them.
    read_all: Label,
    /// Subroutine: prints the number in `rdi` as a progress line.
    progress: Label,
}

impl Program {
    fn new(letter: u8) -> Program {
        let mut asm = Asm::new();
        let line = asm.data(format!("{} 00000000\n", letter as char).as_bytes());
        let bad = asm.data(format!("{} FAILED\n", letter as char).as_bytes());
        let (failed, write_all, read_all, progress, start) =
            (asm.label(), asm.label(), asm.label(), asm.label(), asm.label());
        asm.jump(start);
        for (label, number) in [(write_all, system::WRITE), (read_all, system::READ)] {
            transfer_all(asm.bind(label), number, failed);
        }
        asm.bind(progress);
        digits(&mut asm, Rdi, line + 2);
        asm.set(Rdi, 1).set(Reg::Rsi, line).set(Rdx, LINE as u64).call(write_all).ret();
        asm.bind(failed);
        asm.copy(R15, Rax).call_system(system::WRITE, &[Arg::Is(1), Arg::Is(bad), Arg::Is(9)]).exit(1);
        asm.bind(start);
        Program { asm, line, failed, write_all, read_all, progress }
    }
    /// Prints the number in `from` as a progress line. Changes the registers that calls change.
    fn print(&mut self, from: Reg) {
        self.asm.copy(Rdi, from).call(self.progress);
    }
    /// Fails if the last system call did.
    fn check(&mut self) {
        self.asm.set(Rdx, 0).if_less_signed(Rax, Rdx, self.failed);
    }
    fn sleep(&mut self, nanos: u64) {
        let time =
            self.asm.data(&[(nanos / 1_000_000_000).to_le_bytes(), (nanos % 1_000_000_000).to_le_bytes()].concat());
        self.asm.call_system(system::NANOSLEEP, &[Arg::Is(time), Arg::Is(0)]);
        self.check();
    }
    /// Sleeps and goes on at `again`; sleeps longer once the number in `count` is high, so that a long time costs little.
    fn rest(&mut self, count: Reg, pause: u64, again: Label) {
        let long = self.asm.label();
        self.asm.set(Rdx, BUSY).if_less(Rdx, count, long);
        self.sleep(pause);
        self.asm.jump(again).bind(long);
        self.sleep(REST.max(pause));
        self.asm.jump(again);
    }
    fn elf(self) -> Vec<u8> {
        debug_assert!(self.line >= shimos_soft::asm::DATA);
        self.asm.elf()
    }
}

/// Writes the last eight digits of the number in `from` to `place`.
fn digits(asm: &mut Asm, from: Reg, place: u64) {
    // From the last to the first.
    asm.copy(Rax, from).set(Reg::R8, place + 7).set(Reg::R9, place - 1).set(Reg::R10, 10);
    let digit = asm.here();
    asm.rem(Rdx, Rax, Reg::R10).div(Rax, Rax, Reg::R10).add_set(Rdx, Rdx, u64::from(b'0'));
    asm.store_byte(Rdx, Reg::R8, 0).add_set(Reg::R8, Reg::R8, !0).if_different(Reg::R8, Reg::R9, digit);
}

/// A loop around read or write that goes on until everything has moved. End of file counts as failure.
fn transfer_all(asm: &mut Asm, number: u64, failed: Label) {
    let (again, done) = (asm.label(), asm.label());
    for register in [R12, R13, R14] {
        asm.push(register);
    }
    asm.copy(R12, Rdi).copy(R13, Reg::Rsi).copy(R14, Rdx);
    asm.bind(again).set(Rax, 0).if_equal(R14, Rax, done);
    asm.call_system(number, &[Arg::In(R12), Arg::In(R13), Arg::In(R14)]);
    asm.set(Rdx, 1).if_less_signed(Rax, Rdx, failed);
    asm.add(R13, R13, Rax).sub(R14, R14, Rax).jump(again);
    asm.bind(done);
    for register in [R14, R13, R12] {
        asm.pop(register);
    }
    asm.ret();
}

/// Counts: in memory, in a register and in a vector register, which must agree.
pub fn counter(letter: u8, pause: u64) -> Vec<u8> {
    let mut p = Program::new(letter);
    let count = p.asm.data(&[0; 8]);
    p.asm.set(Rbx, 0).vector_set(2, Rbx).set(Rbp, count);
    let again = p.asm.here();
    p.asm.load(Rax, Rbp, 0).if_different(Rax, Rbx, p.failed);
    p.asm.vector_get(Rax, 2).if_different(Rax, Rbx, p.failed);
    p.asm.add_set(Rbx, Rbx, 1).store(Rbx, Rbp, 0).vector_set(2, Rbx);
    p.print(Rbx);
    p.sleep(pause);
    p.asm.jump(again);
    p.elf()
}

/// Counts, and shows with each number one that nobody can foresee, behind the one before it. A program that was taken back
/// to an earlier checkpoint finds other ones, so whoever saw those that were shown too early sees that they were never so.
pub fn dice(letter: u8, pause: u64) -> Vec<u8> {
    let mut p = Program::new(letter);
    let line = p.asm.data(format!("00000000 00000000 {} 00000000\n", letter as char).as_bytes());
    let time = p.asm.data(&[0; 16]);
    p.asm.set(Rbx, 0).set(R12, 0);
    let again = p.asm.here();
    digits(&mut p.asm, R12, line);
    p.asm.call_system(system::CLOCK_GETTIME, &[Arg::Is(1), Arg::Is(time)]);
    p.check();
    p.asm.set(Rbp, time).load(R12, Rbp, 8);
    digits(&mut p.asm, R12, line + 9);
    p.asm.add_set(Rbx, Rbx, 1);
    digits(&mut p.asm, Rbx, line + 20);
    p.asm.set(Rdi, 1).set(Reg::Rsi, line).set(Rdx, 29).call(p.write_all);
    p.rest(Rbx, pause, again);
    p.elf()
}

/// Two processes and two pipes: the parent sends x, the child answers 3x + 1, many times.
pub fn ping_pong(letter: u8, pause: u64) -> Vec<u8> {
    let mut p = Program::new(letter);
    let there = p.asm.data(&[0; 8]);
    let back = p.asm.data(&[0; 8]);
    let word = p.asm.data(&[0; 8]);
    for pipe in [there, back] {
        p.asm.call_system(system::PIPE, &[Arg::Is(pipe)]);
        p.check();
    }
    // Descriptors: 3 and 4 are `there`, 5 and 6 are `back`.
    let child = p.asm.label();
    p.asm.call_system(system::FORK, &[]);
    p.check();
    p.asm.set(Rdx, 0).if_equal(Rax, Rdx, child);
    p.asm.set(Rbx, 0).set(R15, 3).set(Rbp, word);
    let again = p.asm.here();
    p.asm.add_set(Rbx, Rbx, 1).store(Rbx, Rbp, 0);
    p.asm.set(Rdi, 4).set(Reg::Rsi, word).set(Rdx, 8).call(p.write_all);
    p.asm.set(Rdi, 5).set(Reg::Rsi, word).set(Rdx, 8).call(p.read_all);
    p.asm.load(Rax, Rbp, 0).mul(Rdx, Rbx, R15).add_set(Rdx, Rdx, 1).if_different(Rax, Rdx, p.failed);
    // Every 16 rounds a line.
    p.asm.set(Rdx, 15).and(Rdx, Rbx, Rdx).set(Rax, 0).if_different(Rdx, Rax, again);
    p.asm.shr(R12, Rbx, 4);
    p.print(R12);
    p.sleep(pause);
    p.asm.jump(again);
    p.asm.bind(child).set(Rbp, word).set(R15, 3);
    let again = p.asm.here();
    p.asm.set(Rdi, 3).set(Reg::Rsi, word).set(Rdx, 8).call(p.read_all);
    p.asm.load(Rax, Rbp, 0).mul(Rax, Rax, R15).add_set(Rax, Rax, 1).store(Rax, Rbp, 0);
    p.asm.set(Rdi, 6).set(Reg::Rsi, word).set(Rdx, 8).call(p.write_all);
    p.asm.jump(again);
    p.elf()
}

/// Writes into many pages and verifies what is in all of them; a line each round.
pub fn toucher(letter: u8, pages: u64, pause: u64) -> Vec<u8> {
    let mut p = Program::new(letter);
    let area = p.asm.zeros(pages * 4096);
    let end = area + pages * 4096;
    // Word i of round n holds n * 1_000_003 + address, in some pages of every round; a second word says the round.
    p.asm.set(Rbx, 0);
    let round = p.asm.here();
    p.asm.add_set(Rbx, Rbx, 1).set(R12, area).set(R13, end).set(R14, 1_000_003);
    let next = p.asm.here();
    let skip = p.asm.label();
    // Verify: word 0 = word 1 * 1_000_003 + address, unless the page is still zero.
    p.asm.load(Rax, R12, 8).load(Rdx, R12, 2048).set(Rbp, 0);
    let fresh = p.asm.label();
    p.asm.if_equal(Rax, Rbp, fresh).mul(Rax, Rax, R14).add(Rax, Rax, R12);
    p.asm.bind(fresh).if_different(Rax, Rdx, p.failed);
    // Write the page if (address / 4096 + round) % 3 == 0.
    p.asm.shr(Rax, R12, 12).add(Rax, Rax, Rbx).set(Rdx, 3).rem(Rax, Rax, Rdx).if_different(Rax, Rbp, skip);
    p.asm.store(Rbx, R12, 8).mul(Rax, Rbx, R14).add(Rax, Rax, R12).store(Rax, R12, 2048);
    p.asm.bind(skip).add_set(R12, R12, 4096).if_less(R12, R13, next);
    p.print(Rbx);
    p.sleep(pause);
    p.asm.jump(round);
    p.elf()
}

/// Takes one connection after the other and sends back what comes.
pub fn echo_server(letter: u8) -> Vec<u8> {
    let mut p = Program::new(letter);
    let [high, low] = ECHO_PORT.to_be_bytes();
    let address = p.asm.data(&[2, 0, high, low, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    let one = p.asm.data(&1_u32.to_le_bytes());
    let buffer = p.asm.zeros(4096);
    p.asm.call_system(system::SOCKET, &[Arg::Is(2), Arg::Is(1), Arg::Is(0)]);
    p.check();
    p.asm.copy(Rbx, Rax);
    p.asm.call_system(system::SETSOCKOPT, &[Arg::In(Rbx), Arg::Is(1), Arg::Is(2), Arg::Is(one), Arg::Is(4)]);
    p.check();
    p.asm.call_system(system::BIND, &[Arg::In(Rbx), Arg::Is(address), Arg::Is(16)]);
    p.check();
    p.asm.call_system(system::LISTEN, &[Arg::In(Rbx), Arg::Is(8)]);
    p.check();
    p.asm.set(Rbp, 0);
    let accept = p.asm.here();
    p.asm.add_set(Rbp, Rbp, 1);
    p.print(Rbp);
    p.asm.call_system(system::ACCEPT, &[Arg::In(Rbx), Arg::Is(0), Arg::Is(0)]);
    p.check();
    p.asm.copy(R15, Rax);
    let (echo, close) = (p.asm.label(), p.asm.label());
    p.asm.bind(echo);
    p.asm.call_system(system::READ, &[Arg::In(R15), Arg::Is(buffer), Arg::Is(1500)]);
    p.check();
    p.asm.set(Rdx, 0).if_equal(Rax, Rdx, close);
    p.asm.copy(Rdx, Rax).copy(Rdi, R15).set(Reg::Rsi, buffer).call(p.write_all).jump(echo);
    p.asm.bind(close);
    p.asm.call_system(system::CLOSE, &[Arg::In(R15)]);
    p.check();
    p.asm.jump(accept);
    p.elf()
}

/// The first program: makes requests of the kernel and then sleeps for ever.
pub fn init(requests: &[Request]) -> Vec<u8> {
    let mut p = Program::new(b'I');
    let device = p.asm.data(b"/dev/shimos\0");
    let (buffer, newline) = (p.asm.zeros(64 * 1024), p.asm.data(b"\n"));
    p.asm.call_system(system::OPEN, &[Arg::Is(device), Arg::Is(2), Arg::Is(0)]);
    p.check();
    p.asm.copy(Rbx, Rax);
    for (number, request) in requests.iter().enumerate() {
        let item = minicbor::to_vec(request).unwrap_or_default();
        let message = [&(item.len() as u32).to_le_bytes()[..], &item].concat();
        let addr = p.asm.data(&message);
        // A kernel that is not up yet does not answer: ask again after a while.
        let (again, refused, good, next) = (p.asm.label(), p.asm.label(), p.asm.label(), p.asm.label());
        p.asm.set(R14, 0).bind(again).add_set(R14, R14, 1);
        p.asm.copy(Rdi, Rbx).set(Reg::Rsi, addr).set(Rdx, message.len() as u64).call(p.write_all);
        p.asm.call_system(system::READ, &[Arg::In(Rbx), Arg::Is(buffer), Arg::Is(40_000)]);
        p.check();
        // Behind the length: an array of two, then the number of the kind of answer; 5 says that it failed, and why, and 8 that
        // it can be asked again.
        p.asm.copy(R13, Rax).set(Rbp, buffer).load_byte(Rdx, Rbp, 5).set(Rax, 5).if_equal(Rdx, Rax, refused);
        p.asm.set(Rax, 8).if_different(Rdx, Rax, good).bind(refused);
        p.sleep(5_000_000);
        p.asm.set(Rax, 100).if_less(R14, Rax, again);
        p.asm.set(Rdi, 1).set(Reg::Rsi, buffer + 8).add_set(Rdx, R13, 8_u64.wrapping_neg()).call(p.write_all);
        // It is told, and no failure yet: where this is started anew, the programs of the one before run.
        p.asm.set(Rdi, 1).set(Reg::Rsi, newline).set(Rdx, 1).call(p.write_all);
        p.asm.jump(next).bind(good);
        p.asm.set(R12, number as u64 + 1);
        p.print(R12);
        p.asm.bind(next);
    }
    let for_ever = p.asm.here();
    p.sleep(60_000_000_000);
    p.asm.jump(for_ever);
    p.elf()
}

#[cfg(test)]
mod tests {
    use super::*;
    use shimos_abi::{
        addr::{Frame, PAGE, UserPage},
        ids::KernelId,
        time::Nanos,
    };
    use shimos_hal::{Fpu, FrameSource, Machine, Regs, Rights, Trap};
    use shimos_soft::{Config, Next, SoftMachine, World};

    struct Pool(Vec<Frame>);
    impl FrameSource for Pool {
        fn take(&mut self) -> Option<Frame> {
            self.0.pop()
        }
        fn give(&mut self, frame: Frame) {
            self.0.push(frame);
        }
    }

    /// Runs one process with a kernel of three system calls; returns what it wrote.
    fn output(elf: &[u8], calls: usize) -> String {
        let world = World::new(Config::new(1, 1));
        assert_eq!(world.advance(), Next::Boot(KernelId(0)));
        let mut m = SoftMachine::new(&world, KernelId(0));
        let range = m.identity().pool;
        let mut pool = Pool((1..range.count as usize).map(|i| range.at(i)).collect());
        let mut space = m.new_space(&mut pool).expect("frames");
        let word = |at: usize| u64::from_le_bytes(elf[at..at + 8].try_into().expect("8 bytes"));
        for header in 0..elf[56] as usize {
            let at = 64 + header * 56;
            if elf[at] != 1 {
                continue;
            }
            let (from, addr, bytes, memory) = (word(at + 8), word(at + 16), word(at + 32), word(at + 40));
            for page in 0..memory.div_ceil(PAGE as u64) {
                let frame = pool.take().expect("a frame");
                m.zero_frame(frame);
                let start = (from + page * PAGE as u64).min(from + bytes) as usize;
                let end = (start + PAGE).min((from + bytes) as usize);
                m.write_frame(frame, 0, &elf[start..end]);
                let rights = if elf[at + 4] & 1 != 0 { Rights::EXECUTE } else { Rights::WRITE };
                m.map(&mut space, UserPage(addr / PAGE as u64 + page), frame, rights, &mut pool).expect("tables");
            }
        }
        let stack = pool.take().expect("a frame");
        m.map(&mut space, UserPage(0x7000), stack, Rights::WRITE, &mut pool).expect("tables");
        let mut regs = Regs { rip: word(24), rsp: 0x700_1000, ..Regs::default() };
        let (mut fpu, mut out) = (Fpu::default(), Vec::new());
        for _ in 0..calls {
            let trap = m.run(&space, &mut regs, &mut fpu, Nanos::NEVER);
            m.take_events();
            match (trap, regs.rax) {
                (Trap::Interrupted, _) => continue,
                (Trap::Syscall, system::WRITE) => {
                    // Never all of it, so that the rest must be written again.
                    let count = (regs.rdx as usize).min(4);
                    let page = m.lookup(&space, UserPage(regs.rsi / PAGE as u64)).expect("a page");
                    let mut bytes = vec![0; count];
                    m.read_frame(page.frame, regs.rsi as usize % PAGE, &mut bytes);
                    out.extend(bytes);
                    regs.rax = count as u64;
                }
                (Trap::Syscall, system::NANOSLEEP) => regs.rax = 0,
                other => panic!("{other:x?} at {:x}", regs.rip),
            }
        }
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn the_counter_counts() {
        assert!(output(&counter(b'C', 1000), 400).starts_with("C 00000001\nC 00000002\nC 00000003\nC 00000004\n"));
    }

    #[test]
    fn the_toucher_verifies_what_it_wrote() {
        let out = output(&toucher(b'T', 8, 1_000_000), 400);
        assert!(out.starts_with("T 00000001\nT 00000002\n") && !out.contains("FAILED"), "{out}");
    }
}
