//! Subversion's own server: files of a repository over its own protocol, every byte known.
use super::{Client, Connection, Dial, Load, Shared};
use anyhow::{Context, Result, bail};
use shimos_random::Random;
use std::{sync::Arc, time::Duration};

/// The large file has the numbers from 1 to this, a line each.
const LINES: u32 = 60_000;
/// Longest string, and deepest list, that are believed.
const LONGEST: usize = 1 << 20;
const DEEPEST: u32 = 8;

/// `svnserve`.
pub struct Svnserve;

impl Load for Svnserve {
    fn name(&self) -> &'static str {
        "svnserve"
    }
    fn command(&self) -> Vec<String> {
        let script = format!(
            "cd /tmp; svnadmin create repo; printf '[general]\\nanon-access = read\\n' >repo/conf/svnserve.conf
            mkdir in; seq 1 {LINES} >in/large; echo small >in/small
            svn import -q -m first in file:///tmp/repo; exec svnserve -d --foreground -r /tmp"
        );
        ["/bin/bash", "-ec", &script].map(str::to_string).to_vec()
    }
    fn port(&self) -> u16 {
        3690
    }
    fn clients(&self) -> usize {
        3
    }
    fn patience(&self) -> Duration {
        Duration::from_secs(90)
    }
    fn prepare(&self, dial: Dial) -> Result<Arc<dyn Shared>> {
        let large: String = (1..=LINES).map(|line| format!("{line}\n")).collect();
        let repository = Repository { dial, large: Arc::new(large.into_bytes()) };
        repository.client(0, 0)?.step()?;
        Ok(Arc::new(repository))
    }
}

struct Repository {
    dial: Dial,
    large: Arc<Vec<u8>>,
}

impl Shared for Repository {
    fn client(&self, _: usize, seed: u64) -> Result<Box<dyn Client>> {
        let (dial, large) = (self.dial, self.large.clone());
        Ok(Box::new(Reader { dial, large, random: Random::new(seed), session: None }))
    }
}

struct Reader {
    dial: Dial,
    large: Arc<Vec<u8>>,
    random: Random,
    session: Option<Session>,
}

impl Client for Reader {
    fn step(&mut self) -> Result<()> {
        let mut session = match self.session.take() {
            Some(session) => session,
            None => Session::open(self.dial)?,
        };
        let (name, wanted) =
            if self.random.once_in(3) { ("large", self.large.as_slice()) } else { ("small", &b"small\n"[..]) };
        session.file(name, wanted).with_context(|| format!("the file {name}"))?;
        if !self.random.once_in(10) {
            self.session = Some(session);
        }
        Ok(())
    }
}

/// One connection with the server.
struct Session(Connection);

/// What the protocol is made of.
#[derive(PartialEq, Eq, Debug)]
enum Item {
    Word(String),
    Bytes(Vec<u8>),
    List(Vec<Item>),
}

impl Session {
    fn open(dial: Dial) -> Result<Session> {
        let mut session = Session(dial.connect()?);
        session.success().context("the greeting")?;
        let url = "svn://127.0.0.1/repo";
        session.0.send(format!("( 2 ( edit-pipeline ) {}:{url} ) ", url.len()).as_bytes())?;
        session.success().context("the offer of ways to say who one is")?;
        session.0.send(b"( ANONYMOUS ( 0: ) ) ")?;
        session.success().context("who one is")?;
        session.success().context("the repository")?;
        Ok(session)
    }

    fn file(&mut self, name: &str, wanted: &[u8]) -> Result<()> {
        self.0.send(format!("( get-file ( {}:{name} ( ) false true ) ) ", name.len()).as_bytes())?;
        self.success().context("leave")?;
        self.success().context("its head")?;
        let mut place = 0;
        loop {
            let Item::Bytes(bytes) = self.item()? else { bail!("no bytes") };
            if bytes.is_empty() {
                break;
            }
            if wanted.get(place..place + bytes.len()) != Some(&bytes) {
                bail!("a wrong byte between {place} and {}", place + bytes.len());
            }
            place += bytes.len();
        }
        if place != wanted.len() {
            bail!("{place} bytes in place of {}", wanted.len());
        }
        self.success().context("its end")
    }

    fn success(&mut self) -> Result<()> {
        match self.item()? {
            Item::List(items) if items.first() == Some(&Item::Word("success".to_string())) => Ok(()),
            other => bail!("the server answers {other:?}"),
        }
    }

    fn item(&mut self) -> Result<Item> {
        let word = self.word()?;
        self.rest_of(word, 0)
    }

    fn rest_of(&mut self, word: String, depth: u32) -> Result<Item> {
        if let Some(length) = word.strip_suffix(':') {
            let length: usize = length.parse().context("the length of a string")?;
            if length > LONGEST {
                bail!("a string of {length} bytes");
            }
            let mut bytes = self.0.exact(length + 1)?;
            bytes.truncate(length);
            return Ok(Item::Bytes(bytes));
        }
        if word != "(" {
            return Ok(Item::Word(word));
        }
        if depth >= DEEPEST {
            bail!("a list that is too deep");
        }
        let mut items = Vec::new();
        loop {
            let word = self.word()?;
            if word == ")" {
                return Ok(Item::List(items));
            }
            items.push(self.rest_of(word, depth + 1)?);
        }
    }

    /// A word up to a space, or the head of a string up to its colon.
    fn word(&mut self) -> Result<String> {
        let mut word = String::new();
        loop {
            match self.0.some(1)? {
                [] => bail!("the connection was closed"),
                [b' ' | b'\n'] if word.is_empty() => {}
                [b' ' | b'\n'] => return Ok(word),
                [byte] => word.push(char::from(*byte)),
                _ => {}
            }
            if word.ends_with(':') {
                return Ok(word);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{io::Write, net::TcpListener, thread};

    fn said(bytes: &'static [u8]) -> Session {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let dial = Dial { port: listener.local_addr().expect("bound").port() };
        thread::spawn(move || listener.accept().expect("accepts").0.write_all(bytes).expect("sends"));
        Session(dial.connect().expect("connects"))
    }

    #[test]
    fn items_are_read_and_files_compared() {
        let mut session = said(b"( success ( 2 ( a ) 3:x y ) ) 5:a ( b ( failure ( ) ) ");
        session.success().expect("success");
        assert_eq!(session.item().expect("read"), Item::Bytes(b"a ( b".to_vec()));
        assert!(session.success().is_err());
        let file = b"( success ( ( ) 0: ) ) ( success ( ) ) 3:abc 2:de 0: ( success ( ) ) ";
        said(file).file("f", b"abcde").expect("right");
        for wrong in [&b"abcdx"[..], b"abc", b"abcdef"] {
            assert!(said(file).file("f", wrong).is_err());
        }
    }
}
