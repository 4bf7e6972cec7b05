//! Sending: streams, datagrams, echo requests and raw packets.
use crate::{
    api::loopback,
    counters::count,
    datagram::{self, Corked},
    endpoint::{Endpoint, Tuple},
    icmp,
    options::{Flags, Options, int_or_byte, level},
    packet::{Envelope, IPV4, Pieces, header_of, protocol, set},
    ring::Bytes,
    socket::{Control, Kind, Message, More, SocketId},
    stack::Stack,
};
use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use shimos_abi::{errno::Errno, time::Nanos};

/// IP_PMTUDISC_DO: packets are never cut.
const NEVER_CUT: u8 = 2;
/// The most that UDP over IPv4 can carry.
const LONGEST: usize = 65507;

/// What control messages ask of one packet.
#[derive(Clone, Copy, Debug, Default)]
struct Special {
    source: Option<IpAddr>,
    interface: u32,
    ttl: Option<u8>,
    tos: Option<u8>,
    /// Length of the datagrams that a longer message is cut into (UDP_SEGMENT).
    segment: Option<u16>,
}

impl Special {
    fn parse(control: &[Control]) -> Result<Special, Errno> {
        const IP_TOS: i32 = 1;
        const IP_TTL: i32 = 2;
        const IP_PACKET_INFO: i32 = 8;
        const IPV6_PACKET_INFO: i32 = 50;
        const IPV6_HOPS: i32 = 52;
        const IPV6_DONT_FRAGMENT: i32 = 62;
        const IPV6_CLASS: i32 = 67;
        const UDP_SEGMENT: i32 = 103;
        let mut special = Special::default();
        let hops = |bytes: &[u8], least: i32| match int_or_byte(bytes)? {
            -1 => Ok(None),
            value if (least..=255).contains(&value) => Ok(Some(value as u8)),
            _ => Err(Errno::EINVAL),
        };
        for message in control {
            let bytes = message.bytes.as_slice();
            match (message.level, message.kind) {
                (level::IP, IP_TTL) => special.ttl = hops(bytes, 1)?,
                (level::IP, IP_TOS) => special.tos = hops(bytes, 0)?,
                (level::IP, IP_PACKET_INFO) => {
                    let index = bytes.first_chunk::<4>().ok_or(Errno::EINVAL)?;
                    let source = bytes.get(4..8).and_then(|b| b.first_chunk::<4>()).ok_or(Errno::EINVAL)?;
                    special.interface = u32::from_le_bytes(*index);
                    let source = Ipv4Addr::from_octets(*source);
                    special.source = (!source.is_unspecified()).then_some(source.into());
                }
                (level::IPV6, IPV6_PACKET_INFO) => {
                    let source = bytes.first_chunk::<16>().ok_or(Errno::EINVAL)?;
                    let index = bytes.get(16..20).and_then(|b| b.first_chunk::<4>()).ok_or(Errno::EINVAL)?;
                    special.interface = u32::from_le_bytes(*index);
                    let source = Ipv6Addr::from_octets(*source);
                    special.source = (!source.is_unspecified()).then_some(source.to_canonical());
                }
                (level::IPV6, IPV6_HOPS) => special.ttl = hops(bytes, 0)?,
                (level::IPV6, IPV6_CLASS) => special.tos = hops(bytes, 0)?,
                (level::IPV6, IPV6_DONT_FRAGMENT) => {
                    hops(bytes, 0)?;
                }
                (level::UDP, UDP_SEGMENT) => {
                    let size = bytes.first_chunk::<2>().ok_or(Errno::EINVAL)?;
                    special.segment = Some(u16::from_le_bytes(*size)).filter(|size| *size > 0);
                }
                (level::IP | level::IPV6 | level::UDP, _) => return Err(Errno::EINVAL),
                _ => {}
            }
        }
        Ok(special)
    }
}

impl Stack {
    /// Sends. A stream may take only a part; `EAGAIN` if it takes nothing now. `to` is for datagrams without a peer.
    pub fn send(&mut self, now: Nanos, id: SocketId, bytes: &[u8], to: Option<SocketAddr>) -> Result<usize, Errno> {
        self.send_message(now, id, &Message { bytes, to, ..Message::default() })
    }

    /// Sends a message.
    pub fn send_message(&mut self, now: Nanos, id: SocketId, message: &Message<'_>) -> Result<usize, Errno> {
        let socket = self.socket_mut(id)?;
        if let Some(error) = socket.error.take() {
            return Err(error);
        }
        match &socket.kind {
            Kind::Idle | Kind::Listener(_) => return Err(Errno::EPIPE),
            Kind::Connection(_) => {
                return self.with_connection(now, id, |c, cx| c.write(message, cx)).unwrap_or(Err(Errno::EPIPE));
            }
            Kind::Udp(_) if message.urgent == crate::socket::Urgency::Urgent => return Err(Errno::EOPNOTSUPP),
            _ => {}
        }
        let flow = socket.flow().ok_or(Errno::EPIPE)?;
        if flow.shut_write {
            return Err(Errno::EPIPE);
        }
        let (peer, corked) = (flow.peer, flow.corked.as_ref().map(|corked| corked.to));
        let mut remote = match message.to {
            Some(to) => self.endpoint(id, to)?,
            None => corked.or(peer).ok_or(Errno::EDESTADDRREQ)?,
        };
        if remote.address.is_unspecified() {
            remote.address = loopback(remote.address);
        }
        let special = Special::parse(message.control)?;
        let socket = self.socket_mut(id)?;
        let keeps = message.more == More::Follows || socket.options.has(Flags::CORK_DATAGRAMS);
        if matches!(socket.kind, Kind::Udp(_)) && (keeps || corked.is_some()) {
            return self.send_corked(now, id, message, remote, &special);
        }
        self.send_datagram(now, id, message.bytes, remote, &special)
    }

