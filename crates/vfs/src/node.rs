//! What there is in a tree: ids, metadata, and the nodes of the writable layer.
use alloc::{borrow::ToOwned, collections::BTreeMap, vec::Vec};
use core::borrow::Borrow;
use minicbor::{Decode, Encode};

/// Names one file, of whatever kind.
///
/// A file of the image that is changed moves to the writable layer. Its old id stays good: every call goes through
/// [`crate::Tree::canonical`]. Compare ids only in canonical form.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Encode, Decode)]
pub enum NodeId {
    /// A file of the root image, by its number there.
    #[n(0)]
    Lower(#[n(0)] u64),
    /// A file of the writable layer. Numbers are never used again.
    #[n(1)]
    Upper(#[n(0)] u64),
    /// A file of a synthetic tree.
    #[n(2)]
    Synthetic {
        /// Which tree.
        #[n(0)]
        mount: u8,
        /// Which file there; the meaning is the tree's own.
        #[n(1)]
        node: u64,
    },
}

/// Names the content of one written file: the pages that the kernel keeps for it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Encode, Decode)]
#[cbor(transparent)]
pub struct ObjectId(#[n(0)] pub u64);

/// Kinds of files.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Encode, Decode)]
#[cbor(index_only)]
pub enum Kind {
    /// Regular file.
    #[n(0)]
    Regular,
    /// Directory.
    #[n(1)]
    Directory,
    /// Symbolic link.
    #[n(2)]
    Symlink,
    /// Character device.
    #[n(3)]
    CharDevice,
    /// Block device.
    #[n(4)]
    BlockDevice,
    /// Named pipe.
    #[n(5)]
    Fifo,
    /// Socket.
    #[n(6)]
    Socket,
}

impl Kind {
    /// The file type bits of `st_mode`.
    pub const fn mode_bits(self) -> u32 {
        match self {
            Kind::Regular => 0o100_000,
            Kind::Directory => 0o040_000,
            Kind::Symlink => 0o120_000,
            Kind::CharDevice => 0o020_000,
            Kind::BlockDevice => 0o060_000,
            Kind::Fifo => 0o010_000,
            Kind::Socket => 0o140_000,
        }
    }
    /// The kind that the file type bits of `st_mode` say.
    pub const fn from_mode(mode: u32) -> Option<Kind> {
        Some(match mode & 0o170_000 {
            0o100_000 => Kind::Regular,
            0o040_000 => Kind::Directory,
            0o120_000 => Kind::Symlink,
            0o020_000 => Kind::CharDevice,
            0o060_000 => Kind::BlockDevice,
            0o010_000 => Kind::Fifo,
            0o140_000 => Kind::Socket,
            _ => return None,
        })
    }
    /// `d_type` of getdents64(2).
    pub const fn dirent_type(self) -> u8 {
        (self.mode_bits() >> 12) as u8
    }
}

/// Number of a device file.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Encode, Decode)]
pub struct Rdev {
    /// Major number.
    #[n(0)]
    pub major: u32,
    /// Minor number.
    #[n(1)]
    pub minor: u32,
}

impl Rdev {
    /// `st_rdev` of stat(2).
    pub const fn encoded(self) -> u64 {
        let (major, minor) = (self.major as u64, self.minor as u64);
        (minor & 0xff) | ((major & 0xfff) << 8) | ((minor & !0xff) << 12) | ((major & !0xfff) << 32)
    }
    /// From the number that mknod(2) takes.
    pub const fn decoded(dev: u64) -> Rdev {
        let major = ((dev >> 8) & 0xfff) | ((dev >> 32) & 0xffff_f000);
        let minor = (dev & 0xff) | ((dev >> 12) & 0xffff_ff00);
        Rdev { major: major as u32, minor: minor as u32 }
    }
}

/// The two classes of devices.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode)]
#[cbor(index_only)]
pub enum DeviceClass {
    /// Character.
    #[n(0)]
    Char,
    /// Block.
    #[n(1)]
    Block,
}

/// What stat(2) tells. Times are nanoseconds since 1970.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Metadata {
    /// Kind of file.
    pub kind: Kind,
    /// Permission bits, with set-id and sticky bits.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Names that the file has.
    pub nlink: u32,
    /// Inode number: unique in the program's tree (synthetic trees apart), and the same for all the life of the file.
    pub ino: u64,
    /// Number, for devices.
    pub rdev: Rdev,
    /// Size in bytes.
    pub size: u64,
    /// Time of the last access.
    pub atime: i64,
    /// Time of the last change of content.
    pub mtime: i64,
    /// Time of the last change of anything.
    pub ctime: i64,
}

impl Metadata {
    /// `st_mode` of stat(2).
    pub const fn st_mode(&self) -> u32 {
        self.kind.mode_bits() | self.mode as u32
    }
}

/// One entry of a directory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DirEntry {
    /// Its name.
    pub name: Vec<u8>,
    /// Inode number.
    pub ino: u64,
    /// Kind of file.
    pub kind: Kind,
    /// Cursor that continues behind this entry (`d_off`).
    pub next: u64,
}

/// Where pages come from that a written file's object does not have.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Backing {
    /// File of the root image.
    #[n(0)]
    pub nid: u64,
    /// Only so many bytes of it count; what follows is zeros, also inside a page.
    #[n(1)]
    pub len: u64,
}

