//! rtnetlink(7): questions about the network.
use crate::{
    Outcome, Subtest,
    check::{fails, same, that, works},
    net,
};
use std::os::fd::OwnedFd;

/// The subtests.
pub const TESTS: &[Subtest] = &[
    ("netlink/links", links),
    ("netlink/addresses", addresses),
    ("netlink/routes", routes),
    ("netlink/errors", errors),
    ("netlink/names", names),
];

const REQUEST: u16 = 1;
const ACK: u16 = 4;
const DUMP: u16 = 0x300;
const GET_LINK: u16 = 18;
const GET_ADDRESS: u16 = 22;
const GET_ROUTE: u16 = 26;
const DONE: u16 = 3;
const ERROR: u16 = 2;

fn open() -> Result<OwnedFd, String> {
    works("socket", net::socket(libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0))
}

fn message(kind: u16, flags: u16, payload: &[u8]) -> Vec<u8> {
    let mut bytes = (16 + payload.len() as u32).to_le_bytes().to_vec();
    bytes.extend_from_slice(&kind.to_le_bytes());
    bytes.extend_from_slice(&flags.to_le_bytes());
    bytes.extend_from_slice(&77_u32.to_le_bytes());
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend_from_slice(payload);
    bytes
}

/// Type and payload of all answers, up to the last.
fn ask(socket: &OwnedFd, kind: u16, flags: u16, payload: &[u8]) -> Result<Vec<(u16, Vec<u8>)>, String> {
    works("send", net::send(socket, &message(kind, flags, payload), 0, &[16, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]))?;
    let mut answers = Vec::new();
    loop {
        let datagram = works("receive", net::receive_message(socket, 32768, 0, 0))?;
        same("from the kernel", datagram.from[4..8].to_vec(), vec![0; 4])?;
        let mut rest = datagram.bytes.as_slice();
        while rest.len() >= 16 {
            let length = u32::from_le_bytes([rest[0], rest[1], rest[2], rest[3]]) as usize;
            let kind = u16::from_le_bytes([rest[4], rest[5]]);
            same("number", rest[8], 77)?;
            answers.push((kind, rest[16..length].to_vec()));
            if flags & DUMP != DUMP || kind == DONE || kind == ERROR {
                return Ok(answers);
            }
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
    }
}

/// The attribute of a kind.
fn attribute(payload: &[u8], fixed: usize, kind: u16) -> Option<Vec<u8>> {
    let mut rest = &payload[fixed..];
    while rest.len() >= 4 {
        let length = usize::from(u16::from_le_bytes([rest[0], rest[1]]));
        if u16::from_le_bytes([rest[2], rest[3]]) == kind {
            return Some(rest[4..length].to_vec());
        }
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    None
}

fn links() -> Outcome {
    let socket = open()?;
    let answers = ask(&socket, GET_LINK, REQUEST | DUMP, &[0; 16])?;
    let (last, links) = answers.split_last().ok_or("no answer")?;
    same("the end", last.0, DONE)?;
    let lo = links.iter().find(|(_, link)| attribute(link, 16, 3) == Some(b"lo\0".to_vec())).ok_or("no lo")?;
    same("kind", lo.0, 16)?;
    same("type", u16::from_le_bytes([lo.1[2], lo.1[3]]), 772)?;
    same("mtu", attribute(&lo.1, 16, 4), Some(65536_u32.to_le_bytes().to_vec()))?;
    same("hardware", attribute(&lo.1, 16, 1), Some(vec![0; 6]))?;
    // One by its number, and one by its name.
    let mut by_number = [0; 16];
    by_number[4] = 1;
    let one = ask(&socket, GET_LINK, REQUEST, &by_number)?;
    same("by number", attribute(&one[0].1, 16, 3), Some(b"lo\0".to_vec()))?;
    let by_name = [[0; 16].as_slice(), &[7, 0, 3, 0, b'l', b'o', 0, 0]].concat();
    let one = ask(&socket, GET_LINK, REQUEST, &by_name)?;
    same("by name", one[0].1[4], 1)
}

fn addresses() -> Outcome {
    let socket = open()?;
    for (family, address, prefix) in
        [(2_u8, vec![127, 0, 0, 1], 8), (10, std::net::Ipv6Addr::LOCALHOST.octets().to_vec(), 128)]
    {
        let answers = ask(&socket, GET_ADDRESS, REQUEST | DUMP, &[family, 0, 0, 0, 0, 0, 0, 0])?;
        let found = answers.iter().find(|(kind, a)| *kind == 20 && attribute(a, 8, 1) == Some(address.clone()));
        let (_, found) = found.ok_or("no local address")?;
        same("family, prefix, scope", (found[0], found[1], found[3]), (family, prefix, 254))?;
        that("only one family", answers.iter().all(|(kind, a)| *kind != 20 || a[0] == family))?;
    }
    Ok(())
}

fn routes() -> Outcome {
    let socket = open()?;
    let answers = ask(&socket, GET_ROUTE, REQUEST | DUMP, &[2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])?;
    let local = answers.iter().find(|(_, r)| r.len() > 12 && attribute(r, 12, 1) == Some(vec![127, 0, 0, 1]));
    let (kind, route) = local.ok_or("no route to itself")?;
    same("kind", (*kind, route[1], route[4], route[7]), (24, 32, 255, 2))?;
    let question = [[2, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0].as_slice(), &[8, 0, 1, 0, 127, 0, 0, 1]].concat();
    let one = ask(&socket, GET_ROUTE, REQUEST, &question)?;
    same("by loopback", attribute(&one[0].1, 12, 4), Some(vec![1, 0, 0, 0]))
}

fn code(answers: &[(u16, Vec<u8>)]) -> Result<i32, String> {
    let (kind, payload) = answers.first().ok_or("no answer")?;
    same("an error", *kind, ERROR)?;
    Ok(-i32::from_le_bytes([payload[0], payload[1], payload[2], payload[3]]))
}

fn errors() -> Outcome {
    let socket = open()?;
    let mut nowhere = [0; 16];
    nowhere[4] = 99;
    let answers = ask(&socket, GET_LINK, REQUEST, &nowhere)?;
    same("no such link", code(&answers)?, libc::ENODEV)?;
    same("quoted", answers[0].1.len(), 4 + 32)?;
    same("nothing asked for", code(&ask(&socket, GET_LINK, REQUEST, &[0; 16])?)?, libc::EINVAL)?;
    same("no such question", code(&ask(&socket, 500, REQUEST, &[0; 16])?)?, libc::EOPNOTSUPP)?;
    works("short errors", net::set_int(&socket, 270, 10, 1))?;
    same("short", ask(&socket, GET_LINK, REQUEST, &nowhere)?[0].1.len(), 4 + 16)?;
    // An acknowledgement is an error that is none.
    same("nothing done", code(&ask(&socket, 1, REQUEST | ACK, &[])?)?, 0)?;
    fails("no such option", net::set_int(&socket, 270, 99, 1), libc::ENOPROTOOPT)?;
    fails(
        "nobody there",
        net::send(&socket, &[0; 16], 0, &[16, 0, 0, 0, 0xee, 0xee, 0xee, 0, 0, 0, 0, 0]),
        libc::ECONNREFUSED,
    )
}

fn names() -> Outcome {
    let socket = open()?;
    same("no number yet", net::name(&socket), Ok([vec![16, 0], vec![0; 10]].concat()))?;
    fails("short", net::bind(&socket, &[16, 0, 0, 0]), libc::EINVAL)?;
    fails("family", net::bind(&socket, &[2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]), libc::EINVAL)?;
    works("bind", net::bind(&socket, &[16, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]))?;
    let own = works("name", net::name(&socket))?;
    that("a number", own[4..8] != [0; 4])?;
    let other = open()?;
    fails("taken", net::bind(&other, &own), libc::EADDRINUSE)?;
    works("another", net::bind(&other, &[16, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]))?;
    that("differs", works("name", net::name(&other))? != own)?;
    fails("nothing waits", net::receive(&socket, 9, libc::MSG_DONTWAIT), libc::EAGAIN)
}
