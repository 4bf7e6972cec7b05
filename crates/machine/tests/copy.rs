//! The kernel's memcpy and memset, on the host.
use std::arch::global_asm;

global_asm!(include_str!("../src/copy.s"));

unsafe extern "C" {
    fn shimos_memcpy(to: *mut u8, from: *const u8, len: usize) -> *mut u8;
    fn shimos_memset(to: *mut u8, value: i32, len: usize) -> *mut u8;
}

/// Lengths around every border of the code, and some larger ones.
fn lengths() -> impl Iterator<Item = usize> {
    (0..=200).chain([255, 256, 257, 1000, 4095, 4096, 4097])
}

#[test]
fn every_byte_is_copied_and_no_other() {
    for len in lengths() {
        for (to_at, from_at) in [(0, 0), (1, 0), (0, 3), (5, 7)] {
            let from: Vec<u8> = (0..len + 16).map(|n| (n * 7 + 3) as u8).collect();
            let mut to = vec![0xee; len + 32];
            // SAFETY: both ranges lie inside of their vectors.
            let returned = unsafe { shimos_memcpy(to.as_mut_ptr().add(8 + to_at), from.as_ptr().add(from_at), len) };
            assert_eq!(returned as usize, to.as_ptr() as usize + 8 + to_at);
            let (before, rest) = to.split_at(8 + to_at);
            let (copied, behind) = rest.split_at(len);
            assert_eq!(copied, &from[from_at..from_at + len], "length {len}");
            assert!(before.iter().chain(behind).all(|byte| *byte == 0xee), "length {len}");
        }
    }
}

#[test]
fn every_byte_is_set_and_no_other() {
    for len in lengths() {
        for value in [0, 0x5a, 0xff, 0x1ff] {
            let mut to = vec![0xee; len + 16];
            // SAFETY: the range lies inside of the vector.
            let returned = unsafe { shimos_memset(to.as_mut_ptr().add(3), value, len) };
            assert_eq!(returned as usize, to.as_ptr() as usize + 3);
            assert!(to[3..3 + len].iter().all(|byte| *byte == value as u8), "length {len}");
            assert!(to[..3].iter().chain(&to[3 + len..]).all(|byte| *byte == 0xee), "length {len}");
        }
    }
}
