//! UNIX sockets: what goes wrong, and what travels.
use crate::{
    Outcome, Subtest,
    check::{asleep, fails, parent_asleep, same, text, that, works},
    net::{self, DGRAM, STREAM},
};
use libc::SOL_SOCKET;
use shimos_user::raw;
use std::{
    io::Read,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::net::{UnixDatagram, UnixListener, UnixStream},
    },
};

/// The subtests.
pub const TESTS: &[Subtest] = &[
    ("unix/errors", errors),
    ("unix/autobind", autobind),
    ("unix/lost-bytes", lost_bytes),
    ("unix/backlog", backlog),
    ("unix/records", records),
    ("unix/datagram-limits", datagram_limits),
    ("unix/pass-credentials", pass_credentials),
    ("unix/circle", circle),
    ("unix/flight-limit", flight_limit),
    ("unix/options", options),
    ("unix/wait-for-all", wait_for_all),
];

const UNIX: i32 = libc::AF_UNIX;
const SEQPACKET: i32 = libc::SOCK_SEQPACKET;

fn named(path: &str) -> Vec<u8> {
    [&[1, 0], path.as_bytes(), &[0]].concat()
}

fn errors() -> Outcome {
    let stream = works("socket", net::socket(UNIX, STREAM, 0))?;
    let datagram = works("socket", net::socket(UNIX, DGRAM, 0))?;
    fails("nobody", net::connect(&stream, &named("nothing")), libc::ENOENT)?;
    fails("family", net::connect(&stream, &[2, 0, b'x']), libc::EINVAL)?;
    fails("too long", net::bind(&stream, &[1; 111]), libc::EINVAL)?;
    fails("no connection", net::send(&stream, b"x", libc::MSG_NOSIGNAL, &[]), libc::ENOTCONN)?;
    fails("not connected", net::receive(&stream, 9, 0), libc::EINVAL)?;
    fails("no receiver", net::send(&datagram, b"x", 0, &[]), libc::ENOTCONN)?;
    fails("no listening", net::listen(&datagram, 1), libc::EOPNOTSUPP)?;
    fails("no accepting", net::accept(&datagram).map(|_| ()), libc::EOPNOTSUPP)?;
    fails("not listening", net::accept(&stream).map(|_| ()), libc::EINVAL)?;
    fails("not bound", net::listen(&stream, 1), libc::EINVAL)?;
    fails("no peer", net::peer(&stream), libc::ENOTCONN)?;
    works("bind", net::bind(&stream, &named("here")))?;
    fails("again", net::bind(&stream, &named("there")), libc::EINVAL)?;
    let other = works("socket", net::socket(UNIX, STREAM, 0))?;
    fails("taken", net::bind(&other, &named("here")), libc::EADDRINUSE)?;
    fails("not listening", net::connect(&other, &named("here")), libc::ECONNREFUSED)?;
    fails("another kind", net::connect(&datagram, &named("here")), libc::EPROTOTYPE)?;
    std::fs::write("file", b"").map_err(text)?;
    fails("a file", net::connect(&other, &named("file")), libc::ECONNREFUSED)?;
    works("listen", net::listen(&stream, 1))?;
    works("connect", net::connect(&other, &named("here")))?;
    fails("connected", net::connect(&other, &named("here")), libc::EISCONN)?;
    fails("with a name", net::send(&other, b"x", 0, &named("here")), libc::EISCONN)?;
    fails("a protocol", net::socket(UNIX, STREAM, 2), libc::EPROTONOSUPPORT)?;
    fails("a kind", net::socket(UNIX, 4, 0), libc::ESOCKTNOSUPPORT)
}

fn autobind() -> Outcome {
    let one = works("socket", net::socket(UNIX, DGRAM, 0))?;
    same("no name", net::name(&one), Ok(vec![1, 0]))?;
    works("bind", net::bind(&one, &[1, 0]))?;
    let name = works("name", net::name(&one))?;
    same("five digits", (name.len(), name[2]), (8, 0))?;
    that("of hexadecimal", name[3..].iter().all(u8::is_ascii_hexdigit))?;
    let two = works("socket", net::socket(UNIX, DGRAM, 0))?;
    works("send", net::send(&two, b"found", 0, &name))?;
    same("found", net::receive(&one, 9, 0), Ok(b"found".to_vec()))
}

