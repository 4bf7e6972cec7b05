//! The verbs of the commands that have several.
use crate::{faults::Which, units};
use clap::{Args, Subcommand, ValueEnum};
use shimos_abi::{
    control::{Level, Protection, Target},
    ids::KernelId,
    time::Nanos,
};
use std::path::PathBuf;

/// What to show of deaths.
#[derive(Subcommand, Debug)]
pub enum FaultsCommand {
    /// All that the machine remembers, a line each.
    List {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// One of them with registers, stack and last lines.
    Show {
        /// Which: the last one of a kernel, like k2, or that of a certain life, like k2.1.
        #[arg(value_parser = units::death)]
        death: Which,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
}

/// What happens to a program when its kernel dies.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum LevelName {
    /// It dies as well.
    Off,
    /// It is started again elsewhere, from the beginning.
    Restart,
    /// It goes on elsewhere from its last checkpoint.
    Checkpoint,
}

impl LevelName {
    /// The level, with a protection where checkpoints are taken.
    pub fn with(self, protection: Protection) -> Level {
        match self {
            LevelName::Off => Level::Off,
            LevelName::Restart => Level::Restart,
            LevelName::Checkpoint => Level::Checkpoint(protection),
        }
    }
}

/// What to do with a program and a file.
#[derive(Subcommand, Debug)]
pub enum CheckpointCommand {
    /// Write a program as it is now to a file. It goes on.
    Save {
        /// A process id or a name.
        #[arg(value_parser = units::target)]
        target: Target,
        /// The file.
        file: PathBuf,
    },
    /// Let a program go on in the running machine as it was when the file was written. Its connections are closed.
    Restore {
        /// The file.
        file: PathBuf,
    },
}

/// What to do with a policy.
#[derive(Subcommand, Debug)]
pub enum PolicyCommand {
    /// Say what is wrong with a policy file, line by line.
    Check {
        /// The file.
        file: PathBuf,
    },
    /// Make a policy file that of the running machine.
    Apply {
        /// The file.
        file: PathBuf,
    },
    /// Show the running machine's policy, and what its programs have.
    Show {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
}

/// What to do with a kernel.
#[derive(Subcommand, Debug)]
pub enum KernelCommand {
    /// Move all programs and devices away from a kernel, and keep others off.
    Drain(KernelArgs),
    /// Let programs come to a kernel again.
    Undrain {
        /// Which, like k2.
        #[arg(value_parser = units::kernel)]
        kernel: KernelId,
    },
    /// Drain a kernel, then give it a fresh life.
    Reboot(KernelArgs),
    /// Write a kernel's memory and registers to a file that gdb opens, together with the kernel's own file.
    ///
    /// It is read from outside while the whole machine stands still: also that of a kernel that hangs, or is dead and not
    /// restarted yet. Device registers are left out.
    Dump {
        /// Which, like k2.
        #[arg(value_parser = units::kernel)]
        kernel: KernelId,
        /// Where to.
        file: PathBuf,
        /// With its pool: the pages of programs, their page tables, the images.
        #[arg(long)]
        pool: bool,
    },
}

/// A kernel that is to be emptied.
#[derive(Args, Debug)]
pub struct KernelArgs {
    /// Which, like k2.
    #[arg(value_parser = units::kernel)]
    pub kernel: KernelId,
    /// How long it may take.
    #[arg(long, value_parser = units::duration, default_value = "1m")]
    pub timeout: Nanos,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// What to do with root images.
#[derive(Subcommand, Debug)]
pub enum ImageCommand {
    /// Make an image from Debian's packages and all that they need, configured as they are on Debian.
    Build {
        /// The packages, with commas between them.
        #[arg(long, required = true, value_delimiter = ',', value_name = "A,B,C")]
        packages: Vec<String>,
        /// What to call it; the first package's name otherwise.
        #[arg(long)]
        name: Option<String>,
    },
    /// Make an image from a directory, a tar archive, what docker save writes, or an OCI image layout.
    Import {
        /// The file or directory.
        source: PathBuf,
        /// What to call it.
        #[arg(long)]
        name: Option<String>,
        /// Which one, if it holds several.
        #[arg(long = "ref", value_name = "NAME")]
        wanted: Option<String>,
    },
    /// Show the images there are.
    List {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Remove an image.
    Rm {
        /// Its name, or its digest or the start of that.
        image: String,
    },
}
