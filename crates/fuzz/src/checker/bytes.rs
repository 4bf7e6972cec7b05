//! Answers of calls that open files and move bytes.
use super::{Checker, EAGAIN, EBADF, ECONNRESET, EEXIST, EFAULT, EINVAL, ENOENT, EPIPE, Place};
use crate::{
    Memory,
    model::{Kind, PAGE, PIPE_ROOM},
};

impl Checker {
    pub(super) fn opened(&mut self, name: &str, flags: u64, result: i64) -> Result<(), String> {
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

    pub(super) fn was_read(
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

    pub(super) fn was_written(
        &mut self,
        fd: u64,
        at: Option<u64>,
        bytes: Option<Vec<u8>>,
        result: i64,
    ) -> Result<(), String> {
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
