//! Pseudo terminals: opening, the line discipline, what ioctl(2) sets.
use crate::{
    Outcome, Subtest,
    check::{fails, same, text, that, works},
};
use rustix::fs::{Mode, OFlags};
use shimos_user::raw;
use std::os::fd::{AsRawFd, OwnedFd};

/// The subtests.
pub const TESTS: &[Subtest] = &[
    ("ttys/open", open),
    ("ttys/names", names),
    ("ttys/lines", lines),
    ("ttys/editing", editing),
    ("ttys/bytes", bytes),
    ("ttys/min-and-time", min_and_time),
    ("ttys/output", output),
    ("ttys/flow", flow),
    ("ttys/flush", flush),
    ("ttys/settings", settings),
    ("ttys/packet", packet),
    ("ttys/window", window),
    ("ttys/poll", poll),
    ("ttys/hung-up", hung_up),
    ("ttys/full", full),
    ("ttys/exclusive", exclusive),
];

pub const TIOCGPTN: u64 = 0x8004_5430;
pub const TIOCSPTLCK: u64 = 0x4004_5431;
pub const TIOCGPTLCK: u64 = 0x8004_5439;
pub const TIOCGDEV: u64 = 0x8004_5432;
pub const TIOCGPTPEER: u64 = 0x5441;
pub const TIOCGPKT: u64 = 0x8004_5438;
pub const TCGETS2: u64 = 0x802c_542a;
pub const TCSETS2: u64 = 0x402c_542b;

/// A request with an address or a number.
pub fn ioctl(fd: &OwnedFd, request: u64, argument: u64) -> raw::Answer {
    raw::call(libc::SYS_ioctl, [fd.as_raw_fd() as u64, request, argument, 0, 0, 0])
}

/// A request that answers with a number.
pub fn number(fd: &OwnedFd, request: u64) -> Result<i32, i32> {
    let mut value = -77_i32;
    ioctl(fd, request, &raw mut value as u64)?;
    Ok(value)
}

/// A request that takes a number by its address.
pub fn give(fd: &OwnedFd, request: u64, value: i32) -> raw::Answer {
    ioctl(fd, request, &raw const value as u64)
}

/// Opens a path; terminals do not become the caller's own.
pub fn open_at(path: &str, flags: OFlags) -> Result<OwnedFd, rustix::io::Errno> {
    rustix::fs::open(path, flags | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty())
}

/// A pair of pseudo terminals.
pub struct Pair {
    /// The master.
    pub master: OwnedFd,
    /// The slave.
    pub slave: OwnedFd,
    /// The slave's name.
    pub name: String,
}

/// Opens a pair.
pub fn pair() -> Result<Pair, String> {
    let master = works("ptmx", open_at("/dev/ptmx", OFlags::RDWR))?;
    let name = format!("/dev/pts/{}", works("TIOCGPTN", number(&master, TIOCGPTN))?);
    works("unlock", give(&master, TIOCSPTLCK, 0))?;
    let slave = works("slave", open_at(&name, OFlags::RDWR))?;
    Ok(Pair { master, slave, name })
}

/// Settings as TCGETS gives them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Settings {
    pub input: u32,
    pub output: u32,
    pub control: u32,
    pub local: u32,
    pub line: u8,
    pub characters: [u8; 19],
}

/// The settings of a terminal.
pub fn get(fd: &OwnedFd) -> Result<Settings, i32> {
    let mut bytes = [0_u8; 36];
    ioctl(fd, libc::TCGETS, &raw mut bytes as u64)?;
    let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    let mut characters = [0; 19];
    characters.copy_from_slice(&bytes[17..]);
    Ok(Settings { input: word(0), output: word(4), control: word(8), local: word(12), line: bytes[16], characters })
}

