//! The programs that must run, each with a script that tries it the way its users do.
//!
//! A script runs inside under `bash -euo pipefail` in an empty directory of its own. It prints what it has to say and
//! ends with 0 only if all that it tried came out right. All of them do so on Debian's own Linux as well.
use std::time::Duration;

/// One program to try.
#[derive(Clone, Copy, Debug)]
pub struct Check {
    /// What it is called.
    pub name: &'static str,
    /// What is run.
    pub script: &'static str,
    /// Variables for it.
    pub env: &'static [(&'static str, &'static str)],
    /// How long it may take.
    pub limit: Duration,
}

macro_rules! checks {
    ($($name:literal: $script:literal, $seconds:literal $(, $key:literal = $value:literal)*;)*) => {
        /// All of them.
        pub const CHECKS: &[Check] = &[$(Check {
            name: $name,
            script: include_str!(concat!("scripts/", $script, ".sh")),
            env: &[$(($key, $value)),*],
            limit: Duration::from_secs($seconds),
        }),*];
    };
}

checks! {
    "bash": "bash", 120;
    "bash-interactive": "bash-interactive", 180;
    "coreutils": "coreutils", 120;
    "busybox": "busybox", 120;
    "findutils": "findutils", 120;
    "grep": "grep", 120;
    "sed": "sed", 120;
    "gawk": "gawk", 120;
    "tar": "tar", 120;
    "gzip": "gzip", 120;
    "bzip2": "bzip2", 120;
    "xz-utils": "xz", 120;
    "diffutils": "diffutils", 120;
    "procps": "procps", 120;
    "python3": "python3", 120;
    "python3-threads": "python3-threads", 120;
    "python3-subprocess": "python3-subprocess", 120;
    "python3-multiprocessing": "python3-multiprocessing", 240;
    "python3-asyncio": "python3-asyncio", 120;
    "python3-sqlite3": "python3-sqlite3", 120;
    "python3-ssl": "python3-ssl", 120;
    "python3-test_os": "python-test", 300, "MODULE" = "test_os";
    "python3-test_threading": "python-test", 300, "MODULE" = "test_threading";
    "python3-test_subprocess": "python-test", 600, "MODULE" = "test_subprocess";
    "python3-test_socket": "python-test", 600, "MODULE" = "test_socket";
    "python3-test_asyncio": "python-test", 1500, "MODULE" = "test_asyncio";
    "python3-test_signal": "python-test", 300, "MODULE" = "test_signal";
    "perl": "perl", 120;
    "gcc": "gcc", 240;
    "make": "make", 240;
    "git": "git", 240;
    "curl": "curl", 120;
    "sqlite3": "sqlite3", 240;
    "redis-server": "redis", 300;
    "nginx": "nginx", 240;
    "lighttpd": "lighttpd", 240;
    "mini-httpd": "mini-httpd", 240;
    "apache2-prefork": "apache2", 300, "MPM" = "prefork";
    "apache2-event": "apache2", 300, "MPM" = "event";
    "subversion": "subversion", 600;
    "openssh": "openssh", 300;
    "postgresql": "postgresql", 600;
    "stress-ng-cpu": "stress-ng", 300, "STRESSOR" = "cpu", "OPS" = "20";
    "stress-ng-vm": "stress-ng", 300, "STRESSOR" = "vm", "OPS" = "2000";
    "stress-ng-fork": "stress-ng", 300, "STRESSOR" = "fork", "OPS" = "200";
    "stress-ng-pipe": "stress-ng", 300, "STRESSOR" = "pipe", "OPS" = "20000";
    "stress-ng-sock": "stress-ng", 300, "STRESSOR" = "sock", "OPS" = "200";
    "stress-ng-poll": "stress-ng", 300, "STRESSOR" = "poll", "OPS" = "2000";
    "stress-ng-epoll": "stress-ng", 300, "STRESSOR" = "epoll", "OPS" = "2000";
    "stress-ng-futex": "stress-ng", 300, "STRESSOR" = "futex", "OPS" = "1000";
    "stress-ng-timer": "stress-ng", 300, "STRESSOR" = "timer", "OPS" = "20000";
    "stress-ng-signal": "stress-ng", 300, "STRESSOR" = "signal", "OPS" = "20000";
    "stress-ng-mmap": "stress-ng", 300, "STRESSOR" = "mmap", "OPS" = "5";
    "stress-ng-brk": "stress-ng", 300, "STRESSOR" = "brk", "OPS" = "10000";
    "stress-ng-clone": "stress-ng", 300, "STRESSOR" = "clone", "OPS" = "200";
    "stress-ng-dentry": "stress-ng", 300, "STRESSOR" = "dentry", "OPS" = "5000";
    "stress-ng-flock": "stress-ng", 300, "STRESSOR" = "flock", "OPS" = "2000";
    "stress-ng-switch": "stress-ng", 300, "STRESSOR" = "switch", "OPS" = "20000";
    "stress-ng-pthread": "stress-ng", 300, "STRESSOR" = "pthread", "OPS" = "500";
    "stress-ng-sem": "stress-ng", 300, "STRESSOR" = "sem", "OPS" = "1000", "TIMEOUT" = "20";
    "stress-ng-shm": "stress-ng", 300, "STRESSOR" = "shm", "OPS" = "20";
    "stress-ng-dup": "stress-ng", 300, "STRESSOR" = "dup", "OPS" = "500";
    "stress-ng-fifo": "stress-ng", 300, "STRESSOR" = "fifo", "OPS" = "20000";
    "stress-ng-eventfd": "stress-ng", 300, "STRESSOR" = "eventfd", "OPS" = "20000";
    "apt-get": "apt-get", 600;
}

#[cfg(test)]
mod tests {
    use super::CHECKS;
    use std::collections::BTreeSet;

    #[test]
    fn each_check_has_a_name_of_its_own_and_something_to_run() {
        let names: BTreeSet<_> = CHECKS.iter().map(|check| check.name).collect();
        assert_eq!(names.len(), CHECKS.len());
        assert!(CHECKS.iter().all(|check| check.script.lines().count() > 1));
    }
}
