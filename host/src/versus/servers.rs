//! What this host does in a measurement: a TCP server for `micro`, and a client of web servers.
use anyhow::{Context, Result, bail};
use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
    thread,
    time::{Duration, Instant},
};

const MIB: usize = 1 << 20;
/// Connections of the web client.
const CONNECTIONS: usize = 4;
/// How long a web server is asked.
const ASKING: Duration = Duration::from_secs(2);
/// The longest wait for any one thing.
const PATIENCE: Duration = Duration::from_secs(20);

/// Starts the server for `micro`, see `user/src/bin/micro/sockets.rs`; returns its port. It ends with this process.
pub fn start() -> Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("no port of this host is free")?;
    let port = listener.local_addr()?.port();
    thread::spawn(move || {
        for stream in listener.incoming().map_while(std::result::Result::ok) {
            thread::spawn(move || serve(stream));
        }
    });
    Ok(port)
}

/// Serves one connection until the other end closes it.
fn serve(mut stream: TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut how = [0];
    stream.read_exact(&mut how)?;
    let mut buffer = vec![0; 256 * 1024];
    let mut taken = 0;
    loop {
        let count = stream.read(&mut buffer)?;
        let data = buffer.get(..count).unwrap_or_default();
        match how {
            _ if count == 0 => return Ok(()),
            [b'e'] => stream.write_all(data)?,
            [b's'] => {
                taken += count;
                while taken >= MIB {
                    taken -= MIB;
                    stream.write_all(&[1])?;
                }
            }
            [b'r'] => {
                let piece = vec![9; MIB];
                for _ in 0..count {
                    stream.write_all(&piece)?;
                }
            }
            _ => return Ok(()),
        }
    }
}

/// Asks a web server for `/file` over several connections that stay open; returns the nanoseconds of one request.
pub fn ask(port: u16) -> Result<f64> {
    wait_for(port)?;
    let start = Instant::now();
    let clients: Vec<_> = (0..CONNECTIONS).map(|_| thread::spawn(move || client(port, start + ASKING))).collect();
    let mut requests = 0;
    for client in clients {
        requests += client.join().map_err(|_| anyhow::anyhow!("a web client died"))??;
    }
    let took = start.elapsed();
    if requests == 0 {
        bail!("the web server answered nothing");
    }
    Ok(took.as_nanos() as f64 / f64::from(requests))
}

fn wait_for(port: u16) -> Result<()> {
    let end = Instant::now() + PATIENCE;
    loop {
        match client(port, Instant::now()) {
            Ok(_) => return Ok(()),
            Err(error) if Instant::now() >= end => return Err(error.context("the web server does not answer")),
            Err(_) => thread::sleep(Duration::from_millis(50)),
        }
    }
}

/// Asks until `end`, at least once; returns how often.
fn client(port: u16, end: Instant) -> Result<u32> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut requests = 0;
    loop {
        stream.write_all(b"GET /file HTTP/1.1\r\nHost: bench\r\n\r\n")?;
        answer(&mut reader)?;
        requests += 1;
        if Instant::now() >= end {
            return Ok(requests);
        }
    }
}

/// Reads one answer to its end.
fn answer(reader: &mut impl BufRead) -> Result<()> {
    let mut length = 0;
    let mut line = String::new();
    for number in 0.. {
        line.clear();
        if reader.read_line(&mut line)? == 0 {
            bail!("the web server closed the connection");
        }
        let text = line.trim();
        if number == 0 && !text.contains(" 200 ") {
            bail!("the web server answered '{text}'");
        }
        if text.is_empty() {
            break;
        }
        if let Some((name, value)) = text.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = value.trim().parse().context("an odd length")?;
        }
    }
    let got = std::io::copy(&mut reader.take(length), &mut std::io::sink())?;
    if got == length { Ok(()) } else { bail!("the answer was cut short") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_server_does_what_the_first_byte_says() {
        let port = start().expect("starts");
        let mut echo = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).expect("connects");
        echo.write_all(b"eabc").expect("writes");
        let mut back = [0; 3];
        echo.read_exact(&mut back).expect("reads");
        assert_eq!(&back, b"abc");
        let mut sink = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).expect("connects");
        sink.write_all(b"s").expect("writes");
        sink.write_all(&vec![0; 2 * MIB]).expect("writes");
        let mut two = [0; 2];
        sink.read_exact(&mut two).expect("reads");
        let mut source = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).expect("connects");
        source.write_all(b"r1").expect("writes");
        let mut piece = vec![0; MIB];
        source.read_exact(&mut piece).expect("reads");
        assert!(piece.iter().all(|byte| *byte == 9));
    }

    #[test]
    fn answers_are_read_to_their_end() {
        let two = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabcHTTP/1.1 404 No\r\n\r\n";
        let mut reader = &two[..];
        answer(&mut reader).expect("whole");
        assert!(answer(&mut reader).expect_err("refused").to_string().contains("404"));
        let mut cut = &b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nabc"[..];
        assert!(answer(&mut cut).is_err());
    }
}
