//! The command line.
mod bench;
mod machine;
mod verbs;

pub use self::{
    bench::{Bench, Told},
    machine::MachineArgs,
    verbs::{CheckpointCommand, FaultsCommand, ImageCommand, KernelArgs, KernelCommand, LevelName, PolicyCommand},
};
use crate::{
    campaign::Class,
    compat,
    faults::Injury,
    loads,
    protection::ProtectionArgs,
    run_args::{ExecArgs, RunArgs, ShellArgs},
    testing,
    units::{self, Published},
};
use clap::{Parser, Subcommand, builder::PossibleValuesParser, error::ErrorKind};
use shimos_abi::{control::Target, ids::KernelId, time::Nanos};
use std::{ffi::OsString, path::PathBuf};

/// Runs one kernel on every core; a protected program outlives its kernel.
#[derive(Parser, Debug)]
#[command(name = "shimos", version, disable_help_subcommand = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Kill the kernel under two Debian programs in four ways and see them go on.
    Demo {
        /// Print one JSON object instead of a table.
        #[arg(long)]
        json: bool,
        /// Time between checkpoints.
        #[arg(long, value_parser = units::interval, default_value = "20ms")]
        interval: Nanos,
        /// What machine.
        #[command(flatten)]
        machine: MachineArgs,
    },
    /// Run all tests: host, model checking, simulator, whole machine.
    Test {
        /// Only tests of these kinds.
        #[arg(value_enum)]
        kinds: Vec<testing::Kind>,
    },
    /// Boot a machine here and show its console; ^C stops it.
    Boot {
        /// Lead a port of this host to a program: HOST:ADDRESS:PORT, like 8080:10.77.1.2:80.
        #[arg(long, value_parser = units::published, value_name = "HOST:ADDRESS:PORT")]
        publish: Vec<Published>,
        /// A policy file: which programs have which level. It is applied when the machine is up, and whenever it changes.
        #[arg(long, value_name = "FILE")]
        policy: Option<PathBuf>,
        /// What machine.
        #[command(flatten)]
        machine: MachineArgs,
    },
    /// Show kernels, devices, programs, checkpoints and recoveries of the running machine.
    Status {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Start a program in the running machine.
    Start {
        /// Its name, unique on the machine.
        #[arg(value_parser = units::name)]
        name: String,
        /// The kernel to run on; the least loaded one otherwise.
        #[arg(long, value_parser = units::kernel)]
        kernel: Option<KernelId>,
        /// Protect it from the first instruction on, with this time between checkpoints.
        #[arg(long, value_parser = units::interval, value_name = "INTERVAL")]
        protect: Option<Nanos>,
        /// What happens to it when its kernel dies, in place of --protect: off, restart, or checkpoint every 50 ms; as the
        /// machine's policy says if neither is given.
        #[arg(long, value_enum, conflicts_with = "protect")]
        level: Option<LevelName>,
        /// Do not start it if it cannot be protected so.
        #[arg(long)]
        strict: bool,
        /// How, where checkpoints are taken.
        #[command(flatten)]
        how: ProtectionArgs,
        /// A variable of its environment, NAME=VALUE.
        #[arg(long, value_name = "NAME=VALUE")]
        env: Vec<String>,
        /// Its working directory.
        #[arg(long, default_value = "/")]
        cwd: String,
        /// The image that it runs in, by name or digest or as a file; the machine's own otherwise.
        #[arg(long)]
        image: Option<String>,
        /// Whose rights it has: a name or number of the image, perhaps with a group behind a colon.
        #[arg(long, value_name = "USER[:GROUP]")]
        user: Option<String>,
        /// Memory that it may have, in MiB; as much as its kernel has otherwise.
        #[arg(long, value_name = "MIB")]
        memory: Option<u32>,
        /// Lead a port of this host to it: HOST:PORT, like 8080:80.
        #[arg(long, value_parser = units::port_pair, value_name = "HOST:PORT")]
        publish: Vec<(u16, u16)>,
        /// The program and its arguments.
        #[arg(last = true, required = true)]
        argv: Vec<String>,
    },
    /// Send a signal to all processes of a program.
    Kill {
        /// A process id or a name.
        #[arg(value_parser = units::target)]
        target: Target,
        /// The signal's number.
        #[arg(long, default_value_t = 15, value_parser = clap::value_parser!(u8).range(1..=64))]
        signal: u8,
    },
    /// Protect a running program, or change how it is protected.
    Protect {
        /// A process id or a name.
        #[arg(value_parser = units::target)]
        target: Target,
        /// What happens to it when its kernel dies: it goes on from a checkpoint, or is started again from the beginning.
        #[arg(long, value_enum, default_value = "checkpoint")]
        level: LevelName,
        /// Time between checkpoints, from 1ms to 7d.
        #[arg(long, value_parser = units::interval, default_value = "50ms")]
        interval: Nanos,
        /// Change nothing if something of it cannot be protected.
        #[arg(long)]
        strict: bool,
        /// How, where checkpoints are taken.
        #[command(flatten)]
        how: ProtectionArgs,
    },
    /// Protect a program no more.
    Unprotect {
        /// A process id or a name.
        #[arg(value_parser = units::target)]
        target: Target,
    },
    /// Move a running program to another kernel, without a rollback.
    Move {
        /// A process id or a name.
        #[arg(value_parser = units::target)]
        target: Target,
        /// Where to, like k2.
        #[arg(long, value_parser = units::kernel)]
        to: KernelId,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Save a running program in a file, or let one from a file go on.
    Checkpoint {
        /// What to do.
        #[command(subcommand)]
        command: CheckpointCommand,
    },
    /// Check, apply or show a policy: which programs have which level.
    Policy {
        /// What to do.
        #[command(subcommand)]
        command: PolicyCommand,
    },
    /// Empty a kernel, or give it a fresh life.
    Kernel {
        /// What to do.
        #[command(subcommand)]
        command: KernelCommand,
    },
    /// Kill a kernel in a given way.
    Inject {
        /// Which, like k2.
        #[arg(value_parser = units::kernel)]
        kernel: KernelId,
        /// How: null-pointer, panic, infinite-loop, irq-deadlock and others; any other word shows them all.
        #[arg(value_parser = units::fault)]
        fault: Injury,
        /// What a fault that hits at random goes by.
        #[arg(long, default_value_t = 0)]
        seed: u64,
    },
    /// Show what happens in the machine: deaths, takeovers, elections, programs that come and go.
    Events {
        /// Go on until the machine ends or ^C.
        #[arg(short, long)]
        follow: bool,
        /// Print JSON, an object on each line.
        #[arg(long)]
        json: bool,
    },
    /// Show deaths of kernels and what is known of them.
    Faults {
        /// What to do.
        #[command(subcommand)]
        command: FaultsCommand,
    },
    /// Set the interval of the timer and monitor daemons, in milliseconds.
    Heartbeat {
        /// The interval, from 1ms to 1m.
        #[arg(value_parser = units::heartbeat)]
        interval: Nanos,
    },
    /// Measure inter-kernel communication in the running machine.
    Ikc {
        /// Rounds.
        #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
        rounds: u32,
    },
    /// Build, import, list and remove root images.
    Image {
        /// What to do.
        #[command(subcommand)]
        command: ImageCommand,
    },
    /// Run the simulator: kernels in one process, every schedule from a seed.
    Sim {
        /// The seed.
        #[arg(long)]
        seed: u64,
        /// Steps.
        #[arg(long, default_value_t = 100_000)]
        steps: u64,
        /// More for the simulator.
        #[arg(last = true)]
        more: Vec<String>,
    },
    /// Try every program that must run, on one machine.
    Compat {
        /// Only this one; may be given several times.
        #[arg(long, value_name = "NAME", value_parser = PossibleValuesParser::new(compat::names()))]
        only: Vec<String>,
        /// Print JSON.
        #[arg(long)]
        json: bool,
        /// Kernels; as many programs are tried at a time.
        #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=64))]
        kernels: u16,
        /// Private memory of each kernel, in MiB.
        #[arg(long, default_value_t = 1024, value_name = "MIB")]
        memory: u64,
        /// Root image (EROFS) with the programs; one made from Debian's packages otherwise.
        #[arg(long, value_name = "FILE")]
        image: Option<PathBuf>,
    },
    /// Injure kernels in every way, one run after another, under services with clients that check every answer.
    ///
    /// Each run follows from seed and number, so that it can be repeated. Exit status 0 says that every fault that showed was contained
    /// and recovered from, apart from classes of which docs/fault-model.md says why they may do more.
    Campaign {
        /// How many runs.
        #[arg(long, default_value_t = 100)]
        count: u64,
        /// Decides what is done to which kernel, where and when.
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// Only this class: table-iii, ordered, flips, or one by its name; may be given several times.
        #[arg(long, value_name = "CLASS", value_parser = |word: &str| Class::named(word))]
        class: Vec<Vec<Class>>,
        /// Begin no run after this time.
        #[arg(long, value_name = "TIME", value_parser = units::duration)]
        within: Option<Nanos>,
        /// The number of the first run: goes on with a campaign that was cut off; seed and classes as before.
        #[arg(long, value_name = "NUMBER", default_value_t = 0)]
        first: u64,
        /// Only the run of this number; seed and classes as before.
        #[arg(long, value_name = "NUMBER", conflicts_with_all = ["first", "count"])]
        only: Option<u64>,
        /// Machines at a time.
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
        jobs: u16,
        /// Services under load; may be given several times. httpd, redis and nginx otherwise.
        #[arg(long, value_name = "NAME", value_parser = PossibleValuesParser::new(loads::names()))]
        service: Vec<String>,
        /// Time between checkpoints.
        #[arg(long, value_parser = units::interval, default_value = "20ms")]
        interval: Nanos,
        /// How the services are protected.
        #[command(flatten)]
        how: ProtectionArgs,
        /// Kernels of each machine.
        #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(2..=64))]
        kernels: u16,
        /// Private memory of each kernel, in MiB.
        #[arg(long, default_value_t = 128, value_name = "MIB")]
        memory: u64,
        /// Root image with the services, a file (EROFS) or the name of one, or in SHIMOS_IMAGE; one made from Debian's packages otherwise.
        #[arg(long, value_name = "FILE")]
        image: Option<PathBuf>,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Use services from this host while kernels die at random moments; nobody may notice.
    ///
    /// Each service gets a machine of its own. Its clients check every answer against what they were told before. Exit status 0
    /// says that no connection was reset or refused, nothing acknowledged was lost or done twice, and every download was right.
    Soak {
        /// Only this service; may be given several times.
        #[arg(long, value_name = "NAME", value_parser = PossibleValuesParser::new(loads::names()))]
        service: Vec<String>,
        /// Kernels that die under each service.
        #[arg(long, default_value_t = 100)]
        deaths: u32,
        /// Kernels that die together, at most: some die while another takes over.
        #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=63))]
        together: u32,
        /// Decides which kernels die, when and how.
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// Time between checkpoints.
        #[arg(long, value_parser = units::interval, default_value = "20ms")]
        interval: Nanos,
        /// How the services are protected.
        #[command(flatten)]
        how: ProtectionArgs,
        /// Kernels of each machine.
        #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(2..=64))]
        kernels: u16,
        /// Private memory of each kernel, in MiB.
        #[arg(long, default_value_t = 512, value_name = "MIB")]
        memory: u64,
        /// Root image with the services, a file (EROFS) or the name of one, or in SHIMOS_IMAGE; one made from Debian's packages otherwise.
        #[arg(long, value_name = "FILE")]
        image: Option<PathBuf>,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Measure.
    Bench {
        /// What.
        #[command(subcommand)]
        what: Bench,
    },
    /// Run a command in a program of its own, with input and output here; boots a machine if none runs.
    ///
    /// The exit status is the command's, or 128 and the signal's number; 125 if it is the tool that fails, 126 if the command
    /// cannot be executed, 127 if it is not there. Keys like ^C are passed on.
    Run(RunArgs),
    /// An interactive shell, in a new program or in a running one.
    Shell(ShellArgs),
    /// Run a command inside a running program, with input and output here.
    Exec(ExecArgs),
    /// Show programs and their processes.
    Ps {
        /// Only this program, by process id or name.
        #[arg(value_parser = units::target)]
        target: Option<Target>,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Show what a program said, also after its end.
    Logs {
        /// The program's name.
        name: String,
        /// Go on until the program ends.
        #[arg(short, long)]
        follow: bool,
    },
    /// Reset the running machine. Its memory stays: protected programs go on from their last checkpoint.
    ///
    /// What the machine remembers of earlier deaths is lost with the kernels. Boot with --cold to forget the programs too.
    Reset {
        /// How long the machine may take to come up again.
        #[arg(long, value_parser = units::duration, default_value = "30s")]
        timeout: Nanos,
    },
    /// Stop a program, or the running machine if none is named.
    ///
    /// The program's first process gets SIGTERM. What is still there when the time is over is killed.
    Stop {
        /// A process id or a name.
        #[arg(value_parser = units::target)]
        target: Option<Target>,
        /// How long the program may take.
        #[arg(long, value_parser = units::duration, default_value = "10s", requires = "target")]
        timeout: Nanos,
    },
}

/// Why there is nothing to do.
#[derive(PartialEq, Eq, Debug)]
pub enum Refusal {
    /// Help or the version was asked for.
    Shown(String),
    /// The arguments make no sense: one line.
    Wrong(String),
}

/// Reads the command line.
pub fn parse(arguments: impl IntoIterator<Item = impl Into<OsString> + Clone>) -> Result<Cli, Refusal> {
    Cli::try_parse_from(arguments).map_err(|error| match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => Refusal::Shown(error.to_string()),
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            Refusal::Wrong("say what to do, like demo, test or boot; --help lists it all".to_string())
        }
        _ => Refusal::Wrong(one_line(&error.to_string())),
    })
}

/// The parser's message without its usage section, on one line.
fn one_line(message: &str) -> String {
    let telling = message.lines().map(str::trim).take_while(|line| !line.starts_with("Usage:"));
    let parts: Vec<&str> = telling.filter(|line| !line.is_empty() && !line.starts_with("For more")).collect();
    let text = parts.join(" ");
    let text = text.strip_prefix("error: ").unwrap_or(&text);
    format!("{text}; try ./shimos --help")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::Kind;
    use shimos_abi::control::{Generations, Integrity, OnCrash, Output};

    fn wrong(line: &str) -> String {
        match parse(line.split(' ')) {
            Err(Refusal::Wrong(why)) => why,
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn wrong_arguments_are_told_in_one_line() {
        for line in [
            "shimos",
            "shimos frobnicate",
            "shimos demo --frobnicate",
            "shimos demo --kernels 0",
            "shimos demo --kernels 65",
            "shimos boot --memory lots",
            "shimos boot --machine vax",
            "shimos boot --publish 80",
            "shimos protect httpd --interval 0",
            "shimos protect httpd --interval 0ms",
            "shimos protect httpd --interval 9d",
            "shimos protect httpd --output maybe",
            "shimos protect httpd --integrity some",
            "shimos protect httpd --on-crash cry",
            "shimos protect httpd --crash-limit 0",
            "shimos protect httpd --generations 3",
            "shimos inject k1 flood",
            "shimos inject k99 panic",
            "shimos heartbeat 0",
            "shimos kill httpd --signal 0",
            "shimos start name",
            "shimos start 12 -- /bin/true",
            "shimos sim --seed x",
            "shimos run --kernel k99 -- ls",
            "shimos run --name 7 -- ls",
            "shimos run --publish 80 -- ls",
            "shimos run image ls",
            "shimos exec web",
            "shimos exec -- ls",
            "shimos shell web --image x",
            "shimos stop web --timeout soon",
            "shimos logs",
        ] {
            let why = wrong(line);
            assert!(!why.contains('\n') && why.ends_with("--help") || line == "shimos", "{line}: {why}");
        }
        assert!(wrong("shimos demo --frobnicate").contains("--frobnicate"));
        assert!(wrong("shimos protect httpd --interval 50").contains("like 50ms"));
        assert!(wrong("shimos inject k1 flood").contains("irq-deadlock"));
    }

    #[test]
    fn right_arguments_are_understood() {
        let cli = parse("shimos start web --protect 50ms --publish 8080:80 -- /bin/busybox httpd -f".split(' '))
            .expect("right");
        let Command::Start { name, protect, publish, argv, how, .. } = cli.command else { panic!("start") };
        assert_eq!((name.as_str(), protect, how.output), ("web", Some(Nanos::millis(50)), Output::Commit));
        let line = "shimos protect web --on-crash rollback --crash-limit 5 --generations 1 --integrity pages";
        let Command::Protect { how, .. } = parse(line.split(' ')).expect("right").command else { panic!("protect") };
        let protection = how.every(Nanos::millis(9));
        assert_eq!(protection.on_crash, OnCrash::Rollback { limit: 5 });
        assert_eq!((protection.generations, protection.integrity), (Generations(1), Integrity::Pages));
        assert_eq!(publish, [(8080, 80)]);
        assert_eq!(argv, ["/bin/busybox", "httpd", "-f"]);
        let line = "shimos run -t -e A=b -p 80:8080 --protect 20ms image -- ls -l -- --help";
        let Command::Run(args) = parse(line.split(' ')).expect("right").command else { panic!("run") };
        assert_eq!((args.image.as_deref(), args.argv.join(" ").as_str()), (Some("image"), "ls -l -- --help"));
        assert!(args.program.how.terminal && args.program.protection().is_some());
        assert!(matches!(parse(["shimos", "run", "image"]).expect("right").command, Command::Run(_)));
        let Command::Exec(args) = parse(["shimos", "exec", "-T", "web", "--", "ps"]).expect("right").command else {
            panic!("exec")
        };
        assert_eq!((args.target, args.how.no_terminal), (Target::Name("web".to_string()), true));
        let cli = parse("shimos demo --json --kernels 8 --machine microvm".split(' ')).expect("right");
        let Command::Demo { json: true, machine, .. } = cli.command else { panic!("demo") };
        assert_eq!((machine.kernels, machine.machine), (8, Kind::Microvm));
        assert!(matches!(parse(["shimos", "--help"]), Err(Refusal::Shown(_))));
    }
}
