//! Options of the level SOL_TCP.
use super::{Flags, Options, bytes, int, unsigned};
use alloc::{vec, vec::Vec};
use shimos_abi::{errno::Errno, time::Nanos};

const NO_DELAY: i32 = 1;
const MAX_SEGMENT: i32 = 2;
const CORK: i32 = 3;
const KEEP_IDLE: i32 = 4;
const KEEP_INTERVAL: i32 = 5;
const KEEP_COUNT: i32 = 6;
const SYN_COUNT: i32 = 7;
const LINGER2: i32 = 8;
const DEFER_ACCEPT: i32 = 9;
const WINDOW_CLAMP: i32 = 10;
const INFO: i32 = 11;
const QUICK_ACK: i32 = 12;
const CONGESTION: i32 = 13;
const THIN_LINEAR: i32 = 16;
const THIN_DUPLICATES: i32 = 17;
const USER_TIMEOUT: i32 = 18;
const REPAIR: i32 = 19;
const FAST_OPEN: i32 = 23;
const TIMESTAMP: i32 = 24;
const UNSENT_LOW: i32 = 25;
const CONGESTION_INFO: i32 = 26;
const FAST_OPEN_CONNECT: i32 = 30;
const UPPER_PROTOCOL: i32 = 31;
const FAST_OPEN_NO_COOKIE: i32 = 34;
const TELL_WAITING: i32 = 36;

/// How congestion is controlled: one way, New Reno with selective acknowledgements.
const ALGORITHM: &[u8; 4] = b"reno";
/// Bytes of a name of an algorithm.
const NAME: usize = 16;
/// Seconds in FIN_WAIT_2 (net.ipv4.tcp_fin_timeout).
const FIN_TIMEOUT: i32 = 60;
const FIN_TIMEOUT_MAX: i32 = 120;
/// The first retransmission of a SYN's answer, and the longest, in seconds.
const FIRST_RETRY: u32 = 1;
const LONGEST_RETRY: u32 = 120;

/// Figures of a connection (TCP_INFO).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TcpInfo {
    /// Its state.
    pub state: crate::State,
    /// Retransmissions of the oldest segment so far.
    pub retransmits: u8,
    /// Unanswered probes.
    pub probes: u8,
    /// Doublings of the time-out.
    pub backoff: u8,
    /// Options agreed on: timestamps 1, selective acknowledgements 2, window scaling 4.
    pub options: u8,
    /// Shifts of the windows: the peer's and ours.
    pub shifts: (u8, u8),
    /// Retransmission time-out.
    pub rto: Nanos,
    /// Delay of acknowledgements.
    pub ato: Nanos,
    /// Smoothed round-trip time, and its variance.
    pub rtt: Nanos,
    /// How much that varies.
    pub rtt_variance: Nanos,
    /// Bytes the network is thought to hold without loss.
    pub congestion_window: u32,
    /// Slow start ends here.
    pub threshold: u32,
    /// Bytes not yet acknowledged.
    pub unacknowledged: u32,
    /// Bytes that were not sent yet.
    pub unsent: u32,
    /// Largest segment it sends.
    pub send_mss: u16,
    /// Largest segment it received.
    pub receive_mss: u16,
    /// Segments sent again.
    pub total_retransmits: u32,
    /// Bytes that count as lost now.
    pub lost: u32,
    /// When data was last sent, received, and acknowledged.
    pub last: (Nanos, Nanos),
    /// The window told to the peer.
    pub receive_window: u32,
    /// The peer's window.
    pub send_window: u32,
    /// Bytes that were acknowledged, and received, since the beginning.
    pub acknowledged_bytes: u64,
    /// Bytes received since the beginning.
    pub received_bytes: u64,
}

/// The number of a state as Linux tells it.
pub(crate) const fn state_number(state: crate::State) -> u8 {
    use crate::State;
    match state {
        State::Established => 1,
        State::SynSent => 2,
        State::SynReceived => 3,
        State::FinWait1 => 4,
        State::FinWait2 => 5,
        State::TimeWait => 6,
        State::Closed => 7,
        State::CloseWait => 8,
        State::LastAck => 9,
        State::Closing => 11,
    }
}

