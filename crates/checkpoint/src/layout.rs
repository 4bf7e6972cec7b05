//! Where everything lies in an image, and the checks that words carry. All numbers count 64-bit words in a frame.
use crate::{error::ImageError, mend};
use shimos_abi::{
    addr::{Frame, FrameRange},
    ids::ProgramId,
};
use shimos_hal::Machine;
use shimos_memory::frames::HEAD_FRAMES;

/// First word of a valid head.
pub const MAGIC: u64 = u64::from_le_bytes(*b"SHIMIMG\x01");
/// Version of the format.
pub const VERSION: u64 = 5;
/// The oldest version that is read.
pub const OLDEST: u64 = 1;
/// Words in a frame.
pub const WORDS: usize = 512;

/// Word of the head: the magic.
pub const HEAD_MAGIC: usize = 0;
/// Word of the head: the version.
pub const HEAD_VERSION: usize = 1;
/// Word of the head: incarnation (high half) and kernel of the life that writes here.
pub const HEAD_LIFE: usize = 2;
/// First of the words of the head that lead to checksums of pages.
pub const HEAD_SUMS: usize = 8;
/// How many there are.
pub const SUM_DIRECTORIES: usize = 8;
/// Slots in the head, as many as its frames hold.
pub const SLOTS: usize = HEAD_FRAMES as usize * WORDS / SLOT_WORDS - 1;
/// The first version with a head of many frames and a complement in its version word.
pub const WIDE: u64 = 4;
/// Slots before [`WIDE`]: those of the first frame.
pub const FEW_SLOTS: usize = WORDS / SLOT_WORDS - 1;
/// Words of a slot; slot `s` starts at word `(s + 1) * SLOT_WORDS` of the head. None lies in two frames.
pub const SLOT_WORDS: usize = 32;
/// Word of a slot: state and program.
pub const SLOT_STATE: usize = 0;
/// Word of a slot: the commit word.
pub const SLOT_COMMIT: usize = 1;
/// Word of a slot: pointer to the directory of the page map.
pub const SLOT_ROOT: usize = 2;
/// First descriptor of a slot; that of epoch `e` is number `e % GENERATIONS`.
pub const SLOT_DESCRIPTORS: usize = 8;
/// Descriptors in a slot: two committed generations and the one being written.
pub const GENERATIONS: u32 = 3;
/// Words of a descriptor.
pub const DESCRIPTOR_WORDS: usize = 8;

/// Entries in a leaf of the page map.
pub const LEAF_ENTRIES: usize = 128;
/// Words of an entry: three versions and their checks.
pub const ENTRY_WORDS: usize = 4;
/// Versions in an entry.
pub const VERSIONS: usize = 3;
/// Page numbers are below this.
pub const MAX_PAGE: u64 = 1 << 36;
/// The frame number that says that there is no page from this epoch on.
pub const ABSENT: u32 = u32::MAX;

/// Word of a frame of the record list: the next one's number, 0 for none.
pub const LIST_NEXT: usize = 0;
/// Word of a frame of the record list: first of the frame numbers, two in a word.
pub const LIST_FRAMES: usize = 1;
/// Frame numbers in one frame of the record list.
pub const LIST_ENTRIES: usize = (WORDS - LIST_FRAMES) * 2;

/// Names one set of pages in an image: an address space or an object. Never used again within one image.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct PageKey(pub u32);

/// What a slot is used for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SlotState {
    /// Nothing.
    Free,
    /// The image of a program that lives in this kernel.
    Active,
    /// The image of a program that went on elsewhere and still uses frames of it.
    Lent,
}

/// Where a slot of a head is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SlotPlace {
    frame: Frame,
    start: usize,
}

impl SlotPlace {
    /// The place of slot number `slot`, below [`SLOTS`].
    pub fn of(head: Frame, slot: usize) -> SlotPlace {
        let word = (slot + 1) * SLOT_WORDS;
        SlotPlace { frame: Frame(head.0.wrapping_add((word / WORDS) as u32)), start: word % WORDS }
    }
    /// The frame and the word in it of a word of the slot.
    pub fn word(self, word: usize) -> (Frame, usize) {
        (self.frame, self.start + word)
    }
    /// Reads a word of the slot.
    pub fn read<M: Machine>(self, machine: &M, word: usize) -> u64 {
        machine.read_word(self.frame, self.start + word)
    }
    /// Writes a word of the slot.
    pub fn write<M: Machine>(self, machine: &mut M, word: usize, value: u64) {
        machine.write_word(self.frame, self.start + word, value);
    }
}

