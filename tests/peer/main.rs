//! The TCP of Shimos against that of Linux, over a wire that this test owns and that loses, repeats, reorders and damages
//! frames as a seed says.
//!
//! The wire is a TAP device in a network namespace of this process: one end is Linux, the other the stack of a program.
//! No right is needed that a user of Debian does not have: user namespaces and /dev/net/tun, open for everybody. Where one
//! of them is missing the test says so and fails.
#![forbid(unsafe_code)]

mod wire;

use anyhow::{Context, Result, ensure};
use shimos_abi::{errno::Errno, time::Nanos};
use shimos_net::{Family, How, Protocol, SocketId, Stack, Take};
use std::{
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    process::ExitCode,
    thread,
    time::{Duration, Instant},
};
use wire::{Faults, Wire};

/// Bytes each way.
const TOTAL: usize = 400_000;
/// No transfer may take longer than this, whatever is lost.
const PATIENCE: Duration = Duration::from_secs(120);
const PORT: u16 = 4711;
/// Connections, if `PEER_ROUNDS` in the environment does not say another number.
const ROUNDS: u64 = 12;

/// Bytes that depend on their place and their direction.
fn pattern(place: usize, salt: u8) -> u8 {
    (place ^ (place >> 8) ^ (place >> 16)) as u8 ^ salt
}

/// What the program at our end of a connection has done.
#[derive(Default)]
struct Program {
    sent: usize,
    received: usize,
    ended: bool,
}

impl Program {
    fn is_done(&self) -> bool {
        self.sent == TOTAL && self.received == TOTAL && self.ended
    }

    /// Sends and receives what is possible now.
    fn go(&mut self, stack: &mut Stack, now: Nanos, id: SocketId) -> Result<()> {
        while self.sent < TOTAL {
            let end = TOTAL.min(self.sent + 8000);
            let piece: Vec<u8> = (self.sent..end).map(|at| pattern(at, 0x55)).collect();
            match stack.send(now, id, &piece, None) {
                Ok(count) => self.sent += count,
                Err(Errno::EAGAIN) => break,
                Err(error) => anyhow::bail!("send after {} bytes: {error:?}", self.sent),
            }
            if self.sent == TOTAL {
                stack.shutdown(now, id, How::Write).map_err(|error| anyhow::anyhow!("shutdown: {error:?}"))?;
            }
        }
        let mut buffer = vec![0; 16384];
        while !self.ended {
            match stack.receive_from(now, id, &mut buffer, Take::Consume) {
                Ok(got) if got.copied == 0 => self.ended = true,
                Ok(got) => {
                    for (at, byte) in buffer.iter().take(got.copied).enumerate() {
                        let place = self.received + at;
                        ensure!(*byte == pattern(place, 0xaa), "a wrong byte at {place}");
                    }
                    self.received += got.copied;
                }
                Err(Errno::EAGAIN) => break,
                Err(error) => anyhow::bail!("receive after {} bytes: {error:?}", self.received),
            }
        }
        Ok(())
    }
}

/// The same at the end of Linux: a thread sends, this one receives.
fn linux_end(stream: TcpStream) -> Result<()> {
    let mut writer = stream.try_clone()?;
    let sending = thread::spawn(move || -> std::io::Result<()> {
        let bytes: Vec<u8> = (0..TOTAL).map(|at| pattern(at, 0xaa)).collect();
        writer.write_all(&bytes)?;
        writer.shutdown(Shutdown::Write)
    });
    let mut bytes = Vec::new();
    let mut reader = stream;
    reader.read_to_end(&mut bytes).context("Linux receives")?;
    ensure!(bytes.len() == TOTAL, "Linux received {} bytes", bytes.len());
    let wrong = bytes.iter().enumerate().find(|(at, byte)| **byte != pattern(*at, 0x55));
    ensure!(wrong.is_none(), "Linux received a wrong byte at {wrong:?}");
    sending.join().map_err(|_| anyhow::anyhow!("the sending thread panicked"))?.context("Linux sends")
}

/// Who begins the connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Begins {
    Linux,
    Shimos,
}

