//! Calls of all kinds, half of them sensible.
use crate::{
    ARENA, Memory, Step,
    grammar::{Arg, CALLS, Call},
};
use shimos_random::Random;

/// Names for calls that take paths. Those before `OWN` are everybody's.
const PATHS: [&str; 34] = [
    ".",
    "..",
    "a",
    "b",
    "c",
    "d",
    "a/b",
    "a/b/c",
    "./d",
    "b/../c",
    "/wild/e",
    "/wild/f",
    "/wild/e/g",
    "fifo",
    "sock",
    "link",
    "/",
    "",
    "/proc/self/fd/3",
    "/proc/self/fd/7",
    "/proc/self/maps",
    "/proc/self/smaps",
    "/proc/self/status",
    "/proc/self/comm",
    "/proc/self/task",
    "/proc/meminfo",
    "/proc/stat",
    "/sys/class/net",
    "/dev/null",
    "/dev/zero",
    "/dev/ptmx",
    "/dev/pts/0",
    "/bin/init",
    "/dev/shm/x",
];
/// Where in the arena things lie: paths, structures, buffers.
const PATHS_AT: u64 = 0;
const PATH_ROOM: u64 = 64;
const WORDS_AT: u64 = 4096;
const BUFFERS_AT: u64 = 16384;
/// Descriptors that most calls work on.
const DESCRIPTORS: u64 = 48;

/// What a wild process may do to others.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reach {
    /// Everything: the driver knows what it must be kept from.
    Free,
    /// It stays in its process group, so that whoever started it can end it.
    Contained,
}

/// A process, or a thread of one, that issues calls at random.
#[derive(Clone, Debug)]
pub struct Wild {
    random: Random,
    arena: u64,
    reach: Reach,
    /// Addresses that mmap and its like have returned.
    maps: Vec<u64>,
    /// Descriptors that were returned.
    fds: Vec<u64>,
    /// Processes and threads that may be signalled.
    pids: Vec<u64>,
    prepared: bool,
    total: u64,
}

impl Wild {
    /// One whose arguments point into the [`ARENA`] bytes at `arena`.
    pub fn new(seed: u64, arena: u64, reach: Reach) -> Wild {
        let total = CALLS.iter().map(|call| call.weight).sum();
        Wild {
            random: Random::new(seed),
            arena,
            reach,
            maps: Vec::new(),
            fds: Vec::new(),
            pids: Vec::new(),
            prepared: false,
            total,
        }
    }

    /// Tells of a process that may be signalled.
    pub fn know(&mut self, pid: u64) {
        self.pids.push(pid);
        if self.pids.len() > 16 {
            self.pids.remove(0);
        }
    }

    /// The next call.
    pub fn next_call(&mut self) -> Step {
        if !self.prepared {
            self.prepared = true;
            return self.first();
        }
        loop {
            let mut step = if self.random.once_in(40) { self.nonsense() } else { self.sensible() };
            if self.is_fair(&step) {
                self.avoid_waiting(&mut step);
                return step;
            }
        }
    }

    /// Notes what a call has returned.
    pub fn finish(&mut self, step: &Step, result: i64, memory: &mut dyn Memory) {
        if result < 0 {
            return;
        }
        match step.number {
            9 | 25 | 30 => self.maps.push(result as u64),
            2 | 32 | 41 | 43 | 85 | 213 | 240 | 253 | 257 | 282..=284 | 288..=291 | 294 | 319 | 434 | 437 => {
                self.fds.push(result as u64)
            }
            22 | 53 | 293 => {
                let at = step.arguments[if step.number == 53 { 3 } else { 0 }];
                let mut pair = [0; 8];
                if memory.read(at, &mut pair) {
                    for fd in pair.chunks_exact(4) {
                        self.fds.push(u32::from_le_bytes([fd[0], fd[1], fd[2], fd[3]]).into());
                    }
                }
            }
            56..=58 | 435 if result > 0 => self.know(result as u64),
            _ => {}
        }
        for list in [&mut self.maps, &mut self.fds] {
            if list.len() > 24 {
                list.remove(0);
            }
        }
    }

