//! The tool's end of a session: waits for the agent inside, and carries the command's streams, signals and window size.
mod pump;

pub use pump::{Outcome, Streams};

use anyhow::{Context, Result, bail};
use shimos_abi::{
    control::GATEWAY,
    session::{Frame, Receiver, VERSION},
};
use std::{
    fs::File,
    io::{self, Read},
    net::{Ipv4Addr, Shutdown, TcpListener, TcpStream},
    thread,
    time::{Duration, Instant},
};

/// How long whoever connects may take to say who it is.
const GREETING: Duration = Duration::from_secs(3);

/// A port of this host that an agent is to connect to.
#[derive(Debug)]
pub struct Waiting {
    listener: TcpListener,
    token: String,
}

impl Waiting {
    /// Opens a port on 127.0.0.1, and makes up what the agent has to say.
    pub fn open() -> Result<Waiting> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("no port of this host is free")?;
        listener.set_nonblocking(true)?;
        let mut secret = [0; 16];
        File::open("/dev/urandom").and_then(|mut random| random.read_exact(&mut secret)).context("/dev/urandom")?;
        Ok(Waiting { listener, token: secret.iter().map(|byte| format!("{byte:02x}")).collect() })
    }

    /// What the agent has to be told: address and token. Programs reach this host's 127.0.0.1 by their gateway.
    pub fn words(&self) -> Result<[String; 2]> {
        let address = Ipv4Addr::from(GATEWAY);
        Ok([format!("{address}:{}", self.listener.local_addr()?.port()), self.token.clone()])
    }

    /// Waits for the agent. `trouble` is asked now and then why it cannot come.
    pub fn accept(self, within: Duration, mut trouble: impl FnMut() -> Option<anyhow::Error>) -> Result<Session> {
        let end = Instant::now() + within;
        let mut turns = 0_u32;
        loop {
            match self.listener.accept() {
                Ok((stream, _)) => {
                    if let Some(session) = self.greet(stream)? {
                        return Ok(session);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error).context("nobody can connect"),
            }
            turns += 1;
            if turns.is_multiple_of(100)
                && let Some(error) = trouble()
            {
                return Err(error);
            }
            if Instant::now() >= end {
                bail!("the agent inside did not connect within {} s", within.as_secs());
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Hears who connects; none if it is somebody else.
    fn greet(&self, mut stream: TcpStream) -> Result<Option<Session>> {
        stream.set_nonblocking(false)?;
        stream.set_nodelay(true)?;
        let mut receiver = Receiver::default();
        let mut buffer = [0; 4096];
        let end = Instant::now() + GREETING;
        let hello = loop {
            match receiver.take() {
                Ok(Some(frame)) => break frame,
                Ok(None) => {}
                Err(_) => return Ok(None),
            }
            let left = end.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
            stream.set_read_timeout(Some(left))?;
            match stream.read(&mut buffer) {
                Ok(0) | Err(_) => return Ok(None),
                Ok(count) => receiver.feed(buffer.get(..count).unwrap_or_default()),
            }
        };
        stream.set_read_timeout(None)?;
        match hello {
            Frame::Hello { version, token } if token == self.token => match version {
                VERSION => Ok(Some(Session { stream, receiver })),
                _ => bail!(
                    "the agent inside speaks version {version} of the protocol, this tool {VERSION}; rebuild both"
                ),
            },
            _ => Ok(None),
        }
    }
}

/// A connection to an agent that has said who it is.
#[derive(Debug)]
pub struct Session {
    stream: TcpStream,
    receiver: Receiver,
}

/// Ends a session from another thread.
#[derive(Debug)]
pub struct Breaker(TcpStream);

impl Breaker {
    /// Breaks the connection.
    pub fn break_off(&self) {
        let _ = self.0.shutdown(Shutdown::Both);
    }
}

impl Session {
    /// What ends this session from another thread.
    pub fn breaker(&self) -> Result<Breaker> {
        Ok(Breaker(self.stream.try_clone()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shimos_abi::session::encode;
    use std::io::Write;

    fn knock(words: &[String; 2], frame: &[u8]) -> TcpStream {
        let port = words[0].rsplit(':').next().and_then(|port| port.parse().ok()).expect("a port");
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).expect("connects");
        stream.write_all(frame).expect("writes");
        stream
    }

    #[test]
    fn only_who_knows_the_token_is_let_in() {
        let waiting = Waiting::open().expect("a port");
        let words = waiting.words().expect("words");
        let hello = |version, token: &str| encode(&Frame::Hello { version, token: token.to_string() }).expect("short");
        let strangers = [
            knock(&words, &hello(VERSION, "wrong")),
            knock(&words, b"GET / HTTP/1.1\r\n\r\n"),
            knock(&words, &encode(&Frame::Signal(9)).expect("short")),
        ];
        let friend = knock(&words, &hello(VERSION, &words[1]));
        let session = waiting.accept(Duration::from_secs(20), || None).expect("comes");
        assert_eq!(session.stream.peer_addr().ok(), friend.local_addr().ok());
        drop(strangers);
    }

    #[test]
    fn another_version_is_told() {
        let waiting = Waiting::open().expect("a port");
        let words = waiting.words().expect("words");
        let hello = Frame::Hello { version: VERSION + 1, token: words[1].clone() };
        let _friend = knock(&words, &encode(&hello).expect("short"));
        let error = waiting.accept(Duration::from_secs(20), || None).expect_err("refused");
        assert!(error.to_string().contains("rebuild"), "{error}");
    }

    #[test]
    fn who_does_not_come_is_not_waited_for_when_there_is_a_reason() {
        let waiting = Waiting::open().expect("a port");
        let error = waiting.accept(Duration::from_secs(60), || Some(anyhow::anyhow!("it ended"))).expect_err("refused");
        assert_eq!(error.to_string(), "it ended");
    }
}
