//! The demonstration's client: downloads one file over one TCP connection, at a pace, and notes how long it waited.
use crate::image;
use anyhow::{Context, Result, bail};
use rustix::net::{AddressFamily, SocketType, sockopt};
use sha2::{Digest, Sha256};
use std::{
    io::{ErrorKind, Read, Write},
    net::{Ipv4Addr, SocketAddrV4, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle, sleep},
    time::{Duration, Instant},
};

/// A small receive buffer, so that what is buffered on the way hides no gap; but several of the loopback's large
/// segments, or the sender would wait for a timer before each.
const RECEIVE_BUFFER: usize = 256 * 1024;
/// How long nothing may come before the connection counts as dead.
const SILENCE: Duration = Duration::from_secs(30);
/// How long the rest of the file may take when nothing slows it down.
const REST: Duration = Duration::from_secs(90);
/// Share of the file, in percent, that one watched window may use up before it is slowed down as well.
const WINDOW_SHARE: u64 = 15;
/// Bytes a second while nobody watches.
const PACE: u64 = 1_500_000;

/// What came of it.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Bytes of the file that came.
    pub bytes: u64,
    /// Whether they are the right ones, all of them.
    pub sha256_ok: bool,
    /// Connections that were opened.
    pub connections: u32,
    /// Connections that were reset.
    pub resets: u32,
    /// What went wrong.
    pub error: Option<String>,
}

/// What the downloading thread and its owner tell one another. Times are nanoseconds since `start`.
struct Shared {
    start: Instant,
    received: AtomicU64,
    /// Longest wait for data in the present window.
    longest: AtomicU64,
    /// Since when the reader waits; 0 while it does not.
    waiting_since: AtomicU64,
    /// Bytes received when the window was opened.
    window_base: AtomicU64,
    watched: AtomicBool,
    unlimited: AtomicBool,
}

impl Shared {
    fn now(&self) -> u64 {
        self.start.elapsed().as_nanos() as u64 + 1
    }

    fn full_speed(&self) -> bool {
        if self.unlimited.load(Ordering::Relaxed) {
            return true;
        }
        let used = self.received.load(Ordering::Relaxed) - self.window_base.load(Ordering::Relaxed);
        self.watched.load(Ordering::Relaxed) && used < image::STREAM_BYTES * WINDOW_SHARE / 100
    }
}

/// A download that goes on in a thread of its own.
pub struct Download {
    shared: Arc<Shared>,
    thread: JoinHandle<Outcome>,
}

impl Download {
    /// Starts to download the stream from the web server behind a port of this host.
    pub fn start(port: u16) -> Download {
        let shared = Arc::new(Shared {
            start: Instant::now(),
            received: AtomicU64::new(0),
            longest: AtomicU64::new(0),
            waiting_since: AtomicU64::new(0),
            window_base: AtomicU64::new(0),
            watched: AtomicBool::new(false),
            unlimited: AtomicBool::new(false),
        });
        let ours = Arc::clone(&shared);
        let thread = thread::spawn(move || {
            let mut outcome = Outcome::default();
            if let Err(error) = run(port, &ours, &mut outcome) {
                outcome.error = Some(format!("{error:#}"));
            }
            outcome
        });
        Download { shared, thread }
    }

    /// Bytes received so far.
    pub fn received(&self) -> u64 {
        self.shared.received.load(Ordering::Relaxed)
    }
    /// Whether it has ended, well or not.
    pub fn ended(&self) -> bool {
        self.thread.is_finished()
    }

    /// From now on data is taken as fast as it comes, and the longest wait for it is noted.
    pub fn watch(&self) {
        self.shared.window_base.store(self.received(), Ordering::Relaxed);
        self.shared.longest.store(0, Ordering::Relaxed);
        self.shared.watched.store(true, Ordering::Relaxed);
    }

    /// Ends the window; returns the longest wait in it.
    pub fn unwatch(&self) -> Duration {
        self.shared.watched.store(false, Ordering::Relaxed);
        let since = self.shared.waiting_since.load(Ordering::Relaxed);
        let now_waiting = if since == 0 { 0 } else { self.shared.now().saturating_sub(since) };
        Duration::from_nanos(self.shared.longest.load(Ordering::Relaxed).max(now_waiting))
    }

    /// Takes the rest without a pause and returns what came of it.
    pub fn finish(self) -> Outcome {
        self.shared.unlimited.store(true, Ordering::Relaxed);
        let end = Instant::now() + REST;
        while !self.ended() {
            if Instant::now() >= end {
                // The thread is left to itself: it ends with this process.
                return Outcome {
                    bytes: self.received(),
                    connections: 1,
                    error: Some(format!("the download did not finish within {} s", REST.as_secs())),
                    ..Outcome::default()
                };
            }
            sleep(Duration::from_millis(10));
        }
        let died = || Outcome { error: Some("the downloading thread died".to_string()), ..Outcome::default() };
        self.thread.join().unwrap_or_else(|_| died())
    }
}

/// The checksum that the stream must have.
pub fn expected_sha256() -> [u8; 32] {
    let mut hash = Sha256::new();
    for block in image::stream_blocks() {
        hash.update(block);
    }
    hash.finalize().into()
}

