//! Files without a name: memfd_create, and the seals on them.
use super::{Arguments, descriptors::on_exec, transfer::flags};
use crate::{
    context::{Context, Result},
    files::{Descriptor, Kind, Place},
};
use shimos_abi::errno::Errno;
use shimos_hal::Machine;
use shimos_vfs::NodeId;

/// What is forbidden to do with a file (fcntl(2), "File Sealing").
pub mod seal {
    /// No more seals.
    pub const SEAL: u32 = 1;
    /// It does not become shorter.
    pub const SHRINK: u32 = 2;
    /// It does not become longer.
    pub const GROW: u32 = 4;
    /// It is not written.
    pub const WRITE: u32 = 8;
    /// It is not written but through mappings that exist.
    pub const FUTURE_WRITE: u32 = 0x10;
}

pub fn memfd_create<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    const CLOEXEC: u64 = 1;
    const ALLOW_SEALING: u64 = 2;
    const NAME: usize = 249;
    let options = u64::from(a[1] as u32);
    if options & !(CLOEXEC | ALLOW_SEALING) != 0 {
        return Err(Errno::EINVAL.into());
    }
    let mut name = b"memfd:".to_vec();
    name.extend_from_slice(&c.read_string(a[0], NAME, Errno::EINVAL)?);
    name.extend_from_slice(b" (deleted)");
    let node = c.change(|tree, _, actor| Ok(tree.create_unnamed(actor, 0o777, None)?))?;
    let seals = if options & ALLOW_SEALING != 0 { 0 } else { seal::SEAL };
    c.resident.program.seals.insert(node, seals);
    let dir = c.resident.program.tree.root();
    let description = c.resident.program.add_description(Kind::File(node), flags::READ_WRITE);
    c.description_by(description)?.place = Some(Place { dir, name });
    c.install(Descriptor { description, on_exec: on_exec(if options & CLOEXEC != 0 { 0x80000 } else { 0 }) })
}

/// The seals of a file; none for one that cannot be sealed.
pub fn seals<M: Machine>(c: &Context<'_, M>, node: NodeId) -> Option<u32> {
    c.resident.program.seals.get(&node).copied()
}

/// EPERM if a file has one of these seals.
pub fn check<M: Machine>(c: &Context<'_, M>, node: NodeId, forbidden: u32) -> Result<()> {
    if seals(c, node).is_some_and(|seals| seals & forbidden != 0) { Err(Errno::EPERM.into()) } else { Ok(()) }
}

/// fcntl(2) with F_GET_SEALS.
pub fn get_seals<M: Machine>(c: &mut Context<'_, M>, fd: u64) -> Result<u64> {
    let node = sealable(c, fd)?;
    Ok(seals(c, node).ok_or(Errno::EINVAL)?.into())
}

/// fcntl(2) with F_ADD_SEALS.
pub fn add_seals<M: Machine>(c: &mut Context<'_, M>, fd: u64, wanted: u64) -> Result<u64> {
    const KNOWN: u32 = 0x1f;
    if c.description(fd)?.flags & flags::ACCESS_MODE == flags::READ_ONLY {
        return Err(Errno::EPERM.into());
    }
    let wanted = wanted as u32;
    if wanted & !KNOWN != 0 {
        return Err(Errno::EINVAL.into());
    }
    let node = sealable(c, fd)?;
    let held = seals(c, node).ok_or(Errno::EINVAL)?;
    if held & seal::SEAL != 0 {
        return Err(Errno::EPERM.into());
    }
    if wanted & seal::WRITE != 0 && held & seal::WRITE == 0 && is_mapped_writable(c, node)? {
        return Err(Errno::EBUSY.into());
    }
    c.resident.program.seals.insert(node, held | wanted);
    Ok(0)
}

fn sealable<M: Machine>(c: &mut Context<'_, M>, fd: u64) -> Result<NodeId> {
    match c.description(fd)?.kind {
        Kind::File(node) => Ok(c.resident.program.tree.canonical(node)),
        _ => Err(Errno::EINVAL.into()),
    }
}

/// Whether somebody has the file mapped so that it can be written.
fn is_mapped_writable<M: Machine>(c: &mut Context<'_, M>, node: NodeId) -> Result<bool> {
    use shimos_memory::{Prot, Sharing, Source};
    let shimos_vfs::Content::Object(written) = crate::content::of(c, node)? else { return Ok(false) };
    let object = crate::content::object(written.object);
    let mut all = c.resident.program.spaces.values().flat_map(|space| space.mappings().iter());
    Ok(all.any(|vma| {
        vma.sharing == Sharing::Shared
            && vma.may.contains(Prot::WRITE)
            && matches!(vma.source, Source::Object { id, .. } if id == object)
    }))
}