/// Sets them with TCSETS or one of its relatives.
pub fn set(fd: &OwnedFd, request: u64, settings: &Settings) -> raw::Answer {
    let mut bytes = [0_u8; 36];
    for (at, word) in [settings.input, settings.output, settings.control, settings.local].into_iter().enumerate() {
        bytes[at * 4..at * 4 + 4].copy_from_slice(&word.to_le_bytes());
    }
    bytes[16] = settings.line;
    bytes[17..].copy_from_slice(&settings.characters);
    ioctl(fd, request, &raw const bytes as u64)
}

/// Changes the settings.
pub fn change(fd: &OwnedFd, with: impl FnOnce(&mut Settings)) -> Outcome {
    let mut settings = works("TCGETS", get(fd))?;
    with(&mut settings);
    works("TCSETS", set(fd, libc::TCSETS, &settings)).map(drop)
}

/// Writes all of it.
pub fn put(fd: &OwnedFd, bytes: &[u8]) -> Outcome {
    same("written", works("write", rustix::io::write(fd, bytes))?, bytes.len())
}

/// Reads until that many bytes have come.
pub fn take(fd: &OwnedFd, count: usize) -> Result<String, String> {
    let mut bytes = Vec::new();
    while bytes.len() < count {
        let mut piece = vec![0; count - bytes.len()];
        let got = works("read", rustix::io::read(fd, &mut piece))?;
        if got == 0 {
            break;
        }
        bytes.extend_from_slice(&piece[..got]);
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// What one read gives.
pub fn once(fd: &OwnedFd) -> Result<String, rustix::io::Errno> {
    let mut bytes = [0; 9000];
    let got = rustix::io::read(fd, &mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes[..got]).into_owned())
}

/// Expects what is shown at the master, to the byte.
fn shows(pair: &Pair, wanted: &str) -> Outcome {
    same("shown", take(&pair.master, wanted.len())?.as_str(), wanted)
}

/// Expects what one read of the slave gives.
fn reads(pair: &Pair, wanted: &str) -> Outcome {
    same("read", works("read", once(&pair.slave))?.as_str(), wanted)
}

fn raw_mode(pair: &Pair, min: u8, time: u8) -> Outcome {
    change(&pair.slave, |s| {
        s.local &= !(libc::ICANON | libc::ECHO);
        s.characters[libc::VMIN] = min;
        s.characters[libc::VTIME] = time;
    })
}

fn nonblocking(fd: &OwnedFd, on: bool) -> Outcome {
    let value = i32::from(on);
    works("FIONBIO", ioctl(fd, libc::FIONBIO, &raw const value as u64)).map(drop)
}

fn open() -> Outcome {
    let master = works("ptmx", open_at("/dev/ptmx", OFlags::RDWR))?;
    let number_of = works("TIOCGPTN", number(&master, TIOCGPTN))?;
    let name = format!("/dev/pts/{number_of}");
    same("locked", works("TIOCGPTLCK", number(&master, TIOCGPTLCK))?, 1)?;
    fails("locked slave", open_at(&name, OFlags::RDWR), libc::EIO)?;
    works("unlock", give(&master, TIOCSPTLCK, 0))?;
    same("unlocked", works("TIOCGPTLCK", number(&master, TIOCGPTLCK))?, 0)?;
    let slave = works("slave", open_at(&name, OFlags::RDWR))?;
    let stat = works("fstat", rustix::fs::fstat(&slave))?;
    same("device", stat.st_rdev, rustix::fs::makedev(136, number_of as u32))?;
    same("TIOCGDEV", works("TIOCGDEV", number(&master, TIOCGDEV))? as u64, stat.st_rdev)?;
    // A mount option says whether the group may write.
    same("mode", stat.st_mode & 0o757, 0o600)?;
    for request in [TIOCGPTN, TIOCSPTLCK, TIOCGPTLCK, TIOCGPKT, TIOCGPTPEER] {
        that("only masters", number(&slave, request).is_err())?;
    }
    let peer = works("TIOCGPTPEER", ioctl(&master, TIOCGPTPEER, (libc::O_RDWR | libc::O_NOCTTY) as u64))?;
    let peer = raw::own(peer as i32);
    put(&peer, b"x\n")?;
    same("through the peer", take(&master, 3)?.as_str(), "x\r\n")?;
    // A second master is another pair.
    let other = works("ptmx", open_at("/dev/ptmx", OFlags::RDWR))?;
    that("another number", works("TIOCGPTN", number(&other, TIOCGPTN))? != number_of)?;
    for fd in [&master, &slave] {
        same("line discipline", works("TIOCGETD", number(fd, libc::TIOCGETD))?, 0)?;
        fails("unknown", ioctl(fd, 0x54ee, 0), libc::ENOTTY)?;
        fails("bad address", ioctl(fd, libc::TCGETS, 8), libc::EFAULT)?;
        fails("seek", rustix::fs::seek(fd, rustix::fs::SeekFrom::Start(0)), libc::ESPIPE)?;
    }
    Ok(())
}

fn names() -> Outcome {
    let pair = pair()?;
    let link = format!("/proc/self/fd/{}", pair.slave.as_raw_fd());
    same("link", std::fs::read_link(&link).map_err(text)?.to_string_lossy().into_owned(), pair.name.clone())?;
    let short = pair.name.trim_start_matches("/dev/pts/").to_string();
    let listed = || -> Result<Vec<String>, String> {
        let entries = std::fs::read_dir("/dev/pts").map_err(text)?;
        Ok(entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect())
    };
    that("listed", listed()?.contains(&short))?;
    let (one, two) = (works("stat", rustix::fs::stat(&pair.name))?, works("fstat", rustix::fs::fstat(&pair.slave))?);
    same("the same file", (one.st_dev, one.st_ino, one.st_rdev), (two.st_dev, two.st_ino, two.st_rdev))?;
    works("chmod", rustix::fs::chmod(&pair.name, Mode::from_raw_mode(0o600)))?;
    same("mode", works("fstat", rustix::fs::fstat(&pair.slave))?.st_mode, libc::S_IFCHR | 0o600)?;
    if rustix::process::geteuid().is_root() {
        let (uid, gid) = (rustix::fs::Uid::from_raw(7), rustix::fs::Gid::from_raw(8));
        works("chown", rustix::fs::chown(&pair.name, Some(uid), Some(gid)))?;
        let stat = works("fstat", rustix::fs::fstat(&pair.slave))?;
        same("owner", (stat.st_uid, stat.st_gid), (7, 8))?;
    }
    drop(pair.slave);
    that("kept", listed()?.contains(&short))?;
    drop(pair.master);
    that("gone", !listed()?.contains(&short))?;
    fails("gone", rustix::fs::stat(&pair.name), libc::ENOENT)?;
    fails("not created", open_at("/dev/pts/nonsense", OFlags::RDWR), libc::ENOENT)?;
    fails("leading zero", rustix::fs::stat("/dev/pts/00"), libc::ENOENT)
}

fn lines() -> Outcome {
    let pair = pair()?;
    put(&pair.master, b"first\rsecond\nrest")?;
    shows(&pair, "first\r\nsecond\r\nrest")?;
    reads(&pair, "first\n")?;
    same("FIONREAD", works("FIONREAD", number(&pair.slave, libc::FIONREAD))?, 7)?;
    reads(&pair, "second\n")?;
    nonblocking(&pair.slave, true)?;
    fails("no line yet", once(&pair.slave), libc::EAGAIN)?;
    put(&pair.master, b"\x04")?;
    nonblocking(&pair.slave, false)?;
    reads(&pair, "rest")?;
    put(&pair.master, b"\x04")?;
    reads(&pair, "")?;
    put(&pair.master, b"abcdef\n")?;
    shows(&pair, "abcdef\r\n")?;
    let mut three = [0; 3];
    same("part", works("read", rustix::io::read(&pair.slave, &mut three))?, 3)?;
    reads(&pair, "def\n")?;
    change(&pair.slave, |s| {
        s.input = s.input & !libc::ICRNL | libc::INLCR | libc::ISTRIP;
        s.local = s.local & !libc::ECHO | libc::ECHONL;
        s.characters[libc::VEOL] = b';';
    })?;
    put(&pair.master, b"a\xe2;")?;
    reads(&pair, "ab;")?;
    put(&pair.master, b"c\n;")?;
    reads(&pair, "c\r;")?;
    change(&pair.slave, |s| {
        s.input = libc::IGNCR | libc::IUCLC;
        s.characters[libc::VEOL] = 0;
        s.characters[libc::VEOL2] = b'!';
    })?;
    put(&pair.master, b"A\rB!")?;
    reads(&pair, "ab!")?;
    put(&pair.master, b"C\n")?;
    shows(&pair, "\r\n")?;
    reads(&pair, "c\n")
}

fn editing() -> Outcome {
    let pair = pair()?;
    put(&pair.master, b"helk\x7flo\n")?;
    shows(&pair, "helk\x08 \x08lo\r\n")?;
    reads(&pair, "hello\n")?;
    put(&pair.master, b"one two_3  \x17x\n")?;
    shows(&pair, &format!("one two_3  {}x\r\n", "\x08 \x08".repeat(7)))?;
    reads(&pair, "one x\n")?;
    put(&pair.master, b"gone\x15here\n")?;
    shows(&pair, &format!("gone{}here\r\n", "\x08 \x08".repeat(4)))?;
    reads(&pair, "here\n")?;
    put(&pair.master, b"a\x16\x03\x7f\x12b\n")?;
    shows(&pair, "a^\x08^C\x08 \x08\x08 \x08^R\r\nab\r\n")?;
    reads(&pair, "ab\n")?;
    put(&pair.master, b"ab\t\x7fc\tde\t\x7f\n")?;
    shows(&pair, "ab\t\x08\x08\x08\x08\x08\x08c\tde\t\x08\x08\x08\x08\x08\x08\r\n")?;
    reads(&pair, "abc\tde\n")?;
    change(&pair.slave, |s| s.local &= !libc::ECHOKE)?;
    put(&pair.master, b"xy\x15z\n")?;
    shows(&pair, "xy^U\r\nz\r\n")?;
    reads(&pair, "z\n")?;
    change(&pair.slave, |s| s.local &= !libc::ECHOE)?;
    put(&pair.master, b"xy\x7fz\n")?;
    shows(&pair, "xy^?z\r\n")?;
    reads(&pair, "xz\n")?;
    change(&pair.slave, |s| s.local |= libc::ECHOE | libc::ECHOPRT)?;
    put(&pair.master, b"abc\x7f\x7fd\n")?;
    shows(&pair, "abc\\cb/d\r\n")?;
    reads(&pair, "ad\n")?;
    change(&pair.slave, |s| {
        s.local = s.local & !(libc::ECHOPRT | libc::ECHOCTL) | libc::ECHOKE;
        s.input |= libc::IUTF8;
    })?;
    put(&pair.master, "é\x7f\x01\x7f\u{20ac}u\x15v\n".as_bytes())?;
    shows(&pair, "é\x08 \x08\x01\u{20ac}u\x08 \x08\x08 \x08v\r\n")?;
    reads(&pair, "v\n")?;
    // Without IEXTEN some characters mean themselves.
    change(&pair.slave, |s| s.local &= !(libc::IEXTEN | libc::ECHO))?;
    put(&pair.master, b"a\x16\x17\n")?;
    reads(&pair, "a\x16\x17\n")
}

fn bytes() -> Outcome {
    let pair = pair()?;
    put(&pair.master, b"typed before")?;
    shows(&pair, "typed before")?;
    raw_mode(&pair, 1, 0)?;
    reads(&pair, "typed before")?;
    put(&pair.master, b"a\x7f\x04\x15")?;
    same("all", take(&pair.slave, 4)?.as_str(), "a\x7f\x04\x15")?;
    change(&pair.slave, |s| s.local &= !libc::ISIG)?;
    put(&pair.master, b"\x03\r")?;
    same("no signal", take(&pair.slave, 2)?.as_str(), "\x03\n")?;
    change(&pair.slave, |s| s.input = 0)?;
    put(&pair.master, b"\x13\r\x11")?;
    same("raw", take(&pair.slave, 3)?.as_str(), "\x13\r\x11")?;
    change(&pair.slave, |s| s.local |= libc::ECHO)?;
    put(&pair.master, b"\x01\n")?;
    shows(&pair, "^A^J")
}

fn min_and_time() -> Outcome {
    let pair = pair()?;
    raw_mode(&pair, 0, 0)?;
    reads(&pair, "")?;
    nonblocking(&pair.slave, true)?;
    reads(&pair, "")?;
    raw_mode(&pair, 0, 1)?;
    fails("not waiting", once(&pair.slave), libc::EAGAIN)?;
    nonblocking(&pair.slave, false)?;
    reads(&pair, "")?;
    put(&pair.master, b"x")?;
    same("one", take(&pair.slave, 1)?.as_str(), "x")?;
    raw_mode(&pair, 3, 0)?;
    put(&pair.master, b"abc")?;
    same("three", take(&pair.slave, 3)?.as_str(), "abc")?;
    put(&pair.master, b"de")?;
    // Fewer than VMIN are enough for a small buffer.
    let mut two = [0; 2];
    same("two", works("read", rustix::io::read(&pair.slave, &mut two))?, 2)?;
    put(&pair.master, b"fg")?;
    while works("FIONREAD", number(&pair.slave, libc::FIONREAD))? != 2 {}
    nonblocking(&pair.slave, true)?;
    reads(&pair, "fg")?;
    fails("none", once(&pair.slave), libc::EAGAIN)?;
    nonblocking(&pair.slave, false)?;
    raw_mode(&pair, 5, 1)?;
    put(&pair.master, b"hi")?;
    // The first byte starts the clock.
    reads(&pair, "hi")
}

fn output() -> Outcome {
    let pair = pair()?;
    put(&pair.slave, b"a\nb\tc\n")?;
    shows(&pair, "a\r\nb\tc\r\n")?;
    change(&pair.slave, |s| s.output |= libc::XTABS)?;
    put(&pair.slave, b"ab\tc\r\t|\n\x08\td\n")?;
    shows(&pair, "ab      c\r        |\r\n\x08        d\r\n")?;
    change(&pair.slave, |s| s.output = libc::OPOST | libc::OCRNL | libc::ONOCR | libc::OLCUC)?;
    put(&pair.slave, b"q\rx\n")?;
    shows(&pair, "Q\nX\n")?;
    change(&pair.slave, |s| s.output = libc::OPOST | libc::ONOCR | libc::ONLRET)?;
    put(&pair.slave, b"\n\r1\r2\n")?;
    shows(&pair, "\n1\r2\n")?;
    change(&pair.slave, |s| s.output = libc::ONLCR)?;
    put(&pair.slave, b"\n\t\r")?;
    shows(&pair, "\n\t\r")
}

fn flow() -> Outcome {
    let pair = pair()?;
    works("off", ioctl(&pair.slave, libc::TCXONC, libc::TCOOFF as u64))?;
    nonblocking(&pair.slave, true)?;
    fails("stopped", rustix::io::write(&pair.slave, b"x"), libc::EAGAIN)?;
    works("on", ioctl(&pair.slave, libc::TCXONC, libc::TCOON as u64))?;
    put(&pair.slave, b"y")?;
    shows(&pair, "y")?;
    works("stop character", ioctl(&pair.slave, libc::TCXONC, libc::TCIOFF as u64))?;
    works("start character", ioctl(&pair.slave, libc::TCXONC, libc::TCION as u64))?;
    shows(&pair, "\x13\x11")?;
    fails("unknown", ioctl(&pair.slave, libc::TCXONC, 4), libc::EINVAL)?;
    change(&pair.slave, |s| s.local &= !libc::ECHO)?;
    put(&pair.master, b"\x13b\n")?;
    // Until what was typed has been looked at.
    while works("FIONREAD", number(&pair.slave, libc::FIONREAD))? < 2 {}
    fails("stopped by typing", rustix::io::write(&pair.slave, b"x"), libc::EAGAIN)?;
    put(&pair.master, b"\x11c\n")?;
    while works("FIONREAD", number(&pair.slave, libc::FIONREAD))? < 4 {}
    put(&pair.slave, b"z")
}

fn flush() -> Outcome {
    let pair = pair()?;
    change(&pair.slave, |s| s.local &= !libc::ECHO)?;
    put(&pair.master, b"one\ntwo")?;
    while works("FIONREAD", number(&pair.slave, libc::FIONREAD))? != 4 {}
    works("TCIFLUSH", ioctl(&pair.slave, libc::TCFLSH, libc::TCIFLUSH as u64))?;
    same("empty", works("FIONREAD", number(&pair.slave, libc::FIONREAD))?, 0)?;
    put(&pair.master, b"three\n")?;
    reads(&pair, "three\n")?;
    put(&pair.master, b"four\n")?;
    while works("FIONREAD", number(&pair.slave, libc::FIONREAD))? != 5 {}
    let settings = works("TCGETS", get(&pair.slave))?;
    works("TCSETSW", set(&pair.slave, libc::TCSETSW, &settings))?;
    same("kept", works("FIONREAD", number(&pair.slave, libc::FIONREAD))?, 5)?;
    works("TCSETSF", set(&pair.slave, libc::TCSETSF, &settings))?;
    same("flushed", works("FIONREAD", number(&pair.slave, libc::FIONREAD))?, 0)?;
    fails("unknown", ioctl(&pair.slave, libc::TCFLSH, 3), libc::EINVAL)?;
    works("TCSBRK", ioctl(&pair.slave, libc::TCSBRK, 1))?;
    works("TCSBRKP", ioctl(&pair.slave, libc::TCSBRKP, 0))?;
    same("TIOCOUTQ", works("TIOCOUTQ", number(&pair.slave, libc::TIOCOUTQ))?, 0)
}

fn settings() -> Outcome {
    let pair = pair()?;
    let first = works("TCGETS", get(&pair.slave))?;
    same("flags", (first.input, first.output, first.control, first.local), (0x500, 5, 0xbf, 0x8a3b))?;
    let usual = [3, 28, 127, 21, 4, 0, 1, 0, 17, 19, 26, 0, 18, 15, 23, 22, 0, 0, 0];
    same("characters", first.characters, usual)?;
    // The master's descriptor means the slave.
    change(&pair.master, |s| s.local &= !libc::ECHO)?;
    same("from the other side", works("TCGETS", get(&pair.slave))?.local & libc::ECHO, 0)?;
    // No pair has seven bits or parity.
    change(&pair.slave, |s| s.control = libc::B9600 | libc::CS7 | libc::PARENB | libc::HUPCL)?;
    let got = works("TCGETS", get(&pair.slave))?;
    same("bits", got.control, libc::B9600 | libc::CS8 | libc::CREAD | libc::HUPCL)?;
    let mut two = [0_u32; 11];
    works("TCGETS2", ioctl(&pair.slave, TCGETS2, &raw mut two as u64))?;
    same("speeds", (two[9], two[10]), (9600, 9600))?;
    two[2] = libc::CS8 | libc::CREAD | 0o10000;
    (two[9], two[10]) = (4242, 4343);
    works("TCSETS2", ioctl(&pair.slave, TCSETS2, &raw const two as u64))?;
    let mut again = [0_u32; 11];
    works("TCGETS2", ioctl(&pair.slave, TCGETS2, &raw mut again as u64))?;
    same("any speed", again[10], 4343)?;
    let mut old = [0_u8; 18];
    works("TCGETA", ioctl(&pair.slave, libc::TCGETA, &raw mut old as u64))?;
    same("old form", (old[9], old[12]), (3, 21))?;
    old[9] = 7;
    works("TCSETA", ioctl(&pair.slave, libc::TCSETA, &raw const old as u64))?;
    same("interrupt", works("TCGETS", get(&pair.slave))?.characters[0], 7)?;
    let (other, _writer) = std::io::pipe().map_err(text)?;
    fails("a pipe", get(&OwnedFd::from(other)), libc::ENOTTY)
}

fn packet() -> Outcome {
    let pair = pair()?;
    same("off", works("TIOCGPKT", number(&pair.master, TIOCGPKT))?, 0)?;
    works("TIOCPKT", give(&pair.master, libc::TIOCPKT, 1))?;
    same("on", works("TIOCGPKT", number(&pair.master, TIOCGPKT))?, 1)?;
    put(&pair.slave, b"data")?;
    same("data", works("read", once(&pair.master))?.as_str(), "\0data")?;
    works("off", ioctl(&pair.slave, libc::TCXONC, libc::TCOOFF as u64))?;
    same("TIOCPKT_STOP", works("read", once(&pair.master))?.as_str(), "\x04")?;
    works("on", ioctl(&pair.slave, libc::TCXONC, libc::TCOON as u64))?;
    same("TIOCPKT_START", works("read", once(&pair.master))?.as_str(), "\x08")?;
    works("flush", ioctl(&pair.slave, libc::TCFLSH, libc::TCIFLUSH as u64))?;
    same("TIOCPKT_FLUSHREAD", works("read", once(&pair.master))?.as_str(), "\x01")?;
    change(&pair.slave, |s| s.input &= !libc::IXON)?;
    same("TIOCPKT_NOSTOP", works("read", once(&pair.master))?.as_str(), "\x10")?;
    change(&pair.slave, |s| s.input |= libc::IXON)?;
    same("TIOCPKT_DOSTOP", works("read", once(&pair.master))?.as_str(), "\x20")?;
    works("TIOCPKT", give(&pair.master, libc::TIOCPKT, 0))?;
    put(&pair.slave, b"plain")?;
    same("plain", works("read", once(&pair.master))?.as_str(), "plain")
}

fn window() -> Outcome {
    let pair = pair()?;
    let mut size = [9_u16; 4];
    works("TIOCGWINSZ", ioctl(&pair.slave, libc::TIOCGWINSZ, &raw mut size as u64))?;
    same("none", size, [0; 4])?;
    let wanted = [50_u16, 132, 7, 8];
    works("TIOCSWINSZ", ioctl(&pair.master, libc::TIOCSWINSZ, &raw const wanted as u64))?;
    for fd in [&pair.slave, &pair.master] {
        works("TIOCGWINSZ", ioctl(fd, libc::TIOCGWINSZ, &raw mut size as u64))?;
        same("size", size, wanted)?;
    }
    Ok(())
}

/// What poll(2) says at once.
pub fn ready(fd: &OwnedFd) -> Result<i16, String> {
    let mut entry = libc::pollfd { fd: fd.as_raw_fd(), events: 0x3fff, revents: 0 };
    works("poll", raw::call(libc::SYS_poll, [&raw mut entry as u64, 1, 0, 0, 0, 0]))?;
    Ok(entry.revents)
}

/// Waits until poll(2) says one of these.
pub fn await_event(fd: &OwnedFd, events: i16) -> Result<i16, String> {
    let mut entry = libc::pollfd { fd: fd.as_raw_fd(), events, revents: 0 };
    works("poll", raw::call(libc::SYS_poll, [&raw mut entry as u64, 1, 20_000, 0, 0, 0]))?;
    Ok(entry.revents)
}

fn poll() -> Outcome {
    const IN: i16 = libc::POLLIN | libc::POLLRDNORM;
    const OUT: i16 = libc::POLLOUT | libc::POLLWRNORM;
    let pair = pair()?;
    same("idle", (ready(&pair.master)?, ready(&pair.slave)?), (OUT, OUT))?;
    put(&pair.slave, b"x")?;
    same("shown", await_event(&pair.master, libc::POLLIN)?, libc::POLLIN)?;
    same("shown", ready(&pair.master)?, IN | OUT)?;
    shows(&pair, "x")?;
    change(&pair.slave, |s| s.local &= !libc::ECHO)?;
    put(&pair.master, b"half")?;
    same("no line", ready(&pair.slave)?, OUT)?;
    put(&pair.master, b"\n")?;
    same("a line", await_event(&pair.slave, libc::POLLIN)?, libc::POLLIN)?;
    reads(&pair, "half\n")?;
    let name = pair.name.clone();
    drop(pair.slave);
    same("deserted", ready(&pair.master)?, OUT | libc::POLLHUP)?;
    fails("deserted", once(&pair.master), libc::EIO)?;
    let slave = works("again", open_at(&name, OFlags::RDWR))?;
    same("back", ready(&pair.master)?, OUT)?;
    put(&slave, b"y")?;
    drop(slave);
    same("what was shown", take(&pair.master, 1)?.as_str(), "y")?;
    fails("and then", once(&pair.master), libc::EIO)
}

fn hung_up() -> Outcome {
    let Pair { master, slave, name } = pair()?;
    put(&master, b"typed\n")?;
    drop(master);
    same("end of file", works("read", once(&slave))?.as_str(), "")?;
    fails("write", rustix::io::write(&slave, b"x"), libc::EIO)?;
    fails("TCGETS", get(&slave), libc::EIO)?;
    fails("TIOCSPGRP", give(&slave, libc::TIOCSPGRP, 1), libc::ENOTTY)?;
    let all = libc::POLLIN | libc::POLLRDNORM | libc::POLLOUT | libc::POLLWRNORM | libc::POLLERR | libc::POLLHUP;
    same("poll", ready(&slave)?, all)?;
    fails("no name", open_at(&name, OFlags::RDWR), libc::ENOENT)?;
    works("fstat", rustix::fs::fstat(&slave)).map(drop)
}

fn full() -> Outcome {
    let pair = pair()?;
    raw_mode(&pair, 1, 0)?;
    change(&pair.slave, |s| s.output = 0)?;
    for (from, to) in [(&pair.master, &pair.slave), (&pair.slave, &pair.master)] {
        nonblocking(from, true)?;
        let mut written = 0;
        loop {
            match rustix::io::write(from, &[b'x'; 1000]) {
                Ok(count) => written += count,
                Err(rustix::io::Errno::AGAIN) => break,
                Err(error) => return Err(error.to_string()),
            }
        }
        that("some", (4096..1 << 20).contains(&written))?;
        nonblocking(from, false)?;
        let (mut read, mut buffer) = (0, [0; 5000]);
        while read < written {
            read += works("read", rustix::io::read(to, &mut buffer))?;
        }
        same("all", read, written)?;
    }
    // A line that is too long is cut.
    change(&pair.slave, |s| s.local |= libc::ICANON)?;
    for _ in 0..6 {
        put(&pair.master, &[b'y'; 1000])?;
    }
    put(&pair.master, b"\n")?;
    let line = works("read", once(&pair.slave))?;
    same("cut", (line.len(), line.ends_with('\n')), (4096, true))
}

fn exclusive() -> Outcome {
    let pair = pair()?;
    works("TIOCEXCL", ioctl(&pair.slave, libc::TIOCEXCL, 0))?;
    let child = raw::fork(|| {
        if rustix::process::geteuid().is_root() && raw::call(libc::SYS_setuid, [1234, 0, 0, 0, 0, 0]).is_err() {
            return 3;
        }
        // Whoever may not open the file at all fails otherwise.
        match open_at(&pair.name, OFlags::RDWR) {
            Err(rustix::io::Errno::BUSY | rustix::io::Errno::ACCESS) => 0,
            _ => 1,
        }
    })
    .map_err(text)?;
    same("others", raw::exit_of(child).map_err(text)?, 0)?;
    works("TIOCNXCL", ioctl(&pair.slave, libc::TIOCNXCL, 0))?;
    works("open", open_at(&pair.name, OFlags::RDWR)).map(drop)
}
