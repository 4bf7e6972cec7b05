//! Contents of files.
use crate::{
    Outcome, Subtest,
    check::{asleep, fails, parent_asleep, same, text, that, works},
};
use rustix::{
    fs::{self, FallocateFlags, Mode, OFlags, SeekFrom},
    io,
};
use shimos_user::raw;
use std::{
    fs::{File, OpenOptions},
    io::{IoSlice, Read, Seek, Write},
    os::{
        fd::{AsFd, AsRawFd},
        unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt},
    },
};

/// The subtests.
pub const TESTS: &[Subtest] = &[
    ("files/read-write", read_write),
    ("files/append", append),
    ("files/positions", positions),
    ("files/holes", holes),
    ("files/truncate", truncate),
    ("files/vectors", vectors),
    ("files/big", big),
    ("files/flags", flags),
    ("files/modes", modes),
    ("files/unlinked", unlinked),
    ("files/descriptors", descriptors),
    ("files/locks", locks),
    ("files/locks-of-the-dead", locks_of_the_dead),
    ("files/sendfile", sendfile),
    ("files/whole-reads", whole_reads),
    ("files/allocate", allocate),
    ("files/special", special),
    ("files/limits", limits),
    ("files/image-copy-up", image_copy_up),
    ("files/bad-addresses", bad_addresses),
];

fn read_write() -> Outcome {
    std::fs::write("a", b"hello").map_err(text)?;
    same("content", std::fs::read("a").map_err(text)?, b"hello".to_vec())?;
    let mut file = OpenOptions::new().read(true).write(true).open("a").map_err(text)?;
    file.write_all(b"HE").map_err(text)?;
    let mut rest = String::new();
    file.read_to_string(&mut rest).map_err(text)?;
    same("rest", rest.as_str(), "llo")?;
    let reader = File::open("a").map_err(text)?;
    fails("write to a reader", (&reader).write(b"x"), libc::EBADF)?;
    let writer = OpenOptions::new().write(true).open("a").map_err(text)?;
    fails("read from a writer", (&writer).read(&mut [0]), libc::EBADF)?;
    same("read at the end", (&file).read(&mut [0; 8]).map_err(text)?, 0)?;
    let meta = std::fs::metadata("a").map_err(text)?;
    same("blocks", meta.blocks() > 0, true)
}

fn append() -> Outcome {
    let mut one = OpenOptions::new().append(true).create(true).open("a").map_err(text)?;
    let mut two = OpenOptions::new().append(true).open("a").map_err(text)?;
    one.write_all(b"1").map_err(text)?;
    two.write_all(b"2").map_err(text)?;
    one.write_all(b"3").map_err(text)?;
    same("content", std::fs::read("a").map_err(text)?, b"123".to_vec())
}

fn positions() -> Outcome {
    let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open("a").map_err(text)?;
    file.write_all(b"0123456789").map_err(text)?;
    let mut two = [0; 2];
    same("pread", file.read_at(&mut two, 4).map_err(text)?, 2)?;
    same("pread bytes", &two, b"45")?;
    file.write_at(b"xy", 8).map_err(text)?;
    same("position", file.stream_position().map_err(text)?, 10)?;
    same("seek to the end", file.seek(std::io::SeekFrom::End(-3)).map_err(text)?, 7)?;
    fails("seek before the start", file.seek(std::io::SeekFrom::Current(-8)), libc::EINVAL)?;
    same("seek behind", file.seek(std::io::SeekFrom::Start(100)).map_err(text)?, 100)?;
    same("read behind", file.read(&mut two).map_err(text)?, 0)?;
    fails("a bad whence", raw::call(libc::SYS_lseek, [file.as_raw_fd() as u64, 0, 99, 0, 0, 0]), libc::EINVAL)?;
    same("SEEK_DATA", works("SEEK_DATA", fs::seek(&file, SeekFrom::Data(3)))?, 3)?;
    fails("SEEK_DATA behind", fs::seek(&file, SeekFrom::Data(1000)), libc::ENXIO)?;
    fails("pread at -1", raw::call(libc::SYS_pread64, [file.as_raw_fd() as u64, 0, 0, u64::MAX, 0, 0]), libc::EINVAL)?;
    let (reader, _writer) = std::io::pipe().map_err(text)?;
    fails("seek in a pipe", fs::seek(&reader, SeekFrom::Current(0)), libc::ESPIPE)
}

