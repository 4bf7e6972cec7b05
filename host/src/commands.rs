//! What each command does.
use crate::{
    artifacts, bench, campaign,
    cli::{Bench, CheckpointCommand, Cli, Command, FaultsCommand, KernelCommand, MachineArgs, PolicyCommand, Told},
    compat,
    control::Control,
    demo,
    dump::{self, Pool},
    events, faults, image, images, logs,
    machine::{self, Files, Machine, Options, Time},
    moves,
    paths::Paths,
    policy::{self, Watched},
    ps,
    qmp::Qmp,
    registry::{self, Entry},
    resets, run, saved, soak, status,
    stop::{self, Went},
    testing,
    units::Published,
    usage::usage,
    versus,
};
use anyhow::{Context, Error, Result};
use shimos_abi::control::{Drain, Start, Strictness, address_of};
use shimos_policy::{Policy, words::INTERVAL};
use std::{
    io::Write,
    path::{Path, PathBuf},
    process::ExitCode,
    thread::sleep,
    time::{Duration, Instant},
};

/// Longest that a boot may take.
pub(crate) const BOOT: Duration = Duration::from_secs(60);
/// How often the machine's state is looked at for events.
const LOOK: Duration = Duration::from_millis(200);
/// Longest that a machine may take to stop by itself.
const STOP: Duration = Duration::from_secs(3);

