//! What the standard library and rustix do not offer safely: fork, signal handlers, mappings, system calls by number.
//!
//! The test programs here are single-threaded where they fork, and their handlers only count.
#![allow(unsafe_code)]

use std::{
    io,
    os::fd::{FromRawFd, OwnedFd, RawFd},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::atomic::{AtomicI32, AtomicU32, Ordering},
};

/// What a system call returned: its value, or the error number.
pub type Answer = Result<u64, i32>;

/// Issues a system call by number.
///
/// For numbers and arguments that tests choose: a call that changes memory may only be given memory that the test owns.
pub fn call(number: i64, arguments: [u64; 6]) -> Answer {
    let [a, b, c, d, e, f] = arguments;
    // SAFETY: the tests pass addresses of memory they own, or such that the call must refuse.
    let value = unsafe { libc::syscall(number, a, b, c, d, e, f) };
    if value == -1 { Err(io::Error::last_os_error().raw_os_error().unwrap_or(0)) } else { Ok(value as u64) }
}

/// Takes the descriptor that a system call has just made and returned.
pub fn descriptor(made: u64) -> OwnedFd {
    // SAFETY: the caller has it from a call that makes descriptors, so nobody else has it.
    unsafe { OwnedFd::from_raw_fd(made as RawFd) }
}

/// Forks; the child runs `work` and exits with what it returns. Returns the child's id.
///
/// A panic in the child is exit status 101.
pub fn fork(work: impl FnOnce() -> i32) -> io::Result<i32> {
    // SAFETY: the test programs have one thread when they fork, so the child may do anything.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            let status = catch_unwind(AssertUnwindSafe(work)).unwrap_or(101);
            // SAFETY: ends the process without running what belongs to the parent.
            unsafe { libc::_exit(status) }
        }
        pid => Ok(pid),
    }
}

