//! execve(2).
use super::{Arguments, life};
use crate::{
    context::{Context, Result, Stop},
    exec::{self, ARGUMENTS_LIMIT, Wanted},
    files::OnExec,
    names,
    process::Ids,
};
use alloc::{string::String, vec, vec::Vec};
use shimos_abi::errno::Errno;
use shimos_hal::Machine;
use shimos_vfs::NodeId;

/// Interpreters of interpreters, at most.
const SCRIPT_DEPTH: usize = 4;

pub fn execve<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    let path = c.read_path(a[0])?;
    let arguments = c.read_strings(a[1], ARGUMENTS_LIMIT)?;
    let environment = c.read_strings(a[2], ARGUMENTS_LIMIT)?;
    let arguments = if arguments.is_empty() { vec![Vec::new()] } else { arguments };
    run(c, path, arguments, environment)?;
    Err(Stop::Resume)
}

/// Replaces the calling process's program.
pub fn run<M: Machine>(
    c: &mut Context<'_, M>,
    path: Vec<u8>,
    mut arguments: Vec<Vec<u8>>,
    environment: Vec<Vec<u8>>,
) -> Result<()> {
    let mut file = path.clone();
    let (mut node, mut place) = names::executable(c, &file)?;
    let mut depth = 0;
    while let Some((interpreter, argument)) = exec::script(c, node)? {
        depth += 1;
        if depth > SCRIPT_DEPTH {
            return Err(Errno::ELOOP.into());
        }
        let mut longer = vec![interpreter.clone()];
        longer.extend(argument);
        longer.push(file);
        longer.extend(arguments.into_iter().skip(1));
        arguments = longer;
        file = interpreter;
        (node, place) = names::executable(c, &file)?;
    }
    let exe = crate::content::path(c, &place)?;
    let credentials = credentials_for(c, node)?;
    let old = &c.process()?.credentials;
    let gains =
        credentials.euid != old.euid || credentials.egid != old.egid || old.euid != old.uid || old.egid != old.gid;
    let wanted = Wanted { node, path: file, name: exe.clone(), arguments, environment, credentials, gains };
    let loaded = exec::load(c, &wanted)?;
    life::replace_image(c, loaded.space, &life::Image { entry: loaded.entry, stack: loaded.layout.stack })?;
    close_on_exec(c)?;
    let process = c.process_mut()?;
    process.rights.after_exec(&process.credentials, &wanted.credentials);
    process.credentials = wanted.credentials;
    process.exe = exe;
    process.comm = exec::command_name(&path);
    process.layout = loaded.layout;
    c.thread()?.name = None;
    Ok(())
}

/// Users and groups that a file is executed with: its owner's where its mode says so (execve(2)).
fn credentials_for<M: Machine>(c: &mut Context<'_, M>, node: NodeId) -> Result<Ids> {
    const SET_USER: u16 = 0o4000;
    const SET_GROUP: u16 = 0o2000;
    const EXECUTED_BY_GROUP: u16 = 0o010;
    let process = c.process()?;
    let (mut ids, nothing_new) = (process.credentials.clone(), process.rights.nothing_new);
    let metadata = c.metadata(node)?;
    if !nothing_new {
        if metadata.mode & SET_USER != 0 {
            ids.euid = metadata.uid;
        }
        // Without the right to execute the bit is of mandatory locks' old days.
        if metadata.mode & (SET_GROUP | EXECUTED_BY_GROUP) == SET_GROUP | EXECUTED_BY_GROUP {
            ids.egid = metadata.gid;
        }
    }
    (ids.suid, ids.sgid) = (ids.euid, ids.egid);
    (ids.file_uid, ids.file_gid) = (None, None);
    Ok(ids)
}

/// Closes what is to be closed; a table that is shared is copied first.
fn close_on_exec<M: Machine>(c: &mut Context<'_, M>) -> Result<()> {
    let files = c.files()?;
    if c.table()?.users > 1 {
        let copy = super::copy_table(c.resident, files);
        c.services.drop_table(c.resident, files);
        c.set_files(copy)?;
    }
    let closing: Vec<u32> =
        c.table()?.iter().filter(|(_, descriptor)| descriptor.on_exec == OnExec::Close).map(|(fd, _)| fd).collect();
    for fd in closing {
        let descriptor = c.table()?.remove(fd.into())?;
        c.release_locks_of(descriptor.description);
        c.release_description(descriptor.description);
    }
    Ok(())
}

/// A program's arguments as its creator gave them.
pub fn bytes_of(strings: &[String]) -> Vec<Vec<u8>> {
    strings.iter().map(|string| string.as_bytes().to_vec()).collect()
}