fn lost_bytes() -> Outcome {
    let (one, two) = UnixStream::pair().map_err(text)?;
    works("send", net::send(&one, b"unread", 0, &[]))?;
    drop(two);
    fails("told", net::receive(&one, 9, 0), libc::ECONNRESET)?;
    same("the end", net::receive(&one, 9, 0), Ok(vec![]))?;
    let (one, two) = UnixStream::pair().map_err(text)?;
    works("send", net::send(&two, b"read", 0, &[]))?;
    drop(two);
    same("first what came", net::receive(&one, 9, 0), Ok(b"read".to_vec()))?;
    same("the end", net::receive(&one, 9, 0), Ok(vec![]))?;
    fails("broken", net::send(&one, b"x", libc::MSG_NOSIGNAL, &[]), libc::EPIPE)
}

fn backlog() -> Outcome {
    let listener = works("socket", net::socket(UNIX, STREAM, 0))?;
    works("bind", net::bind(&listener, &named("queue")))?;
    works("listen", net::listen(&listener, 1))?;
    let connect = || {
        let client = net::socket(UNIX, STREAM | libc::SOCK_NONBLOCK, 0)?;
        net::connect(&client, &named("queue")).map(|_| client)
    };
    let _one = works("one", connect())?;
    let _two = works("two", connect())?;
    fails("full", connect().map(|_| ()), libc::EAGAIN)?;
    let child = raw::fork(|| {
        let Ok(client) = net::socket(UNIX, STREAM, 0) else { return 1 };
        i32::from(net::connect(&client, &named("queue")).is_err()) * 2
    })
    .map_err(text)?;
    asleep(child)?;
    works("accept", net::accept(&listener))?;
    same("the waiting one came in", raw::exit_of(child).map_err(text)?, 0)
}

fn pair(kind: i32) -> Result<(OwnedFd, OwnedFd), String> {
    let mut fds = [0_u8; 8];
    let place = net::place(&mut fds);
    works("pair", raw::call(libc::SYS_socketpair, [UNIX as u64, kind as u64, 0, place, 0, 0]))?;
    let fds = std::hint::black_box(fds);
    let fd = |at: usize| u64::from(u32::from_le_bytes([fds[at], fds[at + 1], fds[at + 2], fds[at + 3]]));
    Ok((raw::descriptor(fd(0)), raw::descriptor(fd(4))))
}

fn records() -> Outcome {
    let (one, two) = pair(SEQPACKET)?;
    works("send", net::send(&one, b"first", 0, &[]))?;
    works("send", net::send(&one, b"second", 0, &[]))?;
    let message = works("receive", net::receive_message(&two, 3, 0, 0))?;
    same("cut", (message.bytes, message.flags & libc::MSG_TRUNC), (b"fir".to_vec(), libc::MSG_TRUNC))?;
    let message = works("receive", net::receive_message(&two, 99, 0, 0))?;
    same("whole", (message.bytes, message.flags), (b"second".to_vec(), 0))?;
    fails("too long", net::send(&one, &vec![0; 1 << 20], 0, &[]), libc::EMSGSIZE)?;
    drop(one);
    same("the end", net::receive(&two, 9, 0), Ok(vec![]))
}

fn datagram_limits() -> Outcome {
    let server = UnixDatagram::bind("limited").map_err(text)?;
    let client = works("socket", net::socket(UNIX, DGRAM | libc::SOCK_NONBLOCK, 0))?;
    let sent = (0..100).take_while(|_| net::send(&client, b"x", 0, &named("limited")).is_ok()).count();
    that(&format!("{sent} were sent"), (5..100).contains(&sent))?;
    fails("full", net::send(&client, b"x", 0, &named("limited")), libc::EAGAIN)?;
    drop(server);
    fails("gone", net::send(&client, b"x", 0, &named("limited")), libc::ECONNREFUSED)?;
    // Who talks to one only is talked to by that one only.
    let (a, b) = (UnixDatagram::bind("a").map_err(text)?, UnixDatagram::bind("b").map_err(text)?);
    a.connect("b").map_err(text)?;
    works("b to a", net::send(&b, b"x", 0, &named("a")))?;
    fails("another to a", net::send(&client, b"x", 0, &named("a")), libc::EPERM)
}

fn pass_credentials() -> Outcome {
    let (one, two) = UnixStream::pair().map_err(text)?;
    works("want", net::set_int(&two, SOL_SOCKET, libc::SO_PASSCRED, 1))?;
    works("send", net::send(&one, b"x", 0, &[]))?;
    let message = works("receive", net::receive_message(&two, 9, 64, 0))?;
    let [(level, kind, data)] = message.control.as_slice() else { return Err("no credentials".into()) };
    same("kind", (*level, *kind), (SOL_SOCKET, libc::SCM_CREDENTIALS))?;
    same("who", data[..4].to_vec(), std::process::id().to_le_bytes().to_vec())?;
    // Nobody may say that it is another, except who may do everything.
    let nobody = [0x7fff_fff0_u32.to_le_bytes(), 0_u32.to_le_bytes(), 0_u32.to_le_bytes()].concat();
    let lied = net::send_message(&one, b"x", &[], Some((SOL_SOCKET, libc::SCM_CREDENTIALS, &nobody)));
    that("a lie is refused", matches!(lied, Err(libc::EPERM | libc::ESRCH)))
}

