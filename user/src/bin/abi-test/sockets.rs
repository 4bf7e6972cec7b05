//! TCP and UDP over the loopback address.
use crate::{
    Outcome, Subtest,
    check::{fails, same, text, that, works},
};
use shimos_user::raw;
use std::{
    io::{Read, Write},
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::AsRawFd,
    time::{Duration, Instant},
};

/// The subtests.
pub const TESTS: &[Subtest] = &[
    ("sockets/tcp", tcp),
    ("sockets/one-process", one_process),
    ("sockets/many-bytes", many_bytes),
    ("sockets/many-connections", many_connections),
    ("sockets/half-close", half_close),
    ("sockets/refused", refused),
    ("sockets/nonblocking-connect", nonblocking_connect),
    ("sockets/reset", reset),
    ("sockets/lingering", lingering),
    ("sockets/addresses", addresses),
    ("sockets/udp", udp),
    ("sockets/timeouts", timeouts),
    ("sockets/options", options),
    ("sockets/bad-arguments", bad_arguments),
];

const HERE: (Ipv4Addr, u16) = (Ipv4Addr::LOCALHOST, 0);

fn listener() -> Result<(TcpListener, SocketAddr), String> {
    let listener = TcpListener::bind(HERE).map_err(text)?;
    let address = listener.local_addr().map_err(text)?;
    Ok((listener, address))
}

fn tcp() -> Outcome {
    let (listener, address) = listener()?;
    let child = raw::fork(|| {
        let Ok((mut stream, _)) = listener.accept() else { return 1 };
        let mut said = [0; 5];
        if stream.read_exact(&mut said).is_err() || said != *b"hello" {
            return 2;
        }
        i32::from(stream.write_all(b"answer").is_err()) * 3
    })
    .map_err(text)?;
    let mut stream = TcpStream::connect(address).map_err(text)?;
    stream.write_all(b"hello").map_err(text)?;
    let mut said = String::new();
    stream.read_to_string(&mut said).map_err(text)?;
    same("answer", said.as_str(), "answer")?;
    same("status", raw::exit_of(child).map_err(text)?, 0)
}

fn one_process() -> Outcome {
    // Both ends in one thread: nothing may wait for the kernel to get its turn.
    let (listener, address) = listener()?;
    let begun = Instant::now();
    for _ in 0..20 {
        let mut client = TcpStream::connect(address).map_err(text)?;
        let (mut server, from) = listener.accept().map_err(text)?;
        same("from", from, client.local_addr().map_err(text)?)?;
        for _ in 0..20 {
            client.write_all(b"ping").map_err(text)?;
            let mut bytes = [0; 4];
            server.read_exact(&mut bytes).map_err(text)?;
            server.write_all(&bytes).map_err(text)?;
            client.read_exact(&mut bytes).map_err(text)?;
            same("echo", &bytes, b"ping")?;
        }
    }
    let took = begun.elapsed();
    that(&format!("400 rounds took {took:?}"), took < Duration::from_secs(8))
}

fn many_bytes() -> Outcome {
    const SIZE: usize = 4_000_000;
    let (listener, address) = listener()?;
    let child = raw::fork(|| {
        let Ok((mut stream, _)) = listener.accept() else { return 1 };
        let bytes: Vec<u8> = (0..SIZE).map(|n| (n % 251) as u8).collect();
        i32::from(stream.write_all(&bytes).is_err()) * 2
    })
    .map_err(text)?;
    let mut bytes = Vec::new();
    TcpStream::connect(address).map_err(text)?.read_to_end(&mut bytes).map_err(text)?;
    same("length", bytes.len(), SIZE)?;
    that("content", bytes.iter().enumerate().all(|(n, byte)| *byte == (n % 251) as u8))?;
    same("status", raw::exit_of(child).map_err(text)?, 0)
}

