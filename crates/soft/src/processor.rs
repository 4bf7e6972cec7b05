//! The processor that user programs run on: registers as on x86-64, an instruction set of its own.
//!
//! Every instruction takes 16 bytes (operation, three register numbers, four bytes of nothing, a 64-bit immediate), but
//! for the system call, which is `0f 05` as on x86-64, so that a kernel restarts it in the same way: two bytes back.
use crate::{cores::Phase, death::End, space::SoftSpace, world::Inner};
use shimos_abi::{
    addr::{PAGE, UserAddr},
    time::Nanos,
};
use shimos_hal::{Access, Events, Fpu, Regs, Rights, Trap};

/// Bytes of an instruction other than the system call.
pub(crate) const SIZE: u64 = 16;
/// Bytes of the save area of the vector registers (legacy region and header).
const AREA: usize = 576;
/// Where xmm0 lies in the save area.
const XMM: usize = 160;

/// Operation codes.
pub(crate) mod op {
    pub const NOP: u8 = 0x10;
    pub const SET: u8 = 0x11;
    pub const MOVE: u8 = 0x12;
    pub const LOAD: u8 = 0x13;
    pub const LOAD_BYTE: u8 = 0x14;
    pub const STORE: u8 = 0x15;
    pub const STORE_BYTE: u8 = 0x16;
    pub const ADD: u8 = 0x20;
    pub const SUB: u8 = 0x21;
    pub const MUL: u8 = 0x22;
    pub const XOR: u8 = 0x23;
    pub const AND: u8 = 0x24;
    pub const OR: u8 = 0x25;
    pub const DIV: u8 = 0x26;
    pub const REM: u8 = 0x27;
    pub const SHL: u8 = 0x28;
    pub const SHR: u8 = 0x29;
    pub const ADD_SET: u8 = 0x2a;
    pub const JUMP: u8 = 0x30;
    pub const EQUAL: u8 = 0x31;
    pub const DIFFERENT: u8 = 0x32;
    pub const LESS: u8 = 0x33;
    pub const LESS_SIGNED: u8 = 0x34;
    pub const CALL: u8 = 0x38;
    pub const RETURN: u8 = 0x39;
    pub const PUSH: u8 = 0x3a;
    pub const POP: u8 = 0x3b;
    pub const JUMP_TO: u8 = 0x3c;
    pub const VECTOR_SET: u8 = 0x40;
    pub const VECTOR_GET: u8 = 0x41;
}

/// The vector registers that are loaded: those of the thread that ran last.
#[derive(Debug, Default)]
pub(crate) struct Vectors {
    tag: Option<u64>,
    registers: [u64; 4],
}

impl Vectors {
    /// Loads a thread's registers, unless they are loaded already.
    pub fn load(&mut self, fpu: &Fpu) {
        if self.tag == Some(fpu.tag) {
            return;
        }
        self.tag = Some(fpu.tag);
        self.registers = [0; 4];
        for (index, register) in self.registers.iter_mut().enumerate() {
            if let Some(Ok(word)) = fpu.area.get(XMM + index * 16..XMM + index * 16 + 8).map(<[u8; 8]>::try_from) {
                *register = u64::from_le_bytes(word);
            }
        }
    }
    /// Writes the registers back, if they are this thread's.
    pub fn save(&self, fpu: &mut Fpu) {
        if self.tag != Some(fpu.tag) {
            return;
        }
        if fpu.area.len() < AREA {
            fpu.area.resize(AREA, 0);
            // FCW and MXCSR after reset; the header says that x87 and SSE state is there.
            fpu.area[..2].copy_from_slice(&0x037f_u16.to_le_bytes());
            fpu.area[24..28].copy_from_slice(&0x1f80_u32.to_le_bytes());
        }
        fpu.area[512..520].copy_from_slice(&3_u64.to_le_bytes());
        for (index, register) in self.registers.iter().enumerate() {
            fpu.area[XMM + index * 16..XMM + index * 16 + 8].copy_from_slice(&register.to_le_bytes());
        }
    }
}

