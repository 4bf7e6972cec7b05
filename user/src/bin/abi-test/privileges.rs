//! What a process may do: users and groups, capabilities, prctl, set-id files, chroot. As root only, where that is needed.
use crate::{
    Outcome, Subtest,
    check::{call, fails, same, text, that, works},
};
use shimos_user::raw::{self, Answer};
use std::{io::Read, os::unix::fs::PermissionsExt};

/// The subtests.
pub const TESTS: &[Subtest] = &[
    ("privileges/users", users),
    ("privileges/groups", groups),
    ("privileges/files", files),
    ("privileges/capabilities", capabilities),
    ("privileges/keep", keep),
    ("privileges/bounds", bounds),
    ("privileges/prctl", prctl),
    ("privileges/set-id", set_id),
    ("privileges/no-new", no_new),
    ("privileges/chroot", chroot),
    ("privileges/looking_into", looking_into),
    ("privileges/orphans", orphans),
    ("privileges/signals", signals),
];

const SETPCAP: u64 = 8;
const ALL: u64 = (1 << 41) - 1;

/// An error as text.
fn own() -> u64 {
    std::process::id().into()
}

/// Whether the tests run as root.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// A system call.
const KEEP: u64 = u32::MAX as u64;

/// Runs `work` in a child, as it may not come back to what it was.
pub fn apart(work: impl FnOnce() -> Outcome) -> Outcome {
    let (mut why, mut tell) = std::io::pipe().map_err(text)?;
    let child = raw::fork(|| match work() {
        Ok(()) => 0,
        Err(said) => {
            let _ = std::io::Write::write_all(&mut tell, said.as_bytes());
            1
        }
    })
    .map_err(text)?;
    drop(tell);
    let mut said = String::new();
    why.read_to_string(&mut said).map_err(text)?;
    match raw::exit_of(child).map_err(text)? {
        0 => Ok(()),
        exit => Err(format!("{exit}: {said}")),
    }
}

fn three(number: i64) -> Result<[u32; 3], String> {
    let mut ids = [77_u32; 3];
    let [a, b, c] = &mut ids;
    works("get", call(number, &[a as *mut u32 as u64, b as *mut u32 as u64, c as *mut u32 as u64]))?;
    Ok(ids)
}

fn users() -> Outcome {
    fails("none", call(libc::SYS_setuid, &[KEEP]), libc::EINVAL)?;
    if !is_root() {
        return fails("not root", call(libc::SYS_setuid, &[12345]), libc::EPERM);
    }
    apart(|| {
        works("setresuid", call(libc::SYS_setresuid, &[1, 2, 3]))?;
        same("all", three(libc::SYS_getresuid)?, [1, 2, 3])?;
        fails("another", call(libc::SYS_setuid, &[4]), libc::EPERM)?;
        fails("not the effective one", call(libc::SYS_setuid, &[2]), libc::EPERM)?;
        works("the saved one", call(libc::SYS_setuid, &[3]))?;
        same("effective", three(libc::SYS_getresuid)?, [1, 3, 3])?;
        fails("real", call(libc::SYS_setreuid, &[4, KEEP]), libc::EPERM)?;
        works("swap", call(libc::SYS_setreuid, &[3, 1]))?;
        same("swapped", three(libc::SYS_getresuid)?, [3, 1, 1])
    })?;
    apart(|| {
        works("setreuid", call(libc::SYS_setreuid, &[KEEP, 5]))?;
        same("the saved one follows", three(libc::SYS_getresuid)?, [0, 5, 5])?;
        works("back", call(libc::SYS_setreuid, &[KEEP, 0]))?;
        same("not then", three(libc::SYS_getresuid)?, [0, 0, 5])?;
        works("for good", call(libc::SYS_setuid, &[6]))?;
        same("all", three(libc::SYS_getresuid)?, [6, 6, 6])?;
        fails("back", call(libc::SYS_setuid, &[0]), libc::EPERM)
    })
}

