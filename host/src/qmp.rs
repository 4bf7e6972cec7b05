//! The emulator's control socket (QMP): JSON lines over a UNIX socket.
use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use std::{
    io::{BufRead, BufReader, Write},
    os::unix::net::UnixStream,
    path::Path,
    thread::sleep,
    time::{Duration, Instant},
};

/// How long the emulator may take for one answer.
const TIMEOUT: Duration = Duration::from_secs(10);

/// A connection to the emulator.
#[derive(Debug)]
pub struct Qmp {
    reader: BufReader<UnixStream>,
}

impl Qmp {
    /// Connects, waiting until the socket is there.
    pub fn connect(path: &Path, within: Duration) -> Result<Qmp> {
        let end = Instant::now() + within;
        let stream = loop {
            match UnixStream::connect(path) {
                Ok(stream) => break stream,
                Err(error) if Instant::now() >= end => {
                    return Err(error).with_context(|| format!("cannot reach the emulator at {}", path.display()));
                }
                Err(_) => sleep(Duration::from_millis(5)),
            }
        };
        stream.set_read_timeout(Some(TIMEOUT))?;
        stream.set_write_timeout(Some(TIMEOUT))?;
        let mut qmp = Qmp { reader: BufReader::new(stream) };
        let greeting = qmp.receive()?;
        if greeting.get("QMP").is_none() {
            bail!("the emulator's control socket does not speak QMP");
        }
        qmp.execute("qmp_capabilities", Value::Null)?;
        Ok(qmp)
    }

    /// Executes a command and returns its value.
    pub fn execute(&mut self, command: &str, arguments: Value) -> Result<Value> {
        let mut request = json!({ "execute": command });
        if let (Some(request), false) = (request.as_object_mut(), arguments.is_null()) {
            request.insert("arguments".to_string(), arguments);
        }
        let line = format!("{request}\n");
        self.reader.get_mut().write_all(line.as_bytes()).context("the emulator's control socket is closed")?;
        loop {
            let mut answer = self.receive()?;
            if let Some(error) = answer.get("error") {
                let what = error.get("desc").and_then(Value::as_str).unwrap_or("no reason given");
                bail!("the emulator refused {command}: {what}");
            }
            // Anything else is an event, which nobody waits for.
            if let Some(value) = answer.get_mut("return") {
                return Ok(value.take());
            }
        }
    }

    /// Executes a line of the human monitor and returns what it prints.
    pub fn human(&mut self, line: &str) -> Result<String> {
        let value = self.execute("human-monitor-command", json!({ "command-line": line }))?;
        Ok(value.as_str().unwrap_or_default().trim().to_string())
    }

    /// Adds a forwarding rule to network `n0`.
    pub fn forward(&mut self, rule: &str) -> Result<()> {
        let complaint = self.human(&format!("hostfwd_add n0 {rule}"))?;
        if complaint.is_empty() { Ok(()) } else { bail!("cannot publish {rule}: {complaint}") }
    }

    /// Ends the emulator.
    pub fn quit(&mut self) -> Result<()> {
        self.execute("quit", Value::Null).map(drop)
    }

    fn receive(&mut self) -> Result<Value> {
        let mut line = String::new();
        let count = self.reader.read_line(&mut line).context("no answer from the emulator")?;
        if count == 0 {
            bail!("the emulator has ended");
        }
        serde_json::from_str(&line).context("the emulator's answer is not JSON")
    }
}

/// Calls `tell` with every event that the emulator tells of, until it ends.
pub fn events(path: &Path, within: Duration, mut tell: impl FnMut(&Value)) -> Result<()> {
    let mut qmp = Qmp::connect(path, within)?;
    qmp.reader.get_mut().set_read_timeout(None)?;
    loop {
        let said = qmp.receive()?;
        if said.get("event").is_some() {
            tell(&said);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{os::unix::net::UnixListener, thread};

    /// A stand-in emulator that answers each line with the next of `answers`.
    fn emulator(path: &Path, answers: &'static [&'static str]) -> thread::JoinHandle<Vec<String>> {
        let _ = std::fs::remove_file(path);
        let listener = UnixListener::bind(path).expect("bind");
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("accept");
            stream.write_all(b"{\"QMP\": {\"version\": {}}}\n").expect("greet");
            let mut reader = BufReader::new(stream.try_clone().expect("clone"));
            let mut asked = Vec::new();
            for answer in answers {
                let mut line = String::new();
                reader.read_line(&mut line).expect("read");
                asked.push(line);
                stream.write_all(answer.as_bytes()).expect("answer");
            }
            asked
        })
    }

    #[test]
    fn events_are_skipped_and_refusals_are_told() {
        let path = std::env::temp_dir().join(format!("shimos-qmp-{}", std::process::id()));
        let emulator = emulator(
            &path,
            &[
                "{\"return\": {}}\n",
                "{\"event\": \"RESUME\"}\n{\"return\": \"\"}\n",
                "{\"return\": \"could not set up host forwarding rule\\r\\n\"}\n",
                "{\"error\": {\"class\": \"GenericError\", \"desc\": \"no such thing\"}}\n",
            ],
        );
        let mut qmp = Qmp::connect(&path, Duration::from_secs(5)).expect("connect");
        qmp.forward("tcp:127.0.0.1:1-10.77.1.1:2").expect("no complaint");
        let refused = qmp.forward("tcp:127.0.0.1:1-10.77.1.1:2").expect_err("complaint");
        assert!(refused.to_string().contains("could not set up"), "{refused}");
        let refused = qmp.execute("frobnicate", Value::Null).expect_err("error");
        assert!(refused.to_string().contains("no such thing"), "{refused}");
        let asked = emulator.join().expect("joins");
        assert!(asked[1].contains("hostfwd_add n0 tcp:127.0.0.1:1-10.77.1.1:2"), "{}", asked[1]);
        let _ = std::fs::remove_file(path);
    }
}
