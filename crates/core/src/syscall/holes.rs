//! MADV_REMOVE: holes in what a shared mapping shows.
use crate::{
    blocks::Files,
    context::{Context, Result, Stop},
};
use alloc::vec::Vec;
use shimos_abi::{
    addr::{PAGE, UserPage},
    errno::Errno,
};
use shimos_hal::Machine;
use shimos_memory::{ObjectId, Prot, Sharing, Source, VmaFlags};

/// Punches holes into the objects behind the shared, writable mappings of `first..end`.
pub fn remove<M: Machine>(c: &mut Context<'_, M>, first: UserPage, end: UserPage) -> Result<()> {
    let id = c.process()?.space;
    let space = c.resident.program.spaces.get(&id).ok_or(Stop::Gone)?;
    let mut holes: Vec<(ObjectId, u64, u64)> = Vec::new();
    for vma in space.mappings().overlapping(first, end) {
        if vma.flags.contains(VmaFlags::LOCKED) {
            return Err(Errno::EINVAL.into());
        }
        let (low, high) = (vma.first.max(first).0, vma.end.min(end).0);
        match vma.source {
            Source::Anonymous => return Err(Errno::EINVAL.into()),
            _ if vma.sharing != Sharing::Shared || !vma.prot.contains(Prot::WRITE) => {
                return Err(Errno::EACCES.into());
            }
            Source::Image { .. } => return Err(Errno::EACCES.into()),
            Source::Object { id, first: index } => {
                let start = index.wrapping_add(low - vma.first.0);
                holes.push((id, start.wrapping_mul(PAGE as u64), (start + (high - low)).wrapping_mul(PAGE as u64)));
            }
        }
    }
    for (object, start, end) in holes {
        let services = &mut *c.services;
        let image = services.image.as_ref().ok_or(Errno::EIO)?;
        let mut files = Files { cache: &mut services.blocks, image };
        let objects = &mut c.resident.program.objects;
        objects.punch(&mut services.machine, &mut services.frames, &mut files, object, start, end)?;
    }
    Ok(())
}
