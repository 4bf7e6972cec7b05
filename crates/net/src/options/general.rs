//! Options of the level SOL_SOCKET, the same for all families.
use super::{BUFFER_LIMIT, BUFFER_MAX, Flags, LEAST_RECEIVE, LEAST_SEND, Options, Privilege, bytes, int, unsigned};
use crate::config::{CARD_INDEX, LOOPBACK_INDEX};
use alloc::vec::Vec;
use shimos_abi::errno::Errno;

const DEBUG: i32 = 1;
const REUSE_ADDRESS: i32 = 2;
const DONT_ROUTE: i32 = 5;
const BROADCAST: i32 = 6;
const SEND_BUFFER: i32 = 7;
const RECEIVE_BUFFER: i32 = 8;
const KEEP_ALIVE: i32 = 9;
const OUT_OF_BAND_INLINE: i32 = 10;
const NO_CHECK: i32 = 11;
const PRIORITY: i32 = 12;
const LINGER: i32 = 13;
const BSD_COMPAT: i32 = 14;
const REUSE_PORT: i32 = 15;
const PASS_CREDENTIALS: i32 = 16;
const RECEIVE_LOW: i32 = 18;
const SEND_LOW: i32 = 19;
const BIND_TO_DEVICE: i32 = 25;
const ATTACH_FILTER: i32 = 26;
const DETACH_FILTER: i32 = 27;
const TIMESTAMP: i32 = 29;
const SEND_BUFFER_FORCE: i32 = 32;
const RECEIVE_BUFFER_FORCE: i32 = 33;
const PASS_SECURITY: i32 = 34;
const TIMESTAMP_NANOS: i32 = 35;
const MARK: i32 = 36;
const TIMESTAMPING: i32 = 37;
const TELL_OVERFLOW: i32 = 40;
const WIFI_STATUS: i32 = 41;
const PEEK_OFFSET: i32 = 42;
const NO_FCS: i32 = 43;
const LOCK_FILTER: i32 = 44;
const SELECT_ERRORS: i32 = 45;
const BUSY_POLL: i32 = 46;
const PACING: i32 = 47;
/// Everything is copied.
const ZEROCOPY: i32 = 60;
const FILTER_EXTENSIONS: i32 = 48;
const INCOMING_CPU: i32 = 49;
const ATTACH_BPF: i32 = 50;
const ATTACH_REUSE_CBPF: i32 = 51;
const ATTACH_REUSE_EBPF: i32 = 52;
const INCOMING_NAPI: i32 = 56;
const BIND_TO_INDEX: i32 = 62;
const TIMESTAMP_NEW: i32 = 63;
const TIMESTAMP_NANOS_NEW: i32 = 64;
const PREFER_BUSY_POLL: i32 = 69;
const BUSY_POLL_BUDGET: i32 = 70;
const BUFFER_LOCK: i32 = 72;
const REHASH: i32 = 74;
const TELL_MARK: i32 = 75;

/// The highest priority that everybody may choose.
const PRIORITY_MAX: i32 = 6;

/// The flag behind an option that is only on or off, and whether the flag is its opposite.
fn flag_of(name: i32) -> Option<(Flags, bool)> {
    Some(match name {
        REUSE_ADDRESS => (Flags::REUSE_ADDRESS, false),
        REUSE_PORT => (Flags::REUSE_PORT, false),
        DONT_ROUTE => (Flags::DONT_ROUTE, false),
        BROADCAST => (Flags::BROADCAST, false),
        KEEP_ALIVE => (Flags::KEEP_ALIVE, false),
        OUT_OF_BAND_INLINE => (Flags::OUT_OF_BAND_INLINE, false),
        NO_CHECK => (Flags::NO_CHECK, false),
        PASS_CREDENTIALS => (Flags::PASS_CREDENTIALS, false),
        PASS_SECURITY => (Flags::PASS_SECURITY, false),
        TELL_OVERFLOW => (Flags::TELL_OVERFLOW, false),
        WIFI_STATUS => (Flags::WIFI_STATUS, false),
        NO_FCS => (Flags::NO_FCS, false),
        SELECT_ERRORS => (Flags::SELECT_ERRORS, false),
        TELL_MARK => (Flags::TELL_MARK, false),
        REHASH => (Flags::NO_REHASH, true),
        _ => return None,
    })
}

