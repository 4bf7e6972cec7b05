//! /dev/shimos (paper 2.7): an administrator's conversation with the kernel.
//!
//! Requests and answers are those of `shimos_abi::control`. A write takes a whole request or a part of it; a read gives the
//! answer, and waits for it.
use crate::{
    context::{Context, Result, wait_for},
    files::{Conversation, DescriptionId, Kind},
    requests::Reply,
    resident::Key,
    syscall::status_flags,
};
use alloc::vec::Vec;
use shimos_abi::{control::MAX_MESSAGE, errno::Errno};
use shimos_hal::Machine;

fn conversation<'a, M: Machine>(c: &'a mut Context<'_, M>, id: DescriptionId) -> Result<&'a mut Conversation> {
    match &mut c.description_by(id)?.kind {
        Kind::Shimos(_, conversation) => Ok(conversation),
        _ => Err(Errno::EBADF.into()),
    }
}

/// Takes bytes of a request; a complete one is handed to the kernel.
pub fn write<M: Machine>(c: &mut Context<'_, M>, id: DescriptionId, bytes: &[u8]) -> Result<usize> {
    if c.process()?.credentials.euid != 0 {
        return Err(Errno::EPERM.into());
    }
    let program = c.resident.program.head.id;
    let conversation = conversation(c, id)?;
    if conversation.pending.is_some() {
        return Err(Errno::EBUSY.into());
    }
    if conversation.request.len() + bytes.len() > MAX_MESSAGE + 4 {
        conversation.request.clear();
        return Err(Errno::EMSGSIZE.into());
    }
    conversation.request.extend_from_slice(bytes);
    let Some(head) = conversation.request.first_chunk::<4>() else { return Ok(bytes.len()) };
    let length = u32::from_le_bytes(*head) as usize;
    if length > MAX_MESSAGE {
        conversation.request.clear();
        return Err(Errno::EMSGSIZE.into());
    }
    if conversation.request.len() < 4 + length {
        return Ok(bytes.len());
    }
    let rest = conversation.request.split_off(4 + length);
    let request = core::mem::replace(&mut conversation.request, rest);
    let number = c.services.requests.put(program, request[4..].to_vec());
    self::conversation(c, id)?.pending = Some(number);
    Ok(bytes.len())
}

/// Gives bytes of the answer.
pub fn read<M: Machine>(c: &mut Context<'_, M>, id: DescriptionId, count: usize) -> Result<Vec<u8>> {
    let nonblock = c.description_by(id)?.flags & status_flags::NONBLOCK != 0;
    if let Some(number) = conversation(c, id)?.pending {
        let program = c.resident.program.head.id;
        match c.services.requests.take(number, program) {
            Reply::Is(answer) => {
                let conversation = conversation(c, id)?;
                conversation.pending = None;
                conversation.answer.extend_from_slice(&(answer.len() as u32).to_le_bytes());
                conversation.answer.extend_from_slice(&answer);
            }
            Reply::Unknown => {
                conversation(c, id)?.pending = None;
                return Err(Errno::EIO.into());
            }
            Reply::Open if nonblock => return Err(Errno::EAGAIN.into()),
            Reply::Open => return wait_for(Key::Control(number)),
        }
    }
    let conversation = conversation(c, id)?;
    let count = count.min(conversation.answer.len());
    Ok(conversation.answer.drain(..count).collect())
}