/// How many slots a valid head has.
pub fn slots_in<M: Machine>(machine: &M, head: Frame) -> usize {
    if version_of(machine, head) < WIDE { FEW_SLOTS } else { SLOTS }
}

/// The version word of a head. Since [`WIDE`] the high half is the complement of the low one.
pub const fn encode_version(version: u64) -> u64 {
    version | !version << 32
}

/// The version of a head, since [`WIDE`] also with one bit of the word flipped. Such a word can be that of two versions: of those the
/// later, whose reader reads what the other has written too.
fn version_of<M: Machine>(machine: &M, head: Frame) -> u64 {
    let word = machine.read_word(head, HEAD_VERSION);
    let is_near = |version: &u64| (word ^ encode_version(*version)).count_ones() <= 1;
    (WIDE..=VERSION).rev().find(is_near).unwrap_or(word & u64::from(u32::MAX))
}

/// The state word of a slot; the high half is a check.
pub fn encode_state(state: SlotState, program: ProgramId) -> u64 {
    let low = match state {
        SlotState::Free => 0,
        SlotState::Active => 1 << 16,
        SlotState::Lent => 2 << 16,
    } | u64::from(program.0);
    low | mix(low ^ MAGIC) >> 32 << 32
}

/// What a state word says, also with one bit flipped; anything else that does not check counts as free.
pub fn decode_state(word: u64) -> (SlotState, ProgramId) {
    let program = ProgramId(word as u16);
    let free = (SlotState::Free, program);
    if word == 0 || word == encode_state(SlotState::Free, program) {
        return free;
    }
    let used = |word: u64| {
        let program = ProgramId(word as u16);
        let states = [SlotState::Active, SlotState::Lent];
        states.into_iter().find(|state| word == encode_state(*state, program)).map(|state| (state, program))
    };
    used(word).or_else(|| mend::word(word, |near| used(near).is_some()).and_then(used)).unwrap_or(free)
}

/// Checks the head of some kernel's reserved memory.
pub fn check_head<M: Machine>(machine: &M, pool: FrameRange) -> Result<Frame, ImageError> {
    let head = pool.first;
    // A word that never changes may have one bit flipped.
    if pool.count == 0 || !machine.readable(head) || (machine.read_word(head, HEAD_MAGIC) ^ MAGIC).count_ones() > 1 {
        return Err(ImageError::NoHead);
    }
    let whole = pool.count >= HEAD_FRAMES && machine.readable(Frame(head.0.saturating_add(HEAD_FRAMES - 1)));
    match version_of(machine, head) {
        WIDE..=VERSION if !whole => Err(ImageError::NoHead),
        OLDEST..=VERSION => Ok(head),
        version => Err(ImageError::Version(version)),
    }
}

/// Spreads the bits of a word.
pub const fn mix(word: u64) -> u64 {
    let word = (word ^ (word >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93);
    let word = (word ^ (word >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93);
    word ^ (word >> 32)
}

/// A radix tree of the image: the directory, which leads from keys to page trees, or the page tree of one key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Tree {
    /// Keys to page trees.
    Directory,
    /// Page numbers to versions.
    Pages(PageKey),
}

impl Tree {
    /// Bits of the index that one leaf resolves.
    pub const fn leaf_bits(self) -> u32 {
        match self {
            Tree::Directory => 9,
            Tree::Pages(_) => 7,
        }
    }
    /// The height that the largest index needs.
    pub const fn max_height(self) -> u8 {
        match self {
            Tree::Directory => 3,
            Tree::Pages(_) => 4,
        }
    }
    /// The height that `index` needs.
    pub const fn height_for(self, index: u64) -> u8 {
        let mut height = 0;
        while height < self.max_height() && self.prefix(index, height) > 0 {
            height += 1;
        }
        height
    }
    /// Which node of that height `index` is below.
    pub const fn prefix(self, index: u64, height: u8) -> u64 {
        index >> (self.leaf_bits() + 9 * height as u32)
    }
    /// The place in a node of `height` (above 0) that leads to `index`.
    pub const fn place(self, index: u64, height: u8) -> usize {
        (self.prefix(index, height - 1) % WORDS as u64) as usize
    }
    const fn tag(self, prefix: u64, height: u8) -> u64 {
        let key = match self {
            Tree::Directory => 1 << 32,
            Tree::Pages(key) => key.0 as u64,
        };
        mix(key ^ (height as u64) << 40) ^ prefix.wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }
    /// The word that points to a node; never 0.
    pub const fn pointer(self, node: Node, prefix: u64) -> u64 {
        let low = node.frame.0 as u64 | (node.height as u64) << 32;
        // The lowest check bit is always set, so that no pointer looks like none.
        low | ((mix(low ^ self.tag(prefix, node.height)) >> 40) | 1) << 40
    }
    /// The node that a word points to; `None` for 0.
    pub fn node(self, word: u64, prefix: u64) -> Result<Option<Node>, Damaged> {
        if word == 0 {
            return Ok(None);
        }
        let node = Node { frame: Frame(word as u32), height: (word >> 32) as u8 };
        if node.height > self.max_height() || word != self.pointer(node, prefix) {
            return Err(Damaged);
        }
        Ok(Some(node))
    }
}

/// A word that does not check.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Damaged;

/// A node of a radix tree; height 0 is a leaf.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Node {
    /// Where it lies.
    pub frame: Frame,
    /// How many levels are below it.
    pub height: u8,
}

