//! Boots the kernel under test on a simulated core and runs it for ever.
use shimos_hal::Machine;
use shimos_soft::SoftMachine;

/// Runs one life of one kernel.
pub fn run(mut machine: SoftMachine) {
    loop {
        machine.idle(shimos_abi::time::Nanos::NEVER);
        machine.take_events();
    }
}