fn connect(port: u16) -> Result<TcpStream> {
    let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None)?;
    sockopt::set_socket_recv_buffer_size(&socket, RECEIVE_BUFFER)?;
    rustix::net::connect(&socket, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, port)).context("cannot connect")?;
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(SILENCE))?;
    stream.set_write_timeout(Some(SILENCE))?;
    Ok(stream)
}

fn run(port: u16, shared: &Shared, outcome: &mut Outcome) -> Result<()> {
    let mut stream = connect(port)?;
    outcome.connections += 1;
    let request = format!("GET /{} HTTP/1.0\r\nHost: shimos\r\n\r\n", image::STREAM_NAME);
    stream.write_all(request.as_bytes()).context("cannot send the request")?;
    let mut hash = Sha256::new();
    let result = receive(&mut stream, shared, &mut hash, outcome);
    outcome.bytes = shared.received.load(Ordering::Relaxed);
    outcome.sha256_ok = outcome.bytes == image::STREAM_BYTES && hash.finalize()[..] == expected_sha256();
    result
}

fn receive(stream: &mut TcpStream, shared: &Shared, hash: &mut Sha256, outcome: &mut Outcome) -> Result<()> {
    let mut header = Vec::new();
    let mut in_body = false;
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let before = shared.now();
        shared.waiting_since.store(before, Ordering::Relaxed);
        let read = stream.read(&mut buffer);
        shared.waiting_since.store(0, Ordering::Relaxed);
        let waited = shared.now() - before;
        if shared.watched.load(Ordering::Relaxed) {
            shared.longest.fetch_max(waited, Ordering::Relaxed);
        }
        let count = match read {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => {
                if matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe) {
                    outcome.resets += 1;
                }
                return Err(error).context("the connection broke");
            }
        };
        let mut data = buffer.get(..count).unwrap_or_default();
        if !in_body {
            header.extend_from_slice(data);
            let Some(end) = header.windows(4).position(|window| window == b"\r\n\r\n") else {
                continue;
            };
            let text = String::from_utf8_lossy(header.get(..end).unwrap_or_default());
            let first = text.lines().next().unwrap_or_default();
            if !first.contains(" 200 ") {
                bail!("the web server answered '{first}'");
            }
            in_body = true;
            data = data.get(count - (header.len() - end - 4)..).unwrap_or_default();
        }
        hash.update(data);
        let count = data.len() as u64;
        shared.received.fetch_add(count, Ordering::Relaxed);
        if !shared.full_speed() {
            sleep(Duration::from_nanos(count.saturating_mul(1_000_000_000) / PACE));
        }
    }
    let bytes = shared.received.load(Ordering::Relaxed);
    if bytes < image::STREAM_BYTES {
        bail!("the connection ended after {bytes} of {} bytes", image::STREAM_BYTES);
    }
    Ok(())
}

/// Whether a web server answers behind a port; tried until it does.
pub fn wait_for_server(port: u16, within: Duration) -> Result<()> {
    let end = Instant::now() + within;
    loop {
        let attempt = || -> Result<bool> {
            let mut stream = connect(port)?;
            stream.set_read_timeout(Some(Duration::from_secs(1)))?;
            stream.write_all(b"GET /index.html HTTP/1.0\r\n\r\n")?;
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer)?;
            Ok(answer.windows(5).any(|window| window == b" 200 "))
        };
        match attempt() {
            Ok(true) => return Ok(()),
            _ if Instant::now() >= end => bail!("the web server inside does not answer"),
            _ => sleep(Duration::from_millis(50)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    /// A web server that sends `bytes` of the stream, pausing once in the middle.
    fn server(blocks: usize, pause: Duration) -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let port = listener.local_addr().expect("address").port();
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("accept");
            let mut request = [0; 1024];
            let _ = stream.read(&mut request).expect("a request");
            stream.write_all(b"HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\n").expect("header");
            for (index, block) in image::stream_blocks().take(blocks).enumerate() {
                if index == blocks / 2 {
                    sleep(pause);
                }
                if stream.write_all(&block).is_err() {
                    return;
                }
            }
        });
        port
    }

    #[test]
    fn a_whole_download_is_right_and_its_gap_is_seen() {
        let download = Download::start(server(image::STREAM_BYTES as usize / 4096, Duration::from_secs(1)));
        download.watch();
        let shared = Arc::clone(&download.shared);
        let outcome = download.finish();
        assert!(outcome.sha256_ok, "{outcome:?}");
        assert_eq!((outcome.connections, outcome.resets, outcome.error), (1, 0, None));
        let longest = Duration::from_nanos(shared.longest.load(Ordering::Relaxed));
        assert!(longest >= Duration::from_millis(250), "{longest:?}");
    }

    #[test]
    fn a_download_that_ends_early_is_not_right() {
        let outcome = Download::start(server(10, Duration::ZERO)).finish();
        assert!(!outcome.sha256_ok);
        assert_eq!(outcome.bytes, 40960);
        assert!(outcome.error.is_some_and(|error| error.contains("40960")));
    }

    #[test]
    fn without_a_server_that_is_said() {
        let port = crate::machine::free_port().expect("a port");
        let outcome = Download::start(port).finish();
        assert!(outcome.error.is_some_and(|error| error.contains("cannot connect")));
    }
}
