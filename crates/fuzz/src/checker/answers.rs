//! Comparing answers with the model, and bringing it up to date.
use super::{BUFFER_AT, Checker, EEXIST, EINVAL, Pending, What};
use crate::{
    Memory, Step,
    model::{Kind, PAGE, Page},
};

impl Checker {
    pub(super) fn compare(
        &mut self,
        step: &Step,
        pending: Pending,
        result: i64,
        memory: &mut dyn Memory,
    ) -> Result<(), String> {
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
}
