//! What can be wrong with an image.
use core::fmt;
use shimos_abi::addr::Frame;

/// Why an image cannot be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ImageError {
    /// The reserved memory has no valid head.
    NoHead,
    /// The head is of another version of the format.
    Version(u64),
    /// No slot holds an image of the program.
    NoSlot,
    /// The slot has no committed generation.
    NoGeneration,
    /// The commit word and the descriptor do not fit together.
    Descriptor,
    /// A pointer in the page map is damaged; the frame that holds it.
    Pointer(Frame),
    /// An entry of the page map is damaged; the leaf that holds it.
    Entry(Frame),
    /// A page does not hold what it held when the image took it.
    Page(Frame),
    /// A frame number leads outside the memory that the image may use.
    Outside(Frame),
    /// The page map has more nodes than there are frames: it runs in circles.
    Endless,
    /// The list of record frames is damaged.
    RecordList,
    /// The records do not have the checksum they should have.
    RecordChecksum,
    /// A record's header does not fit its surroundings; the offset.
    RecordHeader(usize),
    /// A record's payload does not have the checksum it should have; the offset.
    RecordPayload(usize),
    /// There is no memory to read it into.
    OutOfMemory,
    /// The generation that it is based on cannot be read.
    Base,
}

impl fmt::Display for ImageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ImageError::NoHead => write!(f, "the reserved memory has no valid head"),
            ImageError::Version(version) => write!(f, "image format version {version} is not known"),
            ImageError::NoSlot => write!(f, "there is no image of the program"),
            ImageError::NoGeneration => write!(f, "the image has no committed generation"),
            ImageError::Descriptor => write!(f, "the newest generation's descriptor is damaged"),
            ImageError::Pointer(frame) => write!(f, "damaged pointer in page-map node {:#x}", frame.0),
            ImageError::Entry(frame) => write!(f, "damaged entry in page-map leaf {:#x}", frame.0),
            ImageError::Page(frame) => write!(f, "a page in frame {:#x} is damaged", frame.0),
            ImageError::Outside(frame) => write!(f, "frame {:#x} is outside the image's memory", frame.0),
            ImageError::Endless => write!(f, "the page map runs in circles"),
            ImageError::RecordList => write!(f, "the list of record frames is damaged"),
            ImageError::RecordChecksum => write!(f, "the records are damaged"),
            ImageError::RecordHeader(at) => write!(f, "damaged record header at byte {at}"),
            ImageError::RecordPayload(at) => write!(f, "damaged record at byte {at}"),
            ImageError::Base => write!(f, "the generation that it is based on cannot be read"),
            ImageError::OutOfMemory => write!(f, "no memory to read the image into"),
        }
    }
}

/// Why an image cannot be written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WriteError {
    /// All slots are in use.
    NoSlot,
    /// There is no free frame.
    OutOfFrames,
    /// No checkpoint has begun, or one has already.
    OutOfTurn,
    /// The records are larger than the format allows.
    TooLarge,
    /// The page number is too large.
    BadPage,
    /// All epochs have been used up.
    NoEpoch,
    /// The image under construction is damaged: a fault in this kernel.
    Damaged(ImageError),
}

impl From<ImageError> for WriteError {
    fn from(error: ImageError) -> WriteError {
        WriteError::Damaged(error)
    }
}
