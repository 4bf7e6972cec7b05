//! Moving bytes between files and a program's memory: from frame to frame, with no buffer in between.
use crate::{
    fault::{MemoryFault, Segv},
    objects::{MAX_SIZE, ObjectId},
    space::{AddressSpace, Context},
};
use shimos_abi::addr::{Frame, PAGE, UserAddr};
use shimos_hal::{Access, Machine};

/// Where the bytes of a file are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Bytes {
    /// In an object.
    Object(ObjectId),
    /// In this file of the root image.
    Image(u64),
}

impl Bytes {
    /// The frame with a page of them; none for a hole of zeros.
    fn page<M: Machine>(self, cx: &mut Context<'_, M>, index: u64) -> Result<Option<Frame>, MemoryFault> {
        match self {
            Bytes::Object(id) => cx.objects.page_for_read(cx.machine, cx.frames, cx.backing, id, index),
            Bytes::Image(nid) => Ok(Some(cx.backing.page(cx.machine, cx.frames, nid, index)?)),
        }
    }
}

/// A piece that lies in one page on both sides.
struct Piece {
    index: u64,
    within: usize,
    addr: UserAddr,
    len: usize,
}

fn piece(offset: u64, addr: UserAddr, done: usize, len: usize) -> Piece {
    let at = offset.saturating_add(done as u64);
    let addr = UserAddr(addr.0.saturating_add(done as u64));
    let within = (at % PAGE as u64) as usize;
    let len = (len - done).min(PAGE - within).min(PAGE - addr.offset());
    Piece { index: at / PAGE as u64, within, addr, len }
}

/// What is wrong with the program's memory: `Bus` is left to what is wrong with the file.
fn of_program(fault: MemoryFault) -> MemoryFault {
    if fault == MemoryFault::Bus { MemoryFault::Segv(Segv::Unmapped) } else { fault }
}

impl AddressSpace {
    /// Copies `len` bytes of a file, all of which are there, from `offset` on to the program. Returns how many, at least
    /// one unless it fails; `Bus` says that the file cannot be read. A block that is missing is waited for: programs take a
    /// short read for the end of the file.
    pub fn take_from_file<M: Machine>(
        &mut self,
        cx: &mut Context<'_, M>,
        addr: UserAddr,
        len: usize,
        file: Bytes,
        offset: u64,
    ) -> Result<usize, MemoryFault> {
        let mut done = 0;
        while done < len {
            let piece = piece(offset, addr, done, len);
            let moved = self.translate(cx, piece.addr, Access::Write).map_err(of_program).and_then(|(to, start)| {
                match file.page(cx, piece.index)? {
                    Some(from) => cx.machine.copy_part((from, piece.within), (to, start), piece.len),
                    None => cx.machine.write_frame(to, start, ZEROS.get(..piece.len).unwrap_or_default()),
                }
                Ok(())
            });
            match moved {
                Ok(()) => done += piece.len,
                Err(fault @ MemoryFault::Missing(_)) => return Err(fault),
                Err(_) if done > 0 => break,
                Err(fault) => return Err(fault),
            }
        }
        Ok(done)
    }

    /// Copies `len` bytes of the program to an object, at `offset`, which grows if need be. Returns how many, at least one
    /// unless it fails.
    pub fn put_into_object<M: Machine>(
        &mut self,
        cx: &mut Context<'_, M>,
        addr: UserAddr,
        len: usize,
        id: ObjectId,
        offset: u64,
    ) -> Result<usize, MemoryFault> {
        let before = cx.objects.size(id);
        let end = offset.checked_add(len as u64).filter(|end| *end <= MAX_SIZE).ok_or(MemoryFault::Bus)?;
        if end > before {
            cx.objects.set_size(id, end);
        }
        let mut done = 0;
        let mut failure = None;
        while done < len {
            let piece = piece(offset, addr, done, len);
            // The program's page first: to make it ready may move it, and what the object shows is not moved by that.
            let moved = self.translate(cx, piece.addr, Access::Read).and_then(|(from, start)| {
                let to = cx.objects.page_for_write(cx.machine, cx.frames, cx.backing, id, piece.index)?;
                cx.machine.copy_part((from, start), (to, piece.within), piece.len);
                Ok(())
            });
            if let Err(fault) = moved {
                failure = Some(fault);
                break;
            }
            done += piece.len;
        }
        if let Some(fault) = failure {
            let reached = if done > 0 { offset + done as u64 } else { before };
            cx.objects.set_size(id, before.max(reached));
            if done == 0 {
                return Err(fault);
            }
        }
        Ok(done)
    }
}

/// A page of a hole.
static ZEROS: [u8; PAGE] = [0; PAGE];
