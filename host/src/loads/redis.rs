//! Redis with its append-only file: counters, lists and a shared counter, each acknowledged operation checked.
use super::{Client, Connection, Dial, Load, Shared, shell};
use anyhow::{Context, Result, bail};
use shimos_random::Random;
use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

/// Operations of a client that are sent in one piece.
const BATCH: u64 = 8;

/// The server.
pub struct Redis;

impl Load for Redis {
    fn name(&self) -> &'static str {
        "redis"
    }
    fn command(&self) -> Vec<String> {
        shell(
            "mkdir -p /tmp/redis; cd /tmp/redis
            exec redis-server --port 6379 --bind 0.0.0.0 --protected-mode no --dir /tmp/redis --appendonly yes \
            --appendfsync everysec --save '' --daemonize no --enable-debug-command yes --timeout 0",
        )
    }
    fn port(&self) -> u16 {
        6379
    }
    fn patience(&self) -> Duration {
        Duration::from_secs(60)
    }
    fn prepare(&self, dial: Dial) -> Result<Arc<dyn Shared>> {
        let mut connection = dial.connect()?;
        match ask(&mut connection, &["FLUSHALL"])? {
            Reply::Text(text) if text == "OK" => Ok(Arc::new(Base { dial, seen: Arc::default() })),
            other => bail!("the server answers {other:?}"),
        }
    }
}

/// Values of the shared counter that were told to anybody.
type Seen = Arc<Mutex<BTreeSet<i64>>>;

struct Base {
    dial: Dial,
    seen: Seen,
}

impl Shared for Base {
    fn client(&self, number: usize, seed: u64) -> Result<Box<dyn Client>> {
        let connection = self.dial.connect()?;
        let random = Random::new(seed);
        Ok(Box::new(User { connection, number, random, count: 0, items: 0, seen: self.seen.clone(), dial: self.dial }))
    }

    fn finish(&self) -> Result<()> {
        let mut connection = self.dial.connect()?;
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let told = seen.len() as i64;
        let value = ask(&mut connection, &["GET", "all"])?;
        if value != Reply::Bytes(told.to_string().into_bytes()) && !(told == 0 && value == Reply::Nothing) {
            bail!("the shared counter was counted up {told} times, and is {value:?}");
        }
        // What the file has must be the same.
        let memory = ask(&mut connection, &["DEBUG", "DIGEST"])?;
        let loaded = ask(&mut connection, &["DEBUG", "LOADAOF"])?;
        if loaded != Reply::Text("OK".to_string()) {
            bail!("reading the append-only file again: {loaded:?}");
        }
        let file = ask(&mut connection, &["DEBUG", "DIGEST"])?;
        if memory != file {
            bail!("memory and append-only file differ: {memory:?} and {file:?}");
        }
        Ok(())
    }
}

struct User {
    dial: Dial,
    connection: Connection,
    number: usize,
    random: Random,
    /// How often its counter was counted up.
    count: i64,
    /// Items of its list.
    items: i64,
    seen: Seen,
}

impl User {
    fn read_back(&mut self) -> Result<()> {
        let count = ask(&mut self.connection, &["GET", &format!("count-{}", self.number)])?;
        let wanted = if self.count == 0 { Reply::Nothing } else { Reply::Bytes(self.count.to_string().into_bytes()) };
        if count != wanted {
            bail!("the counter was counted up {} times, and is {count:?}", self.count);
        }
        let list = ask(&mut self.connection, &["LRANGE", &format!("list-{}", self.number), "0", "-1"])?;
        let wanted = (1..=self.items).map(|item| Reply::Bytes(item.to_string().into_bytes())).collect();
        if list != Reply::List(wanted) {
            bail!("the list does not have the items from 1 to {}, once each and in order", self.items);
        }
        Ok(())
    }
}

