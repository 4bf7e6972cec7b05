//! Choosing the next call of a checked process.
use super::{
    BUFFER, BUFFER_AT, Checker, EBADF, EEXIST, EINVAL, ENOENT, ESPIPE, FDS, NAMES, PAGES, Pending, Place, WORDS_AT,
    What,
};
use crate::{
    Step,
    model::{FILE_LIMIT, Kind, PAGE, Page},
};

impl Checker {
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

    pub(super) fn choose(&mut self) -> Option<Step> {
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
        let bytes: Vec<u8> = self.random.bytes().take(count as usize).collect();
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
}
