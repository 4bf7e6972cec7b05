//! `run`, `shell` and `exec`: a user's command inside, with its input and output here.
use crate::{
    commands::{self, BOOT},
    control::Control,
    fate::{Fate, Follower},
    images, logs,
    machine::{self, Machine, Options},
    paths::Paths,
    programs,
    qmp::Qmp,
    registry::{self, Entry},
    run_args::{ExecArgs, HowArgs, PATH, ProgramArgs, RunArgs, ShellArgs},
    session::{Breaker, Outcome, Session, Streams, Waiting},
    signals, terminal,
    units::Published,
    usage::{Usage, one_line, usage},
};
use anyhow::{Result, anyhow, bail};
use rustix::{stdio::stdout, termios::isatty};
use shimos_abi::{
    control::{Start, Target, address_of},
    ids::ProgramId,
    session::{AGENT, Begin},
};
use signal_hook::{
    consts::{SIGCONT, SIGQUIT, SIGTSTP, SIGUSR1, SIGUSR2, SIGWINCH},
    iterator::Signals,
};
use std::{
    fs::File,
    process::ExitCode,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, sleep},
    time::{Duration, Instant},
};

/// Exit status when it is the tool that failed, and not the command.
const FAILED: u8 = 125;
/// Exit status of a command that was killed (SIGKILL).
const KILLED: u8 = 137;
/// How long the agent may take to connect.
const CONNECT: Duration = Duration::from_secs(60);
/// How long what happened to a program may take to be said.
const NEWS: Duration = Duration::from_secs(5);
/// How often it is looked for.
const LOOK: Duration = Duration::from_millis(100);
/// Environment that a program may begin with, in bytes: the request to start it must fit into one packet.
const FIRST_ENVIRONMENT: usize = 1200;
/// What `shell` runs.
const SHELL: [&str; 3] = ["/bin/sh", "-c", "if [ -x /bin/bash ]; then exec /bin/bash; fi; exec /bin/sh"];

/// Runs a command in a new program.
pub fn run(paths: &Paths, args: &RunArgs) -> ExitCode {
    code(in_new_program(paths, &args.program, args.image.as_deref(), &args.argv))
}

/// An interactive shell, in a new program or in one that is there.
pub fn shell(paths: &Paths, args: &ShellArgs) -> ExitCode {
    let argv = SHELL.map(str::to_string);
    code(match &args.target {
        Some(target) => in_running_program(paths, target, &args.program.how, &argv),
        None => {
            let mut program = args.program.clone();
            program.name = program.name.or_else(|| Some("shell".to_string()));
            in_new_program(paths, &program, args.image.as_deref(), &argv)
        }
    })
}

/// Runs a command in a program that is there.
pub fn exec(paths: &Paths, args: &ExecArgs) -> ExitCode {
    code(in_running_program(paths, &args.target, &args.how, &args.argv))
}

fn code(result: Result<u8>) -> ExitCode {
    match result {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("shimos: {}", one_line(&error));
            ExitCode::from(if error.is::<Usage>() { 2 } else { FAILED })
        }
    }
}

/// Where a program runs: in a machine that was booted for it, or in one that was there.
enum Place {
    Own(Box<Machine>),
    Running(Entry),
}

impl Place {
    fn entry(&self) -> &Entry {
        match self {
            Place::Own(machine) => machine.entry(),
            Place::Running(entry) => entry,
        }
    }
}

fn place(paths: &Paths, args: &ProgramArgs) -> Result<Place> {
    if let Ok(entry) = registry::current(paths) {
        return Ok(Place::Running(entry));
    }
    let mut options = Options::default();
    options.memory = args.memory.unwrap_or(options.memory);
    options.check()?;
    let files = commands::usual_files(paths)?;
    Ok(Place::Own(Box::new(Machine::boot(paths, &files, options, BOOT)?)))
}

