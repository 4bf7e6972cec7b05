//! The kernel's memcpy, memmove, memset and memcmp, on the host.
use std::arch::global_asm;

global_asm!(include_str!("../src/copy.s"));

unsafe extern "C" {
    fn shimos_memcpy(to: *mut u8, from: *const u8, len: usize) -> *mut u8;
    fn shimos_memmove(to: *mut u8, from: *const u8, len: usize) -> *mut u8;
    fn shimos_memset(to: *mut u8, value: i32, len: usize) -> *mut u8;
    fn shimos_memcmp(a: *const u8, b: *const u8, len: usize) -> i32;
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

#[test]
fn what_overlaps_is_moved_whole() {
    const FROM: usize = 80;
    for len in lengths() {
        for to_at in (0..=2 * FROM).filter(|at| at.abs_diff(FROM) <= 40 || at.is_multiple_of(16)) {
            let mut bytes: Vec<u8> = (0..len + 3 * FROM).map(|n| (n * 7 + n / 256 + 3) as u8).collect();
            let mut model = bytes.clone();
            model.copy_within(FROM..FROM + len, to_at);
            let start = bytes.as_mut_ptr();
            // SAFETY: both ranges lie inside of the vector.
            let returned = unsafe { shimos_memmove(start.add(to_at), start.add(FROM), len) };
            assert_eq!(returned as usize, start as usize + to_at);
            assert!(bytes == model, "length {len}, to {to_at}");
        }
    }
}

#[test]
fn the_first_difference_decides() {
    let compare = |a: &[u8], b: &[u8]| {
        assert_eq!(a.len(), b.len());
        // SAFETY: both slices are as long as is said.
        unsafe { shimos_memcmp(a.as_ptr(), b.as_ptr(), a.len()) }.signum()
    };
    for len in lengths().filter(|len| *len < 300) {
        for (a_at, b_at) in [(0, 0), (1, 0), (3, 6)] {
            let bytes: Vec<u8> = (0..len + 16).map(|n| (n * 5 + 1) as u8).collect();
            let a = [vec![0; a_at], bytes[..len].to_vec(), vec![1; 9]].concat();
            let mut b = [vec![0; b_at], bytes[..len].to_vec(), vec![2; 9]].concat();
            let a = &a[a_at..a_at + len];
            assert_eq!(compare(a, &b[b_at..b_at + len]), 0, "length {len}");
            for at in 0..len {
                let was = b[b_at + at];
                for other in [was.wrapping_add(1), was.wrapping_sub(1), was ^ 0x80] {
                    b[b_at + at] = other;
                    // What follows the first difference must not count.
                    if at + 1 < len {
                        b[b_at + at + 1] ^= 0xff;
                    }
                    let expected = if was < other { -1 } else { 1 };
                    assert_eq!(compare(a, &b[b_at..b_at + len]), expected, "length {len}, difference at {at}");
                    if at + 1 < len {
                        b[b_at + at + 1] ^= 0xff;
                    }
                }
                b[b_at + at] = was;
            }
        }
    }
}
