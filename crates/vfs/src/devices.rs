//! What `/dev` holds at the start of a program.
use crate::{
    access::{Actor, Credentials},
    change::Special,
    fault::{Fault, Sources},
    node::{DeviceClass, Kind, NodeId, Rdev},
    tree::Tree,
};
use shimos_abi::errno::Errno;

/// Character devices: name, mode, major, minor.
const DEVICES: [(&[u8], u16, u32, u32); 9] = [
    (b"null", 0o666, 1, 3),
    (b"zero", 0o666, 1, 5),
    (b"full", 0o666, 1, 7),
    (b"random", 0o666, 1, 8),
    (b"urandom", 0o666, 1, 9),
    (b"tty", 0o666, 5, 0),
    (b"console", 0o600, 5, 1),
    (b"ptmx", 0o666, 5, 2),
    (b"shimos", 0o600, 10, 220),
];

/// Symbolic links: name, target.
const LINKS: [(&[u8], &[u8]); 4] = [
    (b"fd", b"/proc/self/fd"),
    (b"stdin", b"/proc/self/fd/0"),
    (b"stdout", b"/proc/self/fd/1"),
    (b"stderr", b"/proc/self/fd/2"),
];

/// Mode of a directory in which everybody may make files, and remove their own.
const EVERYBODYS: u16 = 0o1777;

impl Tree {
    /// Makes `/dev` and what programs expect in it. What the image has there under these names is replaced, if it is of
    /// another kind. Returns the directory.
    pub fn populate_dev(&mut self, sources: &mut Sources<'_>, now: i64) -> Result<NodeId, Fault> {
        let actor = Actor { credentials: &Credentials::ROOT, now };
        let dev = self.ensure_directory(sources, now, self.root(), b"dev", 0o755)?;
        for (name, mode, major, minor) in DEVICES {
            if self.make_room(sources, &actor, dev, name, Kind::CharDevice)? == Room::Free {
                let device = Special::Device { class: DeviceClass::Char, rdev: Rdev { major, minor } };
                self.mknod(sources, &actor, dev, name, mode, device)?;
            }
        }
        for (name, target) in LINKS {
            if self.make_room(sources, &actor, dev, name, Kind::Symlink)? == Room::Free {
                self.symlink(sources, &actor, dev, name, target)?;
            }
        }
        // Images bring a directory for everybody's shared memory that only its owner may write: Linux mounts another there.
        let shared = self.ensure_directory(sources, now, dev, b"shm", EVERYBODYS)?;
        if self.metadata(sources, shared)?.mode != EVERYBODYS {
            self.set_mode(sources, &actor, shared, EVERYBODYS)?;
        }
        self.ensure_directory(sources, now, dev, b"pts", 0o755)?;
        Ok(dev)
    }

    /// The directory `name` in `dir`, made with `mode` if there is nothing of that name; ENOTDIR if it is something else.
    pub fn ensure_directory(
        &mut self,
        sources: &mut Sources<'_>,
        now: i64,
        dir: NodeId,
        name: &[u8],
        mode: u16,
    ) -> Result<NodeId, Fault> {
        match self.lookup(sources, dir, name) {
            Ok(node) => {
                self.directory_metadata(sources, node)?;
                Ok(node)
            }
            Err(Fault::Errno(Errno::ENOENT)) => {
                let actor = Actor { credentials: &Credentials::ROOT, now };
                self.mkdir(sources, &actor, dir, name, mode)
            }
            Err(fault) => Err(fault),
        }
    }

    /// Removes what has the name but is not of the kind that is wanted.
    fn make_room(
        &mut self,
        sources: &mut Sources<'_>,
        actor: &Actor<'_>,
        dir: NodeId,
        name: &[u8],
        kind: Kind,
    ) -> Result<Room, Fault> {
        let node = match self.lookup(sources, dir, name) {
            Ok(node) => node,
            Err(Fault::Errno(Errno::ENOENT)) => return Ok(Room::Free),
            Err(fault) => return Err(fault),
        };
        match self.metadata(sources, node)?.kind {
            found if found == kind => Ok(Room::Taken),
            // Somebody meant that; it may have files in it.
            Kind::Directory => Ok(Room::Taken),
            _ => {
                self.unlink(sources, actor, dir, name)?;
                Ok(Room::Free)
            }
        }
    }
}

#[derive(PartialEq, Eq)]
enum Room {
    Free,
    Taken,
}
