//! A TCP client on the host for programs inside.
use crate::clock::{self, SOON};
use anyhow::{Context, Result, bail};
use std::{
    io::{Read, Write},
    net::{Ipv4Addr, Shutdown, TcpStream},
};

/// One connection.
#[derive(Debug)]
pub struct Client {
    stream: TcpStream,
    /// Received and not yet looked at.
    rest: Vec<u8>,
}

impl Client {
    /// Connects to a port of this host.
    pub fn connect(port: u16) -> Result<Client> {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).context("cannot connect")?;
        stream.set_read_timeout(Some(SOON))?;
        stream.set_write_timeout(Some(SOON))?;
        stream.set_nodelay(true)?;
        Ok(Client { stream, rest: Vec::new() })
    }

    /// Connects and says `first` until a program listens there and answers; returns its answer too.
    pub fn greet(port: u16, first: &str) -> Result<(Client, String)> {
        let mut last = None;
        let attempt = || -> Result<Option<(Client, String)>> {
            let mut client = Client::connect(port)?;
            client.send(first)?;
            Ok(client.line()?.map(|answer| (client, answer)))
        };
        let greeted = clock::until(SOON, "an answer", || {
            // The emulator takes every connection, and resets it when nobody listens inside.
            Ok(attempt().unwrap_or_else(|error| {
                last = Some(error);
                None
            }))
        });
        greeted.with_context(|| format!("nobody listens (last: {last:?})"))
    }

    /// Sends a text.
    pub fn send(&mut self, text: &str) -> Result<()> {
        self.stream.write_all(text.as_bytes()).context("cannot send")
    }

    /// Says that nothing more will be sent.
    pub fn close_sending(&mut self) -> Result<()> {
        self.stream.shutdown(Shutdown::Write).context("cannot close one direction")
    }

    /// The next line, without its end; none at the end of the stream.
    pub fn line(&mut self) -> Result<Option<String>> {
        loop {
            if let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.rest.drain(..=end).collect();
                return Ok(Some(String::from_utf8_lossy(&line).trim_end().to_string()));
            }
            let mut buffer = [0; 4096];
            match self.stream.read(&mut buffer).context("the connection broke")? {
                0 if self.rest.is_empty() => return Ok(None),
                0 => bail!("the stream ended within a line"),
                count => self.rest.extend_from_slice(buffer.get(..count).unwrap_or_default()),
            }
        }
    }

    /// Everything up to the end of the stream.
    pub fn rest(mut self) -> Result<String> {
        self.stream.read_to_end(&mut self.rest).context("the connection broke")?;
        Ok(String::from_utf8_lossy(&self.rest).into_owned())
    }
}