fn groups() -> Outcome {
    if !is_root() {
        return fails("not root", call(libc::SYS_setgroups, &[0, 0]), libc::EPERM);
    }
    apart(|| {
        let wanted = [5_u32, 9, 7];
        works("setgroups", call(libc::SYS_setgroups, &[3, &raw const wanted as u64]))?;
        same("how many", works("getgroups", call(libc::SYS_getgroups, &[0, 0]))?, 3)?;
        let mut got = [0_u32; 8];
        fails("too small", call(libc::SYS_getgroups, &[2, &raw mut got as u64]), libc::EINVAL)?;
        fails("negative", call(libc::SYS_getgroups, &[-1_i64 as u64, &raw mut got as u64]), libc::EINVAL)?;
        same("all", works("getgroups", call(libc::SYS_getgroups, &[8, &raw mut got as u64]))?, 3)?;
        got[..3].sort_unstable();
        same("all", got[..3].to_vec(), vec![5, 7, 9])?;
        fails("too many", call(libc::SYS_setgroups, &[65537, &raw const wanted as u64]), libc::EINVAL)?;
        works("setresgid", call(libc::SYS_setresgid, &[1, 2, 3]))?;
        works("setregid", call(libc::SYS_setregid, &[KEEP, 1]))?;
        same("ids", three(libc::SYS_getresgid)?, [1, 1, 3])?;
        works("setuid", call(libc::SYS_setuid, &[8]))?;
        fails("no more", call(libc::SYS_setgid, &[4]), libc::EPERM)?;
        fails("no more", call(libc::SYS_setgroups, &[0, 0]), libc::EPERM)
    })
}

fn files() -> Outcome {
    if !is_root() {
        return Ok(());
    }
    std::fs::write("secret", "x").map_err(text)?;
    std::fs::set_permissions("secret", std::fs::Permissions::from_mode(0o600)).map_err(text)?;
    std::fs::set_permissions(".", std::fs::Permissions::from_mode(0o777)).map_err(text)?;
    apart(|| {
        same("was", works("setfsuid", call(libc::SYS_setfsuid, &[44]))?, 0)?;
        same("is", works("setfsuid", call(libc::SYS_setfsuid, &[KEEP]))?, 44)?;
        that("not for it", std::fs::read("secret").is_err())?;
        same("effective", three(libc::SYS_getresuid)?, [0, 0, 0])?;
        std::fs::write("made", "x").map_err(text)?;
        let stat = works("stat", rustix::fs::stat("made"))?;
        same("owner", stat.st_uid, 44)?;
        works("back", call(libc::SYS_setfsuid, &[0]))?;
        std::fs::read("secret").map_err(text)?;
        same("group", works("setfsgid", call(libc::SYS_setfsgid, &[45]))?, 0)?;
        works("setuid", call(libc::SYS_setuid, &[7]))?;
        same("follows", works("setfsuid", call(libc::SYS_setfsuid, &[0]))?, 7)?;
        same("refused", works("setfsuid", call(libc::SYS_setfsuid, &[KEEP]))?, 7)
    })
}

/// Effective, permitted and inheritable capabilities.
fn sets() -> Result<[u64; 3], String> {
    let header = [0x2008_0522_u32, 0];
    let mut data = [0_u32; 6];
    works("capget", call(libc::SYS_capget, &[&raw const header as u64, &raw mut data as u64]))?;
    Ok([0, 1, 2].map(|set| u64::from(data[set]) | u64::from(data[set + 3]) << 32))
}

fn set_sets([effective, permitted, inheritable]: [u64; 3]) -> Answer {
    let header = [0x2008_0522_u32, 0];
    let words = [effective, permitted, inheritable];
    let mut data = [0_u32; 6];
    for (at, word) in words.into_iter().enumerate() {
        (data[at], data[at + 3]) = (word as u32, (word >> 32) as u32);
    }
    call(libc::SYS_capset, &[&raw const header as u64, &raw const data as u64])
}

