//! A look into a kernel for those who test it: what must hold between its objects, and what a program's records are.
//!
//! Built with the feature `inspect` only; the kernel of the bare machine has none of it.
use crate::{
    files::Kind,
    kernel::Kernel,
    program::Program,
    protect,
    records::{self, Unreadable},
    resident::Resident,
    thread::State,
};
use alloc::{collections::BTreeMap, format, string::String, vec::Vec};
use shimos_abi::{addr::Frame, ids::ProgramId, time::Nanos};
use shimos_hal::Machine;

impl<M: Machine> Kernel<M> {
    /// Says what does not hold of the kernel's objects.
    pub fn inspect(&self) -> Result<(), String> {
        let mistakes = self.services.frames.mistakes();
        if mistakes != 0 {
            return Err(format!("{mistakes} frames were given back or shared wrongly"));
        }
        self.residents
            .iter()
            .try_for_each(|(id, resident)| check(resident).map_err(|why| format!("program {id}: {why}")))
    }

    /// The programs that live here.
    pub fn programs(&self) -> Vec<ProgramId> {
        self.residents.keys().copied().collect()
    }

    /// When a program's last checkpoint was taken.
    pub fn checkpoint_of(&self, program: ProgramId) -> Option<Nanos> {
        self.residents.get(&program).and_then(|resident| resident.guard.last).map(|last| last.at)
    }

    /// How many threads of a program are, and how many of them can run.
    pub fn threads_of(&self, program: ProgramId) -> (usize, usize) {
        self.residents.get(&program).map_or((0, 0), |resident| (resident.program.threads.len(), resident.ready.len()))
    }

    /// What each thread of a program does, a line for each.
    pub fn describe(&self, program: ProgramId) -> String {
        let Some(resident) = self.residents.get(&program) else { return String::new() };
        let line = |thread: &crate::thread::Thread| {
            let (r, ready) = (&thread.regs, resident.ready.iter().any(|tid| tid == thread.tid));
            format!(
                "    {} of {}: {:?}, on the ready list: {ready}, call {}({:#x}, {:#x}, {:#x}, {:#x}), {:?}\n",
                thread.tid, thread.process, thread.state, r.rax, r.rdi, r.rsi, r.rdx, r.r10, thread.call
            )
        };
        resident.program.threads.values().map(line).collect()
    }

    /// Frames of the pool: all, and those that are free.
    pub fn frames(&self) -> (usize, usize) {
        (self.services.frames.total(), self.services.frames.free_count())
    }

    /// The page tables of the programs that live here.
    pub fn spaces(&self) -> impl Iterator<Item = (ProgramId, &M::Space)> {
        self.residents.iter().flat_map(|(id, resident)| resident.tables.values().map(|space| (*id, space)))
    }

    /// How many hold a frame of the pool; 0 for one that is free.
    pub fn holders(&self, frame: Frame) -> u32 {
        self.services.frames.references(frame)
    }

    /// Gives a frame up that somebody else still has: a mistake, for tests of those who look for it.
    pub fn lose(&mut self, frame: Frame) {
        self.services.frames.release(frame);
    }

    /// A program's records, as a checkpoint would write them.
    pub fn records_of(&self, program: ProgramId) -> Option<Vec<u8>> {
        self.residents.get(&program).map(|resident| records::encode(&resident.program, Vec::new()))
    }
}

/// Reads records as a takeover does, and writes what was understood: the same bytes, if they were a program's.
pub fn read_records(bytes: &[u8], program: ProgramId) -> Result<Vec<u8>, &'static str> {
    let read = records::decode_bytes(bytes, program, |_| true).map_err(Unreadable::why)?;
    Ok(records::encode(&read, Vec::new()))
}

/// The records of one program, lying on the root image of another one: as if it had been saved on that machine.
pub fn on_image_of(
    bytes: &[u8],
    program: ProgramId,
    other: &[u8],
    other_id: ProgramId,
) -> Result<Vec<u8>, &'static str> {
    let mut read = records::decode_bytes(bytes, program, |_| true).map_err(Unreadable::why)?;
    let there = records::decode_bytes(other, other_id, |_| true).map_err(Unreadable::why)?;
    read.tree.set_image(there.tree.image().clone());
    Ok(records::encode(&read, Vec::new()))
}

