//! The calls on sockets as they are, for tests that care about every byte.
use shimos_user::raw;
use std::os::fd::{AsRawFd, OwnedFd};

pub const INET: i32 = libc::AF_INET;
pub const INET6: i32 = libc::AF_INET6;
pub const STREAM: i32 = libc::SOCK_STREAM;
pub const DGRAM: i32 = libc::SOCK_DGRAM;

fn address(bytes: &[u8]) -> u64 {
    bytes.as_ptr().expose_provenance() as u64
}

/// Where the kernel writes.
pub fn place(bytes: &mut [u8]) -> u64 {
    std::hint::black_box(bytes).as_mut_ptr().expose_provenance() as u64
}

fn fd(socket: &impl AsRawFd) -> u64 {
    socket.as_raw_fd() as u64
}

pub fn socket(family: i32, kind: i32, protocol: i32) -> Result<OwnedFd, i32> {
    raw::call(libc::SYS_socket, [family as u64, kind as u64, protocol as u64, 0, 0, 0]).map(raw::descriptor)
}

pub fn bind(socket: &impl AsRawFd, to: &[u8]) -> Result<u64, i32> {
    raw::call(libc::SYS_bind, [fd(socket), address(to), to.len() as u64, 0, 0, 0])
}

pub fn connect(socket: &impl AsRawFd, to: &[u8]) -> Result<u64, i32> {
    raw::call(libc::SYS_connect, [fd(socket), address(to), to.len() as u64, 0, 0, 0])
}

pub fn listen(socket: &impl AsRawFd, backlog: u64) -> Result<u64, i32> {
    raw::call(libc::SYS_listen, [fd(socket), backlog, 0, 0, 0, 0])
}

pub fn shutdown(socket: &impl AsRawFd, how: u64) -> Result<u64, i32> {
    raw::call(libc::SYS_shutdown, [fd(socket), how, 0, 0, 0, 0])
}

pub fn accept(socket: &impl AsRawFd) -> Result<OwnedFd, i32> {
    raw::call(libc::SYS_accept4, [fd(socket), 0, 0, 0, 0, 0]).map(raw::descriptor)
}

pub fn set(socket: &impl AsRawFd, level: i32, name: i32, value: &[u8]) -> Result<u64, i32> {
    let length = value.len() as u64;
    raw::call(libc::SYS_setsockopt, [fd(socket), level as u64, name as u64, address(value), length, 0])
}

pub fn set_int(socket: &impl AsRawFd, level: i32, name: i32, value: i32) -> Result<u64, i32> {
    set(socket, level, name, &value.to_le_bytes())
}

pub fn get(socket: &impl AsRawFd, level: i32, name: i32, room: usize) -> Result<Vec<u8>, i32> {
    let mut value = vec![0xa5_u8; room];
    let mut length = (room as u32).to_le_bytes();
    let arguments = [fd(socket), level as u64, name as u64, place(&mut value), place(&mut length), 0];
    raw::call(libc::SYS_getsockopt, arguments)?;
    let length = std::hint::black_box(length);
    Ok(std::hint::black_box(value)[..u32::from_le_bytes(length) as usize].to_vec())
}

pub fn get_int(socket: &impl AsRawFd, level: i32, name: i32) -> Result<i32, i32> {
    get(socket, level, name, 4).map(|bytes| i32::from_le_bytes(bytes.try_into().unwrap_or_default()))
}

fn name_by(number: i64, socket: &impl AsRawFd) -> Result<Vec<u8>, i32> {
    let mut bytes = [0_u8; 128];
    let mut length = 128_u32.to_le_bytes();
    raw::call(number, [fd(socket), place(&mut bytes), place(&mut length), 0, 0, 0])?;
    let length = u32::from_le_bytes(std::hint::black_box(length)) as usize;
    Ok(std::hint::black_box(bytes)[..length].to_vec())
}

pub fn name(socket: &impl AsRawFd) -> Result<Vec<u8>, i32> {
    name_by(libc::SYS_getsockname, socket)
}

pub fn peer(socket: &impl AsRawFd) -> Result<Vec<u8>, i32> {
    name_by(libc::SYS_getpeername, socket)
}

pub fn send(socket: &impl AsRawFd, bytes: &[u8], flags: i32, to: &[u8]) -> Result<u64, i32> {
    let place = if to.is_empty() { 0 } else { address(to) };
    let length = bytes.len() as u64;
    raw::call(libc::SYS_sendto, [fd(socket), address(bytes), length, flags as u64, place, to.len() as u64])
}

