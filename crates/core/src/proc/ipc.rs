//! /proc/sysvipc, and the limits of interprocess communication in /proc/sys.
use super::nodes::File;
use crate::{
    ipc::{Permissions, messages, queue, semaphores, shared},
    program::Program,
    syscall::attached,
};
use alloc::{format, string::String};
use core::fmt::Write;
use shimos_abi::{addr::PAGE, ids::Pid};

/// The text of a file, if it is one of these.
pub(super) fn text(file: File, program: &Program) -> Option<String> {
    Some(match file {
        File::SharedMemory => shared_memory(program),
        File::Semaphores => semaphore_sets(program),
        File::Messages => message_queues(program),
        File::SharedMax => format!("{}\n", shared::MAX_SIZE),
        File::SharedAll => format!("{}\n", shared::MAX_PAGES),
        File::SharedCount => format!("{}\n", shared::MAX_SEGMENTS),
        File::SharedForced => "0\n".into(),
        File::SemaphoreLimits => format!(
            "{}\t{}\t{}\t{}\n",
            semaphores::MAX_IN_SET,
            semaphores::MAX_IN_ALL,
            semaphores::MAX_OPERATIONS,
            semaphores::MAX_SETS
        ),
        File::MessageMax => format!("{}\n", messages::MAX_SIZE),
        File::MessageBytes => format!("{}\n", messages::MAX_BYTES),
        File::MessageQueues => format!("{}\n", messages::MAX_QUEUES),
        File::QueueMessages | File::QueueMessagesDefault => format!("{}\n", queue::MESSAGES),
        File::QueueSize | File::QueueSizeDefault => format!("{}\n", queue::SIZE),
        File::QueueCount => format!("{}\n", queue::MAX_QUEUES),
        _ => return None,
    })
}

fn owners(permissions: &Permissions) -> String {
    let p = permissions;
    format!("{:>5} {:>5} {:>5} {:>5}", p.uid, p.gid, p.cuid, p.cgid)
}

fn shared_memory(program: &Program) -> String {
    let mut text = String::from(
        "       key      shmid perms                  size  cpid  lpid nattch   uid   gid  cuid  cgid      \
         atime      dtime      ctime                   rss                  swap\n",
    );
    for (id, entry) in program.ipc.shared.iter() {
        let (p, segment) = (&entry.permissions, &entry.value);
        let Some(object) = program.objects.get(segment.object) else { continue };
        let _ = writeln!(
            text,
            "{:>10} {id:>10}  {:>4o} {:>21} {:>5} {:>5}  {:>5} {} {:>10} {:>10} {:>10} {:>21} {:>21}",
            p.key,
            p.mode,
            segment.size,
            segment.creator.0,
            segment.last.0,
            attached(program, segment.object),
            owners(p),
            segment.attached,
            segment.detached,
            entry.changed,
            object.resident() * PAGE,
            0
        );
    }
    text
}

fn semaphore_sets(program: &Program) -> String {
    let mut text =
        String::from("       key      semid perms      nsems   uid   gid  cuid  cgid      otime      ctime\n");
    for (id, entry) in program.ipc.semaphores.iter() {
        let (p, set) = (&entry.permissions, &entry.value);
        let (count, owners) = (set.semaphores.len(), owners(p));
        let (operated, changed) = (set.operated, entry.changed);
        let _ =
            writeln!(text, "{:>10} {id:>10}  {:>4o} {count:>10} {owners} {operated:>10} {changed:>10}", p.key, p.mode);
    }
    text
}

fn message_queues(program: &Program) -> String {
    let mut text = String::from(
        "       key      msqid perms      cbytes       qnum lspid lrpid   uid   gid  cuid  cgid      stime      \
         rtime      ctime\n",
    );
    let pid = |pid: Option<Pid>| pid.map_or(0, |pid| pid.0);
    for (id, entry) in program.ipc.messages.iter() {
        let (p, queue) = (&entry.permissions, &entry.value);
        let _ = writeln!(
            text,
            "{:>10} {id:>10}  {:>4o}  {:>10} {:>10} {:>5} {:>5} {} {:>10} {:>10} {:>10}",
            p.key,
            p.mode,
            queue.bytes(),
            queue.messages.len(),
            pid(queue.sender),
            pid(queue.receiver),
            owners(p),
            queue.sent,
            queue.received,
            entry.changed
        );
    }
    text
}