/// Takes a descriptor over that a system call has just returned.
pub fn own(fd: i32) -> OwnedFd {
    // SAFETY: the tests pass what a call has returned, once.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// Waits for a child: its id and status word.
pub fn wait(pid: i32, options: i32) -> io::Result<(i32, i32)> {
    let mut status = 0;
    // SAFETY: the status word lives for the time of the call.
    let found = unsafe { libc::waitpid(pid, &mut status, options) };
    if found < 0 { Err(io::Error::last_os_error()) } else { Ok((found, status)) }
}

/// Waits for a child until it has exited; its exit status, or 256 and the signal that ended it.
pub fn exit_of(pid: i32) -> io::Result<i32> {
    loop {
        match wait(pid, 0) {
            Ok((_, status)) if libc::WIFEXITED(status) => return Ok(libc::WEXITSTATUS(status)),
            Ok((_, status)) if libc::WIFSIGNALED(status) => return Ok(256 + libc::WTERMSIG(status)),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Sends a signal.
pub fn kill(pid: i32, signal: i32) -> io::Result<()> {
    // SAFETY: kill takes numbers only.
    if unsafe { libc::kill(pid, signal) } < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

static CAUGHT: [AtomicU32; 65] = [const { AtomicU32::new(0) }; 65];
static SENDER: AtomicI32 = AtomicI32::new(0);
static CODE: AtomicI32 = AtomicI32::new(0);

extern "C" fn count(signal: i32, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    if let Some(slot) = CAUGHT.get(signal as usize) {
        slot.fetch_add(1, Ordering::SeqCst);
    }
    if !info.is_null() {
        // SAFETY: the kernel passes a filled siginfo_t.
        unsafe {
            CODE.store((*info).si_code, Ordering::SeqCst);
            SENDER.store((*info).si_pid(), Ordering::SeqCst);
        }
    }
}

extern "C" fn leave_with_code(_: i32, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: the kernel passes a filled siginfo_t; the process ends here.
    unsafe { libc::_exit((*info).si_code) }
}

/// Writes a byte to an address that may have no memory.
pub fn poke(addr: u64) {
    // SAFETY: the tests pass addresses where the write faults, or memory of their own.
    unsafe { std::arch::asm!("mov byte ptr [{}], 1", in(reg) addr) }
}

/// Divides by zero, as the processor does it.
pub fn divide_by_zero() {
    // SAFETY: the fault ends in a handler, or the process.
    unsafe {
        std::arch::asm!("xor edx, edx", "mov eax, 1", "xor ecx, ecx", "div ecx", out("eax") _, out("edx") _, out("ecx") _)
    }
}

/// Executes no instruction.
pub fn undefined() {
    // SAFETY: the fault ends in a handler, or the process.
    unsafe { std::arch::asm!("ud2") }
}

/// Executes a breakpoint.
pub fn breakpoint() {
    // SAFETY: the trap ends in a handler, or the process.
    unsafe { std::arch::asm!("int3") }
}

/// Calls rt_sigreturn(2) with a frame of nothing but one byte. For children that are to end by it.
pub fn return_from_nothing(fill: u8) {
    let mut frame = [fill; 8192];
    let middle = (&raw mut frame as u64 + 2048) & !63;
    // SAFETY: never comes back: registers and stack are what the frame says, and the process ends.
    unsafe { std::arch::asm!("mov rsp, {}", "mov eax, 15", "syscall", "ud2", in(reg) middle, options(noreturn)) }
}

/// What to do about a signal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Disposition {
    /// The default.
    Default,
    /// Nothing.
    Ignore,
    /// Count it; `SA_` flags.
    Count(i32),
    /// Exit at once, with `si_code` as status.
    Leave,
}

/// Sets what happens at a signal.
pub fn on_signal(signal: i32, what: Disposition) -> io::Result<()> {
    // SAFETY: an all-zero sigaction is a valid one; the handler only touches atomics.
    let done = unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        match what {
            Disposition::Default => action.sa_sigaction = libc::SIG_DFL,
            Disposition::Ignore => action.sa_sigaction = libc::SIG_IGN,
            Disposition::Leave => {
                action.sa_sigaction = leave_with_code as *const () as usize;
                action.sa_flags = libc::SA_SIGINFO;
            }
            Disposition::Count(flags) => {
                action.sa_sigaction = count as *const () as usize;
                action.sa_flags = flags | libc::SA_SIGINFO;
            }
        }
        libc::sigaction(signal, &action, std::ptr::null_mut())
    };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// How often a signal was caught.
pub fn caught(signal: i32) -> u32 {
    CAUGHT.get(signal as usize).map_or(0, |slot| slot.load(Ordering::SeqCst))
}

/// Sender and `si_code` of the signal that was caught last.
pub fn last_info() -> (i32, i32) {
    (SENDER.load(Ordering::SeqCst), CODE.load(Ordering::SeqCst))
}

/// Blocks or unblocks signals (`SIG_BLOCK`, `SIG_UNBLOCK`, `SIG_SETMASK`); the mask is the kernel's: bit n-1 is signal n.
pub fn mask(how: i32, set: u64) -> Result<u64, i32> {
    let mut old = 0_u64;
    let addresses = [&raw const set as u64, &raw mut old as u64];
    call(libc::SYS_rt_sigprocmask, [how as u64, addresses[0], addresses[1], 8, 0, 0])?;
    Ok(old)
}

/// A mapping.
pub struct Map {
    base: *mut u8,
    len: usize,
}

impl Map {
    /// Maps memory (mmap(2)).
    pub fn new(len: usize, prot: i32, flags: i32, fd: i32, offset: i64) -> io::Result<Map> {
        // SAFETY: without MAP_FIXED the kernel picks free addresses.
        let base = unsafe { libc::mmap(std::ptr::null_mut(), len, prot, flags & !libc::MAP_FIXED, fd, offset) };
        if base == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(Map { base: base.cast(), len }) }
    }
    /// Readable and writable memory without a file.
    pub fn anonymous(len: usize, flags: i32) -> io::Result<Map> {
        Map::new(len, libc::PROT_READ | libc::PROT_WRITE, flags | libc::MAP_ANONYMOUS, -1, 0)
    }
    /// Its address.
    pub fn addr(&self) -> u64 {
        self.base as u64
    }
    /// Its bytes.
    pub fn len(&self) -> usize {
        self.len
    }
    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
    /// Reads a byte.
    pub fn get(&self, at: usize) -> u8 {
        assert!(at < self.len);
        // SAFETY: inside the mapping; where it is not readable, the fault is the test.
        unsafe { self.base.add(at).read_volatile() }
    }
    /// Writes a byte.
    pub fn set(&self, at: usize, value: u8) {
        assert!(at < self.len);
        // SAFETY: as for `get`.
        unsafe { self.base.add(at).write_volatile(value) }
    }
    /// Changes what may be done with it (mprotect(2)).
    pub fn protect(&self, prot: i32) -> io::Result<()> {
        // SAFETY: the mapping is this one's own.
        if unsafe { libc::mprotect(self.base.cast(), self.len, prot) } < 0 {
            Err(io::Error::last_os_error())
        } else {
            Ok(())
        }
    }
    /// Makes it longer or shorter; it may move (mremap(2)).
    pub fn resize(&mut self, len: usize) -> io::Result<()> {
        // SAFETY: the mapping is this one's own, and its address is taken anew.
        let base = unsafe { libc::mremap(self.base.cast(), self.len, len, libc::MREMAP_MAYMOVE) };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        (self.base, self.len) = (base.cast(), len);
        Ok(())
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        // SAFETY: nothing refers to the mapping any more.
        unsafe { libc::munmap(self.base.cast(), self.len) };
    }
}

/// The 32-bit word at an address that a test got from the kernel; where there is none, the fault is the test.
pub fn word(addr: u64) -> &'static AtomicU32 {
    // SAFETY: the tests pass aligned addresses of mappings that they keep.
    unsafe { &*(addr as *const AtomicU32) }
}

/// Makes a process or thread by clone3(2) without a stack of its own for it; 0 in the child, which ends by [`leave`].
///
/// The arguments are struct clone_args without the memory-sharing flags: the child is a copy, as after fork.
pub fn clone3(arguments: &[u64; 11]) -> Answer {
    assert!(arguments[0] & libc::CLONE_VM as u64 == 0);
    call(libc::SYS_clone3, [arguments.as_ptr() as u64, 88, 0, 0, 0, 0])
}

/// Ends a child that [`clone3`] or a bare `fork` call made, without running what belongs to the parent.
pub fn leave(status: i32) -> ! {
    // SAFETY: ends the process.
    unsafe { libc::_exit(status) }
}

/// Runs `work` in a thread made by clone(2) with these flags besides those that every thread needs, on a stack of its
/// own, and waits for its end. `work` may use nothing but system calls: it shares its maker's thread-local memory.
pub fn bare_thread(flags: i32, work: fn()) -> io::Result<()> {
    extern "C" fn begin(work: *mut libc::c_void) -> i32 {
        // SAFETY: the argument is the function that `bare_thread` was given.
        let work: fn() = unsafe { std::mem::transmute(work) };
        work();
        // SAFETY: ends this thread alone.
        unsafe { libc::syscall(libc::SYS_exit, 0) };
        0
    }
    let stack = Map::anonymous(1 << 16, libc::MAP_PRIVATE)?;
    let alive = AtomicU32::new(1);
    let flags = flags | libc::CLONE_VM | libc::CLONE_SIGHAND | libc::CLONE_THREAD | libc::CLONE_CHILD_CLEARTID;
    // SAFETY: the stack outlives the thread, which is waited for; its word is cleared by the kernel at its end.
    let made = unsafe {
        let top = stack.base.add(stack.len).cast();
        let nothing = std::ptr::null_mut::<libc::c_void>();
        libc::clone(begin, top, flags, work as *mut libc::c_void, nothing, nothing, alive.as_ptr())
    };
    if made < 0 {
        return Err(io::Error::last_os_error());
    }
    while alive.load(Ordering::SeqCst) != 0 {
        std::thread::yield_now();
    }
    Ok(())
}
