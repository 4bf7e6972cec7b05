//! The benchmarks and what they take.
use crate::{bench, units, versus};
use clap::{Args, Subcommand, builder::PossibleValuesParser};
use shimos_abi::{control::Partition, time::Nanos};
use std::path::PathBuf;

/// What to measure.
#[derive(Subcommand, Debug)]
pub enum Bench {
    /// What the project must reach, with goal and verdict.
    Core {
        /// Repetitions of each death.
        #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..=1000))]
        rounds: u32,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// The pause of a checkpoint against dirty pages and size of the program, with the cost of each phase.
    Checkpoint {
        /// Programs of each kind.
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
        rounds: u32,
        /// Only programs of this size in MB; may be given several times.
        #[arg(long, value_name = "MB", value_parser = bench::size)]
        only: Vec<u32>,
        /// Count instructions instead of time: the host's load does not matter then, and it takes longer.
        #[arg(long)]
        counted: bool,
        /// How the figures are told.
        #[command(flatten)]
        told: Told,
    },
    /// What each step of a recovery takes, by the way in which a kernel dies and by the number of kernels.
    Recovery {
        /// Deaths of each kind.
        #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=10000))]
        rounds: u32,
        /// Kernels of a machine; may be given several times. 4, 16 and 64 otherwise.
        #[arg(long, value_parser = clap::value_parser!(u16).range(2..=64))]
        kernels: Vec<u16>,
        /// How the figures are told.
        #[command(flatten)]
        told: Told,
    },
    /// What a takeover takes against the program's size and its connections, and the memory that protection takes.
    Takeover {
        /// Deaths of each kind.
        #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
        rounds: u32,
        /// Only against size, or connections.
        #[arg(long, value_enum, value_name = "WHAT")]
        only: Vec<bench::Kind>,
        /// Count instructions instead of time: the host's load does not matter then, and it takes longer. What the client
        /// waits for is left out, as it is the host's time.
        #[arg(long)]
        counted: bool,
        /// How the figures are told.
        #[command(flatten)]
        told: Told,
    },
    /// What hardware partitioning costs: machines with and without it, side by side.
    Partition {
        /// Machines of each kind.
        #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1000))]
        rounds: u32,
        /// Root image (EROFS) with the programs; one made from Debian's packages otherwise.
        #[arg(long, value_name = "FILE")]
        image: Option<PathBuf>,
        /// How the figures are told.
        #[command(flatten)]
        told: Told,
    },
    /// From a reset of the machine to the first instruction of a program of 100 MB that goes on.
    Reset {
        /// Resets.
        #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
        rounds: u32,
        /// How the figures are told.
        #[command(flatten)]
        told: Told,
    },
    /// What protection costs programs that compute, at several intervals, and programs beside a protected one.
    Influence {
        /// How often each program is measured under each setting.
        #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1000))]
        rounds: u32,
        /// Only this program; may be given several times.
        #[arg(long, value_name = "PROGRAM", value_parser = PossibleValuesParser::new(bench::names()))]
        only: Vec<String>,
        /// Only with this interval, or `beside`: only beside a protected program; may be given several times.
        #[arg(long, value_name = "INTERVAL", value_parser = bench::part)]
        every: Vec<bench::Part>,
        /// How long each is measured at least; protected, at least for an interval.
        #[arg(long, value_parser = units::duration, default_value = "4s")]
        span: Nanos,
        /// Count instructions instead of time: the host's load does not matter then, and it takes longer.
        #[arg(long)]
        counted: bool,
        /// Root image (EROFS) with the programs; one made from Debian's packages otherwise.
        #[arg(long, value_name = "FILE")]
        image: Option<PathBuf>,
        /// How the figures are told.
        #[command(flatten)]
        told: Told,
    },
    /// The same programs on Shimos and on Debian's Linux with one processor, in the same emulator.
    Linux {
        /// How often each row is measured.
        #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
        rounds: u32,
        /// Only this row; may be given several times.
        #[arg(long, value_name = "ROW", value_parser = PossibleValuesParser::new(versus::names()))]
        only: Vec<String>,
        /// What Shimos runs its kernel in beside page tables, svm or none. Linux runs as it is, with no hypervisor below it.
        #[arg(long, value_name = "HOW", default_value = "none", value_parser = units::partition)]
        partition: Partition,
        /// The emulated processor's model for both; the usual one otherwise.
        #[arg(long, value_name = "MODEL")]
        cpu: Option<String>,
        /// Root image (EROFS) with the programs of the rows of whole programs, or in SHIMOS_IMAGE; one built from Debian's packages otherwise.
        #[arg(long, value_name = "FILE")]
        image: Option<PathBuf>,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
}

/// How figures are told.
#[derive(Args, Debug)]
pub struct Told {
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
    /// Draw charts into this file (SVG).
    #[arg(long, value_name = "FILE")]
    pub svg: Option<PathBuf>,
}