/// The interface of this name.
pub(crate) fn device(name: &[u8]) -> Option<u32> {
    match name {
        b"lo" => Some(LOOPBACK_INDEX),
        b"eth0" => Some(CARD_INDEX),
        _ => None,
    }
}

impl Options {
    /// Reads an option of the level SOL_SOCKET that does not depend on what the socket is.
    pub fn general(&self, name: i32) -> Result<Vec<u8>, Errno> {
        if let Some((flag, opposite)) = flag_of(name) {
            return Ok(bytes(i32::from(self.has(flag) != opposite)));
        }
        Ok(match name {
            DEBUG => bytes(self.has(Flags::DEBUG).into()),
            SEND_BUFFER => unsigned(self.send_buffer),
            RECEIVE_BUFFER => unsigned(self.receive_buffer),
            PRIORITY => bytes(self.general.priority),
            LINGER => {
                let (on, seconds) = (u32::from(self.linger.is_some()), self.linger.unwrap_or(0));
                [on.to_le_bytes(), seconds.to_le_bytes()].concat()
            }
            BSD_COMPAT => bytes(0),
            RECEIVE_LOW => unsigned(self.receive_low() as u32),
            SEND_LOW => bytes(1),
            BIND_TO_DEVICE => match self.general.device {
                Some(LOOPBACK_INDEX) => b"lo\0".to_vec(),
                Some(_) => b"eth0\0".to_vec(),
                None => Vec::new(),
            },
            BIND_TO_INDEX => unsigned(self.general.device.unwrap_or(0)),
            // Asking for a filter's text: there is none.
            ATTACH_FILTER => Vec::new(),
            TIMESTAMP | TIMESTAMP_NEW => {
                let new = name == TIMESTAMP_NEW;
                bytes((self.has(Flags::STAMP_MICROS) && self.has(Flags::STAMP_NEW) == new).into())
            }
            TIMESTAMP_NANOS | TIMESTAMP_NANOS_NEW => {
                let new = name == TIMESTAMP_NANOS_NEW;
                bytes((self.has(Flags::STAMP_NANOS) && self.has(Flags::STAMP_NEW) == new).into())
            }
            TIMESTAMPING => unsigned(self.general.timestamping),
            MARK => unsigned(self.general.mark),
            PEEK_OFFSET => bytes(self.general.peek_at.map_or(-1, |at| at as i32)),
            LOCK_FILTER => bytes(self.has(Flags::LOCK_FILTER).into()),
            BUSY_POLL => unsigned(self.general.busy_poll),
            PREFER_BUSY_POLL => bytes(self.has(Flags::PREFER_BUSY_POLL).into()),
            // No limit is all bits set, whichever width it is read with.
            PACING => (self.general.pacing.unwrap_or(u64::MAX)).to_le_bytes().to_vec(),
            FILTER_EXTENSIONS => bytes(64),
            INCOMING_CPU => bytes(self.general.incoming_cpu.unwrap_or(0)),
            INCOMING_NAPI => bytes(0),
            BUFFER_LOCK => unsigned(self.general.buffers_locked),
            ZEROCOPY => bytes(0),
            _ => return Err(Errno::ENOPROTOOPT),
        })
    }

