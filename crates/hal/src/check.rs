//! Machine checks: whom they kill. A check that one core has found may be told to all (Intel SDM 3, 16.10.4.1); only
//! those die whose own banks name an error that what they did cannot survive.

/// `MCG_CAP`: how many banks, in its low byte.
pub const BANKS: u64 = 0xff;
/// `MCG_CAP`: banks say whether anything must be done (16.3.1.1, MCG_SER_P).
const CAP_RECOVERY: u64 = 1 << 24;
/// `MCG_STATUS`: the interrupted instruction can be gone on with.
const RESUMABLE: u64 = 1;
/// A bank's status: what it says is true.
pub const VALID: u64 = 1 << 63;
const UNCORRECTED: u64 = 1 << 61;
const ENABLED: u64 = 1 << 60;
const CONTEXT_LOST: u64 = 1 << 57;
const SIGNALLED: u64 = 1 << 56;
const ACTION_REQUIRED: u64 = 1 << 55;

/// What a machine check means for the core that takes it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// It goes on; somebody else's business, or an error that was put right or lies where nobody has looked.
    Noted,
    /// What it was doing is lost, because of this bank.
    Fatal(u8),
}

/// Judges by the status registers of all banks, in order.
pub fn judge(capabilities: u64, status: u64, banks: impl IntoIterator<Item = u64>) -> Verdict {
    for (bank, word) in (0..=u8::MAX).zip(banks) {
        let real = [VALID, UNCORRECTED, ENABLED].into_iter().all(|bit| word & bit != 0);
        if !real {
            continue;
        }
        let harmless =
            capabilities & CAP_RECOVERY != 0 && word & (CONTEXT_LOST | ACTION_REQUIRED) == 0 && word & SIGNALLED != 0;
        if !harmless {
            return Verdict::Fatal(bank);
        }
    }
    // No bank explains it, and there is no way back.
    if status & RESUMABLE == 0 { Verdict::Fatal(u8::MAX) } else { Verdict::Noted }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ERROR: u64 = VALID | UNCORRECTED | ENABLED;

    #[test]
    fn only_those_die_whose_banks_say_so() {
        // As QEMU tells all others of an error that is broadcast: valid and uncorrected, but not one that is enabled here.
        assert_eq!(judge(10, RESUMABLE, [0, VALID | UNCORRECTED, 0]), Verdict::Noted);
        assert_eq!(judge(10, RESUMABLE, []), Verdict::Noted);
        assert_eq!(judge(10, RESUMABLE, [VALID | ENABLED]), Verdict::Noted);
        assert_eq!(judge(10, RESUMABLE, [0, 0, ERROR]), Verdict::Fatal(2));
        assert_eq!(judge(10, RESUMABLE, [ERROR & !VALID]), Verdict::Noted);
        assert_eq!(judge(10, 0, [0, 0]), Verdict::Fatal(u8::MAX));
    }

    #[test]
    fn errors_that_wait_for_nobody_kill_nobody_where_banks_can_say_so() {
        let optional = ERROR | SIGNALLED;
        assert_eq!(judge(10 | CAP_RECOVERY, RESUMABLE, [optional]), Verdict::Noted);
        assert_eq!(judge(10, RESUMABLE, [optional]), Verdict::Fatal(0));
        assert_eq!(judge(10 | CAP_RECOVERY, RESUMABLE, [optional | ACTION_REQUIRED]), Verdict::Fatal(0));
        assert_eq!(judge(10 | CAP_RECOVERY, RESUMABLE, [optional | CONTEXT_LOST]), Verdict::Fatal(0));
        assert_eq!(judge(10 | CAP_RECOVERY, RESUMABLE, [ERROR]), Verdict::Fatal(0));
    }
}
