//! Boots the kernel under test on a simulated core and runs it for ever.
use shimos_abi::{control::Start, time::Nanos};
use shimos_core::{BootConfig, Kernel};
use shimos_soft::SoftMachine;

/// Runs one life of one kernel.
pub fn run(machine: SoftMachine) {
    let init = Start {
        name: "init".into(),
        argv: vec!["/bin/init".into()],
        env: Vec::new(),
        cwd: "/".into(),
        ..Start::default()
    };
    let config = BootConfig { heartbeat: Nanos::millis(10), init: Some(init) };
    Kernel::boot(machine, config).run()
}
