//! What a kernel tells of itself and knows of the others.
use crate::{exceptions::exceptions, kernel::Kernel, resident::Resident};
use alloc::{string::ToString, vec::Vec};
use shimos_abi::{
    control::{Device, KernelState, KernelStatus, MachineStatus, ProcessStatus, ProgramStatus, Published},
    ids::KernelId,
};
use shimos_hal::Machine;
use shimos_ikc::Endpoint;

/// Processes of one program that are published, at most.
const PROCESSES: usize = 64;

impl<M: Machine> Kernel<M> {
    /// Publishes what others may know.
    pub(crate) fn publish(&mut self) {
        self.published = self.services.machine.now();
        let mut published = self.own_status();
        // What does not fit is shortened: first what earlier lives told, then the processes, then the histories.
        for step in 0..4 {
            let Ok(bytes) = minicbor::to_vec(&published) else { return };
            if bytes.len() <= Endpoint::PUBLISHED_BYTES && self.services.ikc.publish(&bytes) {
                return;
            }
            match step {
                0 => {
                    published.recoveries.drain(..self.past.recoveries.len());
                    published.takeovers.drain(..self.past.takeovers.len());
                }
                1 => published.programs.iter_mut().for_each(|program| program.processes.truncate(1)),
                2 => {
                    published.recoveries.clear();
                    published.takeovers.clear();
                    published.moves.clear();
                    published.given_up.clear();
                }
                _ => {}
            }
        }
    }

    fn own_status(&self) -> Published {
        Published {
            build: crate::BUILD.to_string(),
            programs: self.residents.values().map(|resident| program_status(resident, self.serving)).collect(),
            recoveries: self.past.recoveries.iter().chain(self.monitor.recoveries()).cloned().collect(),
            takeovers: self.past.takeovers.iter().chain(&self.takeovers).cloned().collect(),
            moves: self.moves.told().collect(),
            given_up: self.given_up.iter().cloned().collect(),
            trouble: self.emptying_due().and_then(|_| self.emptying.trouble.clone()),
        }
    }

    /// What another kernel has published.
    pub(crate) fn published_by(&self, kernel: KernelId) -> Option<Published> {
        minicbor::decode(&self.services.ikc.read_published(kernel)?).ok()
    }

    /// The state of the whole machine.
    pub(crate) fn machine_status(&self) -> MachineStatus {
        let area = self.services.ikc.area();
        let election = area.election();
        let kernels = area.kernels().map(|kernel| self.kernel_status(kernel)).collect();
        let owners: Vec<KernelId> =
            Device::ALL.iter().map(|device| area.owner(*device).map_or(KernelId(0), |life| life.kernel)).collect();
        MachineStatus {
            now: self.services.machine.now(),
            heartbeat: area.heartbeat(),
            monitor: election.monitor,
            term: election.term,
            owners,
            kernels,
            drained: area.kernels().filter(|kernel| area.is_drained(*kernel)).collect(),
            partition: self.services.machine.partition(),
            reset: crate::reset::told(area),
        }
    }

    fn kernel_status(&self, kernel: KernelId) -> KernelStatus {
        let area = self.services.ikc.area();
        let own = kernel == self.me.kernel;
        let state = if area.parked(kernel).is_some() { KernelState::Fenced } else { area.state(kernel) };
        let published = if own { Some(self.own_status()) } else { self.published_by(kernel) };
        let mut published = published.unwrap_or_default();
        // A dead kernel's last words must not count a program twice.
        published.programs.retain(|program| area.home(program.id).life().is_some_and(|life| life.kernel == kernel));
        KernelStatus {
            id: kernel,
            apic: self.services.machine.identity().apic_ids.get(kernel.index()).copied().unwrap_or_default(),
            incarnation: area.incarnation(kernel).map_or(0, |incarnation| incarnation.0),
            state,
            memory: area.private_bytes(kernel),
            free_frames: if own { self.services.frames.free_count() as u64 } else { area.free_frames(kernel) },
            load: area.load_of(kernel),
            published,
        }
    }
}

fn program_status<M: Machine>(resident: &Resident<M>, serving: Option<u64>) -> ProgramStatus {
    let program = &resident.program;
    let processes = program
        .processes
        .values()
        .filter(|process| process.zombie.is_none())
        .take(PROCESSES)
        .map(|process| ProcessStatus {
            pid: process.pid,
            parent: process.parent,
            comm: process.comm.clone(),
            pages: program.spaces.get(&process.space).map_or(0, |space| space.resident() as u32),
        })
        .collect();
    ProgramStatus {
        id: program.head.id,
        name: program.head.name.clone(),
        processes,
        protection: program.head.protection,
        checkpoint: resident.guard.last,
        exceptions: if program.head.protection.is_some() { exceptions(resident, serving) } else { Vec::new() },
        takeovers: program.head.takeovers,
        waiting: resident.guard.trouble.clone(),
        moves: program.head.moves,
        restarts: program.head.restarts,
        level: Some(program.head.level()),
        rollbacks: program.head.rollbacks,
        guilt: program.head.guilt.map_or(0, |guilt| guilt.deaths),
    }
}