pub fn receive(socket: &impl AsRawFd, room: usize, flags: i32) -> Result<Vec<u8>, i32> {
    let mut bytes = vec![0_u8; room];
    let got = raw::call(libc::SYS_recvfrom, [fd(socket), place(&mut bytes), room as u64, flags as u64, 0, 0])?;
    Ok(std::hint::black_box(bytes)[..(got as usize).min(room)].to_vec())
}

/// A message that came by recvmsg.
#[derive(Debug, Default)]
pub struct Message {
    pub count: usize,
    pub bytes: Vec<u8>,
    pub from: Vec<u8>,
    pub flags: i32,
    /// Level, type and data.
    pub control: Vec<(i32, i32, Vec<u8>)>,
}

fn words(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

fn word(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap_or_default())
}

pub fn receive_message(socket: &impl AsRawFd, room: usize, control: usize, flags: i32) -> Result<Message, i32> {
    let mut bytes = vec![0_u8; room];
    let mut control = vec![0_u8; control];
    let mut from = vec![0_u8; 128];
    let vector = words(&[place(&mut bytes), room as u64]);
    let (room_for_control, control_place) = (control.len() as u64, place(&mut control));
    let mut header = words(&[place(&mut from), 128, address(&vector), 1, control_place, room_for_control, 0]);
    let count = raw::call(libc::SYS_recvmsg, [fd(socket), place(&mut header), flags as u64, 0, 0, 0])? as usize;
    let (header, control) = (std::hint::black_box(header), std::hint::black_box(control));
    let mut message = Message {
        count,
        bytes: std::hint::black_box(bytes)[..count.min(room)].to_vec(),
        from: std::hint::black_box(from)[..(word(&header, 8) as u32 as usize).min(128)].to_vec(),
        flags: word(&header, 48) as i32,
        control: Vec::new(),
    };
    let mut rest = &control[..word(&header, 40) as usize];
    while rest.len() >= 16 {
        let length = word(rest, 0) as usize;
        let kind = word(rest, 8);
        message.control.push((kind as i32, (kind >> 32) as i32, rest[16..length].to_vec()));
        rest = rest.get(length.next_multiple_of(8)..).unwrap_or_default();
    }
    Ok(message)
}

/// Sends bytes with one control message.
pub fn send_message(
    socket: &impl AsRawFd,
    bytes: &[u8],
    to: &[u8],
    control: Option<(i32, i32, &[u8])>,
) -> Result<u64, i32> {
    let vector = words(&[address(bytes), bytes.len() as u64]);
    let mut extra = Vec::new();
    if let Some((level, kind, data)) = control {
        extra.extend_from_slice(&(16 + data.len() as u64).to_le_bytes());
        extra.extend_from_slice(&level.to_le_bytes());
        extra.extend_from_slice(&kind.to_le_bytes());
        extra.extend_from_slice(data);
        extra.resize(extra.len().next_multiple_of(8), 0);
    }
    let place = if to.is_empty() { 0 } else { address(to) };
    let header = words(&[place, to.len() as u64, address(&vector), 1, address(&extra), extra.len() as u64, 0]);
    let sent = raw::call(libc::SYS_sendmsg, [fd(socket), address(&header), 0, 0, 0, 0]);
    std::hint::black_box((vector, extra, header));
    sent
}

pub fn ioctl(socket: &impl AsRawFd, request: u64, argument: &mut [u8]) -> Result<u64, i32> {
    raw::call(libc::SYS_ioctl, [fd(socket), request, place(argument), 0, 0, 0])
}

/// `struct sockaddr_in`.
pub fn four(address: [u8; 4], port: u16) -> Vec<u8> {
    [2_u16.to_le_bytes().as_slice(), &port.to_be_bytes(), &address, &[0; 8]].concat()
}

/// `struct sockaddr_in6`.
pub fn six(address: &str, port: u16, scope: u32) -> Vec<u8> {
    let address: std::net::Ipv6Addr = address.parse().unwrap_or(std::net::Ipv6Addr::UNSPECIFIED);
    [10_u16.to_le_bytes().as_slice(), &port.to_be_bytes(), &[0; 4], &address.octets(), &scope.to_le_bytes()].concat()
}

/// The port in an address of either family.
pub fn port(address: &[u8]) -> u16 {
    u16::from_be_bytes([address[2], address[3]])
}