fn capabilities() -> Outcome {
    let mut header = [7_u32, 0];
    let mut data = [0_u32; 6];
    works("which version", call(libc::SYS_capget, &[&raw mut header as u64, 0]))?;
    same("this one", header[0], 0x2008_0522)?;
    header[0] = 7;
    fails("unknown", call(libc::SYS_capget, &[&raw mut header as u64, &raw mut data as u64]), libc::EINVAL)?;
    header[1] = 4_000_000;
    fails("nobody", call(libc::SYS_capget, &[&raw mut header as u64, &raw mut data as u64]), libc::ESRCH)?;
    if !is_root() {
        return Ok(());
    }
    let first = sets()?;
    that("root has some", first[0] & 1 << SETPCAP != 0 && first[0] == first[1])?;
    apart(|| {
        let all = first[1];
        works("less", set_sets([1 << SETPCAP, 0xfff & all, 0]))?;
        same("less", sets()?, [1 << SETPCAP, 0xfff & all, 0])?;
        fails("more", set_sets([1 << SETPCAP, all, 0]), libc::EPERM)?;
        fails("not permitted", set_sets([1 << 20, 0xff, 0]), libc::EPERM)?;
        works("inheritable", set_sets([0, 0xff & all, 3]))?;
        fails("another user", call(libc::SYS_setuid, &[9]), libc::EPERM)?;
        fails("chroot", call(libc::SYS_chroot, &[c"/".as_ptr() as u64]), libc::EPERM)?;
        let status = std::fs::read_to_string("/proc/self/status").map_err(text)?;
        let line =
            |name: &str| status.lines().find_map(|l| l.strip_prefix(name)).unwrap_or_default().trim().to_string();
        same("status", (line("CapInh:"), line("CapEff:")), (format!("{:016x}", 3), format!("{:016x}", 0)))?;
        let header = [0x2008_0522_u32, 1];
        let data = [0_u32; 6];
        fails("of another", call(libc::SYS_capset, &[&raw const header as u64, &raw const data as u64]), libc::EPERM)
    })
}

fn option(number: u64, argument: u64) -> Answer {
    call(libc::SYS_prctl, &[number, argument, 0, 0, 0])
}

fn keep() -> Outcome {
    if !is_root() {
        return Ok(());
    }
    let all = sets()?[1];
    apart(|| {
        works("seteuid", call(libc::SYS_setresuid, &[KEEP, 5, KEEP]))?;
        same("effective ones go", sets()?, [0, all, 0])?;
        works("seteuid", call(libc::SYS_setresuid, &[KEEP, 0, KEEP]))?;
        same("and come back", sets()?, [all, all, 0])?;
        works("for good", call(libc::SYS_setuid, &[5]))?;
        same("none", sets()?, [0, 0, 0])
    })?;
    apart(|| {
        works("PR_SET_KEEPCAPS", option(8, 1))?;
        same("PR_GET_KEEPCAPS", works("get", option(7, 0))?, 1)?;
        works("setuid", call(libc::SYS_setuid, &[5]))?;
        same("kept", sets()?, [0, all, 0])?;
        works("in use again", set_sets([all, all, 0]))?;
        works("so it may", call(libc::SYS_setuid, &[6]))?;
        fails("what", option(8, 2), libc::EINVAL)
    })
}

fn bounds() -> Outcome {
    same("in it", works("PR_CAPBSET_READ", option(23, 0))?, 1)?;
    fails("no such", option(23, 200), libc::EINVAL)?;
    if !is_root() {
        return fails("not root", option(24, 0), libc::EPERM);
    }
    apart(|| {
        works("PR_CAPBSET_DROP", option(24, 0))?;
        same("out of it", works("read", option(23, 0))?, 0)?;
        fails("no such", option(24, 200), libc::EINVAL)?;
        fails("not inheritable then", set_sets([ALL & sets()?[1], sets()?[1], 1]), libc::EPERM)?;
        let bits = works("PR_GET_SECUREBITS", option(27, 0))?;
        same("none", bits, 0)?;
        works("PR_SET_SECUREBITS", option(28, 0x14))?;
        same("set", works("read", option(27, 0))?, 0x14)?;
        works("locked", option(28, 0x24))?;
        fails("stays", option(8, 1), libc::EPERM)?;
        fails("unknown", option(28, 0x1000), libc::EPERM)?;
        // Without the fix-up users change and capabilities stay.
        works("setuid", call(libc::SYS_setuid, &[5]))?;
        that("still there", sets()?[0] & 1 << SETPCAP != 0)
    })?;
    apart(|| {
        let ambient = |what: u64, number: u64| call(libc::SYS_prctl, &[47, what, number, 0, 0]);
        fails("not inheritable", ambient(2, 5), libc::EPERM)?;
        let all = sets()?[1];
        works("inheritable", set_sets([all, all, 1 << 5]))?;
        works("raise", ambient(2, 5))?;
        same("is set", works("is set", ambient(1, 5))?, 1)?;
        works("lower", ambient(3, 5))?;
        same("is not", works("is set", ambient(1, 5))?, 0)?;
        works("clear", ambient(4, 0))?;
        fails("what", ambient(9, 5), libc::EINVAL)?;
        fails("no such", ambient(2, 99), libc::EINVAL)
    })
}

