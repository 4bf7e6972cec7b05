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

/// Connections that are listened to at once until one of them says the right word; the oldest makes room.
const CALLERS: usize = 64;

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
        let mut callers: Vec<Caller> = Vec::new();
        let mut turns = 0_u32;
        loop {
            match self.listener.accept() {
                Ok((stream, _)) => {
                    if callers.len() == CALLERS {
                        callers.remove(0);
                    }
                    callers.push(Caller::new(stream)?);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error).context("nobody can connect"),
            }
            for mut caller in std::mem::take(&mut callers) {
                match caller.greet() {
                    Greeting::Unfinished => callers.push(caller),
                    Greeting::Hello { version, token } if token == self.token => return caller.enter(version),
                    Greeting::Hello { .. } | Greeting::Nonsense => {}
                }
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
}

/// Who has connected and has not said yet who it is. The agent's kernel may die before its greeting is sent, and then seconds
/// go by until the network has repeated what was lost; so nobody is sent away for being slow.
struct Caller {
    stream: TcpStream,
    receiver: Receiver,
}

/// What a caller has said.
enum Greeting {
    Unfinished,
    Hello {
        version: u32,
        token: String,
    },
    /// Something else, or it has hung up.
    Nonsense,
}

impl Caller {
    fn new(stream: TcpStream) -> Result<Caller> {
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        Ok(Caller { stream, receiver: Receiver::default() })
    }

    fn greet(&mut self) -> Greeting {
        let mut buffer = [0; 4096];
        loop {
            match self.receiver.take() {
                Ok(Some(Frame::Hello { version, token })) => return Greeting::Hello { version, token },
                Ok(None) => {}
                Ok(Some(_)) | Err(_) => return Greeting::Nonsense,
            }
            match self.stream.read(&mut buffer) {
                Ok(0) => return Greeting::Nonsense,
                Ok(count) => self.receiver.feed(buffer.get(..count).unwrap_or_default()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Greeting::Unfinished,
                Err(_) => return Greeting::Nonsense,
            }
        }
    }

    /// The session of an agent that knew the token.
    fn enter(self, version: u32) -> Result<Session> {
        if version != VERSION {
            bail!("the agent inside speaks version {version} of the protocol, this tool {VERSION}; rebuild both");
        }
        self.stream.set_nonblocking(false)?;
        Ok(Session { stream: self.stream, receiver: self.receiver })
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
    fn who_says_nothing_for_long_neither_holds_up_nor_is_sent_away() {
        let waiting = Waiting::open().expect("a port");
        let words = waiting.words().expect("words");
        let hello = encode(&Frame::Hello { version: VERSION, token: words[1].clone() }).expect("short");
        let silent = knock(&words, b"");
        let mut slow = knock(&words, &hello[..1]);
        let port = slow.local_addr().expect("connected").port();
        // The eighth time that somebody asks for trouble, seconds have gone by.
        let mut asked = 0;
        let trouble = || {
            asked += 1;
            (asked == 8).then(|| slow.write_all(&hello[1..]).err()).flatten().map(anyhow::Error::from)
        };
        let session = waiting.accept(Duration::from_secs(60), trouble).expect("comes");
        assert_eq!(session.stream.peer_addr().map(|peer| peer.port()).ok(), Some(port));
        drop(silent);
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