    /// Adds to the datagram that is being put together, and sends it if this was the last piece.
    fn send_corked(
        &mut self,
        now: Nanos,
        id: SocketId,
        message: &Message<'_>,
        remote: Endpoint,
        special: &Special,
    ) -> Result<usize, Errno> {
        let socket = self.socket_mut(id)?;
        let keeps = message.more == More::Follows || socket.options.has(Flags::CORK_DATAGRAMS);
        let flow = socket.flow_mut().ok_or(Errno::EPIPE)?;
        let corked = flow.corked.get_or_insert_with(|| Corked { to: remote, bytes: Bytes(Vec::new()) });
        if corked.bytes.0.len() + message.bytes.len() > LONGEST {
            return Err(Errno::EMSGSIZE);
        }
        corked.bytes.0.extend_from_slice(message.bytes);
        if !keeps && let Some(corked) = flow.corked.take() {
            self.send_datagram(now, id, &corked.bytes.0, corked.to, special)?;
        }
        Ok(message.bytes.len())
    }

    /// Sends the datagram that was being put together (UDP_CORK was switched off).
    pub(crate) fn uncork(&mut self, now: Nanos, id: SocketId) -> Result<(), Errno> {
        match self.socket_mut(id)?.flow_mut().and_then(|flow| flow.corked.take()) {
            Some(corked) => self.send_datagram(now, id, &corked.bytes.0, corked.to, &Special::default()).map(|_| ()),
            None => Ok(()),
        }
    }

    fn send_datagram(
        &mut self,
        now: Nanos,
        id: SocketId,
        bytes: &[u8],
        remote: Endpoint,
        special: &Special,
    ) -> Result<usize, Errno> {
        let config = self.saved.link.config;
        let target = remote.address;
        if matches!(self.socket(id)?.kind, Kind::Udp(_)) && remote.port == 0 {
            return Err(Errno::EINVAL);
        }
        if !config.reaches(target) {
            return Err(Errno::ENETUNREACH);
        }
        let mut local = self.bind_for(id, remote)?;
        let socket = self.saved.sockets.get(&id).ok_or(Errno::EBADF)?;
        let options = &socket.options;
        if config.is_broadcast(target) && !options.has(Flags::BROADCAST) {
            return Err(Errno::EACCES);
        }
        let fixed = options.internet(target).source.map(|source| source.0);
        if let Some(source) = special.source.or(fixed) {
            let free = options.has(Flags::FREE_BIND) || options.has(Flags::TRANSPARENT);
            if source.is_ipv4() != target.is_ipv4() || !(config.is_local(source) || free) {
                return Err(Errno::EINVAL);
            }
            local.address = source;
        }
        let only_loops = group_device(options, target, special) == crate::config::LOOPBACK_INDEX;
        if only_loops && target.is_multicast() && special.source.is_none() {
            local.address = config.source_for(loopback(target));
        }
        let mut envelope = Envelope::new(local.address, target, protocol::UDP);
        let own = options.internet(target);
        envelope.tos = special.tos.unwrap_or(own.tos);
        let usual = if target.is_multicast() { own.group_ttl.unwrap_or(1) } else { own.ttl.unwrap_or(envelope.ttl) };
        envelope.ttl = special.ttl.unwrap_or(usual);
        let never_cut = own.discovery.is_some_and(|discovery| (NEVER_CUT..4).contains(&discovery))
            || (target.is_ipv6() && options.has(Flags::DONT_FRAGMENT6));
        envelope.longest = own.longest;
        if never_cut {
            envelope.pieces = Pieces::Forbidden;
        }
        let tuple = Tuple { local, remote };
        let mtu = self.saved.link.mtu(target) - header_of(target);
        let (extra, longest) = match &socket.kind {
            Kind::Udp(_) => (datagram::UDP_HEADER, if target.is_ipv4() { LONGEST } else { LONGEST + IPV4 }),
            _ => (0, icmp::longest(target)),
        };
        let pieces = special.segment.map_or(bytes.len().max(1), usize::from);
        let piece = bytes.len().min(pieces);
        if piece > longest || bytes.len() > longest || (never_cut && piece + extra > mtu) {
            return Err(Errno::EMSGSIZE);
        }
        if !self.saved.link.has_room(target) {
            self.derived.blocked.insert(id);
            return Err(Errno::EAGAIN);
        }
        match &socket.kind {
            Kind::Udp(flow) => {
                let coverage = flow.coverage;
                if coverage.is_some() {
                    envelope.protocol = protocol::LITE;
                }
                let mut rest = bytes;
                loop {
                    let (part, later) = rest.split_at(rest.len().min(pieces));
                    let mut frame = envelope.open(datagram::UDP_HEADER + part.len());
                    datagram::write_udp(&mut frame, tuple, part, coverage);
                    count(&mut self.saved.link.counters.udp_sent);
                    self.emit(now, id, &envelope, frame, special);
                    rest = later;
                    if rest.is_empty() {
                        break;
                    }
                }
            }
            Kind::Ping(_) => {
                let message = echo_request(tuple, bytes)?;
                envelope.protocol = icmp::protocol_for(target);
                icmp::send(&mut self.saved.link, now, &envelope, &message);
            }
            Kind::Raw(raw) => {
                envelope.protocol = raw.protocol;
                let frame = if options.has(Flags::OWN_HEADER) && target.is_ipv4() {
                    own_header(&envelope, bytes, mtu + IPV4)?
                } else {
                    let mut frame = envelope.open(bytes.len());
                    let start = frame.len();
                    frame.extend_from_slice(bytes);
                    if let (Some(at), IpAddr::V6(_)) = (raw.checksum_at, target) {
                        let at = start + usize::from(at);
                        if at + 2 > frame.len() {
                            return Err(Errno::EINVAL);
                        }
                        set(&mut frame, at, &[0, 0]);
                        let sum = crate::checksum::Sum::pseudo(local.address, target, envelope.protocol, bytes.len());
                        let sum = sum.add(frame.get(start..).unwrap_or(&[])).finish();
                        set(&mut frame, at, &sum);
                    }
                    frame
                };
                self.emit(now, id, &envelope, frame, special);
            }
            _ => return Err(Errno::EPIPE),
        }
        Ok(bytes.len())
    }

