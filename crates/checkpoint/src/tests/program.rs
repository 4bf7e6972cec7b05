//! A program whose memory is a map, and the checkpoints of it.
use crate::{
    error::ImageError, fake::Fake, layout::PageKey, reader::Image, record::RecordWriter, slots::Slots, writer::Writer,
};
use alloc::{
    collections::{BTreeMap, BTreeSet},
    format,
    vec::Vec,
};
use shimos_abi::{
    addr::{Frame, FrameRange, PAGE},
    ids::{Epoch, Incarnation, KernelId, Life, ProgramId},
};
use shimos_hal::{FrameSource, Machine};
use shimos_memory::{Frames, space::Progress};

pub const POOL: FrameRange = FrameRange { first: Frame(16), count: 900 };
/// Memory of another kernel.
pub const LENT: FrameRange = FrameRange { first: Frame(1000), count: 16 };
pub const TOTAL: usize = 1020;
pub const PROGRAM: ProgramId = ProgramId(3);
pub const LIFE: Life = Life { kernel: KernelId(1), incarnation: Incarnation(1) };

/// What a page of the program holds.
pub type Contents = BTreeMap<(PageKey, u64), u64>;

pub struct Program {
    pub machine: Fake,
    pub frames: Frames,
    pub slots: Slots,
    pub writer: Writer,
    /// The program's own pages.
    pub pages: BTreeMap<(PageKey, u64), Frame>,
    pub changed: BTreeSet<(PageKey, u64)>,
    pub contents: Contents,
    /// What each committed epoch holds.
    pub committed: BTreeMap<u32, Contents>,
    /// How many stores had been tried when an epoch was committed.
    pub commit_stores: BTreeMap<u32, u64>,
}

impl Program {
    pub fn new(stores: u64) -> Program {
        let mut machine = Fake::new(TOTAL, POOL);
        let mut frames = Frames::new(POOL);
        let (slots, _) = Slots::start(&mut machine, &mut frames, LIFE, |_| true);
        let writer = slots.create(&mut machine, PROGRAM, Epoch(0)).unwrap();
        machine.stores_left = stores;
        machine.stores = 0;
        Program {
            machine,
            frames,
            slots,
            writer,
            pages: BTreeMap::new(),
            changed: BTreeSet::new(),
            contents: Contents::new(),
            committed: BTreeMap::new(),
            commit_stores: BTreeMap::new(),
        }
    }

    pub fn write(&mut self, key: u32, page: u64, value: u64) {
        let at = (PageKey(key), page);
        let frame = match self.pages.get(&at).copied() {
            Some(frame) if self.frames.exclusive(frame) => frame,
            old => {
                let new = self.frames.take().expect("the pool is large enough");
                if let Some(old) = old {
                    self.frames.release(old);
                }
                self.pages.insert(at, new);
                new
            }
        };
        self.machine.write_word(frame, 0, value);
        self.machine.write_word(frame, 511, !value);
        self.contents.insert(at, value);
        self.changed.insert(at);
    }

    pub fn remove(&mut self, key: u32, page: u64) {
        let at = (PageKey(key), page);
        if let Some(frame) = self.pages.remove(&at) {
            self.frames.release(frame);
            self.contents.remove(&at);
            self.changed.insert(at);
        }
    }

    /// Ends an address space; its key is not used again.
    pub fn drop_key(&mut self, key: u32) {
        let gone: Vec<_> = self.pages.keys().filter(|at| at.0 == PageKey(key)).copied().collect();
        for at in gone {
            self.frames.release(self.pages.remove(&at).unwrap());
            self.contents.remove(&at);
        }
        self.changed.retain(|at| at.0 != PageKey(key));
        self.writer.drop_key(PageKey(key));
    }

    /// Goes on in another image over this one, as after a takeover: nothing is in the new one yet.
    pub fn go_on_over(&mut self) {
        let mut image = Image::open(&self.machine, POOL, &[], PROGRAM).unwrap();
        image.open_bases(&self.machine).unwrap();
        let writer = self.slots.create(&mut self.machine, PROGRAM, image.newest()).unwrap();
        let before = core::mem::replace(&mut self.writer, writer);
        if let Some(mut left) = before.lend(&mut self.machine) {
            while left.step(&self.machine, &mut self.frames, 7) == Progress::More {}
        }
        self.writer.set_base(image.as_base().unwrap(), image.page_count());
    }