fn check<M: Machine>(resident: &Resident<M>) -> Result<(), String> {
    let program = &resident.program;
    references(program)?;
    ends(program)?;
    for (pid, process) in &program.processes {
        if process.zombie.is_none() && program.threads_of(*pid).next().is_none() {
            return Err(format!("process {pid} lives without a thread"));
        }
        if process.zombie.is_none() && !resident.tables.contains_key(&process.space) {
            return Err(format!("process {pid} has no page tables"));
        }
    }
    for (tid, thread) in &program.threads {
        let owner = program.processes.get(&thread.process);
        if owner.is_none_or(|owner| owner.zombie.is_some()) {
            return Err(format!("thread {tid} of no living process"));
        }
        let listed = resident.ready.iter().filter(|ready| ready == tid).count();
        let wanted = usize::from(thread.state == State::Ready);
        if listed != wanted {
            return Err(format!("thread {tid} is {:?} and {listed} times on the ready list", thread.state));
        }
    }
    for id in program.tables.keys() {
        let of_process = program.processes.values().any(|p| p.zombie.is_none() && p.files == *id);
        if !of_process && !program.threads.values().any(|thread| thread.files == Some(*id)) {
            return Err(format!("descriptor table {id:?} of nobody"));
        }
    }
    for id in program.spaces.keys() {
        if !program.processes.values().any(|p| p.zombie.is_none() && p.space == *id) {
            return Err(format!("address space {id:?} of nobody"));
        }
    }
    Ok(())
}

/// Descriptions are counted by descriptors and by messages under way.
fn references(program: &Program) -> Result<(), String> {
    let mut counted = BTreeMap::new();
    let descriptors =
        program.tables.values().flat_map(|table| table.iter().map(|(_, descriptor)| descriptor.description));
    let messages =
        program.unix.values().flat_map(|socket| socket.queue.iter().flat_map(|message| message.files.clone()));
    for id in descriptors.chain(messages) {
        *counted.entry(id).or_insert(0_u32) += 1;
    }
    for (id, description) in &program.descriptions {
        let count = counted.remove(id).unwrap_or(0);
        if count != description.references {
            return Err(format!(
                "{id:?} on {:?} has {count} references and counts {}",
                description.kind, description.references
            ));
        }
    }
    match counted.first_key_value() {
        Some((id, _)) => Err(format!("{id:?} does not exist and has a descriptor")),
        None => Ok(()),
    }
}

/// Pipes know how many have their ends open.
fn ends(program: &Program) -> Result<(), String> {
    let mut counted: BTreeMap<_, (u32, u32)> = BTreeMap::new();
    for description in program.descriptions.values() {
        match description.kind {
            Kind::PipeReader(pipe) => counted.entry(pipe).or_default().0 += 1,
            Kind::PipeWriter(pipe) => counted.entry(pipe).or_default().1 += 1,
            Kind::PipeBoth(pipe) => {
                let ends = counted.entry(pipe).or_default();
                *ends = (ends.0 + 1, ends.1 + 1);
            }
            _ => {}
        }
    }
    for (id, pipe) in &program.pipes {
        let (readers, writers) = counted.get(id).copied().unwrap_or_default();
        // Ends that were granted to threads in open(2) are counted before they are opened.
        let granted = program
            .threads
            .values()
            .filter(|t| t.call.is_some_and(|call| crate::syscall::is_settled(t.regs.rax, call.moved)));
        let granted = granted.count() as u32;
        if pipe.readers < readers || pipe.writers < writers {
            return Err(format!("{id:?} has {readers} readers and {writers} writers and counts fewer"));
        }
        if pipe.readers + pipe.writers > readers + writers + granted {
            return Err(format!(
                "{id:?} has {readers} readers and {writers} writers and counts {} and {}",
                pipe.readers, pipe.writers
            ));
        }
    }
    Ok(())
}

impl<M: Machine> Kernel<M> {
    /// Lets a program go on as these records say, as a takeover would: they may be damaged. Its memory is lost but for
    /// what files hold.
    pub fn replace(&mut self, program: ProgramId, bytes: &[u8]) -> Result<(), &'static str> {
        let mut read = records::decode_bytes(bytes, program, |_| true).map_err(Unreadable::why)?;
        read.objects.forget_mapped();
        for space in read.spaces.values() {
            space.count_mapped(&mut read.objects);
        }
        read.head.protection = None;
        let Some(mut old) = self.residents.remove(&program) else { return Err("it does not live here") };
        protect::unprotect(&mut old, &mut self.services).into_iter().for_each(|teardown| self.teardowns.push(teardown));
        self.drop_resident(&mut old);
        let mut resident = Resident::new(read);
        for id in resident.program.spaces.keys().copied() {
            let tables = self.services.machine.new_space(&mut self.services.frames).map_err(|_| "no memory")?;
            resident.tables.insert(id, tables);
        }
        self.residents.insert(program, resident);
        Ok(())
    }
}
