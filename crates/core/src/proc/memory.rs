//! Files of /proc/PID that tell of its memory, or show what is in it.
use super::{Node, Proc, nodes::File, view};
use crate::{
    context::{Context, MAX_TRANSFER, Result, Stop},
    process::SpaceId,
};
use alloc::{format, string::String, vec, vec::Vec};
use shimos_abi::{
    addr::{PAGE, USER_END, UserAddr, UserPage},
    errno::Errno,
};
use shimos_hal::Machine;
use shimos_memory::{MemoryFault, Presence, Progress, Prot, Sharing, Source, Usage, Vma, VmaFlags};

/// Kibibytes of so many pages.
pub(super) fn kib(pages: u64) -> u64 {
    pages.saturating_mul(PAGE as u64 / 1024)
}

/// The address space behind a file of a process that the caller may look into; `None` for a zombie's.
fn space_of(proc: &Proc<'_>, node: Node) -> core::result::Result<Option<SpaceId>, Errno> {
    let process = proc.process(node)?;
    proc.inspect(process)?;
    Ok(proc.space(process).map(|_| process.space))
}

/// Reads as much of `first..end` as is mapped.
fn read_range<M: Machine>(c: &mut Context<'_, M>, space: SpaceId, (first, end): (u64, u64)) -> Result<Vec<u8>> {
    let end = end.min(first.saturating_add(MAX_TRANSFER as u64));
    let mut bytes = Vec::new();
    let mut at = first;
    while at < end {
        let count = (PAGE as u64 - at % PAGE as u64).min(end - at);
        let mut piece = vec![0; count as usize];
        match c.services.memory(c.resident, space)?.read(UserAddr(at), &mut piece) {
            Ok(()) => bytes.append(&mut piece),
            Err(fault @ MemoryFault::Missing(_)) => return Err(fault.into()),
            Err(_) => break,
        }
        at += count;
    }
    Ok(bytes)
}

/// A part of mem, from an address on: as much as is mapped.
pub(super) fn peek<M: Machine>(c: &mut Context<'_, M>, node: Node, at: u64, count: usize) -> Result<Vec<u8>> {
    let Some(space) = space_of(&view(c), node)? else { return Ok(Vec::new()) };
    let bytes = read_range(c, space, (at, at.saturating_add(count as u64)))?;
    if bytes.is_empty() && count > 0 { Err(Errno::EIO.into()) } else { Ok(bytes) }
}

/// Writes to mem, at an address: as much as the process could write itself.
pub(super) fn poke<M: Machine>(c: &mut Context<'_, M>, node: Node, at: u64, bytes: &[u8]) -> Result<usize> {
    let Some(space) = space_of(&view(c), node)? else { return Ok(0) };
    let mut done = 0;
    while done < bytes.len() {
        let from = at.checked_add(done as u64).ok_or(Errno::EIO)?;
        let count = (PAGE - from as usize % PAGE).min(bytes.len() - done);
        match c.services.memory(c.resident, space)?.write(UserAddr(from), &bytes[done..done + count]) {
            Ok(()) => done += count,
            Err(fault @ MemoryFault::Missing(_)) if done == 0 => return Err(fault.into()),
            Err(_) if done == 0 => return Err(Errno::EIO.into()),
            Err(_) => break,
        }
    }
    Ok(done)
}

/// cmdline, environ or auxv: what execve(2) has put there, or what the program says now.
pub(super) fn executed_with<M: Machine>(c: &mut Context<'_, M>, node: Node) -> Result<Vec<u8>> {
    let proc = view(c);
    let process = proc.process(node)?;
    let file = node.file.of_process();
    // Everybody may know a command line.
    let space = if file == File::CommandLine { Some(process.space) } else { space_of(&proc, node)? };
    let layout = process.layout;
    let Some(space) = space.filter(|_| proc.space(process).is_some()) else { return Ok(Vec::new()) };
    match file {
        File::Environ => read_range(c, space, layout.environment),
        File::Auxiliary => read_range(c, space, layout.auxiliary),
        _ => {
            let (first, end) = layout.arguments;
            let arguments = read_range(c, space, (first, end))?;
            if arguments.last().is_none_or(|last| *last == 0) {
                return Ok(arguments);
            }
            // The last zero is gone: the program has written a title here, perhaps beyond its arguments.
            let mut title = read_range(c, space, (first, layout.environment.1))?;
            let len = title.iter().position(|byte| *byte == 0).map_or(title.len(), |end| end + 1);
            title.truncate(len.min(PAGE));
            Ok(title)
        }
    }
}