fn holes() -> Outcome {
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open("a").map_err(text)?;
    file.write_at(b"end", 1_000_000).map_err(text)?;
    same("size", file.metadata().map_err(text)?.len(), 1_000_003)?;
    let mut bytes = vec![1; 4097];
    file.read_exact_at(&mut bytes, 500_000).map_err(text)?;
    that("a hole reads as zeros", bytes.iter().all(|byte| *byte == 0))
}

fn truncate() -> Outcome {
    std::fs::write("a", [7; 10_000]).map_err(text)?;
    let file = OpenOptions::new().read(true).write(true).open("a").map_err(text)?;
    file.set_len(5000).map_err(text)?;
    file.set_len(9000).map_err(text)?;
    let mut bytes = vec![1; 9000];
    file.read_exact_at(&mut bytes, 0).map_err(text)?;
    that("kept", bytes[..5000].iter().all(|byte| *byte == 7))?;
    that("zeros behind the cut", bytes[5000..].iter().all(|byte| *byte == 0))?;
    let reader = File::open("a").map_err(text)?;
    fails("truncate a reader", fs::ftruncate(&reader, 1), libc::EINVAL)?;
    drop(OpenOptions::new().write(true).truncate(true).open("a").map_err(text)?);
    same("O_TRUNC", std::fs::metadata("a").map_err(text)?.len(), 0)
}

fn vectors() -> Outcome {
    let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open("a").map_err(text)?;
    let parts = [IoSlice::new(b"ab"), IoSlice::new(b""), IoSlice::new(b"cde")];
    same("writev", file.write_vectored(&parts).map_err(text)?, 5)?;
    let (mut one, mut two) = ([0; 1], [0; 8]);
    file.rewind().map_err(text)?;
    let mut spans = [std::io::IoSliceMut::new(&mut one), std::io::IoSliceMut::new(&mut two)];
    same("readv", file.read_vectored(&mut spans).map_err(text)?, 5)?;
    same("first", &one, b"a")?;
    same("second", &two[..4], &b"bcde"[..])?;
    let fd = file.as_raw_fd() as u64;
    fails("too many vectors", raw::call(libc::SYS_writev, [fd, 0, 1025, 0, 0, 0]), libc::EINVAL)?;
    same("no vectors", works("writev", raw::call(libc::SYS_writev, [fd, 0, 0, 0, 0, 0]))?, 0)
}

fn big() -> Outcome {
    let block: Vec<u8> = (0..1_000_003_u32).map(|n| (n * 7 % 251) as u8).collect();
    let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open("a").map_err(text)?;
    for _ in 0..3 {
        file.write_all(&block).map_err(text)?;
    }
    let whole = std::fs::read("a").map_err(text)?;
    same("size", whole.len(), block.len() * 3)?;
    that("content", whole.chunks(block.len()).all(|chunk| chunk == block))
}

