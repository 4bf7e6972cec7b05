//! UNIX sockets.
use crate::{
    Outcome, Subtest,
    check::{fails, same, text, that, works},
};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair, sockopt,
};
use shimos_user::raw;
use std::{
    fs::File,
    io::{IoSlice, IoSliceMut, Read, Write},
    mem::MaybeUninit,
    net::Shutdown,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    os::unix::net::{UnixDatagram, UnixListener, UnixStream},
    time::Duration,
};

/// The subtests.
pub const TESTS: &[Subtest] = &[
    ("unix/pair", pair),
    ("unix/listen", listen),
    ("unix/names", names),
    ("unix/abstract", abstract_names),
    ("unix/datagrams", datagrams),
    ("unix/sequenced", sequenced),
    ("unix/descriptors", descriptors),
    ("unix/descriptors-dropped", descriptors_dropped),
    ("unix/shutdown", shutdown),
    ("unix/full", full),
    ("unix/credentials", credentials),
    ("unix/timeouts", timeouts),
    ("unix/peek", peek),
];

fn pair() -> Outcome {
    let (mut one, mut two) = UnixStream::pair().map_err(text)?;
    let child = raw::fork(|| {
        let mut bytes = [0; 5];
        let read = two.read_exact(&mut bytes).is_ok();
        i32::from(!(read && two.write_all(&bytes).is_ok() && two.write_all(b"!").is_ok()))
    })
    .map_err(text)?;
    one.write_all(b"hello").map_err(text)?;
    let mut bytes = [0; 6];
    one.read_exact(&mut bytes).map_err(text)?;
    same("echo", &bytes, b"hello!")?;
    same("status", raw::exit_of(child).map_err(text)?, 0)?;
    drop(two);
    same("the end", one.read(&mut bytes).map_err(text)?, 0)?;
    raw::on_signal(libc::SIGPIPE, raw::Disposition::Ignore).map_err(text)?;
    fails("nobody", one.write(b"x"), libc::EPIPE)
}

fn listen() -> Outcome {
    let listener = UnixListener::bind("s").map_err(text)?;
    let child = raw::fork(|| {
        let talked = (0..3).all(|n| {
            let Ok((mut stream, _)) = listener.accept() else { return false };
            let mut said = String::new();
            stream.read_to_string(&mut said).is_ok() && said == format!("number {n}")
        });
        i32::from(!talked)
    })
    .map_err(text)?;
    for n in 0..3 {
        let mut stream = UnixStream::connect("s").map_err(text)?;
        stream.write_all(format!("number {n}").as_bytes()).map_err(text)?;
    }
    same("status", raw::exit_of(child).map_err(text)?, 0)?;
    drop(listener);
    fails("nobody listens", UnixStream::connect("s"), libc::ECONNREFUSED)?;
    fails("bound", UnixListener::bind("s"), libc::EADDRINUSE)?;
    fails("not there", UnixStream::connect("t"), libc::ENOENT)?;
    File::create("f").map_err(text)?;
    fails("a file", UnixStream::connect("f"), libc::ECONNREFUSED)?;
    fails("open a socket", File::open("s"), libc::ENXIO)
}

fn names() -> Outcome {
    let listener = UnixListener::bind("s").map_err(text)?;
    let name = listener.local_addr().map_err(text)?;
    same("as given", name.as_pathname().map(|path| path.display().to_string()), Some("s".to_string()))?;
    std::fs::create_dir("d").map_err(text)?;
    let stream = UnixStream::connect("d/../s").map_err(text)?;
    let peer = stream.peer_addr().map_err(text)?;
    same("the peer's", peer.as_pathname().map(|path| path.display().to_string()), Some("s".to_string()))?;
    that("no name", stream.local_addr().map_err(text)?.is_unnamed())?;
    std::fs::rename("s", "t").map_err(text)?;
    UnixStream::connect("t").map_err(text)?;
    fails("the old name", UnixStream::connect("s"), libc::ENOENT)
}

fn abstract_names() -> Outcome {
    use std::os::linux::net::SocketAddrExt;
    let name = format!("abi-{}", std::process::id());
    let address = std::os::unix::net::SocketAddr::from_abstract_name(&name).map_err(text)?;
    let listener = UnixListener::bind_addr(&address).map_err(text)?;
    let mut one = UnixStream::connect_addr(&address).map_err(text)?;
    let (mut two, _) = listener.accept().map_err(text)?;
    one.write_all(b"x").map_err(text)?;
    two.read_exact(&mut [0]).map_err(text)?;
    fails("taken", UnixListener::bind_addr(&address), libc::EADDRINUSE)?;
    drop(listener);
    fails("gone", UnixStream::connect_addr(&address), libc::ECONNREFUSED)
}