    /// Paths are laid out once, by the call that lets all signals in.
    fn first(&mut self) -> Step {
        let mut bytes = vec![0; PATHS.len() * PATH_ROOM as usize];
        for (place, path) in PATHS.iter().enumerate() {
            let at = place * PATH_ROOM as usize;
            bytes[at..at + path.len()].copy_from_slice(path.as_bytes());
        }
        let mask = self.arena + BUFFERS_AT;
        let stores = vec![(self.arena + PATHS_AT, bytes), (mask, vec![0; 8])];
        Step { number: 14, arguments: [2, mask, 0, 8, 0, 0], stores }
    }

    fn nonsense(&mut self) -> Step {
        let number = if self.random.once_in(20) { self.random.bits() } else { self.random.below(470) };
        let mut step = Step { number, ..Step::default() };
        for place in 0..6 {
            step.arguments[place] = self.any();
        }
        step
    }

    fn sensible(&mut self) -> Step {
        let mut place = self.random.below(self.total);
        let call: Call = CALLS
            .iter()
            .copied()
            .find(|call| {
                let here = place < call.weight;
                place = place.saturating_sub(call.weight);
                here
            })
            .unwrap_or(CALLS[0]);
        let mut step = Step { number: call.number, ..Step::default() };
        for (place, class) in call.arguments.iter().enumerate() {
            step.arguments[place] =
                if self.random.once_in(16) { self.any() } else { self.argument(*class, &mut step.stores) };
        }
        step
    }

    /// Whether a call leaves those alone that must not be touched.
    fn is_fair(&mut self, step: &Step) -> bool {
        let known = |pid: u64, pids: &[u64]| pids.contains(&pid);
        match step.number {
            // Signals, limits and memory of others: only of those that are wild as well.
            62 | 129 | 200 | 424 => known(step.arguments[0], &self.pids),
            234 | 297 => known(step.arguments[0], &self.pids) && known(step.arguments[1], &self.pids),
            302 | 311 | 101 => step.arguments[0] == 0 || known(step.arguments[0], &self.pids),
            // Whole groups and users.
            141 => step.arguments[0] == 0,
            // A new signal for its parent's death, and a subreaper, would reach out as well.
            157 => !matches!(step.arguments[0], 36 | 1),
            109 | 112 => self.reach == Reach::Free,
            // These end the caller, or turn it into something else; now and then is enough.
            60 | 231 | 59 | 322 => self.random.once_in(30),
            34 | 130 => self.random.once_in(10),
            15 => self.random.once_in(4),
            // The machine's and not the program's.
            169 | 246 => false,
            _ => true,
        }
    }

    /// A process that only waits finds nothing: most waits get an end.
    fn avoid_waiting(&mut self, step: &mut Step) {
        if self.random.once_in(50) {
            return;
        }
        match step.number {
            // Terminals, pipes and sockets are waited for by those calls that say so.
            45 | 46 | 47 | 44 | 299 | 307 => step.arguments[3] |= 0x40,
            61 => step.arguments[2] |= 1,
            247 => step.arguments[3] |= 1,
            73 => step.arguments[1] |= 4,
            41 | 53 => step.arguments[1] |= 0x800,
            2 => step.arguments[1] |= 0x800,
            257 => step.arguments[2] |= 0x800,
            293 => step.arguments[1] |= 0x800,
            288 => step.arguments[3] |= 0x800,
            65 | 220 | 69 | 70 => {
                let place = if step.number == 70 { 4 } else { 3 };
                if matches!(step.number, 69 | 70) {
                    step.arguments[place] |= 0o4000;
                }
            }
            _ => {}
        }
    }

    fn inside(&mut self) -> u64 {
        self.arena + self.random.below(ARENA)
    }

    fn any(&mut self) -> u64 {
        match self.random.below(14) {
            0 => 0,
            1 => self.random.below(8),
            2 => self.random.below(64),
            3 => self.random.below(5000),
            4 => 1 << self.random.below(64),
            5 => u64::MAX - self.random.below(256),
            6 => self.random.bits(),
            7 => self.inside() & !7,
            8 => self.inside(),
            9 => self.arena + ARENA - self.random.below(32),
            10 => 0x7fff_ffff_0000_u64.wrapping_add(self.random.below(1 << 17)),
            11 => (-100_i64) as u64,
            12 => self.random.below(1 << 22) & !0xfff,
            _ => self.random.bits() & self.random.bits() & 0xffff_ffff,
        }
    }

