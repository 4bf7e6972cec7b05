//! The file: ELF of type core, one note with the registers, one loadable segment for each run of addresses.
use super::{
    memory::{Physical, Segment},
    registers::Registers,
};
use anyhow::{Context, Result, anyhow};
use object::{
    Endianness, elf,
    write::elf::{Encoder, FileHeader, FileHeaderLayout, ProgramHeader},
};
use std::{
    fs::File,
    io::{BufWriter, Write},
    path::Path,
};

const PAGE: u64 = 4096;
/// Registers of `elf_prstatus` on x86-64 (Linux, `arch/x86/include/asm/elf.h` and `user_64.h`), in order.
const ORDER: [&str; 27] = [
    "R15", "R14", "R13", "R12", "RBP", "RBX", "R11", "R10", "R9", "R8", "RAX", "RCX", "RDX", "RSI", "RDI", "ORIG_RAX",
    "RIP", "CS", "RFL", "RSP", "SS", "FS_BASE", "GS_BASE", "DS", "ES", "FS", "GS",
];
/// Bytes of `elf_prstatus` before and behind the registers.
const BEFORE: usize = 112;
const BEHIND: usize = 8;

/// The note with the registers.
fn note(registers: &Registers) -> Vec<u8> {
    let mut status = vec![0; BEFORE];
    // The process id: a debugger wants one that is not 0.
    if let Some(pid) = status.get_mut(32..36) {
        pid.copy_from_slice(&1_u32.to_le_bytes());
    }
    for name in ORDER {
        status.extend(registers.get(name).to_le_bytes());
    }
    status.resize(status.len() + BEHIND, 0);
    let mut note = Vec::new();
    // Bytes of the name, bytes of the content, kind.
    for word in [5, status.len() as u32, elf::NT_PRSTATUS.0] {
        note.extend(word.to_le_bytes());
    }
    note.extend(b"CORE\0\0\0\0");
    note.extend(status);
    note
}

/// Everything before the content of the segments.
fn headers(registers: &Registers, segments: &[Segment]) -> Result<Vec<u8>> {
    let encoder = Encoder::new(Endianness::Little, true, elf::EM_X86_64);
    let note = note(registers);
    let count = segments.len() as u64 + 1;
    let notes_at = encoder.file_header_size() + count * encoder.program_header_size();
    let mut at = (notes_at + note.len() as u64).next_multiple_of(PAGE);
    let header = FileHeader {
        os_abi: elf::ELFOSABI_NONE,
        abi_version: 0,
        e_type: elf::ET_CORE,
        e_machine: elf::EM_X86_64,
        e_entry: 0,
        e_flags: elf::FileFlags(0),
    };
    let layout = FileHeaderLayout {
        e_phoff: encoder.file_header_size(),
        segment_num: count as u32,
        e_shoff: 0,
        section_num: 0,
        shstrtab_index: 0,
    };
    let mut file: Vec<u8> = Vec::new();
    encoder.file_header(&mut file, &header, &layout).map_err(|error| anyhow!("{error}"))?;
    let first = ProgramHeader {
        p_type: elf::PT_NOTE,
        p_flags: elf::PF_R,
        p_offset: notes_at,
        p_vaddr: 0,
        p_paddr: 0,
        p_filesz: note.len() as u64,
        p_memsz: note.len() as u64,
        p_align: 4,
    };
    encoder.program_header(&mut file, &first);
    for segment in segments {
        let mut flags = elf::PF_R;
        if segment.write {
            flags |= elf::PF_W;
        }
        if segment.execute {
            flags |= elf::PF_X;
        }
        let header = ProgramHeader {
            p_type: elf::PT_LOAD,
            p_flags: flags,
            p_offset: at,
            p_vaddr: segment.start,
            p_paddr: segment.runs.first().map_or(0, |(phys, _)| *phys),
            p_filesz: segment.len(),
            p_memsz: segment.len(),
            p_align: PAGE,
        };
        encoder.program_header(&mut file, &header);
        at += segment.len();
    }
    file.extend(note);
    file.resize((file.len() as u64).next_multiple_of(PAGE) as usize, 0);
    Ok(file)
}

/// Writes the file; returns its bytes.
pub fn write(path: &Path, registers: &Registers, segments: &[Segment], memory: &mut Physical<'_>) -> Result<u64> {
    let mut file = BufWriter::new(File::create(path).context("cannot make it")?);
    let front = headers(registers, segments)?;
    file.write_all(&front)?;
    let mut bytes = Vec::new();
    for (phys, len) in segments.iter().flat_map(|segment| &segment.runs) {
        bytes.clear();
        memory.read(*phys, *len, &mut bytes)?;
        file.write_all(&bytes)?;
    }
    file.flush()?;
    Ok(front.len() as u64 + segments.iter().map(Segment::len).sum::<u64>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use object::read::elf::{ElfFile64, ProgramHeader as _};

    #[test]
    fn a_reader_finds_registers_and_segments() {
        let segments = [
            Segment { start: 0xffff_c000_0000_0000, write: true, execute: false, runs: vec![(0x20_0000, 0x3000)] },
            Segment { start: 0xffff_ffff_8020_0000, write: false, execute: true, runs: vec![(0x1000, 0x1000)] },
        ];
        let mut front = headers(&Registers::default(), &segments).expect("headers");
        front.resize(front.len() + 0x4000, 7);
        let file = ElfFile64::<Endianness>::parse(&*front).expect("an ELF file");
        let headers = file.elf_program_headers();
        assert_eq!(headers.len(), 3);
        let mut notes = headers[0].notes(Endianness::Little, &*front).expect("notes").expect("notes");
        let note = notes.next().expect("a note").expect("a note");
        assert_eq!((note.name(), note.desc().len()), (&b"CORE"[..], 336));
        assert_eq!(headers[1].p_vaddr(Endianness::Little), 0xffff_c000_0000_0000);
        assert_eq!(headers[2].data(Endianness::Little, &*front), Ok(&[7; 0x1000][..]));
    }
}