fn prctl() -> Outcome {
    same("dumpable", works("PR_GET_DUMPABLE", option(3, 0))?, 1)?;
    works("PR_SET_DUMPABLE", option(4, 0))?;
    same("not dumpable", works("PR_GET_DUMPABLE", option(3, 0))?, 0)?;
    fails("by root only", option(4, 2), libc::EINVAL)?;
    let mut number = 7_i32;
    works("PR_GET_PDEATHSIG", option(2, &raw mut number as u64))?;
    same("none", number, 0)?;
    works("PR_SET_PDEATHSIG", option(1, 10))?;
    works("PR_GET_PDEATHSIG", option(2, &raw mut number as u64))?;
    same("set", number, 10)?;
    fails("no signal", option(1, 65), libc::EINVAL)?;
    works("PR_GET_CHILD_SUBREAPER", option(37, &raw mut number as u64))?;
    same("not", number, 0)?;
    same("slack", works("PR_GET_TIMERSLACK", option(30, 0))?, 50_000)?;
    works("PR_SET_TIMERSLACK", option(29, 77))?;
    same("slack", works("PR_GET_TIMERSLACK", option(30, 0))?, 77)?;
    works("PR_SET_TIMERSLACK", option(29, 0))?;
    same("slack", works("PR_GET_TIMERSLACK", option(30, 0))?, 50_000)?;
    same("timing", works("PR_GET_TIMING", option(13, 0))?, 0)?;
    fails("timing", option(14, 1), libc::EINVAL)?;
    same("seccomp", works("PR_GET_SECCOMP", option(21, 0))?, 0)?;
    fails("unknown", option(9999, 0), libc::EINVAL)?;
    fails("no address", option(2, 8), libc::EFAULT)?;
    // A child starts without some of it.
    works("PR_SET_CHILD_SUBREAPER", option(36, 1))?;
    apart(|| {
        let mut number = 7_i32;
        works("PR_GET_PDEATHSIG", option(2, &raw mut number as u64))?;
        same("none", number, 0)?;
        works("PR_GET_CHILD_SUBREAPER", option(37, &raw mut number as u64))?;
        same("not", number, 0)?;
        same("not dumpable", works("PR_GET_DUMPABLE", option(3, 0))?, 0)
    })
}

/// Copies this program, so that its mode can be changed.
fn copy_of_self(mode: u32, uid: u32, gid: u32) -> Result<String, String> {
    let name = format!("copy-{mode:o}-{uid}");
    std::fs::copy("/proc/self/exe", &name).map_err(text)?;
    let (user, group) = (rustix::fs::Uid::from_raw(uid), rustix::fs::Gid::from_raw(gid));
    works("chown", rustix::fs::chown(&name, Some(user), Some(group)))?;
    std::fs::set_permissions(&name, std::fs::Permissions::from_mode(mode)).map_err(text)?;
    let dir = std::env::current_dir().map_err(text)?;
    Ok(format!("{}/{name}", dir.display()))
}

/// What the program says of its ids: executed by a user.
fn ids_of(program: &str, before: impl FnOnce() -> Outcome) -> Result<String, String> {
    let (mut reader, writer) = std::io::pipe().map_err(text)?;
    let child = raw::fork(|| {
        if before().is_err() {
            return 99;
        }
        let mut command = std::process::Command::new(program);
        command.args(["--helper", "privileges"]).stdout(writer);
        i32::from(!command.status().is_ok_and(|status| status.success()))
    })
    .map_err(text)?;
    let mut said = String::new();
    // The writer went into the child, and is closed here.
    reader.read_to_string(&mut said).map_err(text)?;
    same("exit", raw::exit_of(child).map_err(text)?, 0)?;
    Ok(said.trim_end().to_string())
}

