//! Programs that the tests run inside, all from Debian's packages.
use anyhow::{Result, ensure};
use shimos::counter;
use shimos_abi::{
    control::{Output, Protection, Start},
    ids::KernelId,
    time::Nanos,
};

/// A protection that holds output.
pub fn every(interval: Nanos) -> Protection {
    Protection::new(interval, Output::Commit)
}

/// A command on a kernel.
pub fn command(name: &str, kernel: u16, argv: &[&str]) -> Start {
    Start {
        name: name.to_string(),
        argv: argv.iter().map(|word| word.to_string()).collect(),
        env: vec!["PATH=/usr/bin:/usr/sbin".to_string()],
        cwd: "/".to_string(),
        kernel: Some(KernelId(kernel)),
        ..Start::default()
    }
}

/// A script for busybox's shell on a kernel.
pub fn script(name: &str, kernel: u16, text: &str) -> Start {
    command(name, kernel, &["/bin/busybox", "sh", "-c", text])
}

/// The computation whose every line can be checked, on a kernel.
pub fn count(name: &str, kernel: u16) -> Start {
    counter::program(name, Some(KernelId(kernel)))
}

/// The web server on a kernel.
pub fn web(name: &str, kernel: u16) -> Start {
    command(name, kernel, &["/bin/busybox", "httpd", "-f", "-p", "80", "-h", "/srv/www"])
}

/// Characters of a long line after its number.
const LONG: usize = 3000;

/// A program whose lines are long: whoever prints its console is in the middle of one nearly always.
pub fn long_lines(name: &str, kernel: u16) -> Start {
    let script = format!(
        r#"BEGIN {{ x = sprintf("%{LONG}s", ""); gsub(" ", "x", x); for (n = 1; ; n++) {{ print n x; fflush() }} }}"#
    );
    command(name, kernel, &["/bin/busybox", "awk", &script])
}

/// Demands that all of its lines are there once, whole, and in order.
pub fn check_long_lines(lines: &[String]) -> Result<()> {
    for (number, line) in (1..).zip(lines) {
        let number = u64::to_string(&number);
        let rest = line.strip_prefix(&number);
        let whole = rest.is_some_and(|rest| rest.len() == LONG && rest.bytes().all(|byte| byte == b'x'));
        let begin: String = line.chars().take(20).collect();
        ensure!(whole, "in place of line {number} there are {} characters: {begin}...", line.len());
    }
    Ok(())
}