    /// Sends a frame; what goes to a group may come back as well.
    fn emit(&mut self, now: Nanos, id: SocketId, envelope: &Envelope, frame: Vec<u8>, special: &Special) {
        count(&mut self.saved.link.counters.packets_sent);
        let target = envelope.target;
        let Some(socket) = self.saved.sockets.get(&id) else { return };
        if !self.saved.link.config.is_group(target) || self.saved.link.config.is_local(target) {
            return self.saved.link.transmit(now, envelope, frame);
        }
        let silent = match target {
            IpAddr::V4(_) => Flags::NO_GROUP_LOOP4,
            IpAddr::V6(_) => Flags::NO_GROUP_LOOP6,
        };
        let device = group_device(&socket.options, target, special);
        let loops = !target.is_multicast() || !socket.options.has(silent);
        if loops && self.saved.link.has_room(loopback(target)) {
            self.saved.link.loop_back(frame.clone());
        }
        // A packet that may pass no router at all does not leave the host.
        if device != crate::config::LOOPBACK_INDEX && !(target.is_multicast() && envelope.ttl == 0) {
            self.saved.link.transmit(now, envelope, frame);
        }
    }
}

/// The interface for packets to a group.
fn group_device(options: &Options, target: IpAddr, special: &Special) -> u32 {
    match special.interface {
        0 => options.general.device.unwrap_or(options.internet(target).group_device),
        interface => interface,
    }
}

/// An echo request that a program made; its identifier is that of the socket.
fn echo_request(tuple: Tuple, message: &[u8]) -> Result<Vec<u8>, Errno> {
    let header = message.first_chunk::<{ icmp::HEADER }>().ok_or(Errno::EINVAL)?;
    if header[0] != icmp::request_type(tuple.remote.address) || header[1] != 0 {
        return Err(Errno::EINVAL);
    }
    let mut message = message.to_vec();
    set(&mut message, 4, &tuple.local.port.to_be_bytes());
    Ok(message)
}

/// A packet whose IP header the program made. Its length and checksum are set, and what the program left at zero.
fn own_header(envelope: &Envelope, bytes: &[u8], mtu: usize) -> Result<Vec<u8>, Errno> {
    let header = bytes.first_chunk::<IPV4>().ok_or(Errno::EINVAL)?;
    let length = usize::from(header[0] & 15) * 4;
    if length < IPV4 || length > bytes.len() {
        return Err(Errno::EINVAL);
    }
    if bytes.len() > mtu {
        return Err(Errno::EMSGSIZE);
    }
    let mut frame = Vec::with_capacity(crate::packet::ETHERNET + bytes.len());
    frame.resize(crate::packet::ETHERNET, 0);
    frame.extend_from_slice(bytes);
    let Some(packet) = frame.get_mut(crate::packet::ETHERNET..) else { return Err(Errno::EINVAL) };
    set(packet, 2, &(bytes.len() as u16).to_be_bytes());
    if header.get(12..16) == Some(&[0; 4])
        && let IpAddr::V4(source) = envelope.source
    {
        set(packet, 12, &source.octets());
    }
    set(packet, 10, &[0, 0]);
    let sum = crate::checksum::Sum::default().add(packet.get(..length).unwrap_or(&[])).finish();
    set(packet, 10, &sum);
    Ok(frame)
}
