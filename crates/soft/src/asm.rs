//! An assembler for the simulated processor. It makes static ELF programs, so the kernel's own loader starts them.
use crate::processor::op;
use shimos_abi::addr::PAGE;

/// Where a program's code starts.
pub const CODE: u64 = 0x40_0000;
/// Where a program's data starts.
pub const DATA: u64 = 0x80_0000;

/// A general register, by its number on the processor.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs, reason = "the names are the processor's")]
pub enum Reg {
    Rax = 0,
    Rcx = 1,
    Rdx = 2,
    Rbx = 3,
    Rsp = 4,
    Rbp = 5,
    Rsi = 6,
    Rdi = 7,
    R8 = 8,
    R9 = 9,
    R10 = 10,
    R11 = 11,
    R12 = 12,
    R13 = 13,
    R14 = 14,
    R15 = 15,
}

/// A place in the code that may not be known yet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Label(usize);

/// An argument of a system call: a number or a register.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Arg {
    /// The number itself.
    Is(u64),
    /// What the register holds.
    In(Reg),
}

impl From<u64> for Arg {
    fn from(value: u64) -> Arg {
        Arg::Is(value)
    }
}

impl From<Reg> for Arg {
    fn from(register: Reg) -> Arg {
        Arg::In(register)
    }
}

/// A program in the making.
#[derive(Debug, Default)]
pub struct Asm {
    code: Vec<u8>,
    data: Vec<u8>,
    zeros: u64,
    labels: Vec<Option<u64>>,
    /// Where in the code the address of a label is missing.
    holes: Vec<(usize, Label)>,
}

