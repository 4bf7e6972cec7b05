//! The list of a program's processes, for ps.
use crate::{
    kernel::Kernel,
    process::Process,
    program::Program,
    resident::Resident,
    services::Services,
    thread::{State, Thread},
};
use alloc::{format, string::String, vec, vec::Vec};
use shimos_abi::{
    addr::UserAddr,
    control::{MAX_COMMAND, ProcessInfo, ProcessState, Processes, Response},
    ids::{Pid, ProgramId},
    time::Nanos,
};
use shimos_hal::Machine;

/// Bytes of one answer: it must fit into one packet to another kernel, with the message around it.
const ROOM: usize = 1700;
/// Bytes of one process in an answer besides its command line, at most.
const ENTRY: usize = 56;

impl<M: Machine> Kernel<M> {
    /// The processes of a program from an id on, as many as an answer holds.
    pub(crate) fn processes(&mut self, id: ProgramId, from: Pid) -> Response {
        let Some(resident) = self.residents.get_mut(&id) else {
            return Response::Again(format!("program {id} is on its way to another kernel: try again"));
        };
        let (mut list, mut room, mut next) = (Vec::new(), ROOM, None);
        let pids: Vec<Pid> = resident.program.processes.range(from..).map(|(pid, _)| *pid).collect();
        for pid in pids {
            let command = command(resident, &mut self.services, pid);
            let Some(process) = resident.program.processes.get(&pid) else { continue };
            match room.checked_sub(ENTRY + command.len()) {
                Some(left) => room = left,
                None => {
                    next = Some(pid);
                    break;
                }
            }
            list.push(describe(&resident.program, process, command));
        }
        let (kernel, now, started) = (self.me.kernel, self.services.machine.now(), resident.program.head.started);
        Response::Processes(Processes { kernel, now, started, list, next })
    }
}

fn describe(program: &Program, process: &Process, command: String) -> ProcessInfo {
    let threads: Vec<&Thread> = program.threads_of(process.pid).collect();
    let state = if process.zombie.is_some() {
        ProcessState::Zombie
    } else if process.stopped.is_some() || !threads.is_empty() && threads.iter().all(|t| t.state == State::Stopped) {
        ProcessState::Stopped
    } else if threads.iter().any(|thread| thread.state == State::Ready) {
        ProcessState::Running
    } else {
        ProcessState::Sleeping
    };
    ProcessInfo {
        pid: process.pid,
        parent: process.parent,
        state,
        used: threads.iter().fold(process.ended_used, |sum, thread| Nanos(sum.0.saturating_add(thread.used.0))),
        started: process.started,
        threads: threads.len() as u32,
        pages: program.spaces.get(&process.space).map_or(0, |space| space.resident() as u32),
        command,
    }
}

/// The command line on one line, or the name in brackets.
fn command<M: Machine>(resident: &mut Resident<M>, services: &mut Services<M>, pid: Pid) -> String {
    let Some(process) = resident.program.processes.get(&pid) else { return String::new() };
    let (space, (first, end), name) = (process.space, process.layout.arguments, format!("[{}]", process.comm));
    if process.zombie.is_some() {
        return name;
    }
    let mut bytes = vec![0; (end.saturating_sub(first) as usize).min(MAX_COMMAND)];
    // What is not in memory now is not waited for.
    let read =
        services.memory(resident, space).is_ok_and(|mut memory| memory.read(UserAddr(first), &mut bytes).is_ok());
    let text = line(&bytes);
    if read && !text.is_empty() { text } else { name }
}

/// Arguments on one line of [`MAX_COMMAND`] bytes at most.
fn line(arguments: &[u8]) -> String {
    let end = arguments.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    let mut text = String::new();
    for c in String::from_utf8_lossy(arguments.get(..end).unwrap_or_default()).chars() {
        let c = if c.is_control() { ' ' } else { c };
        // A byte that is no character becomes one of three bytes.
        if text.len() + c.len_utf8() > MAX_COMMAND {
            break;
        }
        text.push(c);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use shimos_abi::ids::KernelId;

    #[test]
    fn a_command_is_one_short_line() {
        assert_eq!(line(b"/bin/ls\0-l\0a\nb\0\0"), "/bin/ls -l a b");
        assert_eq!(line(b"\0\0"), "");
        assert!(line(&[0xff; MAX_COMMAND]).len() <= MAX_COMMAND);
    }

    #[test]
    fn a_full_answer_fits_into_a_packet() {
        let entry = |command: usize| ProcessInfo {
            pid: Pid(u32::MAX),
            parent: Pid(u32::MAX),
            state: ProcessState::Zombie,
            used: Nanos(u64::MAX),
            started: Nanos(u64::MAX),
            threads: u32::MAX,
            pages: u32::MAX,
            command: "x".repeat(command),
        };
        for command in [0, 20, MAX_COMMAND] {
            let count = ROOM / (ENTRY + command);
            let list: Vec<ProcessInfo> = (0..count).map(|_| entry(command)).collect();
            let (now, started) = (Nanos(u64::MAX), Nanos(u64::MAX));
            let all = Processes { kernel: KernelId(u16::MAX), now, started, list, next: Some(Pid(u32::MAX)) };
            let bytes = crate::control::encode(&Response::Processes(all));
            assert!(bytes.len() + 32 <= 2016, "{} bytes", bytes.len());
        }
    }
}
