//! Closing a connection that is to wait until the peer has everything (SO_LINGER).
//!
//! The descriptor is gone at once; its reference to the description stays with the call until the wait is over.
use crate::{
    context::{Context, Result, wait_for},
    files::{DescriptionId, Kind},
    resident::{Key, Resident},
    services::Services,
};
use shimos_abi::time::Nanos;
use shimos_hal::Machine;
use shimos_net::{How, SocketId};

/// Marks the note of a call that waits; the description is in the low half.
const WAITS: u64 = 1 << 63;

/// The description that a call of close(2) has noted, if it waits.
pub fn noted(note: u64) -> Option<DescriptionId> {
    (note & WAITS != 0).then_some(DescriptionId(note as u32))
}

/// The socket of a description if nothing else refers to it.
fn last_socket<M: Machine>(c: &Context<'_, M>, id: DescriptionId) -> Option<SocketId> {
    let description = c.resident.program.descriptions.get(&id).filter(|description| description.references <= 1)?;
    if let Kind::Socket(socket) = description.kind { Some(socket) } else { None }
}

/// Gives a description up that the caller has closed, waiting if its socket asks for that.
pub fn begin<M: Machine>(c: &mut Context<'_, M>, id: DescriptionId) -> Result<u64> {
    let wait = last_socket(c, id).and_then(|socket| Some((socket, c.resident.program.net.lingers(socket)?)));
    let Some((socket, seconds)) = wait else {
        c.release_description(id);
        return Ok(0);
    };
    let now = c.now();
    // What goes wrong shows in the state that is waited for.
    let _ = c.resident.program.net.shutdown(now, socket, How::Both);
    c.take_network();
    c.set_moved(WAITS | u64::from(id.0))?;
    c.deadline_in(Nanos::secs(seconds.into()))?;
    go_on(c, id)
}

/// Waits until the peer has everything, the time is over or a signal comes; then the description goes.
pub fn go_on<M: Machine>(c: &mut Context<'_, M>, id: DescriptionId) -> Result<u64> {
    let now = c.now();
    let over = c.thread()?.call.and_then(|call| call.deadline).is_none_or(|deadline| deadline <= now);
    if let Some(socket) = last_socket(c, id)
        && c.resident.program.net.is_closing(socket)
        && !over
        && !c.resident.has_signals(c.tid)
    {
        return wait_for(Key::Socket(socket));
    }
    c.release_description(id);
    Ok(0)
}

/// A thread ends while it waits.
pub fn give_back<M: Machine>(resident: &mut Resident<M>, services: &mut Services<M>, note: u64) {
    if let Some(id) = noted(note) {
        services.release_description(resident, id);
    }
}
