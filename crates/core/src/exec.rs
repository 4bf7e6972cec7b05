//! Loading programs: ELF files (System V ABI, AMD64 supplement), their interpreters, and the initial stack.
use crate::{
    content,
    context::{Context, Result},
    process::{Ids, Layout, SpaceId},
};
use alloc::{string::String, vec, vec::Vec};
use shimos_abi::{
    addr::{PAGE, UserAddr, UserPage},
    errno::Errno,
};
use shimos_hal::Machine;
use shimos_memory::{AddressSpace, MapRequest, Place, Prot, Sharing, Source, VmaFlags};
use shimos_vfs::{Content, NodeId, Written};

/// Where position-independent programs are loaded.
const PROGRAM_BASE: u64 = 0x5555_5555_4000;
/// The page behind the stack.
const STACK_TOP: u64 = 0x7fff_ffff_0000;
/// Mappings are placed below this address.
const MAPPINGS_TOP: u64 = 0x7fff_f000_0000;
/// Arguments and environment, at most.
pub const ARGUMENTS_LIMIT: usize = 2 << 20;
/// Program headers, at most.
const HEADERS_LIMIT: usize = 128;

const PT_LOAD: u32 = 1;
const PT_INTERP: u32 = 3;
const PT_PHDR: u32 = 6;
const PT_GNU_STACK: u32 = 0x6474_e551;

/// One program header.
#[derive(Clone, Copy, Debug)]
struct Segment {
    kind: u32,
    flags: u32,
    offset: u64,
    address: u64,
    file_size: u64,
    memory_size: u64,
}

