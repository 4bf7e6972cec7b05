//! Signals with values, alternate stacks, frames of handlers.
use crate::{
    Outcome, Subtest,
    check::{call, fails, same, text, that, works},
};
use shimos_user::raw::{self, Answer, Disposition};

/// The subtests.
pub const TESTS: &[Subtest] = &[
    ("sending/values", values),
    ("sending/to-threads", to_threads),
    ("sending/limit", limit),
    ("sending/flags", flags),
    ("sending/alternate-stack", alternate_stack),
    ("sending/too-small-a-stack", too_small_a_stack),
    ("sending/faults", faults),
    ("sending/hostile-frames", hostile_frames),
    ("sending/child-is-told-of", child_is_told_of),
];

fn own() -> u64 {
    std::process::id().into()
}

/// siginfo_t as words.
type Info = [u32; 32];

fn info(code: i32, value: u64) -> Info {
    let mut info = [0; 32];
    info[0] = 99;
    info[2] = code as u32;
    (info[4], info[5]) = (11, 22);
    (info[6], info[7]) = (value as u32, (value >> 32) as u32);
    info
}

fn block(signal: i32) -> Outcome {
    works("block", raw::mask(libc::SIG_BLOCK, 1 << (signal - 1))).map(drop)
}

/// Takes a signal that is pending.
fn wait_for(signal: i32) -> Result<Info, String> {
    let set = 1_u64 << (signal - 1);
    let mut info = [77_u32; 32];
    let zero = [0_u64; 2];
    let arguments = [&raw const set as u64, &raw mut info as u64, &raw const zero as u64, 8];
    same("signal", works("sigtimedwait", call(libc::SYS_rt_sigtimedwait, &arguments))?, signal as u64)?;
    Ok(info)
}

fn queue(pid: u64, signal: i32, info: &Info) -> Answer {
    call(libc::SYS_rt_sigqueueinfo, &[pid, signal as u64, info as *const _ as u64])
}

fn values() -> Outcome {
    const SI_QUEUE: i32 = -1;
    block(40)?;
    for value in [5, 6, u64::MAX] {
        works("queue", queue(own(), 40, &info(SI_QUEUE, value)))?;
    }
    for value in [5, 6, u64::MAX] {
        let got = wait_for(40)?;
        same("signal and code", (got[0], got[2] as i32), (40, SI_QUEUE))?;
        same("sender as said", (got[4], got[5]), (11, 22))?;
        same("value", u64::from(got[6]) | u64::from(got[7]) << 32, value)?;
    }
    works("nothing", queue(own(), 0, &info(SI_QUEUE, 0)))?;
    fails("no signal", queue(own(), 65, &info(SI_QUEUE, 0)), libc::EINVAL)?;
    fails("nobody", queue(4_000_000, 40, &info(SI_QUEUE, 0)), libc::ESRCH)?;
    fails("no address", call(libc::SYS_rt_sigqueueinfo, &[own(), 40, 8]), libc::EFAULT)?;
    // What only the kernel says can be said to oneself alone.
    let parent = call(libc::SYS_getppid, &[]).unwrap_or_default();
    for code in [0, -6, 0x80, 1] {
        fails("to another", queue(parent, 0, &info(code, 0)), libc::EPERM)?;
        works("to oneself", queue(own(), 0, &info(code, 0)))?;
    }
    works("another code", queue(parent, 0, &info(-2, 0))).map(drop)
}

fn to_threads() -> Outcome {
    block(41)?;
    let info = info(-1, 9);
    let tell = |process: u64, thread: u64, signal: u64| {
        call(libc::SYS_rt_tgsigqueueinfo, &[process, thread, signal, &raw const info as u64])
    };
    works("own", tell(own(), own(), 41))?;
    same("value", wait_for(41)?[6], 9)?;
    fails("no process", tell(0, own(), 41), libc::EINVAL)?;
    fails("no thread", tell(own(), 0, 41), libc::EINVAL)?;
    fails("not of it", tell(own() + 1, own(), 41), libc::ESRCH)?;
    fails("tgkill", call(libc::SYS_tgkill, &[-1_i64 as u64, own(), 0]), libc::EINVAL)?;
    fails("tkill", call(libc::SYS_tkill, &[0, 0]), libc::EINVAL)?;
    works("asks", call(libc::SYS_tkill, &[own(), 0])).map(drop)
}

