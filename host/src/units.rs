//! Quantities on the command line: durations, kernels, faults, ports, targets.
use crate::faults::{Injury, Which};
use shimos_abi::{
    control::{Partition, Target},
    ids::{Incarnation, KernelId, Life, MAX_KERNELS, Pid},
    time::Nanos,
};
pub use shimos_policy::words::{duration, integrity, interval, on_crash, output};

/// Shortest heartbeat that makes sense.
pub const MIN_HEARTBEAT: Nanos = Nanos::millis(1);
/// Longest heartbeat that makes sense.
pub const MAX_HEARTBEAT: Nanos = Nanos::secs(60);

/// A heartbeat interval; milliseconds when it has no unit.
pub fn heartbeat(word: &str) -> Result<Nanos, String> {
    let nanos = match word.parse::<u64>() {
        Ok(count) => Nanos::millis(count),
        Err(_) => duration(word)?,
    };
    within(nanos, MIN_HEARTBEAT, MAX_HEARTBEAT, "the heartbeat must be from 1ms to 1m")
}

fn within(value: Nanos, least: Nanos, most: Nanos, rule: &str) -> Result<Nanos, String> {
    if value < least || value > most { Err(rule.to_string()) } else { Ok(value) }
}

/// What keeps kernels apart.
pub fn partition(word: &str) -> Result<Partition, String> {
    match word {
        "none" => Ok(Partition::None),
        "svm" => Ok(Partition::Svm),
        _ => Err("the partition is svm or none".to_string()),
    }
}

/// A kernel: `k2` or `2`.
pub fn kernel(word: &str) -> Result<KernelId, String> {
    match word.strip_prefix('k').unwrap_or(word).parse::<u16>() {
        Ok(number) if usize::from(number) < MAX_KERNELS => Ok(KernelId(number)),
        _ => Err(format!("is no kernel; say k0 to k{}", MAX_KERNELS - 1)),
    }
}

/// Deaths of a kernel: `k2` for its last one, `k2.1` for that of its first life.
pub fn death(word: &str) -> Result<Which, String> {
    match word.split_once('.') {
        None => kernel(word).map(Which::LastOf),
        Some((id, incarnation)) => {
            let incarnation = incarnation.parse().map(Incarnation).map_err(|_| "is no life; say one like k2.1")?;
            Ok(Which::Exactly(Life { kernel: kernel(id)?, incarnation }))
        }
    }
}

/// A fault by its name.
pub fn fault(word: &str) -> Result<Injury, String> {
    Injury::named(word)
}

/// A program by process id or by name.
pub fn target(word: &str) -> Result<Target, String> {
    match word.parse::<u32>() {
        Ok(0) => Err("0 is no process id".to_string()),
        Ok(pid) => Ok(Target::Pid(Pid(pid))),
        Err(_) => name(word).map(Target::Name),
    }
}

/// A program's name.
pub fn name(word: &str) -> Result<String, String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if word.is_empty() || word.len() > 32 || !word.chars().all(plain) {
        return Err("is no name; use up to 32 letters, digits, '-', '_' and '.'".to_string());
    }
    if word.chars().all(|c| c.is_ascii_digit()) {
        return Err("is no name; a number would be taken for a process id".to_string());
    }
    Ok(word.to_string())
}

/// A port of the host that leads to a port of a program.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Published {
    /// Port on the host; 0 for any.
    pub host: u16,
    /// The program's address.
    pub address: [u8; 4],
    /// The program's port.
    pub port: u16,
}

impl Published {
    /// The rule in the emulator's words.
    pub fn rule(&self) -> String {
        let [a, b, c, d] = self.address;
        format!("tcp:127.0.0.1:{}-{a}.{b}.{c}.{d}:{}", self.host, self.port)
    }
}

/// `HOST:ADDRESS:PORT`, or `HOST:ADDRESS_PORT` with a program number in place of the address.
pub fn published(word: &str) -> Result<Published, String> {
    let wrong = || "must be like 8080:10.77.1.2:80 (port here, the program's address, its port)".to_string();
    let mut parts = word.split(':');
    let (Some(host), Some(address), Some(port), None) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
        return Err(wrong());
    };
    let address: std::net::Ipv4Addr = address.parse().map_err(|_| wrong())?;
    let octets = address.octets();
    if octets[..2] != shimos_abi::control::NETWORK[..2] {
        return Err("must lead to a program; their addresses are 10.77.1.1 to 10.77.1.255".to_string());
    }
    let ports = (host.parse().map_err(|_| wrong())?, port.parse().map_err(|_| wrong())?);
    if ports.1 == 0 {
        return Err(wrong());
    }
    Ok(Published { host: ports.0, address: octets, port: ports.1 })
}

/// `HOST:PORT` for a program that is about to start.
pub fn port_pair(word: &str) -> Result<(u16, u16), String> {
    let wrong = || "must be like 8080:80 (port here, the program's port)".to_string();
    let (host, port) = word.split_once(':').ok_or_else(wrong)?;
    match (host.parse(), port.parse()) {
        (Ok(host), Ok(port @ 1..)) => Ok((host, port)),
        _ => Err(wrong()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heartbeats_may_be_plain_milliseconds() {
        assert_eq!(heartbeat("10"), Ok(Nanos::millis(10)));
        assert_eq!(heartbeat("20ms"), Ok(Nanos::millis(20)));
        assert!(heartbeat("0").is_err());
        assert!(heartbeat("2h").is_err());
    }

    #[test]
    fn kernels_and_faults_have_names() {
        assert_eq!(kernel("k3"), Ok(KernelId(3)));
        assert_eq!(kernel("3"), Ok(KernelId(3)));
        assert!(kernel("k64").is_err());
        assert!(kernel("three").is_err());
        assert_eq!(fault("irq-deadlock"), Ok(Injury::Ordered(shimos_abi::control::Fault::IrqDeadlock)));
        assert!(fault("flood").is_err());
    }

    #[test]
    fn targets_are_pids_or_names() {
        assert_eq!(target("16385"), Ok(Target::Pid(Pid(16385))));
        assert_eq!(target("httpd"), Ok(Target::Name("httpd".to_string())));
        for wrong in ["0", "", "two words", "a/b"] {
            assert!(target(wrong).is_err(), "{wrong}");
        }
        assert!(name("12").is_err());
    }

    #[test]
    fn published_ports_lead_to_programs() {
        let port = published("8080:10.77.1.2:80").expect("right");
        assert_eq!(port.rule(), "tcp:127.0.0.1:8080-10.77.1.2:80");
        for wrong in ["8080", "8080:80", "8080:192.168.0.1:80", "99999:10.77.1.2:80", "1:10.77.1.2:0", "a:b:c"] {
            assert!(published(wrong).is_err(), "{wrong}");
        }
        assert_eq!(port_pair("8080:80"), Ok((8080, 80)));
        assert!(port_pair("8080").is_err());
    }
}
