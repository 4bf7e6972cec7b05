//! Damage to images, for tests: what a kernel may do to its reserved memory while it dies.
use crate::{kernel::Kernel, resident::Resident};
use shimos_abi::{addr::Frame, control::Fault};
use shimos_checkpoint::Image;
use shimos_hal::Machine;

/// Words of a frame that are overwritten.
const WORDS: usize = 64;

impl<M: Machine> Kernel<M> {
    /// Does what a fault does to the image of the last program here, and says how the kernel dies then.
    pub(crate) fn damage(&mut self, fault: Fault) -> Fault {
        let Some(resident) = self.residents.values().rev().find(|resident| resident.guard.is_on()) else {
            return fault;
        };
        let frame = match fault {
            Fault::DamagePage => self.changed_page(resident),
            Fault::DamageRecords => resident.guard.writer.as_ref().and_then(shimos_checkpoint::Writer::newest_records),
            other => return other,
        };
        if let Some(frame) = frame {
            let machine = &mut self.services.machine;
            for word in 0..WORDS {
                let before = machine.read_word(frame, word);
                machine.write_word(frame, word, !before);
            }
        }
        Fault::Panic
    }

    /// A page that the newest generation has, and the one before not.
    fn changed_page(&self, resident: &Resident<M>) -> Option<Frame> {
        let (key, page) = resident.guard.writer.as_ref()?.newest_page()?;
        let machine = &self.services.machine;
        let image = Image::open(machine, machine.identity().pool, &[], resident.program.head.id).ok()?;
        image.page(machine, key, page).ok().flatten().map(|page| page.frame)
    }
}