/// Does what the command line says.
pub fn perform(cli: Cli) -> Result<ExitCode> {
    let paths = Paths::find()?;
    match cli.command {
        Command::Demo { json, interval, machine } => {
            let options = machine.options(Vec::new());
            options.check()?;
            demo::check(&options)?;
            let files = files(&paths, &machine)?;
            let report = demo::run(&paths, &files, options, interval)?;
            show(&if json { format!("{}\n", report.json()) } else { report.table() });
            Ok(if report.held() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        Command::Test { kinds } => testing::run(&paths, &kinds),
        Command::Boot { publish, policy, machine } => boot(&paths, &machine, publish, policy.as_deref()),
        Command::Status { json } => {
            let entry = registry::current(&paths)?;
            let status = Control::new(entry.control_port).status()?;
            show(&if json {
                let mut value = status::json(&status);
                value["reset"] = resets::json(&status, &entry.directory);
                format!("{value}\n")
            } else {
                status::table(&status) + &resets::line(&status, &entry.directory)
            });
            Ok(ExitCode::SUCCESS)
        }
        Command::Start { name, kernel, protect, level, strict, how, env, cwd, image, user, memory, publish, argv } => {
            let mut env = env;
            if let Some(odd) = env.iter().find(|variable| !variable.contains('=')) {
                return Err(usage(format!("--env {odd}: write NAME=VALUE")));
            }
            if !env.iter().any(|variable| variable.starts_with("PATH=")) {
                env.push("PATH=/usr/local/bin:/usr/bin:/usr/sbin".to_string());
            }
            let protection = protect.map(|interval| how.every(interval));
            let entry = registry::current(&paths)?;
            let wanted = match &image {
                Some(image) => images::resolve(&paths, image)?,
                None => images::of_machine(&entry),
            };
            let user = user.map(|user| wanted.user(&user)).transpose()?;
            let image = image.map(|_| images::place_on(&entry, &wanted)).transpose()?;
            let memory = memory.map(|mebibytes| u64::from(mebibytes) << 20);
            let usual = how.every(INTERVAL);
            let level = match (protection, level) {
                (Some(_), _) => None,
                (None, Some(level)) => Some(level.with(usual)),
                (None, None) => Control::new(entry.control_port).level_for(&name)?,
            };
            let strictness = strictness(strict);
            let wanted = Start { name, argv, env, cwd, kernel, protection, image, user, memory, level, strictness };
            start(&entry, wanted, &publish)
        }
        Command::Kill { target, signal } => done(client(&paths)?.kill(target, signal)),
        Command::Protect { target, level, interval, strict, how } => {
            let level = level.with(how.every(interval));
            for exception in client(&paths)?.set_level(target, level, strictness(strict))? {
                show(&format!("not protected: {exception}\n"));
            }
            Ok(ExitCode::SUCCESS)
        }
        Command::Unprotect { target } => done(client(&paths)?.unprotect(target)),
        Command::Move { target, to, json } => {
            let moved = moves::program(&mut client(&paths)?, &target, to)?;
            show(&if json { format!("{}\n", moved.json()) } else { moved.line() });
            Ok(ExitCode::SUCCESS)
        }
        Command::Checkpoint { command } => {
            show(&match command {
                CheckpointCommand::Save { target, file } => saved::save(&mut client(&paths)?, target, &file)?,
                CheckpointCommand::Restore { file } => saved::restore(&mut client(&paths)?, &file)?,
            });
            Ok(ExitCode::SUCCESS)
        }
        Command::Policy { command } => {
            show(&tell_policy(&paths, command)?);
            Ok(ExitCode::SUCCESS)
        }
        Command::Kernel { command: KernelCommand::Undrain { kernel } } => {
            done(client(&paths)?.drain(kernel, Drain::End))
        }
        Command::Kernel { command: KernelCommand::Drain(wanted) } => {
            let emptied = moves::drain(&mut client(&paths)?, wanted.kernel, Duration::from_nanos(wanted.timeout.0))?;
            show(&if wanted.json { format!("{}\n", emptied.json()) } else { emptied.lines() });
            Ok(ExitCode::SUCCESS)
        }
        Command::Kernel { command: KernelCommand::Dump { kernel, file, pool } } => {
            let pool = if pool { Pool::With } else { Pool::Without };
            show(&dump::kernel(&registry::current(&paths)?, kernel, &file, pool)?.text());
            Ok(ExitCode::SUCCESS)
        }
        Command::Kernel { command: KernelCommand::Reboot(wanted) } => {
            let emptied = moves::reboot(&mut client(&paths)?, wanted.kernel, Duration::from_nanos(wanted.timeout.0))?;
            show(&if wanted.json { format!("{}\n", emptied.json()) } else { emptied.lines() });
            Ok(ExitCode::SUCCESS)
        }
        Command::Inject { kernel, fault, seed } => {
            let entry = registry::current(&paths)?;
            done(fault.inflict(&entry, &mut Control::new(entry.control_port), kernel, seed))
        }
        Command::Events { follow, json } => done(tell_events(&paths, follow, json)),
        Command::Faults { command } => {
            show(&tell_faults(&paths, command)?);
            Ok(ExitCode::SUCCESS)
        }
        Command::Heartbeat { interval } => done(client(&paths)?.set_heartbeat(interval)),
        Command::Ikc { rounds } => {
            for figure in client(&paths)?.bench_ikc(rounds)? {
                show(&format!("{}\n", bench::figure(&figure.name, &figure.samples)));
            }
            Ok(ExitCode::SUCCESS)
        }
        Command::Image { command } => {
            show(&images::commands::run(&paths, command)?);
            Ok(ExitCode::SUCCESS)
        }
        Command::Sim { seed, steps, more } => testing::simulate(&paths, seed, steps, &more),
        Command::Compat { only, json, kernels, memory, image } => {
            machine::emulator()?;
            let image = match image {
                Some(image) => image,
                None => images::build::compat_image(&paths)?.file,
            };
            machine::check_image(&image)?;
            let files = Files { kernel: artifacts::kernel(&paths)?, image };
            let tool = std::env::current_exe().context("this tool's own file is gone")?;
            let report = compat::run(&paths, &files, &compat::Wanted { only, kernels, memory, tool })?;
            show(&if json { format!("{}\n", report.json()) } else { report.table() });
            Ok(if report.held() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        Command::Campaign {
            count,
            seed,
            class,
            within,
            first,
            only,
            jobs,
            service,
            interval,
            how,
            kernels,
            memory,
            image,
            json,
        } => {
            let mut classes: Vec<campaign::Class> = class.into_iter().flatten().collect();
            if classes.is_empty() {
                classes = campaign::Class::all();
            }
            let services: Vec<&str> = service.iter().map(String::as_str).collect();
            let services = if services.is_empty() { &campaign::SERVICES[..] } else { &services[..] };
            let made = campaign::Made {
                options: Options { kernels, memory, watchdog: Some(campaign::WATCHDOG), ..Options::default() },
                services: services.iter().map(|name| name.to_string()).collect(),
                protection: how.every(interval),
            };
            let wanted = campaign::Wanted {
                numbers: only.map_or(first..first.saturating_add(count), |only| only..only.saturating_add(1)),
                within: within.map(|time| Duration::from_nanos(time.0)),
                seed,
                classes,
                jobs,
                made,
            };
            wanted.made.options.check()?;
            machine::emulator()?;
            let given = image.or_else(|| std::env::var_os("SHIMOS_IMAGE").map(Into::into));
            let image = match given {
                Some(image) => images::file_of(&paths, &image)?,
                None if services == ["httpd"] => image::root(&paths)?,
                None => images::build::compat_image(&paths)?.file,
            };
            machine::check_image(&image)?;
            let files = Files { kernel: artifacts::kernel(&paths)?, image };
            let report = campaign::run(&paths, &files, &wanted, &campaign::tell)?;
            show(&if json { format!("{}\n", report.json()) } else { report.table() });
            Ok(if report.held() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        Command::Soak { service, deaths, together, seed, interval, how, kernels, memory, image, json } => {
            let machine = Options { kernels, memory, ..Options::default() };
            let protection = how.every(interval);
            let wanted = soak::Wanted { services: service, deaths, together, seed, protection, machine };
            wanted.check()?;
            machine::emulator()?;
            let given = image.or_else(|| std::env::var_os("SHIMOS_IMAGE").map(Into::into));
            let image = match given {
                Some(image) => images::file_of(&paths, &image)?,
                None => images::build::compat_image(&paths)?.file,
            };
            machine::check_image(&image)?;
            let files = Files { kernel: artifacts::kernel(&paths)?, image };
            let report = soak::run(&paths, &files, &wanted)?;
            show(&if json { format!("{}\n", report.json()) } else { report.table() });
            Ok(if report.held() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        Command::Bench { what: Bench::Core { rounds, json } } => {
            let files = Files { kernel: artifacts::kernel(&paths)?, image: image::root(&paths)? };
            let report = bench::core(&paths, &files, rounds)?;
            show(&if json { format!("{}\n", report.json()) } else { report.table() });
            Ok(if report.held() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        Command::Bench { what: Bench::Recovery { rounds, kernels, told } } => {
            let files = Files { kernel: artifacts::kernel(&paths)?, image: image::root(&paths)? };
            let kernels = if kernels.is_empty() { vec![4, 16, 64] } else { kernels };
            tell(&bench::recoveries(&paths, &files, &bench::Recoveries { rounds, kernels })?, &told)
        }
        Command::Bench { what: Bench::Checkpoint { rounds, only, counted, told } } => {
            let files = Files { kernel: artifacts::kernel(&paths)?, image: image::root(&paths)? };
            tell(&bench::checkpoint(&paths, &files, (rounds, &only), time_of(counted))?, &told)
        }
        Command::Bench { what: Bench::Takeover { rounds, only, counted, told } } => {
            let files = Files { kernel: artifacts::kernel(&paths)?, image: image::root(&paths)? };
            tell(&bench::takeover(&paths, &files, (rounds, &only), time_of(counted))?, &told)
        }
        Command::Bench { what: Bench::Partition { rounds, image, told } } => {
            let image = match image.or_else(|| std::env::var_os("SHIMOS_IMAGE").map(Into::into)) {
                Some(image) => image,
                None => images::build::influence_image(&paths)?.file,
            };
            machine::check_image(&image)?;
            let files = Files { kernel: artifacts::kernel(&paths)?, image };
            tell(&bench::partition(&paths, &files, rounds)?, &told)
        }
        Command::Bench { what: Bench::Reset { rounds, told } } => {
            let files = Files { kernel: artifacts::kernel(&paths)?, image: image::root(&paths)? };
            tell(&bench::resets(&paths, &files, rounds)?, &told)
        }
        Command::Bench { what: Bench::Influence { rounds, only, every, span, counted, image, told } } => {
            let image = match image.or_else(|| std::env::var_os("SHIMOS_IMAGE").map(Into::into)) {
                Some(image) => image,
                None => images::build::influence_image(&paths)?.file,
            };
            machine::check_image(&image)?;
            let files = Files { kernel: artifacts::kernel(&paths)?, image };
            let span = Duration::from_nanos(span.0);
            let wanted = bench::Wanted { rounds, only, every, span, time: time_of(counted) };
            tell(&bench::influence(&paths, &files, &wanted)?, &told)
        }
        Command::Bench { what: Bench::Linux { rounds, only, partition, cpu, image, json } } => {
            let programs = match image.or_else(|| std::env::var_os("SHIMOS_IMAGE").map(Into::into)) {
                None if versus::wants_programs(&only) => Some(images::build::bench_image(&paths)?.file),
                image => image,
            };
            let basic = image::root(&paths)?;
            let kernel = artifacts::kernel(&paths)?;
            let wanted = versus::Wanted { rounds, only, model: cpu, partition, kernel, basic, programs };
            let report = versus::run(&paths, &wanted)?;
            show(&if json { format!("{}\n", report.json()) } else { report.table() });
            Ok(if report.held() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        Command::Run(args) => Ok(run::run(&paths, &args)),
        Command::Shell(args) => Ok(run::shell(&paths, &args)),
        Command::Exec(args) => Ok(run::exec(&paths, &args)),
        Command::Ps { target, json } => {
            let rows = ps::ask(&mut client(&paths)?, target.as_ref())?;
            show(&if json { format!("{}\n", ps::json(&rows)) } else { ps::table(&rows) });
            Ok(ExitCode::SUCCESS)
        }
        Command::Logs { name, follow } => done(logs::show(&paths, &name, follow)),
        Command::Reset { timeout } => {
            let entry = registry::current(&paths)?;
            show(&resets::order(&entry, Duration::from_nanos(timeout.0))?.text());
            Ok(ExitCode::SUCCESS)
        }
        Command::Stop { target: None, .. } => stop_machine(&paths),
        Command::Stop { target: Some(target), timeout } => {
            let (name, went) = stop::program(&mut client(&paths)?, &target, Duration::from_nanos(timeout.0))?;
            show(&match went {
                Went::Asked => format!("{name} has ended\n"),
                Went::Killed => format!("{name} did not end by SIGTERM and was killed\n"),
            });
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// How time passes in a machine that is measured.
fn time_of(counted: bool) -> Time {
    if counted { Time::Counted } else { Time::Real }
}

/// Tells the figures of a measurement and whether they are good enough.
fn tell(report: &bench::Report, told: &Told) -> Result<ExitCode> {
    if let Some(file) = &told.svg {
        std::fs::write(file, report.svg()).with_context(|| format!("cannot write {}", file.display()))?;
    }
    show(&if told.json { format!("{}\n", report.json()) } else { report.table() });
    Ok(if report.held() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What is done if something cannot be protected.
fn strictness(strict: bool) -> Strictness {
    if strict { Strictness::Refuse } else { Strictness::Tell }
}

/// Prints; a reader that has gone away is no error.
fn show(text: &str) {
    let _ = std::io::stdout().write_all(text.as_bytes());
}

/// Shows what the machine remembers, and what happens from then on if that is wanted.
fn tell_events(paths: &Paths, follow: bool, json: bool) -> Result<()> {
    let entry = registry::current(paths)?;
    let mut control = Control::new(entry.control_port);
    let mut before = control.status()?;
    let mut news = events::remembered(&before);
    loop {
        for event in &mut news {
            if let events::What::Reset(_, cause) = &mut event.what {
                *cause = resets::cause(&entry.directory);
            }
            let line = if json { format!("{}\n", event.json()) } else { event.line() };
            if std::io::stdout().write_all(line.as_bytes()).is_err() {
                // Nobody reads any more.
                return Ok(());
            }
        }
        if !follow {
            return Ok(());
        }
        sleep(LOOK);
        let after = match control.status() {
            Ok(after) => after,
            Err(_) if registry::all(paths).iter().all(|live| live.id != entry.id) => return Ok(()),
            Err(error) => return Err(error),
        };
        news = events::between(&before, &after);
        before = events::carry(&before, after);
    }
}

fn tell_faults(paths: &Paths, command: FaultsCommand) -> Result<String> {
    let entry = registry::current(paths)?;
    let mut control = Control::new(entry.control_port);
    let status = control.status()?;
    let all = faults::all(&status);
    Ok(match command {
        FaultsCommand::List { json: true } => format!("{}\n", faults::json(&all)),
        FaultsCommand::List { json: false } => faults::table(&status, &all) + &resets::line(&status, &entry.directory),
        FaultsCommand::Show { death, json } => {
            let fault = faults::find(&all, death).context("the machine remembers no such death: see 'faults list'")?;
            let case = faults::investigate(&mut control, &entry.directory, &paths.root, fault)?;
            if json { format!("{}\n", case.json()) } else { case.text() }
        }
    })
}

fn done(result: Result<()>) -> Result<ExitCode> {
    result.map(|()| ExitCode::SUCCESS)
}

fn client(paths: &Paths) -> Result<Control> {
    Ok(Control::new(registry::current(paths)?.control_port))
}

/// Kernel and image for a machine, made if need be. What the user gave is checked before anything is built.
fn files(paths: &Paths, machine: &MachineArgs) -> Result<Files> {
    machine::emulator()?;
    let given = machine.image.as_ref().map(|image| images::file_of(paths, image)).transpose()?;
    if let Some(image) = &given {
        machine::check_image(image)?;
    }
    let kernel = artifacts::kernel(paths)?;
    let image = match given {
        Some(image) => image,
        None => image::root(paths)?,
    };
    Ok(Files { kernel, image })
}

/// Kernel and image for a machine that nobody has described. SHIMOS_IMAGE names another image than the usual one.
pub(crate) fn usual_files(paths: &Paths) -> Result<Files> {
    machine::emulator()?;
    let given = std::env::var_os("SHIMOS_IMAGE").map(PathBuf::from).filter(|image| !image.as_os_str().is_empty());
    if let Some(image) = &given {
        machine::check_image(image)?;
    }
    let kernel = artifacts::kernel(paths)?;
    Ok(Files { kernel, image: given.map_or_else(|| image::root(paths), Ok)? })
}

fn tell_policy(paths: &Paths, command: PolicyCommand) -> Result<String> {
    match command {
        PolicyCommand::Check { file } => Policy::read(&file).map(|_| String::new()).map_err(Error::msg),
        PolicyCommand::Apply { file } => {
            let (policy, text) = Policy::read(&file).map_err(Error::msg)?;
            let entry = registry::current(paths)?;
            let mut control = Control::new(entry.control_port);
            let changes = shimos_policy::machine::apply(&mut control, &policy, &text).map_err(Error::msg)?;
            Ok(shimos_policy::machine::told(&changes))
        }
        PolicyCommand::Show { json } => {
            let entry = registry::current(paths)?;
            let mut control = Control::new(entry.control_port);
            let policy = control.policy()?.context("the machine has no policy; apply one")?;
            if json {
                return Ok(format!("{}\n", policy::json(&policy)));
            }
            Ok(policy.table(&shimos_policy::machine::programs(&control.status()?)))
        }
    }
}

fn boot(paths: &Paths, machine: &MachineArgs, publish: Vec<Published>, policy: Option<&Path>) -> Result<ExitCode> {
    let options = machine.options(publish);
    options.check()?;
    let mut watched = policy.map(Watched::open).transpose().map_err(Error::msg)?;
    let files = files(paths, machine)?;
    let mut machine = Machine::start(paths, &files, options)?;
    eprintln!(
        "shimos: {} kernels boot ({}); ^C or ./shimos stop ends the machine",
        machine.options.kernels, machine.accelerator
    );
    let console = machine.console().clone();
    let printer = std::thread::spawn(move || {
        let mut shown = 0;
        loop {
            let lines = console.next(shown, Duration::from_secs(1));
            shown += lines.len();
            for line in &lines {
                show(&format!("{}\n", line.raw));
            }
            if lines.is_empty() && console.closed() {
                return;
            }
        }
    });
    machine.wait_ready(BOOT)?;
    eprintln!("shimos: ready after {:.2} s; look with ./shimos status", machine.boot_time.as_secs_f64());
    while !machine.ended() {
        if let Some(told) = watched.as_mut().and_then(|watched| watched.look(machine.entry())) {
            eprintln!("shimos: {}", told.trim_end().replace('\n', "\nshimos: "));
        }
        sleep(Duration::from_millis(50));
    }
    let _ = printer.join();
    eprintln!("shimos: the machine has stopped");
    Ok(ExitCode::SUCCESS)
}

fn start(entry: &Entry, start: Start, publish: &[(u16, u16)]) -> Result<ExitCode> {
    for (host, _) in publish {
        machine::check_port(*host)?;
    }
    let name = start.name.clone();
    let started = Control::new(entry.control_port).start(start)?;
    let [a, b, c, d] = address_of(started.program);
    show(&format!("{name}: process {} on {}, address {a}.{b}.{c}.{d}\n", started.pid.0, started.kernel));
    if !publish.is_empty() {
        let mut qmp = Qmp::connect(&entry.qmp, Duration::from_secs(2))?;
        for (host, port) in publish {
            let host = if *host == 0 { machine::free_port()? } else { *host };
            qmp.forward(&Published { host, address: [a, b, c, d], port: *port }.rule())?;
            show(&format!("{name}: http://127.0.0.1:{host} leads to its port {port}\n"));
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Asks the machine to stop; ends the emulator if it does not.
fn stop_machine(paths: &Paths) -> Result<ExitCode> {
    let entry = registry::current(paths)?;
    Control::new(entry.control_port).power_off();
    if !gone(&entry, STOP)
        && let Some(pid) = rustix::process::Pid::from_raw(entry.pid as i32)
    {
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).context("cannot end the emulator")?;
        if !gone(&entry, STOP) {
            rustix::process::kill_process(pid, rustix::process::Signal::KILL).context("cannot end the emulator")?;
        }
    }
    registry::strike(&entry.directory);
    Ok(ExitCode::SUCCESS)
}

fn gone(entry: &Entry, within: Duration) -> bool {
    let end = Instant::now() + within;
    while registry::alive(entry) {
        if Instant::now() >= end {
            return false;
        }
        sleep(Duration::from_millis(20));
    }
    true
}
