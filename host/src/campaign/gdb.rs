//! The emulator's debugger port: stops the machine for a moment, and reads and writes registers and memory. What is
//! written so is seen at once, also where the emulator has translated code.
use anyhow::{Context, Result, bail, ensure};
use std::{
    fmt::Write as _,
    io::{ErrorKind, Read, Write},
    os::unix::net::UnixStream,
    path::Path,
    time::{Duration, Instant},
};

/// How long the emulator may take for one answer.
const TIMEOUT: Duration = Duration::from_secs(5);

/// A connection. The machine stands still from [`Gdb::stop`] to [`Gdb::go_on`].
pub struct Gdb {
    stream: UnixStream,
    pending: Vec<u8>,
}

impl Gdb {
    /// Connects; the machine stands still then.
    pub fn connect(path: &Path) -> Result<Gdb> {
        let end = Instant::now() + TIMEOUT;
        let stream = loop {
            match UnixStream::connect(path) {
                Ok(stream) => break stream,
                Err(error) if Instant::now() >= end => return Err(error).context("no debugger port"),
                Err(_) => std::thread::sleep(Duration::from_millis(5)),
            }
        };
        stream.set_read_timeout(Some(TIMEOUT))?;
        stream.set_write_timeout(Some(TIMEOUT))?;
        let mut gdb = Gdb { stream, pending: Vec::new() };
        gdb.ask("qSupported:xmlRegisters=i386")?;
        // Only who has read this can name single registers.
        gdb.ask("qXfer:features:read:target.xml:0,ffb")?;
        gdb.ask("?")?;
        Ok(gdb)
    }

    /// Stops the machine.
    pub fn stop(&mut self) -> Result<()> {
        self.stream.write_all(&[3])?;
        self.answer().map(drop)
    }

    /// Lets the machine go on.
    pub fn go_on(&mut self) -> Result<()> {
        self.send("vCont;c")
    }

    /// What follows is about this core; cores count from 0.
    pub fn core(&mut self, core: u16) -> Result<()> {
        let answer = self.ask(&format!("Hg{:x}", core + 1))?;
        ensure!(answer == "OK", "core {core}: {answer}");
        Ok(())
    }

    /// A register, by its number.
    pub fn register(&mut self, number: u32) -> Result<u64> {
        let answer = self.ask(&format!("p{number:x}"))?;
        let bytes = bytes(&answer)?;
        let mut word = [0; 8];
        for (to, from) in word.iter_mut().zip(bytes) {
            *to = from;
        }
        Ok(u64::from_le_bytes(word))
    }

    /// Sets a register.
    pub fn set_register(&mut self, number: u32, value: u64, width: usize) -> Result<()> {
        let text = hex(&value.to_le_bytes()[..width.min(8)]);
        let answer = self.ask(&format!("P{number:x}={text}"))?;
        ensure!(answer == "OK", "register {number}: {answer}");
        Ok(())
    }

    /// Whether addresses are physical from now on.
    pub fn physical(&mut self, on: bool) -> Result<()> {
        let answer = self.ask(&format!("Qqemu.PhyMemMode:{}", u8::from(on)))?;
        ensure!(answer == "OK", "physical memory: {answer}");
        Ok(())
    }

    /// Bytes of memory.
    pub fn read(&mut self, address: u64, len: usize) -> Result<Vec<u8>> {
        let answer = self.ask(&format!("m{address:x},{len:x}"))?;
        let bytes = bytes(&answer).with_context(|| format!("{address:#x} cannot be read"))?;
        ensure!(bytes.len() == len, "{address:#x}: {} of {len} bytes", bytes.len());
        Ok(bytes)
    }

    /// A word of memory.
    pub fn word(&mut self, address: u64) -> Result<u64> {
        let bytes = self.read(address, 8)?;
        Ok(u64::from_le_bytes(bytes.try_into().unwrap_or_default()))
    }

    /// Writes memory.
    pub fn write(&mut self, address: u64, bytes: &[u8]) -> Result<()> {
        let answer = self.ask(&format!("M{address:x},{:x}:{}", bytes.len(), hex(bytes)))?;
        ensure!(answer == "OK", "{address:#x} cannot be written: {answer}");
        Ok(())
    }

    fn ask(&mut self, request: &str) -> Result<String> {
        self.send(request)?;
        loop {
            let answer = self.answer()?;
            // That the machine has stopped is told when it happens.
            if request == "?" || !answer.starts_with('T') {
                return Ok(answer);
            }
        }
    }

    fn send(&mut self, request: &str) -> Result<()> {
        let sum = request.bytes().fold(0_u8, u8::wrapping_add);
        self.stream.write_all(format!("${request}#{sum:02x}").as_bytes()).context("the debugger port is closed")
    }

    /// The next packet, acknowledged.
    fn answer(&mut self) -> Result<String> {
        loop {
            if let Some(start) = self.pending.iter().position(|byte| *byte == b'$')
                && let Some(length) = self.pending[start..].iter().position(|byte| *byte == b'#')
                && self.pending.len() >= start + length + 3
            {
                let body = String::from_utf8_lossy(&self.pending[start + 1..start + length]).into_owned();
                self.pending.drain(..start + length + 3);
                self.stream.write_all(b"+")?;
                return Ok(body);
            }
            let mut some = [0; 4096];
            match self.stream.read(&mut some) {
                Ok(0) => bail!("the debugger port was closed"),
                Ok(count) => self.pending.extend_from_slice(&some[..count]),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error).context("the debugger port does not answer"),
            }
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    let mut text = String::new();
    for byte in bytes {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

fn bytes(text: &str) -> Result<Vec<u8>> {
    let digits = text.as_bytes();
    ensure!(digits.len().is_multiple_of(2) && !text.starts_with('E'), "the debugger port says '{text}'");
    let pairs = digits.chunks_exact(2);
    pairs.map(|pair| Ok(u8::from_str_radix(std::str::from_utf8(pair)?, 16)?)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{os::unix::net::UnixListener, thread};

    #[test]
    fn packets_are_checked_and_acknowledged() {
        let path = std::env::temp_dir().join(format!("shimos-gdb-{}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        let listener = UnixListener::bind(&path).expect("binds");
        let stub = thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("a client");
            for answer in ["+$PacketSize=1000#xx", "+$lxml#xx", "+$T02#xx", "+$0102030405060708#xx", "+$E14#xx"] {
                let mut byte = [0];
                while byte[0] != b'#' {
                    stream.read_exact(&mut byte).expect("a request");
                }
                stream.write_all(answer.as_bytes()).expect("an answer");
            }
            stream
        });
        let mut gdb = Gdb::connect(&path).expect("connects");
        assert_eq!(gdb.word(0x1000).expect("a word"), 0x0807_0605_0403_0201);
        assert!(gdb.read(0, 4).expect_err("refused").to_string().contains("0x0"));
        drop(stub.join());
        let _ = std::fs::remove_file(path);
    }

    #[test]
    fn bytes_are_two_digits_each() {
        assert_eq!(hex(&[0, 0xab]), "00ab");
        assert_eq!(bytes("00ab").expect("bytes"), [0, 0xab]);
        assert!(bytes("0").is_err() && bytes("E01").is_err() && bytes("zz").is_err());
    }
}
