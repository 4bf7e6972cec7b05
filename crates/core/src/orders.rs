//! Restart commands that this kernel has been given. They are carried out one by one: a program that was taken over runs before the
//! next one is taken.
use crate::{daemon::Message, device::claim, kernel::Kernel};
use alloc::{collections::VecDeque, format};
use shimos_abi::{
    control::Device,
    ids::{KernelId, Life, ProgramId},
};
use shimos_hal::Machine;
use shimos_monitor::{Refusal, Work};

/// Commands that wait at most; what is more is carried out at once.
const MOST: usize = 512;

/// A restart command.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Order {
    pub work: Work,
    /// Whose it was.
    pub dead: Life,
    /// The term of the monitor that gave it.
    pub term: u32,
    /// That monitor.
    pub by: KernelId,
}

/// The commands that wait.
#[derive(Default)]
pub(crate) struct Orders(VecDeque<Order>);

impl Orders {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The next command. Console and control daemon come last: they serve people, who notice a millisecond less than programs do.
    fn next(&mut self) -> Option<Order> {
        let is_for_people =
            |work: Work| matches!(work, Work::Device(Device::Console) | Work::Program(ProgramId::DAEMON));
        let place = self.0.iter().position(|order| !is_for_people(order.work)).unwrap_or(0);
        self.0.remove(place)
    }
}

impl<M: Machine> Kernel<M> {
    /// A restart command has come.
    pub(crate) fn take_order(&mut self, order: Order) {
        if self.orders.0.len() >= MOST {
            self.carry_out(order);
        } else if !self.orders.0.contains(&order) {
            self.orders.0.push_back(order);
        }
    }

    /// Carries commands out, until a program has come that can run.
    pub(crate) fn carry_orders_out(&mut self) {
        while self.newcomer().is_none()
            && let Some(order) = self.orders.next()
        {
            self.carry_out(order);
        }
    }

    fn carry_out(&mut self, order: Order) {
        let Order { work, dead, by, .. } = order;
        let Err(why) = self.obey(order) else { return };
        if by == self.me.kernel {
            self.monitor.refused(work, dead, by, why);
        } else {
            self.tell(by, &Message::Refused { work, from: dead, why });
        }
    }

    /// Carries a command out, if the monitor that gave it still is the monitor.
    fn obey(&mut self, Order { work, dead, term, .. }: Order) -> Result<(), Refusal> {
        if self.services.ikc.area().election().term != term {
            return Ok(());
        }
        let ordered = self.services.machine.now();
        match work {
            Work::Program(program) => self.take_over(program, dead, ordered),
            Work::Device(device) => {
                if self.services.owns(device) {
                    return Ok(());
                }
                // Its interrupts and its queues come here; what clients had asked for they ask again.
                if dead.kernel != self.me.kernel && !claim::has_ended(&self.services, dead) {
                    return Err(Refusal::Busy);
                }
                if claim::claim(&mut self.services, device, Some(dead)) {
                    self.services.log(&format!("drives the {device:?} device now, after {dead}"));
                    Ok(())
                } else {
                    Err(Refusal::Device)
                }
            }
        }
    }
}
