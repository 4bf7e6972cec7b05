//! Programs in files: `checkpoint save` and `checkpoint restore`.
//!
//! A file has a head of 64 bytes, the program's records and the list of its pages as the machine gives them, a map of the
//! pages that are not all zeros, and those pages, each behind its checksum. All numbers are little-endian. The format is
//! described in `docs/image-format.md`.
use crate::control::Control;
use anyhow::{Context, Result, anyhow, ensure};
use shimos_abi::{
    control::{Target, Transfer},
    ids::{KernelId, Pid, ProgramId},
    time::Nanos,
};
use std::{fs, path::Path};

const MAGIC: &[u8; 8] = b"SHIMSAVE";
/// The version that is written. Version 1 has no map: all pages are there. Version 2 has other records.
pub const VERSION: u32 = 3;
const HEAD: usize = 64;
const PAGE: usize = 4096;
/// Bytes of a page in the list.
const ENTRY: usize = 12;
/// Larger numbers than any machine takes are not believed.
const MOST_RECORDS: usize = 64 << 20;
const MOST_PAGES: usize = 1 << 24;
/// Bytes that one request brings.
const PART: usize = 28 << 10;

/// A program that was saved.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Saved {
    /// What it is.
    pub what: Transfer,
    /// Its records and the list of its pages.
    pub front: Vec<u8>,
    /// Its pages, one behind the other.
    pub pages: Vec<u8>,
}

/// Where a program was restored.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Restored {
    /// The program.
    pub program: ProgramId,
    /// Its first process.
    pub pid: Pid,
    /// Where it runs.
    pub kernel: KernelId,
    /// Connections that were closed.
    pub closed: u32,
}

/// Takes numbers and bytes from a file, from the front.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn bytes(&mut self, count: usize) -> Result<&'a [u8]> {
        let (bytes, rest) = self.0.split_at_checked(count).context("the file is cut off")?;
        self.0 = rest;
        Ok(bytes)
    }
    fn word(&mut self) -> Result<u32> {
        Ok(self.bytes(4)?.iter().rev().fold(0, |number, byte| number << 8 | u32::from(*byte)))
    }
    fn long(&mut self) -> Result<u64> {
        let (low, high) = (self.word()?, self.word()?);
        Ok(u64::from(high) << 32 | u64::from(low))
    }
}

impl Saved {
    /// As the bytes of a file.
    pub fn encode(&self) -> Vec<u8> {
        let pages: Vec<&[u8]> = self.pages.chunks(PAGE).collect();
        let mut map = vec![0_u8; pages.len().div_ceil(8)];
        for (index, _) in pages.iter().enumerate().filter(|(_, page)| page.iter().any(|byte| *byte != 0)) {
            map[index / 8] |= 1 << (index % 8);
        }
        let mut front = crc32fast::Hasher::new();
        front.update(&self.front);
        front.update(&map);
        let mut head = Vec::with_capacity(HEAD);
        head.extend(u32::from(self.what.program.0).to_le_bytes());
        head.extend(self.what.records.to_le_bytes());
        head.extend(self.what.pages.to_le_bytes());
        head.extend(front.finalize().to_le_bytes());
        head.extend(self.what.time.0.to_le_bytes());
        head.resize(HEAD - 16, 0);
        let mut file = MAGIC.to_vec();
        file.extend(VERSION.to_le_bytes());
        file.extend(crc32fast::hash(&head).to_le_bytes());
        file.extend(head);
        file.extend(&self.front);
        file.extend(&map);
        for (index, page) in pages.iter().enumerate() {
            if map[index / 8] & 1 << (index % 8) != 0 {
                file.extend(crc32fast::hash(page).to_le_bytes());
                file.extend(*page);
            }
        }
        file
    }

    /// From the bytes of a file, of this version or an earlier one. Nothing in it is trusted.
    pub fn decode(file: &[u8]) -> Result<Saved> {
        let mut reader = Reader(file);
        ensure!(reader.bytes(8).ok() == Some(MAGIC), "this is no saved program");
        let (version, check) = (reader.word()?, reader.word()?);
        ensure!(
            version != 0 && version <= VERSION,
            "version {version} of the format is not known; this tool reads 1 to {VERSION}"
        );
        let head = reader.bytes(HEAD - 16)?;
        ensure!(crc32fast::hash(head) == check, "its head is damaged");
        let mut head = Reader(head);
        let program = u16::try_from(head.word()?).map_err(|_| anyhow!("its head makes no sense"))?;
        let (records, count, front_check, time) = (head.word()?, head.word()?, head.word()?, head.long()?);
        let (records_size, pages_size) = (records as usize, count as usize);
        ensure!(records_size <= MOST_RECORDS && pages_size <= MOST_PAGES, "its head makes no sense");
        let front = reader.bytes(records_size + pages_size * ENTRY)?;
        let map = if version == 1 {
            vec![0xff; pages_size.div_ceil(8)]
        } else {
            reader.bytes(pages_size.div_ceil(8))?.to_vec()
        };
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(front);
        if version > 1 {
            hasher.update(&map);
        }
        ensure!(hasher.finalize() == front_check, "its records are damaged");
        let there = |index: usize| map[index / 8] & 1 << (index % 8) != 0;
        let stored = (0..pages_size).filter(|index| there(*index)).count();
        ensure!(reader.0.len() >= stored * (PAGE + 4), "the file is cut off");
        ensure!(reader.0.len() == stored * (PAGE + 4), "there is more in the file than its head says");
        let mut pages = vec![0; pages_size * PAGE];
        for (index, page) in pages.chunks_mut(PAGE).enumerate().filter(|(index, _)| there(*index)) {
            let check = reader.word()?;
            let bytes = reader.bytes(PAGE)?;
            ensure!(crc32fast::hash(bytes) == check, "page {index} of {pages_size} is damaged");
            page.copy_from_slice(bytes);
        }
        let what = Transfer { program: ProgramId(program), time: Nanos(time), records, pages: count };
        Ok(Saved { what, front: front.to_vec(), pages })
    }

