//! Policies: which programs have which reliability level.
//!
//! A policy is a TOML file with a table for each rule; the first one that names a program counts:
//!
//! ```toml
//! [[program]]
//! name = "web*"            # * is any letters, ? any one
//! level = "checkpoint"     # or restart, off
//! interval = "50ms"
//! output = "commit"        # or free
//! ```
//!
//! A machine keeps the text of its policy ([`machine`]); tools read it and set levels by it.
#![forbid(unsafe_code)]

pub mod machine;
mod pattern;
mod rules;
pub mod words;

pub use rules::{Policy, Rule, Wrong};
