//! Sessions: how the tool on the host talks with the agent that runs a command inside a program.
//!
//! The agent connects to the tool and says [`Frame::Hello`]; the tool answers with [`Frame::Begin`]. From then on both send
//! bytes of the command's streams, each only as many as the other has room for ([`WINDOW`], [`Frame::Taken`]), so that no
//! stream holds up another one or a signal. [`Frame::Exit`] is the agent's last word; the tool closes the connection.
//!
//! A message is one CBOR item behind its length as a 32-bit little-endian number, as in the control protocol.
use alloc::{string::String, vec::Vec};
use minicbor::{Decode, Encode};

/// Version of this protocol.
pub const VERSION: u32 = 1;
/// Largest message, in bytes: a command line with its environment.
pub const MAX_FRAME: usize = 2 << 20;
/// Most bytes of a stream that one message carries.
pub const MAX_DATA: usize = 64 << 10;
/// Bytes of a stream that may be on their way and not yet dealt with.
pub const WINDOW: u32 = 1 << 20;
/// Bytes of the length in front of a message.
pub const PREFIX: usize = 4;
/// Where the agent lies in every image.
pub const AGENT: &str = "/usr/lib/shimos/agent";

/// A stream of the command.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Encode, Decode)]
#[cbor(index_only)]
pub enum Stream {
    /// Its standard input.
    #[n(0)]
    Input,
    /// Its standard output, and all it says with a terminal.
    #[n(1)]
    Output,
    /// Its standard error.
    #[n(2)]
    Errors,
}

/// The size of a terminal's window.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Window {
    /// Lines.
    #[n(0)]
    pub rows: u16,
    /// Characters in a line.
    #[n(1)]
    pub columns: u16,
}

/// What to run and how.
#[derive(Clone, PartialEq, Eq, Debug, Default, Encode, Decode)]
pub struct Begin {
    /// The command and its arguments; a name without a slash is looked for in PATH.
    #[n(0)]
    pub argv: Vec<String>,
    /// Variables `NAME=VALUE` over those that the program began with.
    #[n(1)]
    pub env: Vec<String>,
    /// Working directory; the agent's own otherwise.
    #[n(2)]
    pub cwd: Option<String>,
    /// `USER` or `USER:GROUP`, names or numbers; the agent's own otherwise.
    #[n(3)]
    pub user: Option<String>,
    /// A terminal of this size; pipes otherwise.
    #[n(4)]
    pub terminal: Option<Window>,
}

