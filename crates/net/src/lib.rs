//! The network stack of one program: Ethernet, neighbours, IPv4 and IPv6, ICMP, UDP and TCP, all of whose state is plain data.
//!
//! A program has its own hardware address and its own IPv4 and IPv6 addresses, so its stack moves with it. [`Stack`] is encoded into
//! every checkpoint of the program and goes on when it is decoded in another kernel: sequence numbers, queued bytes,
//! congestion state, half-open and not yet accepted connections, and TIME_WAIT entries are all in it. Lookup tables and
//! timer order are derived and rebuilt while decoding.
//!
//! The stack does no input or output by itself. Frames go in by [`Stack::receive`] and come out of [`Stack::take_frame`];
//! time is whatever the caller says it is. Packets to the program's own addresses never leave: they wait in the stack until
//! the next [`Stack::poll`].
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod api;
mod checksum;
mod config;
mod counters;
mod datagram;
mod deliver;
mod endpoint;
mod fragments;
mod icmp;
mod lend;
mod link;
mod list;
mod neighbour;
mod options;
mod packet;
mod receive;
mod ring;
mod secret;
mod send;
mod settings;
mod socket;
mod stack;
mod tcp;

pub use config::{CARD_INDEX, Config, Config6, LOOPBACK_INDEX};
pub use counters::{Counters, Traffic};
pub use endpoint::Family;
pub use lend::{Received as Lent, Room};
pub use list::{Census, Entry};
pub use neighbour::Freshness;
pub use options::{BUFFER_MAX, Options, Privilege, TcpInfo, level};
pub use receive::INTERFACES;
pub use socket::{Control, How, Message, More, Protocol, Readiness, Received, SocketId, Stamp, Take, Urgency};
pub use stack::Stack;
pub use tcp::{AckMode, State, answers_opening};
