//! Packets between endpoints over one area: order, room, reboots in every order, and peers that write nonsense.
#![allow(unexpected_cfgs, reason = "cfg(loom) is given by hand to run the models")]
#![cfg(not(loom))]
use shimos_abi::{
    control::{DeathCause, Device, KernelState},
    ids::{Incarnation, KernelId, Life, ProgramId},
    shared::{Layout, Queue, commons, outgoing},
    time::Nanos,
};
use shimos_ikc::{
    Area, Claim, DeathRecord, Drained, Election, Endpoint, Home, MAX_PAYLOAD, Notify, Rebooting, Received, SendError,
    endpoint::Misdeed,
};
use std::sync::atomic::{AtomicU64, Ordering};

const K0: KernelId = KernelId(0);
const K1: KernelId = KernelId(1);

fn layout() -> Layout {
    Layout::new(3)
}
fn area() -> &'static [AtomicU64] {
    (0..layout().words()).map(|_| AtomicU64::new(0)).collect::<Vec<_>>().leak()
}
fn life(kernel: KernelId, incarnation: u32) -> Life {
    Life { kernel, incarnation: Incarnation(incarnation) }
}
fn boot(words: &'static [AtomicU64], kernel: KernelId, incarnation: u32) -> Endpoint {
    Endpoint::new(words, layout(), life(kernel, incarnation))
}
fn take(endpoint: &mut Endpoint, peer: KernelId, queue: Queue) -> Option<Vec<u8>> {
    let mut into = vec![1, 2, 3];
    endpoint.receive(peer, queue, &mut into).map(|_| into)
}
fn ok(result: Result<Notify, SendError>) {
    assert!(result.is_ok(), "{result:?}");
}

#[test]
fn packets_arrive_whole_and_in_order() {
    let words = area();
    let (mut a, mut b) = (boot(words, K0, 1), boot(words, K1, 1));
    for queue in Queue::ALL {
        for length in [0, 1, 7, 8, 9, 1514, MAX_PAYLOAD] {
            let bytes: Vec<u8> = (0..length).map(|i| (i * 7 + length) as u8).collect();
            let (x, rest) = bytes.split_at(length.min(3));
            let (y, z) = rest.split_at(rest.len() / 2);
            ok(a.send(K1, queue, &[x, &[], y, z]));
            assert_eq!(take(&mut b, K0, queue).as_deref(), Some(&bytes[..]));
        }
        assert_eq!(take(&mut b, K0, queue), None);
    }
    assert_eq!(a.send(K1, Queue::Network, &[&[0; MAX_PAYLOAD], &[1]]), Err(SendError::TooLong));
    assert_eq!(a.send(KernelId(2), Queue::Network, &[]), Err(SendError::Down));
    assert_eq!(a.send(KernelId(99), Queue::Network, &[]), Err(SendError::Down));
}

#[test]
fn a_full_queue_drains_and_packets_come_back() {
    let words = area();
    let (mut a, mut b) = (boot(words, K0, 1), boot(words, K1, 1));
    let mut sent = 0_u32;
    let mut got = 0_u32;
    for round in 0..2000 {
        while a.send(K1, Queue::Network, &[&sent.to_le_bytes()]).is_ok() {
            sent += 1;
        }
        assert_eq!(a.send(K1, Queue::Network, &[]), Err(SendError::Full));
        for _ in 0..1 + round % 64 {
            if let Some(bytes) = take(&mut b, K0, Queue::Network) {
                assert_eq!(bytes, got.to_le_bytes());
                got += 1;
            }
        }
    }
    assert!(sent > 10_000 && sent - got <= 64);
}

#[test]
fn frames_leave_room_for_daemon_messages() {
    let words = area();
    let mut a = boot(words, K0, 1);
    let _peers = (boot(words, K1, 1), boot(words, KernelId(2), 1));
    for peer in [K1, KernelId(2)] {
        for queue in [Queue::Network, Queue::Block, Queue::Console] {
            while a.send(peer, queue, &[b"x"]).is_ok() {}
        }
    }
    assert!(a.free_packets() > 0);
    ok(a.send(K1, Queue::Daemon, &[b"restart"]));
}

