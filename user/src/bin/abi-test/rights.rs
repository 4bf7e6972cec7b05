//! What a process may do: capabilities, users that change, attributes of prctl(2), roots.
use crate::{
    Outcome, Subtest,
    check::{call, same, text, that},
};
use shimos_user::raw;
use std::{
    fs::{self, Permissions},
    io::Read,
    os::unix::{
        fs::{PermissionsExt, chown},
        process::CommandExt,
    },
    process::Command,
};

/// The subtests.
pub const TESTS: &[Subtest] = &[
    ("rights/attributes", attributes),
    ("rights/parent-death", parent_death),
    ("rights/reaper", reaper),
    ("rights/capabilities", capabilities),
    ("rights/users", users),
    ("rights/niceness", niceness),
    ("rights/login", login),
    ("rights/set-user-id", set_user_id),
    ("rights/root-directory", root_directory),
];

/// A user that is nobody in particular.
const SOMEBODY: u64 = 4242;

fn prctl(arguments: [u64; 5]) -> Result<u64, i32> {
    let [a, b, c, d, e] = arguments;
    raw::call(libc::SYS_prctl, [a, b, c, d, e, 0])
}

/// Runs checks in a child, as what they change cannot be undone.
fn in_child(work: fn() -> Outcome) -> Outcome {
    let pid = raw::fork(|| match work() {
        Ok(()) => 0,
        Err(why) => {
            println!("in the child: {why}");
            1
        }
    })
    .map_err(text)?;
    same("the child's status", raw::exit_of(pid).map_err(text)?, 0)
}

fn attributes() -> Outcome {
    in_child(|| {
        same("dumpable", prctl([3, 0, 0, 0, 0]), Ok(1))?;
        same("not dumpable", prctl([4, 0, 0, 0, 0]), Ok(0))?;
        same("dumpable now", prctl([3, 0, 0, 0, 0]), Ok(0))?;
        same("an odd value", prctl([4, 7, 0, 0, 0]), Err(libc::EINVAL))?;
        same("no new privileges", prctl([39, 0, 0, 0, 0]), Ok(0))?;
        same("not without 1", prctl([38, 0, 0, 0, 0]), Err(libc::EINVAL))?;
        same("from now on", prctl([38, 1, 0, 0, 0]), Ok(0))?;
        same("no new privileges now", prctl([39, 0, 0, 0, 0]), Ok(1))?;
        same("usual slack", prctl([30, 0, 0, 0, 0]), Ok(50_000))?;
        same("slack", prctl([29, 1234, 0, 0, 0]), Ok(0))?;
        same("slack now", prctl([30, 0, 0, 0, 0]), Ok(1234))?;
        same("a signal that is none", prctl([1, 65, 0, 0, 0]), Err(libc::EINVAL))?;
        same("an attribute that is none", prctl([9999, 0, 0, 0, 0]), Err(libc::EINVAL))
    })
}

fn parent_death() -> Outcome {
    let (mut reader, writer) = std::io::pipe().map_err(text)?;
    let (mut ready, tell) = std::io::pipe().map_err(text)?;
    let maker = raw::fork(|| {
        let grandchild = raw::fork(|| {
            if prctl([1, libc::SIGKILL as u64, 0, 0, 0]).is_err() {
                return 1;
            }
            drop(tell.try_clone().map(|mut tell| std::io::Write::write_all(&mut tell, b"x")));
            loop {
                let _ = call(libc::SYS_pause, &[]);
            }
        });
        let _ = ready.read_exact(&mut [0]);
        i32::from(grandchild.is_err())
    })
    .map_err(text)?;
    drop(writer);
    same("the parent's status", raw::exit_of(maker).map_err(text)?, 0)?;
    // The pipe's end comes when the last writer has died of its parent's death.
    same("bytes", reader.read(&mut [0; 8]).map_err(text)?, 0)
}