/// Why an instruction did not end as usual.
enum Stop {
    Trap(Trap),
    Kernel(String),
}

fn register(regs: &mut Regs, number: u8) -> &mut u64 {
    match number & 15 {
        0 => &mut regs.rax,
        1 => &mut regs.rcx,
        2 => &mut regs.rdx,
        3 => &mut regs.rbx,
        4 => &mut regs.rsp,
        5 => &mut regs.rbp,
        6 => &mut regs.rsi,
        7 => &mut regs.rdi,
        8 => &mut regs.r8,
        9 => &mut regs.r9,
        10 => &mut regs.r10,
        11 => &mut regs.r11,
        12 => &mut regs.r12,
        13 => &mut regs.r13,
        14 => &mut regs.r14,
        _ => &mut regs.r15,
    }
}

struct Memory<'a> {
    inner: &'a mut Inner,
    core: usize,
    space: &'a SoftSpace,
}

impl Memory<'_> {
    /// Moves bytes between `bytes` and user memory, page by page, after the rights of all its pages were checked.
    fn access(&mut self, addr: u64, bytes: &mut [u8], access: Access) -> Result<(), Stop> {
        let mut pages = self.space.pages.borrow_mut();
        let mut pieces = [(None, 0, 0); 2];
        let mut done = 0;
        for piece in &mut pieces {
            if done == bytes.len() {
                break;
            }
            let at = UserAddr(addr.wrapping_add(done as u64));
            let trap = Stop::Trap(Trap::PageFault { addr: at, access });
            let Some(page) = at.page() else {
                return Err(trap);
            };
            let Some(mapping) = pages.get_mut(&page) else {
                return Err(trap);
            };
            let allowed = match access {
                Access::Read => true,
                Access::Write => mapping.rights.contains(Rights::WRITE),
                Access::Execute => mapping.rights.contains(Rights::EXECUTE),
            };
            if !allowed {
                return Err(trap);
            }
            if !self.inner.readable(self.core, mapping.frame) {
                return Err(Stop::Kernel(format!("a program maps {:?}, which is not readable", mapping.frame)));
            }
            mapping.dirty |= access == Access::Write;
            let length = (PAGE - at.offset()).min(bytes.len() - done);
            *piece = (Some(mapping.frame), at.offset(), length);
            done += length;
        }
        done = 0;
        for (frame, offset, length) in pieces {
            let Some(frame) = frame else { break };
            let piece = &mut bytes[done..done + length];
            done += length;
            if access == Access::Write {
                self.inner.frames.write(frame, offset, piece);
            } else {
                self.inner.frames.read(frame, offset, piece);
            }
        }
        Ok(())
    }
    fn load(&mut self, addr: u64) -> Result<u64, Stop> {
        let mut word = [0; 8];
        self.access(addr, &mut word, Access::Read)?;
        Ok(u64::from_le_bytes(word))
    }
    fn store(&mut self, addr: u64, value: u64) -> Result<(), Stop> {
        self.access(addr, &mut value.to_le_bytes(), Access::Write)
    }
}