#[test]
fn polling_peers_are_not_interrupted() {
    let words = area();
    let (mut a, mut b) = (boot(words, K0, 1), boot(words, K1, 1));
    assert_eq!(a.send(K1, Queue::Daemon, &[]), Ok(Notify::Interrupt));
    b.begin_polling();
    assert_eq!(a.send(K1, Queue::Daemon, &[]), Ok(Notify::Polling));
    assert!(b.end_polling());
    let mut into = Vec::new();
    let from = Received { from: life(K0, 1), queue: Queue::Daemon };
    assert_eq!(b.poll_any(&mut into), Some(from));
    assert_eq!(b.poll_any(&mut into), Some(from));
    assert_eq!(b.poll_any(&mut into), None);
    assert!(!b.end_polling());
    assert_eq!(a.send(K1, Queue::Daemon, &[]), Ok(Notify::Interrupt));
}

/// A seeded walk: both kernels send, receive, reboot, one or both, in any order. What is received was sent by the
/// life that is named, to this very life, in order and once.
#[test]
fn reboots_in_every_order() {
    let words = area();
    for seed in 1..200_u64 {
        words.iter().for_each(|word| word.store(0, Ordering::Relaxed));
        let mut state = seed;
        let mut random = move |n: u64| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % n
        };
        let mut incarnation = [1, 1];
        let mut ends: Vec<Endpoint> = [K0, K1].iter().map(|&k| boot(words, k, 1)).collect();
        let mut number = 0_u64;
        let mut last = [0_u64; 2];
        for _ in 0..300 {
            let me = random(2) as usize;
            let peer = KernelId(1 - me as u16);
            let other = incarnation[1 - me];
            match random(10) {
                0 => {
                    incarnation[me] += 1;
                    last[me] = 0;
                    ends[me] = boot(words, KernelId(me as u16), incarnation[me]);
                }
                1..6 => {
                    number += 1;
                    let text = format!("{number} {} {}", incarnation[me], other);
                    ok_or_full(ends[me].send(peer, Queue::Daemon, &[text.as_bytes()]));
                }
                _ => {
                    let mut into = Vec::new();
                    if let Some(received) = ends[me].receive(peer, Queue::Daemon, &mut into) {
                        let text = String::from_utf8(into).unwrap();
                        let fields: Vec<u64> = text.split(' ').map(|f| f.parse().unwrap()).collect();
                        assert_eq!(fields[1], u64::from(received.from.incarnation.0));
                        assert_eq!(fields[1], u64::from(other));
                        assert_eq!(fields[2], u64::from(incarnation[me]));
                        assert!(fields[0] > last[me], "seed {seed}");
                        last[me] = fields[0];
                    }
                }
            }
            assert!(ends.iter_mut().all(|end| end.take_fault().is_none()), "seed {seed}");
        }
        // It still works in both directions.
        for me in 0..2 {
            let peer = KernelId(1 - me as u16);
            while take(&mut ends[1 - me], KernelId(me as u16), Queue::Daemon).is_some() {}
            ok(ends[me].send(peer, Queue::Daemon, &[b"end"]));
            assert_eq!(take(&mut ends[1 - me], KernelId(me as u16), Queue::Daemon).as_deref(), Some(&b"end"[..]));
        }
    }
}

fn ok_or_full(result: Result<Notify, SendError>) {
    assert!(matches!(result, Ok(_) | Err(SendError::Full)), "{result:?}");
}
#[test]
fn a_packet_to_an_earlier_life_is_not_received() {
    let words = area();
    let mut a = boot(words, K0, 1);
    let b = boot(words, K1, 1);
    ok(a.send(K1, Queue::Daemon, &[b"old"]));
    drop(b);
    let mut b = boot(words, K1, 2);
    assert_eq!(take(&mut b, K0, Queue::Daemon), None);
    assert!(!b.end_polling());
    ok(a.send(K1, Queue::Daemon, &[b"new"]));
    assert_eq!(take(&mut b, K0, Queue::Daemon).as_deref(), Some(&b"new"[..]));
    assert_eq!(a.free_packets(), outgoing::PACKETS - 1);
}

