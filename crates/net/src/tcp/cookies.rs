//! SYN cookies (RFC 4987): under a flood nothing is kept of a SYN. What must be known later is in the number of our answer,
//! which the peer has to bring back, and in our timestamp, which it echoes. The key moves with the stack.
//!
//! The number: 5 bits of the time, 3 bits for the segment size, 24 bits that only we can make. The timestamp's last six bits:
//! 4 bits for the peer's window shift (15: none), 1 bit for selective acknowledgements, 1 bit unused.
use super::{Agreed, SHIFT, STAMP, Seq, Stamps, segment::Segment, stamp};
use crate::{endpoint::Tuple, secret::Secret};
use shimos_abi::time::Nanos;

/// How long a cookie is good after the last flood.
pub(super) const VALID: Nanos = Nanos::secs(128);
/// A step of the time in a cookie.
const STEP: Nanos = Nanos::secs(64);
/// Segment sizes that fit into three bits, without timestamps.
const SIZES: [u16; 8] = [88, 536, 1220, 1300, 1440, 1460, 8960, 32768];
/// The bits of our timestamp that carry options.
const OPTIONS: u32 = 0x3f;
const NO_SHIFT: u32 = 0xf;
const SACK: u32 = 0x10;

fn secret_part(secret: &Secret, tuple: Tuple, irs: Seq, time: u64, size: usize) -> u32 {
    let number = u64::from(irs.0) << 32 | (time << 3 & 0xffff_fff8) | size as u64 & 7;
    secret.cookie(tuple, number) & 0xff_ffff
}

/// The number of our answer to a SYN, and our timestamp in it.
pub(super) fn make(secret: &Secret, tuple: Tuple, irs: Seq, agreed: &Agreed, now: Nanos) -> (Seq, Option<u32>) {
    let stamped = if agreed.stamps.is_some() { STAMP } else { 0 };
    let whole = agreed.mss.saturating_add(stamped);
    let size = SIZES.iter().rposition(|size| *size <= whole).unwrap_or(0);
    let time = now.0 / STEP.0;
    let number = (time as u32 & 31) << 27 | (size as u32) << 24 | secret_part(secret, tuple, irs, time, size);
    let stamp = agreed.stamps.map(|stamps| {
        let shift = if agreed.receive_shift > 0 { u32::from(agreed.send_shift) } else { NO_SHIFT };
        let options = shift | if agreed.sack { SACK } else { 0 };
        let now = stamps.now(now);
        let stamp = now & !OPTIONS | options;
        // A timestamp from the future would make our next ones look old.
        if (stamp.wrapping_sub(now) as i32) > 0 { stamp.wrapping_sub(OPTIONS + 1) } else { stamp }
    });
    (Seq(number), stamp)
}

/// What was agreed on, if the segment acknowledges a cookie of ours.
pub(super) fn check(secret: &Secret, segment: &Segment<'_>, now: Nanos) -> Option<Agreed> {
    let number = segment.ack?.back(1).0;
    let irs = segment.seq.back(1);
    let size = (number >> 24 & 7) as usize;
    let current = now.0 / STEP.0;
    let right = [current, current.saturating_sub(1)].into_iter().any(|time| {
        time as u32 & 31 == number >> 27 && secret_part(secret, segment.tuple, irs, time, size) == number & 0xff_ffff
    });
    let whole = *SIZES.get(size).filter(|_| right)?;
    let Some((recent, echo)) = segment.stamp else {
        return Some(Agreed { mss: whole, send_shift: 0, receive_shift: 0, sack: false, stamps: None });
    };
    let offset = secret.offset(segment.tuple);
    // The echo cannot be from the future either.
    if (echo.wrapping_sub(stamp(now, offset)) as i32) > 0 {
        return None;
    }
    let shift = echo & NO_SHIFT;
    let scaled = shift != NO_SHIFT;
    Some(Agreed {
        mss: whole.saturating_sub(STAMP).max(32),
        send_shift: if scaled { shift.min(14) as u8 } else { 0 },
        receive_shift: if scaled { SHIFT } else { 0 },
        sack: echo & SACK != 0,
        stamps: Some(Stamps { recent, at: now, offset }),
    })
}