fn limit() -> Outcome {
    const RLIMIT_SIGPENDING: u64 = 11;
    let child = raw::fork(|| {
        let work = || -> Outcome {
            block(42)?;
            block(43)?;
            let few = [20_u64, 20];
            works("setrlimit", call(libc::SYS_setrlimit, &[RLIMIT_SIGPENDING, &raw const few as u64]))?;
            let mut count = 0;
            while queue(own(), 42, &info(-1, count)).is_ok() {
                count += 1;
                that("bounded", count < 1000)?;
            }
            fails("full", queue(own(), 42, &info(-1, 0)), libc::EAGAIN)?;
            // kill(2) always gets through, without details.
            works("kill", call(libc::SYS_kill, &[own(), 43]))?;
            same("lost its details", wait_for(43)?[4], 0)?;
            for value in 0..count {
                same("in order", u64::from(wait_for(42)?[6]), value)?;
            }
            works("room again", queue(own(), 42, &info(-1, 0))).map(drop)
        };
        match work() {
            Ok(()) => 0,
            Err(why) => {
                eprintln!("{why}");
                1
            }
        }
    })
    .map_err(text)?;
    same("child", raw::exit_of(child).map_err(text)?, 0)
}

fn flags() -> Outcome {
    const SA_UNSUPPORTED: u64 = 0x400;
    const SA_EXPOSE_TAGBITS: u64 = 0x800;
    let asked = [libc::SIG_IGN as u64, SA_UNSUPPORTED | SA_EXPOSE_TAGBITS | 0x1000, 0, 0];
    works("sigaction", call(libc::SYS_rt_sigaction, &[10, &raw const asked as u64, 0, 8]))?;
    let mut got = [7_u64; 4];
    works("sigaction", call(libc::SYS_rt_sigaction, &[10, 0, &raw mut got as u64, 8]))?;
    same("what is known", got[1], SA_EXPOSE_TAGBITS)?;
    // A handler that is reset leaves its flags.
    raw::on_signal(libc::SIGUSR2, Disposition::Count(libc::SA_RESETHAND)).map_err(text)?;
    raw::kill(own() as i32, libc::SIGUSR2).map_err(text)?;
    works("sigaction", call(libc::SYS_rt_sigaction, &[12, 0, &raw mut got as u64, 8]))?;
    same("reset", (raw::caught(libc::SIGUSR2), got[0]), (1, 0))?;
    that("flags stay", got[1] & 0x8000_0000 != 0)
}

/// struct stack_t: base, flags, size.
fn set_stack(base: u64, flags: u32, size: u64) -> Answer {
    let words = [base, flags.into(), size];
    call(libc::SYS_sigaltstack, &[&raw const words as u64, 0])
}

fn stack() -> Result<(u64, u32, u64), String> {
    let mut words = [7_u64; 3];
    works("sigaltstack", call(libc::SYS_sigaltstack, &[0, &raw mut words as u64]))?;
    Ok((words[0], words[1] as u32, words[2]))
}

const AUTODISARM: u32 = 1 << 31;

fn alternate_stack() -> Outcome {
    // The runtime may have set one up.
    works("none", set_stack(0, 2, 0))?;
    same("none", stack()?, (0, 2, 0))?;
    let memory = raw::Map::anonymous(1 << 16, libc::MAP_PRIVATE).map_err(text)?;
    let base = memory.addr();
    fails("too small", set_stack(base, 0, 1000), libc::ENOMEM)?;
    fails("flags", set_stack(base, 4, 1 << 16), libc::EINVAL)?;
    works("set", set_stack(base, 0, 1 << 16))?;
    same("set", stack()?, (base, 0, 1 << 16))?;
    raw::on_signal(libc::SIGUSR1, Disposition::Count(libc::SA_ONSTACK)).map_err(text)?;
    raw::kill(own() as i32, libc::SIGUSR1).map_err(text)?;
    same("back on its own", stack()?, (base, 0, 1 << 16))?;
    works("disarmed while in use", set_stack(base, AUTODISARM, 1 << 16))?;
    same("says so", stack()?, (base, AUTODISARM, 1 << 16))?;
    raw::kill(own() as i32, libc::SIGUSR1).map_err(text)?;
    same("there again", stack()?, (base, AUTODISARM, 1 << 16))?;
    same("caught", raw::caught(libc::SIGUSR1), 2)?;
    works("off", set_stack(0, 2, 0))?;
    same("off", stack()?.1, 2)
}

