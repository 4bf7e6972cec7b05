//! The control daemon: answers the control protocol on TCP by passing each message to `/dev/shimos`.
//!
//! It hears the host alone, which asks by way of the gateway: a program inside asks its own `/dev/shimos`, where rights count. If
//! the root image has a policy, the machine begins with that.
//!
//! One thread, one `poll`, a handful of old system calls: this is the first program that a machine runs and the one
//! everything else is asked through.
#![forbid(unsafe_code)]

use rustix::{
    event::{PollFd, PollFlags, poll},
    fd::{AsFd, OwnedFd},
    io::Errno,
    net::{self, AddressFamily, SocketAddrAny, SocketFlags, SocketType},
};
use shimos_abi::{
    control::{GATEWAY, MAX_MESSAGE, Output, PORT, Protection, Request, Response, Target},
    ids::Pid,
    time::Nanos,
};
use shimos_policy::{Policy, machine};
use shimos_user::{device::Device, framing};
use std::{io, net::SocketAddrV4, path::Path};

/// How often the daemon's own state is checkpointed.
const OWN_INTERVAL: Nanos = Nanos::millis(50);
/// Clients at one time; the next ones wait in the listening queue.
const MAX_CLIENTS: usize = 16;

/// A policy that the root image brings.
const POLICY: &str = "/etc/shimos/policy.toml";

/// One connection.
struct Client {
    socket: OwnedFd,
    /// Received and not yet answered.
    input: Vec<u8>,
    /// Answered and not yet sent.
    output: Vec<u8>,
}

/// Whether a connection goes on.
enum Verdict {
    Keep,
    Close,
}

fn main() {
    if let Err(error) = serve() {
        eprintln!("shimosd: {error}");
        std::process::exit(1);
    }
}

fn serve() -> io::Result<()> {
    let mut device = Device::open()
        .map_err(|error| io::Error::other(format!("cannot open {}: {error}", shimos_user::device::PATH)))?;
    let listener = net::socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::NONBLOCK, None)?;
    net::bind(&listener, &SocketAddrV4::new([0, 0, 0, 0].into(), PORT))?;
    net::listen(&listener, MAX_CLIENTS as i32)?;
    protect_self(&mut device);
    begin_with_policy(&mut device);
    println!("shimosd: listening on port {PORT}");
    let mut clients: Vec<Client> = Vec::new();
    loop {
        let ready = wait(&listener, &clients)?;
        let mut flags = ready.into_iter();
        let accepting = flags.next().unwrap_or(PollFlags::empty());
        let mut kept = Vec::with_capacity(clients.len() + 1);
        for mut client in clients {
            let happened = flags.next().unwrap_or(PollFlags::empty());
            if matches!(turn(&mut client, happened, &mut device), Verdict::Keep) {
                kept.push(client);
            }
        }
        clients = kept;
        if accepting.contains(PollFlags::IN) && clients.len() < MAX_CLIENTS {
            // The client may be gone again: then there is nothing to accept.
            if let Ok((socket, Some(peer))) = net::acceptfrom_with(&listener, SocketFlags::NONBLOCK)
                && is_host(peer)
            {
                clients.push(Client { socket, input: Vec::new(), output: Vec::new() });
            }
        }
    }
}

/// The daemon outlives its kernel like any other program, so that the administrator is never cut off.
fn protect_self(device: &mut Device) {
    let request = Request::Protect {
        target: Target::Pid(Pid(std::process::id())),
        protection: Protection::new(OWN_INTERVAL, Output::Commit),
    };
    match device.ask(&request) {
        Ok(Response::Protected { exceptions, .. }) => {
            for exception in exceptions {
                println!("shimosd: not protected: {exception}");
            }
        }
        Ok(Response::Failed(why)) => println!("shimosd: runs unprotected: {why}"),
        Ok(other) => println!("shimosd: runs unprotected: unexpected answer {other:?}"),
        Err(error) => println!("shimosd: runs unprotected: {error}"),
    }
}

/// Whether a connection comes from the host.
fn is_host(peer: SocketAddrAny) -> bool {
    SocketAddrV4::try_from(peer).is_ok_and(|peer| peer.ip().octets() == GATEWAY)
}

/// The policy that the root image brings is the machine's until another is applied.
fn begin_with_policy(device: &mut Device) {
    let file = Path::new(POLICY);
    if !file.exists() {
        return;
    }
    match Policy::read(file).and_then(|(policy, text)| machine::apply(device, &policy, &text)) {
        Ok(changes) => print!("{}", machine::told(&changes)),
        Err(why) => println!("shimosd: the policy of the image is not applied: {}", why.replace('\n', "; ")),
    }
}

/// Waits until something can be done; returns what, for the listener and then each client.
fn wait(listener: &OwnedFd, clients: &[Client]) -> io::Result<Vec<PollFlags>> {
    let mut fds = Vec::with_capacity(clients.len() + 1);
    let accepting = if clients.len() < MAX_CLIENTS { PollFlags::IN } else { PollFlags::empty() };
    fds.push(PollFd::from_borrowed_fd(listener.as_fd(), accepting));
    for client in clients {
        // While an answer is on its way no further request is read: the client is held back by TCP.
        let want = if client.output.is_empty() { PollFlags::IN } else { PollFlags::OUT };
        fds.push(PollFd::from_borrowed_fd(client.socket.as_fd(), want));
    }
    loop {
        match poll(&mut fds, None) {
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
            Ok(_) => return Ok(fds.iter().map(PollFd::revents).collect()),
        }
    }
}

/// Gives one client its turn.
fn turn(client: &mut Client, happened: PollFlags, device: &mut Device) -> Verdict {
    if happened.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR) {
        let mut buffer = [0; 4096];
        match rustix::io::read(&client.socket, &mut buffer) {
            Ok(0) => return Verdict::Close,
            Ok(count) => client.input.extend_from_slice(buffer.get(..count).unwrap_or_default()),
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(_) => return Verdict::Close,
        }
        if client.input.len() > 2 * (framing::PREFIX + MAX_MESSAGE) {
            return Verdict::Close;
        }
    }
    if client.output.is_empty() {
        match framing::complete(&client.input) {
            Ok(None) => {}
            Err(_) => return Verdict::Close,
            Ok(Some(length)) => {
                let message: Vec<u8> = client.input.drain(..length).collect();
                client.output = device.exchange(&message).unwrap_or_else(|error| failed(&error));
            }
        }
    }
    if !client.output.is_empty() {
        match rustix::io::write(&client.socket, &client.output) {
            Ok(count) => drop(client.output.drain(..count)),
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(_) => return Verdict::Close,
        }
    }
    Verdict::Keep
}

/// The answer when the device gives none.
fn failed(error: &io::Error) -> Vec<u8> {
    let answer = Response::Failed(format!("the kernel gave no answer: {error}"));
    let item = minicbor::to_vec(&answer).unwrap_or_default();
    framing::frame(&item).unwrap_or_default()
}
