//! All whole-machine tests: `cargo test -p shimos-tests [WORD]...` runs the cases whose names contain a word.
#![forbid(unsafe_code)]

mod abi;
mod administration;
mod boot;
mod campaign;
mod compat;
mod device_owner;
mod dump;
mod images;
mod input;
mod isolation;
mod levels;
mod machine_layer;
mod moves;
mod resets;
mod rollback;
mod room;
mod run;
mod saved;
mod several;
mod shell;
mod soak;
mod sockets;
mod state;
mod takeover;
mod ways;

use shimos::children;
use shimos_tests::{makings::Makings, suite::Suite};
use std::process::ExitCode;

fn main() -> ExitCode {
    children::end_with_us();
    let makings = match Makings::find() {
        Ok(makings) => makings,
        Err(error) => {
            eprintln!("whole-machine tests: {error:#}");
            return ExitCode::FAILURE;
        }
    };
    let mut suite = Suite::new(makings);
    for group in [
        boot::run,
        machine_layer::run,
        isolation::run,
        ways::run,
        takeover::run,
        sockets::run,
        device_owner::run,
        several::run,
        administration::run,
        moves::run,
        resets::run,
        dump::run,
        levels::run,
        rollback::run,
        saved::run,
        room::run,
        abi::run,
        state::run,
        images::run,
        input::run,
        run::run,
        shell::run,
        compat::run,
        soak::run,
        campaign::run,
    ] {
        group(&mut suite);
    }
    let code = suite.finish();
    children::end_all();
    code
}
