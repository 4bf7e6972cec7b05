//! Which accelerator runs the machine.
//!
//! A `/dev/kvm` can exist and still not run a guest, so the processor must say that it can virtualise and a probe
//! machine must come up in time; otherwise the emulator translates (TCG). Which one was chosen is always said.
use crate::children::{Child, tied};
use std::{
    fmt,
    io::{BufRead, BufReader},
    path::Path,
    process::Stdio,
    sync::mpsc,
    thread,
    time::Duration,
};

/// How long the probe machine may take to say its first word.
const PROBE: Duration = Duration::from_secs(3);

/// An accelerator.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Accelerator {
    /// Hardware virtualisation.
    Kvm,
    /// Translation, one host thread a core.
    Tcg,
}

impl Accelerator {
    /// The emulator's arguments.
    pub fn arguments(self) -> [&'static str; 4] {
        match self {
            Accelerator::Kvm => ["-accel", "kvm", "-cpu", "host,migratable=off,+invtsc"],
            Accelerator::Tcg => ["-accel", "tcg,thread=multi", "-cpu", "max"],
        }
    }

    /// The best that works here. `kernel` is booted for a moment when the processor claims to virtualise.
    pub fn choose(emulator: &str, kernel: &Path) -> Accelerator {
        let flags = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let device = std::fs::OpenOptions::new().read(true).write(true).open("/dev/kvm").is_ok();
        if can_virtualise(&flags) && device && probe(emulator, kernel) { Accelerator::Kvm } else { Accelerator::Tcg }
    }
}

impl fmt::Display for Accelerator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Accelerator::Kvm => "kvm",
            Accelerator::Tcg => "tcg",
        })
    }
}

fn can_virtualise(cpuinfo: &str) -> bool {
    cpuinfo
        .lines()
        .filter_map(|line| line.strip_prefix("flags")?.split_once(':'))
        .any(|(_, flags)| flags.split_whitespace().any(|flag| flag == "svm" || flag == "vmx"))
}

/// Whether a machine of one kernel says a word in time.
fn probe(emulator: &str, kernel: &Path) -> bool {
    let mut command = tied(emulator);
    command.args(Accelerator::Kvm.arguments()).args(["-machine", "q35", "-bios", "qboot.rom", "-m", "256"]);
    command.args(["-nodefaults", "-no-user-config", "-vga", "none", "-display", "none", "-no-reboot"]);
    command.args([
        "-chardev",
        "stdio,id=console,signal=off",
        "-serial",
        "chardev:console",
        "-append",
        "kernels=1 memory=64",
    ]);
    command.arg("-kernel").arg(kernel).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let Ok(mut child) = Child::spawn(&mut command) else {
        return false;
    };
    let Some(stdout) = child.take_stdout() else {
        return false;
    };
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let spoke = BufReader::new(stdout).lines().map_while(Result::ok).any(|line| line.contains("[k0]"));
        let _ = sender.send(spoke);
    });
    receiver.recv_timeout(PROBE).unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_flags_count() {
        assert!(can_virtualise("processor : 0\nflags\t\t: fpu vmx sse\n"));
        assert!(can_virtualise("flags : svm\n"));
        assert!(!can_virtualise("flags : fpu svm_lock sse\nvmx flags : vnmi vmx\n"));
    }
}
