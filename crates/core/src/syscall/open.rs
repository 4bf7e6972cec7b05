//! Opening files.
use super::{
    Arguments,
    descriptors::on_exec,
    terminals::{self, Control},
    transfer::flags,
};
use crate::{
    content,
    context::{Context, Result, Stop},
    devpts,
    event::inotify::mask,
    files::{Conversation, Descriptor, Kind as Open, Place},
    jobs::{self, TtyName},
    names::AT_FDCWD,
    notice::Name,
    pipe::{Pipe, PipeId},
    resident::{Key, Resident},
};
use shimos_abi::errno::Errno;
use shimos_hal::Machine;
use shimos_vfs::{Kind, Last, Metadata, Nameless, NodeId, Rdev, Want};

const O_CREAT: u64 = 0o100;
const O_EXCL: u64 = 0o200;
const O_NOCTTY: u64 = 0o400;
const O_TRUNC: u64 = 0o1000;
const O_DIRECTORY: u64 = 0o200_000;
const O_NOFOLLOW: u64 = 0o400_000;
const O_PATH: u64 = 0o10_000_000;
const O_TMPFILE: u64 = 0o20_000_000 | O_DIRECTORY;
/// Flags that stay with the description: access mode, O_APPEND, O_NONBLOCK, O_DSYNC, O_ASYNC, O_DIRECT, O_NOATIME, O_SYNC.
const STATUS: u64 = 0o3 | 0o2000 | 0o4000 | 0o10_000 | 0o20_000 | 0o40_000 | 0o1_000_000 | 0o4_000_000;

pub fn open<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    openat(c, [AT_FDCWD, a[0], a[1], a[2], 0, 0])
}

pub fn creat<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    openat(c, [AT_FDCWD, a[0], O_CREAT | O_TRUNC | u64::from(flags::WRITE_ONLY), a[1], 0, 0])
}

pub fn openat<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    let note = c.moved()?;
    if note >> 63 == 1 && c.resident.program.pipes.contains_key(&noted_pipe(note)) {
        return open_noted(c, a, note);
    }
    find_and_open(c, a)
}

/// Goes on with opening a named pipe: the one that was found first, whatever has become of its name.
fn open_noted<M: Machine>(c: &mut Context<'_, M>, a: Arguments, note: u64) -> Result<u64> {
    let id = noted_pipe(note);
    if !is_granted(note) {
        return crate::context::wait_for(Key::Pipe(id));
    }
    let path = c.read_path(a[1]).unwrap_or_default();
    let place = match c.resolve_at(a[0], &path, Last::Follow) {
        Ok(found) => Some(Place { dir: found.parent, name: found.name }),
        Err(Stop::Block(keys)) => return Err(Stop::Block(keys)),
        Err(_) => None,
    };
    let kind = match a[2] as u32 & flags::ACCESS_MODE {
        flags::READ_ONLY => Open::PipeReader(id),
        _ => Open::PipeWriter(id),
    };
    install_end(c, kind, place, a[2])
}

fn find_and_open<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    let [dirfd, path, flags, mode, ..] = a;
    let path = c.read_path(path)?;
    let mode = mode as u16 & 0o7777 & !c.whereabouts()?.umask as u16;
    if flags & O_TMPFILE == O_TMPFILE {
        return temporary(c, dirfd, &path, flags, mode);
    }
    let last = if flags & O_CREAT != 0 && flags & O_EXCL != 0 {
        Last::Name
    } else if flags & O_NOFOLLOW != 0 {
        Last::Keep
    } else if flags & O_CREAT != 0 {
        Last::Create
    } else {
        Last::Follow
    };
    let found = c.resolve_at(dirfd, &path, last)?;
    let (node, fresh) = match found.node {
        Some(_) if flags & O_CREAT != 0 && flags & O_EXCL != 0 => return Err(Errno::EEXIST.into()),
        Some(node) => (node, Fresh::No),
        None if flags & O_CREAT == 0 => return Err(Errno::ENOENT.into()),
        None => {
            found.check_new_file()?;
            let node = c.change(|tree, sources, actor| tree.create(sources, actor, found.parent, &found.name, mode))?;
            c.resident.notice_in(found.parent, &found.name, mask::CREATE, 0);
            (node, Fresh::Yes)
        }
    };
    let known = match (fresh, found.metadata) {
        (Fresh::No, Some(known)) => known,
        _ => c.metadata(node)?,
    };
    let place = Place { dir: found.parent, name: found.name };
    open_node(c, (node, known), place, flags, fresh)
}

