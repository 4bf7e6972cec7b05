//! What was found in root images, so that it need not be searched there again. Images never change, so it stays true; it
//! is derived and part of no program.
use crate::erofs::Inode;
use alloc::{boxed::Box, vec::Vec};

/// Files that are remembered.
const INODES: usize = 1024;
/// Names that are remembered.
const NAMES: usize = 2048;

/// A name in a directory of an image.
struct Name {
    image: u64,
    dir: u64,
    name: Box<[u8]>,
    /// The file; none if there is no such name.
    nid: Option<u64>,
}

/// Files and names of images, each in the one place where it may be: what is asked for later takes the place.
#[derive(Default)]
pub struct Remembered {
    inodes: Vec<Option<(u64, Inode)>>,
    names: Vec<Option<Name>>,
}

/// Mixes a word into a hash (FNV's prime).
fn mix(hash: u64, word: u64) -> u64 {
    (hash ^ word).wrapping_mul(0x0100_0000_01b3)
}

fn place_of_inode(image: u64, nid: u64) -> usize {
    (mix(mix(0xcbf2_9ce4_8422_2325, nid), image) >> 24) as usize % INODES
}

fn place_of_name(image: u64, dir: u64, name: &[u8]) -> usize {
    let mut hash = mix(mix(0xcbf2_9ce4_8422_2325, dir), image);
    let mut words = name.chunks_exact(8);
    for word in &mut words {
        hash = mix(hash, u64::from_le_bytes(word.try_into().unwrap_or_default()));
        hash ^= hash >> 29;
    }
    for byte in words.remainder() {
        hash = mix(hash, u64::from(*byte));
    }
    ((hash ^ (hash >> 32)) >> 8) as usize % NAMES
}

impl Remembered {
    /// A file of the image that starts at block `image` of the disk.
    pub(crate) fn inode(&self, image: u64, nid: u64) -> Option<&Inode> {
        match self.inodes.get(place_of_inode(image, nid))? {
            Some((of, inode)) if *of == image && inode.nid == nid => Some(inode),
            _ => None,
        }
    }
    /// Remembers a file.
    pub(crate) fn note_inode(&mut self, image: u64, inode: &Inode) {
        if self.inodes.is_empty() {
            self.inodes.resize_with(INODES, || None);
        }
        if let Some(place) = self.inodes.get_mut(place_of_inode(image, inode.nid)) {
            *place = Some((image, *inode));
        }
    }
    /// What a name in a directory stands for: outer `None` if that is not known.
    pub(crate) fn name(&self, image: u64, dir: u64, name: &[u8]) -> Option<Option<u64>> {
        match self.names.get(place_of_name(image, dir, name))? {
            Some(known) if known.image == image && known.dir == dir && *known.name == *name => Some(known.nid),
            _ => None,
        }
    }
    /// Remembers a name, or that there is none.
    pub(crate) fn note_name(&mut self, image: u64, dir: u64, name: &[u8], nid: Option<u64>) {
        if self.names.is_empty() {
            self.names.resize_with(NAMES, || None);
        }
        if let Some(place) = self.names.get_mut(place_of_name(image, dir, name)) {
            *place = Some(Name { image, dir, name: name.into(), nid });
        }
    }
    /// Forgets everything: the disk holds other images now.
    pub fn forget(&mut self) {
        self.inodes.clear();
        self.names.clear();
    }
}