/// One version of a page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Version {
    /// The first epoch it holds for.
    pub epoch: u32,
    /// The frame, or [`ABSENT`].
    pub frame: u32,
}

impl Version {
    /// As a word. Epochs start at 1, so it is never 0.
    pub const fn word(self) -> u64 {
        (self.epoch as u64) << 32 | self.frame as u64
    }
    /// From a word; `None` for 0.
    pub const fn from_word(word: u64) -> Option<Version> {
        if word == 0 { None } else { Some(Version::from_bits(word)) }
    }
    /// From a word that is not 0.
    pub const fn from_bits(word: u64) -> Version {
        Version { epoch: (word >> 32) as u32, frame: word as u32 }
    }
    /// The frame, if there is a page.
    pub const fn page(self) -> Option<Frame> {
        if self.frame == ABSENT { None } else { Some(Frame(self.frame)) }
    }
    /// The check that goes with the word, for this very page.
    pub const fn check(self, key: PageKey, page: u64) -> u16 {
        (mix(self.word() ^ (key.0 as u64) << 28 ^ page.wrapping_mul(0x9e37_79b9_7f4a_7c15)) >> 48) as u16
    }
}

/// The versions of one page.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Entry {
    /// In no order.
    pub versions: [Option<Version>; VERSIONS],
    /// The word of checks.
    pub checks: u64,
}

impl Entry {
    /// Reads the entry of `page` in its leaf and checks it.
    pub fn read<M: Machine>(machine: &M, leaf: Frame, key: PageKey, page: u64) -> Result<Entry, ImageError> {
        let words = Entry::words(machine, leaf, page);
        let [first, second, third, checks] = words;
        if !Entry::is_right(&words, key, page) {
            return Err(ImageError::Entry(leaf));
        }
        Ok(Entry { versions: [first, second, third].map(Version::from_word), checks })
    }
    /// The same, and with flipped bits set right; whether there were any.
    pub fn read_mended<M: Machine>(
        machine: &M,
        leaf: Frame,
        key: PageKey,
        page: u64,
    ) -> Result<(Entry, bool), ImageError> {
        Entry::mended(&Entry::words(machine, leaf, page), key, page).map_err(|Damaged| ImageError::Entry(leaf))
    }
    /// The same for an entry whose words were read already.
    pub fn mended(found: &[u64; ENTRY_WORDS], key: PageKey, page: u64) -> Result<(Entry, bool), Damaged> {
        let whole = Entry::is_right(found, key, page);
        let words = if whole { Some(*found) } else { mend::entry(found, key, page) };
        let [first, second, third, checks] = words.ok_or(Damaged)?;
        Ok((Entry { versions: [first, second, third].map(Version::from_word), checks }, !whole))
    }
    /// The words of the entry of `page` in its leaf.
    #[inline]
    pub fn words<M: Machine>(machine: &M, leaf: Frame, page: u64) -> [u64; ENTRY_WORDS] {
        machine.read_words(leaf, (page % LEAF_ENTRIES as u64) as usize * ENTRY_WORDS)
    }
    /// Whether the versions of an entry have the checks that they should have.
    #[inline]
    pub fn is_right(words: &[u64; ENTRY_WORDS], key: PageKey, page: u64) -> bool {
        let [first, second, third, checks] = *words;
        let right = |word: u64, place: u32| {
            word == 0 || Version::from_bits(word).check(key, page) == (checks >> (16 * place)) as u16
        };
        right(first, 0) && right(second, 1) && right(third, 2)
    }
    /// The newest version that holds for `epoch`.
    pub fn at(&self, epoch: u32) -> Option<Version> {
        self.versions
            .iter()
            .flatten()
            .filter(|version| version.epoch <= epoch)
            .max_by_key(|version| version.epoch)
            .copied()
    }
    /// Whether there is no version at all.
    pub fn is_empty(&self) -> bool {
        self.versions.iter().all(Option::is_none)
    }
}