/// Maps what is still only in the image, in every address space: how many share a page is not known before.
fn bring_pages<M: Machine>(c: &mut Context<'_, M>) -> Result<()> {
    const STEP: usize = 4096;
    loop {
        let next = c.resident.pending.spaces().next();
        let Some(space) = next else { return Ok(()) };
        match c.services.memory(c.resident, space)?.map_pending(STEP) {
            Ok(Progress::Done) => {}
            Ok(Progress::More) => return Err(Stop::Again),
            Err(_) => return Err(Errno::EIO.into()),
        }
    }
}

/// maps, smaps or smaps_rollup.
pub(super) fn maps<M: Machine>(c: &mut Context<'_, M>, node: Node) -> Result<Vec<u8>> {
    let Some(id) = space_of(&view(c), node)? else { return Ok(Vec::new()) };
    let file = node.file.of_process();
    if file != File::Maps {
        bring_pages(c)?;
    }
    let mut memory = c.services.memory(c.resident, id)?;
    let (mut text, mut sum, mut anonymous) = (String::new(), Usage::default(), 0);
    let mut bounds = None;
    memory.with_mappings(|space, cx| {
        let mut visit = |vma: &Vma| {
            let own = if file == File::Maps { Usage::default() } else { space.usage(cx, vma.first, vma.end) };
            if file != File::SmapsRollup {
                text += &mapping(vma);
            }
            if file == File::Smaps {
                text += &format!("{:<16}{:>8} kB\n", "Size:", kib(vma.pages()));
                text += "KernelPageSize:        4 kB\nMMUPageSize:           4 kB\n";
                text += &figures(&own, own.private + own.copied, lock(vma, &own));
                text += &format!("THPeligible:    0\nVmFlags: {}\n", flag_names(vma));
            }
            bounds = Some((bounds.map_or(vma.first.0, |(first, _)| first), vma.end.0));
            anonymous += own.private + own.copied;
            sum = Usage {
                private: sum.private + own.private,
                copied: sum.copied + own.copied,
                lone: sum.lone + own.lone,
                shared: sum.shared + own.shared,
                proportion: sum.proportion + own.proportion,
            };
        };
        space.mappings().iter().for_each(&mut visit);
    });
    if file == File::SmapsRollup {
        let (first, end): (u64, u64) = bounds.unwrap_or_default();
        let page = PAGE as u64;
        text = line(first.saturating_mul(page), end.saturating_mul(page), "---p", 0, 0, "[rollup]");
        text += &figures(&sum, anonymous, 0);
    }
    Ok(text.into_bytes())
}

/// Locked memory of a mapping, as smaps counts it: what is in memory.
fn lock(vma: &Vma, usage: &Usage) -> u64 {
    if vma.flags.contains(VmaFlags::LOCKED) { usage.proportion / 1024 } else { 0 }
}

fn figures(usage: &Usage, anonymous: u64, locked: u64) -> String {
    let mut text = String::new();
    for (name, value) in [
        ("Rss", kib(usage.pages())),
        ("Pss", usage.proportion / 1024),
        ("Pss_Dirty", kib(usage.private)),
        ("Shared_Clean", kib(usage.shared)),
        ("Shared_Dirty", kib(usage.copied)),
        ("Private_Clean", kib(usage.lone)),
        ("Private_Dirty", kib(usage.private)),
        ("Referenced", kib(usage.pages())),
        ("Anonymous", kib(anonymous)),
        ("LazyFree", 0),
        ("AnonHugePages", 0),
        ("ShmemPmdMapped", 0),
        ("FilePmdMapped", 0),
        ("Shared_Hugetlb", 0),
        ("Private_Hugetlb", 0),
        ("Swap", 0),
        ("SwapPss", 0),
        ("Locked", locked),
    ] {
        text += &format!("{:<16}{value:>8} kB\n", format!("{name}:"));
    }
    text
}

