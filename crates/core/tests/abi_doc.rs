//! Keeps `docs/abi-calls.md` true: it is made from the kernel's own dispatch table and the list of Linux's calls.
//!
//! `UPDATE=1 cargo test -p shimos-core --test abi_doc` writes it anew.
#![forbid(unsafe_code)]

use shimos_core::{Call, IMPLEMENTED_CALLS};
use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs,
    path::PathBuf,
};

/// Number and name of every x86-64 call of Linux 6.1, a line each.
const LINUX: &str = include_str!("abi_doc/linux_calls.txt");

const HEAD: &str = "\
# System calls

Every system call of Linux 6.1 for x86-64, and what a program finds of it here. [abi.md](abi.md) says how calls behave.

This page is generated from the kernel's dispatch table (`crates/core/src/syscall/mod.rs`), which is the single source: a
line there with `partial \"...\"` names what is missing. The test fails when this page is stale; this writes it anew:

```text
UPDATE=1 cargo test -p shimos-core --test abi_doc
```
";

fn path() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../docs/abi-calls.md")
}

fn linux_calls() -> BTreeMap<u64, &'static str> {
    let entry = |line: &'static str| line.split_once(' ').and_then(|(number, name)| Some((number.parse().ok()?, name)));
    LINUX.lines().map(|line| entry(line).expect("a line is a number and a name")).collect()
}

fn calls_here() -> BTreeMap<u64, &'static Call> {
    IMPLEMENTED_CALLS.iter().map(|call| (call.number, call)).collect()
}

/// The page as it must be.
fn rendered() -> String {
    let (all, here) = (linux_calls(), calls_here());
    let partial: Vec<&Call> = here.values().copied().filter(|call| !call.missing.is_empty()).collect();
    let absent: Vec<_> = all.iter().filter(|(number, _)| !here.contains_key(number)).collect();
    let mut text = format!(
        "{HEAD}\n| state | calls |\n|---|---:|\n| implemented | {} |\n| partial | {} |\n| absent | {} |\n\n",
        here.len() - partial.len(),
        partial.len(),
        absent.len()
    );
    text += "## Implemented\nAs on Linux, as far as the calls have been compared.\n\n| number | call |\n|---:|---|\n";
    for call in here.values().filter(|call| call.missing.is_empty()) {
        text += &format!("| {} | `{}` |\n", call.number, call.name);
    }
    text += "\n## Partial\nThe flags and operations that are not there with what asking for them gives, or all that are there.\n\n";
    text += "| number | call | how far |\n|---:|---|---|\n";
    for call in partial {
        text += &format!("| {} | `{}` | {} |\n", call.number, call.name, call.missing);
    }
    text += "\n## Absent\nThese return `ENOSYS`, and the kernel's log says so once for each number. The same goes for ";
    text += "numbers that Linux 6.1 does not have.\n\n| number | call |\n|---:|---|\n";
    for (number, name) in absent {
        text += &format!("| {number} | `{name}` |\n");
    }
    text
}

#[test]
fn the_documentation_of_calls_is_true() {
    let page = fs::read_to_string(path()).unwrap_or_default();
    let rendered = rendered();
    if page == rendered {
        return;
    }
    if env::var_os("UPDATE").is_some() {
        fs::write(path(), rendered).expect("docs/abi-calls.md can be written");
        return;
    }
    panic!("docs/abi-calls.md is stale; run: UPDATE=1 cargo test -p shimos-core --test abi_doc");
}

#[test]
fn numbers_and_names_are_those_of_linux_and_there_once() {
    let all = linux_calls();
    for call in IMPLEMENTED_CALLS {
        assert_eq!(all.get(&call.number), Some(&call.name), "call {} is another one on Linux", call.number);
    }
    let numbers: BTreeSet<u64> = IMPLEMENTED_CALLS.iter().map(|call| call.number).collect();
    assert_eq!(numbers.len(), IMPLEMENTED_CALLS.len(), "a number twice");
}

#[test]
fn what_is_missing_fits_into_a_table() {
    for call in IMPLEMENTED_CALLS {
        assert!(!call.missing.contains(['|', '\n']), "{}: breaks its table", call.name);
        assert_eq!(call.missing.trim(), call.missing, "{}: space around its text", call.name);
    }
}