fn in_new_program(paths: &Paths, args: &ProgramArgs, image: Option<&str>, argv: &[String]) -> Result<u8> {
    let image = image.map(|image| images::resolve(paths, image)).transpose()?;
    let config = image.as_ref().map(|image| image.config.clone()).unwrap_or_default();
    let argv = config.command(argv);
    let Some(command) = argv.first() else {
        return Err(usage("there is no command to run; give one behind --, like: run -- /bin/ls"));
    };
    for (host, _) in &args.publish {
        machine::check_port(*host)?;
    }
    let terminal = args.how.wants_terminal(terminal::is_there() && isatty(stdout()));
    let base: Vec<String> = [PATH, "HOME=/root"].map(str::to_string).into_iter().chain(config.env.clone()).collect();
    let env = args.how.environment(&base, terminal)?;
    let user = args.how.user.clone().or_else(|| Some(config.user.clone()).filter(|user| !user.is_empty()));
    let workdir = args.how.workdir.clone().unwrap_or_else(|| config.directory().to_string());
    let place = place(paths, args)?;
    let entry = place.entry();
    let image = image.map(|image| images::place_on(entry, &image)).transpose()?;
    let mut control = Control::new(entry.control_port);
    let waiting = Waiting::open()?;
    let [address, token] = waiting.words()?;
    let first = if env.iter().map(|v| v.len() + 3).sum::<usize>() < FIRST_ENVIRONMENT { env.clone() } else { base };
    let mut start = Start {
        argv: [AGENT, "run", &address, &token].map(str::to_string).to_vec(),
        env: first,
        cwd: "/".to_string(),
        kernel: args.kernel,
        protection: args.protection(),
        image,
        // In a machine of its own the kernels have no more anyway.
        memory: args.memory.filter(|_| matches!(place, Place::Running(_))).map(|mib| mib.saturating_mul(1 << 20)),
        ..Start::default()
    };
    let mut turn = 0;
    let (mut follower, started) = loop {
        start.name = match &args.name {
            Some(name) => name.clone(),
            None => programs::fresh_name(&control.status()?, command, turn)?,
        };
        if start.protection.is_none() {
            start.level = Control::new(entry.control_port).level_for(&start.name)?;
        }
        let follower = Follower::new(entry, &start.name);
        match control.start(start.clone()) {
            Ok(started) => break (follower, started),
            // Somebody else was faster.
            Err(error) if args.name.is_none() && turn < 8 && error.to_string().contains("runs already") => turn += 1,
            Err(error) => return Err(explained(error)),
        }
    };
    follower.is(started.program);
    for (host, port) in &args.publish {
        publish(entry, *host, started.program, *port)?;
    }
    let log = logs::append(&entry.directory, &start.name);
    let session = waiting.accept(CONNECT, || trouble(entry, &mut follower))?;
    let begin = Begin { argv, env, cwd: Some(workdir), user, terminal: terminal.then(terminal::window) };
    let (code, watch) = attend(entry, follower, session, begin, log, Whole::Program)?;
    if matches!(place, Place::Running(_)) {
        // Its name is free again when this tool has ended.
        watch.news(NEWS);
    }
    Ok(code)
}

fn in_running_program(paths: &Paths, target: &Target, how: &HowArgs, argv: &[String]) -> Result<u8> {
    let entry = registry::current(paths)?;
    let terminal = how.wants_terminal(terminal::is_there() && isatty(stdout()));
    let env = how.environment(&[], terminal)?;
    let mut control = Control::new(entry.control_port);
    let found = programs::find(&mut control, target)?;
    let waiting = Waiting::open()?;
    let [address, token] = waiting.words()?;
    let mut follower = Follower::new(&entry, &found.status.name);
    follower.is(found.status.id);
    let words = [AGENT, "join", &address, &token].map(str::to_string).to_vec();
    let target = Target::Name(found.status.name.clone());
    control.exec(target, words, vec![PATH.to_string()]).map_err(explained)?;
    let session = waiting.accept(CONNECT, || trouble(&entry, &mut follower))?;
    let (workdir, user) = (how.workdir.clone(), how.user.clone());
    let begin = Begin { argv: argv.to_vec(), env, cwd: workdir, user, terminal: terminal.then(terminal::window) };
    attend(&entry, follower, session, begin, None, Whole::Process).map(|(code, _)| code)
}

/// An error of the kernel's, with what to do.
fn explained(error: anyhow::Error) -> anyhow::Error {
    if error.to_string().starts_with(AGENT) {
        return error.context("the image has no agent for this; make the image anew");
    }
    error
}

