//! Users' commands inside: input, output, status, signals, and what else the tool does with programs.
use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use shimos::{children::Child, image, machine::Options};
use shimos_abi::control::{Fault, Target};
use shimos_tests::{
    clock::{self, SOON},
    group::Group,
    makings::Makings,
    programs,
    rig::Rig,
    suite::Suite,
    tool::{self, Said, command},
};
use std::{
    io::{BufRead, BufReader, Read, Write},
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

/// Bytes that go through a command both ways.
const BIG: usize = 32 << 20;
/// How long much data may take on a host that stalls.
const LONG: Duration = Duration::from_secs(240);

pub fn run(suite: &mut Suite) {
    let makings = suite.makings.clone();
    suite.case("run::a_machine_of_its_own", || own_machine(&makings));
    let mut group = Group::new(suite, Options::default());
    group.case("run::streams_and_status", |_| streams(&makings));
    group.case("run::what_cannot_be_run", |_| refusals(&makings));
    group.case("run::environment_directory_and_user", |_| surroundings(&makings));
    group.case("run::a_program_keeps_to_its_memory", |_| limited(&makings));
    group.case("run::much_data_both_ways", |_| much_data(&makings));
    group.case("run::a_reader_that_goes_away", |_| gone_reader(&makings));
    group.case("run::signals_are_passed_on", |_| signals(&makings));
    group.case("run::exec_into_programs", |rig| exec(&makings, rig));
    group.case("run::ps_and_logs", |rig| ps_and_logs(&makings, rig));
    group.case("run::stop", |rig| stop(&makings, rig));
    group.case("run::a_session_outlives_its_kernel", |rig| takeover(&makings, rig));
    group.case("run::input_outlives_its_kernel", |rig| input_takeover(&makings, rig));
    group.case("run::a_program_that_is_lost_is_told", |rig| lost(&makings, rig));
}

/// A command of the tool that runs.
struct Running {
    child: Child,
    lines: std::sync::mpsc::Receiver<String>,
    errors: JoinHandle<String>,
}

impl Running {
    /// Starts it with nothing to read.
    fn start(makings: &Makings, words: &[&str]) -> Result<Running> {
        let mut child = Child::spawn(&mut command(makings, words))?;
        let stdout = child.take_stdout().context("no standard output")?;
        let mut stderr = child.take_stderr().context("no standard error")?;
        let (sender, lines) = std::sync::mpsc::channel();
        thread::spawn(move || {
            BufReader::new(stdout).lines().map_while(Result::ok).try_for_each(|line| sender.send(line))
        });
        let errors = thread::spawn(move || {
            let mut text = String::new();
            let _ = stderr.read_to_string(&mut text);
            text
        });
        Ok(Running { child, lines, errors })
    }

    fn wait_line(&self, wanted: &str) -> Result<()> {
        loop {
            match self.lines.recv_timeout(SOON) {
                Ok(line) if line == wanted => return Ok(()),
                Ok(_) => {}
                Err(_) => bail!("it did not say '{wanted}'"),
            }
        }
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let pid = Pid::from_raw(self.child.id() as i32).context("no process id")?;
        kill_process(pid, signal).context("cannot send a signal")
    }

    /// Waits for its end: what else it said, and its exit code.
    fn end(mut self) -> Result<Said> {
        let status = clock::until(LONG, "the command's end", || Ok(self.child.try_wait()?))?;
        let out: Vec<String> = self.lines.iter().collect();
        Ok(Said { code: status.code(), out: out.join("\n"), errors: self.errors.join().unwrap_or_default() })
    }
}

fn said(makings: &Makings, words: &[&str]) -> Result<Said> {
    Running::start(makings, words)?.end()
}

/// Demands an exit code and an output.
fn check(said: &Said, code: i32, out: &str) -> Result<()> {
    ensure!(said.code == Some(code) && said.out.trim_end() == out, "{said:?}; wanted {code}, '{out}'");
    Ok(())
}

/// Bytes that do not repeat soon.
fn bytes(count: usize) -> Vec<u8> {
    image::stream_blocks().flatten().take(count).collect()
}

/// Feeds bytes to a command, and takes what comes back.
fn feed(makings: &Makings, words: &[&str], input: Vec<u8>) -> Result<(Option<i32>, Vec<u8>)> {
    let mut tool = command(makings, words);
    tool.stdin(Stdio::piped()).stderr(Stdio::inherit());
    let mut child = Child::spawn(&mut tool)?;
    let mut stdin = child.take_stdin().context("no standard input")?;
    let mut stdout = child.take_stdout().context("no standard output")?;
    let writer = thread::spawn(move || stdin.write_all(&input));
    let reader = thread::spawn(move || {
        let mut all = Vec::new();
        stdout.read_to_end(&mut all).map(|_| all)
    });
    let status = clock::until(LONG, "the command's end", || Ok(child.try_wait()?))?;
    // A command may end without having read all.
    let _ = writer.join();
    let all = reader.join().ok().context("the reader")??;
    Ok((status.code(), all))
}

/// Where none runs a machine is booted, quietly, and ends with the command or with the tool.
fn own_machine(makings: &Makings) -> Result<()> {
    let with_image = |words: &[&str]| {
        let mut tool = command(makings, words);
        tool.env("SHIMOS_IMAGE", &makings.files.image);
        tool
    };
    let said = tool::run(with_image(&["run", "--memory", "64", "--", "/bin/sh", "-c", "echo out; exit 6"]))?;
    ensure!(said.code == Some(6) && said.out == "out\n" && said.errors.is_empty(), "{said:?}");
    tool::nothing_left(makings)?;
    for signal in [Signal::KILL, Signal::TERM] {
        let mut child = Child::spawn(&mut with_image(&["run", "--", "/bin/sh", "-c", "echo up; exec sleep 1000"]))?;
        let lines = BufReader::new(child.take_stdout().context("no standard output")?);
        ensure!(lines.lines().next().transpose()?.as_deref() == Some("up"), "it did not start");
        let pid = Pid::from_raw(child.id() as i32).context("no process id")?;
        kill_process(pid, signal)?;
        clock::until(SOON, "the tool's end", || Ok(child.try_wait()?))?;
        tool::nothing_left(makings)?;
    }
    Ok(())
}

/// What is over the limit of its program is refused or ends it; without a limit there is room.
fn limited(makings: &Makings) -> Result<()> {
    // `tail` keeps all of it.
    let script = "head -c 20000000 /dev/zero | tail -c 20000000 | wc -c";
    let limited = said(makings, &["run", "--memory", "12", "--", "/bin/sh", "-c", script])?;
    ensure!(limited.out.trim_end() != "20000000", "{limited:?}");
    check(&said(makings, &["run", "--", "/bin/sh", "-c", script])?, 0, "20000000")
}

fn streams(makings: &Makings) -> Result<()> {
    let said = said(makings, &["run", "--", "/bin/sh", "-c", "echo out; echo err >&2; exit 7"])?;
    check(&said, 7, "out")?;
    ensure!(said.errors == "err\n", "{said:?}");
    let (code, all) = feed(makings, &["run", "--", "/bin/sh", "-c", "read x; echo got $x; cat"], b"a\nb\n".to_vec())?;
    ensure!(code == Some(0) && all == b"got a\nb\n", "{:?}", String::from_utf8_lossy(&all));
    check(&self::said(makings, &["run", "--", "/bin/sh", "-c", "kill -9 $$"])?, 137, "")?;
    check(&self::said(makings, &["run", "--", "/bin/sh", "-c", "kill -SEGV $$"])?, 139, "")?;
    // What a child of the command leaves behind ends with it.
    check(&self::said(makings, &["run", "--", "/bin/sh", "-c", "sleep 1000 & echo done"])?, 0, "done")
}

fn refusals(makings: &Makings) -> Result<()> {
    let cases: [(&[&str], i32, &str); 8] = [
        (&["run", "--", "/no/such/program"], 127, "/no/such/program"),
        (&["run", "--", "nosuchprogram"], 127, "nosuchprogram"),
        (&["run", "--", "/etc/passwd"], 126, "/etc/passwd"),
        (&["run", "-w", "/no/such/place", "--", "/bin/ls"], 127, "/no/such/place"),
        (&["run", "-u", "nosuchuser", "--", "/bin/ls"], 127, "nosuchuser"),
        (&["run"], 2, "no command"),
        (&["run", "no-such-image", "--", "/bin/ls"], 2, "no-such-image"),
        (&["run", "--kernel", "k63", "--", "/bin/ls"], 125, "k63"),
    ];
    for (words, code, telling) in cases {
        let said = said(makings, words)?;
        ensure!(said.code == Some(code) && said.errors.contains(telling), "{words:?}: {said:?}");
        ensure!(said.errors.lines().count() == 1 && said.out.is_empty(), "{words:?}: {said:?}");
    }
    Ok(())
}

fn surroundings(makings: &Makings) -> Result<()> {
    let script = "echo $A.$B; pwd; id -u; id -g; echo $HOME";
    let words = ["run", "-e", "A=1 2", "--env", "B=x=y", "-w", "/tmp", "-u", "nobody", "--", "/bin/sh", "-c", script];
    check(&said(makings, &words)?, 0, "1 2.x=y\n/tmp\n65534\n65534\n/nonexistent")
}

fn much_data(makings: &Makings) -> Result<()> {
    let sent = bytes(BIG);
    let (code, all) = feed(makings, &["run", "--", "/bin/cat"], sent.clone())?;
    ensure!(code == Some(0), "cat ended with {code:?}");
    ensure!(all == sent, "{} bytes came back, or others", all.len());
    Ok(())
}

/// `shimos run -- yes | head`: the command learns that nobody reads, by SIGPIPE.
fn gone_reader(makings: &Makings) -> Result<()> {
    let mut child = Child::spawn(&mut command(makings, &["run", "--", "/usr/bin/yes", "line"]))?;
    let mut lines = BufReader::new(child.take_stdout().context("no standard output")?);
    let mut line = String::new();
    lines.read_line(&mut line)?;
    ensure!(line == "line\n", "{line}");
    drop(lines);
    let status = clock::until(SOON, "the end of a command without a reader", || Ok(child.try_wait()?))?;
    ensure!(matches!(status.code(), Some(141 | 1)), "it ended with {status}");
    Ok(())
}

fn signals(makings: &Makings) -> Result<()> {
    let wait = "while :; do sleep 0.1; done";
    for (signal, name, number) in [(Signal::INT, "INT", 2), (Signal::TERM, "TERM", 15), (Signal::QUIT, "QUIT", 3)] {
        let script = format!("trap 'echo got {name}; exit 3' {name}; echo ready; {wait}");
        let running = Running::start(makings, &["run", "--", "/bin/sh", "-c", &script])?;
        running.wait_line("ready")?;
        running.signal(signal)?;
        check(&running.end()?, 3, &format!("got {name}")).with_context(|| name.to_string())?;
        if signal == Signal::QUIT {
            // Shells ignore it.
            continue;
        }
        let running = Running::start(makings, &["run", "--", "/bin/sh", "-c", &format!("echo ready; {wait}")])?;
        running.wait_line("ready")?;
        running.signal(signal)?;
        check(&running.end()?, 128 + number, "").with_context(|| format!("{name}, not caught"))?;
    }
    Ok(())
}

fn exec(makings: &Makings, rig: &mut Rig) -> Result<()> {
    rig.start(programs::web("started", 2))?;
    let said = said(
        makings,
        &["exec", "-w", "/tmp", "started", "--", "/bin/sh", "-c", "pwd; ps | grep -c '[h]ttpd -f'; exit 9"],
    )?;
    check(&said, 9, "/tmp\n1")?;
    let waits = "echo ready; read x </dev/null; while :; do sleep 0.1; done";
    let running = Running::start(makings, &["run", "--name", "ran", "-e", "A=b", "--", "/bin/sh", "-c", waits])?;
    running.wait_line("ready")?;
    check(&self::said(makings, &["exec", "-e", "C=d", "ran", "--", "/bin/sh", "-c", "echo $A $C"])?, 0, "b d")?;
    let (code, all) = feed(makings, &["exec", "ran", "--", "/usr/bin/wc", "-c"], bytes(1 << 20))?;
    ensure!(code == Some(0) && all.trim_ascii() == b"1048576", "{code:?} {:?}", String::from_utf8_lossy(&all));
    // What has ended leaves nothing behind in either program.
    for name in ["ran", "started"] {
        clock::until(SOON, "the end of what was executed", || {
            let value = ps(makings, Some(name))?;
            let commands: Vec<&str> = processes(&value[0]).filter_map(|process| process["command"].as_str()).collect();
            Ok((!commands.iter().any(|command| command.contains("join") || command.starts_with('['))).then_some(()))
        })?;
    }
    let unknown = self::said(makings, &["exec", "nobody", "--", "/bin/ls"])?;
    ensure!(
        unknown.code == Some(125) && unknown.errors.contains("started") && unknown.errors.contains("ran"),
        "{unknown:?}"
    );
    // A program that is killed takes what is executed in it along.
    let inside = Running::start(makings, &["exec", "ran", "--", "/bin/sh", "-c", "echo in; sleep 1000"])?;
    inside.wait_line("in")?;
    rig.control.kill(Target::Name("ran".to_string()), 9)?;
    check(&inside.end()?, 137, "")?;
    check(&running.end()?, 137, "")
}

fn ps(makings: &Makings, name: Option<&str>) -> Result<Value> {
    let words: Vec<&str> = ["ps", "--json"].into_iter().chain(name).collect();
    let said = said(makings, &words)?;
    ensure!(said.code == Some(0), "{said:?}");
    Ok(serde_json::from_str(&said.out)?)
}

fn processes(program: &Value) -> impl Iterator<Item = &Value> {
    program["processes"].as_array().into_iter().flatten()
}

fn ps_and_logs(makings: &Makings, rig: &mut Rig) -> Result<()> {
    let crowd = "for i in $(seq 40); do sleep 1000 & done; echo here; wait";
    let started = rig.start(programs::script("crowd", 1, crowd))?;
    rig.wait_line("crowd", "here")?;
    let all = ps(makings, None)?;
    let names: Vec<&str> = all.as_array().into_iter().flatten().filter_map(|row| row["name"].as_str()).collect();
    ensure!(names.contains(&"crowd") && names.contains(&"shimosd"), "{names:?}");
    let rows = ps(makings, Some("crowd"))?;
    let row = &rows[0];
    ensure!(row["kernel"] == 1 && row["id"] == started.program.0 && row["protection"].is_null(), "{row}");
    ensure!(processes(row).count() == 41, "{} processes", processes(row).count());
    // The last of them may still be on its way to its program.
    let rows = clock::until(SOON, "forty that sleep", || {
        let rows = ps(makings, Some("crowd"))?;
        let asleep = |process: &Value| process["command"] == "sleep 1000" && process["state"] == "sleeping";
        Ok((processes(&rows[0]).filter(|process| asleep(process)).count() == 40).then_some(rows))
    })?;
    for process in processes(&rows[0]).skip(1) {
        ensure!(process["parent"] == started.pid.0, "{process}");
        ensure!(process["state"] == "sleeping" && process["memory"].as_u64() > Some(0), "{process}");
    }
    let table = said(makings, &["ps", "crowd"])?;
    ensure!(table.out.contains("sleep 1000") && table.out.lines().count() == 43, "{table:?}");
    let logs = said(makings, &["logs", "crowd"])?;
    check(&logs, 0, "here")?;
    // What is run is kept too, and stays after its end.
    check(&said(makings, &["run", "--name", "brief", "--", "/bin/echo", "kept"])?, 0, "kept")?;
    check(&said(makings, &["logs", "brief"])?, 0, "kept")?;
    let follow = Running::start(makings, &["logs", "-f", "crowd"])?;
    follow.wait_line("here")?;
    rig.control.kill(Target::Pid(started.pid), 9)?;
    check(&follow.end()?, 0, "")?;
    tool::refused(command(makings, &["logs", "nobody"]), "crowd")?;
    tool::refused(command(makings, &["ps", "nobody"]), "shimosd")
}

fn stop(makings: &Makings, rig: &mut Rig) -> Result<()> {
    rig.start(programs::script("good", 1, "trap 'echo bye; exit 0' TERM; echo ready; while :; do sleep 0.1; done"))?;
    rig.wait_line("good", "ready")?;
    check(&said(makings, &["stop", "good"])?, 0, "good has ended")?;
    rig.wait_line("good", "bye")?;
    rig.start(programs::script("deaf", 1, "trap '' TERM; echo ready; while :; do sleep 0.1; done"))?;
    rig.wait_line("deaf", "ready")?;
    let stopped = said(makings, &["stop", "deaf", "--timeout", "300ms"])?;
    check(&stopped, 0, "deaf did not end by SIGTERM and was killed")?;
    let running = Running::start(makings, &["run", "--name", "ran", "--", "/bin/sh", "-c", "echo ready; sleep 1000"])?;
    running.wait_line("ready")?;
    check(&said(makings, &["stop", "ran"])?, 0, "ran has ended")?;
    check(&running.end()?, 143, "")?;
    tool::refused(command(makings, &["stop", "deaf"]), "shimosd")?;
    tool::refused(command(makings, &["stop", "shimosd"]), "control daemon")
}

/// Kernels die while a command says much: every line comes, once and in order.
fn takeover(makings: &Makings, rig: &mut Rig) -> Result<()> {
    let words =
        ["run", "--name", "long", "--kernel", "k2", "--protect", "20ms", "--", "/usr/bin/seq", "1", "1000000000"];
    let mut child = Child::spawn(&mut command(makings, &words))?;
    let lines = BufReader::new(child.take_stdout().context("no standard output")?).lines();
    let count = Arc::new(AtomicU64::new(0));
    let seen = Arc::clone(&count);
    let checker = thread::spawn(move || -> Result<()> {
        let mut held: Option<(u64, String)> = None;
        for (wanted, line) in (1..).zip(lines) {
            // The last one may have been cut by the end.
            if let Some((wanted, line)) = held.take() {
                ensure!(line.parse() == Ok(wanted), "'{line}' came in place of {wanted}");
                seen.store(wanted, Ordering::Relaxed);
            }
            held = Some((wanted, line?));
        }
        Ok(())
    });
    let more = |lines: u64| {
        let wanted = count.load(Ordering::Relaxed) + lines;
        clock::until(SOON, "more lines", || Ok((count.load(Ordering::Relaxed) >= wanted).then_some(())))
    };
    more(10_000)?;
    let program = find(rig, "long")?;
    for fault in [Fault::Panic, Fault::InfiniteLoop] {
        rig.settle(program)?;
        rig.kill_under(program, fault)?;
        more(300_000)?;
    }
    let pid = Pid::from_raw(child.id() as i32).context("no process id")?;
    kill_process(pid, Signal::TERM)?;
    let status = clock::until(SOON, "the command's end", || Ok(child.try_wait()?))?;
    ensure!(status.code() == Some(143), "it ended with {status}");
    checker.join().ok().context("the checker")?
}

/// The kernel dies while a command reads much: all of it comes back.
fn input_takeover(makings: &Makings, rig: &mut Rig) -> Result<()> {
    let sent = bytes(BIG / 2);
    let words = ["run", "--name", "reads", "--kernel", "k2", "--protect", "20ms", "--", "/bin/cat"];
    let mut tool = command(makings, &words);
    tool.stdin(Stdio::piped()).stderr(Stdio::inherit());
    let mut child = Child::spawn(&mut tool)?;
    let mut stdin = child.take_stdin().context("no standard input")?;
    let mut stdout = child.take_stdout().context("no standard output")?;
    let (go_on, gate) = std::sync::mpsc::channel::<()>();
    let input = sent.clone();
    let writer = thread::spawn(move || -> std::io::Result<()> {
        let (first, second) = input.split_at(input.len() / 2);
        stdin.write_all(first)?;
        // The death comes before the end.
        let _ = gate.recv();
        stdin.write_all(second)
    });
    let reader = thread::spawn(move || {
        let mut all = Vec::new();
        stdout.read_to_end(&mut all).map(|_| all)
    });
    let program = find(rig, "reads")?;
    rig.settle(program)?;
    rig.kill_under(program, Fault::NullPointer)?;
    go_on.send(()).context("the writer has ended")?;
    writer.join().ok().context("the writer")??;
    let all = reader.join().ok().context("the reader")??;
    let status = clock::until(LONG, "the command's end", || Ok(child.try_wait()?))?;
    ensure!(status.code() == Some(0) && all == sent, "{status}, {} bytes came back, or others", all.len());
    Ok(())
}

fn lost(makings: &Makings, rig: &mut Rig) -> Result<()> {
    let words = ["run", "--name", "frail", "--kernel", "k1", "--", "/bin/sh", "-c", "echo ready; sleep 1000"];
    let running = Running::start(makings, &words)?;
    running.wait_line("ready")?;
    rig.kill_kernel(shimos_abi::ids::KernelId(1), Fault::Panic)?;
    let said = running.end()?;
    ensure!(said.code == Some(125) && said.errors.contains("lost"), "{said:?}");
    Ok(())
}

/// The program of a name, as soon as it is there.
fn find(rig: &mut Rig, name: &str) -> Result<shimos_abi::ids::ProgramId> {
    rig.until(SOON, &format!("a program named {name}"), |now| {
        shimos::programs::all(now).into_iter().find(|found| found.status.name == name).map(|found| found.status.id)
    })
}