/// Whether the file was made by this very call: then its mode does not matter.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fresh {
    Yes,
    No,
}

fn temporary<M: Machine>(c: &mut Context<'_, M>, dirfd: u64, path: &[u8], flags: u64, mode: u16) -> Result<u64> {
    let found = c.resolve_at(dirfd, path, Last::Follow)?;
    let dir = found.existing()?;
    if c.metadata(dir)?.kind != Kind::Directory {
        return Err(Errno::ENOTDIR.into());
    }
    if flags as u32 & flags::ACCESS_MODE == flags::READ_ONLY {
        return Err(Errno::EINVAL.into());
    }
    let nameless = (flags & O_EXCL == 0).then_some(Nameless);
    let node = c.change(|tree, _, actor| Ok(tree.create_unnamed(actor, mode, nameless)?))?;
    let place = Place { dir, name: b"#unnamed (deleted)".to_vec() };
    let known = c.metadata(node)?;
    let opened = open_node(c, (node, known), place, flags & !O_TMPFILE, Fresh::Yes);
    // Making it has held it for this call alone.
    c.resident.program.tree.unpin(node);
    opened
}

/// Opens a node that exists, of which is known what stat(2) tells.
fn open_node<M: Machine>(
    c: &mut Context<'_, M>,
    (node, metadata): (NodeId, Metadata),
    place: Place,
    flags: u64,
    fresh: Fresh,
) -> Result<u64> {
    let access = flags as u32 & flags::ACCESS_MODE;
    if flags & O_DIRECTORY != 0 && metadata.kind != Kind::Directory {
        return Err(Errno::ENOTDIR.into());
    }
    if flags & O_PATH != 0 {
        return install(c, node, place, Open::Path(node), flags & !STATUS | O_PATH);
    }
    if metadata.kind == Kind::Symlink {
        return Err(Errno::ELOOP.into());
    }
    let writes = access != flags::READ_ONLY || flags & O_TRUNC != 0;
    if metadata.kind == Kind::Directory && (writes || flags & O_CREAT != 0) {
        return Err(Errno::EISDIR.into());
    }
    if fresh == Fresh::No {
        let mut want = Want::empty();
        if access != flags::WRITE_ONLY {
            want |= Want::READ;
        }
        if writes {
            want |= Want::WRITE;
        }
        c.access()?.check(&metadata, want)?;
    }
    let kind = match metadata.kind {
        Kind::Regular => {
            if let NodeId::Synthetic { .. } = node {
                if writes {
                    crate::proc::check_open_for_write(c, node)?;
                }
                let text = crate::proc::content(c, node)?;
                Open::Snapshot(node, text)
            } else {
                if flags & O_TRUNC != 0 && fresh == Fresh::No {
                    content::truncate(c, node, 0)?;
                    c.resident.notice(node, Some(Name::of(&place)), mask::MODIFY);
                }
                Open::File(node)
            }
        }
        Kind::Directory => Open::Directory(node),
        Kind::CharDevice => device(c, node, &metadata, flags)?,
        Kind::Fifo => return open_fifo(c, node, place, flags),
        Kind::Socket | Kind::BlockDevice | Kind::Symlink => return Err(Errno::ENXIO.into()),
    };
    install(c, node, place, kind, flags)
}

