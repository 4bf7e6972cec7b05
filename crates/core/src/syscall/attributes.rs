//! Extended attributes (xattr(7)).
use super::Arguments;
use crate::{
    context::{Context, Result, Stop},
    event::inotify::mask,
    files::Kind,
    names::AT_FDCWD,
};
use alloc::vec::Vec;
use shimos_abi::errno::Errno;
use shimos_hal::Machine;
use shimos_vfs::{Last, NodeId, Replace};

/// The longest name, and the largest value or list of names.
const NAME_MAX: usize = 255;
const SIZE_MAX: u64 = 65536;

/// How a call names its file.
#[derive(Clone, Copy)]
enum By {
    Path,
    Link,
    Descriptor,
}

fn file<M: Machine>(c: &mut Context<'_, M>, by: By, which: u64) -> Result<NodeId> {
    let last = match by {
        By::Path => Last::Follow,
        By::Link => Last::Keep,
        By::Descriptor => {
            return match &c.description(which)?.kind {
                Kind::Path(_) => Err(Errno::EBADF.into()),
                kind => kind.node().ok_or(Stop::Errno(Errno::EOPNOTSUPP)),
            };
        }
    };
    let path = c.read_path(which)?;
    Ok(c.resolve_at(AT_FDCWD, &path, last)?.existing()?)
}

fn name<M: Machine>(c: &mut Context<'_, M>, addr: u64) -> Result<Vec<u8>> {
    let name = c.read_string(addr, NAME_MAX, Errno::ERANGE)?;
    if name.is_empty() { Err(Errno::ERANGE.into()) } else { Ok(name) }
}

/// Gives the caller bytes if there is room for them, or tells how many there are if it has given no room at all.
fn answer<M: Machine>(c: &mut Context<'_, M>, bytes: &[u8], (addr, room): (u64, u64)) -> Result<u64> {
    if room != 0 {
        if bytes.len() as u64 > room {
            return Err(Errno::ERANGE.into());
        }
        c.write_bytes(addr, bytes)?;
    }
    Ok(bytes.len() as u64)
}

fn set<M: Machine>(c: &mut Context<'_, M>, a: Arguments, by: By) -> Result<u64> {
    const CREATE: u32 = 1;
    const REPLACE: u32 = 2;
    let replace = match a[4] as u32 {
        0 => Replace::Any,
        CREATE => Replace::No,
        REPLACE => Replace::Only,
        // Both: what is there must not be, what is not must.
        3 => Replace::No,
        _ => return Err(Errno::EINVAL.into()),
    };
    let key = name(c, a[1])?;
    if a[3] > SIZE_MAX {
        return Err(Errno::E2BIG.into());
    }
    let value = c.read_bytes(a[2], a[3] as usize)?;
    let node = file(c, by, a[0])?;
    c.change(|tree, sources, actor| tree.set_attribute(sources, actor, node, (&key, &value), replace))?;
    c.resident.notice_self(node, mask::ATTRIB);
    Ok(0)
}

fn get<M: Machine>(c: &mut Context<'_, M>, a: Arguments, by: By) -> Result<u64> {
    let key = name(c, a[1])?;
    let node = file(c, by, a[0])?;
    let value = c.change(|tree, sources, actor| tree.attribute(sources, actor, node, &key))?;
    answer(c, &value, (a[2], a[3]))
}

fn list<M: Machine>(c: &mut Context<'_, M>, a: Arguments, by: By) -> Result<u64> {
    let node = file(c, by, a[0])?;
    let names = c.change(|tree, _, actor| match tree.attribute_names(actor, node) {
        // Files that can have none have none.
        Err(Errno::EOPNOTSUPP) => Ok(Vec::new()),
        names => Ok(names?),
    })?;
    answer(c, &names, (a[1], a[2]))
}

fn remove<M: Machine>(c: &mut Context<'_, M>, a: Arguments, by: By) -> Result<u64> {
    let key = name(c, a[1])?;
    let node = file(c, by, a[0])?;
    c.change(|tree, sources, actor| tree.remove_attribute(sources, actor, node, &key))?;
    c.resident.notice_self(node, mask::ATTRIB);
    Ok(0)
}

pub fn setxattr<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    set(c, a, By::Path)
}

pub fn lsetxattr<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    set(c, a, By::Link)
}

pub fn fsetxattr<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    set(c, a, By::Descriptor)
}

pub fn getxattr<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    get(c, a, By::Path)
}

pub fn lgetxattr<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    get(c, a, By::Link)
}

pub fn fgetxattr<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    get(c, a, By::Descriptor)
}

pub fn listxattr<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    list(c, a, By::Path)
}

pub fn llistxattr<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    list(c, a, By::Link)
}

pub fn flistxattr<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    list(c, a, By::Descriptor)
}

pub fn removexattr<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    remove(c, a, By::Path)
}

pub fn lremovexattr<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    remove(c, a, By::Link)
}

pub fn fremovexattr<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    remove(c, a, By::Descriptor)
}
