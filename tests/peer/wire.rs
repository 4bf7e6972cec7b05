//! A wire to Linux: a TAP device in a network namespace of this process, and what happens to frames on it.
use anyhow::{Context, Result, bail};
use shimos_abi::time::Nanos;
use shimos_net::{Config, Config6, Family, Stack};
use shimos_user::raw;
use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::AsRawFd,
    process::Command,
    thread,
    time::{Duration, Instant},
};

const NAME: &str = "shimos0";
const NEW_NETWORK: u64 = 0x4000_0000;
const NEW_USER: u64 = 0x1000_0000;
const SET_INTERFACE: u64 = 0x4004_54ca;
const TAP_WITHOUT_HEADER: u16 = 0x1002;
const SYS_UNSHARE: i64 = 272;
const SYS_IOCTL: i64 = 16;

/// The addresses of our end.
pub fn config() -> Config {
    Config {
        mac: [0x52, 0x53, 0x48, 0x4d, 0, 7],
        address: Ipv4Addr::new(10, 77, 1, 7),
        prefix: 16,
        gateway: Ipv4Addr::UNSPECIFIED,
        v6: Some(Config6 {
            address: Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 1, 7),
            prefix: 64,
            gateway: Ipv6Addr::UNSPECIFIED,
        }),
    }
}

/// Our address and that of Linux.
pub fn addresses(family: Family) -> (IpAddr, IpAddr) {
    match family {
        Family::V4 => (config().address.into(), Ipv4Addr::new(10, 77, 0, 9).into()),
        Family::V6 => {
            (Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 1, 7).into(), Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 9).into())
        }
    }
}

/// What the wire does to frames, in percent.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    pub lose: u64,
    pub repeat: u64,
    pub delay: u64,
    pub damage: u64,
}

/// The wire.
pub struct Wire {
    tap: File,
    started: Instant,
    faults: Faults,
    random: u64,
    /// Frames under way: when they arrive, in which order they were sent, and whether they go to Linux.
    flight: BTreeMap<(Nanos, u64), (Towards, Vec<u8>)>,
    count: u64,
    lost: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Towards {
    Linux,
    Stack,
}

fn call(number: i64, arguments: [u64; 6], what: &str) -> Result<u64> {
    raw::call(number, arguments).map_err(std::io::Error::from_raw_os_error).with_context(|| what.to_string())
}

fn ip(words: &str) -> Result<()> {
    let output = Command::new("ip").args(words.split(' ')).output().context("ip (package iproute2)")?;
    if !output.status.success() {
        bail!("ip {words}: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}

impl Wire {
    /// Makes a namespace and the wire into it. Must come before any thread.
    pub fn new() -> Result<Wire> {
        let root = raw::call(102, [0; 6]) == Ok(0);
        let spaces = if root { NEW_NETWORK } else { NEW_NETWORK | NEW_USER };
        call(SYS_UNSHARE, [spaces, 0, 0, 0, 0, 0], "a network namespace")?;
        let tap = File::options().read(true).write(true).open("/dev/net/tun").context("/dev/net/tun")?;
        let mut request = [0_u8; 40];
        request[..NAME.len()].copy_from_slice(NAME.as_bytes());
        request[16..18].copy_from_slice(&TAP_WITHOUT_HEADER.to_le_bytes());
        let (fd, place) = (tap.as_raw_fd() as u64, request.as_ptr().addr() as u64);
        call(SYS_IOCTL, [fd, SET_INTERFACE, place, 0, 0, 0], "a TAP device")?;
        const FIONBIO: u64 = 0x5421;
        let on = 1_u32.to_le_bytes();
        call(SYS_IOCTL, [fd, FIONBIO, on.as_ptr().addr() as u64, 0, 0, 0], "not to wait")?;
        // Duplicate address detection would only delay the start.
        let _ = fs::write(format!("/proc/sys/net/ipv6/conf/{NAME}/accept_dad"), "0");
        ip(&format!("addr add 10.77.0.9/16 dev {NAME}"))?;
        ip(&format!("link set {NAME} up"))?;
        ip(&format!("addr add fd77::9/64 dev {NAME} nodad"))?;
        let started = Instant::now();
        Ok(Wire { tap, started, faults: Faults::default(), random: 1, flight: BTreeMap::new(), count: 0, lost: 0 })
    }

    /// Begins anew with a seed.
    pub fn set(&mut self, seed: u64, faults: Faults) {
        self.faults = faults;
        self.random = seed | 1;
        self.flight.clear();
        self.lost = 0;
        let mut stale = [0; 2048];
        while self.tap.read(&mut stale).is_ok() {}
    }

    /// Frames that were lost so far.
    pub fn lost(&self) -> u64 {
        self.lost
    }

    /// The time.
    pub fn now(&self) -> Nanos {
        Nanos::secs(1000) + Nanos(self.started.elapsed().as_nanos() as u64)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.random ^= self.random >> 12;
        self.random ^= self.random << 25;
        self.random ^= self.random >> 27;
        (self.random.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16) % n
    }

    /// Puts a frame on the wire.
    fn put(&mut self, towards: Towards, mut frame: Vec<u8>) {
        // Only IP packets suffer: the wire itself would notice damage to what has no checksum of its own.
        let packet = matches!(frame.get(12..14), Some([0x08, 0x00] | [0x86, 0xdd]));
        if packet && self.below(100) < self.faults.lose {
            self.lost += 1;
            return;
        }
        if packet && frame.len() > 60 && self.below(100) < self.faults.damage {
            let place = 54 + self.below(frame.len() as u64 - 54) as usize;
            frame[place] ^= 1 << self.below(8);
        }
        let copies = if packet && self.below(100) < self.faults.repeat { 2 } else { 1 };
        for _ in 0..copies {
            let late = if packet && self.below(100) < self.faults.delay { self.below(8_000_000) } else { 0 };
            self.count += 1;
            self.flight.insert((self.now() + Nanos(200_000 + late), self.count), (towards, frame.clone()));
        }
    }

    /// Moves frames that are due, and lets time pass until something happens.
    pub fn turn(&mut self, stack: &mut Stack) -> Result<()> {
        let mut moved = false;
        let mut buffer = [0; 2048];
        while let Ok(count) = self.tap.read(&mut buffer) {
            self.put(Towards::Stack, buffer[..count].to_vec());
            moved = true;
        }
        while let Some(frame) = stack.take_frame() {
            self.put(Towards::Linux, frame);
            moved = true;
        }
        let now = self.now();
        while let Some(entry) = self.flight.first_entry() {
            if entry.key().0 > now {
                break;
            }
            moved = true;
            match entry.remove() {
                (Towards::Stack, frame) => stack.receive(now, &frame),
                // Linux drops what it has no room for, as a network may.
                (Towards::Linux, frame) => drop(self.tap.write(&frame)),
            }
        }
        stack.poll(now);
        if !moved {
            thread::sleep(Duration::from_micros(100));
        }
        Ok(())
    }
}
