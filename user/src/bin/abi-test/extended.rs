//! Extended attributes.
use crate::{
    Outcome, Subtest,
    check::{fails, same, that, works},
};
use rustix::fs::{
    XattrFlags, fgetxattr, fremovexattr, fsetxattr, getxattr, lgetxattr, listxattr, lsetxattr, removexattr, setxattr,
};
use shimos_user::raw;
use std::{fs::File, os::fd::AsRawFd};

/// The subtests.
pub const TESTS: &[Subtest] =
    &[("attributes/kept", kept), ("attributes/refused", refused), ("attributes/links", links)];

fn text(error: std::io::Error) -> String {
    error.to_string()
}

/// The value of an attribute of a path.
fn value(path: &str, name: &str) -> Result<Vec<u8>, rustix::io::Errno> {
    let mut bytes = [0; 4096];
    getxattr(path, name, &mut bytes).map(|len| bytes[..len].to_vec())
}

/// The names of kind `user`, sorted.
fn names(list: &[u8]) -> Vec<String> {
    let mut names: Vec<String> = list
        .split(|byte| *byte == 0)
        .map(|name| String::from_utf8_lossy(name).into_owned())
        .filter(|name| name.starts_with("user."))
        .collect();
    names.sort();
    names
}

/// Whether the file system here has attributes at all: not all of Linux's have.
fn are_there(path: &str) -> bool {
    setxattr(path, "user.probe", b"", XattrFlags::empty()) != Err(rustix::io::Errno::OPNOTSUPP)
        && removexattr(path, "user.probe").is_ok()
}

fn kept() -> Outcome {
    let file = File::create("file").map_err(text)?;
    if !are_there("file") {
        return Ok(());
    }
    works("set", setxattr("file", "user.one", b"first", XattrFlags::empty()))?;
    works("set by descriptor", fsetxattr(&file, "user.two", b"", XattrFlags::CREATE))?;
    same("get", value("file", "user.one"), Ok(b"first".to_vec()))?;
    same("an empty one", value("file", "user.two"), Ok(Vec::new()))?;
    works("again", setxattr("file", "user.one", b"other\0 bytes", XattrFlags::REPLACE))?;
    same("get", value("file", "user.one"), Ok(b"other\0 bytes".to_vec()))?;
    let (path, name) = (c"file", c"user.one");
    let asked = [path.as_ptr() as u64, name.as_ptr() as u64, 0, 0, 0, 0];
    same("how long", raw::call(libc::SYS_getxattr, asked), Ok(12))?;
    fails("no room", fgetxattr(&file, "user.one", &mut [0; 3]), libc::ERANGE)?;
    let mut list = [0; 256];
    let len = works("list", listxattr("file", &mut list))?;
    same("names", names(&list[..len]), vec!["user.one".to_string(), "user.two".to_string()])?;
    let asked = [file.as_raw_fd() as u64, 0, 0, 0, 0, 0];
    same("how long", raw::call(libc::SYS_flistxattr, asked), Ok(len as u64))?;
    fails("no room", listxattr("file", &mut [0; 1]), libc::ERANGE)?;
    std::fs::rename("file", "moved").map_err(text)?;
    std::fs::hard_link("moved", "linked").map_err(text)?;
    same("under another name", value("linked", "user.one"), Ok(b"other\0 bytes".to_vec()))?;
    works("remove", removexattr("linked", "user.one"))?;
    fails("gone", value("moved", "user.one"), libc::ENODATA)?;
    works("remove by descriptor", fremovexattr(&file, "user.two"))?;
    fails("gone", fremovexattr(&file, "user.two"), libc::ENODATA)
}

fn refused() -> Outcome {
    let file = File::create("file").map_err(text)?;
    if !are_there("file") {
        return Ok(());
    }
    let set = |name: &str, value: &[u8], flags: XattrFlags| setxattr("file", name, value, flags);
    works("set", set("user.there", b"x", XattrFlags::CREATE))?;
    fails("there", set("user.there", b"x", XattrFlags::CREATE), libc::EEXIST)?;
    fails("not there", set("user.new", b"x", XattrFlags::REPLACE), libc::ENODATA)?;
    fails("flags", set("user.new", b"x", XattrFlags::from_bits_retain(4)), libc::EINVAL)?;
    fails("kind", set("nothing.new", b"x", XattrFlags::empty()), libc::EOPNOTSUPP)?;
    fails("no name", set("", b"x", XattrFlags::empty()), libc::ERANGE)?;
    fails("half a name", set("user.", b"x", XattrFlags::empty()), libc::EINVAL)?;
    fails("a long name", set(&format!("user.{}", "n".repeat(251)), b"x", XattrFlags::empty()), libc::ERANGE)?;
    fails("too much", set("user.new", &[0; 65537], XattrFlags::empty()), libc::E2BIG)?;
    fails("none", fgetxattr(&file, "user.none", &mut [0; 8]), libc::ENODATA)?;
    fails("no file", getxattr("missing", "user.none", &mut [0; 8]), libc::ENOENT)?;
    let path = works("O_PATH", rustix::fs::open("file", rustix::fs::OFlags::PATH, rustix::fs::Mode::empty()))?;
    fails("O_PATH", fgetxattr(&path, "user.there", &mut [0; 8]), libc::EBADF)
}

fn links() -> Outcome {
    std::fs::create_dir("dir").map_err(text)?;
    if !are_there("dir") {
        return Ok(());
    }
    std::os::unix::fs::symlink("dir", "link").map_err(text)?;
    works("through a link", setxattr("link", "user.a", b"1", XattrFlags::empty()))?;
    same("of a directory", value("dir", "user.a"), Ok(b"1".to_vec()))?;
    fails("a link has none", lsetxattr("link", "user.a", b"1", XattrFlags::empty()), libc::EPERM)?;
    that("nor any to see", lgetxattr("link", "user.a", &mut [0; 8]).is_err())
}
