//! Boots the kernel under test on a simulated core and runs it for ever.
use shimos_abi::{control::Start, time::Nanos};
use shimos_core::{BootConfig, Kernel};
use shimos_hal::Machine;
use shimos_soft::SoftMachine;

/// Pages that a step of a checkpoint deals with where steps are small.
const SMALL_STEP: usize = 3;

/// Runs one life of one kernel.
pub fn run(machine: SoftMachine) {
    boot(machine).run()
}

/// Begins one life of one kernel.
pub fn boot(machine: SoftMachine) -> Kernel<SoftMachine> {
    let init = Start {
        name: "init".into(),
        argv: vec!["/bin/init".into()],
        env: Vec::new(),
        cwd: "/".into(),
        ..Start::default()
    };
    // After a reset nobody has programs started: those that there were go on.
    let init = (machine.identity().life.incarnation.0 == 1).then_some(init);
    let config = BootConfig { heartbeat: Nanos::millis(10), init };
    let mut kernel = Kernel::boot(machine, config);
    // The programs are small: on every other kernel a checkpoint has many steps all the same.
    if kernel.machine().identity().life.kernel.0 % 2 == 1 {
        kernel.save_in_steps(SMALL_STEP);
    }
    kernel
}
