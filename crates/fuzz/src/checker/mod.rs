//! A process whose calls have answers that a model knows.
//!
//! It works in a directory of its own, on descriptors, queues and mappings of its own. An answer that the model does not
//! allow is an error of the kernel. Calls may fail for want of memory at any time; they must change nothing then.
mod answers;
mod bytes;
mod choice;

use crate::{
    ARENA, Memory, Step,
    model::{Kind, Model, PAGE, Page},
};
use shimos_random::Random;

const EINTR: i64 = -4;
const EBADF: i64 = -9;
const EAGAIN: i64 = -11;
const ENOMEM: i64 = -12;
const EFAULT: i64 = -14;
const ENOENT: i64 = -2;
const EEXIST: i64 = -17;
const EINVAL: i64 = -22;
const EMFILE: i64 = -24;
const ENFILE: i64 = -23;
const ENOSPC: i64 = -28;
const ESPIPE: i64 = -29;
const EPIPE: i64 = -32;
const ECONNRESET: i64 = -104;
/// Errors that any call may have when the machine is short of something.
const SHORT: [i64; 5] = [ENOMEM, ENOSPC, EMFILE, ENFILE, EINTR];

/// Pages that are mapped and unmapped.
const PAGES: usize = 16;
/// Names of files.
const NAMES: [&str; 8] = ["one", "two", "three", "four", "five", "six", "seven", "eight"];
/// Descriptors are kept below this.
const FDS: u64 = 24;
/// Where in the arena things lie.
const PATHS_AT: u64 = 0;
const PATH_ROOM: u64 = 128;
const WORDS_AT: u64 = 4096;
const BUFFER_AT: u64 = 8192;
const BUFFER: u64 = ARENA - BUFFER_AT;

/// What the call under way is to do.
#[derive(Clone, Debug)]
enum Pending {
    None,
    /// One that must return this and changes nothing.
    Returns(i64),
    /// A step of the preparation.
    Prepare(u32),
    Open {
        name: &'static str,
        flags: u64,
    },
    Memory,
    Close(u64),
    CloseRange(u64, u64),
    Copy {
        from: u64,
        least: u64,
        exact: bool,
        close_on_exec: bool,
    },
    SetClose(u64, bool),
    Read {
        fd: u64,
        at: Option<u64>,
        to: Place,
        count: u64,
    },
    Write {
        fd: u64,
        at: Option<u64>,
        bytes: Option<Vec<u8>>,
    },
    Seek {
        fd: u64,
        target: Option<u64>,
    },
    Resize {
        file: usize,
        size: u64,
        grow_only: bool,
    },
    Stat {
        file: usize,
    },
    Link {
        old: &'static str,
        new: &'static str,
    },
    Unlink(&'static str),
    Rename {
        old: &'static str,
        new: &'static str,
    },
    Pipe,
    SocketPair,
    Counter(u64, bool),
    Map {
        page: usize,
        count: usize,
        prot: u64,
        what: What,
    },
    Unmap {
        page: usize,
        count: usize,
    },
    Protect {
        page: usize,
        count: usize,
        prot: u64,
    },
    Forget {
        page: usize,
        count: usize,
    },
    SendFile {
        from: u64,
        to: u64,
        count: u64,
    },
    Umask(u64),
    Mask {
        set: u64,
        how: u64,
    },
    SetName(Vec<u8>),
    GetName,
    Poll {
        fd: u64,
    },
    Waiting {
        fd: u64,
    },
}

/// What a mapping shows.
#[derive(Clone, Copy, Debug)]
enum What {
    Private,
    Shared,
    File(usize, u64),
}

/// Where bytes go: the arena, or a checked page.
#[derive(Clone, Copy, Debug)]
enum Place {
    Arena(u64),
    Page(usize, usize),
}

/// A checked process.
#[derive(Clone, Debug)]
pub struct Checker {
    random: Random,
    arena: u64,
    /// Where the checked pages are.
    region: u64,
    directory: String,
    /// Descriptors below this are somebody else's.
    floor: u64,
    prepared: u32,
    model: Model,
    pending: Pending,
    calls: u64,
}

impl Checker {
    /// One that works in `directory`, which it makes, with arguments in the [`ARENA`] bytes at `arena`. Its mappings are
    /// the pages from `region` on. It closes all descriptors from `floor` on; those below must be there and stay.
    pub fn new(seed: u64, arena: u64, region: u64, directory: String, floor: u64) -> Checker {
        let mut model = Model { pages: vec![Page::Hole; PAGES], umask: 0o22, ..Model::default() };
        for fd in 0..floor {
            model.queues.push(Default::default());
            model.open(fd, Kind::Counter(usize::MAX), 0, false, false);
        }
        Checker {
            random: Random::new(seed),
            arena,
            region,
            directory,
            floor,
            prepared: 0,
            model,
            pending: Pending::None,
            calls: 0,
        }
    }

