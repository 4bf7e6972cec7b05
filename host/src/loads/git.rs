//! Git's daemon: the same repository fetched over its own protocol, every time with the same bytes.
use super::{Client, Connection, Dial, Load, Shared};
use anyhow::{Context, Result, bail};
use std::{sync::Arc, time::Duration};

/// Longest pack that is believed.
const LONGEST: usize = 16 << 20;

/// `git daemon`.
pub struct GitDaemon;

impl Load for GitDaemon {
    fn name(&self) -> &'static str {
        "git-daemon"
    }
    fn command(&self) -> Vec<String> {
        let script = "export GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@b GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@b
            git config --global pack.threads 1; git config --global gc.auto 0
            git init -q -b main /tmp/repo; cd /tmp/repo
            for i in 1 2 3; do seq $((i * 10000)) >file$i; git add .; git commit -q -m commit$i; done
            git repack -q -a -d; exec git daemon --reuseaddr --base-path=/tmp --export-all --timeout=0";
        ["/bin/bash", "-ec", script].map(str::to_string).to_vec()
    }
    fn port(&self) -> u16 {
        9418
    }
    fn clients(&self) -> usize {
        3
    }
    fn patience(&self) -> Duration {
        Duration::from_secs(90)
    }
    fn prepare(&self, dial: Dial) -> Result<Arc<dyn Shared>> {
        let pack = Arc::new(fetch(dial)?);
        if pack.len() < 10_000 || fetch(dial)? != *pack {
            bail!("the repository is not whole yet");
        }
        Ok(Arc::new(Repository { dial, pack }))
    }
}

struct Repository {
    dial: Dial,
    pack: Arc<Vec<u8>>,
}

impl Shared for Repository {
    fn client(&self, _: usize, _: u64) -> Result<Box<dyn Client>> {
        Ok(Box::new(Fetcher { dial: self.dial, pack: self.pack.clone() }))
    }
}

struct Fetcher {
    dial: Dial,
    pack: Arc<Vec<u8>>,
}

impl Client for Fetcher {
    fn step(&mut self) -> Result<()> {
        let pack = fetch(self.dial)?;
        if pack != *self.pack {
            let same = pack.iter().zip(self.pack.iter()).take_while(|(a, b)| a == b).count();
            bail!("another pack: {} bytes in place of {}, the first {same} are the same", pack.len(), self.pack.len());
        }
        Ok(())
    }
}

/// A line of the protocol, with its length in front.
fn line(text: &str) -> String {
    format!("{:04x}{text}", text.len() + 4)
}

/// The next line; none where a list of lines ends.
fn next(connection: &mut Connection) -> Result<Option<String>> {
    let head = String::from_utf8_lossy(&connection.exact(4)?).into_owned();
    match usize::from_str_radix(&head, 16).with_context(|| format!("the length '{head}'"))? {
        0 => Ok(None),
        length => Ok(Some(String::from_utf8_lossy(&connection.exact(length.saturating_sub(4))?).into_owned())),
    }
}

/// The pack with all there is.
fn fetch(dial: Dial) -> Result<Vec<u8>> {
    let mut connection = dial.connect()?;
    connection.send(line("git-upload-pack /repo\0host=shimos\0").as_bytes())?;
    let mut wanted = None;
    while let Some(line) = next(&mut connection)? {
        if let Some((id, _)) = line.split_once(' ')
            && wanted.is_none()
        {
            wanted = Some(id.to_string());
        }
    }
    let wanted = wanted.context("the repository is empty")?;
    connection.send(format!("{}0000{}", line(&format!("want {wanted}\n")), line("done\n")).as_bytes())?;
    match next(&mut connection)? {
        Some(answer) if answer.trim_end() == "NAK" => {}
        other => bail!("the server answers {other:?}"),
    }
    let mut pack = Vec::new();
    loop {
        let some = connection.some(LONGEST)?;
        if some.is_empty() {
            break;
        }
        pack.extend_from_slice(some);
        if pack.len() > LONGEST {
            bail!("the pack does not end");
        }
    }
    if !pack.starts_with(b"PACK") {
        bail!("no pack came, but {} bytes", pack.len());
    }
    Ok(pack)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{io::Write, net::TcpListener, thread};

    #[test]
    fn a_pack_is_fetched() {
        assert_eq!(line("done\n"), "0009done\n");
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let dial = Dial { port: listener.local_addr().expect("bound").port() };
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("accepts");
            stream.write_all(b"000eabcd HEAD\n0000").expect("sends");
            let mut asked = vec![0; 300];
            let mut length = 0;
            while !asked[..length].ends_with(b"done\n") {
                length += std::io::Read::read(&mut stream, &mut asked[length..]).expect("reads");
            }
            stream.write_all(b"0008NAK\nPACKbytes").expect("sends");
            String::from_utf8_lossy(&asked[..length]).into_owned()
        });
        assert_eq!(fetch(dial).expect("fetched"), b"PACKbytes");
        assert!(server.join().expect("joins").ends_with("000ewant abcd\n00000009done\n"));
    }
}
