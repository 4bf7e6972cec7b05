//! What of a program does not survive a takeover: which process, which descriptor, why.
use crate::{
    files::{Descriptor, FileTable, FilesId, Kind},
    process::Process,
    program::Program,
    resident::Resident,
};
use alloc::{collections::BTreeSet, format, string::String, vec::Vec};
use shimos_hal::Machine;

/// How many are told at most: a status has room for so many.
const MOST: usize = 8;

/// What of a program cannot be protected now. The request `serving`, which is being answered, is none of it.
pub fn exceptions<M: Machine>(resident: &Resident<M>, serving: Option<u64>) -> Vec<String> {
    of_program(&resident.program, serving)
}

fn of_program(program: &Program, serving: Option<u64>) -> Vec<String> {
    let mut found = Vec::new();
    for process in program.processes.values().filter(|process| process.zombie.is_none()) {
        for files in tables_of(program, process) {
            let Some(table) = program.tables.get(&files) else { continue };
            of_table(program, process, table, serving, &mut found);
        }
    }
    for socket in program.unix.values() {
        for id in socket.queue.iter().flat_map(|message| &message.files) {
            if let Some(why) = program.descriptions.get(id).and_then(|description| reason(&description.kind, serving)) {
                found.push(format!("a descriptor on its way in a message of a UNIX socket: {why}"));
            }
        }
    }
    if found.len() > MOST {
        let more = found.len() - MOST;
        found.truncate(MOST);
        found.push(format!("and {more} more"));
    }
    found
}

/// The descriptor tables of a process: its own, and those that threads have of their own.
fn tables_of(program: &Program, process: &Process) -> BTreeSet<FilesId> {
    let own = program.threads_of(process.pid).filter_map(|thread| thread.files);
    core::iter::once(process.files).chain(own).collect()
}

fn of_table(program: &Program, process: &Process, table: &FileTable, serving: Option<u64>, found: &mut Vec<String>) {
    for (fd, Descriptor { description, .. }) in table.iter() {
        let kind = program.descriptions.get(&description).map(|description| &description.kind);
        if let Some(why) = kind.and_then(|kind| reason(kind, serving)) {
            found.push(format!("process {} ({}), descriptor {fd}: {why}", process.pid, process.comm));
        }
    }
}

/// Why what a descriptor leads to does not survive. Only what this kernel alone knows is not saved: a request that it is
/// working on.
fn reason(kind: &Kind, serving: Option<u64>) -> Option<&'static str> {
    match kind {
        Kind::Shimos(_, conversation) if conversation.pending.is_some() && conversation.pending != serving => {
            Some("a control request under way is answered with EIO after a takeover")
        }
        _ => None,
    }
}
