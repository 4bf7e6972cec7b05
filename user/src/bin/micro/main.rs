//! Micro-benchmarks of a kernel as a plain Linux program: the same binary runs on Linux and on Shimos.
//!
//! `micro ROW [HOST PORT]` measures one row and prints `ROW NANOSECONDS` for one operation. `micro list` names the rows.
#![forbid(unsafe_code)]

mod calls;
mod files;
mod memory;
mod processes;
mod sockets;
mod timing;

use std::process::ExitCode;
use timing::Measured;

/// A row: its name and how one operation is measured.
pub type Row = (&'static str, fn() -> Measured);

fn rows() -> impl Iterator<Item = Row> {
    [calls::ROWS, processes::ROWS, memory::ROWS, files::ROWS].into_iter().flatten().copied()
}

fn measure(words: &[String]) -> Measured {
    match words {
        [row, host, port] => sockets::measure(row, host, port.parse()?),
        [row] => match rows().find(|(name, _)| name == row) {
            Some((_, measure)) => measure(),
            None => Err(format!("there is no row {row}").into()),
        },
        _ => Err("say which row".into()),
    }
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let name = words.first().map(String::as_str).unwrap_or_default();
    match name {
        // What `exec` is measured with.
        "exit" => return ExitCode::SUCCESS,
        "list" => {
            for (name, _) in rows() {
                println!("{name}");
            }
            return ExitCode::SUCCESS;
        }
        _ => {}
    }
    match measure(&words) {
        Ok(nanos) => {
            println!("{name} {nanos:.1}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            println!("{name} failed: {error}");
            ExitCode::FAILURE
        }
    }
}