/// How a command ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode)]
pub enum Ending {
    /// By itself, with this status.
    #[n(0)]
    Exited(#[n(0)] u8),
    /// By this signal.
    #[n(1)]
    Killed(#[n(0)] u8),
}

impl Ending {
    /// The status as a shell tells it: that of the command, or 128 and the signal's number.
    pub const fn code(self) -> u8 {
        match self {
            Ending::Exited(status) => status,
            Ending::Killed(signal) => 128_u8.saturating_add(signal),
        }
    }
}

/// A message.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub enum Frame {
    /// Agent: the session that you wait for.
    #[n(0)]
    Hello {
        /// See [`VERSION`].
        #[n(0)]
        version: u32,
        /// What the tool has told the agent, and nobody else.
        #[n(1)]
        token: String,
    },
    /// Tool: run this.
    #[n(1)]
    Begin(#[n(0)] Begin),
    /// Bytes of a stream, [`MAX_DATA`] at most.
    #[n(2)]
    Data(#[n(0)] Stream, #[cbor(n(1), with = "minicbor::bytes")] Vec<u8>),
    /// No more bytes will come on this stream.
    #[n(3)]
    End(#[n(0)] Stream),
    /// So many bytes of a stream have been dealt with: as many more may be sent.
    #[n(4)]
    Taken(#[n(0)] Stream, #[n(1)] u32),
    /// Nobody takes bytes of this stream any more.
    #[n(5)]
    Refused(#[n(0)] Stream),
    /// Tool: send the command a signal.
    #[n(6)]
    Signal(#[n(0)] u8),
    /// Tool: the window's size is another one.
    #[n(7)]
    Resize(#[n(0)] Window),
    /// Agent: the command has ended, and all it said was sent.
    #[n(8)]
    Exit(#[n(0)] Ending),
    /// Agent: the command cannot be run, with the status that a shell would give (126 or 127).
    #[n(9)]
    Failed(#[n(0)] String, #[n(1)] u8),
}

/// What cannot be a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Malformed {
    /// It is longer than any message.
    TooLong(usize),
    /// It is no CBOR item, or none of ours.
    NotUnderstood,
    /// It breaks a rule: more bytes than there was room for.
    OutOfBounds,
}

impl core::fmt::Display for Malformed {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Malformed::TooLong(length) => write!(f, "a message of {length} bytes; the most is {MAX_FRAME}"),
            Malformed::NotUnderstood => f.write_str("a message that cannot be understood"),
            Malformed::OutOfBounds => f.write_str("more bytes than there was room for"),
        }
    }
}

impl core::error::Error for Malformed {}

/// A message as bytes, length and all.
pub fn encode(frame: &Frame) -> Result<Vec<u8>, Malformed> {
    let item = minicbor::to_vec(frame).map_err(|_| Malformed::NotUnderstood)?;
    if item.len() > MAX_FRAME {
        return Err(Malformed::TooLong(item.len()));
    }
    let mut bytes = Vec::with_capacity(PREFIX + item.len());
    bytes.extend_from_slice(&(item.len() as u32).to_le_bytes());
    bytes.extend_from_slice(&item);
    Ok(bytes)
}

/// Takes messages out of a stream of bytes.
#[derive(Debug, Default)]
pub struct Receiver {
    bytes: Vec<u8>,
    /// Where the next message begins.
    at: usize,
}

impl Receiver {
    /// Adds received bytes. All messages are to be taken out before more are added.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.bytes.drain(..self.at);
        self.at = 0;
        self.bytes.extend_from_slice(bytes);
    }

    /// The next message, once all of it is there.
    pub fn take(&mut self) -> Result<Option<Frame>, Malformed> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let Some((prefix, rest)) = rest.split_first_chunk::<PREFIX>() else { return Ok(None) };
        let length = u32::from_le_bytes(*prefix) as usize;
        if length > MAX_FRAME {
            return Err(Malformed::TooLong(length));
        }
        let Some(item) = rest.get(..length) else { return Ok(None) };
        let frame: Frame = minicbor::decode(item).map_err(|_| Malformed::NotUnderstood)?;
        if matches!(&frame, Frame::Data(_, data) if data.len() > MAX_DATA) {
            return Err(Malformed::OutOfBounds);
        }
        self.at += PREFIX + length;
        Ok(Some(frame))
    }
}

/// How many bytes of a stream may still be sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Credit(u32);

impl Default for Credit {
    fn default() -> Credit {
        Credit(WINDOW)
    }
}

impl Credit {
    /// Bytes that may be sent now, in one message.
    pub fn room(self) -> usize {
        (self.0 as usize).min(MAX_DATA)
    }

    /// Bytes that may be on their way besides those that are.
    pub fn left(self) -> u32 {
        self.0
    }

    /// So many were sent, or received from the other side.
    pub fn spend(&mut self, count: usize) -> Result<(), Malformed> {
        let count = u32::try_from(count).map_err(|_| Malformed::OutOfBounds)?;
        self.0 = self.0.checked_sub(count).ok_or(Malformed::OutOfBounds)?;
        Ok(())
    }

    /// So many were dealt with.
    pub fn refund(&mut self, count: u32) -> Result<(), Malformed> {
        let sum = self.0.checked_add(count).filter(|sum| *sum <= WINDOW);
        self.0 = sum.ok_or(Malformed::OutOfBounds)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::{string::ToString, vec};

    fn all() -> Vec<Frame> {
        vec![
            Frame::Hello { version: VERSION, token: "abc".to_string() },
            Frame::Begin(Begin {
                argv: vec!["ls".to_string(), "-l".to_string()],
                env: vec!["A=b".to_string()],
                cwd: Some("/tmp".to_string()),
                user: None,
                terminal: Some(Window { rows: 24, columns: 80 }),
            }),
            Frame::Data(Stream::Input, vec![0, 1, 255]),
            Frame::End(Stream::Output),
            Frame::Taken(Stream::Errors, 17),
            Frame::Refused(Stream::Output),
            Frame::Signal(2),
            Frame::Resize(Window { rows: 1, columns: 2 }),
            Frame::Exit(Ending::Killed(9)),
            Frame::Failed("no".to_string(), 127),
        ]
    }

    #[test]
    fn messages_come_out_as_they_went_in_however_they_are_cut() {
        let bytes: Vec<u8> = all().iter().flat_map(|frame| encode(frame).expect("short")).collect();
        for size in [1, 2, 3, 7, bytes.len()] {
            let mut receiver = Receiver::default();
            let mut found = Vec::new();
            for piece in bytes.chunks(size) {
                receiver.feed(piece);
                while let Some(frame) = receiver.take().expect("well formed") {
                    found.push(frame);
                }
            }
            assert_eq!(found, all(), "in pieces of {size}");
        }
    }

    #[test]
    fn what_is_no_message_is_refused() {
        let fed = |bytes: &[u8]| {
            let mut receiver = Receiver::default();
            receiver.feed(bytes);
            receiver.take()
        };
        assert_eq!(fed(&u32::MAX.to_le_bytes()), Err(Malformed::TooLong(u32::MAX as usize)));
        assert_eq!(fed(&[1, 0, 0, 0, 0xff]), Err(Malformed::NotUnderstood));
        // A variant that there is none of.
        assert_eq!(fed(&[3, 0, 0, 0, 0x82, 0x18, 99]), Err(Malformed::NotUnderstood));
        // A list that claims to be endless and is not there.
        assert_eq!(
            fed(&[11, 0, 0, 0, 0x82, 1, 0x81, 0x81, 0x9b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]),
            Err(Malformed::NotUnderstood)
        );
        assert_eq!(fed(&[0, 0, 0, 0]), Err(Malformed::NotUnderstood));
        let long = encode(&Frame::Data(Stream::Output, vec![0; MAX_DATA + 1])).expect("fits");
        assert_eq!(fed(&long), Err(Malformed::OutOfBounds));
        assert!(encode(&Frame::Failed("x".repeat(MAX_FRAME), 1)).is_err());
    }

    #[test]
    fn hostile_bytes_never_panic() {
        let bytes: Vec<u8> = all().iter().flat_map(|frame| encode(frame).expect("short")).collect();
        for at in 0..bytes.len() {
            for value in [0, 1, 0x7f, 0x80, 0x9f, 0xbf, 0xff] {
                let mut damaged = bytes.clone();
                damaged[at] = value;
                let mut receiver = Receiver::default();
                receiver.feed(&damaged);
                while let Ok(Some(_)) = receiver.take() {}
            }
        }
    }

    #[test]
    fn nobody_sends_more_than_there_is_room_for() {
        let mut credit = Credit::default();
        assert_eq!(credit.room(), MAX_DATA);
        credit.spend(WINDOW as usize - 1).expect("room");
        assert_eq!(credit.room(), 1);
        assert_eq!(credit.spend(2), Err(Malformed::OutOfBounds));
        assert_eq!(credit.refund(WINDOW), Err(Malformed::OutOfBounds));
        assert_eq!(credit.refund(u32::MAX), Err(Malformed::OutOfBounds));
        credit.refund(WINDOW - 1).expect("was spent");
        assert_eq!(credit, Credit::default());
    }

    #[test]
    fn endings_have_the_codes_of_a_shell() {
        assert_eq!(Ending::Exited(3).code(), 3);
        assert_eq!(Ending::Killed(15).code(), 143);
        assert_eq!(Ending::Killed(255).code(), 255);
    }
}
