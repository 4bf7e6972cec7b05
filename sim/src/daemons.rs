//! A kernel that is nothing but its daemons: timer, monitor, fencing, takeover of devices and of toy programs.
//!
//! It is small enough that thousands of lives a minute can be ended, and shows that the protocols between kernels hold
//! by themselves. A toy program is one number in a frame, which its kernel counts up.
use minicbor::{Decode, Encode};
use shimos_abi::{
    control::{Device, KernelState},
    ids::{KernelId, Life, ProgramId},
    shared::Queue,
    time::Nanos,
};
use shimos_hal::Machine;
use shimos_ikc::{Endpoint, Home, Notify, Quarantine};
use shimos_monitor::{Action, Config, MonitorDaemon, Refusal, TimerDaemon, Work};
use shimos_soft::SoftMachine;
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

/// How often a toy program counts.
const BEAT: Nanos = Nanos::millis(5);

/// What toy programs have counted, as the world sees it.
#[derive(Clone, Default)]
pub struct Toys(Arc<Mutex<Seen>>);

#[derive(Default)]
struct Seen {
    counts: BTreeMap<u8, u64>,
    wrong: Option<String>,
}

impl Toys {
    fn lock(&self) -> std::sync::MutexGuard<'_, Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
    /// The last number of each.
    pub fn counts(&self) -> BTreeMap<u8, u64> {
        self.lock().counts.clone()
    }
    /// What went wrong.
    pub fn wrong(&self) -> Option<String> {
        self.lock().wrong.clone()
    }
    /// A number comes out. The last one may come again after a takeover; none may be missing or go back.
    fn show(&self, program: ProgramId, number: u64, by: Life) {
        let mut seen = self.lock();
        let last = seen.counts.entry(b'A' + program.0 as u8 - 1).or_insert(0);
        let old = *last;
        *last = number;
        if number != old && number != old + 1 {
            seen.wrong = Some(format!("{program} on {by} showed {number} after {old}"));
        }
    }
}

/// A message between daemons.
#[derive(Encode, Decode)]
enum Message {
    #[n(0)]
    Park(#[n(0)] Life),
    #[n(1)]
    Order {
        #[n(0)]
        work: Work,
        #[n(1)]
        from: Life,
        #[n(2)]
        term: u32,
    },
    #[n(2)]
    Refused {
        #[n(0)]
        work: Work,
        #[n(1)]
        from: Life,
        #[n(2)]
        why: Refusal,
    },
}

struct Kernel {
    machine: SoftMachine,
    ikc: Endpoint,
    timer: TimerDaemon,
    monitor: MonitorDaemon,
    toys: Toys,
    me: Life,
    beat: Nanos,
}

/// Runs one life of one kernel.
pub fn run(machine: SoftMachine, toys: Toys) {
    let me = machine.identity().life;
    let config = Config { boot: KernelId(0), ..Config::default() };
    let ikc = Endpoint::new(machine.shared(), machine.layout(), me);
    let mut kernel = Kernel {
        ikc,
        timer: TimerDaemon::new(me, config),
        monitor: MonitorDaemon::new(me, config),
        toys,
        me,
        beat: Nanos(0),
        machine,
    };
    if me.incarnation.0 == 1 {
        kernel.first_boot();
    }
    kernel.ikc.set_state(KernelState::Running);
    loop {
        kernel.turn();
    }
}

impl Kernel {
    fn first_boot(&mut self) {
        if self.me.kernel == KernelId(0) {
            self.ikc.area().set_heartbeat(Nanos::millis(10));
            for device in Device::ALL {
                if self.machine.claim(device).is_ok() {
                    let _ = self.ikc.area().move_owner(device, None, Some(self.me));
                }
            }
        }
        let area = self.ikc.area();
        let first = area.move_home(ProgramId::DAEMON, Home::Free, Home::Held(self.me));
        let program = first.map(|()| ProgramId::DAEMON).ok().or_else(|| area.allocate_program(self.me));
        if let Some(program) = program {
            self.set_count(program, 0);
            let home = Home::committed(self.me);
            let _ = self.ikc.area().move_home(program, Home::Held(self.me), home);
        }
    }

    fn set_count(&mut self, program: ProgramId, count: u64) {
        let frame = self.machine.identity().pool.at(1);
        self.machine.write_word(frame, usize::from(program.0), count);
    }