fn datagrams() -> Outcome {
    let one = UnixDatagram::bind("one").map_err(text)?;
    let two = UnixDatagram::bind("two").map_err(text)?;
    one.send_to(b"first", "two").map_err(text)?;
    one.send_to(b"second", "two").map_err(text)?;
    one.send_to(b"", "two").map_err(text)?;
    let mut bytes = [0; 3];
    let (count, from) = two.recv_from(&mut bytes).map_err(text)?;
    same("cut to the room", (count, &bytes), (3, b"fir"))?;
    same("from", from.as_pathname().map(|path| path.display().to_string()), Some("one".to_string()))?;
    let mut bytes = [0; 64];
    same("the next", two.recv(&mut bytes).map_err(text)?, 6)?;
    same("an empty one", two.recv(&mut bytes).map_err(text)?, 0)?;
    fails("nobody", one.send_to(b"x", "three"), libc::ENOENT)?;
    fails("not connected", one.send(b"x"), libc::ENOTCONN)?;
    one.connect("two").map_err(text)?;
    one.send(b"connected").map_err(text)?;
    same("connected", two.recv(&mut bytes).map_err(text)?, 9)?;
    drop(two);
    fails("gone", one.send(b"x"), libc::ECONNREFUSED)
}

fn sequenced() -> Outcome {
    let (one, two) =
        works("socketpair", socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::empty(), None))?;
    works("write", rustix::io::write(&one, b"abc"))?;
    works("write", rustix::io::write(&one, b"de"))?;
    let mut bytes = [0; 16];
    same("one record", works("read", rustix::io::read(&two, &mut bytes))?, 3)?;
    same("the next", works("read", rustix::io::read(&two, &mut bytes))?, 2)?;
    drop(one);
    same("the end", works("read", rustix::io::read(&two, &mut bytes))?, 0)
}

/// Sends a byte and descriptors.
fn pass(to: &UnixStream, files: &[&dyn AsFd]) -> Outcome {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds: Vec<_> = files.iter().map(|file| file.as_fd()).collect();
    that("room", control.push(SendAncillaryMessage::ScmRights(&fds)))?;
    same("sent", works("sendmsg", sendmsg(to, &[IoSlice::new(b"f")], &mut control, SendFlags::empty()))?, 1)
}

/// Receives a byte and descriptors.
fn take(from: &UnixStream) -> Result<Vec<OwnedFd>, String> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let got = recvmsg(from, &mut [IoSliceMut::new(&mut byte)], &mut control, RecvFlags::CMSG_CLOEXEC);
    same("received", works("recvmsg", got)?.bytes, 1)?;
    let mut files = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(fds) = message {
            files.extend(fds);
        }
    }
    Ok(files)
}

fn descriptors() -> Outcome {
    let (one, two) = UnixStream::pair().map_err(text)?;
    let child = raw::fork(|| {
        let Ok(mut file) = File::create_new("passed") else { return 1 };
        let Ok((reader, mut writer)) = std::io::pipe() else { return 2 };
        if file.write_all(b"in the file").is_err() || writer.write_all(b"in the pipe").is_err() {
            return 3;
        }
        i32::from(pass(&one, &[&file, &reader]).is_err()) * 4
    })
    .map_err(text)?;
    let mut files = take(&two)?;
    same("status", raw::exit_of(child).map_err(text)?, 0)?;
    same("two", files.len(), 2)?;
    let (pipe, file) = (files.pop().ok_or("no pipe")?, files.pop().ok_or("no file")?);
    let mut said = String::new();
    File::from(pipe).read_to_string(&mut said).map_err(text)?;
    same("the pipe", said.as_str(), "in the pipe")?;
    let file = File::from(file);
    same("the shared position", works("lseek", rustix::fs::seek(&file, rustix::fs::SeekFrom::Current(0)))?, 11)?;
    let flags = works("F_GETFD", rustix::io::fcntl_getfd(&file))?;
    that("close-on-exec", flags.contains(rustix::io::FdFlags::CLOEXEC))?;
    // Bytes behind those that carry descriptors are not taken together with them.
    (&one).write_all(b"plain").map_err(text)?;
    pass(&one, &[&file])?;
    (&one).write_all(b"more").map_err(text)?;
    let mut bytes = [0; 5];
    same("before", (&two).read(&mut bytes).map_err(text)?, 5)?;
    same("with descriptors", take(&two)?.len(), 1)?;
    pass(&one, &[&file])?;
    let mut bytes = [0; 64];
    same("up to the descriptors", (&two).read(&mut bytes).map_err(text)?, 5)
}

