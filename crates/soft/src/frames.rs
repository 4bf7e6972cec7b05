//! Physical memory, one page frame at a time.
use shimos_abi::addr::{Frame, PAGE};

/// The frames of the whole machine. A frame takes memory when it is first written.
#[derive(Debug)]
pub(crate) struct Frames {
    pages: Vec<Option<Box<[u8; PAGE]>>>,
    fill: u8,
}

impl Frames {
    pub fn new(count: usize, fill: u8) -> Frames {
        Frames { pages: (0..count).map(|_| None).collect(), fill }
    }
    /// Copies out; false if the bytes do not lie in one frame of the machine.
    pub fn read(&self, frame: Frame, offset: usize, into: &mut [u8]) -> bool {
        let Some(end) = offset.checked_add(into.len()).filter(|end| *end <= PAGE) else {
            return false;
        };
        match self.pages.get(frame.0 as usize) {
            Some(Some(page)) => into.copy_from_slice(&page[offset..end]),
            Some(None) => into.fill(self.fill),
            None => return false,
        }
        true
    }
    /// Copies in; false if the bytes do not lie in one frame of the machine.
    pub fn write(&mut self, frame: Frame, offset: usize, from: &[u8]) -> bool {
        let Some(end) = offset.checked_add(from.len()).filter(|end| *end <= PAGE) else {
            return false;
        };
        let Some(page) = self.pages.get_mut(frame.0 as usize) else {
            return false;
        };
        let fill = self.fill;
        page.get_or_insert_with(|| Box::new([fill; PAGE]))[offset..end].copy_from_slice(from);
        true
    }
    /// Flips one bit of a frame that has been written; false if it never was.
    pub fn flip(&mut self, frame: Frame, bit: usize) -> bool {
        let Some(Some(page)) = self.pages.get_mut(frame.0 as usize) else { return false };
        page[bit / 8 % PAGE] ^= 1 << (bit % 8);
        true
    }
    /// The whole frame.
    pub fn page(&self, frame: Frame) -> [u8; PAGE] {
        let mut page = [self.fill; PAGE];
        self.read(frame, 0, &mut page);
        page
    }
}
