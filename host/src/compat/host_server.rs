//! A web server on this host with one page, for programs inside to fetch.
use anyhow::{Context, Result};
use shimos_abi::control::GATEWAY;
use std::{
    io::{BufRead, BufReader, Write},
    net::{Ipv4Addr, TcpListener},
    thread,
};

const PAGE: &str = "served by the host\n";

/// Serves until this tool ends; the page's address as programs see it: their gateway leads to this host.
pub fn start() -> Result<String> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("no port of this host is free")?;
    let port = listener.local_addr()?.port();
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let mut lines = BufReader::new(&stream).lines().map_while(Result::ok);
            while lines.next().is_some_and(|line| !line.is_empty()) {}
            let length = PAGE.len();
            let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{PAGE}");
            // A client that went away needs no answer.
            let _ = (&stream).write_all(answer.as_bytes());
        }
    });
    Ok(format!("http://{}:{port}/", Ipv4Addr::from(GATEWAY)))
}
