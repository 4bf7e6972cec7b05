//! /dev/pts: the names of slaves. They come and go with their pairs.
use crate::{
    context::{Context, Result as CallResult},
    proc::Proc,
    tty::{Master, Pair, PairId},
};
use alloc::{collections::BTreeMap, format, vec::Vec};
use shimos_abi::errno::Errno;
use shimos_hal::Machine;
use shimos_vfs::{DirEntry, Fault, Kind, Link, Metadata, Mount, NodeId, Rdev, Synthetic};

/// The tree to mount at /dev/pts.
pub const PTS_MOUNT: Mount = Mount { number: 2, root: ROOT };

const ROOT: u64 = 0;
const PTMX: u64 = 1;
/// The slave of pair 0; the others follow.
const FIRST: u64 = 2;
/// The major number of slaves.
pub const SLAVE_MAJOR: u32 = 136;
/// What makes the inode numbers differ from those of other trees.
const INODES: u64 = 1 << 61;

/// The files of /dev/pts.
pub struct Pts<'a> {
    /// The pairs.
    pub pairs: &'a BTreeMap<PairId, Pair>,
}

/// The node of a slave.
pub fn node_of(pair: PairId) -> NodeId {
    NodeId::Synthetic { mount: PTS_MOUNT.number, node: FIRST + u64::from(pair.0) }
}

/// The pair whose slave a node names.
pub fn pair_of(node: NodeId) -> Option<PairId> {
    match node {
        NodeId::Synthetic { mount, node } if mount == PTS_MOUNT.number => {
            node.checked_sub(FIRST).and_then(|number| u32::try_from(number).ok()).map(PairId)
        }
        _ => None,
    }
}

impl Pts<'_> {
    /// The pair of a name; there is none when its master is closed.
    fn pair(&self, id: PairId) -> Result<&Pair, Errno> {
        self.pairs.get(&id).filter(|pair| pair.master == Master::Open).ok_or(Errno::ENOENT)
    }

    /// A pair whose slave may still be open, though it has lost its name.
    fn known(&self, node: u64) -> Result<(PairId, &Pair), Errno> {
        let number = node.checked_sub(FIRST).and_then(|number| u32::try_from(number).ok()).ok_or(Errno::ENOENT)?;
        Ok((PairId(number), self.pairs.get(&PairId(number)).ok_or(Errno::ENOENT)?))
    }

    fn lookup(&self, dir: u64, name: &[u8]) -> Result<u64, Errno> {
        if dir != ROOT {
            return Err(Errno::ENOTDIR);
        }
        if name == b"ptmx" {
            return Ok(PTMX);
        }
        let number: u32 = core::str::from_utf8(name).ok().and_then(|name| name.parse().ok()).ok_or(Errno::ENOENT)?;
        if format!("{number}").as_bytes() != name {
            return Err(Errno::ENOENT);
        }
        self.pair(PairId(number))?;
        Ok(FIRST + u64::from(number))
    }

    fn metadata(&self, node: u64) -> Result<Metadata, Errno> {
        let base = Metadata {
            kind: Kind::Directory,
            mode: 0o755,
            uid: 0,
            gid: 0,
            nlink: 2,
            ino: INODES + node + 1,
            rdev: Rdev::default(),
            size: 0,
            atime: 0,
            mtime: 0,
            ctime: 0,
        };
        Ok(match node {
            ROOT => base,
            PTMX => Metadata { kind: Kind::CharDevice, mode: 0, nlink: 1, rdev: Rdev { major: 5, minor: 2 }, ..base },
            _ => {
                let (id, pair) = self.known(node)?;
                Metadata {
                    kind: Kind::CharDevice,
                    mode: pair.mode,
                    uid: pair.uid,
                    gid: pair.gid,
                    nlink: 1,
                    rdev: Rdev { major: SLAVE_MAJOR, minor: id.0 },
                    atime: pair.made,
                    mtime: pair.made,
                    ctime: pair.made,
                    ..base
                }
            }
        })
    }

    fn read_dir(&self, dir: u64, cursor: u64, limit: usize) -> Result<Vec<DirEntry>, Errno> {
        if dir != ROOT {
            return Err(Errno::ENOTDIR);
        }
        let fixed =
            [(&b"."[..], ROOT, Kind::Directory), (b"..", ROOT, Kind::Directory), (b"ptmx", PTMX, Kind::CharDevice)];
        let fixed = (1..).zip(fixed).map(|(next, (name, node, kind))| (next, name.to_vec(), node, kind));
        let open = self.pairs.iter().filter(|(_, pair)| pair.master == Master::Open);
        let slaves = open.map(|(id, _)| {
            let number = u64::from(id.0);
            (number + 4, format!("{number}").into_bytes(), FIRST + number, Kind::CharDevice)
        });
        let wanted = fixed.chain(slaves).filter(|(next, ..)| *next > cursor).take(limit);
        Ok(wanted.map(|(next, name, node, kind)| DirEntry { name, ino: INODES + node + 1, kind, next }).collect())
    }

    fn path(&self, node: u64) -> Result<Vec<u8>, Errno> {
        Ok(match node {
            ROOT => Vec::new(),
            PTMX => b"ptmx".to_vec(),
            _ => format!("{}", node - FIRST).into_bytes(),
        })
    }
}