/// What a generation consists of, besides the page map.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Descriptor {
    /// Its epoch.
    pub epoch: u32,
    /// Bytes of records.
    pub record_bytes: u32,
    /// First frame of the list of record frames; 0 for none.
    pub record_list: u32,
    /// Checksum of the records.
    pub record_crc: u32,
    /// Pages of the generation.
    pub pages: u32,
    /// What the checksum is over.
    pub sum: Sum,
    /// The generation of another image that pages are in which this one says nothing of.
    pub base: Option<Base>,
}

/// A generation of an image in some reserved memory, by its place. What is lent does not move.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Base {
    /// The head of that memory.
    pub head: Frame,
    /// The slot.
    pub slot: u16,
    /// The epoch.
    pub epoch: u32,
}

impl Base {
    fn words(self) -> [u64; 2] {
        [u64::from(self.head.0) | u64::from(self.epoch) << 32, u64::from(self.slot)]
    }
    /// From the words; an epoch of 0 is no base.
    fn from_words(words: [u64; 2]) -> Option<Base> {
        let [place, slot] = words;
        let base = Base { head: Frame(place as u32), slot: slot as u16, epoch: (place >> 32) as u32 };
        Some(base).filter(|base| base.epoch != 0)
    }
}

/// What the checksum of a generation's records is over.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Sum {
    /// All bytes: version 1 of the format.
    Bytes,
    /// The headers of the records, each of which has a checksum of its payload.
    #[default]
    Headers,
}

impl Sum {
    const fn word(self) -> u32 {
        match self {
            Sum::Bytes => 0,
            Sum::Headers => 1,
        }
    }
    const fn from_word(word: u32) -> Option<Sum> {
        match word {
            0 => Some(Sum::Bytes),
            1 => Some(Sum::Headers),
            _ => None,
        }
    }
}

impl Descriptor {
    /// The words, the check last.
    pub fn words(&self, program: ProgramId) -> [u64; DESCRIPTOR_WORDS] {
        let pair = |low: u32, high: u32| u64::from(low) | u64::from(high) << 32;
        let mut words = [0; DESCRIPTOR_WORDS];
        words[0] = pair(self.epoch, self.record_bytes);
        words[1] = pair(self.record_list, self.record_crc);
        words[2] = pair(self.pages, self.sum.word());
        [words[3], words[4]] = self.base.map_or([0; 2], Base::words);
        words[DESCRIPTOR_WORDS - 1] = u64::from(Self::check(&words, program));
        words
    }
    /// From the words, if they check.
    pub fn from_words(words: &[u64; DESCRIPTOR_WORDS], program: ProgramId) -> Option<Descriptor> {
        if words[0] as u32 == 0 || words[DESCRIPTOR_WORDS - 1] != u64::from(Self::check(words, program)) {
            return None;
        }
        Some(Descriptor {
            epoch: words[0] as u32,
            record_bytes: (words[0] >> 32) as u32,
            record_list: words[1] as u32,
            record_crc: (words[1] >> 32) as u32,
            pages: words[2] as u32,
            sum: Sum::from_word((words[2] >> 32) as u32)?,
            base: Base::from_words([words[3], words[4]]),
        })
    }
    /// The commit word of a generation with these words.
    pub fn commit_word(&self, words: &[u64; DESCRIPTOR_WORDS]) -> u64 {
        u64::from(self.epoch) << 32 | words[DESCRIPTOR_WORDS - 1]
    }
    fn check(words: &[u64; DESCRIPTOR_WORDS], program: ProgramId) -> u32 {
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&program.0.to_le_bytes());
        for word in words.iter().take(DESCRIPTOR_WORDS - 1) {
            hasher.update(&word.to_le_bytes());
        }
        hasher.finalize()
    }
    /// The word of a slot where the descriptor of `epoch` starts.
    pub const fn start(epoch: u32) -> usize {
        SLOT_DESCRIPTORS + (epoch % GENERATIONS) as usize * DESCRIPTOR_WORDS
    }
    /// Reads descriptor number `number` of a slot.
    pub fn read<M: Machine>(
        machine: &M,
        slot: SlotPlace,
        number: u32,
        program: ProgramId,
    ) -> Option<(Descriptor, u64)> {
        let start = Self::start(number);
        let mut words = [0; DESCRIPTOR_WORDS];
        for (at, word) in words.iter_mut().enumerate() {
            *word = slot.read(machine, start + at);
        }
        // A descriptor in another's place is not valid.
        let descriptor =
            Self::from_words(&words, program).filter(|found| found.epoch % GENERATIONS == number % GENERATIONS)?;
        Some((descriptor, descriptor.commit_word(&words)))
    }
}