fn install<M: Machine>(c: &mut Context<'_, M>, node: NodeId, place: Place, kind: Open, flags: u64) -> Result<u64> {
    c.resident.program.tree.pin(node);
    let description = c.resident.program.add_description(kind, (flags & (STATUS | O_PATH)) as u32);
    c.description_by(description)?.place = Some(place);
    c.resident.notice_by(description, mask::OPEN);
    c.install(Descriptor { description, on_exec: on_exec(flags) })
}

fn device<M: Machine>(c: &mut Context<'_, M>, node: NodeId, metadata: &Metadata, flags: u64) -> Result<Open> {
    // Who may only write to a terminal does not get its signals.
    let reads = flags as u32 & flags::ACCESS_MODE != flags::WRITE_ONLY;
    let control = if flags & O_NOCTTY == 0 && reads { Control::Take } else { Control::Leave };
    Ok(match metadata.rdev {
        Rdev { major: 1, minor: 3 } => Open::Null(node),
        Rdev { major: 1, minor: 5 } => Open::Zero(node),
        Rdev { major: 1, minor: 7 } => Open::Full(node),
        Rdev { major: 1, minor: 8 | 9 } => Open::Random(node),
        Rdev { major: 5, minor: 0 } => {
            // It is the caller's already, so nothing is acquired.
            match terminals::own(c)? {
                TtyName::Console => Open::Console(node),
                TtyName::Slave(pair) => {
                    let hangups = terminals::open_slave(c, pair, Control::Leave)?;
                    Open::Slave { node, pair, hangups }
                }
            }
        }
        Rdev { major: 5, minor: 1 } => {
            let free = c.resident.program.terminal.tty.session.is_none();
            if control == Control::Take && free && jobs::may_acquire(c)? {
                jobs::acquire(c, TtyName::Console)?;
            }
            Open::Console(node)
        }
        Rdev { major: 5, minor: 2 } => Open::Master(node, terminals::open_master(c)?),
        Rdev { major: devpts::SLAVE_MAJOR, .. } => {
            let pair = devpts::pair_of(node).ok_or(Errno::EIO)?;
            let hangups = terminals::open_slave(c, pair, control)?;
            Open::Slave { node, pair, hangups }
        }
        Rdev { major: 10, minor: 220 } => {
            if c.process()?.credentials.euid != 0 {
                return Err(Errno::EACCES.into());
            }
            Open::Shimos(node, Conversation::default())
        }
        _ => return Err(Errno::ENXIO.into()),
    })
}

/// What a thread that waits in open(2) for the other end of a pipe notes in its call: which pipe and for which end.
fn waiting_note(pipe: PipeId, end: u64) -> u64 {
    1 << 63 | u64::from(pipe.0) << 8 | end
}
const READING_END: u64 = 1;
const WRITING_END: u64 = 2;
/// The other end has come, and this one is counted already.
const GRANTED: u64 = 0x80;

fn noted_pipe(note: u64) -> PipeId {
    PipeId((note >> 8) as u32)
}

/// Whether a call's note says that a pipe's end was granted: the call must complete whatever signals come, for the end
/// is counted.
pub fn is_granted(note: u64) -> bool {
    note >> 63 == 1 && note & GRANTED != 0
}

/// Takes an end back that was granted by a call's note and will not be opened.
pub fn give_back<M: Machine>(resident: &mut Resident<M>, note: u64) {
    if !is_granted(note) {
        return;
    }
    let id = noted_pipe(note);
    if let Some(pipe) = resident.program.pipes.get_mut(&id) {
        if note & READING_END != 0 {
            pipe.readers = pipe.readers.saturating_sub(1);
        }
        if note & WRITING_END != 0 {
            pipe.writers = pipe.writers.saturating_sub(1);
        }
        if pipe.readers == 0 && pipe.writers == 0 {
            resident.program.forget_pipe(id);
        }
    }
    resident.wake(Key::Pipe(id));
}