/// The helper: real, effective and saved ids, AT_SECURE, and the effective capabilities.
pub fn say_ids() -> Outcome {
    let (users, groups) = (three(libc::SYS_getresuid)?, three(libc::SYS_getresgid)?);
    let mut auxiliary = Vec::new();
    let mut secure = 9;
    if let Ok(mut file) = std::fs::File::open("/proc/self/auxv") {
        let _ = file.read_to_end(&mut auxiliary);
    }
    for pair in auxiliary.chunks_exact(16) {
        let word = |at: usize| u64::from_le_bytes(pair[at..at + 8].try_into().unwrap_or_default());
        if word(0) == 23 {
            secure = word(8);
        }
    }
    println!("{users:?} {groups:?} {secure} {}", sets()?[0] != 0);
    Ok(())
}

fn open_up() -> Outcome {
    std::fs::set_permissions(".", std::fs::Permissions::from_mode(0o777)).map_err(text)
}

fn become_user() -> Outcome {
    works("setgroups", call(libc::SYS_setgroups, &[0, 0]))?;
    works("setgid", call(libc::SYS_setgid, &[1001]))?;
    works("setuid", call(libc::SYS_setuid, &[1000])).map(drop)
}

fn set_id() -> Outcome {
    if !is_root() {
        return Ok(());
    }
    open_up()?;
    let plain = copy_of_self(0o755, 7, 8)?;
    same("plain", ids_of(&plain, become_user)?.as_str(), "[1000, 1000, 1000] [1001, 1001, 1001] 0 false")?;
    same("root's", ids_of(&plain, || Ok(()))?.as_str(), "[0, 0, 0] [0, 0, 0] 0 true")?;
    let user = copy_of_self(0o4755, 7, 8)?;
    let said = ids_of(&user, become_user)?;
    // Where set-id files have no effect at all, there is nothing to compare.
    if said.starts_with("[1000, 1000") {
        return Ok(());
    }
    same("user", said.split(" [").next(), Some("[1000, 7, 7]"))?;
    that("not root", said.ends_with("false"))?;
    let root = copy_of_self(0o4755, 0, 0)?;
    let said = ids_of(&root, become_user)?;
    same("root", said.split(" [").next(), Some("[1000, 0, 0]"))?;
    that("all rights", said.ends_with("true"))?;
    let group = copy_of_self(0o2755, 7, 8)?;
    let said = ids_of(&group, become_user)?;
    that("group", said.contains("[1000, 1000, 1000] [1001, 8, 8]"))?;
    // Without permission to execute, the bit means something else.
    let lock = copy_of_self(0o2745, 7, 8)?;
    that("no group", ids_of(&lock, become_user)?.contains("[1001, 1001, 1001]"))
}

fn no_new() -> Outcome {
    fails("what", call(libc::SYS_prctl, &[38, 2, 0, 0, 0]), libc::EINVAL)?;
    fails("more", call(libc::SYS_prctl, &[38, 1, 1, 0, 0]), libc::EINVAL)?;
    fails("more", call(libc::SYS_prctl, &[39, 1, 0, 0, 0]), libc::EINVAL)?;
    same("not yet", works("get", option(39, 0))?, 0)?;
    if !is_root() {
        return Ok(());
    }
    open_up()?;
    let root = copy_of_self(0o4755, 0, 0)?;
    let said = ids_of(&root, || {
        become_user()?;
        works("PR_SET_NO_NEW_PRIVS", option(38, 1))?;
        same("set", works("get", option(39, 0))?, 1)?;
        fails("for good", option(38, 0), libc::EINVAL)
    })?;
    that("stays itself", said.starts_with("[1000, 1000, 1000]"))
}

