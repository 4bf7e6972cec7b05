//! The command's streams as the agent holds them: bytes on their way in, descriptors that give bytes out.
use rustix::io::Errno;
use shimos_abi::session::{Credit, Frame, Malformed, Stream, WINDOW};
use std::{
    collections::VecDeque,
    fs::File,
    io::{Read, Write},
    os::fd::OwnedFd,
};

/// Bytes dealt with are told when so many have come together.
const TELL: u32 = WINDOW / 8;
/// What ends the input of a terminal (VEOF as it is by default).
const END_OF_TRANSMISSION: u8 = 4;

/// What the command's end of a stream is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Form {
    /// A pipe.
    Pipe,
    /// A terminal.
    Terminal,
}

/// The command's standard input.
pub struct Sink {
    file: Option<File>,
    form: Form,
    pending: VecDeque<u8>,
    ended: bool,
    /// Room of the tool, as it sees it.
    credit: Credit,
    /// Bytes dealt with and not told yet.
    untold: u32,
}

impl Sink {
    /// Writes to a descriptor that does not block.
    pub fn new(fd: OwnedFd, form: Form) -> Sink {
        let file = Some(File::from(fd));
        Sink { file, form, pending: VecDeque::new(), ended: false, credit: Credit::default(), untold: 0 }
    }

    /// The descriptor, while somebody may read behind it.
    pub fn descriptor(&self) -> Option<&File> {
        self.file.as_ref()
    }