fn reaper() -> Outcome {
    in_child(|| {
        same("reap", prctl([36, 1, 0, 0, 0]), Ok(0))?;
        let (mut reader, mut writer) = std::io::pipe().map_err(text)?;
        let child = raw::fork(|| {
            let orphan = raw::fork(|| {
                let mut byte = [0];
                let _ = reader.read_exact(&mut byte);
                7
            });
            i32::from(orphan.is_err())
        })
        .map_err(text)?;
        same("the child", raw::exit_of(child).map_err(text)?, 0)?;
        std::io::Write::write_all(&mut writer, b"x").map_err(text)?;
        let (_, status) = raw::wait(-1, 0).map_err(text)?;
        same("the orphan's status", status, 7 << 8)
    })
}

/// capget(2) of the caller: effective and permitted.
fn held() -> Result<(u64, u64), String> {
    let header = [0x2008_0522_u32, 0];
    let data = [0_u32; 6];
    call(libc::SYS_capget, &[header.as_ptr() as u64, data.as_ptr() as u64])
        .map_err(|errno| format!("capget: {errno}"))?;
    let data = std::hint::black_box(data);
    Ok((u64::from(data[3]) << 32 | u64::from(data[0]), u64::from(data[4]) << 32 | u64::from(data[1])))
}

fn keep_only(effective: u64, permitted: u64) -> Result<u64, i32> {
    let header = [0x2008_0522_u32, 0];
    let (low, high) = (|set: u64| set as u32, |set: u64| (set >> 32) as u32);
    let data = [low(effective), low(permitted), 0, high(effective), high(permitted), 0];
    call(libc::SYS_capset, &[header.as_ptr() as u64, data.as_ptr() as u64])
}

fn capabilities() -> Outcome {
    const CHROOT: u64 = 1 << 18;
    in_child(|| {
        let odd = [1_u32, 0];
        same("an odd version", call(libc::SYS_capget, &[odd.as_ptr() as u64, 0]), Ok(0))?;
        same("the version preferred", std::hint::black_box(odd)[0], 0x2008_0522)?;
        let (effective, permitted) = held()?;
        that("root has all that is permitted", effective == permitted && effective & CHROOT != 0)?;
        same("less", keep_only(0, CHROOT), Ok(0))?;
        same("less now", held()?, (0, CHROOT))?;
        same("chroot", call(libc::SYS_chroot, &[c"/".as_ptr() as u64]), Err(libc::EPERM))?;
        same("in effect again", keep_only(CHROOT, CHROOT), Ok(0))?;
        same("chroot", call(libc::SYS_chroot, &[c"/".as_ptr() as u64]), Ok(0))?;
        same("more", keep_only(CHROOT, CHROOT | 1), Err(libc::EPERM))
    })
}

fn users() -> Outcome {
    in_child(|| {
        same("effective", call(libc::SYS_setresuid, &[u64::MAX, SOMEBODY, u64::MAX]), Ok(0))?;
        same("nothing in effect", held()?.0, 0)?;
        same("file user", call(libc::SYS_setfsuid, &[0]), Ok(SOMEBODY))?;
        same("file user before", call(libc::SYS_setfsuid, &[u64::MAX]), Ok(0))?;
        same("back", call(libc::SYS_setresuid, &[u64::MAX, 0, u64::MAX]), Ok(0))?;
        that("in effect again", held()?.0 != 0)?;
        same("keep", prctl([8, 1, 0, 0, 0]), Ok(0))?;
        same("for good", call(libc::SYS_setresuid, &[SOMEBODY, SOMEBODY, SOMEBODY]), Ok(0))?;
        let (effective, permitted) = held()?;
        that("kept, not in effect", effective == 0 && permitted != 0)?;
        same("no way back", call(libc::SYS_setuid, &[0]), Err(libc::EPERM))?;
        same("groups", call(libc::SYS_setgroups, &[0, 0]), Err(libc::EPERM))
    })
}

