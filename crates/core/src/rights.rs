//! What a process may do beyond its users and groups: capabilities(7), and the attributes of prctl(2) that go with them.
use crate::{process::Ids, signal::Signal};
use minicbor::{Decode, Encode};
use shimos_abi::time::Nanos;

/// All capabilities of Linux 6.1, CAP_CHOWN to CAP_CHECKPOINT_RESTORE.
pub const ALL: u64 = (1 << 41) - 1;
/// CAP_DAC_READ_SEARCH.
pub const DAC_READ_SEARCH: u32 = 2;
/// CAP_SETGID.
pub const SETGID: u32 = 6;
/// CAP_SETUID.
pub const SETUID: u32 = 7;
/// CAP_SETPCAP.
pub const SETPCAP: u32 = 8;
/// CAP_SYS_CHROOT.
pub const SYS_CHROOT: u32 = 18;
/// CAP_SYS_PTRACE.
pub const SYS_PTRACE: u32 = 19;
/// CAP_SYS_PACCT.
pub const SYS_PACCT: u32 = 20;
/// CAP_SYS_ADMIN.
pub const SYS_ADMIN: u32 = 21;
/// CAP_SYS_BOOT.
pub const SYS_BOOT: u32 = 22;
/// CAP_SYS_NICE.
pub const SYS_NICE: u32 = 23;
/// CAP_SYS_RESOURCE.
pub const SYS_RESOURCE: u32 = 24;
/// CAP_SYS_TIME.
pub const SYS_TIME: u32 = 25;
/// CAP_SYSLOG.
pub const SYSLOG: u32 = 34;
/// The slack of a process that has set none, in nanoseconds (prctl(2), PR_SET_TIMERSLACK).
const USUAL_SLACK: u64 = 50_000;

/// Bits of `securebits`.
pub mod secure {
    /// Root gets no capabilities by execve(2).
    pub const NO_ROOT: u32 = 1;
    /// Changes of users change no capabilities.
    pub const NO_SETUID_FIXUP: u32 = 1 << 2;
    /// Capabilities are kept when all users become others.
    pub const KEEP_CAPS: u32 = 1 << 4;
    /// No ambient capability may be raised.
    pub const NO_AMBIENT_RAISE: u32 = 1 << 6;
    /// All bits there are; each odd one locks the one before it.
    pub const ALL: u32 = 0xff;
}

/// What a process may do.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Rights {
    /// What it may do now.
    #[n(0)]
    pub effective: u64,
    /// What it may make effective.
    #[n(1)]
    pub permitted: u64,
    /// What stays over execve(2) of a file that asks for it.
    #[n(2)]
    pub inheritable: u64,
    /// What execve(2) can give at most.
    #[n(3)]
    pub bounding: u64,
    /// What stays over execve(2) of any file.
    #[n(4)]
    pub ambient: u64,
    /// See [`secure`].
    #[n(5)]
    pub securebits: u32,
    /// execve(2) gives no rights any more.
    #[n(6)]
    pub nothing_new: bool,
    /// PR_SET_DUMPABLE.
    #[n(7)]
    pub dumpable: bool,
    /// The signal that tells it of its parent's end.
    #[n(8)]
    pub parent_death: Option<Signal>,
    /// Orphans among its descendants become its children.
    #[n(9)]
    pub reaper: bool,
    /// PR_SET_TIMERSLACK, in nanoseconds; 0 for what is usual.
    #[n(10)]
    pub timer_slack: u64,
}

impl Default for Rights {
    fn default() -> Rights {
        Rights {
            effective: ALL,
            permitted: ALL,
            inheritable: 0,
            bounding: ALL,
            ambient: 0,
            securebits: 0,
            nothing_new: false,
            dumpable: true,
            parent_death: None,
            reaper: false,
            timer_slack: 0,
        }
    }
}

impl Rights {
    /// How much later than asked for its threads may be woken.
    pub fn timer_slack(&self) -> Nanos {
        Nanos(if self.timer_slack == 0 { USUAL_SLACK } else { self.timer_slack })
    }

