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

/// Room for a received frame.
const BUFFER: usize = 2048;

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

/// Takes the place for received frames, if the card is driven here. It must be given back.
pub fn borrow_buffer<M: Machine>(services: &mut Services<M>) -> Option<Vec<u8>> {
    let mut buffer = core::mem::take(&mut services.network.as_mut()?.buffer);
    buffer.resize(BUFFER, 0);
    Some(buffer)
}

/// Gives it back.
pub fn return_buffer<M: Machine>(services: &mut Services<M>, buffer: Vec<u8>) {
    if let Some(owner) = &mut services.network {
        owner.buffer = buffer;
    }
}

/// A frame has come from the card. Returns the program here that it is for alone; others are on their way.
pub fn from_card<M: Machine>(services: &mut Services<M>, frame: &[u8]) -> Option<ProgramId> {
    if frame.len() < 14 || frame.len() > FRAME_LIMIT {
        return None;
    }
    let target = frame.first_chunk::<6>()?;
    if target[0] & 1 == 0 {
        let program = program_of(target).filter(|program| !is_from(frame, *program))?;
        let life = services.ikc.area().home(program).life()?;
        if life.kernel == services.machine.identity().life.kernel {
            return Some(program);
        }
    }
    switch(services, frame.to_vec(), From::Card);
    None
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

/// A frame as if it had been sent to this program alone.
pub fn readdressed(frame: &[u8], program: ProgramId) -> Vec<u8> {
    let mut frame = frame.to_vec();
    if let Some(target) = frame.first_chunk_mut::<6>() {
        *target = mac_of(program);
    }
    frame
}

/// The program that alone takes a frame, if there is one.
pub fn taker(frame: &[u8]) -> Option<ProgramId> {
    frame.first_chunk::<6>().and_then(|target| program_of(target))
}

/// Whether a program takes a frame: it is its own address, or everybody's.
pub fn is_for(frame: &[u8], program: ProgramId) -> bool {
    frame.first().is_some_and(|first| first & 1 == 1) || frame.get(..6) == Some(&mac_of(program))
}

/// Whether a frame was sent by this program.
pub fn is_from(frame: &[u8], program: ProgramId) -> bool {
    frame.get(6..12) == Some(&mac_of(program))
}
