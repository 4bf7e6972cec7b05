//! Keeps `docs/abi.md` true: its table is made from the kernel's own dispatch table.
//!
//! `UPDATE=1 cargo test -p shimos-core --test abi_doc` writes the table anew.
#![forbid(unsafe_code)]

use shimos_core::IMPLEMENTED_CALLS;
use std::{collections::BTreeSet, env, fs, path::PathBuf};

const BEGIN: &str = "<!-- calls: generated from here on; see crates/core/tests/abi_doc.rs -->\n";
const END: &str = "<!-- calls: generated up to here -->\n";
/// The heading of the list of calls that are not there; names are between backquotes.
const ABSENT: &str = "## Not there\n";

fn path() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../docs/abi.md")
}

fn document() -> String {
    fs::read_to_string(path()).expect("docs/abi.md is there")
}

/// The table as it must be.
fn rendered() -> String {
    let mut text = format!("{} calls.\n\n| number | call |\n|---:|---|\n", IMPLEMENTED_CALLS.len());
    for (number, name) in IMPLEMENTED_CALLS {
        text += &format!("| {number} | `{name}` |\n");
    }
    text
}

/// What stands before, in and behind the generated part.
fn parts(document: &str) -> (&str, &str, &str) {
    let (before, rest) = document.split_once(BEGIN).expect("docs/abi.md has the mark of the table's begin");
    let (table, after) = rest.split_once(END).expect("docs/abi.md has the mark of the table's end");
    (before, table, after)
}

/// One test, so that nobody reads the file while it is written.
#[test]
fn the_documentation_of_calls_is_true() {
    let document = document();
    let (before, table, after) = parts(&document);
    what_is_said_to_be_missing_is_missing(after);
    if table == rendered() {
        return;
    }
    if env::var_os("UPDATE").is_some() {
        fs::write(path(), format!("{before}{BEGIN}{}{END}{after}", rendered())).expect("docs/abi.md can be written");
        return;
    }
    panic!("docs/abi.md is stale; run: UPDATE=1 cargo test -p shimos-core --test abi_doc");
}

fn what_is_said_to_be_missing_is_missing(document: &str) {
    let (_, absent) = document.split_once(ABSENT).expect("docs/abi.md says what is not there");
    let absent = absent.split("\n## ").next().unwrap_or_default();
    let said: BTreeSet<&str> = absent.split('`').skip(1).step_by(2).collect();
    assert!(!said.is_empty(), "nothing is said to be missing");
    for (_, name) in IMPLEMENTED_CALLS {
        assert!(!said.contains(name), "docs/abi.md says that {name} is not there, and it is");
    }
}

#[test]
fn numbers_and_names_are_told_apart() {
    let numbers: BTreeSet<u64> = IMPLEMENTED_CALLS.iter().map(|(number, _)| *number).collect();
    let names: BTreeSet<&str> = IMPLEMENTED_CALLS.iter().map(|(_, name)| *name).collect();
    assert_eq!(numbers.len(), IMPLEMENTED_CALLS.len(), "a number twice");
    assert_eq!(names.len(), IMPLEMENTED_CALLS.len(), "a name twice");
}
