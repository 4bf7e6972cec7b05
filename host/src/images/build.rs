//! Images from Debian's packages, configured as a Debian system is: `mmdebstrap` does the work.
use super::{
    Image,
    furnish::Agents,
    import::{self, Import, key},
    renew,
    store::{Kept, Store, check_name},
};
use crate::{
    bench,
    children::{Child, found, tied},
    packages,
    paths::Paths,
    usage::usage,
};
use anyhow::{Context, Result, bail};
use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Command, Stdio},
};

/// Debian's release.
const SUITE: &str = "bookworm";
/// The tool.
const TOOL: &str = "mmdebstrap";

/// The name of the image with all programs that are tried for compatibility.
pub const COMPAT: &str = "compat";
/// Its packages.
pub const COMPAT_PACKAGES: [&str; 42] = [
    "apache2",
    "apache2-utils",
    "bash",
    "busybox-static",
    "bzip2",
    "ca-certificates",
    "coreutils",
    "curl",
    "diffutils",
    "findutils",
    "gawk",
    "gcc",
    "git",
    "grep",
    "gzip",
    "iproute2",
    "iputils-ping",
    "libc6-dev",
    "libpython3.11-testsuite",
    "lighttpd",
    "make",
    "mini-httpd",
    "net-tools",
    "nginx-light",
    "openssh-client",
    "openssh-server",
    "openssl",
    "perl",
    "postgresql",
    "procps",
    "psmisc",
    "python3",
    "redis-server",
    "redis-tools",
    "sed",
    "sqlite3",
    "strace",
    "stress-ng",
    "subversion",
    "tar",
    "util-linux",
    "xz-utils",
];

/// The image with all programs that are tried for compatibility; built if it is not there.
pub fn compat_image(paths: &Paths) -> Result<Image> {
    let packages: Vec<String> = COMPAT_PACKAGES.map(str::to_string).to_vec();
    Ok(run(paths, &packages, Some(COMPAT))?.image())
}

/// The name of the image with the whole programs that are measured.
const BENCH: &str = "bench";
/// Its packages.
const BENCH_PACKAGES: [&str; 6] = ["gzip", "lighttpd", "nginx-light", "python3", "redis-server", "redis-tools"];

/// The image with the whole programs that are measured beside Linux; built if it is not there.
pub fn bench_image(paths: &Paths) -> Result<Image> {
    let packages: Vec<String> = BENCH_PACKAGES.map(str::to_string).to_vec();
    Ok(run(paths, &packages, Some(BENCH))?.image())
}

/// The image with the programs that compute, for measurements of influence; built if it is not there.
pub fn influence_image(paths: &Paths) -> Result<Image> {
    let packages: Vec<String> = bench::PACKAGES.map(str::to_string).to_vec();
    Ok(run(paths, &packages, Some(bench::IMAGE))?.image())
}

/// Builds an image from packages and all that they need, or finds it where it was built already.
pub fn run(paths: &Paths, packages: &[String], name: Option<&str>) -> Result<Kept> {
    let packages: BTreeSet<&str> = packages.iter().map(String::as_str).collect();
    if packages.is_empty() {
        return Err(usage("name at least one package, like --packages nginx-light,redis-server"));
    }
    for package in &packages {
        check_package(package)?;
    }
    name.map_or(Ok(()), check_name)?;
    let list = packages.iter().copied().collect::<Vec<_>>().join(",");
    let name = name.map_or_else(|| packages.iter().next().copied().unwrap_or_default().to_string(), str::to_string);
    let key = key("packages", SUITE, &list);
    let store = Store::of(paths);
    let agents = Agents::built(paths)?;
    let what = Import::of_files(Path::new(&list), &name);
    let kept = import::keep(&store, &agents, &what, &key, |spool| {
        install_tool()?;
        let archive = spool.directory().join("packages.tar");
        debootstrap(paths, &list, &archive)?;
        import::of_archive_file(&archive, spool)
    })?;
    renew(paths, kept)
}