impl TcpInfo {
    /// As `struct tcp_info` of Linux; what is not counted is zero.
    pub fn to_bytes(&self, now: Nanos) -> Vec<u8> {
        const SIZE: usize = 240;
        let mut out = vec![0; SIZE];
        let micros = |time: Nanos| u32::try_from(time.0 / 1000).unwrap_or(u32::MAX);
        let ago = |time: Nanos| u32::try_from((now - time).0 / 1_000_000).unwrap_or(u32::MAX);
        let mss = u32::from(self.send_mss).max(1);
        out[0] = state_number(self.state);
        out[2] = self.retransmits;
        out[3] = self.probes;
        out[4] = self.backoff;
        out[5] = self.options;
        out[6] = self.shifts.0 | self.shifts.1 << 4;
        let mut word = |at: usize, value: u32| crate::packet::set(&mut out, at, &value.to_le_bytes());
        word(8, micros(self.rto));
        word(12, micros(self.ato));
        word(16, mss);
        word(20, self.receive_mss.into());
        word(24, self.unacknowledged.div_ceil(mss));
        word(32, self.lost.div_ceil(mss));
        word(44, ago(self.last.0));
        word(52, ago(self.last.1));
        word(56, ago(self.last.1));
        word(60, 1500);
        word(64, self.receive_window);
        word(68, micros(self.rtt));
        word(72, micros(self.rtt_variance));
        word(76, if self.threshold >= 1 << 23 { i32::MAX as u32 } else { self.threshold / mss });
        word(80, self.congestion_window / mss);
        word(84, self.receive_mss.into());
        word(88, 3);
        word(96, self.receive_window);
        word(100, self.total_retransmits);
        // tcpi_pacing_rate and tcpi_max_pacing_rate: none.
        word(104, u32::MAX);
        word(108, u32::MAX);
        word(112, u32::MAX);
        word(116, u32::MAX);
        word(120, self.acknowledged_bytes as u32);
        word(124, (self.acknowledged_bytes >> 32) as u32);
        word(128, self.received_bytes as u32);
        word(132, (self.received_bytes >> 32) as u32);
        word(144, self.unsent);
        word(228, self.send_window);
        out
    }
}

/// How often the answer to a SYN is sent in so many seconds, and how many seconds so many times are.
fn retries_in(seconds: i32) -> u32 {
    let Ok(seconds) = u32::try_from(seconds) else { return 0 };
    if seconds == 0 {
        return 0;
    }
    let (mut retries, mut wait, mut total) = (1, FIRST_RETRY, FIRST_RETRY);
    while seconds > total && retries < 255 {
        retries += 1;
        wait = (wait * 2).min(LONGEST_RETRY);
        total += wait;
    }
    retries
}

fn seconds_of(retries: u32) -> u32 {
    let (mut wait, mut total) = (FIRST_RETRY, 0);
    for _ in 0..retries.min(255) {
        total += wait;
        wait = (wait * 2).min(LONGEST_RETRY);
    }
    total
}

impl Options {
    /// Reads an option of TCP that does not depend on the connection.
    pub(crate) fn stream(&self, name: i32) -> Result<Vec<u8>, Errno> {
        let flag = |flag| bytes(self.has(flag).into());
        Ok(match name {
            NO_DELAY => flag(Flags::NO_DELAY),
            CORK => flag(Flags::CORK),
            KEEP_IDLE => unsigned(self.keep_idle),
            KEEP_INTERVAL => unsigned(self.keep_interval),
            KEEP_COUNT => unsigned(self.keep_count),
            SYN_COUNT => bytes(if self.stream.syn_count == 0 { 6 } else { self.stream.syn_count.into() }),
            LINGER2 => bytes(self.stream.linger2.unwrap_or(FIN_TIMEOUT)),
            DEFER_ACCEPT => unsigned(seconds_of(self.defer_accept)),
            WINDOW_CLAMP => unsigned(self.stream.window_clamp),
            QUICK_ACK => bytes((!self.has(Flags::NO_QUICK_ACK)).into()),
            CONGESTION => {
                let mut name = ALGORITHM.to_vec();
                name.resize(NAME, 0);
                name
            }
            THIN_LINEAR => flag(Flags::THIN_LINEAR),
            THIN_DUPLICATES => bytes(0),
            USER_TIMEOUT => unsigned(self.stream.user_timeout),
            REPAIR => bytes(0),
            FAST_OPEN => unsigned(self.stream.fast_open),
            FAST_OPEN_CONNECT | FAST_OPEN_NO_COOKIE => bytes(0),
            UNSENT_LOW => unsigned(self.stream.unsent_low.unwrap_or(0)),
            CONGESTION_INFO | UPPER_PROTOCOL => Vec::new(),
            TELL_WAITING => flag(Flags::TELL_WAITING),
            _ => return Err(Errno::ENOPROTOOPT),
        })
    }

