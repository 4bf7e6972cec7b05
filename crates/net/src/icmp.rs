//! ICMP: answers to echo requests, sockets that send such requests, and errors.
use crate::{
    checksum::Sum,
    endpoint::{Endpoint, Tuple},
    link::{ETHERNET, IPV4, Incoming, Link, MTU},
    udp::Queue,
};
use core::net::Ipv4Addr;
use minicbor::{Decode, Encode};
use shimos_abi::{errno::Errno, time::Nanos};
use smoltcp::wire::IpProtocol;

const ECHO_REPLY: u8 = 0;
const UNREACHABLE: u8 = 3;
const ECHO_REQUEST: u8 = 8;
const TIME_EXCEEDED: u8 = 11;
const PORT_UNREACHABLE: u8 = 3;
/// Bytes of an ICMP header.
const HEADER: usize = 8;

/// A socket for echo requests. Its port is the identifier.
#[derive(Clone, Debug, Default, Encode, Decode)]
pub(crate) struct Ping {
    #[n(0)]
    pub peer: Option<Endpoint>,
    #[n(1)]
    pub queue: Queue,
}

/// What an ICMP message means to the stack.
pub(crate) enum Message<'a> {
    /// It asks for an answer.
    Request(&'a [u8]),
    /// It answers the socket with this identifier.
    Reply(u16, &'a [u8]),
    /// Something that was sent from here could not be delivered.
    Failure(IpProtocol, Tuple, Errno),
}

/// Understands a message, if it is whole and of interest.
pub(crate) fn parse<'a>(incoming: &Incoming<'a>) -> Option<Message<'a>> {
    let bytes = incoming.payload;
    if !incoming.looped && !Sum::default().add(bytes).is_valid() {
        return None;
    }
    let (header, rest) = bytes.split_first_chunk::<HEADER>()?;
    let [kind, code, _, _, id_high, id_low, _, _] = *header;
    match kind {
        ECHO_REQUEST => Some(Message::Request(bytes)),
        ECHO_REPLY => Some(Message::Reply(u16::from_be_bytes([id_high, id_low]), bytes)),
        UNREACHABLE | TIME_EXCEEDED => {
            let error = match (kind, code) {
                (UNREACHABLE, 2 | PORT_UNREACHABLE) => Errno::ECONNREFUSED,
                (UNREACHABLE, 0 | 6) => Errno::ENETUNREACH,
                // Our packets fit every network we know of: nothing to do about a smaller one.
                (UNREACHABLE, 4) => return None,
                _ => Errno::EHOSTUNREACH,
            };
            let (protocol, tuple) = quoted(rest)?;
            Some(Message::Failure(protocol, tuple, error))
        }
        _ => None,
    }
}

/// Whose packet an error quotes: its header and eight bytes more.
fn quoted(bytes: &[u8]) -> Option<(IpProtocol, Tuple)> {
    let header = bytes.first_chunk::<IPV4>()?;
    let length = usize::from(header[0] & 15) * 4;
    if header[0] >> 4 != 4 || length < IPV4 {
        return None;
    }
    let [a, b, c, d] = *bytes.get(length..)?.first_chunk::<4>()?;
    let address = |from: usize| Some(Ipv4Addr::from_octets(*header.get(from..)?.first_chunk::<4>()?));
    let tuple = Tuple {
        local: Endpoint::new(address(12)?, u16::from_be_bytes([a, b])),
        remote: Endpoint::new(address(16)?, u16::from_be_bytes([c, d])),
    };
    Some((IpProtocol::from(header[9]), tuple))
}

/// Sends a message, whose checksum is set here.
fn send(link: &mut Link, now: Nanos, source: Ipv4Addr, target: Ipv4Addr, kind: [u8; 2], rest: (&[u8], &[u8])) {
    if !link.has_room(target) {
        return;
    }
    let mut frame = link.frame(source, target, IpProtocol::Icmp, 4 + rest.0.len() + rest.1.len());
    let start = ETHERNET + IPV4;
    frame.extend_from_slice(&[kind[0], kind[1], 0, 0]);
    frame.extend_from_slice(rest.0);
    frame.extend_from_slice(rest.1);
    let sum = Sum::default().add(frame.get(start..).unwrap_or(&[])).finish();
    if let Some(place) = frame.get_mut(start + 2..start + 4) {
        place.copy_from_slice(&sum);
    }
    link.transmit(now, target, frame);
}

/// Answers an echo request.
pub(crate) fn reply(link: &mut Link, now: Nanos, incoming: &Incoming<'_>, request: &[u8]) {
    let rest = request.get(4..).unwrap_or(&[]);
    send(link, now, incoming.target, incoming.source, [ECHO_REPLY, 0], (rest, &[]));
}

/// Tells the sender of a packet that nobody uses its port.
pub(crate) fn port_unreachable(link: &mut Link, now: Nanos, incoming: &Incoming<'_>) {
    let quote = incoming.packet.get(..IPV4 + 40 + 8).unwrap_or(incoming.packet);
    send(link, now, incoming.target, incoming.source, [UNREACHABLE, PORT_UNREACHABLE], (&[0; 4], quote));
}

/// Sends an echo request that a program made; its identifier is that of the socket.
pub(crate) fn request(link: &mut Link, now: Nanos, tuple: Tuple, message: &[u8]) -> Result<usize, Errno> {
    let (header, rest) = message.split_first_chunk::<HEADER>().ok_or(Errno::EINVAL)?;
    if header[0] != ECHO_REQUEST || header[1] != 0 {
        return Err(Errno::EINVAL);
    }
    if message.len() > MTU - IPV4 {
        return Err(Errno::EMSGSIZE);
    }
    let [id_high, id_low] = tuple.local.port.to_be_bytes();
    let head = [id_high, id_low, header[6], header[7]];
    send(link, now, tuple.local.address, tuple.remote.address, [ECHO_REQUEST, 0], (&head, rest));
    Ok(message.len())
}
