//! A page as an image has it, and a bit of its content that was flipped since.
use shimos_abi::addr::{Frame, PAGE};
use shimos_hal::{FrameSource, Machine};
use shimos_memory::Frames;

/// The polynomial of CRC-32, bits in the order in which they are sent.
const POLYNOMIAL: u32 = 0xedb8_8320;
const BITS: u16 = PAGE as u16 * 8;

/// A bit of a frame that is not as it was when the image took it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Flip(u16);

impl Flip {
    /// The only bit of a page whose change turns one checksum into the other, if there is one. All errors of one bit change a
    /// checksum of 32 bits over a page in different ways; of those of many bits, one in 130,000 looks like one of them.
    pub(crate) fn between(saved: u32, found: u32) -> Option<Flip> {
        let wanted = saved ^ found;
        // What a change of the last bit changes. One of a bit before it goes through one more step of the division.
        let mut change = POLYNOMIAL;
        for bit in (0..BITS).rev() {
            if change == wanted {
                return Some(Flip(bit));
            }
            change = change >> 1 ^ if change & 1 == 1 { POLYNOMIAL } else { 0 };
        }
        None
    }

    fn place(self) -> (usize, u8) {
        (usize::from(self.0 / 8), 1 << (self.0 % 8))
    }
}

/// A page of a generation: the frame that it lies in, which belongs to the image.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SavedPage {
    /// The frame.
    pub frame: Frame,
    /// What must be set right in a copy of it.
    pub flip: Option<Flip>,
}

impl SavedPage {
    /// A frame with the page as it was saved, and a reference to it: the image's own, or a copy that is right. `None` if there
    /// is no frame for that.
    pub fn hold<M: Machine>(self, machine: &mut M, frames: &mut Frames) -> Option<Frame> {
        let Some((offset, bit)) = self.flip.map(Flip::place) else {
            frames.share(self.frame);
            return Some(self.frame);
        };
        let right = frames.take()?;
        machine.copy_frame(self.frame, right);
        let mut byte = [0];
        machine.read_frame(right, offset, &mut byte);
        machine.write_frame(right, offset, &byte.map(|byte| byte ^ bit));
        Some(right)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flipped_bit_is_found() {
        let mut page: alloc::vec::Vec<u8> = (0..PAGE).map(|at| (at * 7 % 251) as u8).collect();
        let saved = crc32fast::hash(&page);
        for bit in (0..BITS).step_by(37).chain([BITS - 1]) {
            let (offset, mask) = Flip(bit).place();
            page[offset] ^= mask;
            assert_eq!(Flip::between(saved, crc32fast::hash(&page)), Some(Flip(bit)));
            // One more is no single one.
            page[0] ^= 0x18;
            assert_eq!(Flip::between(saved, crc32fast::hash(&page)), None);
            page[0] ^= 0x18;
            page[offset] ^= mask;
        }
        assert_eq!(Flip::between(saved, saved), None);
    }
}
