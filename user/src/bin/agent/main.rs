//! The agent: runs one command inside a program on behalf of the tool on the host.
//!
//! It is an ordinary process of the program, and so are its connection to the tool, its pipes and its terminals: all of it
//! is checkpointed and taken over with the program, and a session goes on when the kernel under it dies.
//!
//! `agent run ADDRESS TOKEN` is a program's first process: it also reaps orphans, passes signals on and ends as the command
//! has ended. `agent join ADDRESS TOKEN` joins a program that runs already. `agent child ...` is what it starts itself as
//! before it becomes the command.
#![forbid(unsafe_code)]

mod child;
mod session;
mod streams;
mod users;

use std::process::ExitCode;

/// Status when the agent itself cannot do its work.
const BROKEN: u8 = 125;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match words.as_slice() {
        ["run", address, token] => session::serve(session::Place::First, address, token),
        ["join", address, token] => session::serve(session::Place::Joined, address, token),
        ["child", terminal, cwd, user, argv @ ..] => return child::become_command(terminal, cwd, user, argv),
        _ => {
            eprintln!("agent: this is started by the shimos tool");
            return ExitCode::from(BROKEN);
        }
    };
    match result {
        Ok(ending) => ExitCode::from(ending.code()),
        Err(error) => {
            eprintln!("agent: {error}");
            ExitCode::from(BROKEN)
        }
    }
}