    /// Changes an option of the level SOL_SOCKET.
    pub fn set_general(&mut self, privilege: Privilege, name: i32, value: &[u8]) -> Result<(), Errno> {
        match name {
            BIND_TO_DEVICE => return self.bind_to_device(privilege, value),
            ATTACH_FILTER | ATTACH_BPF | ATTACH_REUSE_CBPF | ATTACH_REUSE_EBPF => {
                // Filters are programs for the kernel; there is no memory for any.
                return Err(if self.has(Flags::LOCK_FILTER) { Errno::EPERM } else { Errno::ENOMEM });
            }
            DETACH_FILTER => {
                return Err(if self.has(Flags::LOCK_FILTER) { Errno::EPERM } else { Errno::ENOENT });
            }
            _ => {}
        }
        let first = int(value)?;
        if let Some((flag, opposite)) = flag_of(name) {
            self.flags.set(flag, (first != 0) != opposite);
            return Ok(());
        }
        let admin = |needed: bool| {
            if needed && privilege != Privilege::Admin { Err(Errno::EPERM) } else { Ok(()) }
        };
        match name {
            DEBUG => {
                if first != 0 && privilege != Privilege::Admin {
                    return Err(Errno::EACCES);
                }
                self.flags.set(Flags::DEBUG, first != 0);
            }
            SEND_BUFFER | SEND_BUFFER_FORCE => {
                admin(name == SEND_BUFFER_FORCE)?;
                let most = if name == SEND_BUFFER { BUFFER_MAX } else { BUFFER_LIMIT / 2 };
                self.send_buffer = buffer(first, most, LEAST_SEND);
                self.general.buffers_locked |= 1;
            }
            RECEIVE_BUFFER | RECEIVE_BUFFER_FORCE => {
                admin(name == RECEIVE_BUFFER_FORCE)?;
                let most = if name == RECEIVE_BUFFER { BUFFER_MAX } else { BUFFER_LIMIT / 2 };
                self.receive_buffer = buffer(first, most, LEAST_RECEIVE);
                self.general.buffers_locked |= 2;
            }
            PRIORITY => {
                admin(!(0..=PRIORITY_MAX).contains(&first))?;
                self.general.priority = first;
            }
            LINGER => {
                let seconds = int(value.get(4..).unwrap_or_default())?;
                self.linger = (first != 0).then_some(seconds.max(0) as u32);
            }
            BSD_COMPAT => {}
            RECEIVE_LOW => self.general.receive_low = if first < 0 { i32::MAX as u32 } else { first as u32 },
            TIMESTAMP | TIMESTAMP_NANOS | TIMESTAMP_NEW | TIMESTAMP_NANOS_NEW => {
                self.flags.remove(Flags::STAMP_MICROS | Flags::STAMP_NANOS | Flags::STAMP_NEW);
                let micros = matches!(name, TIMESTAMP | TIMESTAMP_NEW);
                let flag = if micros { Flags::STAMP_MICROS } else { Flags::STAMP_NANOS };
                self.flags.set(flag, first != 0);
                self.flags.set(Flags::STAMP_NEW, first != 0 && matches!(name, TIMESTAMP_NEW | TIMESTAMP_NANOS_NEW));
            }
            MARK => {
                admin(true)?;
                self.general.mark = first as u32;
            }
            PEEK_OFFSET => self.general.peek_at = u32::try_from(first).ok(),
            LOCK_FILTER => {
                if self.has(Flags::LOCK_FILTER) && first == 0 {
                    return Err(Errno::EPERM);
                }
                self.flags.set(Flags::LOCK_FILTER, first != 0);
            }
            BUSY_POLL => {
                let value = u32::try_from(first).map_err(|_| Errno::EINVAL)?;
                admin(value > self.general.busy_poll)?;
                self.general.busy_poll = value;
            }
            PREFER_BUSY_POLL => {
                admin(first != 0)?;
                self.flags.set(Flags::PREFER_BUSY_POLL, first != 0);
            }
            BUSY_POLL_BUDGET => {
                admin(true)?;
                if !(0..=0xffff).contains(&first) {
                    return Err(Errno::EINVAL);
                }
            }
            PACING => {
                let wide = value.first_chunk::<8>().map(|bytes| u64::from_le_bytes(*bytes));
                let rate = wide.unwrap_or(u64::from(first as u32));
                let none = if wide.is_some() { u64::MAX } else { u32::MAX.into() };
                // Nothing paces what is sent.
                if rate != none {
                    return Err(Errno::EINVAL);
                }
                self.general.pacing = None;
            }
            INCOMING_CPU => self.general.incoming_cpu = Some(first),
            BIND_TO_INDEX => self.bind_to_index(privilege, first)?,
            BUFFER_LOCK => {
                if first & !3 != 0 {
                    return Err(Errno::EINVAL);
                }
                self.general.buffers_locked = first as u32;
            }
            ZEROCOPY => return Err(Errno::EOPNOTSUPP),
            _ => return Err(Errno::ENOPROTOOPT),
        }
        Ok(())
    }

