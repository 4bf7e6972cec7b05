//! The format that the emulator writes network frames in.
use std::io::{self, ErrorKind, Read};

/// First word of a file, with times in microseconds.
const MAGIC: u32 = 0xa1b2_c3d4;
/// Longest frame that is believed.
const LONGEST: u32 = 256 * 1024;
/// Bytes of the file's head, and of the head of each frame.
pub const HEAD: usize = 24;
const FRAME_HEAD: usize = 16;

/// A frame with its time since the emulator's start, and its head as it came.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Frame {
    /// In microseconds.
    pub at: u64,
    /// The frame.
    pub bytes: Vec<u8>,
    /// What the file has in front of it.
    pub head: [u8; FRAME_HEAD],
}

/// Reads the head of a file.
pub fn head(from: &mut impl Read) -> io::Result<[u8; HEAD]> {
    let mut head = [0; HEAD];
    from.read_exact(&mut head)?;
    if word(&head, 0) != MAGIC {
        return Err(io::Error::new(ErrorKind::InvalidData, "no capture of network frames"));
    }
    Ok(head)
}

/// The next frame; none at the end, also if that is in the middle of one: the emulator was killed.
pub fn next(from: &mut impl Read) -> io::Result<Option<Frame>> {
    let mut head = [0; FRAME_HEAD];
    match from.read_exact(&mut head) {
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(None),
        read => read?,
    }
    let length = word(&head, 8);
    if length > LONGEST {
        return Err(io::Error::new(ErrorKind::InvalidData, format!("a frame of {length} bytes")));
    }
    let mut bytes = vec![0; length as usize];
    match from.read_exact(&mut bytes) {
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(None),
        read => read?,
    }
    let at = u64::from(word(&head, 0)) * 1_000_000 + u64::from(word(&head, 4));
    Ok(Some(Frame { at, bytes, head }))
}

fn word(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|word| word.try_into().ok()).map_or(0, u32::from_le_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_read_up_to_a_cut() {
        let mut file = MAGIC.to_le_bytes().to_vec();
        file.resize(HEAD, 0);
        for length in [3_u32, 5] {
            for word in [1, 500_000, length, length] {
                file.extend_from_slice(&word.to_le_bytes());
            }
            file.extend(std::iter::repeat_n(7, length as usize));
        }
        let mut whole = file.as_slice();
        head(&mut whole).expect("a head");
        let frame = next(&mut whole).expect("reads").expect("a frame");
        assert_eq!((frame.at, frame.bytes), (1_500_000, vec![7; 3]));
        assert_eq!(next(&mut whole).expect("reads").expect("a frame").bytes, [7; 5]);
        assert_eq!(next(&mut whole).expect("reads"), None);
        let mut cut = &file[HEAD + 16 + 3..file.len() - 1];
        assert_eq!(next(&mut cut).expect("reads"), None);
        assert!(head(&mut [1_u8; HEAD].as_slice()).is_err());
    }
}