    fn descriptor(&mut self) -> u64 {
        if !self.fds.is_empty() && !self.random.once_in(4) {
            return self.random.one(&self.fds.clone());
        }
        self.random.below(DESCRIPTORS)
    }

    fn buffer(&mut self) -> u64 {
        self.arena + BUFFERS_AT + self.random.below(ARENA - BUFFERS_AT)
    }

    fn length(&mut self) -> u64 {
        match self.random.below(8) {
            0 => 0,
            1..=3 => self.random.below(64),
            4 | 5 => self.random.below(5000),
            6 => self.random.below(70_000),
            _ => self.random.below(1 << 21),
        }
    }

    /// A place for a structure of `bytes`, stored there.
    fn place(&mut self, bytes: Vec<u8>, stores: &mut Vec<(u64, Vec<u8>)>) -> u64 {
        let at = self.arena + WORDS_AT + (self.random.below(BUFFERS_AT - WORDS_AT - 1024) & !7);
        stores.push((at, bytes));
        at
    }

    fn words(&mut self, words: &[u64], stores: &mut Vec<(u64, Vec<u8>)>) -> u64 {
        self.place(words.iter().flat_map(|word| word.to_le_bytes()).collect(), stores)
    }

    fn address(&mut self) -> Vec<u8> {
        let port = (self.random.below(6) as u16 + 7000).to_be_bytes();
        match self.random.below(6) {
            0 | 1 => {
                let host =
                    self.random.one(&[[127, 0, 0, 1], [10, 77, 1, 1], [0, 0, 0, 0], [10, 77, 0, 1], [224, 0, 0, 1]]);
                [&[2, 0][..], &port, &host, &[0; 8]].concat()
            }
            2 => {
                let mut host = [0; 16];
                host[15] = 1;
                [&[10, 0][..], &port, &[0; 4], &host, &[0; 4]].concat()
            }
            3 => [&[1, 0, 0][..], b"name", &[b'0' + self.random.below(4) as u8]].concat(),
            4 => {
                let path = self.random.one(&["sock", "/wild/s", "a/sock"]);
                [&[1, 0][..], path.as_bytes(), &[0]].concat()
            }
            _ => {
                let family = self.random.one(&[16, 17, 2, 1, 77]);
                [&[family, 0][..], &self.random.bytes().take(26).collect::<Vec<u8>>()].concat()
            }
        }
    }

    fn vectors(&mut self, stores: &mut Vec<(u64, Vec<u8>)>) -> u64 {
        let words: Vec<u64> = (0..4).flat_map(|_| [self.buffer(), self.length() & 0xfff]).collect();
        self.words(&words, stores)
    }

    /// A message with a name, a few pieces, and control data that may pass descriptors.
    fn message(&mut self, stores: &mut Vec<(u64, Vec<u8>)>) -> u64 {
        let vectors = self.vectors(stores);
        let address = self.address();
        let (name, name_len) =
            if self.random.once_in(2) { (0, 0) } else { (self.place(address.clone(), stores), address.len() as u64) };
        let (control, control_len) = match self.random.below(4) {
            0 => {
                let count = self.random.below(4);
                let mut bytes = (16 + 4 * count).to_le_bytes().to_vec();
                bytes.extend([1, 0, 0, 0, self.random.one(&[1, 1, 1, 2, 9]), 0, 0, 0]);
                for _ in 0..count {
                    bytes.extend((self.descriptor() as u32).to_le_bytes());
                }
                bytes.resize(64, 0);
                (self.place(bytes, stores), self.random.one(&[16 + 4 * count, 24, 64, 12]))
            }
            1 => (self.buffer(), self.random.below(256)),
            _ => (0, 0),
        };
        let count = self.random.below(4);
        self.words(&[name, name_len, vectors, count, control, control_len, 0, 64], stores)
    }