#[test]
fn what_is_in_flight_to_a_fenced_life_is_forgotten() {
    let words = area();
    let mut a = boot(words, K0, 1);
    let _b = boot(words, K1, 1);
    (0..10).for_each(|_| ok(a.send(K1, Queue::Network, &[b"x"])));
    a.forget(life(K1, 2));
    assert_eq!(a.free_packets(), outgoing::PACKETS - 10);
    a.forget(life(K1, 1));
    assert_eq!(a.free_packets(), outgoing::PACKETS);
    assert_eq!(a.send(K1, Queue::Network, &[b"x"]), Err(SendError::Down));
    let _b = boot(words, K1, 2);
    ok(a.send(K1, Queue::Network, &[b"x"]));
}

#[test]
fn a_panicked_peer_is_down() {
    let words = area();
    let mut a = boot(words, K0, 1);
    let mut b = boot(words, K1, 1);
    b.set_state(KernelState::Running);
    ok(a.send(K1, Queue::Daemon, &[]));
    b.set_state(KernelState::Panicked);
    assert_eq!(a.send(K1, Queue::Daemon, &[]), Err(SendError::Down));
}

#[test]
fn an_impossible_tail_costs_the_link_alone() {
    let words = area();
    let (mut a, mut b) = (boot(words, K0, 1), boot(words, K1, 1));
    ok(a.send(K1, Queue::Block, &[b"x"]));
    assert!(take(&mut b, K0, Queue::Block).is_some());
    let tail = &words[layout().outgoing(K1) + outgoing::tail(K0, Queue::Block)];
    tail.store(tail.load(Ordering::Relaxed) + 1000, Ordering::Relaxed);
    let results: Vec<_> = (0..64).map(|_| a.send(K1, Queue::Block, &[b"x"])).collect();
    assert!(results.contains(&Err(SendError::Down)));
    let fault = a.take_fault().unwrap();
    assert_eq!((fault.peer, fault.queue, fault.what), (life(K1, 1), Queue::Block, Misdeed::Tail));
    ok(a.send(K1, Queue::Network, &[b"x"]));
    let _b = boot(words, K1, 2);
    ok(a.send(K1, Queue::Block, &[b"x"]));
}

#[test]
fn an_impossible_head_costs_the_link_alone() {
    let words = area();
    let (mut a, mut b) = (boot(words, K0, 1), boot(words, K1, 1));
    ok(a.send(K1, Queue::Block, &[b"x"]));
    let head = &words[layout().outgoing(K0) + outgoing::head(K1, Queue::Block)];
    head.store(head.load(Ordering::Relaxed) + 65, Ordering::Relaxed);
    assert_eq!(take(&mut b, K0, Queue::Block), None);
    assert_eq!(b.take_fault().map(|f| f.what), Some(Misdeed::Head));
    assert!(!b.end_polling());
    ok(a.send(K1, Queue::Daemon, &[b"x"]));
    assert!(take(&mut b, K0, Queue::Daemon).is_some());
}

/// What a kernel says of its queues is looked at by itself, over reboots of its peers too.
#[test]
fn a_kernel_sees_that_its_own_words_were_overwritten() {
    let words = area();
    let (mut a, mut b) = (boot(words, K0, 1), boot(words, K1, 1));
    for incarnation in 2..5 {
        for queue in Queue::ALL {
            ok(a.send(K1, queue, &[b"x"]));
            ok(b.send(K0, queue, &[b"y"]));
            assert!(take(&mut a, K1, queue).is_some() && take(&mut b, K0, queue).is_some());
            assert!(a.is_intact() && b.is_intact());
        }
        a.forget(life(K1, incarnation - 1));
        assert!(a.is_intact());
        b = boot(words, K1, incarnation);
        assert!(a.is_intact() && b.is_intact());
        ok(a.send(K1, Queue::Daemon, &[b"x"]));
        ok(b.send(K0, Queue::Daemon, &[b"y"]));
        assert!(take(&mut a, K1, Queue::Daemon).is_some() && a.is_intact() && b.is_intact());
    }
    let part = layout().outgoing(K0);
    let places = [outgoing::INCARNATION, outgoing::head(K1, Queue::Daemon), outgoing::tail(K1, Queue::Daemon)];
    for word in places.map(|place| &words[part + place]) {
        let right = word.swap(0x1234_5678_9abc_def0, Ordering::Relaxed);
        assert!(!a.is_intact());
        word.store(right, Ordering::Relaxed);
        assert!(a.is_intact());
    }
}