/// One connection with data both ways.
fn exchange(wire: &mut Wire, seed: u64, family: Family, begins: Begins, faults: Faults) -> Result<String> {
    let mut stack = Stack::new(wire::config(), seed);
    wire.set(seed, faults);
    let (ours, theirs) = wire::addresses(family);
    let began = Instant::now();
    let mut listener = None;
    let mut socket = None;
    let peer = match begins {
        Begins::Linux => {
            let id = stack.open(family, Protocol::Tcp).map_err(errno("open"))?;
            stack.bind(id, SocketAddr::new(family.unspecified(), PORT)).map_err(errno("bind"))?;
            stack.listen(id, 5).map_err(errno("listen"))?;
            listener = Some(id);
            thread::spawn(move || {
                let stream = TcpStream::connect((ours, PORT)).context("Linux connects")?;
                linux_end(stream)
            })
        }
        Begins::Shimos => {
            let linux = TcpListener::bind((theirs, 0)).context("Linux binds")?;
            let port = linux.local_addr()?.port();
            let id = stack.open(family, Protocol::Tcp).map_err(errno("open"))?;
            let started = stack.connect(wire.now(), id, SocketAddr::new(theirs, port));
            ensure!(started == Err(Errno::EINPROGRESS), "connect: {started:?}");
            socket = Some(id);
            thread::spawn(move || linux_end(linux.accept().context("Linux accepts")?.0))
        }
    };
    let mut program = Program::default();
    // Our program may be done before the last acknowledgement has gone: go on until Linux is done as well.
    while !(program.is_done() && peer.is_finished()) {
        ensure!(
            began.elapsed() < PATIENCE,
            "stuck: sent {}, received {} after {:?}",
            program.sent,
            program.received,
            began.elapsed()
        );
        if peer.is_finished() && !program.is_done() && began.elapsed() > PATIENCE / 2 {
            break;
        }
        wire.turn(&mut stack)?;
        let now = wire.now();
        if let Some(id) = listener
            && socket.is_none()
        {
            socket = stack.accept(id).ok().map(|(id, _)| id);
        }
        if let Some(id) = socket
            && stack.peer_address(id).is_ok()
            && !program.is_done()
        {
            program.go(&mut stack, now, id)?;
        }
    }
    peer.join().map_err(|_| anyhow::anyhow!("the peer panicked"))??;
    ensure!(program.is_done(), "sent {}, received {}", program.sent, program.received);
    let again = stack.counters().tcp_sent_again;
    Ok(format!("{:?}, {} frames lost, {again} segments sent again", began.elapsed(), wire.lost()))
}

fn errno(what: &'static str) -> impl Fn(Errno) -> anyhow::Error {
    move |error| anyhow::anyhow!("{what}: {error:?}")
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    let mut failed = 0;
    let mut wire = match Wire::new() {
        Ok(wire) => wire,
        Err(error) => {
            eprintln!("peer: no wire to Linux: {error:#}");
            return ExitCode::FAILURE;
        }
    };
    let bad = |n: u64| Faults { lose: n % 4 * 2, repeat: n % 3 * 3, delay: n % 5 * 4, damage: n % 2 * 2 };
    let rounds = std::env::var("PEER_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(ROUNDS);
    for (n, family, begins) in (0..rounds).map(|n| {
        let family = if n % 2 == 0 { Family::V4 } else { Family::V6 };
        let begins = if n % 4 < 2 { Begins::Linux } else { Begins::Shimos };
        (n, family, begins)
    }) {
        let faults = if n < 4 { Faults::default() } else { bad(n) };
        let name = format!("peer::{family:?}_{begins:?}_begins_seed_{n}_{faults:?}");
        if !words.is_empty() && !words.iter().any(|word| name.contains(word.as_str())) {
            continue;
        }
        match exchange(&mut wire, n * 7919 + 1, family, begins, faults) {
            Ok(told) => println!("test {name} ... ok ({told})"),
            Err(error) => {
                failed += 1;
                println!("test {name} ... FAILED: {error:#}");
            }
        }
    }
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
