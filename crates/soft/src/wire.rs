//! What the world outside sees and does: the other end of the network cable and of the console, the power switch.
use crate::{devices::CARD_QUEUE, world::World};
use shimos_abi::time::Nanos;
use shimos_hal::Events;

impl World {
    /// Sends an Ethernet frame to the machine; it takes `delay` on the way.
    pub fn wire_send(&self, packet: Vec<u8>, delay: Nanos) {
        let mut world = self.lock();
        let ppm = world.config.timing.lost_packet_ppm;
        if world.rng.ppm(ppm) || world.card.coming.len() >= CARD_QUEUE {
            return;
        }
        // The cable keeps the order.
        let due = world.card.coming.back().map_or(Nanos(0), |(last, _)| *last).max(world.now + delay);
        world.card.coming.push_back((due, packet));
        world.device_at(due);
    }
    /// Takes an Ethernet frame that the machine has sent.
    pub fn wire_take(&self) -> Option<Vec<u8>> {
        self.lock().card.sent.pop_front()
    }
    /// Everything that the console has shown.
    pub fn console_output(&self) -> Vec<u8> {
        self.lock().console.output.clone()
    }
    /// How many bytes the console has shown.
    pub fn console_len(&self) -> usize {
        self.lock().console.output.len()
    }
    /// What the console has shown from byte `start` on.
    pub fn console_since(&self, start: usize) -> Vec<u8> {
        self.lock().console.output.get(start..).unwrap_or_default().to_vec()
    }
    /// Types at the console.
    pub fn console_type(&self, bytes: &[u8]) {
        let mut world = self.lock();
        world.console.input.extend(bytes);
        let owner = world.console.owner;
        world.ring_owner(owner, Events::CONSOLE);
    }
    /// Asks for [`crate::Next::Host`] at the given time, at the latest.
    pub fn host_at(&self, at: Nanos) {
        let mut world = self.lock();
        world.host_due = world.host_due.min(at);
    }
    /// Whether the machine has switched itself off.
    pub fn is_off(&self) -> bool {
        self.lock().off
    }
}
