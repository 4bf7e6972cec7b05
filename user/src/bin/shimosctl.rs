//! The control command inside the machine: the same verbs as the host tool, through `/dev/shimos`.
#![forbid(unsafe_code)]

use shimos_abi::{
    control::{
        Drain, Fault, Generations, Integrity, Level, MAX_INTERVAL, MIN_INTERVAL, MachineStatus, OnCrash, Output,
        ProgramStatus, Protection, Request, Response, Strictness, Target,
    },
    ids::{KernelId, Pid, ProgramId},
    time::Nanos,
};
use shimos_policy::{Policy, machine, words::CRASH_LIMIT};
use shimos_user::device::Device;
use std::{io, path::Path, process::ExitCode};

const USAGE: &str = "usage: shimosctl status | ps | protect TARGET INTERVAL_MS [commit|free] [records|pages] [stop|rollback|rollback=N] [generations=N] [strict] | unprotect TARGET | level TARGET off|restart \
    | kill TARGET [SIGNAL] | stop TARGET | exec TARGET COMMAND [ARGUMENT]... | inject KERNEL FAULT | heartbeat MS \
    | move TARGET KERNEL | drain KERNEL | undrain KERNEL | reboot KERNEL | policy check FILE | policy apply FILE \
    | policy show | poweroff";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let several = match words.as_slice() {
        ["ps"] => Some(Device::open().and_then(|mut device| list(&mut device))),
        ["stop", name] => Some(Device::open().and_then(|mut device| stop(&mut device, name))),
        ["policy", words @ ..] if !words.is_empty() => Some(policy(words).map_err(io::Error::other)),
        _ => None,
    };
    match several {
        Some(Ok(())) => return ExitCode::SUCCESS,
        Some(Err(error)) => {
            eprintln!("shimosctl: {error}");
            return ExitCode::FAILURE;
        }
        None => {}
    }
    let request = match parse(&words) {
        Ok(request) => request,
        Err(why) => {
            eprintln!("shimosctl: {why}");
            return ExitCode::from(2);
        }
    };
    match Device::open().and_then(|mut device| device.ask(&request)) {
        Err(error) => {
            eprintln!("shimosctl: {}: {error}", shimos_user::device::PATH);
            ExitCode::FAILURE
        }
        Ok(Response::Failed(why) | Response::Again(why)) => {
            eprintln!("shimosctl: {why}");
            ExitCode::FAILURE
        }
        Ok(Response::Status(status)) => {
            print!("{}", table(&status));
            ExitCode::SUCCESS
        }
        Ok(Response::Protected { exceptions, .. }) => {
            for exception in exceptions {
                println!("not protected: {exception}");
            }
            ExitCode::SUCCESS
        }
        Ok(_) => ExitCode::SUCCESS,
    }
}

fn parse(words: &[&str]) -> Result<Request, String> {
    match words {
        ["status"] => Ok(Request::Status),
        ["protect", name, interval, how @ ..] => protect(name, interval, how),
        ["level", name, "off"] => {
            Ok(Request::SetLevel { target: target(name), level: Level::Off, strictness: Strictness::Tell })
        }
        ["level", name, "restart"] => {
            Ok(Request::SetLevel { target: target(name), level: Level::Restart, strictness: Strictness::Tell })
        }
        ["unprotect", name] => Ok(Request::Unprotect { target: target(name) }),
        ["kill", name] => Ok(Request::Kill { target: target(name), signal: 15 }),
        ["kill", name, signal] => match signal.parse() {
            Ok(signal @ 1..=64) => Ok(Request::Kill { target: target(name), signal }),
            _ => Err(format!("'{signal}' is no signal; give a number from 1 to 64")),
        },
        ["exec", name, argv @ ..] if !argv.is_empty() => Ok(Request::Exec {
            target: target(name),
            argv: argv.iter().map(|word| word.to_string()).collect(),
            env: std::env::vars().map(|(name, value)| format!("{name}={value}")).collect(),
        }),
        ["move", name, kernel] => Ok(Request::Move { target: target(name), to: kernel_id(kernel)? }),
        ["drain", kernel] => Ok(Request::Drain { kernel: kernel_id(kernel)?, drain: Drain::Begin }),
        ["undrain", kernel] => Ok(Request::Drain { kernel: kernel_id(kernel)?, drain: Drain::End }),
        ["reboot", kernel] => Ok(Request::Reboot { kernel: kernel_id(kernel)?, incarnation: None }),
        ["inject", kernel, name] => {
            Ok(Request::Inject { kernel: kernel_id(kernel)?, fault: fault(name)?, incarnation: None, seed: 0 })
        }
        ["heartbeat", interval] => Ok(Request::SetHeartbeat { interval: millis(interval)? }),
        ["poweroff"] => Ok(Request::PowerOff),
        _ => Err(USAGE.to_string()),
    }
}