/// What an ELF file's head says.
struct Elf {
    /// Fixed addresses (ET_EXEC) or not (ET_DYN).
    fixed: Placement,
    entry: u64,
    headers_at: u64,
    segments: Vec<Segment>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Placement {
    Fixed,
    Anywhere,
}

fn field<const N: usize>(bytes: &[u8], at: usize) -> Result<[u8; N]> {
    Ok(bytes.get(at..at + N).and_then(|field| field.try_into().ok()).ok_or(Errno::ENOEXEC)?)
}

fn u16_at(bytes: &[u8], at: usize) -> Result<u16> {
    Ok(u16::from_le_bytes(field(bytes, at)?))
}

fn u32_at(bytes: &[u8], at: usize) -> Result<u32> {
    Ok(u32::from_le_bytes(field(bytes, at)?))
}

fn u64_at(bytes: &[u8], at: usize) -> Result<u64> {
    Ok(u64::from_le_bytes(field(bytes, at)?))
}

/// Reads all of `into` from a file, waiting for what is not at hand.
fn read_exact<M: Machine>(c: &mut Context<'_, M>, node: NodeId, offset: u64, into: &mut [u8]) -> Result<()> {
    let mut done = 0;
    while done < into.len() {
        let got = content::read(c, node, offset + done as u64, &mut into[done..])?;
        if got == 0 {
            return Err(Errno::ENOEXEC.into());
        }
        done += got;
    }
    Ok(())
}

fn parse<M: Machine>(c: &mut Context<'_, M>, node: NodeId) -> Result<Elf> {
    const ET_EXEC: u16 = 2;
    const ET_DYN: u16 = 3;
    const EM_X86_64: u16 = 62;
    const HEADER: usize = 56;
    let mut head = [0; 64];
    read_exact(c, node, 0, &mut head)?;
    if head[..7] != *b"\x7fELF\x02\x01\x01" || u16_at(&head, 18)? != EM_X86_64 || u16_at(&head, 54)? as usize != HEADER
    {
        return Err(Errno::ENOEXEC.into());
    }
    let fixed = match u16_at(&head, 16)? {
        ET_EXEC => Placement::Fixed,
        ET_DYN => Placement::Anywhere,
        _ => return Err(Errno::ENOEXEC.into()),
    };
    let (entry, headers_at, count) = (u64_at(&head, 24)?, u64_at(&head, 32)?, u16_at(&head, 56)? as usize);
    if count == 0 || count > HEADERS_LIMIT {
        return Err(Errno::ENOEXEC.into());
    }
    let mut bytes = vec![0; count * HEADER];
    read_exact(c, node, headers_at, &mut bytes)?;
    let mut segments = Vec::with_capacity(count);
    for header in bytes.chunks_exact(HEADER) {
        segments.push(Segment {
            kind: u32_at(header, 0)?,
            flags: u32_at(header, 4)?,
            offset: u64_at(header, 8)?,
            address: u64_at(header, 16)?,
            file_size: u64_at(header, 32)?,
            memory_size: u64_at(header, 40)?,
        });
    }
    Ok(Elf { fixed, entry, headers_at, segments })
}

impl Elf {
    fn loads(&self) -> impl Iterator<Item = &Segment> {
        self.segments.iter().filter(|segment| segment.kind == PT_LOAD && segment.memory_size > 0)
    }
    /// The span of addresses that the file wants, in whole pages.
    fn span(&self) -> Result<(u64, u64)> {
        let low = self.loads().map(|segment| segment.address).min().ok_or(Errno::ENOEXEC)?;
        let high = self.loads().map(|segment| segment.address.saturating_add(segment.memory_size)).max().unwrap_or(low);
        if high > shimos_abi::addr::USER_END {
            return Err(Errno::ENOEXEC.into());
        }
        Ok((low / PAGE as u64 * PAGE as u64, high.next_multiple_of(PAGE as u64)))
    }
    /// Where the program headers are in memory.
    fn headers_in_memory(&self) -> u64 {
        let told = self.segments.iter().find(|segment| segment.kind == PT_PHDR).map(|segment| segment.address);
        let found = self.loads().find(|segment| {
            segment.offset <= self.headers_at && self.headers_at < segment.offset.saturating_add(segment.file_size)
        });
        told.or(found.map(|segment| self.headers_at - segment.offset + segment.address)).unwrap_or(0)
    }
}

/// A program that is ready to start.
pub struct Loaded {
    /// Its address space.
    pub space: SpaceId,
    /// Where it starts.
    pub entry: u64,
    /// Where its stack begins, and what is on it.
    pub layout: Layout,
}

/// What is to be executed.
pub struct Wanted {
    /// The file.
    pub node: NodeId,
    /// Its path as it was given, for AT_EXECFN.
    pub path: Vec<u8>,
    /// Its path from the root.
    pub name: String,
    /// Arguments.
    pub arguments: Vec<Vec<u8>>,
    /// Environment.
    pub environment: Vec<Vec<u8>>,
    /// Users and groups that it runs with.
    pub credentials: Ids,
    /// Whether they are not the caller's: the C library trusts its surroundings less then.
    pub gains: bool,
}

/// The program that loads another (ld.so).
struct Interpreter {
    node: NodeId,
    elf: Elf,
    name: String,
}

/// Finds the interpreter of an ELF file, if it names one.
fn interpreter<M: Machine>(c: &mut Context<'_, M>, node: NodeId, elf: &Elf) -> Result<Option<Interpreter>> {
    let Some(segment) = elf.segments.iter().find(|segment| segment.kind == PT_INTERP) else { return Ok(None) };
    if segment.file_size < 2 || segment.file_size > PAGE as u64 {
        return Err(Errno::ENOEXEC.into());
    }
    let mut path = vec![0; segment.file_size as usize];
    read_exact(c, node, segment.offset, &mut path)?;
    path.pop();
    let (node, place) = crate::names::executable(c, &path)?;
    let name = content::path(c, &place)?;
    let elf = parse(c, node)?;
    Ok(Some(Interpreter { node, elf, name }))
}

/// Loads a program into a new address space. Nothing of the caller is changed yet.
pub fn load<M: Machine>(c: &mut Context<'_, M>, wanted: &Wanted) -> Result<Loaded> {
    let elf = parse(c, wanted.node)?;
    let interpreter = interpreter(c, wanted.node, &elf)?;
    // Everything that can make the call wait has been read: from here on it completes or fails.
    let limit = c.process()?.limits.get(3).map_or(8 << 20, |limit| limit.0).min(1 << 30);
    let id = SpaceId(c.resident.program.fresh_id());
    let tables = c.services.machine.new_space(&mut c.services.frames).map_err(|_| Errno::ENOMEM)?;
    c.resident.tables.insert(id, tables);
    let space = AddressSpace::new(UserPage(MAPPINGS_TOP / PAGE as u64), limit);
    c.resident.program.spaces.insert(id, space);
    crate::protect::track_new_space(c.resident, id);
    let outcome = fill(c, id, wanted, &elf, interpreter.as_ref());
    match outcome {
        Ok((entry, layout)) => Ok(Loaded { space: id, entry, layout }),
        Err(stop) => {
            c.services.drop_space(c.resident, id);
            Err(stop)
        }
    }
}

fn fill<M: Machine>(
    c: &mut Context<'_, M>,
    id: SpaceId,
    wanted: &Wanted,
    elf: &Elf,
    interpreter: Option<&Interpreter>,
) -> Result<(u64, Layout)> {
    let bias = match elf.fixed {
        Placement::Fixed => 0,
        Placement::Anywhere => PROGRAM_BASE.wrapping_sub(elf.span()?.0),
    };
    map_segments(c, id, (wanted.node, &wanted.name), elf, bias)?;
    let end = elf.span()?.1.wrapping_add(bias);
    if let Some(space) = c.resident.program.spaces.get_mut(&id) {
        space.set_heap(UserAddr(end));
    }
    let mut start = elf.entry.wrapping_add(bias);
    let mut interpreter_base = 0;
    if let Some(Interpreter { node, elf: interpreter, name }) = interpreter {
        let (low, high) = interpreter.span()?;
        let pages = (high - low) / PAGE as u64;
        let place = reserve(c, id, pages)?;
        interpreter_base = place.wrapping_sub(low);
        map_segments(c, id, (*node, name), interpreter, interpreter_base)?;
        start = interpreter.entry.wrapping_add(interpreter_base);
    }
    let vdso = map_vdso(c, id)?;
    let layout = build_stack(c, id, wanted, elf, bias, [interpreter_base, vdso])?;
    Ok((start, layout))
}

/// Finds room for a whole file, so that its segments lie together.
fn reserve<M: Machine>(c: &mut Context<'_, M>, id: SpaceId, pages: u64) -> Result<u64> {
    let request = MapRequest::anonymous(Prot::empty());
    let page = c.services.memory(c.resident, id)?.with(|space, cx| {
        let page = space.map(cx, Place::Anywhere, pages, request)?;
        space.unmap(cx, page, UserPage(page.0 + pages));
        Ok::<UserPage, Errno>(page)
    })?;
    Ok(page.addr().0)
}

fn protection(flags: u32) -> Prot {
    let mut prot = Prot::empty();
    for (bit, right) in [(4, Prot::READ), (2, Prot::WRITE | Prot::READ), (1, Prot::EXECUTE | Prot::READ)] {
        if flags & bit != 0 {
            prot |= right;
        }
    }
    prot
}

fn map_segments<M: Machine>(
    c: &mut Context<'_, M>,
    id: SpaceId,
    (node, name): (NodeId, &String),
    elf: &Elf,
    bias: u64,
) -> Result<()> {
    let page = PAGE as u64;
    let content = content::of(c, node)?;
    for segment in elf.loads() {
        if segment.file_size > segment.memory_size || segment.offset % page != segment.address % page {
            return Err(Errno::ENOEXEC.into());
        }
        let address = segment.address.checked_add(bias).ok_or(Errno::ENOEXEC)?;
        let first = address / page;
        let file_end = address + segment.file_size;
        let memory_end = address.checked_add(segment.memory_size).ok_or(Errno::ENOEXEC)?;
        let prot = protection(segment.flags);
        let file_pages = file_end.div_ceil(page) - first;
        if segment.file_size > 0 {
            let index = segment.offset / page;
            let source = match content {
                Content::Image { nid, .. } => Source::Image { nid, first: index },
                Content::Object(Written { object, .. }) => Source::Object { id: content::object(object), first: index },
            };
            let request = MapRequest { source, name: name.clone(), ..MapRequest::anonymous(prot) };
            map(c, id, first, file_pages, request)?;
        }
        let memory_pages = memory_end.div_ceil(page) - first;
        if memory_pages > file_pages || segment.file_size == 0 {
            let from = if segment.file_size == 0 { first } else { first + file_pages };
            map(c, id, from, first + memory_pages - from, MapRequest::anonymous(prot))?;
        }
        // What the file holds behind the segment's end must read as zeros.
        if memory_end > file_end && file_end % page != 0 && segment.file_size > 0 && prot.contains(Prot::WRITE) {
            let zeros = vec![0; (page - file_end % page) as usize];
            c.services.memory(c.resident, id)?.write(UserAddr(file_end), &zeros)?;
        }
    }
    Ok(())
}

fn map<M: Machine>(c: &mut Context<'_, M>, id: SpaceId, first: u64, pages: u64, request: MapRequest) -> Result<()> {
    c.services
        .memory(c.resident, id)?
        .with(|space, cx| space.map(cx, Place::FixedIfFree(UserPage(first)), pages, request))
        .map_err(|errno| if errno == Errno::EEXIST { Errno::ENOEXEC } else { errno })?;
    Ok(())
}

/// Maps the image that tells the time; returns where, or 0. It is a page like any other: it is saved and goes along.
fn map_vdso<M: Machine>(c: &mut Context<'_, M>, id: SpaceId) -> Result<u64> {
    let Some(image) = c.services.vdso.take() else { return Ok(0) };
    let placed = place_vdso(c, id, &image);
    c.services.vdso = Some(image);
    placed
}

fn place_vdso<M: Machine>(c: &mut Context<'_, M>, id: SpaceId, image: &[u8]) -> Result<u64> {
    let pages = image.len().div_ceil(PAGE) as u64;
    let request = MapRequest { name: String::from("[vdso]"), ..MapRequest::anonymous(Prot::READ | Prot::WRITE) };
    let mut memory = c.services.memory(c.resident, id)?;
    let first = memory.with(|space, cx| space.map(cx, Place::Anywhere, pages, request))?;
    memory.write(first.addr(), image)?;
    let end = UserPage(first.0 + pages);
    memory.with(|space, cx| space.protect(cx, first, end, Prot::READ | Prot::EXECUTE))?;
    Ok(first.addr().0)
}

/// Auxiliary vector entries (getauxval(3)).
mod aux {
    pub const NULL: u64 = 0;
    pub const IGNORE: u64 = 1;
    pub const PHDR: u64 = 3;
    pub const PHENT: u64 = 4;
    pub const PHNUM: u64 = 5;
    pub const PAGESZ: u64 = 6;
    pub const BASE: u64 = 7;
    pub const FLAGS: u64 = 8;
    pub const ENTRY: u64 = 9;
    pub const UID: u64 = 11;
    pub const EUID: u64 = 12;
    pub const GID: u64 = 13;
    pub const EGID: u64 = 14;
    pub const PLATFORM: u64 = 15;
    pub const HWCAP: u64 = 16;
    pub const CLKTCK: u64 = 17;
    pub const SECURE: u64 = 23;
    pub const RANDOM: u64 = 25;
    pub const HWCAP2: u64 = 26;
    pub const EXECFN: u64 = 31;
    pub const SYSINFO_EHDR: u64 = 33;
}

/// Builds the initial stack: strings, then auxiliary vector, environment, arguments (System V ABI, figure 3.9).
fn build_stack<M: Machine>(
    c: &mut Context<'_, M>,
    id: SpaceId,
    wanted: &Wanted,
    elf: &Elf,
    bias: u64,
    [interpreter_base, vdso]: [u64; 2],
) -> Result<Layout> {
    let executable = elf.segments.iter().any(|segment| segment.kind == PT_GNU_STACK && segment.flags & 1 != 0);
    let mut prot = Prot::READ | Prot::WRITE;
    if executable {
        prot |= Prot::EXECUTE;
    }
    let strings: usize = wanted.arguments.iter().chain(&wanted.environment).map(|string| string.len() + 9).sum();
    let pages = ((strings + 8 * PAGE) / PAGE + 32) as u64;
    let request = MapRequest {
        flags: VmaFlags::GROWS_DOWN | VmaFlags::STACK,
        name: String::from("[stack]"),
        sharing: Sharing::Private,
        ..MapRequest::anonymous(prot)
    };
    map(c, id, STACK_TOP / PAGE as u64 - pages, pages, request)?;

    let mut image: Vec<u8> = Vec::with_capacity(strings + 1024);
    let place = |image: &mut Vec<u8>, bytes: &[u8]| {
        let at = image.len() as u64;
        image.extend_from_slice(bytes);
        at
    };
    let random = c.random_bytes(16);
    let random_at = place(&mut image, &random);
    let platform_at = place(&mut image, b"x86_64\0");
    let path_at = place(&mut image, &wanted.path);
    image.push(0);
    let arguments_from = image.len() as u64;
    let mut argument_places = Vec::with_capacity(wanted.arguments.len());
    for argument in &wanted.arguments {
        argument_places.push(place(&mut image, argument));
        image.push(0);
    }
    let environment_from = image.len() as u64;
    let mut environment_places = Vec::with_capacity(wanted.environment.len());
    for variable in &wanted.environment {
        environment_places.push(place(&mut image, variable));
        image.push(0);
    }
    let environment_to = image.len() as u64;
    let strings_at = (STACK_TOP - 8 - image.len() as u64) & !15;

    let credentials = &wanted.credentials;
    let words: Vec<u64> = {
        let at = |place: u64| strings_at + place;
        let auxiliary = [
            (aux::PHDR, elf.headers_in_memory().wrapping_add(bias)),
            (aux::PHENT, 56),
            (aux::PHNUM, elf.segments.len() as u64),
            (aux::PAGESZ, PAGE as u64),
            (aux::BASE, interpreter_base),
            (aux::FLAGS, 0),
            (aux::ENTRY, elf.entry.wrapping_add(bias)),
            (aux::UID, credentials.uid.into()),
            (aux::EUID, credentials.euid.into()),
            (aux::GID, credentials.gid.into()),
            (aux::EGID, credentials.egid.into()),
            (aux::SECURE, wanted.gains.into()),
            (aux::CLKTCK, 100),
            (aux::HWCAP, 0x178b_fbff),
            (aux::HWCAP2, 0),
            (aux::PLATFORM, at(platform_at)),
            (aux::RANDOM, at(random_at)),
            (aux::EXECFN, at(path_at)),
            (if vdso == 0 { aux::IGNORE } else { aux::SYSINFO_EHDR }, vdso),
            (aux::NULL, 0),
        ];
        let mut words = vec![wanted.arguments.len() as u64];
        words.extend(argument_places.iter().map(|place| at(*place)));
        words.push(0);
        words.extend(environment_places.iter().map(|place| at(*place)));
        words.push(0);
        words.extend(auxiliary.iter().flat_map(|(key, value)| [*key, *value]));
        words
    };
    let stack = (strings_at - words.len() as u64 * 8) & !15;
    let mut bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    bytes.resize((strings_at - stack) as usize, 0);
    bytes.extend_from_slice(&image);
    c.services.memory(c.resident, id)?.write(UserAddr(stack), &bytes)?;
    let auxiliary = stack + 8 * (wanted.arguments.len() + wanted.environment.len() + 3) as u64;
    let at = |place: u64| strings_at + place;
    Ok(Layout {
        arguments: (at(arguments_from), at(environment_from)),
        environment: (at(environment_from), at(environment_to)),
        auxiliary: (auxiliary, stack + 8 * words.len() as u64),
        stack,
    })
}

/// The interpreter of a script and the one argument it is given.
pub type ScriptInterpreter = (Vec<u8>, Option<Vec<u8>>);

/// What the first line of a script asks for.
pub fn script<M: Machine>(c: &mut Context<'_, M>, node: NodeId) -> Result<Option<ScriptInterpreter>> {
    let mut head = [0; 256];
    let got = content::read(c, node, 0, &mut head)?;
    let Some(line) = head[..got].strip_prefix(b"#!") else { return Ok(None) };
    let line = line.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let text = line.trim_ascii();
    if text.is_empty() {
        return Err(Errno::ENOEXEC.into());
    }
    let end = text.iter().position(|byte| *byte == b' ' || *byte == b'\t').unwrap_or(text.len());
    let argument = text[end..].trim_ascii();
    Ok(Some((text[..end].to_vec(), (!argument.is_empty()).then(|| argument.to_vec()))))
}

/// A command name from a path.
pub fn command_name(path: &[u8]) -> String {
    short_name(path.rsplit(|byte| *byte == b'/').next().unwrap_or_default())
}

/// A name of at most 15 bytes, as threads have them.
pub fn short_name(name: &[u8]) -> String {
    let mut name = String::from_utf8_lossy(name.get(..15).unwrap_or(name)).into_owned();
    while name.len() > 15 {
        name.pop();
    }
    name
}
