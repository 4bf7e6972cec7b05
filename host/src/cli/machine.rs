//! What machine is wanted.
use crate::{
    machine::{Kind, Options},
    units::{self, Published},
};
use clap::Args;
use shimos_abi::{control::Partition, time::Nanos};
use std::path::PathBuf;

/// What machine is wanted.
#[derive(Args, Debug)]
pub struct MachineArgs {
    /// Number of kernels, 1 to 64.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub kernels: u16,
    /// Private memory of each kernel, in MiB.
    #[arg(long, default_value_t = 128, value_name = "MIB")]
    pub memory: u64,
    /// Kind of machine.
    #[arg(long, value_enum, default_value_t = Kind::Q35)]
    pub machine: Kind,
    /// Interval of the timer and monitor daemons.
    #[arg(long, value_parser = units::heartbeat)]
    pub heartbeat: Option<Nanos>,
    /// What keeps the kernels apart beside their page tables: svm where the processor has it, or none.
    #[arg(long, value_name = "HOW", default_value = "svm", value_parser = units::partition)]
    pub partition: Partition,
    /// A watchdog resets the machine if no kernel has watched it for so many seconds, 4 to 30: what is protected goes on then.
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(4..=30))]
    pub watchdog: Option<u64>,
    /// Root image: a file (EROFS), or the name of one that was built or imported; one made from Debian's packages otherwise.
    #[arg(long, value_name = "FILE")]
    pub image: Option<PathBuf>,
    /// A reset starts the machine anew, and the programs of before are forgotten.
    #[arg(long)]
    pub cold: bool,
}

impl MachineArgs {
    /// As options of a machine.
    pub fn options(&self, published: Vec<Published>) -> Options {
        let words = if self.cold { vec!["start=cold".to_string()] } else { Vec::new() };
        Options {
            words,
            kernels: self.kernels,
            memory: self.memory,
            kind: self.machine,
            heartbeat: self.heartbeat,
            partition: self.partition,
            watchdog: self.watchdog,
            published,
            ..Options::default()
        }
    }
}
