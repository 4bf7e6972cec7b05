//! Models of the protocols under every order of memory accesses that the language allows.
//!
//! `RUSTFLAGS="--cfg loom" cargo test -p shimos-ikc --release`
#![allow(unexpected_cfgs, reason = "cfg(loom) is given by hand to run the models")]
#![cfg(loom)]
use loom::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering, fence},
    },
    thread,
};
use shimos_abi::ids::Incarnation;
use shimos_ikc::{
    polling,
    ring::{Link, Ring},
    seqlock,
};

const LINK: Link = Link { producer: Incarnation(1), consumer: Incarnation(1) };

fn words(n: usize) -> Vec<AtomicU64> {
    (0..n).map(|_| AtomicU64::new(0)).collect()
}

/// One packet for two messages: it is written again only when the consumer has copied it.
#[test]
fn a_packet_is_reused_only_when_it_was_consumed() {
    struct Shared {
        head: AtomicU64,
        slots: Vec<AtomicU64>,
        tail: AtomicU64,
        packet: Vec<AtomicU64>,
    }
    impl Shared {
        fn ring(&self) -> Ring<'_> {
            Ring { head: &self.head, slots: &self.slots, tail: &self.tail }
        }
    }
    loom::model(|| {
        let shared =
            Arc::new(Shared { head: AtomicU64::new(0), slots: words(2), tail: AtomicU64::new(0), packet: words(2) });
        let producer = {
            let shared = shared.clone();
            thread::spawn(move || {
                let ring = shared.ring();
                let mut freed = 0;
                for count in 0..2_u32 {
                    while count > freed {
                        freed = ring.consumed(LINK, freed, count).unwrap();
                        thread::yield_now();
                    }
                    shared.packet.iter().for_each(|w| w.store(u64::from(count) + 10, Ordering::Relaxed));
                    ring.publish(LINK, count, u64::from(count));
                }
            })
        };
        let ring = shared.ring();
        let mut count = 0;
        while count < 2 {
            match ring.next(LINK, count).unwrap() {
                None => thread::yield_now(),
                Some(descriptor) => {
                    assert_eq!(descriptor, u64::from(count));
                    let copy: Vec<u64> = shared.packet.iter().map(|w| w.load(Ordering::Relaxed)).collect();
                    assert_eq!(copy, [u64::from(count) + 10; 2]);
                    count += 1;
                    ring.release(LINK, count);
                }
            }
        }
        producer.join().unwrap();
    });
}

/// A sleeper that found nothing was interrupted, or a sender that did not interrupt was seen.
#[test]
fn no_wakeup_is_lost() {
    loom::model(|| {
        let shared = Arc::new((AtomicU64::new(0), AtomicU64::new(1)));
        let sender = {
            let shared = shared.clone();
            thread::spawn(move || {
                shared.0.store(1, Ordering::Release);
                polling::must_notify(&shared.1)
            })
        };
        let pending = polling::end(&shared.1, || shared.0.load(Ordering::Acquire) == 1);
        let notified = sender.join().unwrap();
        assert!(pending || notified);
    });
}

/// A reader gets one of the blobs that were published, never a mixture.
#[test]
fn a_status_is_read_whole() {
    loom::model(|| {
        let shared = Arc::new(words(4));
        assert!(seqlock::write(&shared, &[1; 16]));
        let writer = {
            let shared = shared.clone();
            thread::spawn(move || {
                seqlock::write(&shared, &[2; 16]);
            })
        };
        if let Some(bytes) = seqlock::read(&shared) {
            assert!(bytes == [1; 16] || bytes == [2; 16], "{bytes:?}");
        }
        writer.join().unwrap();
    });
}

/// A new life of a sender first clears its incarnation word and then writes anew: a reader whose copy holds anything
/// of the new life sees that when it looks at the incarnation again.
#[test]
fn a_copy_that_a_reboot_overtook_is_noticed() {
    loom::model(|| {
        let shared = Arc::new((AtomicU64::new(2), words(2)));
        shared.1.iter().for_each(|w| w.store(7, Ordering::Relaxed));
        let reborn = {
            let shared = shared.clone();
            thread::spawn(move || {
                shared.0.store(0, Ordering::Relaxed);
                fence(Ordering::Release);
                shared.1.iter().for_each(|w| w.store(9, Ordering::Relaxed));
                shared.0.store(3, Ordering::Release);
            })
        };
        let copy: Vec<u64> = shared.1.iter().map(|w| w.load(Ordering::Relaxed)).collect();
        fence(Ordering::Acquire);
        if shared.0.load(Ordering::Relaxed) == 2 {
            assert_eq!(copy, [7, 7]);
        }
        reborn.join().unwrap();
    });
}
