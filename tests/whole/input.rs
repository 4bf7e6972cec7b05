//! What cannot be is refused in one line, and nothing is left running.
use anyhow::{Context, Result, ensure};
use shimos::children::Child;
use shimos_tests::{
    clock::{self, SOON},
    makings::Makings,
    suite::Suite,
    tool::{self, command, refused},
};
use std::{
    fs,
    io::{BufRead, BufReader},
    net::TcpListener,
};

pub fn run(suite: &mut Suite) {
    let makings = suite.makings.clone();
    suite.case("input::impossible_machines", || impossible(&makings));
    suite.case("input::broken_images", || broken_images(&makings));
    suite.case("input::no_free_port", || no_port(&makings));
    suite.case("input::no_emulator", || no_emulator(&makings));
    suite.case("input::an_emulator_that_fails", || failing_emulator(&makings));
    suite.case("input::no_machine", || no_machine(&makings));
    suite.case("input::a_killed_tool_leaves_nothing", || killed_tool(&makings));
}

fn impossible(makings: &Makings) -> Result<()> {
    let cases: [(&[&str], &str); 8] = [
        (&["boot", "--memory", "1"], "--memory"),
        (&["boot", "--memory", "99999999999"], "--memory"),
        (&["demo", "--memory", "65536", "--kernels", "64"], "--memory"),
        (&["boot", "--kernels", "0"], "--kernels"),
        (&["boot", "--kernels", "65"], "--kernels"),
        (&["boot", "--machine", "vax"], "--machine"),
        (&["demo", "--kernels", "1"], "2 kernels"),
        (&["demo", "--frobnicate"], "--frobnicate"),
    ];
    for (words, telling) in cases {
        refused(command(makings, words), telling)?;
    }
    tool::nothing_left(makings)
}

fn broken_images(makings: &Makings) -> Result<()> {
    let path = makings.paths.build.join("broken.erofs");
    let image = path.display().to_string();
    refused(command(makings, &["boot", "--image", "/no/such/image"]), "/no/such/image")?;
    refused(command(makings, &["boot", "--image", "/"]), "/")?;
    let whole = fs::read(&makings.files.image)?;
    let half = whole.get(..whole.len() / 2).context("an image")?;
    for content in [&b""[..], &[7; 9000], half] {
        fs::write(&path, content)?;
        refused(command(makings, &["boot", "--image", &image]), &image)?;
    }
    fs::remove_file(&path)?;
    tool::nothing_left(makings)
}

fn no_port(makings: &Makings) -> Result<()> {
    let taken = TcpListener::bind("127.0.0.1:0")?;
    let port = taken.local_addr()?.port();
    refused(command(makings, &["boot", "--publish", &format!("{port}:10.77.1.2:80")]), &port.to_string())?;
    refused(command(makings, &["boot", "--publish", "80"]), "--publish")?;
    tool::nothing_left(makings)
}

fn no_emulator(makings: &Makings) -> Result<()> {
    let mut without = command(makings, &["boot"]);
    without.env("QEMU", "/no/such/emulator");
    refused(without, "/no/such/emulator")?;
    let mut without = command(makings, &["demo"]);
    without.env_remove("QEMU").env("PATH", &makings.paths.build);
    refused(without, "qemu-system-x86")?;
    tool::nothing_left(makings)
}

/// An emulator that does not know our machine says why.
fn failing_emulator(makings: &Makings) -> Result<()> {
    let mut options = shimos::machine::Options::default();
    options.words.push("a,b".to_string());
    options.memory = 1;
    let refused = shimos::machine::Machine::start(&makings.paths, &makings.files, options);
    ensure!(refused.is_err(), "a kernel of 1 MiB was booted");
    tool::nothing_left(makings)
}

fn no_machine(makings: &Makings) -> Result<()> {
    for words in
        [&["status"][..], &["stop"], &["protect", "x"], &["inject", "k0", "panic"], &["start", "x", "--", "/x"]]
    {
        refused(command(makings, words), "no machine runs")?;
    }
    Ok(())
}

/// The emulator ends with the tool, however that ends.
fn killed_tool(makings: &Makings) -> Result<()> {
    for signal in ["TERM", "KILL"] {
        let image = makings.files.image.display().to_string();
        let mut boot: std::process::Command = command(makings, &["boot", "--kernels", "1", "--image", &image]);
        let mut child = Child::spawn(&mut boot)?;
        let lines = child.take_stderr().context("no standard error")?;
        let ready = BufReader::new(lines).lines().map_while(Result::ok).any(|line| line.contains("boot"));
        ensure!(ready, "it did not begin to boot");
        clock::until(SOON, "an emulator", || Ok((!tool::strangers(makings)?.is_empty()).then_some(())))?;
        let mut kill = std::process::Command::new("kill");
        ensure!(kill.args([&format!("-{signal}"), &child.id().to_string()]).status()?.success(), "kill failed");
        child.wait()?;
        tool::nothing_left(makings).with_context(|| format!("after {signal}"))?;
    }
    Ok(())
}
