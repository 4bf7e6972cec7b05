//! Texts of /proc/sys and /sys.
use super::{Proc, memory::kib, nodes::File, system::release};
use crate::event::{inotify, watches};
use alloc::{format, string::String};
use shimos_net::{BUFFER_MAX, Config};

impl Proc<'_> {
    /// The text of a file of /proc/sys or /sys; `None` for others.
    pub(super) fn setting(&self, file: File) -> Option<String> {
        let text: String = match file {
            File::GroupsMax => "65536".into(),
            File::PidMax => "4194304".into(),
            File::OsRelease => release(),
            File::OsType => "Linux".into(),
            File::OsVersion => self.build(),
            File::HostName => self.head.shown_host_name(),
            File::DomainName => self.head.shown_domain_name(),
            File::LastCapability => "40".into(),
            File::OverflowUser | File::OverflowGroup => "65534".into(),
            File::CorePattern => "core".into(),
            // Addresses are the same at every execution.
            File::Randomize | File::Tainted | File::Swappiness | File::HugePagesMax => "0".into(),
            File::ThreadsMax => format!("{}", crate::program::MAX_THREADS),
            File::BootId => self.boot_id(),
            File::Entropy | File::EntropyPool => "256".into(),
            File::FilesMax => "9223372036854775807".into(),
            File::FilesNow => format!("{}\t0\t9223372036854775807", self.descriptions.len()),
            File::OpenMax => "1048576".into(),
            File::InotifyEvents => format!("{}", inotify::MAX_QUEUED),
            File::InotifyInstances => format!("{}", inotify::MAX_INSTANCES),
            File::InotifyWatches => format!("{}", inotify::MAX_WATCHES),
            File::EpollWatches => format!("{}", watches::MAX_WATCHES),
            File::PipeSizeMax => "1048576".into(),
            File::BacklogMax => "4096".into(),
            File::ReceiveMax | File::SendMax => format!("{BUFFER_MAX}"),
            File::ReceiveDefault | File::SendDefault => "262144".into(),
            File::ControlMax => "20480".into(),
            File::PortRange => "32768\t60999".into(),
            File::FirstFreePort => "1024".into(),
            File::Forwarding | File::FastOpen | File::OnlySix => "0".into(),
            File::HopLimit => "64".into(),
            File::EchoGroups => "0\t2147483647".into(),
            File::Congestion | File::Congestions => "reno".into(),
            File::SynCookies | File::Stamps | File::Sack | File::Scaling => "1".into(),
            File::FinTimeout => "60".into(),
            File::KeepAliveTime => "7200".into(),
            File::KeepAliveInterval => "75".into(),
            File::KeepAliveProbes => "9".into(),
            File::SynRetries => "6".into(),
            // Buffers have the size that they are given: least, usual, largest.
            File::TcpReceive => "2304\t262144\t8388608".into(),
            File::TcpSend => "4608\t262144\t8388608".into(),
            File::UnixDatagrams => format!("{}", crate::unix::DATAGRAMS),
            // Memory is given out when it is touched, without any account of what was promised.
            File::Overcommit => "1".into(),
            File::OvercommitRatio => "50".into(),
            File::MapsMax => "65530".into(),
            File::LowestAddress => "65536".into(),
            File::CpusOnline | File::CpusPossible | File::CpusPresent | File::CpuLast => "0".into(),
            File::CpusOffline | File::CpusIsolated => String::new(),
            File::CoreId | File::DieId | File::PackageId => "0".into(),
            File::CoreCpusList | File::CoreSiblingsList | File::DieCpusList => "0".into(),
            File::PackageCpusList | File::ThreadSiblingsList | File::NodeCpuList => "0".into(),
            File::CoreCpus | File::CoreSiblings | File::DieCpus => "1".into(),
            File::PackageCpus | File::ThreadSiblings | File::NodeCpuMap => "1".into(),
            File::NodesOnline | File::NodesPossible => "0".into(),
            File::NodesWithCpu | File::NodesWithMemory | File::NodesWithNormal => "0".into(),
            File::NodeDistance => "10".into(),
            File::NodeMemory => {
                let (all, free) = (kib(self.moment.memory().total), kib(self.moment.memory().free));
                let line = |name: &str, value: u64| format!("Node 0 {name}:{value:>16} kB");
                let used = all.saturating_sub(free);
                [line("MemTotal", all), line("MemFree", free), line("MemUsed", used)].join("\n")
            }
            File::ClockSource | File::ClockSourcesAvailable => "tsc".into(),
            File::HugePagesEnabled => "always madvise [never]".into(),
            File::HugePagesDefrag => "always defer defer+madvise madvise [never]".into(),
            File::HugePageSize => "2097152".into(),
            _ => return None,
        };
        Some(text + "\n")
    }

    /// What stands for the machine's boot: the same for as long as it runs, on whatever kernel.
    fn boot_id(&self) -> String {
        let booted = self.moment.wall().saturating_sub(self.moment.now().0) / 1_000_000_000;
        let mixed = booted.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        uuid([mixed, mixed.rotate_left(29).wrapping_mul(0xbf58_476d_1ce4_e5b9)])
    }
}

/// A random UUID (RFC 9562, version 4) of these bits.
pub(super) fn uuid([high, low]: [u64; 2]) -> String {
    let (high, low) = (high & !0xf000 | 0x4000, low & !(3 << 62) | 1 << 63);
    format!(
        "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
        high >> 32,
        high >> 16 & 0xffff,
        high & 0xffff,
        low >> 48,
        low & 0xffff_ffff_ffff
    )
}

/// The text of a file of /sys/class/net; `None` for others.
pub(super) fn net_device(file: File, number: u32, config: &Config) -> Option<String> {
    let loopback = number == 1;
    let mac = if loopback { [0; 6] } else { config.mac };
    let spell = |bytes: [u8; 6]| bytes.map(|byte| format!("{byte:02x}")).join(":");
    let name = if loopback { "lo" } else { "eth0" };
    let text = match file {
        File::DeviceAddress => spell(mac),
        File::DeviceAddressLength => "6".into(),
        File::DeviceBroadcast => spell(if loopback { [0; 6] } else { [0xff; 6] }),
        File::DeviceCarrier => "1".into(),
        // Up and loopback; up, broadcast and multicast.
        File::DeviceFlags => (if loopback { "0x9" } else { "0x1003" }).into(),
        File::DeviceIndex | File::DeviceLink => format!("{number}"),
        File::DeviceMtu => (if loopback { "16436" } else { "1500" }).into(),
        File::DeviceState => (if loopback { "unknown" } else { "up" }).into(),
        File::DeviceQueue => "1000".into(),
        File::DeviceType => (if loopback { "772" } else { "1" }).into(),
        File::DeviceEvent => format!("INTERFACE={name}\nIFINDEX={number}"),
        _ => return None,
    };
    Some(text + "\n")
}

#[cfg(test)]
mod tests {
    use super::uuid;

    #[test]
    fn identifiers_are_of_version_four() {
        assert_eq!(uuid([u64::MAX, u64::MAX]), "ffffffff-ffff-4fff-bfff-ffffffffffff");
        assert_eq!(uuid([0, 0]), "00000000-0000-4000-8000-000000000000");
    }
}
