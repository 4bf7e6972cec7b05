//! System calls for fuzzing: a grammar that makes valid-looking and wrong ones, and a process whose every call has an
//! answer that a small model knows.
//!
//! Nothing here issues a call. A driver asks for the next [`Step`], stores its bytes, issues it, and tells what came of
//! it: the simulator does that inside the kernel under test, a plain Linux program does it for itself. The same seed
//! gives the same steps as long as the answers are the same.
#![forbid(unsafe_code)]

mod checker;
mod grammar;
mod model;
mod wild;

pub use checker::Checker;
pub use wild::{Reach, Wild};

/// Bytes of memory that one thread's arguments point into.
pub const ARENA: u64 = 1 << 16;

/// One call to issue.
#[derive(Clone, Debug, Default)]
pub struct Step {
    /// Its number.
    pub number: u64,
    /// Its arguments.
    pub arguments: [u64; 6],
    /// What must be stored before, and where.
    pub stores: Vec<(u64, Vec<u8>)>,
}

/// The caller's memory, for looking at answers.
pub trait Memory {
    /// Copies bytes out; false if they are not there.
    fn read(&mut self, addr: u64, into: &mut [u8]) -> bool;
}

/// The name of a call, for reports.
pub fn name(number: u64) -> &'static str {
    grammar::CALLS.iter().find(|call| call.number == number).map_or("?", |call| call.name)
}