/// The pipe behind a fifo, or the one that a link of /proc leads to.
fn pipe_behind<M: Machine>(c: &mut Context<'_, M>, node: NodeId) -> Result<PipeId> {
    if let Some(id) = crate::proc::pipe_of(node) {
        return if c.resident.program.pipes.contains_key(&id) { Ok(id) } else { Err(Errno::ENXIO.into()) };
    }
    let node = c.resident.program.tree.canonical(node);
    if let Some(id) = c.resident.program.fifos.get(&node).copied()
        && c.resident.program.pipes.contains_key(&id)
    {
        return Ok(id);
    }
    let id = PipeId(c.resident.program.fresh_id());
    c.resident.program.pipes.insert(id, Pipe::unopened());
    c.resident.program.fifos.insert(node, id);
    Ok(id)
}

/// Counts an end for every thread that waits to open it; they complete when they are issued again.
fn grant<M: Machine>(c: &mut Context<'_, M>, pipe: PipeId, end: u64) -> u32 {
    let (waiting, granted) = (waiting_note(pipe, end), waiting_note(pipe, end | GRANTED));
    let mut count = 0;
    for thread in c.resident.program.threads.values_mut() {
        if let Some(call) = &mut thread.call
            && call.moved == waiting
        {
            call.moved = granted;
            count += 1;
        }
    }
    count
}

/// Pipes with a name (fifo(7)): one end waits for the other.
fn open_fifo<M: Machine>(c: &mut Context<'_, M>, node: NodeId, place: Place, flags: u64) -> Result<u64> {
    let id = pipe_behind(c, node)?;
    let nonblock = flags as u32 & flags::NONBLOCK != 0;
    let access = flags as u32 & flags::ACCESS_MODE;
    let counts = |pipe: &Pipe| (pipe.readers, pipe.writers);
    let (readers, writers) = c.resident.program.pipes.get(&id).map(counts).ok_or(Errno::EIO)?;
    let (kind, end) = match access {
        flags::READ_ONLY => (Open::PipeReader(id), READING_END),
        flags::WRITE_ONLY => (Open::PipeWriter(id), WRITING_END),
        flags::READ_WRITE => (Open::PipeBoth(id), READING_END | WRITING_END),
        _ => return Err(Errno::EINVAL.into()),
    };
    let waiting_readers = if end & WRITING_END != 0 { grant(c, id, READING_END) } else { 0 };
    let waiting_writers = if end & READING_END != 0 { grant(c, id, WRITING_END) } else { 0 };
    // A pipe without a name, opened again through /proc, waits for nobody.
    let partner = match end {
        _ if crate::proc::pipe_of(node).is_some() => true,
        READING_END => writers > 0 || waiting_writers > 0,
        WRITING_END => readers > 0 || waiting_readers > 0,
        _ => true,
    };
    if let Some(pipe) = c.resident.program.pipes.get_mut(&id) {
        pipe.readers = pipe.readers.saturating_add(waiting_readers);
        pipe.writers = pipe.writers.saturating_add(waiting_writers);
    }
    if !partner && !nonblock {
        c.set_moved(waiting_note(id, end))?;
        return crate::context::wait_for(Key::Pipe(id));
    }
    if !partner && end == WRITING_END {
        return Err(Errno::ENXIO.into());
    }
    if let Some(pipe) = c.resident.program.pipes.get_mut(&id) {
        pipe.readers = pipe.readers.saturating_add(u32::from(end & READING_END != 0));
        pipe.writers = pipe.writers.saturating_add(u32::from(end & WRITING_END != 0));
    }
    c.wake(Key::Pipe(id));
    install_end(c, kind, Some(place), flags)
}

/// Makes a description of an end of a named pipe that is counted already.
fn install_end<M: Machine>(c: &mut Context<'_, M>, kind: Open, place: Option<Place>, flags: u64) -> Result<u64> {
    c.set_moved(0)?;
    let description = c.resident.program.add_description(kind, (flags & STATUS) as u32);
    c.description_by(description)?.place = place;
    c.install(Descriptor { description, on_exec: on_exec(flags) })
}
