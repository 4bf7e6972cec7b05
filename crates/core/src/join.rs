//! Processes that come to a running program from outside: from a request to the first instruction.
use crate::{
    context::{Context, Stop},
    create,
    files::{FileTable, FilesId},
    kernel::Kernel,
    process::Ending,
    syscall,
};
use alloc::{format, string::String, vec::Vec};
use shimos_abi::{
    control::Response,
    ids::{KernelId, Pid, ProgramId},
    time::Nanos,
};
use shimos_hal::Machine;

/// A process that is about to join a program: its file is being read.
pub struct Joining {
    program: ProgramId,
    argv: Vec<String>,
    env: Vec<String>,
    asker: (u64, KernelId),
    since: Nanos,
}

/// How long a process may take to join.
const PATIENCE: Nanos = Nanos::secs(30);
/// Processes that may be on their way to a kernel at one time.
const MOST: usize = 64;

impl<M: Machine> Kernel<M> {
    /// Begins to start a process in a program. The answer comes when it runs or has failed.
    pub(crate) fn begin_joining(
        &mut self,
        program: ProgramId,
        argv: Vec<String>,
        env: Vec<String>,
        asker: (u64, KernelId),
    ) -> Result<(), String> {
        if argv.first().is_none_or(String::is_empty) {
            return Err("the command is empty: name a file to execute".into());
        }
        if self.joining.len() >= MOST {
            return Err(format!("{MOST} processes are on their way already: try again"));
        }
        let since = self.services.machine.now();
        self.joining.push(Joining { program, argv, env, asker, since });
        Ok(())
    }

    /// Tries again what waited for the disk.
    pub(crate) fn go_on_joining(&mut self) {
        for joining in core::mem::take(&mut self.joining) {
            let late = self.services.machine.now() - joining.since > PATIENCE;
            let path = joining.argv.first().cloned().unwrap_or_default();
            let program = joining.program;
            let answer = match self.try_join(&joining) {
                None => Response::Failed(format!("program {program} has ended, or is on its way to another kernel")),
                Some(Ok(pid)) => Response::Started { program, pid, kernel: self.me.kernel },
                Some(Err(Stop::Block(_))) if !late => {
                    self.joining.push(joining);
                    continue;
                }
                Some(Err(Stop::Errno(errno))) => {
                    Response::Failed(format!("{path} cannot be executed: {}", errno.name()))
                }
                Some(Err(_)) => Response::Failed(format!("{path} cannot be executed: the disk does not answer")),
            };
            self.answer(joining.asker, &answer);
        }
    }

    /// Makes the process; takes it away again if something is missing still. None if there is no such program here.
    fn try_join(&mut self, joining: &Joining) -> Option<Result<Pid, Stop>> {
        let resident = self.residents.get_mut(&joining.program).filter(|resident| resident.ended.is_none())?;
        let services = &mut self.services;
        let first = resident.program.processes.get(&resident.program.init())?;
        let (root, cwd) = (first.root, first.cwd);
        let pid = match resident.program.fresh_pid() {
            Ok(pid) => pid,
            Err(errno) => return Some(Err(errno.into())),
        };
        let files = FilesId(resident.program.fresh_id());
        let now = services.machine.now();
        let mut process = create::first_process(pid, files, root, now);
        process.cwd = cwd;
        resident.program.tables.insert(files, FileTable::new());
        resident.program.processes.insert(pid, process);
        resident.program.threads.insert(pid, create::first_thread(pid));
        let mut context = Context::new(resident, services, pid, pid);
        let outcome = create::execute(&mut context, &joining.argv, &joining.env);
        if let Err(stop) = outcome {
            // Nobody is its parent, so nobody is told.
            syscall::end_process(resident, services, pid, Ending::Exited(0));
            services.settle(resident);
            return Some(Err(stop));
        }
        services.settle(resident);
        resident.make_ready(pid);
        Some(Ok(pid))
    }
}