fn descriptors_dropped() -> Outcome {
    // A descriptor in flight is closed with the socket it waits in.
    let (one, two) = UnixStream::pair().map_err(text)?;
    let (mut reader, writer) = std::io::pipe().map_err(text)?;
    pass(&one, &[&writer])?;
    drop(writer);
    drop(two);
    drop(one);
    same("the pipe's end", reader.read(&mut [0]).map_err(text)?, 0)?;
    // And read without asking for descriptors.
    let (one, two) = UnixStream::pair().map_err(text)?;
    let (mut reader, writer) = std::io::pipe().map_err(text)?;
    pass(&one, &[&writer])?;
    drop(writer);
    same("the byte", (&two).read(&mut [0; 4]).map_err(text)?, 1)?;
    same("the pipe's end", reader.read(&mut [0]).map_err(text)?, 0)
}

fn shutdown() -> Outcome {
    let (mut one, mut two) = UnixStream::pair().map_err(text)?;
    one.write_all(b"last").map_err(text)?;
    one.shutdown(Shutdown::Write).map_err(text)?;
    let mut said = String::new();
    two.read_to_string(&mut said).map_err(text)?;
    same("what was sent", said.as_str(), "last")?;
    two.write_all(b"back").map_err(text)?;
    same("the other way", one.read(&mut [0; 8]).map_err(text)?, 4)?;
    raw::on_signal(libc::SIGPIPE, raw::Disposition::Ignore).map_err(text)?;
    fails("closed", one.write(b"x"), libc::EPIPE)
}

fn full() -> Outcome {
    let (one, two) = UnixStream::pair().map_err(text)?;
    one.set_nonblocking(true).map_err(text)?;
    let mut total = 0;
    let error = loop {
        match (&one).write(&[7; 10_000]) {
            Ok(count) => total += count,
            Err(error) => break error,
        }
        that("bounded", total < 16 << 20)?;
    };
    same("full", error.raw_os_error(), Some(libc::EAGAIN))?;
    one.set_nonblocking(false).map_err(text)?;
    let child = raw::fork(|| {
        let mut left = total + 500_000;
        let mut bytes = [0; 5000];
        while left > 0 {
            match (&two).read(&mut bytes) {
                Ok(count) if count > 0 => left -= count,
                _ => return 1,
            }
        }
        0
    })
    .map_err(text)?;
    (&one).write_all(&[8; 500_000]).map_err(text)?;
    same("status", raw::exit_of(child).map_err(text)?, 0)
}

fn credentials() -> Outcome {
    let listener = UnixListener::bind("s").map_err(text)?;
    let parent = std::process::id() as i32;
    let child = raw::fork(|| {
        let Ok(stream) = UnixStream::connect("s") else { return 1 };
        // They stay what they were when the peer has closed its end.
        let _ = (&stream).read(&mut [0]);
        let peer = sockopt::socket_peercred(&stream).map(|credentials| credentials.pid.as_raw_nonzero().get());
        i32::from(peer != Ok(parent)) * 2
    })
    .map_err(text)?;
    let (stream, _) = listener.accept().map_err(text)?;
    let peer = works("SO_PEERCRED", sockopt::socket_peercred(&stream))?;
    same("the client", peer.pid.as_raw_nonzero().get(), child)?;
    drop(stream);
    same("the server", raw::exit_of(child).map_err(text)?, 0)?;
    same("kind", works("SO_TYPE", sockopt::socket_type(&listener))?, SocketType::STREAM)
}

fn timeouts() -> Outcome {
    let (one, _two) = UnixStream::pair().map_err(text)?;
    one.set_read_timeout(Some(Duration::from_millis(40))).map_err(text)?;
    same("kept", one.read_timeout().map_err(text)?, Some(Duration::from_millis(40)))?;
    let begun = std::time::Instant::now();
    fails("read", (&one).read(&mut [0]), libc::EAGAIN)?;
    that("in time", begun.elapsed() >= Duration::from_millis(40) && begun.elapsed() < Duration::from_secs(5))?;
    one.set_write_timeout(Some(Duration::from_millis(40))).map_err(text)?;
    let begun = std::time::Instant::now();
    let written = (&one).write(&vec![0; 8 << 20]).map_err(text)?;
    that("what fits", written < 8 << 20 && begun.elapsed() < Duration::from_secs(5))
}

fn peek() -> Outcome {
    let (one, two) = UnixStream::pair().map_err(text)?;
    (&one).write_all(b"abc").map_err(text)?;
    let mut bytes = [0; 8];
    let fd = two.as_raw_fd() as u64;
    let flags = (libc::MSG_PEEK | libc::MSG_DONTWAIT) as u64;
    let peek = |bytes: &mut [u8; 8]| raw::call(libc::SYS_recvfrom, [fd, bytes.as_mut_ptr() as u64, 8, flags, 0, 0]);
    same("peek", works("recv", peek(&mut bytes))?, 3)?;
    same("still there", (&two).read(&mut bytes).map_err(text)?, 3)?;
    fails("nothing", peek(&mut bytes), libc::EAGAIN)
}
