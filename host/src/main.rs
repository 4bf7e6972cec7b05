//! The `shimos` tool.
#![forbid(unsafe_code)]

use shimos::{children, cli, commands, terminal, usage};
use std::process::ExitCode;

fn main() -> ExitCode {
    children::end_with_us();
    let arguments = match cli::parse(std::env::args_os()) {
        Ok(arguments) => arguments,
        Err(cli::Refusal::Shown(text)) => {
            print!("{text}");
            return ExitCode::SUCCESS;
        }
        Err(cli::Refusal::Wrong(why)) => {
            eprintln!("shimos: {why}");
            return ExitCode::from(2);
        }
    };
    let code = match commands::perform(arguments) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("shimos: {}", usage::one_line(&error));
            usage::exit_code(&error)
        }
    };
    children::end_all();
    terminal::restore();
    code
}