    /// Those of a user's first process.
    pub fn of(ids: &Ids) -> Rights {
        let held = if ids.euid == 0 { ALL } else { 0 };
        Rights { effective: held, permitted: held, ..Rights::default() }
    }

    /// Whether it has a capability in effect.
    pub fn has(&self, capability: u32) -> bool {
        self.effective & (1 << capability) != 0
    }

    /// A child of fork(2) hears nothing of its parent's parent, and reaps only if it says so itself.
    pub fn of_child(self) -> Rights {
        Rights { parent_death: None, reaper: false, ..self }
    }

    /// The users of the process have changed (capabilities(7), "Effect of user ID changes on capabilities").
    pub fn after_change(&mut self, old: &Ids, new: &Ids) {
        if (old.uid, old.euid, old.suid, old.egid) != (new.uid, new.euid, new.suid, new.egid) {
            self.parent_death = None;
            if (old.euid, old.egid) != (new.euid, new.egid) {
                self.dumpable = false;
            }
        }
        if self.securebits & secure::NO_SETUID_FIXUP != 0 {
            return;
        }
        let had_root = [old.uid, old.euid, old.suid].contains(&0);
        let has_root = [new.uid, new.euid, new.suid].contains(&0);
        if had_root && !has_root {
            if self.securebits & secure::KEEP_CAPS == 0 {
                self.permitted = 0;
                self.effective = 0;
            }
            self.ambient = 0;
        }
        if old.euid == 0 && new.euid != 0 {
            self.effective = 0;
        } else if old.euid != 0 && new.euid == 0 {
            self.effective = self.permitted;
        }
    }

    /// A file is executed with these ids (capabilities(7), "Transformation of capabilities during execve"); files themselves
    /// carry none.
    pub fn after_exec(&mut self, before: &Ids, after: &Ids) {
        let gained = before.euid != after.euid || before.egid != after.egid;
        if gained {
            self.ambient = 0;
            self.parent_death = None;
        }
        let root = self.securebits & secure::NO_ROOT == 0 && (after.uid == 0 || after.euid == 0);
        if root {
            self.permitted = self.inheritable | self.bounding;
            self.effective = if after.euid == 0 { self.permitted } else { self.ambient };
        } else {
            self.permitted = self.ambient;
            self.effective = self.ambient;
        }
        self.securebits &= !secure::KEEP_CAPS;
        self.dumpable = !gained;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(uid: u32, euid: u32, suid: u32) -> Ids {
        Ids { uid, euid, suid, ..Ids::default() }
    }

    #[test]
    fn giving_root_up_for_good_gives_up_all() {
        let mut rights = Rights::default();
        rights.after_change(&ids(0, 0, 0), &ids(0, 1000, 0));
        assert_eq!((rights.effective, rights.permitted), (0, ALL), "root for a while not");
        rights.after_change(&ids(0, 1000, 0), &ids(0, 0, 0));
        assert_eq!(rights.effective, ALL);
        rights.after_change(&ids(0, 0, 0), &ids(1000, 1000, 1000));
        assert_eq!((rights.effective, rights.permitted), (0, 0));
    }

    #[test]
    fn what_is_to_be_kept_is_kept_but_not_in_effect() {
        let mut rights = Rights { securebits: secure::KEEP_CAPS, ..Rights::default() };
        rights.after_change(&ids(0, 0, 0), &ids(1000, 1000, 1000));
        assert_eq!((rights.effective, rights.permitted), (0, ALL));
        rights.after_exec(&ids(1000, 1000, 1000), &ids(1000, 1000, 1000));
        assert_eq!((rights.effective, rights.permitted, rights.securebits), (0, 0, 0));
    }

    #[test]
    fn a_file_of_root_gives_what_the_bounding_set_allows() {
        let user = ids(1000, 1000, 1000);
        let mut rights = Rights { bounding: ALL & !(1 << SETPCAP), ..Rights::of(&user) };
        rights.after_exec(&user, &ids(1000, 0, 0));
        assert!(rights.has(SETUID) && !rights.has(SETPCAP) && !rights.dumpable);
    }
}