/// Every word that the sender owns is spoilt in turn; nothing panics, nothing wrong is received, and the next life
/// works.
#[test]
fn any_spoilt_word_is_survived() {
    let words = area();
    let part = layout().outgoing(K0);
    let (mut a, mut b) = (boot(words, K0, 1), boot(words, K1, 1));
    let mut incarnation = 1;
    let packet = outgoing::packets(layout().kernels());
    let places =
        [outgoing::head(K1, Queue::Daemon), outgoing::slots(K1, Queue::Daemon)].into_iter().chain(packet..packet + 9);
    for place in places {
        for bit in 0..64 {
            ok(a.send(K1, Queue::Daemon, &[b"an order to the kernel of some length"]));
            let word = &words[part + place];
            word.store(word.load(Ordering::Relaxed) ^ 1 << bit, Ordering::Relaxed);
            let mut into = Vec::new();
            let got = b.receive(K0, Queue::Daemon, &mut into);
            // The ninth word holds padding beside the last bytes.
            assert!(got.is_none() || into == b"an order to the kernel of some length", "{place} {bit}");
            incarnation += 1;
            a = boot(words, K0, incarnation);
        }
    }
    ok(a.send(K1, Queue::Daemon, &[b"fine"]));
    assert_eq!(take(&mut b, K0, Queue::Daemon).as_deref(), Some(&b"fine"[..]));
}

#[test]
fn an_area_of_noise_is_survived() {
    let words = area();
    let mut a = boot(words, K0, 1);
    let mut state = 88_172_645_463_325_252_u64;
    for word in &words[layout().outgoing(K1)..] {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        word.store(state, Ordering::Relaxed);
    }
    let mut into = Vec::new();
    assert_eq!(a.poll_any(&mut into), None);
    let _ = a.send(K1, Queue::Daemon, &[b"x"]);
    assert!(!a.end_polling());
    let _ = a.read_published(K1);
    let _ = a.area().death(K1);
    let _ = a.area().read_log(K1, 5, 100_000, &mut into);
}

#[test]
fn nobody_waits_for_packets_of_one_that_says_no_more_who_it_is() {
    let words = area();
    let (mut a, mut b) = (boot(words, K0, 1), boot(words, K1, 1));
    ok(a.send(K1, Queue::Daemon, &[b"first"]));
    assert!(take(&mut b, K0, Queue::Daemon).is_some());
    ok(a.send(K1, Queue::Daemon, &[b"second"]));
    assert!(b.pending());
    words[layout().outgoing(K0) + outgoing::INCARNATION].store(77, Ordering::Relaxed);
    assert_eq!(take(&mut b, K0, Queue::Daemon), None);
    assert!(!b.pending());
}

#[test]
fn status_log_and_death_record_are_read_back() {
    let words = area();
    let mut a = boot(words, K0, 1);
    let b = boot(words, K1, 7);
    assert_eq!(b.read_published(K0), None);
    assert!(a.publish(b"status"));
    assert_eq!(b.read_published(K0).as_deref(), Some(&b"status"[..]));
    assert!(!a.publish(&vec![0; Endpoint::PUBLISHED_BYTES + 1]));
    assert!(a.publish(&vec![9; Endpoint::PUBLISHED_BYTES]));
    assert_eq!(b.read_published(K0).map(|s| s.len()), Some(Endpoint::PUBLISHED_BYTES));

    let mut written = Vec::new();
    let mut read = Vec::new();
    let mut place = 0;
    for line in 0..3000 {
        let text = format!("line {line}\n");
        a.log(text.as_bytes());
        written.extend_from_slice(text.as_bytes());
        if line % 7 == 0 {
            place = b.area().read_log(K0, place, 10_000, &mut read);
        }
    }
    place = b.area().read_log(K0, place, 10_000, &mut read);
    assert_eq!((place, &read), (written.len() as u64, &written));
    let mut all = Vec::new();
    b.area().read_log(K0, 0, usize::MAX, &mut all);
    assert!(all.len() > 10_000 && written.ends_with(&all));

    assert_eq!(a.area().death(K1), None);
    let mut record = DeathRecord::new(Incarnation(7), DeathCause::Exception, Nanos::millis(5), "page fault");
    record.trace = vec![1, 2, 3];
    record.registers[3] = 42;
    record.write(b.area(), K1);
    assert_eq!(a.area().death(K1), Some(record));
}

