//! A process whose calls have answers that a model knows.
//!
//! It works in a directory of its own, on descriptors, queues and mappings of its own. An answer that the model does not
//! allow is an error of the kernel. Calls may fail for want of memory at any time; they must change nothing then.
use crate::{
    ARENA, Memory, Random, Step,
    model::{FILE_LIMIT, Kind, Model, PAGE, PIPE_ROOM, Page},
};

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

    fn fd(&mut self) -> u64 {
        let open: Vec<u64> = self.model.fds.keys().copied().filter(|fd| *fd >= self.floor).collect();
        if open.is_empty() || self.random.once_in(20) {
            self.floor + self.random.below(FDS)
        } else {
            self.random.one(&open)
        }
    }

    /// A descriptor of a file, if there is one.
    fn file_fd(&mut self) -> Option<(u64, usize)> {
        let files: Vec<(u64, usize)> = self
            .model
            .fds
            .iter()
            .filter_map(|(fd, descriptor)| match self.model.descriptions[descriptor.description].kind {
                Kind::File(file) => Some((*fd, file)),
                _ => None,
            })
            .collect();
        if files.is_empty() { None } else { Some(self.random.one(&files)) }
    }

    fn offset(&mut self) -> u64 {
        match self.random.below(4) {
            0 => 0,
            1 => self.random.below(200),
            2 => self.random.below(3) * PAGE as u64,
            _ => self.random.below(FILE_LIMIT / 2),
        }
    }

    fn count(&mut self) -> u64 {
        match self.random.below(5) {
            0 => 0,
            1 | 2 => self.random.below(200),
            3 => self.random.below(5000),
            _ => self.random.below(BUFFER / 2),
        }
    }

    fn choose(&mut self) -> Option<Step> {
        match self.random.below(32) {
            0..=2 => self.open(),
            3 | 4 => self.copy_or_close(),
            5..=9 => self.write(),
            10..=14 => self.read(),
            15 => self.seek(),
            16 => self.resize(),
            17 => self.stat(),
            18 | 19 => self.names(),
            20 => self.queues(),
            21..=26 => self.memory(),
            27 => self.send_file(),
            28 => self.look(),
            _ => self.self_knowledge(),
        }
    }

    fn open(&mut self) -> Option<Step> {
        if self.model.fds.len() as u64 >= self.floor + FDS {
            let fd = self.fd();
            return self.step(
                3,
                &[fd],
                if self.model.fds.contains_key(&fd) { Pending::Close(fd) } else { Pending::Returns(EBADF) },
            );
        }
        if self.random.once_in(8) {
            return self.step(319, &[self.path(NAMES[0]), 0], Pending::Memory);
        }
        let name = self.random.one(&NAMES);
        let mut flags = self.random.one(&[0, 1, 2, 2, 2]);
        for bit in [0x40, 0x40, 0x80, 0x200, 0x400, 0x80000] {
            if self.random.once_in(3) {
                flags |= bit;
            }
        }
        self.step(257, &[(-100_i64) as u64, self.path(name), flags, 0o644], Pending::Open { name, flags })
    }

    fn copy_or_close(&mut self) -> Option<Step> {
        let fd = self.fd();
        let there = self.model.fds.contains_key(&fd);
        let to = self.floor + self.random.below(FDS);
        let or_bad = |pending| if there { pending } else { Pending::Returns(EBADF) };
        match self.random.below(9) {
            0 => self.step(32, &[fd], or_bad(Pending::Copy { from: fd, least: 0, exact: false, close_on_exec: false })),
            1 => self.step(
                33,
                &[fd, to],
                or_bad(Pending::Copy { from: fd, least: to, exact: true, close_on_exec: false }),
            ),
            2 => {
                let pending = if fd == to {
                    Pending::Returns(EINVAL)
                } else {
                    or_bad(Pending::Copy { from: fd, least: to, exact: true, close_on_exec: true })
                };
                self.step(292, &[fd, to, 0x80000], pending)
            }
            3 => self.step(
                72,
                &[fd, 0, to],
                or_bad(Pending::Copy { from: fd, least: to, exact: false, close_on_exec: false }),
            ),
            4 => self.step(
                72,
                &[fd, 1030, to],
                or_bad(Pending::Copy { from: fd, least: to, exact: false, close_on_exec: true }),
            ),
            5 => {
                let set = self.model.fds.get(&fd).map_or(EBADF, |descriptor| descriptor.close_on_exec.into());
                self.step(72, &[fd, 1], Pending::Returns(set))
            }
            6 => {
                let on = self.random.once_in(2);
                self.step(72, &[fd, 2, on.into()], or_bad(Pending::SetClose(fd, on)))
            }
            7 if self.random.once_in(6) => {
                let last = to + self.random.below(4);
                self.step(436, &[to, last, 0], Pending::CloseRange(to, last))
            }
            _ => self.step(3, &[fd], or_bad(Pending::Close(fd))),
        }
    }

    /// Where bytes come from or go to: mostly the arena, sometimes a checked page.
    fn place(&mut self, count: u64) -> (Place, u64) {
        if !self.random.once_in(3) {
            let room = BUFFER - count;
            let at = self.arena + BUFFER_AT + self.random.below(room + 1);
            return (Place::Arena(at), at);
        }
        let page = self.random.below(PAGES as u64) as usize;
        let offset = self.random.below(PAGE as u64 - count) as usize;
        (Place::Page(page, offset), self.region + (page * PAGE + offset) as u64)
    }

    fn write(&mut self) -> Option<Step> {
        let fd = self.fd();
        let mut count = self.count();
        let at = match self.model.description(fd).map(|description| description.kind) {
            Some(Kind::Counter(_)) => return self.add(fd),
            Some(Kind::File(file)) => {
                // Files stay small.
                let large = self.model.files[file].content.len() as u64 > FILE_LIMIT;
                let far = self.model.description(fd)?.offset > FILE_LIMIT;
                if far {
                    return self.step(8, &[fd, 0, 0], Pending::Seek { fd, target: Some(0) });
                }
                if large && self.model.description(fd)?.access != 0 {
                    return self.step(77, &[fd, 100], Pending::Resize { file, size: 100, grow_only: false });
                }
                if self.random.once_in(2) { Some(self.offset()) } else { None }
            }
            _ => None,
        };
        if self.random.once_in(3) {
            count = count.min(64);
            let (place, address) = self.place(count);
            if let Place::Page(page, offset) = place {
                if offset + count as usize > self.model.bytes_of(page) || self.is_of(page, fd) {
                    return None;
                }
                let bytes = self.model.peek(page, offset, count as usize);
                // Linux's tmpfs grows up to where a failed write would have begun.
                if let Some(Kind::File(file)) = self.model.description(fd).map(|description| description.kind) {
                    let from = at.unwrap_or(self.model.description(fd)?.offset);
                    if bytes.is_none() && from > self.model.files[file].content.len() as u64 {
                        return None;
                    }
                }
                return self.put(fd, at, address, bytes, Vec::new(), count);
            }
        }
        let bytes = self.random.bytes(count as usize);
        let address = self.arena + BUFFER_AT;
        self.put(fd, at, address, Some(bytes.clone()), vec![(address, bytes)], count)
    }

    fn put(
        &mut self,
        fd: u64,
        at: Option<u64>,
        address: u64,
        bytes: Option<Vec<u8>>,
        stores: Vec<(u64, Vec<u8>)>,
        count: u64,
    ) -> Option<Step> {
        let pending = Pending::Write { fd, at, bytes };
        let step = match at {
            Some(at) => self.step(18, &[fd, address, count, at], pending),
            None => self.step(1, &[fd, address, count], pending),
        };
        step.map(|step| Step { stores, ..step })
    }

    /// Adds to a counter.
    fn add(&mut self, fd: u64) -> Option<Step> {
        let number = self.random.one(&[0, 1, 2, 1000, u64::MAX - 1, u64::MAX]);
        let bytes = number.to_le_bytes().to_vec();
        let address = self.arena + BUFFER_AT;
        self.put(fd, None, address, Some(bytes.clone()), vec![(address, bytes)], 8)
    }

    fn read(&mut self) -> Option<Step> {
        let fd = self.fd();
        let mut count = self.count();
        let at = match self.model.description(fd).map(|description| description.kind) {
            Some(Kind::Counter(_)) => {
                let to = self.arena + BUFFER_AT;
                return self.step(0, &[fd, to, 8], Pending::Read { fd, at: None, to: Place::Arena(to), count: 8 });
            }
            Some(Kind::File(_)) if self.random.once_in(2) => Some(self.offset()),
            _ => None,
        };
        let mut to = self.arena + BUFFER_AT;
        let mut place = Place::Arena(to);
        if matches!(self.model.description(fd).map(|description| description.kind), Some(Kind::File(_))) {
            count = if self.random.once_in(2) { count.min(64) } else { count };
            if count <= 64 {
                (place, to) = self.place(count);
            }
        }
        if let Place::Page(page, offset) = place
            && (offset + count as usize > self.model.bytes_of(page) || self.is_of(page, fd))
        {
            return None;
        }
        let pending = Pending::Read { fd, at, to: place, count };
        match at {
            Some(at) => self.step(17, &[fd, to, count, at], pending),
            None => self.step(0, &[fd, to, count], pending),
        }
    }

    /// Whether a page shows the very file that a descriptor is open on: copies within a file may overlap.
    fn is_of(&self, page: usize, fd: u64) -> bool {
        let kind = self.model.description(fd).map(|description| description.kind);
        matches!(&self.model.pages[page], Page::OfFile { file, .. } if kind == Some(Kind::File(*file)))
    }

    fn seek(&mut self) -> Option<Step> {
        let fd = self.fd();
        let (whence, offset) = (self.random.below(3), self.offset() as i64 - 300);
        let target = match self.model.description(fd) {
            None => return self.step(8, &[fd, 0, 0], Pending::Returns(EBADF)),
            Some(description) => match description.kind {
                Kind::File(file) => {
                    let from = [0, description.offset, self.model.files[file].content.len() as u64][whence as usize];
                    let target = from.checked_add_signed(offset);
                    if target.is_some_and(|target| target > FILE_LIMIT) {
                        return None;
                    }
                    target
                }
                Kind::Counter(_) => return None,
                _ => return self.step(8, &[fd, 0, 0], Pending::Returns(ESPIPE)),
            },
        };
        self.step(8, &[fd, offset as u64, whence], Pending::Seek { fd, target })
    }

    fn resize(&mut self) -> Option<Step> {
        let size = self.offset();
        if self.random.once_in(2) {
            let name = self.random.one(&NAMES);
            let pending = match self.model.names.get(name) {
                Some(file) => Pending::Resize { file: *file, size, grow_only: false },
                None => Pending::Returns(ENOENT),
            };
            return self.step(76, &[self.path(name), size], pending);
        }
        let (fd, file) = self.file_fd()?;
        let writable = self.model.description(fd)?.access != 0;
        if self.random.once_in(2) {
            let pending =
                if writable { Pending::Resize { file, size, grow_only: false } } else { Pending::Returns(EINVAL) };
            return self.step(77, &[fd, size], pending);
        }
        if size == 0 {
            return None;
        }
        let pending = if writable { Pending::Resize { file, size, grow_only: true } } else { Pending::Returns(EBADF) };
        self.step(285, &[fd, 0, 0, size], pending)
    }

    fn stat(&mut self) -> Option<Step> {
        let (fd, file) = self.file_fd()?;
        self.step(5, &[fd, self.arena + BUFFER_AT], Pending::Stat { file })
    }

    fn names(&mut self) -> Option<Step> {
        let (old, new) = (self.random.one(&NAMES), self.random.one(&NAMES));
        let (from, to) = (self.path(old), self.path(new));
        let exists = |name: &str| self.model.names.contains_key(name);
        match self.random.below(3) {
            0 => {
                let pending = if !exists(old) {
                    Pending::Returns(ENOENT)
                } else if exists(new) {
                    Pending::Returns(EEXIST)
                } else {
                    Pending::Link { old, new }
                };
                self.step(86, &[from, to], pending)
            }
            1 => {
                let pending = if exists(old) { Pending::Unlink(old) } else { Pending::Returns(ENOENT) };
                self.step(87, &[from], pending)
            }
            _ => {
                let pending = if exists(old) { Pending::Rename { old, new } } else { Pending::Returns(ENOENT) };
                self.step(82, &[from, to], pending)
            }
        }
    }

    fn queues(&mut self) -> Option<Step> {
        if self.model.fds.len() as u64 + 2 > self.floor + FDS {
            return None;
        }
        let pair = self.arena + BUFFER_AT;
        match self.random.below(3) {
            0 => self.step(293, &[pair, 0x800], Pending::Pipe),
            1 => self.step(53, &[1, 0x801, 0, pair], Pending::SocketPair),
            _ => {
                let (start, semaphore) = (self.random.below(5), self.random.once_in(2));
                self.step(290, &[start, 0x800 | u64::from(semaphore)], Pending::Counter(start, semaphore))
            }
        }
    }

    fn memory(&mut self) -> Option<Step> {
        let page = self.random.below(PAGES as u64) as usize;
        let count = 1 + self.random.below((PAGES - page).min(4) as u64) as usize;
        let (address, len) = (self.region + (page * PAGE) as u64, (count * PAGE) as u64);
        let prot = self.random.one(&[0, 1, 3, 3, 3]);
        let mapped = (page..page + count).all(|page| !matches!(self.model.pages[page], Page::Hole));
        match self.random.below(8) {
            0..=2 => {
                let (flags, what) = if self.random.once_in(3) { (0x31, What::Shared) } else { (0x32, What::Private) };
                self.step(9, &[address, len, prot, flags, u64::MAX, 0], Pending::Map { page, count, prot, what })
            }
            3 => {
                let (fd, file) = self.file_fd()?;
                if self.model.description(fd)?.access != 2 {
                    return None;
                }
                let index = self.random.below(3);
                let what = What::File(file, index);
                let arguments = [address, len, prot, 0x11, fd, index * PAGE as u64];
                self.step(9, &arguments, Pending::Map { page, count, prot, what })
            }
            4 => self.step(11, &[address, len], Pending::Unmap { page, count }),
            5 | 6 => {
                let pending = if mapped { Pending::Protect { page, count, prot } } else { return None };
                self.step(10, &[address, len, prot], pending)
            }
            _ => {
                let private =
                    (page..page + count).all(|page| matches!(self.model.pages[page], Page::Own { shared: false, .. }));
                if !private {
                    return None;
                }
                self.step(28, &[address, len, 4], Pending::Forget { page, count })
            }
        }
    }

    fn send_file(&mut self) -> Option<Step> {
        let (from, _) = self.file_fd()?;
        let (to, _) = self.file_fd()?;
        let (source, sink) = (self.model.description(from)?, self.model.description(to)?);
        let same = source.kind == sink.kind;
        if source.access == 1 || sink.access == 0 || sink.append || same {
            return None;
        }
        let count = self.count();
        self.step(40, &[to, from, 0, count], Pending::SendFile { from, to, count })
    }

    /// Looks at what is waiting in a queue.
    fn look(&mut self) -> Option<Step> {
        let fd = self.fd();
        let kind = self.model.description(fd)?.kind;
        if !matches!(kind, Kind::Reader(_) | Kind::Socket(..)) {
            return None;
        }
        let at = self.arena + BUFFER_AT;
        if self.random.once_in(2) {
            return self.step(16, &[fd, 0x541b, at], Pending::Waiting { fd });
        }
        let question = (fd | 1 << 32).to_le_bytes().to_vec();
        let step = self.step(7, &[at, 1, 0], Pending::Poll { fd });
        step.map(|step| Step { stores: vec![(at, question)], ..step })
    }

    fn self_knowledge(&mut self) -> Option<Step> {
        let at = self.arena + WORDS_AT;
        match self.random.below(4) {
            0 => {
                let mask = self.random.one(&[0, 0o22, 0o77, 0o7]);
                self.step(95, &[mask], Pending::Umask(mask))
            }
            1 => {
                // Signals that end the process or say that it did wrong stay as they are.
                let set = self.random.bits() & 0xffff_fffc_0000_0000;
                let how = self.random.below(3);
                let step = self.step(14, &[how, at, at + 8, 8], Pending::Mask { set, how });
                step.map(|step| Step { stores: vec![(at, set.to_le_bytes().to_vec())], ..step })
            }
            2 => {
                let name: Vec<u8> = (0..self.random.below(20)).map(|_| b'a' + self.random.below(26) as u8).collect();
                let stores = vec![(at, [&name[..], &[0]].concat())];
                let step = self.step(157, &[15, at], Pending::SetName(name));
                step.map(|step| Step { stores, ..step })
            }
            _ => self.step(157, &[16, at], Pending::GetName),
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

    fn compare(&mut self, step: &Step, pending: Pending, result: i64, memory: &mut dyn Memory) -> Result<(), String> {
        let is = |wanted: i64| if result == wanted { Ok(()) } else { Err(format!("not {wanted}")) };
        let read = |memory: &mut dyn Memory, addr: u64, count: usize| {
            let mut bytes = vec![0; count];
            if memory.read(addr, &mut bytes) { Ok(bytes) } else { Err("its memory cannot be read".to_string()) }
        };
        match pending {
            Pending::None => Ok(()),
            Pending::Returns(wanted) => is(wanted),
            // The directory may be there from an earlier life of its name.
            Pending::Prepare(2) if result == EEXIST => Ok(()),
            Pending::Prepare(2) => is(0),
            Pending::Prepare(_) => Ok(()),
            Pending::Open { name, flags } => self.opened(name, flags, result),
            Pending::Memory => {
                is(self.model.free_fd(0) as i64)?;
                let file = self.model.files.len();
                self.model.files.push(Default::default());
                self.model.open(result as u64, Kind::File(file), 2, false, false);
                Ok(())
            }
            Pending::Close(fd) => {
                is(0)?;
                self.model.close(fd);
                Ok(())
            }
            Pending::CloseRange(first, last) => {
                is(0)?;
                (first..=last).for_each(|fd| self.model.close(fd));
                Ok(())
            }
            Pending::Copy { from, least, exact, close_on_exec } => {
                let to = if exact { least } else { self.model.free_fd(least) };
                is(to as i64)?;
                if from != to {
                    self.model.copy(from, to, close_on_exec);
                }
                Ok(())
            }
            Pending::SetClose(fd, on) => {
                is(0)?;
                if let Some(descriptor) = self.model.fds.get_mut(&fd) {
                    descriptor.close_on_exec = on;
                }
                Ok(())
            }
            Pending::Read { fd, at, to, count } => self.was_read(fd, at, to, count, result, memory),
            Pending::Write { fd, at, bytes } => self.was_written(fd, at, bytes, result),
            Pending::Seek { fd, target } => {
                is(target.map_or(EINVAL, |target| target as i64))?;
                if let (Some(target), Some(description)) = (target, self.model.description_mut(fd)) {
                    description.offset = target;
                }
                Ok(())
            }
            Pending::Resize { file, size, grow_only } => {
                is(0)?;
                let content = &mut self.model.files[file].content;
                if !grow_only || content.len() < size as usize {
                    content.resize(size as usize, 0);
                }
                Ok(())
            }
            Pending::Stat { file } => {
                is(0)?;
                let bytes = read(memory, self.arena + BUFFER_AT, 144)?;
                let word = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap_or_default());
                let (links, size) = (word(16), word(48));
                let file = &self.model.files[file];
                if (links, size) == (file.names.into(), file.content.len() as u64) {
                    Ok(())
                } else {
                    Err(format!("{links} names and {size} bytes instead of {} and {}", file.names, file.content.len()))
                }
            }
            Pending::Link { old, new } => {
                is(0)?;
                let file = self.model.names[old];
                self.model.files[file].names += 1;
                self.model.names.insert(new.into(), file);
                Ok(())
            }
            Pending::Unlink(name) => {
                is(0)?;
                if let Some(file) = self.model.names.remove(name) {
                    self.model.files[file].names -= 1;
                }
                Ok(())
            }
            Pending::Rename { old, new } => {
                is(0)?;
                let file = self.model.names[old];
                // Two names of one file: nothing happens.
                if self.model.names.get(new) != Some(&file) {
                    self.model.names.remove(old);
                    if let Some(replaced) = self.model.names.insert(new.into(), file) {
                        self.model.files[replaced].names -= 1;
                    }
                }
                Ok(())
            }
            Pending::Pipe | Pending::SocketPair => {
                is(0)?;
                let bytes = read(memory, self.arena + BUFFER_AT, 8)?;
                let number =
                    |at: usize| u64::from(u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]));
                let (one, two) = (number(0), number(4));
                let first = self.model.free_fd(0);
                let second = self.model.free_fd(first + 1);
                if (one, two) != (first, second) {
                    return Err(format!("descriptors {one} and {two} instead of {first} and {second}"));
                }
                let queue = self.model.queues.len();
                self.model.queues.push(Default::default());
                if matches!(pending, Pending::Pipe) {
                    self.model.open(one, Kind::Reader(queue), 0, false, false);
                    self.model.open(two, Kind::Writer(queue), 1, false, false);
                } else {
                    self.model.queues.push(Default::default());
                    self.model.open(one, Kind::Socket(queue, queue + 1), 2, false, false);
                    self.model.open(two, Kind::Socket(queue + 1, queue), 2, false, false);
                }
                Ok(())
            }
            Pending::Counter(start, semaphore) => {
                is(self.model.free_fd(0) as i64)?;
                let counter = self.model.counters.len();
                self.model.counters.push((start, semaphore));
                self.model.open(result as u64, Kind::Counter(counter), 2, false, false);
                Ok(())
            }
            Pending::Map { page, count, prot, what } => {
                is(step.arguments[0] as i64)?;
                for index in 0..count {
                    self.model.pages[page + index] = match what {
                        What::File(file, first) => Page::OfFile { file, index: first + index as u64, prot },
                        What::Private | What::Shared => {
                            Page::Own { bytes: vec![0; PAGE], prot, shared: matches!(what, What::Shared) }
                        }
                    };
                }
                Ok(())
            }
            Pending::Unmap { page, count } => {
                is(0)?;
                self.model.pages[page..page + count].fill(Page::Hole);
                Ok(())
            }
            Pending::Protect { page, count, prot: new } => {
                is(0)?;
                for page in &mut self.model.pages[page..page + count] {
                    if let Page::Own { prot, .. } | Page::OfFile { prot, .. } = page {
                        *prot = new;
                    }
                }
                Ok(())
            }
            Pending::Forget { page, count } => {
                is(0)?;
                for page in &mut self.model.pages[page..page + count] {
                    if let Page::Own { bytes, .. } = page {
                        bytes.fill(0);
                    }
                }
                Ok(())
            }
            Pending::SendFile { from, to, count } => {
                let (source, sink) = (self.model.description(from).copied(), self.model.description(to).copied());
                let (Some(source), Some(sink)) = (source, sink) else { return Ok(()) };
                let (Kind::File(one), Kind::File(two)) = (source.kind, sink.kind) else { return Ok(()) };
                let bytes = self.model.load(one, source.offset, count);
                if result < 0 || result as usize > bytes.len() || result == 0 && !bytes.is_empty() {
                    return Err(format!("up to {} bytes were there", bytes.len()));
                }
                self.model.store(two, sink.offset, &bytes[..result as usize]);
                for fd in [from, to] {
                    if let Some(description) = self.model.description_mut(fd) {
                        description.offset += result as u64;
                    }
                }
                Ok(())
            }
            Pending::Umask(mask) => {
                is(self.model.umask as i64)?;
                self.model.umask = mask;
                Ok(())
            }
            Pending::Mask { set, how } => {
                is(0)?;
                if step.arguments[2] != 0 {
                    let old = read(memory, step.arguments[2], 8)?;
                    let old = u64::from_le_bytes(old.try_into().unwrap_or_default());
                    if old != self.model.mask {
                        return Err(format!("the mask was {old:#x} and not {:#x}", self.model.mask));
                    }
                }
                self.model.mask = match how {
                    0 => self.model.mask | set,
                    1 => self.model.mask & !set,
                    _ => set,
                };
                Ok(())
            }
            Pending::SetName(name) => {
                is(0)?;
                self.model.name = name.into_iter().take(15).collect();
                Ok(())
            }
            Pending::GetName => {
                is(0)?;
                let mut wanted = self.model.name.clone();
                wanted.resize(16, 0);
                let got = read(memory, step.arguments[1], 16)?;
                if got == wanted { Ok(()) } else { Err(format!("{got:?} instead of {wanted:?}")) }
            }
            Pending::Poll { fd } => {
                let Some(Kind::Reader(queue) | Kind::Socket(queue, _)) = self.model.description(fd).map(|d| d.kind)
                else {
                    return Ok(());
                };
                let queue = &self.model.queues[queue];
                let socket = matches!(self.model.description(fd).map(|d| d.kind), Some(Kind::Socket(..)));
                let ended = queue.writers == 0;
                let ready = !queue.bytes.is_empty() || ended && socket;
                let events = read(memory, step.arguments[0] + 6, 2)?;
                let events = u16::from_le_bytes([events[0], events[1]]);
                let (readable, hung) = (events & 1 != 0, events & 0x10 != 0);
                if (readable, hung) != (ready, ended) {
                    return Err(format!(
                        "events {events:#x}; {} bytes wait, {} write",
                        queue.bytes.len(),
                        queue.writers
                    ));
                }
                is(i64::from(ready || ended))
            }
            Pending::Waiting { fd } => {
                is(0)?;
                let Some(Kind::Reader(queue) | Kind::Socket(queue, _)) = self.model.description(fd).map(|d| d.kind)
                else {
                    return Ok(());
                };
                let got = read(memory, step.arguments[2], 4)?;
                let got = u32::from_le_bytes([got[0], got[1], got[2], got[3]]);
                let wanted = self.model.queues[queue].bytes.len() as u32;
                if got == wanted { Ok(()) } else { Err(format!("{got} bytes wait, not {wanted}")) }
            }
        }
    }

    fn opened(&mut self, name: &str, flags: u64, result: i64) -> Result<(), String> {
        let known = self.model.names.get(name).copied();
        let wanted = match known {
            Some(_) if flags & 0xc0 == 0xc0 => EEXIST,
            None if flags & 0x40 == 0 => ENOENT,
            _ => self.model.free_fd(0) as i64,
        };
        if result != wanted {
            return Err(format!("not {wanted}"));
        }
        if result < 0 {
            return Ok(());
        }
        let file = known.unwrap_or_else(|| {
            self.model.files.push(Default::default());
            self.model.files.len() - 1
        });
        if known.is_none() {
            self.model.files[file].names = 1;
            self.model.names.insert(name.into(), file);
        }
        if flags & 0x200 != 0 {
            self.model.files[file].content.clear();
        }
        self.model.open(result as u64, Kind::File(file), flags & 3, flags & 0x400 != 0, flags & 0x80000 != 0);
        Ok(())
    }

    /// A socket whose peer went without reading everything may say so once, as ECONNRESET.
    fn was_reset(&self, kind: Kind, result: i64) -> bool {
        matches!(kind, Kind::Socket(reads, _) if self.model.queues[reads].writers == 0 && result == ECONNRESET)
    }

    fn was_read(
        &mut self,
        fd: u64,
        at: Option<u64>,
        to: Place,
        count: u64,
        result: i64,
        memory: &mut dyn Memory,
    ) -> Result<(), String> {
        let is = |wanted: i64| if result == wanted { Ok(()) } else { Err(format!("not {wanted}")) };
        let Some(description) = self.model.description(fd).copied() else { return is(EBADF) };
        if self.was_reset(description.kind, result) {
            return Ok(());
        }
        if description.access == 1 {
            return is(EBADF);
        }
        let expected: Vec<u8> = match description.kind {
            Kind::File(file) => self.model.load(file, at.unwrap_or(description.offset), count),
            Kind::Reader(queue) | Kind::Socket(queue, _) => {
                let queue = &self.model.queues[queue];
                if queue.bytes.is_empty() && queue.writers > 0 && count > 0 {
                    return is(EAGAIN);
                }
                queue.bytes.iter().take(count as usize).copied().collect()
            }
            Kind::Counter(counter) => match self.model.counters[counter] {
                (0, _) => return is(EAGAIN),
                (value, semaphore) => (if semaphore { 1 } else { value }).to_le_bytes().to_vec(),
            },
            Kind::Writer(_) => return is(EBADF),
        };
        if let Place::Page(page, _) = to
            && !self.model.is_writable(page)
            && !expected.is_empty()
        {
            return is(EFAULT);
        }
        // A read may always give less than there is, but not nothing.
        if result < 0 || result as usize > expected.len() || result == 0 && !expected.is_empty() {
            // Without room to be written to, nothing may be said at all where nothing is to come.
            let unwritable = matches!(to, Place::Page(page, _) if !self.model.is_writable(page));
            return if unwritable && result == EFAULT { Ok(()) } else { is(expected.len() as i64) };
        }
        let got = result as usize;
        let address = match to {
            Place::Arena(at) => at,
            Place::Page(page, offset) => self.region + (page * PAGE + offset) as u64,
        };
        if got > 0 {
            let mut bytes = vec![0; got];
            let there = memory.read(address, &mut bytes);
            if !there || bytes != expected[..got] {
                let wrong = bytes.iter().zip(&expected).position(|(a, b)| a != b);
                return Err(format!("other bytes, from byte {wrong:?} of {got} on"));
            }
        }
        if let Place::Page(page, offset) = to {
            self.model.poke(page, offset, &expected[..got]);
        }
        match description.kind {
            Kind::File(_) if at.is_none() => {
                if let Some(description) = self.model.description_mut(fd) {
                    description.offset += got as u64;
                }
            }
            Kind::Reader(queue) | Kind::Socket(queue, _) => {
                self.model.queues[queue].bytes.drain(..got);
            }
            Kind::Counter(counter) => {
                let (value, semaphore) = &mut self.model.counters[counter];
                *value -= if *semaphore { 1 } else { *value };
            }
            Kind::File(_) | Kind::Writer(_) => {}
        }
        Ok(())
    }

    fn was_written(&mut self, fd: u64, at: Option<u64>, bytes: Option<Vec<u8>>, result: i64) -> Result<(), String> {
        let is = |wanted: i64| if result == wanted { Ok(()) } else { Err(format!("not {wanted}")) };
        let Some(description) = self.model.description(fd).copied() else { return is(EBADF) };
        if self.was_reset(description.kind, result) {
            return Ok(());
        }
        if description.access == 0 {
            return is(EBADF);
        }
        if let Kind::Writer(queue) | Kind::Socket(_, queue) = description.kind
            && self.model.queues[queue].readers == 0
            // Whether bad memory or the broken pipe is told first is the kernel's choice; so is what nothing written is.
            && (result == EPIPE || bytes.as_ref().is_some_and(|bytes| !bytes.is_empty()))
        {
            return is(EPIPE);
        }
        let Some(bytes) = bytes else {
            // Memory that cannot be read.
            let full = result == EAGAIN && !matches!(description.kind, Kind::File(_));
            return if result == 0 || full { Ok(()) } else { is(EFAULT) };
        };
        match description.kind {
            Kind::File(file) => {
                let end = self.model.files[file].content.len() as u64;
                let from = if description.append { end } else { at.unwrap_or(description.offset) };
                if result < 0 || result as usize > bytes.len() || result == 0 && !bytes.is_empty() {
                    return is(bytes.len() as i64);
                }
                self.model.store(file, from, &bytes[..result as usize]);
                if at.is_none()
                    && let Some(description) = self.model.description_mut(fd)
                    && !(bytes.is_empty() && description.append)
                {
                    description.offset = from + result as u64;
                }
                Ok(())
            }
            Kind::Writer(queue) | Kind::Socket(_, queue) => {
                let pipe = matches!(description.kind, Kind::Writer(_));
                let queue = &mut self.model.queues[queue];
                if result == EAGAIN {
                    let full = !queue.bytes.is_empty() && (!pipe || queue.bytes.len() + bytes.len() > PIPE_ROOM / 16);
                    return if full { Ok(()) } else { Err("though there is room".into()) };
                }
                if result < 0 || result as usize > bytes.len() || result == 0 && !bytes.is_empty() {
                    return is(bytes.len() as i64);
                }
                if pipe && bytes.len() <= PAGE && (result as usize) < bytes.len() {
                    return Err("in pieces, which must not be".into());
                }
                queue.bytes.extend(&bytes[..result as usize]);
                Ok(())
            }
            Kind::Counter(counter) => {
                let number = u64::from_le_bytes(bytes[..].try_into().unwrap_or_default());
                let value = self.model.counters[counter].0;
                if number == u64::MAX {
                    return is(EINVAL);
                }
                if value.checked_add(number).is_none_or(|sum| sum == u64::MAX) {
                    return is(EAGAIN);
                }
                is(8)?;
                self.model.counters[counter].0 = value + number;
                Ok(())
            }
            Kind::Reader(_) => is(EBADF),
        }
    }
}
