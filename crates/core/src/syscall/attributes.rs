//! Extended attributes: the file systems here have none, and say so as Linux's that have none do.
use super::Arguments;
use crate::{
    context::{Context, Result},
    names::AT_FDCWD,
};
use shimos_abi::errno::Errno;
use shimos_hal::Machine;
use shimos_vfs::Last;

fn refuse<M: Machine>(c: &mut Context<'_, M>, path: u64, last: Last) -> Result<u64> {
    let path = c.read_path(path)?;
    c.resolve_at(AT_FDCWD, &path, last)?.existing()?;
    Err(Errno::EOPNOTSUPP.into())
}

/// setxattr, getxattr, listxattr, removexattr.
pub fn of_path<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    refuse(c, a[0], Last::Follow)
}

/// The same with names that begin with an l.
pub fn of_link<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    refuse(c, a[0], Last::Keep)
}

/// The same with names that begin with an f.
pub fn of_descriptor<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    c.descriptor(a[0])?;
    Err(Errno::EOPNOTSUPP.into())
}