    /// Changes an option of TCP.
    pub(crate) fn set_stream(&mut self, name: i32, value: &[u8]) -> Result<(), Errno> {
        match name {
            CONGESTION => {
                let name = value.get(..NAME - 1).unwrap_or(value);
                let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
                return match name {
                    [] if value.is_empty() => Err(Errno::EINVAL),
                    name if name == ALGORITHM => Ok(()),
                    _ => Err(Errno::ENOENT),
                };
            }
            UPPER_PROTOCOL => return Err(if value.is_empty() { Errno::EINVAL } else { Errno::ENOENT }),
            _ => {}
        }
        let first = int(value)?;
        let on = first != 0;
        let within = |most: i32| {
            if (1..=most).contains(&first) { Ok(first as u32) } else { Err(Errno::EINVAL) }
        };
        match name {
            NO_DELAY => self.flags.set(Flags::NO_DELAY, on),
            CORK => self.flags.set(Flags::CORK, on),
            MAX_SEGMENT => {
                if first != 0 && !(88..=32767).contains(&first) {
                    return Err(Errno::EINVAL);
                }
                self.stream.max_segment = first as u16;
            }
            KEEP_IDLE => self.keep_idle = within(32767)?,
            KEEP_INTERVAL => self.keep_interval = within(32767)?,
            KEEP_COUNT => self.keep_count = within(127)?,
            SYN_COUNT => self.stream.syn_count = within(127)? as u8,
            LINGER2 => {
                self.stream.linger2 = Some(if (0..=FIN_TIMEOUT_MAX).contains(&first) { first } else { -1 });
                if first == 0 {
                    self.stream.linger2 = None;
                }
            }
            DEFER_ACCEPT => self.defer_accept = retries_in(first),
            WINDOW_CLAMP => {
                self.stream.window_clamp = if first == 0 { 0 } else { (first as u32).max(1152) };
            }
            QUICK_ACK => self.flags.set(Flags::NO_QUICK_ACK, !on),
            THIN_LINEAR | THIN_DUPLICATES => {
                if !(0..=1).contains(&first) {
                    return Err(Errno::EINVAL);
                }
                if name == THIN_LINEAR {
                    self.flags.set(Flags::THIN_LINEAR, on);
                }
            }
            USER_TIMEOUT => self.stream.user_timeout = u32::try_from(first).map_err(|_| Errno::EINVAL)?,
            REPAIR | TIMESTAMP => return Err(Errno::EPERM),
            FAST_OPEN => self.stream.fast_open = u32::try_from(first).map_err(|_| Errno::EINVAL)?.min(4096),
            FAST_OPEN_CONNECT | FAST_OPEN_NO_COOKIE => {
                return Err(if (0..=1).contains(&first) { Errno::EOPNOTSUPP } else { Errno::EINVAL });
            }
            UNSENT_LOW => self.stream.unsent_low = (first as u32 != 0).then_some(first as u32),
            TELL_WAITING => {
                if !(0..=1).contains(&first) {
                    return Err(Errno::EINVAL);
                }
                self.flags.set(Flags::TELL_WAITING, on);
            }
            INFO => return Err(Errno::ENOPROTOOPT),
            _ => return Err(Errno::ENOPROTOOPT),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deferring_is_counted_in_retries() {
        let mut o = Options::new();
        for (asked, got) in [(0, 0), (1, 1), (2, 3), (5, 7), (-1, 0)] {
            o.set_stream(DEFER_ACCEPT, &bytes(asked)).unwrap();
            assert_eq!(o.stream(DEFER_ACCEPT).unwrap(), bytes(got), "{asked}");
        }
    }

    #[test]
    fn impossible_values_are_refused() {
        let mut o = Options::new();
        for (name, value) in [(KEEP_IDLE, 0), (KEEP_COUNT, 128), (SYN_COUNT, 0), (MAX_SEGMENT, 87), (USER_TIMEOUT, -1)]
        {
            assert_eq!(o.set_stream(name, &bytes(value)), Err(Errno::EINVAL), "{name}");
        }
        assert_eq!(o.set_stream(CONGESTION, b"reno"), Ok(()));
        assert_eq!(o.set_stream(CONGESTION, b"bbr\0"), Err(Errno::ENOENT));
        assert_eq!(o.stream(CONGESTION).unwrap(), *b"reno\0\0\0\0\0\0\0\0\0\0\0\0");
    }
}