macro_rules! three {
    ($($(#[$doc:meta])* $name:ident = $op:ident),* $(,)?) => {
        $($(#[$doc])* pub fn $name(&mut self, to: Reg, left: Reg, right: Reg) -> &mut Asm {
            self.put(op::$op, to as u8, left as u8, right as u8, 0)
        })*
    };
}

macro_rules! branch {
    ($($(#[$doc:meta])* $name:ident = $op:ident),* $(,)?) => {
        $($(#[$doc])* pub fn $name(&mut self, left: Reg, right: Reg, to: Label) -> &mut Asm {
            self.put_label(op::$op, left as u8, right as u8, to)
        })*
    };
}

impl Asm {
    /// An empty program.
    pub fn new() -> Asm {
        Asm::default()
    }
    fn put(&mut self, what: u8, a: u8, b: u8, c: u8, immediate: u64) -> &mut Asm {
        self.code.extend([what, a, b, c, 0, 0, 0, 0]);
        self.code.extend(immediate.to_le_bytes());
        self
    }
    fn put_label(&mut self, what: u8, a: u8, b: u8, to: Label) -> &mut Asm {
        self.put(what, a, b, 0, 0);
        self.holes.push((self.code.len() - 8, to));
        self
    }

    /// Adds bytes to the writable data and returns their address, a multiple of 8.
    pub fn data(&mut self, bytes: &[u8]) -> u64 {
        self.data.resize(self.data.len().next_multiple_of(8), 0);
        let addr = DATA + self.data.len() as u64;
        self.data.extend(bytes);
        addr
    }
    /// Reserves zeroed memory behind the data and returns its address, a multiple of a page.
    pub fn zeros(&mut self, bytes: u64) -> u64 {
        // Far enough from the data that more data may still be added.
        let addr = DATA + 0x40_0000 + self.zeros;
        self.zeros += bytes.next_multiple_of(PAGE as u64);
        addr
    }
    /// A label for a place still to come.
    pub fn label(&mut self) -> Label {
        self.labels.push(None);
        Label(self.labels.len() - 1)
    }
    /// The label is here.
    pub fn bind(&mut self, label: Label) -> &mut Asm {
        self.labels[label.0] = Some(CODE + self.code.len() as u64);
        self
    }
    /// A label that is here.
    pub fn here(&mut self) -> Label {
        let label = self.label();
        self.bind(label);
        label
    }

    /// Does nothing.
    pub fn nop(&mut self) -> &mut Asm {
        self.put(op::NOP, 0, 0, 0, 0)
    }
    /// `to = value`.
    pub fn set(&mut self, to: Reg, value: u64) -> &mut Asm {
        self.put(op::SET, to as u8, 0, 0, value)
    }
    /// `to = address of the label`.
    pub fn set_label(&mut self, to: Reg, label: Label) -> &mut Asm {
        self.put_label(op::SET, to as u8, 0, label)
    }
    /// `to = from`.
    pub fn copy(&mut self, to: Reg, from: Reg) -> &mut Asm {
        self.put(op::MOVE, to as u8, from as u8, 0, 0)
    }
    /// `to = the 8 bytes at [base + offset]`.
    pub fn load(&mut self, to: Reg, base: Reg, offset: u64) -> &mut Asm {
        self.put(op::LOAD, to as u8, base as u8, 0, offset)
    }
    /// `to = the byte at [base + offset]`.
    pub fn load_byte(&mut self, to: Reg, base: Reg, offset: u64) -> &mut Asm {
        self.put(op::LOAD_BYTE, to as u8, base as u8, 0, offset)
    }
    /// `the 8 bytes at [base + offset] = from`.
    pub fn store(&mut self, from: Reg, base: Reg, offset: u64) -> &mut Asm {
        self.put(op::STORE, from as u8, base as u8, 0, offset)
    }
    /// `the byte at [base + offset] = from`.
    pub fn store_byte(&mut self, from: Reg, base: Reg, offset: u64) -> &mut Asm {
        self.put(op::STORE_BYTE, from as u8, base as u8, 0, offset)
    }
    /// `to = from + value`.
    pub fn add_set(&mut self, to: Reg, from: Reg, value: u64) -> &mut Asm {
        self.put(op::ADD_SET, to as u8, from as u8, 0, value)
    }
    three! {
        /// `to = left + right`.
        add = ADD,
        /// `to = left - right`.
        sub = SUB,
        /// `to = left * right`.
        mul = MUL,
        /// `to = left ^ right`.
        xor = XOR,
        /// `to = left & right`.
        and = AND,
        /// `to = left | right`.
        or = OR,
        /// `to = left / right`; exception 0 if `right` is 0.
        div = DIV,
        /// `to = left % right`; exception 0 if `right` is 0.
        rem = REM,
    }
    /// `to = from << bits`.
    pub fn shl(&mut self, to: Reg, from: Reg, bits: u64) -> &mut Asm {
        self.put(op::SHL, to as u8, from as u8, 0, bits)
    }
    /// `to = from >> bits`.
    pub fn shr(&mut self, to: Reg, from: Reg, bits: u64) -> &mut Asm {
        self.put(op::SHR, to as u8, from as u8, 0, bits)
    }
    branch! {
        /// Jumps if `left == right`.
        if_equal = EQUAL,
        /// Jumps if `left != right`.
        if_different = DIFFERENT,
        /// Jumps if `left < right`, unsigned.
        if_less = LESS,
        /// Jumps if `left < right`, signed.
        if_less_signed = LESS_SIGNED,
    }
    /// Jumps.
    pub fn jump(&mut self, to: Label) -> &mut Asm {
        self.put_label(op::JUMP, 0, 0, to)
    }
    /// Jumps to the address that a register holds.
    pub fn jump_to(&mut self, to: Reg) -> &mut Asm {
        self.put(op::JUMP_TO, to as u8, 0, 0, 0)
    }
    /// Calls.
    pub fn call(&mut self, to: Label) -> &mut Asm {
        self.put_label(op::CALL, 0, 0, to)
    }
    /// Returns from a call.
    pub fn ret(&mut self) -> &mut Asm {
        self.put(op::RETURN, 0, 0, 0, 0)
    }
    /// Pushes a register.
    pub fn push(&mut self, from: Reg) -> &mut Asm {
        self.put(op::PUSH, from as u8, 0, 0, 0)
    }
    /// Pops a register.
    pub fn pop(&mut self, to: Reg) -> &mut Asm {
        self.put(op::POP, to as u8, 0, 0, 0)
    }
    /// Vector register `number` (below 4) = `from`.
    pub fn vector_set(&mut self, number: u8, from: Reg) -> &mut Asm {
        self.put(op::VECTOR_SET, from as u8, number, 0, 0)
    }
    /// `to` = vector register `number` (below 4).
    pub fn vector_get(&mut self, to: Reg, number: u8) -> &mut Asm {
        self.put(op::VECTOR_GET, to as u8, number, 0, 0)
    }
    /// An instruction that does not exist: exception 6.
    pub fn invalid(&mut self) -> &mut Asm {
        self.put(0xff, 0, 0, 0, 0)
    }
    /// The bare system call instruction.
    pub fn syscall(&mut self) -> &mut Asm {
        self.code.extend([0x0f, 0x05]);
        self
    }
    /// A whole system call; the result is in `rax`. Registers are moved in the order of the arguments: an argument must
    /// not stand in a register that an earlier one is moved to.
    pub fn call_system(&mut self, number: u64, args: &[Arg]) -> &mut Asm {
        let places = [Reg::Rdi, Reg::Rsi, Reg::Rdx, Reg::R10, Reg::R8, Reg::R9];
        for (place, arg) in places.into_iter().zip(args) {
            match *arg {
                Arg::Is(value) => self.set(place, value),
                Arg::In(from) if from == place => self,
                Arg::In(from) => self.copy(place, from),
            };
        }
        self.set(Reg::Rax, number).syscall()
    }
    /// Ends the process: exit_group.
    pub fn exit(&mut self, status: u64) -> &mut Asm {
        self.call_system(231, &[Arg::Is(status)])
    }

    /// The code alone, to be put at [`CODE`]. Labels that were never bound are 0.
    pub fn code(&self) -> Vec<u8> {
        let mut code = self.code.clone();
        for (place, label) in &self.holes {
            let addr = self.labels[label.0].unwrap_or(0);
            code[*place..*place + 8].copy_from_slice(&addr.to_le_bytes());
        }
        code
    }

    /// The program as a static ELF file for x86-64. It starts at its first instruction.
    pub fn elf(&self) -> Vec<u8> {
        let code = self.code();
        let page = PAGE as u64;
        let code_at = page;
        let data_at = (code_at + code.len() as u64).next_multiple_of(page);
        let data_memory =
            if self.zeros == 0 { self.data.len() as u64 } else { 0x40_0000 + self.zeros }.max(self.data.len() as u64);
        let mut headers = vec![(5_u32, code_at, CODE, code.len() as u64, code.len() as u64)];
        if data_memory != 0 {
            headers.push((6, data_at, DATA, self.data.len() as u64, data_memory));
        }
        let mut file = Vec::new();
        file.extend(*b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
        file.extend(2_u16.to_le_bytes());
        file.extend(62_u16.to_le_bytes());
        file.extend(1_u32.to_le_bytes());
        file.extend(CODE.to_le_bytes());
        file.extend(64_u64.to_le_bytes());
        file.extend(0_u64.to_le_bytes());
        file.extend(0_u32.to_le_bytes());
        for half in [64, 56, headers.len() as u16 + 1, 64, 0, 0] {
            file.extend(half.to_le_bytes());
        }
        // PT_GNU_STACK: a stack that is not executable.
        let stack = (0x6474_e551_u32, 6_u32, 0, 0, 0, 0, 16);
        let loads =
            headers.into_iter().map(|(flags, at, addr, bytes, memory)| (1, flags, at, addr, bytes, memory, page));
        for (kind, flags, at, addr, bytes, memory, align) in loads.chain([stack]) {
            file.extend(kind.to_le_bytes());
            file.extend(flags.to_le_bytes());
            for word in [at, addr, addr, bytes, memory, align] {
                file.extend(word.to_le_bytes());
            }
        }
        file.resize(code_at as usize, 0);
        file.extend(&code);
        file.resize(data_at as usize, 0);
        file.extend(&self.data);
        file
    }
}