fn many_connections() -> Outcome {
    let (listener, address) = listener()?;
    let child = raw::fork(|| {
        for _ in 0..100 {
            let Ok((mut stream, _)) = listener.accept() else { return 1 };
            let mut bytes = Vec::new();
            if stream.read_to_end(&mut bytes).is_err() || stream.write_all(&bytes).is_err() {
                return 2;
            }
        }
        0
    })
    .map_err(text)?;
    for n in 0..100 {
        let mut stream = TcpStream::connect(address).map_err(text)?;
        stream.write_all(format!("{n}").as_bytes()).map_err(text)?;
        stream.shutdown(Shutdown::Write).map_err(text)?;
        let mut said = String::new();
        stream.read_to_string(&mut said).map_err(text)?;
        same("echo", said, n.to_string())?;
    }
    same("status", raw::exit_of(child).map_err(text)?, 0)
}

fn half_close() -> Outcome {
    let (listener, address) = listener()?;
    let mut one = TcpStream::connect(address).map_err(text)?;
    let (mut two, _) = listener.accept().map_err(text)?;
    one.shutdown(Shutdown::Write).map_err(text)?;
    same("the end", two.read(&mut [0]).map_err(text)?, 0)?;
    two.write_all(b"still").map_err(text)?;
    let mut bytes = [0; 5];
    one.read_exact(&mut bytes).map_err(text)?;
    same("the other way", &bytes, b"still")?;
    raw::on_signal(libc::SIGPIPE, raw::Disposition::Ignore).map_err(text)?;
    fails("closed", one.write(b"x"), libc::EPIPE)
}

fn refused() -> Outcome {
    let (listener, address) = listener()?;
    drop(listener);
    fails("connect", TcpStream::connect(address), libc::ECONNREFUSED)?;
    fails(
        "in use",
        {
            let (_keep, address) = self::listener()?;
            TcpListener::bind(address).map(|_| ())
        },
        libc::EADDRINUSE,
    )?;
    fails("not ours", TcpListener::bind((Ipv4Addr::new(8, 8, 8, 8), 0)).map(|_| ()), libc::EADDRNOTAVAIL)
}

fn nonblocking_connect() -> Outcome {
    use rustix::{event, net};
    let (listener, address) = listener()?;
    listener.set_nonblocking(true).map_err(text)?;
    fails("nobody yet", listener.accept().map(|_| ()), libc::EAGAIN)?;
    let flags = net::SocketFlags::NONBLOCK;
    let socket = works("socket", net::socket_with(net::AddressFamily::INET, net::SocketType::STREAM, flags, None))?;
    match net::connect(&socket, &address) {
        Ok(()) | Err(rustix::io::Errno::INPROGRESS) => {}
        Err(error) => return Err(format!("connect: {error}")),
    }
    let mut fds = [event::PollFd::new(&socket, event::PollFlags::OUT)];
    let patience = event::Timespec { tv_sec: 5, tv_nsec: 0 };
    same("writable", works("poll", event::poll(&mut fds, Some(&patience)))?, 1)?;
    same("no error", works("SO_ERROR", net::sockopt::socket_error(&socket))?, Ok(()))?;
    let mut fds = [event::PollFd::new(&listener, event::PollFlags::IN)];
    same("somebody", works("poll", event::poll(&mut fds, Some(&patience)))?, 1)?;
    let (stream, _) = listener.accept().map_err(text)?;
    stream.set_nonblocking(true).map_err(text)?;
    fails("nothing yet", (&stream).read(&mut [0]), libc::EAGAIN)?;
    let mut total = 0;
    loop {
        match rustix::io::write(&socket, &[1; 65536]) {
            Ok(count) => total += count,
            Err(rustix::io::Errno::AGAIN) => break,
            Err(error) => return Err(format!("write: {error}")),
        }
        that("bounded", total < 64 << 20)?;
    }
    Ok(())
}

fn reset() -> Outcome {
    let (listener, address) = listener()?;
    let one = TcpStream::connect(address).map_err(text)?;
    let (two, _) = listener.accept().map_err(text)?;
    (&one).write_all(b"not read").map_err(text)?;
    two.peek(&mut [0]).map_err(text)?;
    // Closed with bytes unread: the other side is told that they are lost.
    drop(two);
    fails("reset", (&one).read(&mut [0]), libc::ECONNRESET)
}