fn niceness() -> Outcome {
    in_child(|| {
        let rank = || call(libc::SYS_getpriority, &[0, 0]);
        same("nicer", call(libc::SYS_setpriority, &[0, 0, 7]), Ok(0))?;
        same("rank", rank(), Ok(13))?;
        same("nicer than nice", call(libc::SYS_setpriority, &[0, 0, 100]), Ok(0))?;
        same("rank", rank(), Ok(1))?;
        same("less nice", call(libc::SYS_setpriority, &[0, 0, -5_i64 as u64]), Ok(0))?;
        let child = raw::fork(|| i32::from(call(libc::SYS_getpriority, &[0, 0]) != Ok(25))).map_err(text)?;
        same("inherited", raw::exit_of(child).map_err(text)?, 0)?;
        same("nobody", call(libc::SYS_setpriority, &[0, 0x3ff_ffff, 1]), Err(libc::ESRCH))?;
        same("no such kind", call(libc::SYS_setpriority, &[3, 0, 1]), Err(libc::EINVAL))?;
        same("somebody", call(libc::SYS_setresuid, &[SOMEBODY; 3]), Ok(0))?;
        same("not less nice", call(libc::SYS_setpriority, &[0, 0, -6_i64 as u64]), Err(libc::EACCES))?;
        same("nicer again", call(libc::SYS_setpriority, &[0, 0, 3]), Ok(0))?;
        same("init's", call(libc::SYS_setpriority, &[0, 1, 3]).is_err(), true)
    })
}

/// What login programs do with their login id: read it, cut the file off, write it.
fn login() -> Outcome {
    let file = fs::OpenOptions::new().read(true).write(true).open("/proc/self/loginuid").map_err(text)?;
    file.set_len(0).map_err(text)?;
    let reader = fs::File::open("/proc/self/loginuid").map_err(text)?;
    that("not without the right to write", reader.set_len(0).is_err())
}

fn set_user_id() -> Outcome {
    let this = std::env::current_exe().map_err(text)?;
    fs::copy(this, "tool").map_err(text)?;
    chown("tool", Some(1234), Some(0)).map_err(text)?;
    fs::set_permissions("tool", Permissions::from_mode(0o4755)).map_err(text)?;
    let here = fs::canonicalize(".").map_err(text)?;
    fs::set_permissions(&here, Permissions::from_mode(0o755)).map_err(text)?;
    let ids = |command: &mut Command| -> Result<String, String> {
        let output = command.args(["--helper", "rights"]).output().map_err(text)?;
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_string())
    };
    same("the owner's rights", ids(&mut Command::new("./tool"))?, "0 1234 0".to_string())?;
    fs::set_permissions("tool", Permissions::from_mode(0o755)).map_err(text)?;
    same("the caller's", ids(&mut Command::new("./tool"))?, "0 0 1".to_string())?;
    same("another caller's", ids(Command::new("./tool").uid(77))?, "77 77 1".to_string())
}

fn root_directory() -> Outcome {
    in_child(|| {
        fs::create_dir_all("jail/inner").map_err(text)?;
        fs::write("jail/file", "x").map_err(text)?;
        same("of a file", call(libc::SYS_chroot, &[c"jail/file".as_ptr() as u64]), Err(libc::ENOTDIR))?;
        same("of nothing", call(libc::SYS_chroot, &[c"none".as_ptr() as u64]), Err(libc::ENOENT))?;
        same("jail", call(libc::SYS_chroot, &[c"jail".as_ptr() as u64]), Ok(0))?;
        std::env::set_current_dir("/inner").map_err(text)?;
        same("inside", fs::read_to_string("/file").map_err(text)?.as_str(), "x")?;
        same("no way up", fs::read_to_string("../../../file").map_err(text)?.as_str(), "x")?;
        that("nothing else", fs::metadata("/proc").is_err())
    })
}