fn flags() -> Outcome {
    let create = OFlags::CREATE | OFlags::WRONLY;
    let file = works("create", fs::open("a", create | OFlags::EXCL, Mode::from_raw_mode(0o600)))?;
    fails("O_EXCL", fs::open("a", create | OFlags::EXCL, Mode::empty()), libc::EEXIST)?;
    fails("O_DIRECTORY", fs::open("a", OFlags::DIRECTORY, Mode::empty()), libc::ENOTDIR)?;
    fails("write a directory", fs::open(".", OFlags::WRONLY, Mode::empty()), libc::EISDIR)?;
    fails("no such", fs::open("b", OFlags::RDONLY, Mode::empty()), libc::ENOENT)?;
    fails("below a file", fs::open("a/b", OFlags::RDONLY, Mode::empty()), libc::ENOTDIR)?;
    fails("an empty path", fs::open("", OFlags::RDONLY, Mode::empty()), libc::ENOENT)?;
    fails("a long name", fs::open("x".repeat(256), create, Mode::empty()), libc::ENAMETOOLONG)?;
    fails(
        "a long path",
        raw::call(libc::SYS_open, [c"x/".to_bytes().repeat(3000).as_ptr() as u64, 0, 0, 0, 0, 0]),
        libc::ENAMETOOLONG,
    )?;
    works("symlink", fs::symlink("a", "l"))?;
    fails("O_NOFOLLOW", fs::open("l", OFlags::NOFOLLOW, Mode::empty()), libc::ELOOP)?;
    works("loop", fs::symlink("m", "m"))?;
    fails("a loop", fs::open("m", OFlags::RDONLY, Mode::empty()), libc::ELOOP)?;
    let status = works("F_GETFL", fs::fcntl_getfl(&file))?;
    same("access mode", status & OFlags::RWMODE, OFlags::WRONLY)?;
    works("F_SETFL", fs::fcntl_setfl(&file, OFlags::APPEND))?;
    that("append is on", works("F_GETFL", fs::fcntl_getfl(&file))?.contains(OFlags::APPEND))?;
    let path = works("O_PATH", fs::open("a", OFlags::PATH, Mode::empty()))?;
    fails("read by O_PATH", io::read(&path, &mut [0; 1]), libc::EBADF)?;
    same("fstat by O_PATH", works("fstat", fs::fstat(&path))?.st_size, 0)
}

fn modes() -> Outcome {
    let old = rustix::process::umask(Mode::from_raw_mode(0o027));
    OpenOptions::new().write(true).create(true).truncate(true).mode(0o666).open("a").map_err(text)?;
    rustix::process::umask(old);
    same("mode", std::fs::metadata("a").map_err(text)?.mode(), 0o100_640)?;
    std::fs::set_permissions("a", std::fs::Permissions::from_mode(0o4755)).map_err(text)?;
    same("chmod", std::fs::metadata("a").map_err(text)?.mode(), 0o104_755)?;
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown("a", Some(12), Some(34)).map_err(text)?;
        let meta = std::fs::metadata("a").map_err(text)?;
        same("owner", (meta.uid(), meta.gid()), (12, 34))?;
        std::fs::write("secret", b"x").map_err(text)?;
        std::fs::set_permissions("secret", std::fs::Permissions::from_mode(0o600)).map_err(text)?;
        std::fs::set_permissions(".", std::fs::Permissions::from_mode(0o755)).map_err(text)?;
        let child = raw::fork(|| {
            let dropped = raw::call(libc::SYS_setgid, [1000, 0, 0, 0, 0, 0]).is_ok()
                && raw::call(libc::SYS_setuid, [1000, 0, 0, 0, 0, 0]).is_ok();
            let read = File::open("secret").map_err(|error| error.raw_os_error());
            let made = File::create("new").map_err(|error| error.raw_os_error());
            let denied = Some(libc::EACCES);
            i32::from(!(dropped && read.is_err_and(|e| e == denied) && made.is_err_and(|e| e == denied)))
        })
        .map_err(text)?;
        same("another user is refused", raw::exit_of(child).map_err(text)?, 0)?;
    }
    fails("chmod nothing", std::fs::set_permissions("b", std::fs::Permissions::from_mode(0o0)), libc::ENOENT)
}

fn unlinked() -> Outcome {
    let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open("a").map_err(text)?;
    file.write_all(b"still here").map_err(text)?;
    std::fs::remove_file("a").map_err(text)?;
    same("links", file.metadata().map_err(text)?.nlink(), 0)?;
    file.rewind().map_err(text)?;
    let mut content = String::new();
    file.read_to_string(&mut content).map_err(text)?;
    same("content", content.as_str(), "still here")?;
    let temporary = works("O_TMPFILE", fs::open(".", OFlags::TMPFILE | OFlags::RDWR, Mode::from_raw_mode(0o600)))?;
    same("written", works("write", io::write(&temporary, b"x"))?, 1)
}

