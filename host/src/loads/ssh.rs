//! OpenSSH: sessions of this host's own client, in which whatever is said comes back.
use super::{Client, Dial, Load, SILENCE, Shared};
use crate::children::{Child, tied};
use anyhow::{Context, Result, bail};
use shimos_random::Random;
use std::{
    fs,
    io::{BufRead, BufReader, Write},
    path::PathBuf,
    process::{ChildStdin, Command, Stdio},
    sync::{
        Arc, LazyLock,
        mpsc::{self, Receiver},
    },
    thread,
    time::Duration,
};

/// A session has so many operations.
const OPERATIONS: u64 = 60;

/// `sshd`.
pub struct Sshd;

/// The key of the clients, made for this process.
static KEY: LazyLock<Option<PathBuf>> = LazyLock::new(|| {
    let directory = std::env::temp_dir().join(format!("shimos-ssh-{}", std::process::id()));
    let _ = fs::remove_dir_all(&directory);
    fs::create_dir_all(&directory).ok()?;
    let key = directory.join("key");
    let mut command = Command::new("ssh-keygen");
    command.args(["-q", "-t", "ed25519", "-N", "", "-C", "soak", "-f"]).arg(&key).stdin(Stdio::null());
    command.status().ok().filter(|status| status.success()).map(|_| key)
});

impl Load for Sshd {
    fn name(&self) -> &'static str {
        "sshd"
    }
    fn command(&self) -> Vec<String> {
        let public =
            KEY.as_ref().and_then(|key| fs::read_to_string(key.with_extension("pub")).ok()).unwrap_or_default();
        let script = format!(
            "mkdir -p /run/sshd /root/.ssh; chmod 700 /root/.ssh
            echo '{}' >/root/.ssh/authorized_keys; chmod 600 /root/.ssh/authorized_keys
            ssh-keygen -q -A; exec /usr/sbin/sshd -D -p 22 -o LoginGraceTime=0 -o MaxStartups=100 -o UseDNS=no",
            public.trim()
        );
        ["/bin/bash", "-ec", &script].map(str::to_string).to_vec()
    }
    fn port(&self) -> u16 {
        22
    }
    fn clients(&self) -> usize {
        2
    }
    fn patience(&self) -> Duration {
        Duration::from_secs(120)
    }
    fn prepare(&self, dial: Dial) -> Result<Arc<dyn Shared>> {
        let server = Server { dial };
        server.client(0, 0)?.step()?;
        Ok(Arc::new(server))
    }
}

struct Server {
    dial: Dial,
}

impl Shared for Server {
    fn client(&self, _: usize, seed: u64) -> Result<Box<dyn Client>> {
        Ok(Box::new(User { dial: self.dial, random: Random::new(seed), session: None, left: 0 }))
    }
}

struct User {
    dial: Dial,
    random: Random,
    session: Option<Session>,
    left: u64,
}

/// A client that runs `cat` inside.
struct Session {
    _child: Child,
    to: ChildStdin,
    from: Receiver<String>,
}

impl Session {
    fn open(dial: Dial) -> Result<Session> {
        let key = KEY
            .as_ref()
            .context("ssh-keygen is missing; run: apt-get install --no-install-recommends openssh-client")?;
        let mut command = tied("ssh");
        command.args(["-F", "none", "-p", &dial.port.to_string(), "-o", "StrictHostKeyChecking=no"]);
        command.args(["-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR", "-o", "BatchMode=yes", "-i"]);
        command.arg(key).args(["root@127.0.0.1", "exec cat"]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = Child::spawn(&mut command)?;
        let to = child.take_stdin().context("no input")?;
        let output = child.take_stdout().context("no output")?;
        let (sender, from) = mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(std::result::Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Ok(Session { _child: child, to, from })
    }
}

impl Client for User {
    fn step(&mut self) -> Result<()> {
        let mut session = match self.session.take() {
            Some(session) => session,
            None => {
                self.left = self.random.between(1, OPERATIONS);
                Session::open(self.dial)?
            }
        };
        let length = if self.random.once_in(8) { 20_000 } else { 30 };
        let text: String = (0..length).map(|_| char::from(b'a' + self.random.below(26) as u8)).collect();
        session.to.write_all(format!("{text}\n").as_bytes()).context("the session has ended")?;
        session.to.flush()?;
        match session.from.recv_timeout(SILENCE) {
            Ok(line) if line == text => {}
            Ok(_) => bail!("another line came back"),
            Err(_) => bail!("nothing comes back, or the session has ended"),
        }
        self.left -= 1;
        if self.left > 0 {
            self.session = Some(session);
        }
        Ok(())
    }
}