    fn turn(&mut self) {
        self.machine.take_events();
        let mut bytes = Vec::new();
        while let Some(received) = self.ikc.poll_any(&mut bytes) {
            if let Ok(message) = minicbor::decode(&bytes) {
                self.hear(message, received.from.kernel);
            }
        }
        let now = self.machine.now();
        let area = self.ikc.area();
        let turn = self.timer.turn(&area, now);
        if let Some(stamp) = turn.stamp {
            self.ikc.stamp(stamp, now);
            self.ikc.set_load(1, 1000, 1000);
        }
        if let Some(seen) = turn.nominate {
            area.elect(seen, self.me.kernel);
        }
        let step = self.monitor.step(&area, now);
        for action in step.actions {
            self.machine.now();
            if self.monitor.permits(&action, &area) {
                self.act(action);
            }
        }
        if now >= self.beat {
            self.beat = now + BEAT;
            self.count();
        }
        if !self.ikc.pending() {
            self.machine.idle(turn.next.min(step.next).min(self.beat));
        }
    }

    fn count(&mut self) {
        let mine = area_programs(&self.ikc, self.me);
        for program in mine {
            let frame = self.machine.identity().pool.at(1);
            let count = self.machine.read_word(frame, usize::from(program.0)) + 1;
            self.set_count(program, count);
            self.toys.show(program, count, self.me);
        }
    }

    fn tell(&mut self, to: KernelId, message: &Message) {
        let bytes = minicbor::to_vec(message).unwrap_or_default();
        if let Ok(Notify::Interrupt) = self.ikc.send(to, Queue::Daemon, &[&bytes]) {
            self.machine.notify(to);
        }
    }

    fn hear(&mut self, message: Message, from: KernelId) {
        match message {
            Message::Park(life) if life == self.me => self.machine.park(),
            Message::Park(_) => {}
            Message::Order { work, from: dead, term } => {
                if let Err(why) = self.adopt(work, dead, term) {
                    self.tell(from, &Message::Refused { work, from: dead, why });
                }
            }
            Message::Refused { work, from: dead, why } => self.monitor.refused(work, dead, from, why),
        }
    }

    fn act(&mut self, action: Action) {
        let area = self.ikc.area();
        match action {
            Action::Acknowledge { kernel, stamp } => self.ikc.acknowledge(kernel, stamp),
            Action::Claim { kernel, from, to } => {
                let _ = area.move_claim(kernel, from, to);
            }
            Action::Probe(kernel) => self.machine.send_nmi(kernel),
            Action::AskToPark(life) => self.tell(life.kernel, &Message::Park(life)),
            Action::Nmi(life) => {
                area.set_fence_word(life);
                self.machine.send_nmi(life.kernel);
            }
            Action::Init(life) => {
                area.set_fence_word(life);
                self.machine.send_init(life.kernel);
            }
            Action::Order { work, from, target, term } => {
                if target != self.me {
                    self.tell(target.kernel, &Message::Order { work, from, term });
                } else if let Err(why) = self.adopt(work, from, term) {
                    self.monitor.refused(work, from, self.me.kernel, why);
                }
            }
            Action::FreeHome { program, home, .. } => {
                let _ = area.move_home(program, home, Home::Free);
            }
            Action::Restart(life) => {
                if let Some(fenced) = self.machine.confirm_parked(life) {
                    self.ikc.forget(life);
                    self.machine.restart(fenced);
                }
            }
            Action::Quarantine(kernel) => area.set_quarantined(kernel, Quarantine::Begin),
            Action::Log(text) => self.ikc.log(text.as_bytes()),
        }
    }

    fn adopt(&mut self, work: Work, dead: Life, term: u32) -> Result<(), Refusal> {
        let area = self.ikc.area();
        if area.election().term != term {
            return Ok(());
        }
        match work {
            Work::Device(device) => {
                if area.owner(device) != Some(dead) {
                    return Ok(());
                }
                self.machine.claim(device).map_err(|_| Refusal::Device)?;
                let _ = area.move_owner(device, Some(dead), Some(self.me));
            }
            Work::Program(program) => {
                let home = area.home(program);
                if home.life() != Some(dead) {
                    return Ok(());
                }
                let fenced = self.machine.confirm_parked(dead).ok_or(Refusal::Busy)?;
                self.machine.map_dead(&fenced);
                // The frame at the same place of the dead kernel's pool; all pools are of one size.
                let own = self.machine.identity().pool;
                let distance = u32::from(dead.kernel.0).wrapping_sub(self.me.kernel.0.into());
                let frame = shimos_abi::addr::Frame(
                    own.at(1).0.wrapping_add(distance.wrapping_mul((self.machine.identity().memory / 4096) as u32)),
                );
                let count = self.machine.read_word(frame, usize::from(program.0));
                self.set_count(program, count);
                self.machine.unmap_peer(dead.kernel);
                let next = Home::committed(self.me);
                if area.move_home(program, home, next).is_ok() {
                    self.toys.show(program, count, self.me);
                }
            }
        }
        Ok(())
    }
}

fn area_programs(ikc: &Endpoint, me: Life) -> Vec<ProgramId> {
    ikc.area().programs().filter(|(_, home)| home.life() == Some(me)).map(|(program, _)| program).collect()
}