    /// Reads a program that runs. It is as it was at one moment, and goes on.
    pub fn of_machine(control: &mut Control, target: Target) -> Result<Saved> {
        let what = control.save(target)?;
        let front = what.records as usize + what.pages as usize * ENTRY;
        let all = front + what.pages as usize * PAGE;
        let mut bytes = Vec::with_capacity(all);
        while bytes.len() < all {
            let part = control.saved_part(what.program, bytes.len() as u64)?;
            ensure!(!part.is_empty(), "the machine has less of the program than it said");
            bytes.extend(part);
        }
        ensure!(bytes.len() == all, "the machine has more of the program than it said");
        // Then it is kept no longer.
        control.saved_part(what.program, all as u64)?;
        let pages = bytes.split_off(front);
        Ok(Saved { what, front: bytes, pages })
    }

    /// Lets it go on in a machine.
    pub fn restore(&self, control: &mut Control) -> Result<Restored> {
        control.begin_restore(self.what)?;
        let mut from = 0;
        for bytes in [&self.front, &self.pages] {
            for part in bytes.chunks(PART) {
                control.restore_part(self.what.program, from, part)?;
                from += part.len() as u64;
            }
        }
        control.end_restore(self.what.program)
    }
}

/// Saves a program to a file.
pub fn save(control: &mut Control, target: Target, file: &Path) -> Result<String> {
    let saved = Saved::of_machine(control, target)?;
    let bytes = saved.encode();
    // A file that is there is whole.
    let beside = file.with_extension("part");
    fs::write(&beside, &bytes).with_context(|| format!("cannot write {}", beside.display()))?;
    fs::rename(&beside, file).with_context(|| format!("cannot write {}", file.display()))?;
    let (pages, size) = (saved.what.pages, bytes.len() >> 10);
    Ok(format!("{}: {pages} pages of program {}, {size} KiB\n", file.display(), saved.what.program))
}

/// Restores a program from a file.
pub fn restore(control: &mut Control, file: &Path) -> Result<String> {
    let bytes = fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    let saved = Saved::decode(&bytes).with_context(|| format!("{} cannot be used", file.display()))?;
    let Restored { program, pid, kernel, closed } = saved.restore(control)?;
    let mut told = format!("program {program} goes on: process {} on {kernel}\n", pid.0);
    if closed > 0 {
        told += &format!("{closed} connections were closed: their peers are elsewhere\n");
    }
    Ok(told)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Saved {
        let what = Transfer { program: ProgramId(2), time: Nanos(77), records: 100, pages: 3 };
        let mut pages = vec![0; 3 * PAGE];
        pages[PAGE + 5] = 7;
        pages[2 * PAGE..].fill(0xa5);
        Saved { what, front: (0..136_u8).collect(), pages }
    }

    fn wrong(file: &[u8]) -> String {
        Saved::decode(file).expect_err("refused").to_string()
    }

    #[test]
    fn what_was_written_is_read_again() {
        let file = sample().encode();
        // The page of zeros takes no room.
        assert_eq!(file.len(), HEAD + 136 + 1 + 2 * (PAGE + 4));
        assert_eq!(Saved::decode(&file).expect("whole"), sample());
    }

    #[test]
    fn files_of_the_version_before_are_read() {
        let saved = sample();
        let mut file = saved.encode();
        file.truncate(HEAD);
        file[8..12].copy_from_slice(&1_u32.to_le_bytes());
        file[28..32].copy_from_slice(&crc32fast::hash(&saved.front).to_le_bytes());
        let check = crc32fast::hash(&file[16..]).to_le_bytes();
        file[12..16].copy_from_slice(&check);
        file.extend(&saved.front);
        for page in saved.pages.chunks(PAGE) {
            file.extend(crc32fast::hash(page).to_le_bytes());
            file.extend(page);
        }
        assert_eq!(Saved::decode(&file).expect("whole"), saved);
    }

    #[test]
    fn hostile_files_are_refused_in_words() {
        let file = sample().encode();
        assert_eq!(wrong(b"#!/bin/sh"), "this is no saved program");
        assert_eq!(wrong(&[]), "this is no saved program");
        let mut later = file.clone();
        later[8] = 9;
        assert!(wrong(&later).contains("version 9"));
        for (at, telling) in
            [(20, "head"), (HEAD + 3, "records"), (HEAD + 136, "records"), (file.len() - 1, "page 2 of 3")]
        {
            let mut damaged = file.clone();
            damaged[at] ^= 0x10;
            assert!(wrong(&damaged).contains(telling), "{at}: {}", wrong(&damaged));
        }
        for length in [9, HEAD - 1, HEAD + 50, file.len() - 1] {
            assert!(wrong(&file[..length]).contains("cut off"), "{length}: {}", wrong(&file[..length]));
        }
        let longer = [file.as_slice(), b"x"].concat();
        assert!(wrong(&longer).contains("more in the file"));
        // A head with a right checksum that wants all memory.
        let mut greedy = file;
        greedy[20..28].fill(0xff);
        let check = crc32fast::hash(&greedy[16..HEAD]).to_le_bytes();
        greedy[12..16].copy_from_slice(&check);
        assert!(wrong(&greedy).contains("makes no sense"));
    }
}
