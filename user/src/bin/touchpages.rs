//! A program of known size that dirties a known number of pages at each step: for measurements.
//!
//! `touchpages MEBIBYTES PAGES STEP_MS` holds that much memory and writes to that many pages, then sleeps, and so on. It
//! checks that memory still holds what it wrote and says so if not.
#![forbid(unsafe_code)]

use std::{process::ExitCode, thread::sleep, time::Duration};

const PAGE: usize = 4096;

fn main() -> ExitCode {
    let arguments: Vec<u64> = std::env::args().skip(1).filter_map(|argument| argument.parse().ok()).collect();
    let &[size, pages, step] = arguments.as_slice() else {
        eprintln!(
            "touchpages: say how many MiB, how many pages a step and how many ms a step, like: touchpages 1 16 10"
        );
        return ExitCode::from(2);
    };
    if size == 0 || size > 1 << 20 {
        eprintln!("touchpages: {size} MiB is no size; give 1 to 1048576");
        return ExitCode::from(2);
    }
    run(size as usize * 1024 * 1024, pages, Duration::from_millis(step))
}

fn run(size: usize, pages: u64, step: Duration) -> ExitCode {
    // Not zero, or the allocator would hand out pages that do not exist yet.
    let mut memory = vec![1_u8; size];
    println!("touchpages: ready");
    let count = size / PAGE;
    let mut expected = vec![1_u8; count];
    let mut next = 0;
    loop {
        for _ in 0..pages {
            let (Some(byte), Some(want)) = (memory.get_mut(next * PAGE), expected.get_mut(next)) else {
                break;
            };
            if *byte != *want {
                println!("touchpages: page {next} holds {byte}, not {want}");
                return ExitCode::FAILURE;
            }
            *want = want.wrapping_add(1);
            *byte = *want;
            next = (next + 1) % count;
        }
        sleep(step);
    }
}