    /// Whether bytes wait to be written.
    pub fn is_waiting(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Bytes have come.
    pub fn take(&mut self, bytes: &[u8]) -> Result<(), Malformed> {
        self.credit.spend(bytes.len())?;
        if self.file.is_some() {
            self.pending.extend(bytes);
        }
        Ok(())
    }

    /// No more bytes will come.
    pub fn end(&mut self) {
        if self.form == Form::Terminal && !self.ended {
            self.pending.push_back(END_OF_TRANSMISSION);
        }
        self.ended = true;
        self.close_if_done();
    }

    fn close_if_done(&mut self) {
        if self.ended && self.pending.is_empty() && self.form == Form::Pipe {
            self.file = None;
        }
    }

    /// Writes what there is room for. Returns what the tool is to be told.
    pub fn write(&mut self) -> Option<Frame> {
        while let Some(file) = &mut self.file
            && !self.pending.is_empty()
        {
            match file.write(self.pending.as_slices().0) {
                Ok(count) => {
                    self.pending.drain(..count);
                    self.untold = self.untold.saturating_add(count as u32);
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => break,
                Err(_) => return self.refuse(),
            }
        }
        self.close_if_done();
        if self.untold >= TELL || self.pending.is_empty() && self.untold > 0 {
            let count = core::mem::take(&mut self.untold);
            // The end mark of a terminal was not sent by the tool: more than it sent cannot be told.
            let count = count.min(WINDOW - self.credit.left());
            return (self.credit.refund(count).is_ok() && count > 0).then_some(Frame::Taken(Stream::Input, count));
        }
        None
    }

    /// Nobody reads any more.
    pub fn refuse(&mut self) -> Option<Frame> {
        self.pending.clear();
        self.file.take().map(|_| Frame::Refused(Stream::Input))
    }
}

/// Standard output or standard error of the command.
pub struct Source {
    stream: Stream,
    file: Option<File>,
    credit: Credit,
}

impl Source {
    /// Reads from a descriptor that does not block.
    pub fn new(stream: Stream, fd: OwnedFd) -> Source {
        Source { stream, file: Some(File::from(fd)), credit: Credit::default() }
    }

    /// Which it is.
    pub fn stream(&self) -> Stream {
        self.stream
    }

    /// The descriptor, if more may come and there is room for it.
    pub fn descriptor(&self) -> Option<&File> {
        self.file.as_ref().filter(|_| self.credit.room() > 0)
    }

    /// Whether no more will come.
    pub fn is_over(&self) -> bool {
        self.file.is_none()
    }

    /// The tool has dealt with bytes.
    pub fn taken(&mut self, count: u32) -> Result<(), Malformed> {
        self.credit.refund(count)
    }

    /// Nobody wants to know more: whoever writes is told by SIGPIPE.
    pub fn refuse(&mut self) {
        self.file = None;
    }

    /// Reads once. Returns what the tool is to be told.
    pub fn read(&mut self, buffer: &mut [u8]) -> Option<Frame> {
        let file = self.file.as_mut()?;
        let room = self.credit.room().min(buffer.len());
        let bytes = buffer.get_mut(..room).filter(|bytes| !bytes.is_empty())?;
        match file.read(bytes) {
            Ok(0) => self.over(),
            Ok(count) => {
                let bytes = bytes.get(..count).unwrap_or_default().to_vec();
                self.credit.spend(count).ok()?;
                Some(Frame::Data(self.stream, bytes))
            }
            Err(error) => match Errno::from_io_error(&error) {
                Some(Errno::AGAIN | Errno::INTR) => None,
                // A terminal's other end was closed (EIO).
                _ => self.over(),
            },
        }
    }

    fn over(&mut self) -> Option<Frame> {
        self.file = None;
        Some(Frame::End(self.stream))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::pipe::{PipeFlags, pipe_with};

    fn pipe() -> (OwnedFd, OwnedFd) {
        pipe_with(PipeFlags::NONBLOCK | PipeFlags::CLOEXEC).expect("a pipe")
    }

    #[test]
    fn input_is_written_whole_and_told() {
        let (reader, writer) = pipe();
        let (mut sink, mut reader) = (Sink::new(writer, Form::Pipe), File::from(reader));
        let sent: Vec<u8> = (0..300_000_u32).map(|n| n as u8).collect();
        for piece in sent.chunks(50_000) {
            sink.take(piece).expect("room");
        }
        sink.end();
        let (mut got, mut told, mut buffer) = (Vec::new(), 0, [0; 10_000]);
        loop {
            if let Some(Frame::Taken(Stream::Input, count)) = sink.write() {
                told += count;
            }
            match reader.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => got.extend_from_slice(&buffer[..count]),
                Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock),
            }
        }
        assert_eq!(got, sent);
        assert_eq!(told as usize, sent.len());
        assert!(sink.descriptor().is_none());
    }

    #[test]
    fn more_than_the_window_is_refused() {
        let (_reader, writer) = pipe();
        let mut sink = Sink::new(writer, Form::Pipe);
        for _ in 0..16 {
            sink.take(&vec![0; WINDOW as usize / 16]).expect("room");
        }
        assert_eq!(sink.take(&[0]), Err(Malformed::OutOfBounds));
    }

    #[test]
    fn a_reader_that_is_gone_is_told() {
        let (reader, writer) = pipe();
        drop(reader);
        let mut sink = Sink::new(writer, Form::Pipe);
        sink.take(b"x").expect("room");
        assert_eq!(sink.write(), Some(Frame::Refused(Stream::Input)));
        sink.take(b"what comes later is dropped").expect("room");
        assert_eq!(sink.write(), None);
        assert!(!sink.is_waiting());
    }

    #[test]
    fn output_waits_for_room() {
        let (reader, writer) = pipe();
        let (mut source, mut writer) = (Source::new(Stream::Output, reader), File::from(writer));
        let mut buffer = vec![0; 1 << 16];
        assert_eq!(source.read(&mut buffer), None);
        let mut got = 0;
        while source.descriptor().is_some() {
            writer.write_all(&[7; 4096]).expect("empty");
            match source.read(&mut buffer) {
                Some(Frame::Data(Stream::Output, bytes)) => got += bytes.len(),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(got, WINDOW as usize);
        writer.write_all(b"end").expect("empty");
        drop(writer);
        assert_eq!(source.read(&mut buffer), None);
        source.taken(10).expect("was sent");
        assert_eq!(source.read(&mut buffer), Some(Frame::Data(Stream::Output, b"end".to_vec())));
        assert_eq!(source.read(&mut buffer), Some(Frame::End(Stream::Output)));
        assert!(source.is_over());
    }
}