/// Where the content of a regular file is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Content {
    /// All in the image ([`crate::Image::data`]).
    Image {
        /// File of the root image.
        nid: u64,
        /// Size in bytes.
        size: u64,
    },
    /// In an object.
    Object(Written),
}

/// Where the content of a file of the writable layer is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Written {
    /// The pages that were written.
    pub object: ObjectId,
    /// Size in bytes.
    pub size: u64,
    /// Where pages come from that the object lacks; without it they are zeros.
    pub backing: Option<Backing>,
}

/// A name in a directory of the writable layer.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Encode, Decode)]
#[cbor(transparent)]
pub(crate) struct Name(
    #[n(0)]
    #[cbor(with = "minicbor::bytes")]
    pub Vec<u8>,
);

impl Borrow<[u8]> for Name {
    fn borrow(&self) -> &[u8] {
        &self.0
    }
}

impl From<&[u8]> for Name {
    fn from(bytes: &[u8]) -> Name {
        Name(bytes.to_owned())
    }
}

/// What the writable layer says of one name.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub(crate) struct Entry {
    /// The node; none says that the image's file of this name is removed.
    #[n(0)]
    pub node: Option<u64>,
    /// Place in listings if it shadows nothing: larger for later ones.
    #[n(1)]
    pub seq: u64,
    /// Whether the image's directory has the name too. Such an entry is listed in the place of the image's one.
    #[n(2)]
    pub shadows: bool,
}

/// A directory of the writable layer.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub(crate) struct Directory {
    /// Directory of the image whose entries show through.
    #[n(0)]
    pub lower: Option<u64>,
    /// The directory above.
    #[n(1)]
    pub parent: NodeId,
    /// The names.
    #[n(2)]
    pub entries: BTreeMap<Name, Entry>,
}

/// What is special to each kind of file.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub(crate) enum Body {
    #[n(0)]
    Directory(#[n(0)] Directory),
    #[n(1)]
    File {
        #[n(0)]
        object: ObjectId,
        #[n(1)]
        size: u64,
        #[n(2)]
        backing: Option<Backing>,
    },
    #[n(2)]
    Symlink {
        #[n(0)]
        #[cbor(with = "minicbor::bytes")]
        target: Vec<u8>,
    },
    #[n(3)]
    Device {
        #[n(0)]
        class: DeviceClass,
        #[n(1)]
        rdev: Rdev,
    },
    #[n(4)]
    Fifo,
    #[n(5)]
    Socket,
}

impl Body {
    pub fn kind(&self) -> Kind {
        match self {
            Body::Directory(_) => Kind::Directory,
            Body::File { .. } => Kind::Regular,
            Body::Symlink { .. } => Kind::Symlink,
            Body::Device { class: DeviceClass::Char, .. } => Kind::CharDevice,
            Body::Device { class: DeviceClass::Block, .. } => Kind::BlockDevice,
            Body::Fifo => Kind::Fifo,
            Body::Socket => Kind::Socket,
        }
    }
}

/// A file of the writable layer.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub(crate) struct Node {
    #[n(0)]
    pub body: Body,
    #[n(1)]
    pub mode: u16,
    #[n(2)]
    pub uid: u32,
    #[n(3)]
    pub gid: u32,
    #[n(4)]
    pub nlink: u32,
    #[n(5)]
    pub ino: u64,
    #[n(6)]
    pub atime: i64,
    #[n(7)]
    pub mtime: i64,
    #[n(8)]
    pub ctime: i64,
    /// The file of the image that this one has taken the place of.
    #[n(9)]
    pub copied_from: Option<u64>,
    /// It has no name yet and may get one (O_TMPFILE).
    #[n(10)]
    pub nameless: Option<Nameless>,
    /// Its extended attributes.
    #[n(11)]
    #[cbor(default)]
    pub attributes: Vec<Attribute>,
}

/// An extended attribute (xattr(7)).
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub(crate) struct Attribute {
    /// Its whole name.
    #[n(0)]
    #[cbor(with = "minicbor::bytes")]
    pub name: Vec<u8>,
    /// What it says.
    #[n(1)]
    #[cbor(with = "minicbor::bytes")]
    pub value: Vec<u8>,
}

/// A mark of files that were made without a name.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Nameless;

impl Node {
    pub fn metadata(&self) -> Metadata {
        let size = match &self.body {
            Body::Directory(_) => 4096,
            Body::File { size, .. } => *size,
            Body::Symlink { target } => target.len() as u64,
            Body::Device { .. } | Body::Fifo | Body::Socket => 0,
        };
        let rdev = if let Body::Device { rdev, .. } = self.body { rdev } else { Rdev::default() };
        Metadata {
            kind: self.body.kind(),
            mode: self.mode,
            uid: self.uid,
            gid: self.gid,
            nlink: self.nlink,
            ino: self.ino,
            rdev,
            size,
            atime: self.atime,
            mtime: self.mtime,
            ctime: self.ctime,
        }
    }
}
