//! A start over the memory of an earlier one: what is believed, and what is made of it.
#![allow(unexpected_cfgs, reason = "cfg(loom) is given by hand to run the models")]
#![cfg(not(loom))]
use shimos_abi::{
    control::Device,
    ids::{Incarnation, KernelId, Life, ProgramId},
    shared::{LAYOUT_VERSION, Layout, MASTER_MAGIC, commons, master, outgoing},
    time::Nanos,
};
use shimos_ikc::{
    Area, Drained, Home, Rebooting,
    warm::{self, Entry, Unusable},
};
use std::sync::atomic::{AtomicU64, Ordering};

const K0: KernelId = KernelId(0);
const K1: KernelId = KernelId(1);
const K2: KernelId = KernelId(2);

fn entry(kernel: KernelId) -> Entry {
    let place = u64::from(kernel.0) * 1000;
    [kernel.0.into(), place, 1000, place + 200, 800]
}
fn life(kernel: KernelId, incarnation: u32) -> Life {
    Life { kernel, incarnation: Incarnation(incarnation) }
}

/// A machine of three kernels that has started once.
fn machine() -> (&'static [AtomicU64], Area) {
    let layout = Layout::new(3);
    let words: &'static [AtomicU64] = (0..layout.words()).map(|_| AtomicU64::new(0)).collect::<Vec<_>>().leak();
    let put = |at: usize, value: u64| words[at].store(value, Ordering::SeqCst);
    for kernel in [K0, K1, K2] {
        let at = master::ENTRIES + kernel.index() * master::ENTRY_WORDS;
        entry(kernel).into_iter().enumerate().for_each(|(word, value)| put(at + word, value));
        put(at + master::ENTRY_FIRST, 1);
        put(layout.mailbox(kernel) + commons::MAILBOX_COMMAND, 2);
        put(layout.mailbox(kernel) + commons::MAILBOX_RUNNING, 2);
        put(layout.outgoing(kernel) + outgoing::INCARNATION, 2);
    }
    put(master::VERSION, LAYOUT_VERSION);
    put(master::KERNELS, 3);
    put(master::STARTS, 1);
    put(master::MAGIC, MASTER_MAGIC);
    let area = Area::new(words, layout);
    warm::seal(area);
    (words, area)
}

#[test]
fn a_sealed_table_is_believed_and_no_other() {
    let (words, area) = machine();
    assert_eq!(warm::examine(area, entry), Ok(()));
    let unlike = |kernel: KernelId| if kernel == K2 { [9; 5] } else { entry(kernel) };
    assert_eq!(warm::examine(area, unlike), Err(Unusable::Layout));
    for (word, why) in
        [(master::MAGIC, Unusable::Fresh), (master::VERSION, Unusable::Version), (master::TSC_BASE, Unusable::Damaged)]
    {
        let old = words[word].fetch_xor(1 << 40, Ordering::SeqCst);
        assert_eq!(warm::examine(area, entry), Err(why));
        words[word].store(old, Ordering::SeqCst);
    }
    words[commons::TRIES].store(warm::MOST_TRIES, Ordering::SeqCst);
    assert_eq!(warm::examine(area, entry), Err(Unusable::TooOften));
    area.set_lasting();
    assert_eq!(warm::examine(area, entry), Ok(()));
}

