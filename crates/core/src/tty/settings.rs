//! The settings of a terminal (termios(3)) and the three structures that ioctl(2) carries them in.
use alloc::vec::Vec;
use minicbor::{Decode, Encode};

/// Flags and special characters.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Settings {
    /// `c_iflag`.
    #[n(0)]
    pub input: u32,
    /// `c_oflag`.
    #[n(1)]
    pub output: u32,
    /// `c_cflag`.
    #[n(2)]
    pub control: u32,
    /// `c_lflag`.
    #[n(3)]
    pub local: u32,
    /// `c_line`.
    #[n(4)]
    pub line: u8,
    /// `c_cc`, by the numbers of [`character`].
    #[n(5)]
    #[cbor(with = "minicbor::bytes")]
    pub characters: [u8; CHARACTERS],
    /// Speed of the input.
    #[n(6)]
    pub input_speed: u32,
    /// Speed of the output.
    #[n(7)]
    pub output_speed: u32,
}

/// Special characters that the kernel keeps (`NCCS` of the kernel).
pub const CHARACTERS: usize = 19;

/// Places in `c_cc`.
#[allow(missing_docs, reason = "the names are those of termios(3)")]
pub mod character {
    pub const INTR: usize = 0;
    pub const QUIT: usize = 1;
    pub const ERASE: usize = 2;
    pub const KILL: usize = 3;
    pub const EOF: usize = 4;
    pub const TIME: usize = 5;
    pub const MIN: usize = 6;
    pub const START: usize = 8;
    pub const STOP: usize = 9;
    pub const SUSP: usize = 10;
    pub const EOL: usize = 11;
    pub const REPRINT: usize = 12;
    pub const WERASE: usize = 14;
    pub const LNEXT: usize = 15;
    pub const EOL2: usize = 16;
}

/// Flags of `c_iflag`.
#[allow(missing_docs, reason = "the names are those of termios(3)")]
pub mod input {
    pub const PARMRK: u32 = 0o10;
    pub const ISTRIP: u32 = 0o40;
    pub const INLCR: u32 = 0o100;
    pub const IGNCR: u32 = 0o200;
    pub const ICRNL: u32 = 0o400;
    pub const IUCLC: u32 = 0o1000;
    pub const IXON: u32 = 0o2000;
    pub const IXANY: u32 = 0o4000;
    pub const IUTF8: u32 = 0o40000;
}

/// Flags of `c_oflag`.
#[allow(missing_docs, reason = "the names are those of termios(3)")]
pub mod output {
    pub const OPOST: u32 = 0o1;
    pub const OLCUC: u32 = 0o2;
    pub const ONLCR: u32 = 0o4;
    pub const OCRNL: u32 = 0o10;
    pub const ONOCR: u32 = 0o20;
    pub const ONLRET: u32 = 0o40;
    /// Both bits of the delay say that tabs become spaces.
    pub const XTABS: u32 = 0o14000;
}

/// Flags of `c_lflag`.
#[allow(missing_docs, reason = "the names are those of termios(3)")]
pub mod local {
    pub const ISIG: u32 = 0o1;
    pub const ICANON: u32 = 0o2;
    pub const ECHO: u32 = 0o10;
    pub const ECHOE: u32 = 0o20;
    pub const ECHOK: u32 = 0o40;
    pub const ECHONL: u32 = 0o100;
    pub const NOFLSH: u32 = 0o200;
    pub const TOSTOP: u32 = 0o400;
    pub const ECHOCTL: u32 = 0o1000;
    pub const ECHOPRT: u32 = 0o2000;
    pub const ECHOKE: u32 = 0o4000;
    pub const IEXTEN: u32 = 0o100_000;
    pub const EXTPROC: u32 = 0o200_000;
}

const CSIZE_AND_PARITY: u32 = 0o60 | 0o400;
const EIGHT_BITS_READ: u32 = 0o60 | 0o200;
const SPEED: u32 = 0o10017;
/// The speed is in a field of its own (`BOTHER`).
const OTHER_SPEED: u32 = 0o10000;
const INPUT_SPEED_SHIFT: u32 = 16;

/// What the speed bits stand for: those without `CBAUDEX`, then those with it.
const SPEEDS: [u32; 31] = [
    0, 50, 75, 110, 134, 150, 200, 300, 600, 1200, 1800, 2400, 4800, 9600, 19200, 38400, 57600, 115_200, 230_400,
    460_800, 500_000, 576_000, 921_600, 1_000_000, 1_152_000, 1_500_000, 2_000_000, 2_500_000, 3_000_000, 3_500_000,
    4_000_000,
];

fn speed(bits: u32, other: u32) -> u32 {
    let index = match bits & SPEED {
        OTHER_SPEED => return other,
        bits if bits & OTHER_SPEED != 0 => (bits & 0xf) as usize + 15,
        bits => (bits & 0xf) as usize,
    };
    SPEEDS.get(index).copied().unwrap_or_default()
}

