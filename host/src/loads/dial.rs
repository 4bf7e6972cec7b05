//! A connection of this host to a service inside, for clients that speak in lines and counted bytes.
use anyhow::{Context, Result, bail};
use std::{
    io::{Read, Write},
    net::{Ipv4Addr, TcpStream},
    time::Duration,
};

/// How long nothing may come, or nothing may be taken, before a connection counts as dead. A peer's TCP waits up to a
/// minute between two tries.
pub const SILENCE: Duration = Duration::from_secs(90);

/// Where a service is reached.
#[derive(Clone, Copy, Debug)]
pub struct Dial {
    /// The port of this host that leads to it.
    pub port: u16,
}

impl Dial {
    /// Connects.
    pub fn connect(&self) -> Result<Connection> {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).context("cannot connect")?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(SILENCE))?;
        stream.set_write_timeout(Some(SILENCE))?;
        Ok(Connection { stream, buffer: vec![0; 16 * 1024], begin: 0, end: 0 })
    }
}

/// One connection.
pub struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
    /// What has come and was not looked at lies between these places of the buffer.
    begin: usize,
    end: usize,
}

impl Connection {
    /// Sends all of it.
    pub fn send(&mut self, bytes: &[u8]) -> Result<()> {
        self.stream.write_all(bytes).context("the connection broke while sending")
    }

    /// The next bytes, at most that many; none at the end of the stream.
    pub fn some(&mut self, most: usize) -> Result<&[u8]> {
        if self.begin == self.end {
            self.begin = 0;
            self.end = self.stream.read(&mut self.buffer).context("the connection broke while waiting")?;
        }
        let taken = most.min(self.end - self.begin);
        let bytes = self.buffer.get(self.begin..self.begin + taken).unwrap_or_default();
        self.begin += taken;
        Ok(bytes)
    }

    /// As many bytes.
    pub fn exact(&mut self, count: usize) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        while bytes.len() < count {
            let some = self.some(count - bytes.len())?;
            if some.is_empty() {
                bail!("the connection was closed after {} of {count} bytes", bytes.len());
            }
            bytes.extend_from_slice(some);
        }
        Ok(bytes)
    }

    /// A line, without its end.
    pub fn line(&mut self) -> Result<String> {
        let mut bytes = Vec::new();
        loop {
            match self.some(1)? {
                [] => bail!("the connection was closed within or before a line"),
                [b'\n'] => break,
                some => bytes.extend_from_slice(some),
            }
        }
        Ok(String::from_utf8_lossy(&bytes).trim_end_matches('\r').to_string())
    }
}