/// Asks, and takes a refusal for an error.
fn ask(device: &mut Device, request: &Request) -> io::Result<Response> {
    match device.ask(request)? {
        Response::Failed(why) | Response::Again(why) => Err(io::Error::other(why)),
        answer => Ok(answer),
    }
}

fn programs(device: &mut Device) -> io::Result<Vec<ProgramStatus>> {
    match ask(device, &Request::Status)? {
        Response::Status(status) => {
            Ok(status.kernels.into_iter().flat_map(|kernel| kernel.published.programs).collect())
        }
        _ => Err(io::Error::other("an answer that does not fit the question")),
    }
}

/// Shows the processes of all programs.
fn list(device: &mut Device) -> io::Result<()> {
    println!("{:>7} {:>7} {:<4} {:>9} {:>9}  {:<12} COMMAND", "PID", "PPID", "ON", "TIME ms", "KiB", "PROGRAM");
    for program in programs(device)? {
        let mut from = Some(Pid(0));
        // A program that has ended meanwhile is none.
        while let Some(first) = from
            && let Response::Processes(part) = device.ask(&Request::Processes { program: program.id, from: first })?
        {
            for process in &part.list {
                println!(
                    "{:>7} {:>7} {:<4} {:>9.0} {:>9}  {:<12} {}",
                    process.pid.0,
                    process.parent.0,
                    part.kernel.to_string(),
                    ms(process.used),
                    process.pages * 4,
                    program.name,
                    process.command
                );
            }
            from = part.next.filter(|next| *next > first);
        }
    }
    Ok(())
}

/// Asks the first process of a program to end.
fn stop(device: &mut Device, name: &str) -> io::Result<()> {
    let wanted = target(name);
    let all = programs(device)?;
    let found = all.iter().find(|program| match &wanted {
        Target::Name(name) => program.name == *name,
        Target::Pid(pid) => ProgramId::of(*pid) == program.id,
    });
    let program = found.ok_or_else(|| io::Error::other(format!("there is no program '{name}'")))?;
    ask(device, &Request::Signal { pid: program.id.first_pid(), signal: 15 }).map(drop)
}

/// Checks a policy file, makes it the machine's, or shows the one that the machine has.
fn policy(words: &[&str]) -> Result<(), String> {
    let device = || Device::open().map_err(|error| format!("{}: {error}", shimos_user::device::PATH));
    match words {
        ["check", file] => Policy::read(Path::new(file)).map(drop),
        ["apply", file] => {
            let (policy, text) = Policy::read(Path::new(file))?;
            let changes = machine::apply(&mut device()?, &policy, &text)?;
            print!("{}", machine::told(&changes));
            Ok(())
        }
        ["show"] => {
            let mut device = device()?;
            let policy = machine::policy(&mut device)?.ok_or("the machine has no policy; apply one")?;
            let programs = programs(&mut device).map_err(|error| error.to_string())?;
            print!("{}", policy.table(&programs.iter().collect::<Vec<_>>()));
            Ok(())
        }
        _ => Err(USAGE.to_string()),
    }
}

fn protect(name: &str, interval: &str, how: &[&str]) -> Result<Request, String> {
    let interval = millis(interval)?;
    if interval < MIN_INTERVAL || interval > MAX_INTERVAL {
        return Err("the interval must be from 1 ms to 7 days".to_string());
    }
    let mut protection = Protection::new(interval, Output::Commit);
    let mut strictness = Strictness::Tell;
    for word in how {
        match *word {
            "commit" => protection.output = Output::Commit,
            "free" => protection.output = Output::Free,
            "records" => protection.integrity = Integrity::Records,
            "pages" => protection.integrity = Integrity::Pages,
            "stop" => protection.on_crash = OnCrash::Stop,
            "rollback" => protection.on_crash = OnCrash::Rollback { limit: CRASH_LIMIT },
            "strict" => strictness = Strictness::Refuse,
            _ => match word.split_once('=').map(|(key, number)| (key, number.parse())) {
                Some(("rollback", Ok(limit @ 1..))) => protection.on_crash = OnCrash::Rollback { limit },
                Some(("generations", Ok(count @ 1..=2))) => protection.generations = Generations(count as u8),
                _ => return Err(format!("'{word}' is no way to protect; {USAGE}")),
            },
        }
    }
    Ok(Request::SetLevel { target: target(name), level: Level::Checkpoint(protection), strictness })
}

fn target(word: &str) -> Target {
    word.parse().map_or_else(|_| Target::Name(word.to_string()), |pid| Target::Pid(Pid(pid)))
}

fn kernel_id(word: &str) -> Result<KernelId, String> {
    let number = word.strip_prefix('k').unwrap_or(word);
    number.parse().map(KernelId).map_err(|_| format!("'{word}' is no kernel; say k0, k1 and so on"))
}

fn millis(word: &str) -> Result<Nanos, String> {
    match word.strip_suffix("ms").unwrap_or(word).parse() {
        Ok(count @ 1..) => Ok(Nanos::millis(count)),
        _ => Err(format!("'{word}' is no interval; give milliseconds, like 50")),
    }
}

