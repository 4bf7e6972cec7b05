//! Calls that end at the caller and its descriptor: nobody waits for what they do, no signal can come of them, and nothing
//! is left for others to look at. Such a call is answered where the thread came out of user mode.
use super::{
    pieces,
    transfer::{check_readable, check_writable},
};
use crate::{
    files::{Description, DescriptionId, FileTable, FilesId, Kind},
    process::Process,
    table::Table,
    thread::Thread,
};

/// What calls return that only tell who the caller is; `None` for all others.
#[inline]
pub fn told(thread: &Thread, process: &Process) -> Option<u64> {
    Some(u64::from(match thread.regs.rax {
        39 => process.pid.0,
        102 => process.credentials.uid,
        104 => process.credentials.gid,
        107 => process.credentials.euid,
        108 => process.credentials.egid,
        110 => process.parent.0,
        186 => thread.tid.0,
        _ => return None,
    }))
}

/// The answer to a thread's call if it is one of these; `None` for all others, and for all that would fail.
#[inline]
pub fn answer(
    thread: &mut Thread,
    process: &Process,
    tables: &Table<FilesId, FileTable>,
    descriptions: &Table<DescriptionId, Description>,
) -> Option<u64> {
    const READ: u64 = 0;
    const WRITE: u64 = 1;
    match thread.regs.rax {
        READ => {
            let description = opened(thread, process, tables, descriptions)?;
            check_readable(description.flags).ok()?;
            match (&description.kind, thread.regs.rdx) {
                (Kind::Null(_), _) | (Kind::Zero(_), 0) => {}
                _ => return None,
            }
            thread.counters.count_read(0);
            Some(0)
        }
        WRITE => {
            let description = opened(thread, process, tables, descriptions)?;
            check_writable(description.flags).ok()?;
            // Nobody looks at what is thrown away.
            let (Kind::Null(_) | Kind::Zero(_)) = description.kind else { return None };
            let count = thread.regs.rdx.min(pieces::MOST as u64);
            thread.counters.count_written(count);
            Some(count)
        }
        _ => told(thread, process),
    }
}

/// What the first argument is a descriptor of.
#[inline]
fn opened<'a>(
    thread: &Thread,
    process: &Process,
    tables: &Table<FilesId, FileTable>,
    descriptions: &'a Table<DescriptionId, Description>,
) -> Option<&'a Description> {
    let files = thread.files.unwrap_or(process.files);
    let descriptor = tables.get(&files)?.get(thread.regs.rdi).ok()?;
    descriptions.get(&descriptor.description)
}