/// Whether a package may be called so; what it says must not be taken for an option or a path.
fn check_package(name: &str) -> Result<()> {
    let good = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"+-.".contains(&byte);
    let starts_well = name.bytes().next().is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    if starts_well && name.len() > 1 && name.bytes().all(good) {
        return Ok(());
    }
    Err(usage(format!("'{}' is not the name of a Debian package", name.escape_default())))
}

/// Makes sure that the tool is there, and what it needs without root: as root it is installed.
fn install_tool() -> Result<()> {
    let root = rustix::process::geteuid().is_root();
    let mut missing = Vec::new();
    if !found(TOOL) {
        missing.push(TOOL);
    }
    if !root && !found("newuidmap") && !found("fakechroot") {
        missing.push("uidmap");
    }
    if missing.is_empty() {
        return Ok(());
    }
    let missing = missing.join(" ");
    let install = format!("apt-get update && apt-get install -y --no-install-recommends {missing}");
    if !found("apt-get") {
        bail!("missing: {missing} (names of Debian packages); install them with your package manager");
    }
    if !root {
        bail!("missing: {missing}; run: sudo sh -c '{install}'");
    }
    eprintln!("shimos: installing {missing}");
    let mut command = Command::new("sh");
    command.args(["-c", &install]).env("DEBIAN_FRONTEND", "noninteractive");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let installed = Child::spawn(&mut command)?.wait()?.success();
    if !installed || !found(TOOL) {
        bail!("{missing} could not be installed; run: {install}");
    }
    Ok(())
}

/// A line of the tool without what would act on a terminal.
fn printable(line: &str) -> String {
    line.chars().filter(|character| !character.is_control()).collect()
}

/// Lets the tool make an archive of a system with these packages.
fn debootstrap(paths: &Paths, list: &str, archive: &Path) -> Result<()> {
    let log = paths.cache().join("mmdebstrap.log");
    fs::create_dir_all(paths.cache())?;
    let mut log_file = File::create(&log).with_context(|| format!("cannot make {}", log.display()))?;
    let mut command = tied(TOOL);
    command.args(["--variant=minbase", "--format=tar", &format!("--include={list}"), SUITE]);
    command.arg(archive).arg(format!("deb {} {SUITE} main", packages::mirror(SUITE)));
    command.env("LC_ALL", "C").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    if rustix::process::geteuid().is_root() {
        // What it leaves behind when it is killed goes with the work directory.
        command.env("TMPDIR", archive.parent().unwrap_or(archive));
    }
    let mut child = Child::spawn(&mut command)?;
    let stderr = child.take_stderr().context("the tool has no standard error")?;
    let mut errors = Vec::new();
    for line in BufReader::new(stderr).split(b'\n').map_while(Result::ok) {
        let line = String::from_utf8_lossy(&line).trim().to_string();
        writeln!(log_file, "{line}").with_context(|| format!("cannot write {}", log.display()))?;
        if let Some(step) = line.strip_prefix("I: ") {
            eprintln!("shimos: {}", printable(step));
        } else if line.starts_with("E: ") {
            errors.push(line);
        }
    }
    if child.wait()?.success() {
        return Ok(());
    }
    let why = errors.first().map_or("no reason given", |line| line.trim_start_matches("E: ")).to_string();
    bail!("{TOOL} failed: {why} (log: {})", log.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_are_names_and_nothing_else() {
        for good in ["nginx-light", "libstdc++6", "0ad", "libc6.1"] {
            check_package(good).expect("a name");
        }
        for wrong in ["", "a", "-x", "../x", "a b", "a,b", "A", "a=1", "a\n"] {
            assert!(check_package(wrong).is_err(), "{wrong}");
        }
        for package in COMPAT_PACKAGES {
            check_package(package).expect("a name");
        }
    }
}
