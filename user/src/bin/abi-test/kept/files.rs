//! Files: offsets, names, contents without a name.
use super::{Case, Gate, Other};
use crate::{
    Outcome,
    check::{call, same, text, that, works},
};
use std::{
    fs::{self, File, OpenOptions},
    io::{Read, Seek, SeekFrom, Write},
    os::{fd::AsRawFd, unix::fs::MetadataExt},
};

pub const CASES: &[Case] = &[
    ("files/offset-shared-after-dup-and-fork", offsets),
    ("files/unlinked-and-open", unlinked),
    ("files/without-a-name", tmpfile),
    ("files/links-renames-and-attributes", names),
    ("files/holes", holes),
    ("files/flags", flags),
    ("files/directory-half-read", half_read),
];

fn made(name: &str) -> Result<File, String> {
    OpenOptions::new().read(true).write(true).create(true).truncate(true).open(name).map_err(text)
}

fn two(mut file: &File) -> Result<String, String> {
    let mut bytes = [0; 2];
    file.read_exact(&mut bytes).map_err(text)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn offsets(gate: &mut Gate) -> Outcome {
    let mut file = made("f")?;
    file.write_all(b"0123456789").map_err(text)?;
    file.seek(SeekFrom::Start(1)).map_err(text)?;
    let copy = file.try_clone().map_err(text)?;
    let apart = File::open("f").map_err(text)?;
    let child = Other::new(|next| {
        next();
        same("the child's", two(&file)?, "34".to_string())
    })?;
    gate.deaths()?;
    same("one", two(&copy)?, "12".to_string())?;
    child.end()?;
    same("the other", two(&file)?, "56".to_string())?;
    same("opened apart", two(&apart)?, "01".to_string())
}

fn unlinked(gate: &mut Gate) -> Outcome {
    let mut file = made("f")?;
    file.write_all(b"here").map_err(text)?;
    fs::remove_file("f").map_err(text)?;
    gate.deaths()?;
    file.write_all(b" still").map_err(text)?;
    file.rewind().map_err(text)?;
    let mut said = String::new();
    file.read_to_string(&mut said).map_err(text)?;
    same("content", said.as_str(), "here still")?;
    same("links", file.metadata().map_err(text)?.nlink(), 0)?;
    that("no name", !fs::exists("f").map_err(text)?)
}

fn tmpfile(gate: &mut Gate) -> Outcome {
    let path = c".";
    let flags = (libc::O_TMPFILE | libc::O_RDWR) as u64;
    let fd = crate::epoll::owned("O_TMPFILE", call(libc::SYS_openat, &[AT_CWD, path.as_ptr() as u64, flags, 0o600]))?;
    let mut file = File::from(fd);
    file.write_all(b"nameless").map_err(text)?;
    gate.deaths()?;
    file.write_all(b" still").map_err(text)?;
    file.rewind().map_err(text)?;
    let mut said = String::new();
    file.read_to_string(&mut said).map_err(text)?;
    same("content", said.as_str(), "nameless still")?;
    same("links", file.metadata().map_err(text)?.nlink(), 0)
}

const AT_CWD: u64 = -100_i64 as u64;

fn names(gate: &mut Gate) -> Outcome {
    fs::create_dir("d").map_err(text)?;
    fs::write("d/a", "text").map_err(text)?;
    fs::hard_link("d/a", "b").map_err(text)?;
    std::os::unix::fs::symlink("d/a", "s").map_err(text)?;
    fs::rename("d", "e").map_err(text)?;
    let (path, name) = (c"b", c"user.kept");
    let set = [path.as_ptr() as u64, name.as_ptr() as u64, b"value".as_ptr() as u64, 5, 0];
    let has_attribute = call(libc::SYS_setxattr, &set).is_ok();
    let (one, changed) = (fs::metadata("b").map_err(text)?, fs::metadata("e").map_err(text)?);
    gate.deaths()?;
    let (other, after) = (fs::metadata("e/a").map_err(text)?, fs::metadata("e").map_err(text)?);
    same("inode", (other.ino(), other.nlink()), (one.ino(), 2))?;
    same("times", (other.mtime_nsec(), after.mtime_nsec()), (one.mtime_nsec(), changed.mtime_nsec()))?;
    same("symbolic", fs::read_link("s").map_err(text)?.display().to_string().as_str(), "d/a")?;
    that("the old name", !fs::exists("d").map_err(text)?)?;
    if has_attribute {
        let mut value = [0_u8; 8];
        let get = [path.as_ptr() as u64, name.as_ptr() as u64, value.as_mut_ptr() as u64, 8];
        same("length", works("getxattr", call(libc::SYS_getxattr, &get))?, 5)?;
        same("attribute", &std::hint::black_box(value)[..5], b"value")?;
    }
    Ok(())
}

fn holes(gate: &mut Gate) -> Outcome {
    let mut file = made("f")?;
    file.seek(SeekFrom::Start(1 << 20)).map_err(text)?;
    file.write_all(b"far").map_err(text)?;
    let blocks = file.metadata().map_err(text)?.blocks();
    gate.deaths()?;
    let about = file.metadata().map_err(text)?;
    same("size", about.size(), (1 << 20) + 3)?;
    same("blocks", about.blocks(), blocks)?;
    let bytes = fs::read("f").map_err(text)?;
    that("zeros", bytes[..1 << 20].iter().all(|byte| *byte == 0))?;
    same("end", &bytes[1 << 20..], b"far")
}

fn flags(gate: &mut Gate) -> Outcome {
    fs::write("f", "one ").map_err(text)?;
    let mut file = OpenOptions::new().append(true).open("f").map_err(text)?;
    let fd = file.as_raw_fd() as u64;
    let get = |command: i32| call(libc::SYS_fcntl, &[fd, command as u64]);
    works("set", call(libc::SYS_fcntl, &[fd, libc::F_SETFL as u64, (libc::O_APPEND | libc::O_NONBLOCK) as u64]))?;
    let before = (get(libc::F_GETFL), get(libc::F_GETFD));
    gate.deaths()?;
    same("flags", (get(libc::F_GETFL), get(libc::F_GETFD)), before)?;
    fs::write("f", "another ").map_err(text)?;
    file.write_all(b"end").map_err(text)?;
    same("appended", fs::read_to_string("f").map_err(text)?.as_str(), "another end")
}

/// Every name comes once.
fn half_read(gate: &mut Gate) -> Outcome {
    for n in 0..300 {
        fs::write(format!("{n}"), "").map_err(text)?;
    }
    let mut seen = Vec::new();
    let mut entries = fs::read_dir(".").map_err(text)?;
    let name = |entry: std::io::Result<fs::DirEntry>| entry.map_err(text).map(|entry| entry.file_name());
    for entry in entries.by_ref().take(100) {
        seen.push(name(entry)?);
    }
    gate.deaths()?;
    for entry in entries {
        seen.push(name(entry)?);
    }
    seen.sort();
    seen.dedup();
    same("names", seen.len(), 300)
}
