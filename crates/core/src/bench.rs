//! Measurement of inter-kernel communication between two live kernels: the bare exchange of a cache line, packets between two
//! kernels that poll, packets that wake the other kernel, and a stream of packets.
//!
//! Both kernels stay in here for the time of one measurement, which is bounded well below what the monitor daemon takes for
//! a hang.
use crate::{daemon::Message, kernel::Kernel};
use alloc::{string::ToString, vec, vec::Vec};
use minicbor::{Decode, Encode};
use shimos_abi::{
    control::{Figure, KernelState, Response},
    ids::KernelId,
    shared::Queue,
    time::Nanos,
};
use shimos_hal::Machine;
use shimos_ikc::SendError;

/// One measurement lasts no longer.
const LIMIT: Nanos = Nanos::millis(100);
/// Rounds of one measurement, at most.
const ROUNDS: u32 = 2000;
/// Packets of the stream, at most.
const STREAM_ROUNDS: u32 = 400;
/// Bytes in a packet of the stream.
const STREAM_PACKET: usize = 1024;
/// How long the other kernel has to come.
const MEETING: Nanos = Nanos::millis(50);

/// What is measured.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode)]
#[cbor(index_only)]
pub enum Mode {
    /// A word that each of the two writes in turn.
    #[n(0)]
    Line,
    /// Packets, both kernels poll.
    #[n(1)]
    Polled,
    /// Packets, the other kernel sleeps.
    #[n(2)]
    Woken,
    /// Packets one after the other.
    #[n(3)]
    Stream,
}

