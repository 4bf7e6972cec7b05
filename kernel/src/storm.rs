//! A storm of non-maskable interrupts, selected by the word `storm` on the command line; needs three kernels.
//!
//! Kernel 1 dies over and over, in each of the ways that a core comes to the park page; kernel 0 fences and restarts it, and
//! kernel 2 sends it NMIs all the while, as a second monitor would at the worst moment. None of them may find the core without
//! tables, a stack or a handler: that is a triple fault, the end of all kernels. The last line is `storm: PASS` or not.
use core::sync::atomic::Ordering::SeqCst;
use shimos_abi::{
    control::Fault,
    ids::{Incarnation, KernelId, Life},
    shared::{commons::MAILBOX_FENCE, outgoing},
    time::Nanos,
};
use shimos_hal::Machine;
use shimos_machine::{Bare, say};

/// Deaths of kernel 1.
const ROUNDS: u32 = 600;
/// The ways: by itself, by an NMI, by INIT.
const DEATHS: [Fault; 3] = [Fault::Panic, Fault::IrqDeadlock, Fault::DeadCore];
/// Longest that a round may take.
const PATIENCE: Nanos = Nanos::secs(10);
/// How long a fence may take until it is tried again.
const FENCE: Nanos = Nanos::millis(20);
/// The longest pause between two interrupts of the storm, in microseconds.
const GAP: u64 = 60;

const MONITOR: KernelId = KernelId(0);
const VICTIM: KernelId = KernelId(1);
const SENDER: KernelId = KernelId(2);

/// Runs the test, this kernel's part of it.
pub fn run(mut machine: Bare) -> ! {
    let life = machine.identity().life;
    let at = machine.layout().outgoing(life.kernel) + outgoing::STAMP;
    machine.shared()[at].store(u64::from(life.incarnation.0), SeqCst);
    if life.kernel == MONITOR {
        match monitor(&mut machine) {
            Ok(()) => say!("storm: PASS"),
            Err((n, what)) => say!("storm: FAIL in round {n}: {what}"),
        }
        machine.power_off();
    }
    if life.kernel == VICTIM {
        machine.inject(fault_of(life.incarnation), 0);
    }
    if life.kernel == SENDER {
        storm(&mut machine)
    }
    loop {
        machine.idle(Nanos::NEVER);
        machine.take_events();
    }
}

fn fault_of(incarnation: Incarnation) -> Fault {
    DEATHS[incarnation.0 as usize % DEATHS.len()]
}

/// Kernel 2: NMIs without end.
fn storm(machine: &mut Bare) -> ! {
    let mut pause = 0;
    loop {
        machine.send_nmi(VICTIM);
        // Pauses of different lengths, so that it hits everything in the end.
        pause = (pause * 5 + 7) % GAP;
        spin(machine, Nanos::micros(pause));
    }
}

fn spin(machine: &Bare, time: Nanos) {
    let end = machine.now() + time;
    while machine.now() < end {
        core::hint::spin_loop();
    }
}

/// Kernel 0: lets kernel 1 die, and die again.
fn monitor(machine: &mut Bare) -> Result<(), (u32, &'static str)> {
    for n in 1..=ROUNDS {
        let life = Life { kernel: VICTIM, incarnation: Incarnation(n) };
        let stamp = machine.layout().outgoing(VICTIM) + outgoing::STAMP;
        let end = machine.now() + PATIENCE;
        while machine.shared()[stamp].load(SeqCst) != u64::from(n) {
            if machine.now() >= end {
                return Err((n, "the next incarnation does not start"));
            }
        }
        // Sometimes it is still busy with its death, sometimes it is waiting.
        spin(machine, Nanos::micros(u64::from(n) * 7 % 300));
        let fence = machine.layout().mailbox(VICTIM) + MAILBOX_FENCE;
        if fault_of(life.incarnation) != Fault::Panic || n % 2 == 0 {
            machine.shared()[fence].store(u64::from(n) + 1, SeqCst);
        }
        let proof = loop {
            if fault_of(life.incarnation) == Fault::DeadCore {
                machine.send_init(VICTIM);
            }
            let again = machine.now() + FENCE;
            let mut proof = None;
            while proof.is_none() && machine.now() < again {
                proof = machine.confirm_parked(life);
            }
            if let Some(proof) = proof {
                break proof;
            }
            if machine.now() >= end {
                return Err((n, "it does not park"));
            }
        };
        machine.restart(proof);
    }
    Ok(())
}