fn too_small_a_stack() -> Outcome {
    let child = raw::fork(|| {
        let Ok(memory) = raw::Map::anonymous(1 << 16, libc::MAP_PRIVATE) else { return 9 };
        // Too small for the vector registers, though no call says so on all systems.
        if set_stack(memory.addr(), 0, 2048).is_err() {
            return 256 + libc::SIGSEGV - 256;
        }
        let _ = raw::on_signal(libc::SIGUSR1, Disposition::Count(libc::SA_ONSTACK));
        let _ = raw::on_signal(libc::SIGSEGV, Disposition::Default);
        let _ = raw::kill(own() as i32, libc::SIGUSR1);
        0
    })
    .map_err(text)?;
    let exit = raw::exit_of(child).map_err(text)?;
    that("refused, or fatal", [libc::SIGSEGV, 256 + libc::SIGSEGV, 0].contains(&exit))
}

/// What a fault in a child tells: signal and code.
fn fault(signal: i32, work: impl FnOnce()) -> Result<i32, String> {
    let child = raw::fork(|| {
        let _ = raw::on_signal(signal, Disposition::Leave);
        work();
        99
    });
    raw::exit_of(child.map_err(text)?).map_err(text)
}

fn faults() -> Outcome {
    let page = raw::Map::new(4096, libc::PROT_READ, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0).map_err(text)?;
    same("SEGV_MAPERR", fault(libc::SIGSEGV, || raw::poke(16))?, 1)?;
    same("SEGV_ACCERR", fault(libc::SIGSEGV, || raw::poke(page.addr()))?, 2)?;
    let file = std::fs::OpenOptions::new().read(true).write(true).create(true).truncate(true).open("empty");
    let file = file.map_err(text)?;
    let fd = std::os::fd::AsRawFd::as_raw_fd(&file);
    let map = raw::Map::new(4096, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED, fd, 0).map_err(text)?;
    same("BUS_ADRERR", fault(libc::SIGBUS, || raw::poke(map.addr()))?, 2)?;
    // No canonical address: the processor tells of no page.
    same("SI_KERNEL", fault(libc::SIGSEGV, || raw::poke(1 << 62))?, 0x80)?;
    same("FPE_INTDIV", fault(libc::SIGFPE, raw::divide_by_zero)?, 1)?;
    same("ILL_ILLOPN", fault(libc::SIGILL, raw::undefined)?, 2)?;
    same("breakpoint", fault(libc::SIGTRAP, raw::breakpoint)?, 0x80)
}

fn hostile_frames() -> Outcome {
    // Returning from no handler at all, with whatever lies on the stack, must end the process at most.
    for fill in [0_u8, 1, 0x41, 0x80, 0xff] {
        let child = raw::fork(|| {
            raw::return_from_nothing(fill);
            0
        })
        .map_err(text)?;
        let exit = raw::exit_of(child).map_err(text)?;
        that("ended by a signal", exit > 256)?;
    }
    Ok(())
}

fn child_is_told_of() -> Outcome {
    block(libc::SIGCHLD)?;
    let child = raw::fork(|| 7).map_err(text)?;
    raw::wait(child, 0).map_err(text)?;
    let told = wait_for(libc::SIGCHLD)?;
    same("CLD_EXITED", (told[2], told[4] as i32, told[6]), (1, child, 7))?;
    let child = raw::fork(|| {
        let _ = raw::kill(own() as i32, libc::SIGKILL);
        0
    })
    .map_err(text)?;
    let (_, status) = raw::wait(child, 0).map_err(text)?;
    same("no core", status, libc::SIGKILL)?;
    let told = wait_for(libc::SIGCHLD)?;
    same("CLD_KILLED", (told[2], told[4] as i32, told[6] as i32), (2, child, libc::SIGKILL))
}