fn descriptors() -> Outcome {
    let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open("a").map_err(text)?;
    let copy = works("dup", io::dup(&file))?;
    file.write_all(b"abc").map_err(text)?;
    same("shared position", works("lseek", fs::seek(&copy, SeekFrom::Current(0)))?, 3)?;
    let high = works("F_DUPFD_CLOEXEC", io::fcntl_dupfd_cloexec(&file, 100))?;
    that("from 100 on", high.as_raw_fd() >= 100)?;
    that("close-on-exec", works("F_GETFD", io::fcntl_getfd(&high))?.contains(io::FdFlags::CLOEXEC))?;
    fails("a bad descriptor", raw::call(libc::SYS_fstat, [999, 0, 0, 0, 0, 0]), libc::EBADF)?;
    fails("close twice", raw::call(libc::SYS_close, [999, 0, 0, 0, 0, 0]), libc::EBADF)?;
    fails("dup2 too far", raw::call(libc::SYS_dup2, [0, 1 << 30, 0, 0, 0, 0]), libc::EBADF)?;
    fails("dup3 to itself", raw::call(libc::SYS_dup3, [1, 1, 0, 0, 0, 0]), libc::EINVAL)?;
    same("dup2 to itself", works("dup2", raw::call(libc::SYS_dup2, [1, 1, 0, 0, 0, 0]))?, 1)?;
    works("close_range", raw::call(libc::SYS_close_range, [100, 200, 0, 0, 0, 0]))?;
    fails("closed", io::fcntl_getfd(&high), libc::EBADF)?;
    std::mem::forget(high);
    fails("an unknown fcntl", raw::call(libc::SYS_fcntl, [1, 77, 0, 0, 0, 0]), libc::EINVAL)
}

/// A process that ends without unlocking holds nothing any more, and who waits for its lock is woken.
fn locks_of_the_dead() -> Outcome {
    let file = File::create("dead").map_err(text)?;
    let (mut told, mut tell) = std::io::pipe().map_err(text)?;
    let child = raw::fork(move || {
        let Ok(held) = File::options().write(true).open("dead") else { return 1 };
        let locked = fs::fcntl_lock(&held, fs::FlockOperation::NonBlockingLockExclusive).is_ok();
        // Its end closes the file, nothing else does.
        std::mem::forget(held);
        let _ = tell.write_all(b"l");
        i32::from(!locked || parent_asleep().is_err())
    })
    .map_err(text)?;
    told.read_exact(&mut [0]).map_err(text)?;
    works("the lock of the dead", fs::fcntl_lock(&file, fs::FlockOperation::LockExclusive))?;
    same("child", raw::exit_of(child).map_err(text)?, 0)
}

fn locks() -> Outcome {
    let one = File::create("a").map_err(text)?;
    let two = File::open("a").map_err(text)?;
    works("flock", fs::flock(&one, fs::FlockOperation::LockExclusive))?;
    fails("a second flock", fs::flock(&two, fs::FlockOperation::NonBlockingLockShared), libc::EWOULDBLOCK)?;
    works("unlock", fs::flock(&one, fs::FlockOperation::Unlock))?;
    works("shared", fs::flock(&two, fs::FlockOperation::NonBlockingLockShared))?;
    works("fcntl lock", fs::fcntl_lock(&one, fs::FlockOperation::NonBlockingLockExclusive))?;
    let child = raw::fork(|| {
        let file = OpenOptions::new().write(true).open("a");
        let busy = file.map(|file| fs::fcntl_lock(&file, fs::FlockOperation::NonBlockingLockExclusive));
        i32::from(!matches!(busy, Ok(Err(io::Errno::AGAIN | io::Errno::ACCESS))))
    })
    .map_err(text)?;
    same("another process is refused", raw::exit_of(child).map_err(text)?, 0)?;
    // A waiter gets the lock when the holder lets go.
    let waiter = raw::fork(|| {
        let file = OpenOptions::new().write(true).open("a");
        i32::from(!file.is_ok_and(|file| fs::fcntl_lock(&file, fs::FlockOperation::LockExclusive).is_ok()))
    })
    .map_err(text)?;
    asleep(waiter)?;
    works("unlock", fs::fcntl_lock(&one, fs::FlockOperation::Unlock))?;
    same("the waiter", raw::exit_of(waiter).map_err(text)?, 0)
}