/// Sends descriptors.
fn send_files(socket: &impl AsRawFd, files: &[i32]) -> Result<u64, i32> {
    let data: Vec<u8> = files.iter().flat_map(|fd| fd.to_le_bytes()).collect();
    net::send_message(socket, b"f", &[], Some((SOL_SOCKET, libc::SCM_RIGHTS, &data)))
}

fn circle() -> Outcome {
    // Two sockets that lie in each other's queues hold a pipe; when nobody can reach them any more, the pipe ends.
    let (mut reader, writer) = std::io::pipe().map_err(text)?;
    let (one, two) = UnixStream::pair().map_err(text)?;
    works("one", send_files(&one, &[two.as_raw_fd(), writer.as_raw_fd()]))?;
    works("two", send_files(&two, &[one.as_raw_fd()]))?;
    drop((one, two, writer));
    // Linux looks for such circles when another socket is closed.
    drop(UnixStream::pair().map_err(text)?);
    let mut bytes = Vec::new();
    same("the end of the pipe", reader.read_to_end(&mut bytes).map_err(text)?, 0)?;
    // A long chain of sockets within sockets ends as well.
    let (mut reader, writer) = std::io::pipe().map_err(text)?;
    let mut last: OwnedFd = writer.into();
    for _ in 0..200 {
        let (one, two) = UnixStream::pair().map_err(text)?;
        works("link", send_files(&one, &[last.as_raw_fd()]))?;
        last = two.into();
    }
    drop(last);
    drop(UnixStream::pair().map_err(text)?);
    same("the end", reader.read_to_end(&mut bytes).map_err(text)?, 0)
}

fn flight_limit() -> Outcome {
    let (one, _two) = UnixStream::pair().map_err(text)?;
    let file = std::fs::File::open("/dev/null").map_err(text)?;
    fails("too many at once", send_files(&one, &vec![file.as_raw_fd(); 254]), libc::EINVAL)?;
    fails("no descriptor", send_files(&one, &[999]), libc::EBADF)?;
    works("many", send_files(&one, &vec![file.as_raw_fd(); 253])).map(|_| ())
}

fn options() -> Outcome {
    let (one, _two) = UnixStream::pair().map_err(text)?;
    for (name, value) in [
        (libc::SO_TYPE, STREAM),
        (libc::SO_DOMAIN, UNIX),
        (libc::SO_PROTOCOL, 0),
        (libc::SO_ACCEPTCONN, 0),
        (libc::SO_ERROR, 0),
        (libc::SO_PASSCRED, 0),
        (libc::SO_RCVLOWAT, 1),
    ] {
        same(&format!("option {name}"), net::get_int(&one, SOL_SOCKET, name), Ok(value))?;
    }
    works("size", net::set_int(&one, SOL_SOCKET, libc::SO_SNDBUF, 5000))?;
    same("size", net::get_int(&one, SOL_SOCKET, libc::SO_SNDBUF), Ok(10_000))?;
    fails("level", net::get_int(&one, libc::IPPROTO_TCP, 1), libc::EOPNOTSUPP)?;
    fails("level", net::set_int(&one, libc::IPPROTO_TCP, 1, 1), libc::EOPNOTSUPP)?;
    let credentials = works("peer", net::get(&one, SOL_SOCKET, libc::SO_PEERCRED, 12))?;
    same("peer", credentials[..4].to_vec(), std::process::id().to_le_bytes().to_vec())?;
    let listener = UnixListener::bind("listening").map_err(text)?;
    same("listens", net::get_int(&listener, SOL_SOCKET, libc::SO_ACCEPTCONN), Ok(1))
}

fn wait_for_all() -> Outcome {
    let (one, two) = UnixStream::pair().map_err(text)?;
    let child = raw::fork(|| {
        for piece in [b"abc".as_slice(), b"def"] {
            if net::send(&one, piece, 0, &[]).is_err() || parent_asleep().is_err() {
                return 1;
            }
        }
        0
    })
    .map_err(text)?;
    same("all", net::receive(&two, 6, libc::MSG_WAITALL), Ok(b"abcdef".to_vec()))?;
    same("status", raw::exit_of(child).map_err(text)?, 0)
}
