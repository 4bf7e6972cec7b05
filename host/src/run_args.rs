//! Arguments of `run`, `shell` and `exec`.
use crate::{units, usage::usage};
use anyhow::Result;
use clap::Args;
use shimos_abi::{
    control::{Output, Protection, Target},
    ids::KernelId,
    time::Nanos,
};

/// Where programs are looked for unless the user or the image says otherwise.
pub const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// How a command is run, in a new program or in one that is there.
#[derive(Args, Clone, Debug, Default)]
pub struct HowArgs {
    /// Give it a terminal; by default it gets one if standard input and output are one.
    #[arg(short = 't', long, overrides_with = "no_terminal")]
    pub terminal: bool,
    /// Give it no terminal.
    #[arg(short = 'T', long)]
    pub no_terminal: bool,
    /// A variable of its environment, NAME=VALUE, or NAME to pass one on.
    #[arg(short = 'e', long, value_name = "NAME[=VALUE]")]
    pub env: Vec<String>,
    /// Its working directory.
    #[arg(short = 'w', long, value_name = "DIRECTORY")]
    pub workdir: Option<String>,
    /// Whose rights it has: a name or number inside, perhaps with a group behind a colon.
    #[arg(short = 'u', long, value_name = "USER[:GROUP]")]
    pub user: Option<String>,
}

/// What new program is wanted.
#[derive(Args, Clone, Debug)]
pub struct ProgramArgs {
    /// Memory in MiB that the program may have; of each kernel, where a machine is booted for this.
    #[arg(short = 'm', long, value_name = "MIB")]
    pub memory: Option<u64>,
    /// The kernel to run on; the least loaded one otherwise.
    #[arg(short = 'k', long, value_parser = units::kernel)]
    pub kernel: Option<KernelId>,
    /// Lead a port of this host to it: HOST:GUEST, like 8080:80.
    #[arg(short = 'p', long, value_parser = units::port_pair, value_name = "HOST:GUEST")]
    pub publish: Vec<(u16, u16)>,
    /// Its name, unique on the machine; made from the command otherwise.
    #[arg(long, value_parser = units::name)]
    pub name: Option<String>,
    /// Protect it from the first instruction on, with this time between checkpoints.
    #[arg(long, value_parser = units::interval, value_name = "INTERVAL")]
    pub protect: Option<Nanos>,
    /// What happens to its output: commit (held until the next checkpoint) or free.
    #[arg(long, value_parser = units::output, default_value = "commit")]
    pub output: Output,
    /// How the command is run.
    #[command(flatten)]
    pub how: HowArgs,
}

/// Arguments of `run`.
#[derive(Args, Clone, Debug)]
pub struct RunArgs {
    /// What program.
    #[command(flatten)]
    pub program: ProgramArgs,
    /// The image that it runs in, by name or digest or as a file; the machine's own otherwise.
    pub image: Option<String>,
    /// The command and its arguments; the image's own otherwise.
    #[arg(last = true, value_name = "COMMAND")]
    pub argv: Vec<String>,
}

/// Arguments of `shell`.
#[derive(Args, Clone, Debug)]
pub struct ShellArgs {
    /// The running program to look into, by process id or name; a new program otherwise.
    #[arg(value_parser = units::target)]
    pub target: Option<Target>,
    /// The image of a new program, by name or digest or as a file; the machine's own otherwise.
    #[arg(long, conflicts_with = "target")]
    pub image: Option<String>,
    /// What new program.
    #[command(flatten)]
    pub program: ProgramArgs,
}

/// Arguments of `exec`.
#[derive(Args, Clone, Debug)]
pub struct ExecArgs {
    /// How the command is run.
    #[command(flatten)]
    pub how: HowArgs,
    /// The running program, by process id or name.
    #[arg(value_parser = units::target)]
    pub target: Target,
    /// The command and its arguments.
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub argv: Vec<String>,
}

impl ProgramArgs {
    /// The protection from the first instruction on.
    pub fn protection(&self) -> Option<Protection> {
        self.protect.map(|interval| Protection::new(interval, self.output))
    }
}

impl HowArgs {
    /// Whether the command gets a terminal.
    pub fn wants_terminal(&self, there: bool) -> bool {
        self.terminal || there && !self.no_terminal
    }

    /// Its environment over `base`; a name alone is looked up here.
    pub fn environment(&self, base: &[String], terminal: bool) -> Result<Vec<String>> {
        let mut all: Vec<String> = Vec::new();
        let mut set = |variable: String| {
            let name = variable.split('=').next().unwrap_or_default().to_string() + "=";
            all.retain(|other| !other.starts_with(&name));
            all.push(variable);
        };
        if terminal {
            set(format!("TERM={}", std::env::var("TERM").unwrap_or_else(|_| "linux".to_string())));
        }
        for variable in base {
            set(variable.clone());
        }
        for variable in &self.env {
            match variable.split_once('=') {
                Some(("", _)) => return Err(usage(format!("--env {variable}: write NAME=VALUE or NAME"))),
                Some(_) => set(variable.clone()),
                None => match std::env::var(variable) {
                    Ok(value) => set(format!("{variable}={value}")),
                    Err(_) => return Err(usage(format!("--env {variable}: there is no such variable here"))),
                },
            }
        }
        Ok(all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_users_variables_come_before_the_images() {
        let how = HowArgs { env: vec!["A=2".to_string(), "C=".to_string(), "B=x=y".to_string()], ..HowArgs::default() };
        let base = ["A=1".to_string(), "PATH=/bin".to_string()];
        assert_eq!(how.environment(&base, false).expect("right"), ["PATH=/bin", "A=2", "C=", "B=x=y"]);
        let there = how.environment(&base, true).expect("right");
        assert!(there[0].starts_with("TERM="), "{there:?}");
        for wrong in ["=x", "SURELY_NOT_SET_HERE"] {
            let how = HowArgs { env: vec![wrong.to_string()], ..HowArgs::default() };
            assert!(how.environment(&[], false).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_terminal_is_given_where_there_is_one() {
        let how = |terminal, no_terminal| HowArgs { terminal, no_terminal, ..HowArgs::default() };
        assert!(how(false, false).wants_terminal(true) && !how(false, false).wants_terminal(false));
        assert!(how(true, false).wants_terminal(false));
        assert!(!how(false, true).wants_terminal(true));
    }
}