/// A packet of a measurement.
#[derive(Clone, Debug, Encode, Decode)]
pub enum Ball {
    /// Number of the round, and the time at which the other kernel had it.
    #[n(0)]
    Round(#[n(0)] u32, #[n(1)] Nanos),
    /// Ballast of the stream.
    #[n(1)]
    Load(#[cbor(n(0), with = "minicbor::bytes")] Vec<u8>),
}

impl<M: Machine> Kernel<M> {
    /// Measures against another running kernel.
    pub(crate) fn bench_ikc(&mut self, rounds: u32) -> Response {
        let area = self.services.ikc.area();
        let peer =
            area.kernels().find(|kernel| *kernel != self.me.kernel && area.state(*kernel) == KernelState::Running);
        let Some(peer) = peer else {
            return Response::Failed("no other kernel runs: boot with --kernels 2 or more".to_string());
        };
        let rounds = rounds.clamp(1, ROUNDS);
        let mut figures = Vec::new();
        for (mode, name) in [
            (Mode::Line, "cache line, one way"),
            (Mode::Polled, "packet, polled, one way"),
            (Mode::Woken, "packet, woken, one way"),
            (Mode::Stream, "packet of 1 KiB in a stream"),
        ] {
            let rounds = if mode == Mode::Stream { rounds.min(STREAM_ROUNDS) } else { rounds };
            self.tell(peer, &Message::Bench { mode, rounds });
            let mut samples = self.drive_bench(peer, mode, rounds);
            samples.sort_unstable();
            figures.push(Figure { name: name.to_string(), samples: thin(samples) });
        }
        Response::Figures(figures)
    }

    fn drive_bench(&mut self, peer: KernelId, mode: Mode, rounds: u32) -> Vec<u64> {
        let mut samples = Vec::with_capacity(rounds as usize);
        let begun = self.services.machine.now();
        let end = begun + MEETING + LIMIT;
        match mode {
            Mode::Line => {
                for round in 1..=u64::from(rounds) {
                    let start = self.services.machine.now();
                    self.services.ikc.set_bench(round);
                    if !self.await_line(peer, round, end) {
                        break;
                    }
                    samples.push((self.services.machine.now() - start).0 / 2);
                }
                self.services.ikc.set_bench(0);
            }
            Mode::Polled | Mode::Woken => {
                for round in 0..rounds {
                    let start = self.services.machine.now();
                    if !self.throw(peer, &Ball::Round(round, start)) {
                        break;
                    }
                    let Some(Ball::Round(_, there)) = self.catch(peer, end) else { break };
                    let back = self.services.machine.now();
                    samples.push(if mode == Mode::Polled { (back - start).0 / 2 } else { (there - start).0 });
                }
            }
            Mode::Stream => {
                let load = Message::Ball(Ball::Load(vec![0x5a; STREAM_PACKET]));
                let Ok(load) = minicbor::to_vec(load) else { return samples };
                let start = self.services.machine.now();
                for _ in 0..rounds {
                    while self.services.send(peer, Queue::Daemon, &[&load]).is_err() {
                        if self.services.machine.now() >= end {
                            return samples;
                        }
                    }
                }
                if self.catch(peer, end).is_some() {
                    samples.push((self.services.machine.now() - start).0 / u64::from(rounds));
                }
            }
        }
        // The first rounds wait for the other kernel to come.
        if mode != Mode::Stream && samples.len() > 16 {
            samples.drain(..8);
        }
        samples
    }

    /// The other side of a measurement.
    pub(crate) fn answer_bench(&mut self, from: KernelId, mode: Mode, rounds: u32) {
        let end = self.services.machine.now() + LIMIT;
        let rounds = rounds.min(ROUNDS);
        match mode {
            Mode::Line => {
                for round in 1..=u64::from(rounds) {
                    if !self.await_line(from, round, end) {
                        break;
                    }
                    self.services.ikc.set_bench(round);
                }
                self.services.ikc.set_bench(0);
            }
            Mode::Polled | Mode::Woken => {
                for _ in 0..rounds {
                    if mode == Mode::Woken && !self.services.ikc.end_polling() {
                        self.services.machine.idle(end);
                        self.services.machine.take_events();
                    }
                    self.services.ikc.begin_polling();
                    let Some(Ball::Round(round, _)) = self.catch(from, end) else { break };
                    let now = self.services.machine.now();
                    if !self.throw(from, &Ball::Round(round, now)) {
                        break;
                    }
                }
            }
            Mode::Stream => {
                for _ in 0..rounds {
                    if self.catch(from, end).is_none() {
                        return;
                    }
                }
                let now = self.services.machine.now();
                self.throw(from, &Ball::Round(rounds, now));
            }
        }
    }

    /// Waits until the peer's word is `round`.
    fn await_line(&self, peer: KernelId, round: u64, end: Nanos) -> bool {
        const LOOKS: u32 = 256;
        let area = self.services.ikc.area();
        loop {
            for _ in 0..LOOKS {
                if area.bench(peer) == round {
                    return true;
                }
                core::hint::spin_loop();
            }
            if self.services.machine.now() >= end {
                return false;
            }
        }
    }

    fn throw(&mut self, to: KernelId, ball: &Ball) -> bool {
        let Ok(bytes) = minicbor::to_vec(Message::Ball(ball.clone())) else { return false };
        !matches!(
            self.services.send(to, Queue::Daemon, &[&bytes]),
            Err(SendError::Full | SendError::Down | SendError::TooLong)
        )
    }

    /// Waits for the next packet of the measurement; other messages of the peer are heard meanwhile.
    fn catch(&mut self, from: KernelId, end: Nanos) -> Option<Ball> {
        let mut bytes = Vec::new();
        loop {
            if let Some(received) = self.services.ikc.receive(from, Queue::Daemon, &mut bytes) {
                match minicbor::decode::<Message>(&bytes) {
                    Ok(Message::Ball(ball)) => return Some(ball),
                    Ok(Message::Bench { .. }) | Err(_) => {}
                    Ok(message) => self.hear(received.from, message),
                }
                continue;
            }
            if self.services.machine.now() >= end {
                return None;
            }
            core::hint::spin_loop();
        }
    }
}

/// As many samples as an answer has room for, evenly taken from the sorted ones, the last one included.
fn thin(samples: Vec<u64>) -> Vec<u64> {
    const MOST: usize = 64;
    if samples.len() <= MOST {
        return samples;
    }
    (0..MOST).map(|place| samples[place * (samples.len() - 1) / (MOST - 1)]).collect()
}