fn chroot() -> Outcome {
    std::fs::create_dir_all("jail/inner").map_err(text)?;
    std::fs::write("jail/file", "inside").map_err(text)?;
    std::fs::write("outside", "").map_err(text)?;
    fails("nothing", call(libc::SYS_chroot, &[c"nothing".as_ptr() as u64]), libc::ENOENT)?;
    fails("a file", call(libc::SYS_chroot, &[c"outside".as_ptr() as u64]), libc::ENOTDIR)?;
    if !is_root() {
        return fails("not root", call(libc::SYS_chroot, &[c"jail".as_ptr() as u64]), libc::EPERM);
    }
    apart(|| {
        let dir = std::fs::File::open(".").map_err(text)?;
        works("chroot", call(libc::SYS_chroot, &[c"jail".as_ptr() as u64]))?;
        // The working directory stays where it was.
        that("still outside", std::fs::metadata("outside").is_ok())?;
        std::env::set_current_dir("/").map_err(text)?;
        same("inside", std::fs::read_to_string("/file").map_err(text)?.as_str(), "inside")?;
        that("nothing above", std::fs::metadata("/../../outside").is_err() && std::fs::metadata("/../file").is_ok())?;
        std::env::set_current_dir("inner").map_err(text)?;
        let mut name = [0_u8; 64];
        works("getcwd", call(libc::SYS_getcwd, &[&raw mut name as u64, 64]))?;
        that("as seen from here", name.starts_with(b"/inner\0"))?;
        std::os::unix::fs::symlink("/file", "link").map_err(text)?;
        same("links too", std::fs::read_to_string("link").map_err(text)?.as_str(), "inside")?;
        // What was opened before leads out.
        works("fchdir", call(libc::SYS_fchdir, &[std::os::fd::AsRawFd::as_raw_fd(&dir) as u64]))?;
        that("out", std::fs::metadata("outside").is_ok())
    })
}

fn orphans() -> Outcome {
    works("PR_SET_CHILD_SUBREAPER", option(36, 1))?;
    let (mut reader, writer) = std::io::pipe().map_err(text)?;
    let child = raw::fork(|| {
        let grandchild = raw::fork(|| {
            let _ = raw::on_signal(libc::SIGUSR1, raw::Disposition::Count(0));
            let _ = option(1, libc::SIGUSR1 as u64);
            let _ = std::io::Write::write_all(&mut (&writer), b"r");
            while raw::caught(libc::SIGUSR1) == 0 {
                let _ = call(libc::SYS_sched_yield, &[]);
            }
            i32::from(call(libc::SYS_getppid, &[]).unwrap_or_default() == 1) + 5
        });
        // Not before it has said what it wants to hear.
        let _ = (&reader).read(&mut [0]);
        grandchild.map_or(1, |_| 0)
    })
    .map_err(text)?;
    same("child", raw::exit_of(child).map_err(text)?, 0)?;
    let (pid, status) = raw::wait(-1, 0).map_err(text)?;
    that("another's child", pid != child && pid > 0)?;
    same("told, and ours", libc::WEXITSTATUS(status), 5)?;
    drop(writer);
    let mut rest = Vec::new();
    reader.read_to_end(&mut rest).map_err(text)?;
    fails("no more", raw::wait(-1, 0), libc::ECHILD)
}

fn signals() -> Outcome {
    if !is_root() {
        return Ok(());
    }
    let parent = own();
    apart(|| {
        works("setresuid", call(libc::SYS_setresuid, &[1, 2, 3]))?;
        fails("root's", call(libc::SYS_kill, &[parent, 0]), libc::EPERM)?;
        let session = raw::fork(|| i32::from(call(libc::SYS_kill, &[parent, libc::SIGCONT as u64]).is_err()));
        same("of the session", raw::exit_of(session.map_err(text)?).map_err(text)?, 0)
    })
}

/// Who may not be dumped may be looked into by those with the right alone, whatever their users.
fn looking_into() -> Outcome {
    if !is_root() {
        return Ok(());
    }
    let word = 7_u64;
    let addr = &raw const word as u64;
    let parent = own();
    let look = |pid: u64| {
        let mut got = 0_u64;
        let (here, there) = ([&raw mut got as u64, 8], [addr, 8]);
        let answer = call(libc::SYS_process_vm_readv, &[pid, here.as_ptr() as u64, 1, there.as_ptr() as u64, 1, 0]);
        answer.map(|_| got)
    };
    apart(|| same("with all rights", look(parent), Ok(7)))?;
    apart(|| {
        // The users stay; the rights go.
        works("none in effect", set_sets([0, sets()?[1], 0]))?;
        same("the same users and rights", look(parent), Ok(7))?;
        works("none at all", set_sets([0, 0, 0]))?;
        fails("fewer rights than it", look(parent), libc::EPERM)
    })?;
    apart(|| {
        works("not to be dumped", option(4, 0))?;
        let target = own();
        apart(|| {
            same("with all rights", look(target), Ok(7))?;
            works("none in effect", set_sets([0, sets()?[1], 0]))?;
            fails("without", look(target), libc::EPERM)
        })
    })
}