/// Leads a port of this host to a program.
fn publish(entry: &Entry, host: u16, program: ProgramId, port: u16) -> Result<()> {
    let host = if host == 0 { machine::free_port()? } else { host };
    let mut qmp = Qmp::connect(&entry.qmp, Duration::from_secs(2))?;
    qmp.forward(&Published { host, address: address_of(program), port }.rule())
}

/// Why an agent will not come.
fn trouble(entry: &Entry, follower: &mut Follower) -> Option<anyhow::Error> {
    match follower.look() {
        Ok(Some(Fate::Ended(ending))) => Some(anyhow!("the program ended at once, with status {}", ending.code())),
        Ok(Some(Fate::Lost(why))) => Some(anyhow!("the program is lost: {why}")),
        _ if !registry::alive(entry) => Some(anyhow!("the machine has ended")),
        _ => None,
    }
}

/// What the command is of its program.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Whole {
    /// The program ends with it.
    Program,
    /// One process of several.
    Process,
}

/// Runs a session to its end, whatever happens to program and machine. Returns the exit status.
fn attend(
    entry: &Entry,
    follower: Follower,
    session: Session,
    begin: Begin,
    log: Option<File>,
    whole: Whole,
) -> Result<(u8, Watch)> {
    let watch = Watch::start(entry.clone(), follower, session.breaker()?);
    let streams = Streams::own(log)?;
    let taken = signals::take();
    take_more_signals()?;
    match session.run(begin, streams, taken)? {
        Outcome::Ended(ending) => Ok((ending.code(), watch)),
        Outcome::Failed(why, code) => {
            eprintln!("shimos: {why}");
            Ok((code, watch))
        }
        Outcome::Lost => match (watch.news(NEWS), whole) {
            (Some(Fate::Ended(ending)), Whole::Program) => Ok((ending.code(), watch)),
            (Some(Fate::Ended(_)), Whole::Process) => Ok((KILLED, watch)),
            (Some(Fate::Lost(why)), _) => bail!("the program is lost: {why}; --protect keeps programs from that"),
            (None, _) if !registry::alive(entry) => bail!("the machine has ended"),
            (None, Whole::Process) => Ok((KILLED, watch)),
            (None, Whole::Program) => bail!("the connection to the program broke"),
        },
    }
}

/// Signals besides those that usually end the tool go the same way.
fn take_more_signals() -> Result<()> {
    let mut more = Signals::new([SIGQUIT, SIGTSTP, SIGCONT, SIGWINCH, SIGUSR1, SIGUSR2])?;
    thread::spawn(move || {
        for number in more.forever() {
            signals::pass(number);
        }
    });
    Ok(())
}

/// Looks after program and machine while a session runs, and breaks it off when they are gone.
struct Watch {
    fate: Arc<Mutex<Option<Fate>>>,
    over: Arc<AtomicBool>,
}

impl Watch {
    fn start(entry: Entry, mut follower: Follower, breaker: Breaker) -> Watch {
        let watch = Watch { fate: Arc::default(), over: Arc::default() };
        let (fate, over) = (Arc::clone(&watch.fate), Arc::clone(&watch.over));
        thread::spawn(move || {
            while !over.load(Ordering::Relaxed) {
                if let Ok(Some(found)) = follower.look() {
                    let lost = matches!(found, Fate::Lost(_));
                    *fate.lock().unwrap_or_else(PoisonError::into_inner) = Some(found);
                    // An agent that ended as it should has said so before.
                    sleep(if lost { Duration::ZERO } else { LOOK * 5 });
                    return breaker.break_off();
                }
                if !registry::alive(&entry) {
                    return breaker.break_off();
                }
                sleep(LOOK);
            }
        });
        watch
    }

    /// Waits until it is known what became of the program.
    fn news(&self, within: Duration) -> Option<Fate> {
        let end = Instant::now() + within;
        loop {
            let fate = self.fate.lock().unwrap_or_else(PoisonError::into_inner).clone();
            if fate.is_some() || Instant::now() >= end {
                return fate;
            }
            sleep(LOOK / 5);
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
    }
}