fn fault(word: &str) -> Result<Fault, String> {
    Ok(match word {
        "null-pointer" => Fault::NullPointer,
        "panic" => Fault::Panic,
        "infinite-loop" => Fault::InfiniteLoop,
        "irq-deadlock" => Fault::IrqDeadlock,
        "read-peer" => Fault::ReadPeer,
        "write-peer" => Fault::WritePeer,
        "write-text" => Fault::WriteText,
        "write-rodata" => Fault::WriteRodata,
        "execute-data" => Fault::ExecuteData,
        "write-peer-shared" => Fault::WritePeerShared,
        "stack-overflow" => Fault::StackOverflow,
        "damage-page" => Fault::DamagePage,
        "damage-records" => Fault::DamageRecords,
        "nmi-loop" => Fault::NmiLoop,
        "double-fault" => Fault::DoubleFault,
        "dead-core" => Fault::DeadCore,
        "lost-ipis" => Fault::LostIpis,
        "stall" => Fault::Stall,
        "slow" => Fault::Slow,
        "wild-heap" => Fault::WildHeap,
        "wild-tables" => Fault::WildTables,
        "wild-outgoing" => Fault::WildOutgoing,
        "wild-queue" => Fault::WildQueue,
        "wild-commons" => Fault::WildCommons,
        "triple-fault" => Fault::TripleFault,
        "map-peer" => Fault::MapPeer,
        _ => {
            return Err(format!(
                "'{word}' is no fault; one of null-pointer, panic, infinite-loop, irq-deadlock, read-peer, write-peer, \
                 write-text, write-rodata, execute-data, write-peer-shared, stack-overflow, damage-page, damage-records, \
                 triple-fault, map-peer, nmi-loop, double-fault, dead-core, lost-ipis, stall, slow, wild-heap, wild-tables, \
                 wild-outgoing, wild-queue, wild-commons"
            ));
        }
    })
}

fn table(status: &MachineStatus) -> String {
    let mut text =
        format!("monitor {} (term {}), heartbeat {} ms\n", status.monitor, status.term, ms(status.heartbeat));
    for kernel in &status.kernels {
        text += &format!(
            "{} incarnation {} {:?}, {} MiB, {} frames free\n",
            kernel.id,
            kernel.incarnation,
            kernel.state,
            kernel.memory >> 20,
            kernel.free_frames
        );
        for program in &kernel.published.programs {
            let protection = program.protection.map_or("unprotected".to_string(), |protection| {
                format!("protected every {} ms", ms(protection.interval))
            });
            let epoch = program.checkpoint.map_or(String::new(), |checkpoint| format!(", {}", checkpoint.epoch));
            text += &format!("  {} {}: {protection}{epoch}\n", program.id, program.name);
            for process in &program.processes {
                text += &format!("    {} {}\n", process.pid.0, process.comm);
            }
        }
    }
    text
}

fn ms(span: Nanos) -> f64 {
    span.0 as f64 / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verbs_are_understood() {
        assert_eq!(
            parse(&["protect", "httpd", "50ms"]),
            Ok(Request::SetLevel {
                target: Target::Name("httpd".to_string()),
                level: Level::Checkpoint(Protection::new(Nanos::millis(50), Output::Commit)),
                strictness: Strictness::Tell,
            })
        );
        let how = ["protect", "httpd", "50ms", "free", "pages", "rollback=5", "generations=1", "strict"];
        let protection = Protection {
            integrity: Integrity::Pages,
            on_crash: OnCrash::Rollback { limit: 5 },
            generations: Generations(1),
            ..Protection::new(Nanos::millis(50), Output::Free)
        };
        let level = Level::Checkpoint(protection);
        let target = Target::Name("httpd".to_string());
        assert_eq!(parse(&how), Ok(Request::SetLevel { target, level, strictness: Strictness::Refuse }));
        assert_eq!(
            parse(&["inject", "k2", "panic"]),
            Ok(Request::Inject { kernel: KernelId(2), fault: Fault::Panic, incarnation: None, seed: 0 })
        );
        assert_eq!(parse(&["unprotect", "16385"]), Ok(Request::Unprotect { target: Target::Pid(Pid(16385)) }));
    }

    #[test]
    fn nonsense_is_refused_in_one_line() {
        for words in [
            &["protect", "httpd", "0"][..],
            &["protect", "httpd", "50", "maybe"],
            &["protect", "httpd", "50", "rollback=0"],
            &["protect", "httpd", "50", "generations=3"],
            &["protect", "httpd", "99999999999"],
            &["inject", "kx", "panic"],
            &["inject", "k1", "flood"],
            &["kill", "httpd", "0"],
            &["frobnicate"],
            &["exec", "httpd"],
            &[],
        ] {
            let why = parse(words).expect_err("refused");
            assert!(!why.contains('\n'), "{why}");
        }
    }
}
