//! The virtual disk: every kernel reads blocks of the root image from the disk's owner, through packets.
use crate::services::Services;
use alloc::{
    collections::{BTreeMap, VecDeque},
    vec,
    vec::Vec,
};
use minicbor::{Decode, Encode};
use shimos_abi::{
    addr::{Frame, PAGE},
    control::Device,
    ids::{KernelId, Life},
    shared::Queue,
};
use shimos_hal::{FrameSource, Machine, machine::DeviceError};
use shimos_ikc::SendError;

/// Bytes of a block in one packet: a third of it and a bit, so that three packets carry a block.
const PIECE: usize = 1408;
/// Requests that may wait at the owner; further ones are made again.
const WAITING_LIMIT: usize = 1024;

/// A block packet.
#[derive(Debug, Encode, Decode)]
enum Packet {
    /// Read this block.
    #[n(0)]
    Read(#[n(0)] u64),
    /// A piece of a block.
    #[n(1)]
    Piece {
        #[n(0)]
        block: u64,
        #[n(1)]
        offset: u16,
        #[cbor(n(2), with = "minicbor::bytes")]
        bytes: Vec<u8>,
    },
    /// The block cannot be read.
    #[n(2)]
    Failed(#[n(0)] u64),
}

/// What the owner of the disk keeps.
#[derive(Default)]
pub struct DiskOwner {
    /// Requests that the device has not taken yet.
    waiting: VecDeque<(KernelId, u64)>,
    /// Requests at the device: who asked for which block, and the frame.
    running: BTreeMap<u64, (KernelId, u64, Frame)>,
    next_tag: u64,
    /// Pieces that found a queue full.
    unsent: VecDeque<(KernelId, Vec<u8>)>,
    pace: Pace,
}

/// Whether the device is used.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
enum Pace {
    /// It is.
    #[default]
    Works,
    /// What was started is finished, what is new waits: the device is about to go elsewhere.
    WindsDown,
    /// It must not be touched: it is on its way to another owner.
    Stopped,
}

/// Blocks on their way to this kernel, as far as they have come.
#[derive(Default)]
pub struct Arriving {
    blocks: BTreeMap<u64, (Vec<u8>, usize)>,
}

impl Arriving {
    fn piece(&mut self, block: u64, offset: usize, bytes: &[u8]) -> Option<Vec<u8>> {
        let (whole, have) = self.blocks.entry(block).or_insert_with(|| (vec![0; PAGE], 0));
        // Pieces come in order; one that does not fit starts the block anew.
        if offset != *have || offset + bytes.len() > PAGE {
            *have = 0;
            if offset != 0 {
                return None;
            }
        }
        whole[offset..offset + bytes.len()].copy_from_slice(bytes);
        *have = offset + bytes.len();
        if *have == PAGE { self.blocks.remove(&block).map(|(whole, _)| whole) } else { None }
    }
}

/// Asks the owner for the blocks that are wanted, and works on the device if it is driven here. Returns the blocks that
/// arrived for this kernel itself.
#[must_use]
pub fn work<M: Machine>(services: &mut Services<M>) -> Vec<u64> {
    request(services);
    drive(services)
}

fn request<M: Machine>(services: &mut Services<M>) {
    let Some(owner) = services.owner(Device::Block) else { return };
    let me = services.machine.identity().life.kernel;
    while let Some(block) = services.blocks.next_wanted() {
        if owner == me && services.disk.is_some() {
            if let Some(disk) = &mut services.disk {
                disk.waiting.push_back((me, block));
            }
            continue;
        }
        let sent = encode(&Packet::Read(block)).map(|bytes| services.send(owner, Queue::Block, &[&bytes]));
        if !matches!(sent, Some(Ok(()))) {
            services.blocks.ask_again();
            return;
        }
    }
}

fn encode(packet: &Packet) -> Option<Vec<u8>> {
    minicbor::to_vec(packet).ok()
}

/// Works on the device: starts requests, hands finished ones out.
fn drive<M: Machine>(services: &mut Services<M>) -> Vec<u64> {
    let mut arrived = Vec::new();
    let Some(mut disk) = services.disk.take() else { return arrived };
    let me = services.machine.identity().life.kernel;
    disk.send_out(services);
    if disk.pace == Pace::Stopped {
        services.disk = Some(disk);
        return arrived;
    }
    while let Some((tag, result)) = services.machine.block_done() {
        let Some((who, block, frame)) = disk.running.remove(&tag) else { continue };
        if who == me {
            match result {
                Ok(()) => services.blocks.arrived(&mut services.frames, block, frame),
                Err(_) => {
                    services.blocks.failed(block);
                    services.frames.give(frame);
                }
            }
            arrived.push(block);
            continue;
        }
        match result {
            Ok(()) => {
                let mut whole = vec![0; PAGE];
                services.machine.read_frame(frame, 0, &mut whole);
                for (index, piece) in whole.chunks(PIECE).enumerate() {
                    let packet = Packet::Piece { block, offset: (index * PIECE) as u16, bytes: piece.to_vec() };
                    disk.unsent.extend(encode(&packet).map(|bytes| (who, bytes)));
                }
            }
            Err(_) => disk.unsent.extend(encode(&Packet::Failed(block)).map(|bytes| (who, bytes))),
        }
        services.frames.give(frame);
    }
    while disk.pace == Pace::Works
        && let Some((who, block)) = disk.waiting.pop_front()
    {
        let Some(frame) = services.frames.take() else {
            disk.waiting.push_front((who, block));
            break;
        };
        disk.next_tag += 1;
        match services.machine.block_read(disk.next_tag, block, frame) {
            Ok(()) => {
                disk.running.insert(disk.next_tag, (who, block, frame));
            }
            Err(DeviceError::Busy) => {
                services.frames.give(frame);
                disk.waiting.push_front((who, block));
                break;
            }
            Err(_) => {
                services.frames.give(frame);
                if who == me {
                    services.blocks.failed(block);
                    arrived.push(block);
                } else {
                    disk.unsent.extend(encode(&Packet::Failed(block)).map(|bytes| (who, bytes)));
                }
            }
        }
    }
    disk.send_out(services);
    services.disk = Some(disk);
    arrived
}

impl DiskOwner {
    /// Sends pieces on their way, as far as there is room in the queues.
    fn send_out<M: Machine>(&mut self, services: &mut Services<M>) {
        while let Some((to, bytes)) = self.unsent.pop_front() {
            if services.send(to, Queue::Block, &[&bytes]) == Err(SendError::Full) {
                self.unsent.push_front((to, bytes));
                return;
            }
        }
    }

    /// Starts nothing new. Returns whether all that was started has finished and was sent: then the device may go.
    pub fn wind_down(&mut self) -> bool {
        let done = self.running.is_empty() && self.unsent.is_empty();
        self.pace = if done { Pace::Stopped } else { Pace::WindsDown };
        done
    }

    /// The device is used again.
    pub fn wind_up(&mut self) {
        self.pace = Pace::Works;
    }

    /// Whether work waits that a later turn can do.
    pub fn is_busy(&self) -> bool {
        !self.unsent.is_empty()
    }
}

/// A packet has come. Returns the block that is now at hand (or has failed), if one is.
pub fn receive<M: Machine>(
    services: &mut Services<M>,
    arriving: &mut Arriving,
    from: Life,
    bytes: &[u8],
) -> Option<u64> {
    match minicbor::decode::<Packet>(bytes).ok()? {
        Packet::Read(block) => {
            // Who does not drive the disk says nothing: that it cannot be read is for the owner to say. The asker asks again when there
            // is another owner, or after a while.
            if let Some(disk) = services.disk.as_mut().filter(|disk| disk.waiting.len() < WAITING_LIMIT) {
                disk.waiting.push_back((from.kernel, block));
            }
            None
        }
        Packet::Piece { block, offset, bytes } => {
            if !services.blocks.is_requested(block) {
                return None;
            }
            let whole = arriving.piece(block, offset.into(), &bytes)?;
            // Without a free frame it is asked for again, as the disk's owner waits for one.
            let frame = services.frames.take()?;
            services.machine.write_frame(frame, 0, &whole);
            services.blocks.arrived(&mut services.frames, block, frame);
            Some(block)
        }
        Packet::Failed(block) => {
            services.blocks.failed(block);
            Some(block)
        }
    }
}