fn sendfile() -> Outcome {
    std::fs::write("a", b"0123456789").map_err(text)?;
    let input = File::open("a").map_err(text)?;
    let output = File::create("b").map_err(text)?;
    let mut from = 2;
    same("sent", works("sendfile", fs::sendfile(&output, &input, Some(&mut from), 5))?, 5)?;
    same("position", from, 7)?;
    same("content", std::fs::read("b").map_err(text)?, b"23456".to_vec())?;
    let (reader, writer) = std::io::pipe().map_err(text)?;
    same("to a pipe", works("sendfile", fs::sendfile(&writer, &input, None, 100))?, 10)?;
    let mut bytes = [0; 10];
    (&reader).read_exact(&mut bytes).map_err(text)?;
    same("through the pipe", &bytes, b"0123456789")?;
    // A pipe takes what fits. With a socket the call waits until all has gone.
    let all: Vec<u8> = (0..1_000_000_u32).map(|n| (n % 251) as u8).collect();
    std::fs::write("big", &all).map_err(text)?;
    let input = File::open("big").map_err(text)?;
    same("as much as fits", works("sendfile", fs::sendfile(&writer, &input, None, 2_000_000))?, 65536)?;
    (&input).rewind().map_err(text)?;
    let (near, mut far) = std::os::unix::net::UnixStream::pair().map_err(text)?;
    let taker = std::thread::spawn(move || {
        let mut got = Vec::new();
        far.read_to_end(&mut got).map(|_| got)
    });
    same("all at once", works("sendfile", fs::sendfile(&near, &input, None, 2_000_000))?, 1_000_000)?;
    drop(near);
    let got = taker.join().map_err(|_| "the taker ended")?.map_err(text)?;
    that("all of it, in order", got == all)?;
    same("position at the end", (&input).stream_position().map_err(text)?, 1_000_000)?;
    // Copying by the standard library uses whatever the kernel offers.
    same("copied", std::fs::copy("a", "c").map_err(text)?, 10)?;
    same("the copy", std::fs::read("c").map_err(text)?, b"0123456789".to_vec())
}

/// A read of a file is short only at its end, wherever its content has to come from.
fn whole_reads() -> Outcome {
    let file = File::open("/proc/self/exe").map_err(text)?;
    let size = file.metadata().map_err(text)?.len();
    let mut piece = vec![0; 100_000];
    let mut at = 0;
    while at < size {
        let wanted = (size - at).min(piece.len() as u64);
        same("bytes of one read", file.read_at(&mut piece, at).map_err(text)? as u64, wanted)?;
        at += wanted;
    }
    same("at the end", file.read_at(&mut piece, size).map_err(text)?, 0)
}

fn allocate() -> Outcome {
    let file = File::create("a").map_err(text)?;
    works("fallocate", fs::fallocate(&file, FallocateFlags::empty(), 0, 10_000))?;
    same("size", file.metadata().map_err(text)?.len(), 10_000)?;
    works("keep size", fs::fallocate(&file, FallocateFlags::KEEP_SIZE, 0, 20_000))?;
    same("size kept", file.metadata().map_err(text)?.len(), 10_000)?;
    fails("nothing", fs::fallocate(&file, FallocateFlags::empty(), 0, 0), libc::EINVAL)?;
    file.write_all_at(&[7; 10_000], 0).map_err(text)?;
    let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    works("a hole", fs::fallocate(&file, hole, 100, 9_000))?;
    let bytes = std::fs::read("a").map_err(text)?;
    that("what is left", bytes.len() == 10_000 && bytes[99] == 7 && bytes[9_100] == 7)?;
    that("the hole", bytes[100..9_100].iter().all(|byte| *byte == 0))?;
    fails("a hole that cuts", fs::fallocate(&file, FallocateFlags::PUNCH_HOLE, 0, 1), libc::EOPNOTSUPP)?;
    works("sparse", fs::ftruncate(&file, 1 << 40))?;
    works("a large hole", fs::fallocate(&file, hole, 0, 1 << 40))?;
    same("size kept", file.metadata().map_err(text)?.len(), 1 << 40)?;
    let reader = File::open("a").map_err(text)?;
    fails("a reader", fs::fallocate(&reader, FallocateFlags::empty(), 0, 1), libc::EBADF)
}

