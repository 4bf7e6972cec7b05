//! The virtual network. The card's owner is a switch with one port a program: a frame's destination address names the
//! program, and the program's home word names the kernel (D12).
use crate::services::Services;
use alloc::{vec, vec::Vec};
use shimos_abi::{
    control::{Device, mac_of},
    ids::{KernelId, ProgramId},
    shared::Queue,
};
use shimos_hal::Machine;

/// The largest Ethernet frame.
const FRAME_LIMIT: usize = 1514;

/// What the owner of the card keeps.
#[derive(Default)]
pub struct NetworkOwner {
    buffer: Vec<u8>,
}

/// Where a frame came from.
#[derive(Clone, Copy, PartialEq, Eq)]
enum From {
    Card,
    Inside,
}

/// The program that an Ethernet address belongs to.
fn program_of(mac: &[u8]) -> Option<ProgramId> {
    let [.., high, low] = *mac else { return None };
    let program = ProgramId(u16::from_be_bytes([high, low]));
    (mac == mac_of(program)).then_some(program)
}

/// Sends a frame of a program that lives here.
pub fn send<M: Machine>(services: &mut Services<M>, frame: Vec<u8>) {
    if services.network.is_some() {
        switch(services, frame, From::Inside);
    } else if let Some(owner) = services.owner(Device::Network) {
        // A full queue drops the frame, as a network may.
        let _ = services.send(owner, Queue::Network, &[&frame]);
    }
}

/// A packet has come from another kernel: to be switched, or for a program here.
pub fn receive<M: Machine>(services: &mut Services<M>, from: KernelId, frame: &[u8]) {
    if frame.len() < 14 || frame.len() > FRAME_LIMIT {
        return;
    }
    let from_owner = services.owner(Device::Network) == Some(from);
    if services.network.is_some() {
        switch(services, frame.to_vec(), From::Inside);
    } else if from_owner {
        services.inbound.push_back(frame.to_vec());
    }
}

/// Takes what the card has received. Returns whether there may be more.
pub fn drive<M: Machine>(services: &mut Services<M>) -> bool {
    const BATCH: usize = 64;
    let Some(mut owner) = services.network.take() else { return false };
    owner.buffer.resize(2048, 0);
    let mut received = Vec::new();
    for _ in 0..BATCH {
        let Some(len) = services.machine.net_receive(&mut owner.buffer) else { break };
        received.push(owner.buffer.get(..len).map(<[u8]>::to_vec).unwrap_or_default());
    }
    let more = received.len() == BATCH;
    services.network = Some(owner);
    for frame in received {
        if frame.len() >= 14 && frame.len() <= FRAME_LIMIT {
            switch(services, frame, From::Card);
        }
    }
    more
}

/// A frame goes where its address says. Only a frame for a group is copied.
fn switch<M: Machine>(services: &mut Services<M>, frame: Vec<u8>, from: From) {
    let me = services.machine.identity().life.kernel;
    let Some(target) = frame.first_chunk::<6>() else { return };
    if target[0] & 1 == 1 {
        let mut homes = vec![false; services.machine.identity().kernels];
        for (_, home) in services.ikc.area().programs() {
            if let Some(seen) = home.life().and_then(|life| homes.get_mut(life.kernel.index())) {
                *seen = true;
            }
        }
        for (index, _) in homes.iter().enumerate().filter(|(_, lives)| **lives) {
            deliver(services, me, KernelId(index as u16), frame.clone());
        }
        if from == From::Inside {
            let _ = services.machine.net_send(&frame);
        }
    } else if let Some(program) = program_of(target) {
        // While its kernel is dead and nobody has taken it over the frame goes nowhere: dropped, never refused.
        if let Some(life) = services.ikc.area().home(program).life() {
            deliver(services, me, life.kernel, frame);
        }
    } else if from == From::Inside {
        let _ = services.machine.net_send(&frame);
    }
}

fn deliver<M: Machine>(services: &mut Services<M>, me: KernelId, to: KernelId, frame: Vec<u8>) {
    if to == me {
        services.inbound.push_back(frame);
    } else {
        let _ = services.send(to, Queue::Network, &[&frame]);
    }
}

/// Whether a program takes a frame: it is its own address, or everybody's.
pub fn is_for(frame: &[u8], program: ProgramId) -> bool {
    frame.first().is_some_and(|first| first & 1 == 1) || frame.get(..6) == Some(&mac_of(program))
}

/// Whether a frame was sent by this program.
pub fn is_from(frame: &[u8], program: ProgramId) -> bool {
    frame.get(6..12) == Some(&mac_of(program))
}
