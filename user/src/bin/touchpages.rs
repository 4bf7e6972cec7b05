//! A program of known size that dirties a known number of pages at each step: for measurements.
//!
//! `touchpages MEBIBYTES PAGES STEP_MS [PORT]` holds that much memory and writes to that many pages, then waits, and so on.
//! It checks that memory still holds what it wrote and says so if not. While it waits it sends back what comes on
//! connections to the port.
#![forbid(unsafe_code)]

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::{
    io::{ErrorKind, Read, Write},
    net::{TcpListener, TcpStream},
    process::ExitCode,
    time::{Duration, Instant},
};

const PAGE: usize = 4096;

fn main() -> ExitCode {
    let arguments: Vec<u64> = std::env::args().skip(1).filter_map(|argument| argument.parse().ok()).collect();
    let (&[size, pages, step], port) = (match arguments.split_at_checked(3) {
        Some((first, rest)) => (first, rest.first().copied()),
        None => (arguments.as_slice(), None),
    }) else {
        eprintln!(
            "touchpages: say how many MiB, how many pages a step and how many ms a step, like: touchpages 1 16 10"
        );
        return ExitCode::from(2);
    };
    if size == 0 || size > 1 << 20 {
        eprintln!("touchpages: {size} MiB is no size; give 1 to 1048576");
        return ExitCode::from(2);
    }
    let served = match port.map(Served::on).transpose() {
        Ok(served) => served.unwrap_or_default(),
        Err(error) => {
            eprintln!("touchpages: cannot serve there: {error}");
            return ExitCode::from(2);
        }
    };
    run(size as usize * 1024 * 1024, pages, Duration::from_millis(step), served)
}

fn run(size: usize, pages: u64, step: Duration, mut served: Served) -> ExitCode {
    // Not zero, or the allocator would hand out pages that do not exist yet.
    let mut memory = vec![1_u8; size];
    println!("touchpages: ready");
    let count = size / PAGE;
    let mut expected = vec![1_u8; count];
    let mut next = 0;
    loop {
        for _ in 0..pages {
            let (Some(byte), Some(want)) = (memory.get_mut(next * PAGE), expected.get_mut(next)) else {
                break;
            };
            if *byte != *want {
                println!("touchpages: page {next} holds {byte}, not {want}");
                return ExitCode::FAILURE;
            }
            *want = want.wrapping_add(1);
            *byte = *want;
            next = (next + 1) % count;
        }
        if let Err(error) = served.serve(step) {
            println!("touchpages: cannot wait: {error}");
            return ExitCode::FAILURE;
        }
    }
}

/// Connections whose bytes are sent back.
#[derive(Default)]
struct Served {
    listener: Option<TcpListener>,
    connections: Vec<TcpStream>,
}

impl Served {
    fn on(port: u64) -> std::io::Result<Served> {
        let port = u16::try_from(port).map_err(|_| std::io::Error::from(ErrorKind::InvalidInput))?;
        let listener = TcpListener::bind(("0.0.0.0", port))?;
        listener.set_nonblocking(true)?;
        Ok(Served { listener: Some(listener), connections: Vec::new() })
    }

    /// Waits for a while, and serves meanwhile.
    fn serve(&mut self, span: Duration) -> std::io::Result<()> {
        let Some(listener) = &self.listener else {
            std::thread::sleep(span);
            return Ok(());
        };
        let end = Instant::now() + span;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            let ready: Vec<bool> = {
                let mut polled = vec![PollFd::new(listener, PollFlags::IN)];
                polled.extend(self.connections.iter().map(|stream| PollFd::new(stream, PollFlags::IN)));
                let timeout = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) };
                match poll(&mut polled, Some(&timeout)) {
                    Err(rustix::io::Errno::INTR) => continue,
                    other => other?,
                };
                polled.iter().map(|entry| !entry.revents().is_empty()).collect()
            };
            let mut flags = ready.into_iter();
            if flags.next() == Some(true) {
                while let Ok((stream, _)) = listener.accept() {
                    stream.set_nonblocking(true)?;
                    stream.set_nodelay(true)?;
                    self.connections.push(stream);
                }
            }
            // Those that were just accepted have no flag yet, and stay.
            self.connections.retain_mut(|stream| flags.next() != Some(true) || echo(stream));
        }
    }
}

/// Sends back what has come; whether the connection goes on.
fn echo(stream: &mut TcpStream) -> bool {
    let mut bytes = [0; 4096];
    match stream.read(&mut bytes) {
        Ok(0) => false,
        Ok(count) => bytes.get(..count).is_some_and(|bytes| stream.write_all(bytes).is_ok()),
        Err(error) => matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted),
    }
}