/// All synthetic trees of a program.
pub struct Trees<'a> {
    /// /proc and /sys.
    pub proc: Proc<'a>,
    /// /dev/pts.
    pub pts: Pts<'a>,
}

impl Synthetic for Trees<'_> {
    fn lookup(&self, mount: u8, dir: u64, name: &[u8]) -> Result<u64, Fault> {
        if mount == PTS_MOUNT.number { Ok(self.pts.lookup(dir, name)?) } else { self.proc.lookup(mount, dir, name) }
    }
    fn parent(&self, mount: u8, dir: u64) -> Result<u64, Fault> {
        if mount == PTS_MOUNT.number { Ok(ROOT) } else { self.proc.parent(mount, dir) }
    }
    fn metadata(&self, mount: u8, node: u64) -> Result<Metadata, Fault> {
        if mount == PTS_MOUNT.number { Ok(self.pts.metadata(node)?) } else { self.proc.metadata(mount, node) }
    }
    fn readlink(&self, mount: u8, node: u64) -> Result<Vec<u8>, Fault> {
        if mount == PTS_MOUNT.number { Err(Errno::EINVAL.into()) } else { self.proc.readlink(mount, node) }
    }
    fn follow(&self, mount: u8, node: u64) -> Result<Link, Fault> {
        if mount == PTS_MOUNT.number { Err(Errno::EINVAL.into()) } else { self.proc.follow(mount, node) }
    }
    fn read_dir(&self, mount: u8, dir: u64, cursor: u64, limit: usize) -> Result<Vec<DirEntry>, Fault> {
        if mount == PTS_MOUNT.number {
            Ok(self.pts.read_dir(dir, cursor, limit)?)
        } else {
            self.proc.read_dir(mount, dir, cursor, limit)
        }
    }
    fn path(&self, mount: u8, node: u64) -> Result<Vec<u8>, Fault> {
        if mount == PTS_MOUNT.number { Ok(self.pts.path(node)?) } else { self.proc.path(mount, node) }
    }
}

/// What chmod(2) and chown(2) change of a slave's name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Change {
    /// The permission bits.
    Mode(u16),
    /// The owner and the group; what is `None` stays.
    Owner(Option<u32>, Option<u32>),
    /// The time stamps.
    Touched(i64),
}

/// Changes a slave's name. `None` if the node is none.
pub fn change<M: Machine>(c: &mut Context<'_, M>, node: NodeId, change: Change) -> CallResult<Option<()>> {
    let Some(id) = pair_of(node) else { return Ok(None) };
    let who = c.access()?;
    let pair = c.resident.program.pairs.get_mut(&id).ok_or(Errno::ENOENT)?;
    let owns = who.is_root() || who.uid == pair.uid;
    match change {
        Change::Mode(mode) if owns => pair.mode = mode & 0o7777,
        Change::Touched(now) if owns => pair.made = now,
        Change::Owner(uid, gid) => {
            let same = uid.is_none_or(|uid| uid == pair.uid);
            let may = owns && same && gid.is_none_or(|gid| gid == pair.gid || who.in_group(gid));
            if !who.is_root() && !may {
                return Err(Errno::EPERM.into());
            }
            pair.uid = uid.unwrap_or(pair.uid);
            pair.gid = gid.unwrap_or(pair.gid);
        }
        _ => return Err(Errno::EPERM.into()),
    }
    Ok(Some(()))
}