fn addresses() -> Outcome {
    let (listener, address) = listener()?;
    that("a port", address.port() != 0)?;
    let one = TcpStream::connect(address).map_err(text)?;
    let (two, from) = listener.accept().map_err(text)?;
    same("peer", one.peer_addr().map_err(text)?, address)?;
    same("accepted from", from, one.local_addr().map_err(text)?)?;
    same("accepted at", two.local_addr().map_err(text)?, address)?;
    let any = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).map_err(text)?;
    let port = any.local_addr().map_err(text)?.port();
    TcpStream::connect((Ipv4Addr::LOCALHOST, port)).map_err(text)?;
    let idle = works("socket", raw::call(libc::SYS_socket, [2, 1, 0, 0, 0, 0]))?;
    fails("no peer", raw::call(libc::SYS_getpeername, [idle, 0, 0, 0, 0, 0]), libc::ENOTCONN)
}

fn udp() -> Outcome {
    let one = UdpSocket::bind(HERE).map_err(text)?;
    let two = UdpSocket::bind(HERE).map_err(text)?;
    let to = two.local_addr().map_err(text)?;
    one.send_to(b"first", to).map_err(text)?;
    one.send_to(b"", to).map_err(text)?;
    one.send_to(&[9; 2000], to).map_err(text)?;
    two.set_read_timeout(Some(Duration::from_secs(5))).map_err(text)?;
    let mut bytes = [0; 3];
    let (count, from) = two.recv_from(&mut bytes).map_err(text)?;
    same("cut", (count, &bytes, from), (3, b"fir", one.local_addr().map_err(text)?))?;
    let mut bytes = [0; 4000];
    same("empty", two.recv(&mut bytes).map_err(text)?, 0)?;
    same("larger than a frame", two.recv(&mut bytes).map_err(text)?, 2000)?;
    one.connect(to).map_err(text)?;
    one.send(b"connected").map_err(text)?;
    same("connected", two.recv(&mut bytes).map_err(text)?, 9)?;
    two.set_nonblocking(true).map_err(text)?;
    fails("nothing", two.recv(&mut bytes), libc::EAGAIN)?;
    fails("too long", one.send(&vec![0; 70_000]), libc::EMSGSIZE)
}

fn timeouts() -> Outcome {
    let (listener, address) = listener()?;
    let one = TcpStream::connect(address).map_err(text)?;
    let _two = listener.accept().map_err(text)?;
    one.set_read_timeout(Some(Duration::from_millis(50))).map_err(text)?;
    same("kept", one.read_timeout().map_err(text)?.map(|time| time.as_millis() >= 50), Some(true))?;
    let begun = Instant::now();
    fails("read", (&one).read(&mut [0]), libc::EAGAIN)?;
    let took = begun.elapsed();
    that(&format!("took {took:?}"), took >= Duration::from_millis(50) && took < Duration::from_secs(5))?;
    one.set_read_timeout(None).map_err(text)?;
    same("off", one.read_timeout().map_err(text)?, None)?;
    one.set_write_timeout(Some(Duration::from_millis(50))).map_err(text)?;
    let mut total = 0;
    loop {
        match (&one).write(&[0; 100_000]) {
            Ok(count) => total += count,
            Err(error) => return same("full", error.raw_os_error(), Some(libc::EAGAIN)),
        }
        that("bounded", total < 64 << 20)?;
    }
}

