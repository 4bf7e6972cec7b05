//! Connections of this host to a program that sends back what comes: what a client notices of a takeover.
use anyhow::{Context, Result, bail};
use std::{
    io::{Read, Write},
    net::{Ipv4Addr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

/// The longest that an answer may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// Time between questions.
const PAUSE: Duration = Duration::from_millis(2);

/// Open connections. All of them stay open until this is dropped.
pub struct Clients(Vec<TcpStream>);

impl Clients {
    /// Opens that many, and hears from each.
    pub fn open(port: u16, count: usize) -> Result<Clients> {
        let mut all = Clients(Vec::new());
        for _ in 0..count {
            let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).context("cannot connect")?;
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            // Each is heard from before the next one comes: few may wait for their hello at a time.
            all.0.push(stream);
            all.check_from(all.0.len() - 1)?;
        }
        Ok(all)
    }

    /// Whether every connection still works: all are asked, then all must answer.
    pub fn check(&mut self) -> Result<()> {
        self.check_from(0)
    }

    fn check_from(&mut self, first: usize) -> Result<()> {
        let words: Vec<[u8; 4]> = (0..self.0.len() as u32).map(u32::to_le_bytes).collect();
        for (place, (stream, word)) in self.0.iter_mut().zip(&words).enumerate().skip(first) {
            stream.write_all(word).with_context(|| format!("connection {place} is lost"))?;
        }
        for (place, (stream, word)) in self.0.iter_mut().zip(&words).enumerate().skip(first) {
            let mut answer = [0; 4];
            stream.read_exact(&mut answer).with_context(|| format!("connection {place} does not answer"))?;
            if answer != *word {
                bail!("connection {place} answers {answer:?} to {word:?}");
            }
        }
        Ok(())
    }
}

/// Asks without end on a connection of its own, and notes the longest wait.
pub struct Pinger {
    end: Arc<AtomicBool>,
    thread: JoinHandle<Result<Duration>>,
}

impl Pinger {
    /// Begins.
    pub fn start(port: u16) -> Result<Pinger> {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).context("cannot connect")?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let end = Arc::new(AtomicBool::new(false));
        let seen = end.clone();
        Ok(Pinger { end, thread: thread::spawn(move || ask(stream, &seen)) })
    }

    /// Ends; the longest wait for an answer.
    pub fn longest(self) -> Result<Duration> {
        self.end.store(true, Ordering::Relaxed);
        self.thread.join().unwrap_or_else(|_| bail!("the client broke"))
    }
}

fn ask(mut stream: TcpStream, end: &AtomicBool) -> Result<Duration> {
    let mut longest = Duration::ZERO;
    let mut count = 0_u64;
    while !end.load(Ordering::Relaxed) {
        let asked = Instant::now();
        stream.write_all(&count.to_le_bytes())?;
        let mut answer = [0; 8];
        stream.read_exact(&mut answer).context("the client's connection is lost")?;
        if answer != count.to_le_bytes() {
            bail!("a wrong answer: {answer:?} to {count}");
        }
        longest = longest.max(asked.elapsed());
        count += 1;
        thread::sleep(PAUSE);
    }
    Ok(longest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn answers_are_checked() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let port = listener.local_addr().expect("bound").port();
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                thread::spawn(move || {
                    let (mut from, mut to) = (stream.try_clone().expect("clones"), stream);
                    std::io::copy(&mut from, &mut to)
                });
            }
        });
        let mut clients = Clients::open(port, 3).expect("all answer");
        let pinger = Pinger::start(port).expect("connects");
        clients.check().expect("all answer again");
        assert!(pinger.longest().expect("no loss") < PATIENCE);
    }
}
