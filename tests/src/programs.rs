//! Programs that the tests run inside, all from Debian's packages.
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