    /// How many calls it has made.
    pub fn calls(&self) -> u64 {
        self.calls
    }

    /// The next call.
    pub fn next_call(&mut self) -> Step {
        self.calls += 1;
        if let Some(step) = self.prepare() {
            return step;
        }
        loop {
            if let Some(step) = self.choose() {
                return step;
            }
        }
    }

    fn step(&mut self, number: u64, arguments: &[u64], pending: Pending) -> Option<Step> {
        let mut step = Step { number, ..Step::default() };
        step.arguments[..arguments.len()].copy_from_slice(arguments);
        self.pending = pending;
        Some(step)
    }

    fn path(&self, name: &str) -> u64 {
        let place = NAMES.iter().position(|known| *known == name).unwrap_or(0) as u64;
        self.arena + PATHS_AT + (place + 1) * PATH_ROOM
    }

    fn prepare(&mut self) -> Option<Step> {
        let stage = self.prepared;
        self.prepared += 1;
        let directory = self.arena + PATHS_AT;
        match stage {
            0 => {
                let mut bytes = self.directory.clone().into_bytes();
                bytes.resize(PATH_ROOM as usize, 0);
                for name in NAMES {
                    let mut path = name.as_bytes().to_vec();
                    path.resize(PATH_ROOM as usize, 0);
                    bytes.extend(path);
                }
                let stores = vec![(directory, bytes)];
                self.pending = Pending::Prepare(stage);
                Some(Step { number: 39, stores, ..Step::default() })
            }
            1 => self.step(436, &[self.floor, u32::MAX.into(), 0], Pending::Returns(0)),
            2 => self.step(83, &[directory, 0o700], Pending::Prepare(stage)),
            3 => self.step(80, &[directory], Pending::Returns(0)),
            4 => self.step(95, &[0o22], Pending::Prepare(stage)),
            5 => {
                self.pending = Pending::Mask { set: 0, how: 2 };
                let stores = vec![(self.arena + WORDS_AT, vec![0; 8])];
                Some(Step { number: 14, arguments: [2, self.arena + WORDS_AT, 0, 8, 0, 0], stores })
            }
            // A broken pipe is an error here and no signal.
            6 => {
                let ignore: Vec<u8> = [1_u64, 0, 0, 0].iter().flat_map(|word| word.to_le_bytes()).collect();
                self.pending = Pending::Returns(0);
                let at = self.arena + WORDS_AT;
                Some(Step { number: 13, arguments: [13, at, 0, 8, 0, 0], stores: vec![(at, ignore)] })
            }
            7 => self.step(11, &[self.region, (PAGES * PAGE) as u64], Pending::Returns(0)),
            8 => {
                let name = b"checker".to_vec();
                let stores = vec![(self.arena + WORDS_AT, [&name[..], &[0]].concat())];
                self.pending = Pending::SetName(name);
                Some(Step { number: 157, arguments: [15, self.arena + WORDS_AT, 0, 0, 0, 0], stores })
            }
            _ => None,
        }
    }

    /// Compares an answer with the model, and brings the model up to date. After an error nothing has changed: where
    /// memory could not be read, this may be asked again.
    pub fn finish(&mut self, step: &Step, result: i64, memory: &mut dyn Memory) -> Result<(), String> {
        let pending = self.pending.clone();
        if SHORT.contains(&result) && !matches!(&pending, Pending::Returns(wanted) if *wanted == result) {
            return Ok(());
        }
        let name = crate::name(step.number);
        self.compare(step, pending.clone(), result, memory).map_err(|why| {
            let arguments: Vec<String> = step.arguments.iter().map(|argument| format!("{argument:#x}")).collect();
            let mut doing = format!("{pending:?}");
            doing.truncate(300);
            format!(
                "call {} of a checked process: {name}({}) gave {result}: {why} ({doing})",
                self.calls,
                arguments.join(", ")
            )
        })
    }
}