impl Client for User {
    fn step(&mut self) -> Result<()> {
        let counter = format!("count-{}", self.number);
        match self.random.below(5) {
            0 => {
                let reply = ask(&mut self.connection, &["INCR", "all"])?;
                let Reply::Number(value) = reply else { bail!("INCR answers {reply:?}") };
                if !self.seen.lock().unwrap_or_else(PoisonError::into_inner).insert(value) {
                    bail!("the shared counter's value {value} was told twice");
                }
            }
            1 => {
                let item = (self.items + 1).to_string();
                let reply = ask(&mut self.connection, &["RPUSH", &format!("list-{}", self.number), &item])?;
                if reply != Reply::Number(self.items + 1) {
                    bail!("the list had {} items and one was added; the answer was {reply:?}", self.items);
                }
                self.items += 1;
            }
            2 => {
                // Several in one piece.
                let pieces: Vec<u8> = (0..BATCH).flat_map(|_| command(&["INCR", &counter])).collect();
                self.connection.send(&pieces)?;
                for _ in 0..BATCH {
                    self.counted_up()?;
                }
            }
            3 if self.random.once_in(8) => {
                // Somebody new must be let in at any time, and be told the truth.
                self.connection = self.dial.connect()?;
                let reply = ask(&mut self.connection, &["LLEN", &format!("list-{}", self.number)])?;
                if reply != Reply::Number(self.items) {
                    bail!("the list has {} items; the answer was {reply:?}", self.items);
                }
            }
            _ => {
                self.connection.send(&command(&["INCR", &counter]))?;
                self.counted_up()?;
            }
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<()> {
        self.read_back()
    }
}

impl User {
    fn counted_up(&mut self) -> Result<()> {
        let reply = answer(&mut self.connection)?;
        if reply != Reply::Number(self.count + 1) {
            bail!("the counter was {} and was counted up; the answer was {reply:?}", self.count);
        }
        self.count += 1;
        Ok(())
    }
}

/// What the server can answer.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Reply {
    Text(String),
    Number(i64),
    Bytes(Vec<u8>),
    List(Vec<Reply>),
    Nothing,
}

fn command(words: &[&str]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", words.len());
    for word in words {
        bytes += &format!("${}\r\n{word}\r\n", word.len());
    }
    bytes.into_bytes()
}

fn ask(connection: &mut Connection, words: &[&str]) -> Result<Reply> {
    connection.send(&command(words))?;
    answer(connection)
}

fn answer(connection: &mut Connection) -> Result<Reply> {
    let line = connection.line()?;
    if let Some(count) = line.strip_prefix('*') {
        let count: usize = count.parse().context("the length of a list")?;
        return (0..count).map(|_| scalar(connection, None)).collect::<Result<_>>().map(Reply::List);
    }
    scalar(connection, Some(line))
}

/// Anything but a list. Its first line may have come already.
fn scalar(connection: &mut Connection, line: Option<String>) -> Result<Reply> {
    let line = match line {
        Some(line) => line,
        None => connection.line()?,
    };
    let (kind, rest) = line.split_at_checked(1).context("an empty answer")?;
    Ok(match kind {
        "+" => Reply::Text(rest.to_string()),
        ":" => Reply::Number(rest.parse().context("a number")?),
        "$" if rest == "-1" => Reply::Nothing,
        "$" => {
            let length: usize = rest.parse().context("a length")?;
            let mut bytes = connection.exact(length + 2)?;
            bytes.truncate(length);
            Reply::Bytes(bytes)
        }
        _ => bail!("the server says '{line}'"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{io::Write, net::TcpListener, thread};

    fn said(bytes: &'static [u8]) -> Connection {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let dial = Dial { port: listener.local_addr().expect("bound").port() };
        thread::spawn(move || listener.accept().expect("accepts").0.write_all(bytes).expect("sends"));
        dial.connect().expect("connects")
    }

    #[test]
    fn answers_are_read() {
        let mut connection = said(b"+OK\r\n:7\r\n$-1\r\n*2\r\n$3\r\na\r\n\r\n:-1\r\n-ERR no\r\n");
        let mut next = || answer(&mut connection);
        assert_eq!(next().expect("read"), Reply::Text("OK".to_string()));
        assert_eq!(next().expect("read"), Reply::Number(7));
        assert_eq!(next().expect("read"), Reply::Nothing);
        assert_eq!(next().expect("read"), Reply::List(vec![Reply::Bytes(b"a\r\n".to_vec()), Reply::Number(-1)]));
        assert!(next().expect_err("refused").to_string().contains("ERR no"));
        assert!(next().expect_err("refused").to_string().contains("closed"));
    }

    #[test]
    fn an_operation_that_is_lost_or_done_twice_is_found() {
        for (answer, told) in [(&b":6\r\n"[..], true), (b":5\r\n", false), (b":7\r\n", false)] {
            let mut user = User {
                dial: Dial { port: 0 },
                connection: said(answer),
                number: 1,
                random: Random::new(1),
                count: 5,
                items: 0,
                seen: Seen::default(),
            };
            assert_eq!(user.counted_up().is_ok(), told);
        }
    }
}
