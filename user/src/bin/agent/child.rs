//! The last step before a command: a session of its own, a terminal, a user, a directory; then its file is executed.
use crate::users;
use rustix::{
    fs::{Gid, Uid},
    process, thread,
};
use std::{
    io,
    os::unix::process::CommandExt,
    process::{Command, ExitCode},
};

/// Status when the command is there and cannot be executed.
pub const NOT_EXECUTABLE: u8 = 126;
/// Status when the command is not there.
const NOT_FOUND: u8 = 127;

/// How the command sees the tool: as a terminal or as pipes.
pub const TERMINAL: &str = "terminal";
/// See [`TERMINAL`].
pub const PIPES: &str = "pipes";

/// Becomes the command; returns only if it cannot.
pub fn become_command(terminal: &str, cwd: &str, user: &str, argv: &[&str]) -> ExitCode {
    let (what, error) = match prepare(terminal, cwd, user) {
        Err(failed) => failed,
        Ok(home) => match argv.split_first() {
            None => ("the command".to_string(), io::Error::new(io::ErrorKind::NotFound, "it is empty")),
            Some((path, arguments)) => {
                let mut command = Command::new(path);
                command.args(arguments);
                if let Some(home) = home {
                    command.env("HOME", home);
                }
                (path.to_string(), command.exec())
            }
        },
    };
    eprintln!("shimos: {what}: {}", plain(&error));
    ExitCode::from(if error.kind() == io::ErrorKind::NotFound { NOT_FOUND } else { NOT_EXECUTABLE })
}

/// The error without the number that Rust adds.
fn plain(error: &io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or_default().to_string()
}

/// Returns the home directory to tell, if another one must be told.
fn prepare(terminal: &str, cwd: &str, user: &str) -> Result<Option<String>, (String, io::Error)> {
    let told = |what: &str| {
        let what = what.to_string();
        move |error: rustix::io::Errno| (what, io::Error::from(error))
    };
    process::setsid().map_err(told("a session"))?;
    if terminal == TERMINAL {
        process::ioctl_tiocsctty(rustix::stdio::stdin()).map_err(told("the terminal"))?;
    }
    let mut home = None;
    if !user.is_empty() {
        let identity = users::find(user).map_err(|error| (format!("user {user}"), error))?;
        let groups: Vec<Gid> = identity.groups.iter().map(|gid| Gid::from_raw(*gid)).collect();
        thread::set_thread_groups(&groups).map_err(told("its groups"))?;
        let (gid, uid) = (Gid::from_raw(identity.gid), Uid::from_raw(identity.uid));
        thread::set_thread_res_gid(gid, gid, gid).map_err(told("its group"))?;
        thread::set_thread_res_uid(uid, uid, uid).map_err(told("its user"))?;
        home = identity.home;
    }
    // With its rights: it may be a directory that only this user can enter.
    if !cwd.is_empty() {
        process::chdir(cwd).map_err(told(cwd))?;
    }
    let untold = std::env::var_os("HOME").is_none();
    Ok(home.or_else(|| untold.then(|| "/root".to_string())))
}