    fn few_words(&mut self, stores: &mut Vec<(u64, Vec<u8>)>) -> u64 {
        let mut words = Vec::new();
        for _ in 0..11 {
            let word = match self.random.below(8) {
                0 => self.descriptor(),
                1 => self.buffer(),
                2 => self.any(),
                3 => self.random.below(1 << 14) << 32 | self.random.below(16),
                4 => 0,
                _ => self.random.below(20),
            };
            words.push(word);
        }
        self.words(&words, stores)
    }

    fn mapping(&mut self) -> u64 {
        match self.random.below(6) {
            0 => 0,
            1 => 0x4000_0000 + (self.random.below(64) << 12),
            2 => self.arena & !0xfff,
            _ if self.maps.is_empty() => 0,
            _ => self.random.one(&self.maps.clone()) + (self.random.below(4) << 12),
        }
    }

    fn argument(&mut self, class: Arg, stores: &mut Vec<(u64, Vec<u8>)>) -> u64 {
        match class {
            Arg::Any => self.any(),
            Arg::Num => self.random.below(12),
            Arg::Zero => 0,
            Arg::Fd => self.descriptor(),
            Arg::Dir if self.random.once_in(2) => (-100_i64) as u64,
            Arg::Dir => self.descriptor(),
            Arg::Path => self.arena + PATHS_AT + self.random.below(PATHS.len() as u64) * PATH_ROOM,
            Arg::Buf => self.buffer(),
            Arg::Len => self.length(),
            Arg::Off => match self.random.below(6) {
                0 => 0,
                1 => self.random.below(1 << 40),
                2 => (-1_i64) as u64,
                _ => self.random.below(100_000),
            },
            Arg::Iov => self.vectors(stores),
            Arg::IovLen => self.random.below(5),
            Arg::Name => {
                let address = self.address();
                self.place(address, stores)
            }
            Arg::NameLen => self.random.one(&[16, 16, 28, 8, 110, 2, 12]),
            Arg::LenPtr => {
                let length = self.random.one(&[0, 4, 16, 28, 128]);
                self.words(&[length], stores)
            }
            Arg::Msg => self.message(stores),
            Arg::Poll => {
                let mut words = Vec::new();
                for _ in 0..8 {
                    words.push(self.descriptor() | self.random.below(0x40) << 32);
                }
                self.words(&words, stores)
            }
            Arg::Time => match self.random.below(5) {
                0 => 0,
                1 => self.few_words(stores),
                _ => {
                    let (one, two) = (self.random.below(2_000_000), self.random.below(2_000_000));
                    self.words(&[0, one, 0, two], stores)
                }
            },
            Arg::Words => self.few_words(stores),
            Arg::Pid => match self.random.below(4) {
                0 => 0,
                1 => (-1_i64) as u64,
                _ if self.pids.is_empty() => 0,
                _ => self.random.one(&self.pids.clone()),
            },
            Arg::Sig => {
                if self.random.once_in(3) {
                    self.random.one(&[0, 10, 12, 17, 18, 19, 20, 23, 28, 34, 64])
                } else {
                    self.random.below(66)
                }
            }
            Arg::Set => {
                let set = self.random.bits() & self.random.bits();
                self.words(&[set, self.random.clone().bits(), 0], stores)
            }
            Arg::Map => self.mapping(),
            Arg::MapLen => {
                let pages = self.random.below(20);
                (pages << 12) + if self.random.once_in(5) { self.random.below(4096) } else { 0 }
            }
            Arg::Futex => self.arena + WORDS_AT + self.random.below(8) * 4,
            Arg::Mode => self.random.one(&[0o644, 0o755, 0o700, 0o777, 0, 0o4755, 0o1777]),
            Arg::Wait => self.random.one(&[0, 0, 1, 2]),
            Arg::Bits(bits) => {
                let mut value = self.random.one(bits);
                while self.random.once_in(3) {
                    value |= self.random.one(bits);
                }
                value
            }
            Arg::Of(values) => self.random.one(values),
        }
    }
}