#[test]
fn the_commons_change_by_compare_and_swap() {
    let words = area();
    let area = Area::new(words, layout());
    let first = area.election();
    assert_eq!(area.elect(first, K1), Election { term: 1, monitor: K1 });
    assert_eq!(area.elect(first, KernelId(2)), Election { term: 1, monitor: K1 });

    let me = life(K1, 3);
    let program = area.allocate_program(me).unwrap();
    assert_eq!(program, ProgramId(2));
    assert_eq!(area.allocate_program(me), Some(ProgramId(3)));
    let home = area.home(program);
    assert_eq!(home, Home::Held(me));
    let protected = Home::Protected { life: me, image: KernelId(2), falls: 0 };
    assert_eq!(area.move_home(program, home, protected), Ok(()));
    assert_eq!(area.move_home(program, home, Home::Free), Err(protected));
    let mut fallen = protected;
    for falls in (1..=15).chain([15]) {
        fallen = fallen.moved_to(life(K0, 1));
        assert_eq!(fallen, Home::Protected { life: life(K0, 1), image: KernelId(2), falls });
        assert_eq!(Home::from_word(fallen.to_word()), fallen);
    }
    assert_eq!(area.programs().count(), 2);
    // An offer: whoever changes the word first has the program.
    let offered = Home::Offered { life: me, to: K0 };
    assert_eq!(Home::from_word(offered.to_word()), offered);
    assert_eq!((offered.life(), offered.image()), (Some(me), Some(K1)));
    let taken = offered.moved_to(life(K0, 1));
    assert_eq!(taken, Home::Protected { life: life(K0, 1), image: K1, falls: 0 });
    assert_eq!(area.move_home(program, protected, offered), Ok(()));
    assert_eq!(area.move_home(program, offered, taken), Ok(()));
    assert_eq!(area.move_home(program, offered, protected), Err(taken));

    assert!(!area.is_drained(K1) && !area.is_rebooting(K1));
    area.set_drained(K1, Drained::Yes);
    area.set_rebooting(K0, Rebooting::Asked);
    area.set_drained(KernelId(900), Drained::Yes);
    assert!(area.is_drained(K1) && !area.is_drained(K0) && area.is_rebooting(K0) && !area.is_drained(KernelId(900)));
    area.set_drained(K1, Drained::No);
    area.set_rebooting(K0, Rebooting::Done);
    assert!(!area.is_drained(K1) && !area.is_rebooting(K0));

    assert_eq!(area.owner(Device::Network), None);
    assert_eq!(area.move_owner(Device::Network, None, Some(me)), Ok(()));
    assert_eq!(area.move_owner(Device::Network, None, Some(life(K0, 1))), Err(Some(me)));

    let claim = Claim { term: 4, incarnation: Incarnation(3) };
    assert_eq!(area.move_claim(K1, Claim::default(), claim), Ok(()));
    assert_eq!(area.move_claim(K1, Claim::default(), claim), Err(claim));
    area.set_fence_word(life(K1, 5));
    area.set_fence_word(life(K1, 4));
    assert_eq!(area.fence_word(K1), Some(Incarnation(5)));
    assert_eq!(area.parked(K1), None);
    words[layout().mailbox(K1) + commons::MAILBOX_PARKED].store(1, Ordering::Relaxed);
    assert_eq!(area.parked(K1), Some(Incarnation(0)));
}