/// The structures of ioctl(2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Form {
    /// struct termios of the kernel: `TCGETS`.
    Termios,
    /// struct termios2, with the speeds: `TCGETS2`.
    Termios2,
    /// struct termio of System V: `TCGETA`.
    Termio,
}

impl Form {
    /// Bytes of the structure.
    pub const fn size(self) -> usize {
        match self {
            Form::Termios => 36,
            Form::Termios2 => 44,
            Form::Termio => 18,
        }
    }
}

impl Settings {
    /// Those of a terminal that nobody has set up.
    pub fn new() -> Settings {
        let local = local::ISIG
            | local::ICANON
            | local::ECHO
            | local::ECHOE
            | local::ECHOK
            | local::ECHOCTL
            | local::ECHOKE
            | local::IEXTEN;
        Settings {
            input: input::ICRNL | input::IXON,
            output: output::OPOST | output::ONLCR,
            control: 0o17 | EIGHT_BITS_READ,
            local,
            line: 0,
            characters: [3, 28, 127, 21, 4, 0, 1, 0, 17, 19, 26, 0, 18, 15, 23, 22, 0, 0, 0],
            input_speed: 38400,
            output_speed: 38400,
        }
    }

    /// Whether a flag of `c_iflag` is set.
    pub fn has_input(&self, flag: u32) -> bool {
        self.input & flag != 0
    }
    /// Whether a flag of `c_oflag` is set.
    pub fn has_output(&self, flag: u32) -> bool {
        self.output & flag != 0
    }
    /// Whether a flag of `c_lflag` is set.
    pub fn has_local(&self, flag: u32) -> bool {
        self.local & flag != 0
    }
    /// The special character at a place of [`character`]; `None` where it is switched off.
    pub fn character(&self, place: usize) -> Option<u8> {
        self.characters.get(place).copied().filter(|byte| *byte != 0)
    }
    /// Whether `byte` is the special character at `place`.
    pub fn is(&self, byte: u8, place: usize) -> bool {
        self.character(place) == Some(byte)
    }
    /// Whether input is given out in lines.
    pub fn is_canonical(&self) -> bool {
        self.has_local(local::ICANON) && !self.has_local(local::EXTPROC)
    }
    /// Whether the usual two characters stop and start the output (packet mode tells of it).
    pub fn has_usual_flow(&self) -> bool {
        self.has_input(input::IXON) && self.is(19, character::STOP) && self.is(17, character::START)
    }

    /// As a structure of ioctl(2).
    pub fn to_bytes(&self, form: Form) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(form.size());
        for flags in [self.input, self.output, self.control, self.local] {
            match form {
                Form::Termio => bytes.extend_from_slice(&(flags as u16).to_le_bytes()),
                _ => bytes.extend_from_slice(&flags.to_le_bytes()),
            }
        }
        bytes.push(self.line);
        match form {
            Form::Termio => bytes.extend_from_slice(&self.characters[..8]),
            _ => bytes.extend_from_slice(&self.characters),
        }
        if form == Form::Termios2 {
            bytes.extend_from_slice(&self.input_speed.to_le_bytes());
            bytes.extend_from_slice(&self.output_speed.to_le_bytes());
        }
        bytes.resize(form.size(), 0);
        bytes
    }

    /// These settings changed as a structure of ioctl(2) asks. A terminal without a wire keeps eight bits and no parity.
    pub fn changed(&self, form: Form, bytes: &[u8]) -> Settings {
        let mut new = self.clone();
        let word = |at: usize| bytes.get(at..at + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_le_bytes);
        let half = |at: usize| bytes.get(at..at + 2).and_then(|b| b.try_into().ok()).map_or(0, u16::from_le_bytes);
        if form == Form::Termio {
            // The upper halves stay as they are.
            let targets = [&mut new.input, &mut new.output, &mut new.control, &mut new.local];
            for (at, target) in (0..).step_by(2).zip(targets) {
                *target = *target & 0xffff_0000 | u32::from(half(at));
            }
            new.line = bytes.get(8).copied().unwrap_or_default();
            for (character, byte) in new.characters.iter_mut().zip(bytes.iter().skip(9).take(8)) {
                *character = *byte;
            }
        } else {
            (new.input, new.output, new.control, new.local) = (word(0), word(4), word(8), word(12));
            new.line = bytes.get(16).copied().unwrap_or_default();
            for (character, byte) in new.characters.iter_mut().zip(bytes.iter().skip(17)) {
                *character = *byte;
            }
        }
        if form == Form::Termios2 {
            (new.input_speed, new.output_speed) = (word(36), word(40));
        }
        new.output_speed = speed(new.control, new.output_speed);
        new.input_speed = match new.control >> INPUT_SPEED_SHIFT & SPEED {
            0 => new.output_speed,
            bits => speed(bits, new.input_speed),
        };
        new.control = new.control & !CSIZE_AND_PARITY | EIGHT_BITS_READ;
        new
    }
}

impl Default for Settings {
    fn default() -> Settings {
        Settings::new()
    }
}