/// Executes one instruction. `regs` is changed only if it succeeds.
fn execute(memory: &mut Memory<'_>, regs: &mut Regs, vectors: &mut Vectors) -> Result<(), Stop> {
    let mut code = [0; SIZE as usize];
    memory.access(regs.rip, &mut code[..2], Access::Execute)?;
    if code[..2] == [0x0f, 0x05] {
        regs.rip += 2;
        regs.rcx = regs.rip;
        regs.r11 = regs.rflags;
        return Err(Stop::Trap(Trap::Syscall));
    }
    memory.access(regs.rip, &mut code, Access::Execute)?;
    let [what, a, b, c, _, _, _, _, immediate @ ..] = code;
    let immediate = u64::from_le_bytes(immediate);
    let (left, right) = (*register(regs, b), *register(regs, c));
    let own = *register(regs, a);
    let mut next = regs.rip.wrapping_add(SIZE);
    let exception = |vector| Err(Stop::Trap(Trap::Exception { vector, code: 0 }));
    let result = match what {
        op::NOP => own,
        op::SET => immediate,
        op::MOVE => left,
        op::LOAD => memory.load(left.wrapping_add(immediate))?,
        op::LOAD_BYTE => {
            let mut byte = [0];
            memory.access(left.wrapping_add(immediate), &mut byte, Access::Read)?;
            byte[0].into()
        }
        op::STORE => {
            memory.store(left.wrapping_add(immediate), own)?;
            own
        }
        op::STORE_BYTE => {
            memory.access(left.wrapping_add(immediate), &mut [own as u8], Access::Write)?;
            own
        }
        op::ADD => left.wrapping_add(right),
        op::SUB => left.wrapping_sub(right),
        op::MUL => left.wrapping_mul(right),
        op::XOR => left ^ right,
        op::AND => left & right,
        op::OR => left | right,
        op::DIV | op::REM if right == 0 => return exception(0),
        op::DIV => left / right,
        op::REM => left % right,
        op::SHL => left.wrapping_shl(immediate as u32),
        op::SHR => left.wrapping_shr(immediate as u32),
        op::ADD_SET => left.wrapping_add(immediate),
        op::JUMP => {
            next = immediate;
            own
        }
        op::JUMP_TO => {
            next = own;
            own
        }
        op::EQUAL | op::DIFFERENT | op::LESS | op::LESS_SIGNED => {
            let jumps = match what {
                op::EQUAL => own == left,
                op::DIFFERENT => own != left,
                op::LESS => own < left,
                _ => (own as i64) < (left as i64),
            };
            if jumps {
                next = immediate;
            }
            own
        }
        op::CALL | op::PUSH => {
            let top = regs.rsp.wrapping_sub(8);
            memory.store(top, if what == op::CALL { next } else { own })?;
            regs.rsp = top;
            if what == op::CALL {
                regs.rip = immediate;
                return Ok(());
            }
            regs.rip = next;
            return Ok(());
        }
        op::RETURN => {
            next = memory.load(regs.rsp)?;
            regs.rsp = regs.rsp.wrapping_add(8);
            regs.rip = next;
            return Ok(());
        }
        op::POP => {
            let value = memory.load(regs.rsp)?;
            regs.rsp = regs.rsp.wrapping_add(8);
            value
        }
        op::VECTOR_SET => {
            vectors.registers[usize::from(b) % 4] = own;
            own
        }
        op::VECTOR_GET => vectors.registers[usize::from(b) % 4],
        _ => return exception(6),
    };
    *register(regs, a) = result;
    regs.rip = next;
    Ok(())
}

/// Runs a thread until it traps, an interrupt comes, its slice or its time is over.
pub(crate) fn run(
    inner: &mut Inner,
    core: usize,
    space: &SoftSpace,
    regs: &mut Regs,
    vectors: &mut Vectors,
    until: Nanos,
) -> Result<Trap, End> {
    let slice = inner.now + inner.config.timing.slice;
    let mut memory = Memory { inner, core, space };
    loop {
        if memory.inner.now >= until {
            memory.inner.cores[core].events |= Events::TIMER;
        }
        let state = &memory.inner.cores[core];
        if !state.events.is_empty() || state.nmi || state.init || memory.inner.now >= slice {
            return Ok(Trap::Interrupted);
        }
        debug_assert!(!matches!(state.phase, Phase::Parked));
        let time = memory.inner.time(memory.inner.config.timing.instruction);
        memory.inner.now = memory.inner.now + time;
        memory.inner.devices_act();
        match execute(&mut memory, regs, vectors) {
            Ok(()) => {}
            Err(Stop::Trap(trap)) => return Ok(trap),
            Err(Stop::Kernel(text)) => return Err(End::Fault(text)),
        }
    }
}
