//! Addresses of programs on the machine's network.
use crate::ids::ProgramId;

/// The IPv4 network of the programs: 10.77.0.0/16; the emulator's gateway is .0.2, its name server .0.3.
pub const NETWORK: [u8; 4] = [10, 77, 0, 0];
/// Prefix length of [`NETWORK`].
pub const NETWORK_PREFIX: u8 = 16;
/// The gateway.
pub const GATEWAY: [u8; 4] = [10, 77, 0, 2];
/// The name server.
pub const NAMESERVER: [u8; 4] = [10, 77, 0, 3];

/// The IPv6 network of the programs: fec0::/64.
pub const NETWORK6: [u8; 16] = [0xfe, 0xc0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
/// Prefix length of [`NETWORK6`].
pub const NETWORK6_PREFIX: u8 = 64;
/// The IPv6 gateway.
pub const GATEWAY6: [u8; 16] = [0xfe, 0xc0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2];
/// The IPv6 address of a program: fec0::1:p.
pub const fn address6_of(program: ProgramId) -> [u8; 16] {
    let [high, low] = program.0.to_be_bytes();
    [0xfe, 0xc0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, high, low]
}

/// The IPv4 address of a program (D12: it brings its address along).
pub const fn address_of(program: ProgramId) -> [u8; 4] {
    [10, 77, 1, program.0 as u8]
}
/// The Ethernet address of a program, locally administered; the last byte names the program.
pub const fn mac_of(program: ProgramId) -> [u8; 6] {
    [0x52, 0x53, 0x48, 0x4d, (program.0 >> 8) as u8, program.0 as u8]
}
