//! What a machine is made of, built by cargo: the kernel and the programs that run inside.
use crate::{children::Child, paths::Paths};
use anyhow::{Context, Result, bail};
use shimos_abi::session;
use std::{
    io::{BufRead, BufReader},
    path::PathBuf,
    process::{Command, Stdio},
};

/// Programs of `user/` and where they lie inside.
pub const USER_PROGRAMS: [(&str, &str); 8] = [
    ("shimosd", "/usr/sbin/shimosd"),
    ("shimosctl", "/usr/bin/shimosctl"),
    ("agent", session::AGENT),
    ("touchpages", "/usr/bin/touchpages"),
    ("abi-test", "/usr/bin/abi-test"),
    ("fuzz-calls", "/usr/bin/fuzz-calls"),
    ("micro", "/usr/bin/micro"),
    ("matrix", "/usr/bin/matrix"),
];

/// Builds the kernel.
pub fn kernel(paths: &Paths) -> Result<PathBuf> {
    let mut command = cargo(paths);
    command.args(["build", "--release", "-p", "shimos-kernel", "--target", "x86_64-unknown-none"]);
    command.arg("--target-dir").arg(&paths.target).env_remove("RUSTFLAGS");
    run(command, "the kernel")?;
    let kernel = paths.kernel();
    if !kernel.is_file() {
        bail!("cargo built no kernel at {}", kernel.display());
    }
    Ok(kernel)
}

/// Builds the programs that run inside, static and at fixed addresses.
pub fn user(paths: &Paths) -> Result<()> {
    let mut command = cargo(paths);
    command.args(["build", "--release", "-p", "shimos-user", "--target", "x86_64-unknown-linux-gnu"]);
    command.arg("--target-dir").arg(paths.user_target());
    command.env("RUSTFLAGS", "-C target-feature=+crt-static -C relocation-model=static -C strip=symbols");
    run(command, "the programs that run inside")
}

/// Cargo, in the checkout.
pub fn cargo(paths: &Paths) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(&paths.root).env_remove("CARGO_TARGET_DIR").stdin(Stdio::null());
    command
}

/// Runs cargo; shows what it compiles as it goes, and everything it said when it fails.
fn run(mut command: Command, what: &str) -> Result<()> {
    command.stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = Child::spawn(&mut command)?;
    let stderr = child.take_stderr().context("cargo has no standard error")?;
    let mut said = Vec::new();
    let mut announced = None;
    for line in BufReader::new(stderr).lines().map_while(Result::ok) {
        let step = line.trim_start();
        if step.starts_with("Compiling") || step.starts_with("Downloading") || step.starts_with("Updating") {
            announced.get_or_insert_with(|| eprintln!("shimos: building {what}"));
            eprintln!("  {step}");
        }
        said.push(line);
    }
    if child.wait()?.success() {
        return Ok(());
    }
    for line in &said {
        eprintln!("{line}");
    }
    bail!("{what} did not build; see the compiler's messages above")
}
