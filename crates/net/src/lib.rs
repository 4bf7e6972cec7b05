//! The network stack of one program: Ethernet, ARP, IPv4, ICMP, UDP and TCP, all of whose state is plain data.
//!
//! A program has its own hardware address and its own IPv4 address, so its stack moves with it. [`Stack`] is encoded into
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
mod deliver;
mod endpoint;
mod icmp;
mod link;
mod options;
mod ring;
mod secret;
mod settings;
mod socket;
mod stack;
mod tcp;
mod udp;

pub use link::Config;
pub use options::{SocketOption, TcpInfo};
pub use socket::{How, Protocol, Readiness, Received, SocketId, Take};
pub use stack::Stack;
pub use tcp::{AckMode, State};