fn special() -> Outcome {
    let mut null = OpenOptions::new().read(true).write(true).open("/dev/null").map_err(text)?;
    same("write to null", null.write(&[1; 100]).map_err(text)?, 100)?;
    same("read from null", null.read(&mut [1; 8]).map_err(text)?, 0)?;
    let mut zeros = [1; 5000];
    File::open("/dev/zero").map_err(text)?.read_exact(&mut zeros).map_err(text)?;
    that("zeros", zeros.iter().all(|byte| *byte == 0))?;
    let full = OpenOptions::new().write(true).open("/dev/full").map_err(text)?;
    fails("a full device", (&full).write(b"x"), libc::ENOSPC)?;
    let mut random = [0; 64];
    File::open("/dev/urandom").map_err(text)?.read_exact(&mut random).map_err(text)?;
    that("random", random.iter().any(|byte| *byte != random[0]))?;
    let meta = std::fs::metadata("/dev/null").map_err(text)?;
    same("device number", meta.rdev(), 0x103)?;
    same("kind", meta.mode() & 0o170_000, 0o020_000)?;
    fails(
        "null is no terminal",
        raw::call(libc::SYS_ioctl, [null.as_raw_fd() as u64, libc::TCGETS, zeros.as_mut_ptr() as u64, 0, 0, 0]),
        libc::ENOTTY,
    )
}

fn limits() -> Outcome {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    works("setrlimit", setrlimit(Resource::Nofile, Rlimit { current: Some(8), maximum: limit.maximum }))?;
    let mut files = Vec::new();
    let error = loop {
        match File::open("/dev/null") {
            Ok(file) => files.push(file),
            Err(error) => break error,
        }
        that("the limit holds", files.len() < 9)?;
    };
    same("too many", error.raw_os_error(), Some(libc::EMFILE))?;
    drop(files);
    works("setrlimit", setrlimit(Resource::Nofile, limit))?;
    works("SIGXFSZ off", raw::on_signal(libc::SIGXFSZ, raw::Disposition::Ignore))?;
    works("setrlimit", setrlimit(Resource::Fsize, Rlimit { current: Some(10), maximum: None }))?;
    let mut file = File::create("a").map_err(text)?;
    same("cut at the limit", file.write(&[1; 20]).map_err(text)?, 10)?;
    fails("behind the limit", file.write(&[1]), libc::EFBIG)
}

fn image_copy_up() -> Outcome {
    if !rustix::process::geteuid().is_root() || std::fs::metadata("/etc/services").is_err() {
        return Ok(());
    }
    // A file of the root image is written to: its name, bytes and links must behave as one file.
    let before = std::fs::read("/etc/services").map_err(text)?;
    let reader = File::open("/etc/services").map_err(text)?;
    let mut file = OpenOptions::new().append(true).open("/etc/services").map_err(text)?;
    file.write_all(b"# abi-test\n").map_err(text)?;
    let mut seen = Vec::new();
    (&reader).read_to_end(&mut seen).map_err(text)?;
    file.set_len(before.len() as u64).map_err(text)?;
    same("an earlier descriptor sees it", seen.len(), before.len() + 11)?;
    same("as before", std::fs::read("/etc/services").map_err(text)?, before)
}

fn bad_addresses() -> Outcome {
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open("a").map_err(text)?;
    let fd = file.as_fd().as_raw_fd() as u64;
    for addr in [0, 8, 0x7fff_ffff_f000, 0x8000_0000_0000, 0xffff_8000_0000_0000, u64::MAX - 2] {
        fails("write from", raw::call(libc::SYS_write, [fd, addr, 10, 0, 0, 0]), libc::EFAULT)?;
        fails("open", raw::call(libc::SYS_open, [addr, 0, 0, 0, 0, 0]), libc::EFAULT)?;
        fails("fstat to", raw::call(libc::SYS_fstat, [fd, addr, 0, 0, 0, 0]), libc::EFAULT)?;
        fails("pipe to", raw::call(libc::SYS_pipe, [addr, 0, 0, 0, 0, 0]), libc::EFAULT)?;
    }
    same("write nothing", works("write", raw::call(libc::SYS_write, [fd, 0, 0, 0, 0, 0]))?, 0)?;
    fails("no such call", raw::call(1000, [0; 6]), libc::ENOSYS)?;
    fails("no such call", raw::call(-5, [0; 6]), libc::ENOSYS)
}