    fn bind_to_device(&mut self, privilege: Privilege, value: &[u8]) -> Result<(), Errno> {
        let name = value.get(..15).unwrap_or(value);
        let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
        let wanted = if name.is_empty() { None } else { Some(device(name).ok_or(Errno::ENODEV)?) };
        self.choose_device(privilege, wanted)
    }

    fn bind_to_index(&mut self, privilege: Privilege, index: i32) -> Result<(), Errno> {
        let wanted = match index {
            0 => None,
            1 => Some(LOOPBACK_INDEX),
            2 => Some(CARD_INDEX),
            _ => return Err(Errno::EINVAL),
        };
        self.choose_device(privilege, wanted)
    }

    fn choose_device(&mut self, privilege: Privilege, wanted: Option<u32>) -> Result<(), Errno> {
        // Everybody may choose once; changing a choice takes more.
        if self.general.device.is_some() && privilege != Privilege::Admin {
            return Err(Errno::EPERM);
        }
        self.general.device = wanted;
        Ok(())
    }
}

/// The size of a buffer for which a program asked for `value` bytes: doubled, and within bounds.
fn buffer(value: i32, most: u32, least: u32) -> u32 {
    // A negative number is a very large one here.
    (value as u32).min(most).saturating_mul(2).max(least)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_bounded_as_on_linux() {
        let mut o = Options::new();
        for (asked, got) in [(1, 4608), (10_000, 20_000), (1 << 30, 425_984), (-1, 425_984)] {
            o.set_general(Privilege::None, SEND_BUFFER, &bytes(asked)).unwrap();
            assert_eq!(o.general(SEND_BUFFER).unwrap(), bytes(got));
        }
        o.set_general(Privilege::None, RECEIVE_BUFFER, &bytes(0)).unwrap();
        assert_eq!(o.general(RECEIVE_BUFFER).unwrap(), bytes(2304));
        assert_eq!(o.set_general(Privilege::None, RECEIVE_BUFFER_FORCE, &bytes(1 << 20)), Err(Errno::EPERM));
        o.set_general(Privilege::Admin, RECEIVE_BUFFER_FORCE, &bytes(1 << 20)).unwrap();
        assert_eq!(o.receive_buffer, 2 << 20);
    }

    #[test]
    fn what_needs_privilege_says_so() {
        let mut o = Options::new();
        assert_eq!(o.set_general(Privilege::None, MARK, &bytes(1)), Err(Errno::EPERM));
        assert_eq!(o.set_general(Privilege::None, PRIORITY, &bytes(7)), Err(Errno::EPERM));
        assert_eq!(o.set_general(Privilege::None, PRIORITY, &bytes(6)), Ok(()));
        assert_eq!(o.set_general(Privilege::None, BIND_TO_DEVICE, b"eth9\0"), Err(Errno::ENODEV));
        assert_eq!(o.set_general(Privilege::None, BIND_TO_DEVICE, b"lo\0"), Ok(()));
        assert_eq!(o.set_general(Privilege::None, BIND_TO_DEVICE, b"eth0"), Err(Errno::EPERM));
        assert_eq!(o.general(BIND_TO_DEVICE).unwrap(), b"lo\0");
        assert_eq!(o.set_general(Privilege::Admin, 9999, &bytes(1)), Err(Errno::ENOPROTOOPT));
        assert_eq!(o.set_general(Privilege::Admin, BROADCAST, &[1, 0]), Err(Errno::EINVAL));
    }
}