/// The two-letter flags of a mapping (proc(5)).
fn flag_names(vma: &Vma) -> String {
    let mut text = String::new();
    let mut say = |name: &str, holds: bool| {
        if holds {
            text.push_str(name);
            text.push(' ');
        }
    };
    for (bits, names) in [(vma.prot, ["rd", "wr", "ex"]), (vma.may, ["mr", "mw", "me"])] {
        for (bit, name) in [Prot::READ, Prot::WRITE, Prot::EXECUTE].into_iter().zip(names) {
            say(name, bits.contains(bit));
        }
        if bits == vma.prot {
            say("sh", vma.sharing == Sharing::Shared);
        }
    }
    say("gd", vma.flags.contains(VmaFlags::GROWS_DOWN));
    say("lo", vma.flags.contains(VmaFlags::LOCKED));
    say("dc", vma.flags.contains(VmaFlags::DONT_FORK));
    say("wf", vma.flags.contains(VmaFlags::WIPE_ON_FORK));
    text
}

/// One line of maps.
fn line(first: u64, end: u64, permissions: &str, offset: u64, inode: u64, name: &str) -> String {
    let device = if inode == 0 { String::from("00:00") } else { format!("00:{:02x}", super::ROOT_DEVICE) };
    let head = format!("{first:08x}-{end:08x} {permissions} {offset:08x} {device} {inode} ");
    if name.is_empty() { head + "\n" } else { format!("{head:<73}{}\n", name.replace('\n', "\\012")) }
}

/// One mapping as a line of maps.
pub(super) fn mapping(vma: &Vma) -> String {
    let bit = |prot, letter| if vma.prot.contains(prot) { letter } else { '-' };
    let permissions: String = [
        bit(Prot::READ, 'r'),
        bit(Prot::WRITE, 'w'),
        bit(Prot::EXECUTE, 'x'),
        if vma.sharing == Sharing::Shared { 's' } else { 'p' },
    ]
    .into_iter()
    .collect();
    let inode = match vma.source {
        Source::Anonymous => 0,
        Source::Object { id, .. } => id.0.into(),
        Source::Image { nid, .. } => nid,
    };
    let name = match vma.name.as_str() {
        "" if vma.flags.contains(VmaFlags::HEAP) => "[heap]",
        "" if vma.flags.contains(VmaFlags::STACK) => "[stack]",
        name => name,
    };
    let page = PAGE as u64;
    let (first, end) = (vma.first.0.saturating_mul(page), vma.end.0.saturating_mul(page));
    line(first, end, &permissions, vma.source.offset(), inode, name)
}

/// A part of pagemap: a word for each page of the address space. Frame numbers are hidden, as from anyone without the
/// right to see them on Linux.
pub(super) fn page_words<M: Machine>(c: &mut Context<'_, M>, node: Node, at: u64, count: usize) -> Result<Vec<u8>> {
    const PRESENT: u64 = 1 << 63;
    const OF_A_FILE: u64 = 1 << 61;
    if !at.is_multiple_of(8) || !count.is_multiple_of(8) {
        return Err(Errno::EINVAL.into());
    }
    let Some(id) = space_of(&view(c), node).map_err(gone)? else { return Ok(Vec::new()) };
    let end = (at / 8).saturating_add((count.min(MAX_TRANSFER) / 8) as u64).min(USER_END / PAGE as u64);
    c.services.memory(c.resident, id)?.within((UserPage(at / 8), UserPage(end)), |space, _| {
        let word = |page: u64| match space.presence(UserPage(page)) {
            None => 0,
            Some(Presence::Own) => PRESENT,
            Some(Presence::Borrowed) => PRESENT | OF_A_FILE,
        };
        Ok((at / 8..end).flat_map(|page| word(page).to_le_bytes()).collect())
    })
}

/// A file that was opened tells so when its process has gone.
pub(super) fn gone(errno: Errno) -> Stop {
    Stop::Errno(if errno == Errno::ENOENT { Errno::ESRCH } else { errno })
}