    /// All pages are brought into the newest image.
    pub fn bring_home(&mut self) {
        self.changed.extend(self.pages.keys().copied());
        self.writer.end_base();
    }

    fn fill(&mut self) {
        self.writer.begin(&self.machine).unwrap();
        let pages: Vec<_> = self.changed.iter().map(|at| (at.0, at.1, self.pages.get(at).copied())).collect();
        self.writer.put(&mut self.machine, &mut self.frames, &pages).unwrap();
    }

    pub fn checkpoint(&mut self) {
        self.fill();
        self.changed.clear();
        let records = records_of(self.writer.committed().0 + 1, &self.contents);
        self.writer.records(&mut self.machine, &mut self.frames, &records).unwrap();
        let epoch = self.writer.commit(&mut self.machine, &mut self.frames).unwrap();
        if !self.writer.has_base() {
            assert_eq!(self.writer.pages() as usize, self.contents.len());
        }
        self.commit_stores.insert(epoch.0, self.machine.stores);
        self.committed.insert(epoch.0, self.contents.clone());
    }

    /// A checkpoint that does not commit.
    pub fn abort(&mut self) {
        self.fill();
        self.writer.records(&mut self.machine, &mut self.frames, b"never seen").unwrap();
        self.writer.abort(&mut self.machine, &mut self.frames).unwrap();
    }

    pub fn sweep(&mut self, max: usize) -> Progress {
        self.writer.sweep(&mut self.machine, &mut self.frames, max).unwrap()
    }
}

/// Records that say what the pages should be: several, one of them large.
pub fn records_of(epoch: u32, contents: &Contents) -> Vec<u8> {
    let mut writer = RecordWriter::new();
    writer.add(1, 2, &epoch.to_le_bytes());
    writer.add_with(2, 1, |bytes| bytes.extend_from_slice(format!("{contents:?}").as_bytes()));
    writer.add(3, 1, &[epoch as u8; 2 * PAGE]);
    writer.add(4, 1, &[]);
    writer.into_bytes()
}

/// Everything in an image, by the keys that may be in it.
pub fn read_all(machine: &Fake, image: &Image) -> Result<Contents, ImageError> {
    let mut contents = Contents::new();
    for key in KEYS {
        for page in image.pages(machine, PageKey(key))? {
            let (page, saved) = page?;
            let frame = saved.frame;
            assert!(image.allows(machine, frame), "frame outside the allowed memory");
            assert!(POOL.contains(frame) && frame != POOL.first || LENT.contains(frame));
            let value_in = |machine: &Fake, frame| {
                let value = machine.read_word(frame, 0);
                assert_eq!(machine.read_word(frame, 511), !value, "page {key}:{page} is torn");
                value
            };
            let value = match saved.flip {
                None => value_in(machine, frame),
                Some(_) => {
                    let mut other = machine.clone();
                    let right = saved.hold(&mut other, &mut Frames::new(POOL)).unwrap();
                    value_in(&other, right)
                }
            };
            contents.insert((PageKey(key), page), value);
        }
    }
    Ok(contents)
}

/// Keys in use: some need a taller directory.
pub const KEYS: [u32; 5] = [0, 1, 600, 0x8000_0001, u32::MAX];

/// Checks that the newest generation is `epoch`, whole and right. Pages of keys that were dropped may be there.
pub fn check_image(machine: &Fake, expected: &Contents, epoch: u32) {
    let mut image = Image::open(machine, POOL, &[], PROGRAM).unwrap();
    image.open_bases(machine).unwrap();
    assert_eq!(image.epoch(), Epoch(epoch));
    let mut contents = read_all(machine, &image).unwrap();
    contents.retain(|at, _| expected.keys().any(|there| there.0 == at.0));
    assert_eq!(&contents, expected);
    if !image.has_base() {
        assert_eq!(image.page_count() as usize, expected.len());
    }
    let records: Vec<_> = image.records().map(|record| record.unwrap()).collect();
    let mut again = RecordWriter::new();
    records.iter().for_each(|record| again.add(record.kind, record.version, record.payload));
    assert_eq!(again.bytes(), records_of(epoch, expected));
}
