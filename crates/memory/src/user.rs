//! Reading and writing a program's memory for system calls. No address is trusted, none is dereferenced.
use crate::{
    fault::{MemoryFault, Segv},
    space::{AddressSpace, Context},
};
use alloc::vec::Vec;
use shimos_abi::addr::{Frame, PAGE, UserAddr};
use shimos_hal::{Access, Machine, Rights};

/// A copy that stopped early.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Partial {
    /// Bytes that were copied.
    pub done: usize,
    /// Why no more.
    pub fault: MemoryFault,
}

impl From<Partial> for MemoryFault {
    fn from(partial: Partial) -> MemoryFault {
        partial.fault
    }
}

impl AddressSpace {
    /// The frame behind an address, ready for `access`, and the offset in it.
    pub fn translate<M: Machine>(
        &mut self,
        cx: &mut Context<'_, M>,
        addr: UserAddr,
        access: Access,
    ) -> Result<(Frame, usize), MemoryFault> {
        let page = addr.page().ok_or(MemoryFault::Segv(Segv::Unmapped))?;
        // The page tables never allow more than the mapping does.
        if let Some(mapping) = cx.machine.lookup(cx.tables, page)
            && (access == Access::Read || access == Access::Write && mapping.rights.contains(Rights::WRITE))
        {
            return Ok((mapping.frame, addr.offset()));
        }
        Ok((self.resolve(cx, page, access)?, addr.offset()))
    }

    /// Copies from the program.
    pub fn read<M: Machine>(
        &mut self,
        cx: &mut Context<'_, M>,
        addr: UserAddr,
        into: &mut [u8],
    ) -> Result<(), Partial> {
        let mut done = 0;
        for part in PageSteps::new(addr, into.len()) {
            let (frame, offset) =
                self.translate(cx, part.addr, Access::Read).map_err(|fault| Partial { done, fault })?;
            if let Some(bytes) = into.get_mut(done..done + part.len) {
                cx.machine.read_frame(frame, offset, bytes);
            }
            done += part.len;
        }
        Ok(())
    }

    /// Copies to the program.
    pub fn write<M: Machine>(&mut self, cx: &mut Context<'_, M>, addr: UserAddr, from: &[u8]) -> Result<(), Partial> {
        let mut done = 0;
        for part in PageSteps::new(addr, from.len()) {
            let (frame, offset) =
                self.translate(cx, part.addr, Access::Write).map_err(|fault| Partial { done, fault })?;
            if let Some(bytes) = from.get(done..done + part.len) {
                cx.machine.write_frame(frame, offset, bytes);
            }
            done += part.len;
        }
        Ok(())
    }

    /// Stores `len` bytes of `value`.
    pub fn fill<M: Machine>(
        &mut self,
        cx: &mut Context<'_, M>,
        addr: UserAddr,
        len: usize,
        value: u8,
    ) -> Result<(), Partial> {
        let bytes = [value; PAGE];
        let mut done = 0;
        for part in PageSteps::new(addr, len) {
            let (frame, offset) =
                self.translate(cx, part.addr, Access::Write).map_err(|fault| Partial { done, fault })?;
            if let Some(bytes) = bytes.get(..part.len) {
                cx.machine.write_frame(frame, offset, bytes);
            }
            done += part.len;
        }
        Ok(())
    }

    /// Makes `len` bytes at `addr` ready for `access`, so that copying cannot fail half-way.
    pub fn prepare<M: Machine>(
        &mut self,
        cx: &mut Context<'_, M>,
        addr: UserAddr,
        len: usize,
        access: Access,
    ) -> Result<(), Partial> {
        let mut done = 0;
        for part in PageSteps::new(addr, len) {
            self.translate(cx, part.addr, access).map_err(|fault| Partial { done, fault })?;
            done += part.len;
        }
        Ok(())
    }

    /// Reads a 32-bit number.
    pub fn read_u32<M: Machine>(&mut self, cx: &mut Context<'_, M>, addr: UserAddr) -> Result<u32, MemoryFault> {
        let mut bytes = [0; 4];
        self.read(cx, addr, &mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }

    /// Reads a 64-bit number.
    pub fn read_u64<M: Machine>(&mut self, cx: &mut Context<'_, M>, addr: UserAddr) -> Result<u64, MemoryFault> {
        let mut bytes = [0; 8];
        self.read(cx, addr, &mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    /// Writes a 32-bit number.
    pub fn write_u32<M: Machine>(
        &mut self,
        cx: &mut Context<'_, M>,
        addr: UserAddr,
        value: u32,
    ) -> Result<(), MemoryFault> {
        Ok(self.write(cx, addr, &value.to_le_bytes())?)
    }

    /// Writes a 64-bit number.
    pub fn write_u64<M: Machine>(
        &mut self,
        cx: &mut Context<'_, M>,
        addr: UserAddr,
        value: u64,
    ) -> Result<(), MemoryFault> {
        Ok(self.write(cx, addr, &value.to_le_bytes())?)
    }

    /// Replaces a 32-bit number by what `change` makes of it (`None` leaves it); returns the old one. No program runs
    /// meanwhile on this core, so it is one step to all that see this memory.
    pub fn update_u32<M: Machine>(
        &mut self,
        cx: &mut Context<'_, M>,
        addr: UserAddr,
        change: impl FnOnce(u32) -> Option<u32>,
    ) -> Result<u32, MemoryFault> {
        self.prepare(cx, addr, 4, Access::Write)?;
        let old = self.read_u32(cx, addr)?;
        if let Some(new) = change(old) {
            self.write_u32(cx, addr, new)?;
        }
        Ok(old)
    }

    /// Reads a string of at most `max` bytes up to its terminating zero, which is not returned. `None` if it is longer.
    pub fn read_cstring<M: Machine>(
        &mut self,
        cx: &mut Context<'_, M>,
        addr: UserAddr,
        max: usize,
    ) -> Result<Option<Vec<u8>>, MemoryFault> {
        const STEP: usize = 256;
        let mut string = Vec::new();
        let mut at = addr;
        loop {
            // Never beyond the page: the next one need not be mapped if the string ends before it.
            let len = (PAGE - at.offset()).min(STEP);
            let mut buffer = [0; STEP];
            let Some(part) = buffer.get_mut(..len) else { return Ok(None) };
            self.read(cx, at, part)?;
            let end = part.iter().position(|byte| *byte == 0);
            string.extend_from_slice(part.get(..end.unwrap_or(len)).unwrap_or_default());
            if string.len() > max {
                return Ok(None);
            }
            if end.is_some() {
                return Ok(Some(string));
            }
            at = UserAddr(at.0.saturating_add(len as u64));
        }
    }
}

/// A range of addresses cut at page borders.
struct PageSteps {
    at: u64,
    left: usize,
}

struct Step {
    addr: UserAddr,
    len: usize,
}

impl PageSteps {
    fn new(addr: UserAddr, len: usize) -> PageSteps {
        PageSteps { at: addr.0, left: len }
    }
}

impl Iterator for PageSteps {
    type Item = Step;
    fn next(&mut self) -> Option<Step> {
        if self.left == 0 {
            return None;
        }
        let addr = UserAddr(self.at);
        let len = (PAGE - addr.offset()).min(self.left);
        self.left -= len;
        // Saturates above all user addresses, where translation fails.
        self.at = self.at.saturating_add(len as u64);
        Some(Step { addr, len })
    }
}
