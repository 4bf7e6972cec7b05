//! Urgent data: one byte of a stream that can be taken out of turn (RFC 6093 says what everybody does).
use super::{Connection, Seq, State};
use crate::{
    options::{Flags, Options},
    socket::Take,
};
use minicbor::{Decode, Encode};
use shimos_abi::{errno::Errno, flat};

/// The peer's urgent byte.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode)]
pub(crate) struct Urgent {
    /// Where it is in the stream.
    #[n(0)]
    at: Seq,
    /// The byte, once it is here.
    #[n(1)]
    byte: Option<u8>,
    /// It was taken out of turn.
    #[n(2)]
    taken: bool,
}

flat!(Urgent { at, byte, taken });

impl Connection {
    /// The number of the next byte that the program reads.
    fn read_at(&self) -> Seq {
        self.next.back(self.receive.len() as u32 + u32::from(self.fin_received))
    }

    /// How far the mark is from the next byte to read, if it is not behind.
    fn mark(&self) -> Option<usize> {
        let distance = self.urgent?.at.since(self.read_at());
        usize::try_from(distance).ok()
    }

    /// A segment that begins at `seq` points to the end of urgent data.
    pub(super) fn note_urgent(&mut self, seq: Seq, pointer: u16) {
        let Some(distance) = pointer.checked_sub(1) else { return };
        let at = seq + u32::from(distance);
        let newer = self.urgent.is_none_or(|known| at.after(known.at));
        if newer && !at.before(self.read_at()) {
            self.urgent = Some(Urgent { at, byte: None, taken: false });
            self.signal = true;
            self.event = true;
            self.take_urgent_byte();
        }
    }

    /// Looks whether the urgent byte has come.
    pub(super) fn take_urgent_byte(&mut self) {
        let byte = self.mark().and_then(|distance| self.receive.byte(distance));
        if let Some(urgent) = &mut self.urgent
            && urgent.byte.is_none()
            && !urgent.taken
        {
            urgent.byte = byte;
        }
    }

    /// How many bytes may be read in one go: reading stops at the mark. The urgent byte itself is left out, unless the
    /// program wants it in line.
    pub(super) fn before_mark(&mut self, inline: bool, take: Take) -> usize {
        match self.mark() {
            Some(0) if inline => usize::MAX,
            Some(0) => {
                if take == Take::Consume && !self.receive.is_empty() {
                    self.receive.skip(1);
                    self.forget_passed_mark();
                }
                usize::MAX
            }
            Some(distance) => distance,
            None => usize::MAX,
        }
    }

    /// The program has read beyond the mark.
    pub(super) fn forget_passed_mark(&mut self) {
        if self.urgent.is_some_and(|urgent| urgent.at.before(self.read_at())) {
            self.urgent = None;
        }
    }

    /// Bytes that can be read without passing the mark.
    pub fn readable(&self, options: &Options) -> usize {
        let all = self.receive.len();
        match self.mark() {
            Some(0) if !options.has(Flags::OUT_OF_BAND_INLINE) => all.saturating_sub(1),
            Some(distance) if distance > 0 => all.min(distance),
            _ => all,
        }
    }

    /// Whether an urgent byte waits.
    pub(super) fn has_urgent(&self) -> bool {
        self.urgent.is_some_and(|urgent| urgent.byte.is_some() && !urgent.taken)
    }

    /// Whether the next byte to read is the urgent one.
    pub fn is_at_mark(&self) -> bool {
        self.mark() == Some(0)
    }

    /// Takes the urgent byte.
    pub fn read_urgent(&mut self, inline: bool, take: Take) -> Result<u8, Errno> {
        let ended = self.state == State::Closed || self.shut_read;
        let Some(urgent) = self.urgent.as_mut().filter(|urgent| !inline && !urgent.taken) else {
            return Err(Errno::EINVAL);
        };
        match urgent.byte {
            Some(byte) => {
                urgent.taken = take == Take::Consume;
                Ok(byte)
            }
            None if ended => Err(Errno::EINVAL),
            None => Err(Errno::EAGAIN),
        }
    }
}