#[test]
fn every_core_is_parked_and_ordered_to_boot_its_next_life() {
    let (words, area) = machine();
    // k1 had died and was on its way into its third life.
    let mailbox = area.layout().mailbox(K1);
    words[mailbox + commons::MAILBOX_COMMAND].store(4, Ordering::SeqCst);
    let protected = Home::Protected { life: life(K2, 1), image: K1, falls: 2 };
    for (program, home) in [
        (1, Home::committed(life(K0, 1))),
        (2, protected),
        (3, Home::Held(life(K2, 1))),
        (4, Home::Offered { life: life(K0, 1), to: K2 }),
    ] {
        area.move_home(ProgramId(program), Home::Free, home).unwrap();
    }
    for device in Device::ALL {
        area.move_owner(device, None, Some(life(K1, 1))).unwrap();
        area.move_taker(device, None, Some(life(K1, 1))).unwrap();
    }
    area.set_drained(K2, Drained::Yes);
    area.set_rebooting(K2, Rebooting::Asked);
    let found = warm::resume(area, Nanos(77));
    assert_eq!((found.starts, found.found, found.gone), (2, 3, 1));
    assert_eq!(area.resumed(), Some((found, Nanos(77))));
    for (kernel, last) in [(K0, 1), (K1, 3), (K2, 1)] {
        assert_eq!(area.parked(kernel), Some(Incarnation(last)));
        assert_eq!(area.command(kernel), Some(Incarnation(last + 1)));
        assert_eq!(area.first_incarnation(kernel), Incarnation(last + 1));
        assert!(area.ended_at_reset(life(kernel, last)) && !area.ended_at_reset(life(kernel, last + 1)));
    }
    assert_eq!(area.home(ProgramId(2)), protected);
    assert_eq!(area.home(ProgramId(3)), Home::Held(life(K2, 1)));
    assert_eq!((area.election().term, area.election().monitor), (1, K0));
    assert_eq!(area.owner(Device::Block), Some(life(K1, 1)));
    assert_eq!(area.taker(Device::Block), None);
    assert!(area.is_drained(K2) && !area.is_rebooting(K2));
    // Sealed again it is believed by the next start.
    warm::seal(area);
    assert_eq!(warm::examine(area, entry), Ok(()));
}

#[test]
fn nonsense_is_dropped() {
    let (words, area) = machine();
    let put = |at: usize, value: u64| words[at].store(value, Ordering::SeqCst);
    let home = |program: usize| area.layout().home(program);
    put(home(1), Home::committed(life(K1, 5)).to_word());
    put(home(2), Home::committed(life(KernelId(9), 1)).to_word());
    put(home(3), Home::Protected { life: life(K0, 1), image: KernelId(77), falls: 0 }.to_word());
    put(home(4), Home::Held(life(KernelId(50), 1)).to_word());
    put(home(5), u64::MAX);
    put(home(6), Home::committed(life(K0, u32::MAX)).to_word());
    put(commons::HEARTBEAT, 3);
    put(commons::DRAINED, u64::MAX);
    put(commons::DEVICE_OWNERS, u64::MAX);
    put(area.layout().mailbox(K0) + commons::MAILBOX_RUNNING, u64::MAX);
    put(area.layout().mailbox(K2) + commons::MAILBOX_FENCE, 1 << 40);
    let found = warm::resume(area, Nanos(1));
    assert_eq!((found.found, found.gone), (1, 5));
    assert_eq!(area.programs().map(|(program, _)| program.0).collect::<Vec<_>>(), [1]);
    // A life that only a home tells of has ended too.
    assert_eq!(area.command(K1), Some(Incarnation(6)));
    assert_eq!(area.command(K0), Some(Incarnation(2)));
    assert_eq!(area.command(K2), Some(Incarnation(2)));
    assert_eq!(area.heartbeat(), Nanos(0));
    assert!(area.is_drained(K2) && !area.is_drained(KernelId(3)));
    assert_eq!(area.owner(Device::Console), None);
}

#[test]
fn the_clock_goes_on_from_the_latest_stamp_that_can_be() {
    let (words, area) = machine();
    for (kernel, time) in [(K0, 500), (K1, 700), (K2, 9_000)] {
        words[area.layout().outgoing(kernel) + outgoing::STAMP_TIME].store(time, Ordering::SeqCst);
    }
    assert_eq!(warm::last_time(area, Nanos(1_000)), Nanos(700));
    assert_eq!(warm::last_time(area, Nanos(10)), Nanos(0));
}