fn options() -> Outcome {
    use rustix::net::sockopt;
    let (listener, address) = listener()?;
    let stream = TcpStream::connect(address).map_err(text)?;
    stream.set_nodelay(true).map_err(text)?;
    that("TCP_NODELAY", stream.nodelay().map_err(text)?)?;
    works("SO_KEEPALIVE", sockopt::set_socket_keepalive(&stream, true))?;
    that("SO_KEEPALIVE", works("keepalive", sockopt::socket_keepalive(&stream))?)?;
    works("SO_REUSEADDR", sockopt::set_socket_reuseaddr(&listener, true))?;
    that("SO_REUSEADDR", works("reuse", sockopt::socket_reuseaddr(&listener))?)?;
    that("SO_RCVBUF", works("buffer", sockopt::socket_recv_buffer_size(&stream))? > 1000)?;
    works("SO_LINGER", sockopt::set_socket_linger(&stream, Some(Duration::from_secs(3))))?;
    same("SO_LINGER", works("linger", sockopt::socket_linger(&stream))?, Some(Duration::from_secs(3)))?;
    that("SO_ACCEPTCONN", works("listening", sockopt::socket_acceptconn(&listener))?)?;
    let fd = stream.as_raw_fd() as u64;
    let value = 0_u64;
    fails(
        "no such option",
        raw::call(libc::SYS_setsockopt, [fd, 1, 9999, &raw const value as u64, 4, 0]),
        libc::ENOPROTOOPT,
    )
}

fn bad_arguments() -> Outcome {
    fails("no family", raw::call(libc::SYS_socket, [99, 1, 0, 0, 0, 0]), libc::EAFNOSUPPORT)?;
    fails("no kind", raw::call(libc::SYS_socket, [2, 1, 17, 0, 0, 0]), libc::EPROTONOSUPPORT)?;
    fails("bad flags", raw::call(libc::SYS_socket, [2, 1 | 0x100, 0, 0, 0, 0]), libc::EINVAL)?;
    let file = std::fs::File::create("a").map_err(text)?;
    fails("a file", raw::call(libc::SYS_listen, [file.as_raw_fd() as u64, 1, 0, 0, 0, 0]), libc::ENOTSOCK)?;
    let socket = works("socket", raw::call(libc::SYS_socket, [2, 1, 0, 0, 0, 0]))?;
    fails(
        "a short address",
        raw::call(libc::SYS_bind, [socket, [2_u16; 1].as_ptr() as u64, 2, 0, 0, 0]),
        libc::EINVAL,
    )?;
    fails(
        "not connected",
        raw::call(libc::SYS_recvfrom, [socket, [0_u8; 1].as_mut_ptr() as u64, 1, 0, 0, 0]),
        libc::ENOTCONN,
    )?;
    fails("accept", raw::call(libc::SYS_accept, [socket, 0, 0, 0, 0, 0]), libc::EINVAL)
}

/// SO_LINGER: close waits until the peer has everything, but not for ever; with no time at all it resets.
fn lingering() -> Outcome {
    use rustix::net::sockopt::set_socket_linger;
    let (listener, address) = listener()?;
    let fill = |stream: &TcpStream| -> Outcome {
        stream.set_nonblocking(true).map_err(text)?;
        let bytes = [7; 65536];
        while (&mut &*stream).write(&bytes).is_ok() {}
        Ok(())
    };
    // The peer reads nothing: the time passes.
    let client = TcpStream::connect(address).map_err(text)?;
    let (server, _) = listener.accept().map_err(text)?;
    works("SO_LINGER", set_socket_linger(&client, Some(Duration::from_secs(1))))?;
    fill(&client)?;
    let begun = Instant::now();
    drop(client);
    that("it has waited", begun.elapsed() >= Duration::from_millis(900))?;
    drop(server);
    // The peer reads all: no time passes in vain.
    let client = TcpStream::connect(address).map_err(text)?;
    let (mut server, _) = listener.accept().map_err(text)?;
    works("SO_LINGER", set_socket_linger(&client, Some(Duration::from_secs(50))))?;
    fill(&client)?;
    let reader = std::thread::spawn(move || {
        let mut bytes = Vec::new();
        server.read_to_end(&mut bytes).map(|_| server)
    });
    let begun = Instant::now();
    drop(client);
    that("it has not waited for long", begun.elapsed() < Duration::from_secs(40))?;
    let _server = reader.join().map_err(|_| "a thread panicked")?.map_err(text)?;
    // No time: a reset.
    let client = TcpStream::connect(address).map_err(text)?;
    let (mut server, _) = listener.accept().map_err(text)?;
    works("SO_LINGER", set_socket_linger(&client, Some(Duration::ZERO)))?;
    drop(client);
    fails("reset", server.read(&mut [0; 1]), libc::ECONNRESET)
}
