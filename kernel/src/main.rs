//! The bare-metal kernel: the machine layer's boot, and the kernel proper on top of it.
#![no_std]
#![no_main]

extern crate alloc;

mod selftest;
mod storm;

use alloc::{string::String, vec};
use shimos_abi::{control::Start, ids::KernelId, time::Nanos};
use shimos_core::{BootConfig, Kernel};
use shimos_machine::Bare;

shimos_machine::entry!(main);

/// The daemons' interval unless the command line sets one.
const HEARTBEAT: Nanos = Nanos::millis(100);

fn main(machine: Bare) -> ! {
    let words = machine.cmdline().split_ascii_whitespace();
    let mut config = BootConfig { heartbeat: HEARTBEAT, init: Some(control_daemon()) };
    for word in words {
        if word == "selftest" {
            selftest::run(machine);
        }
        if word == "storm" {
            storm::run(machine);
        }
        if let Some(millis) = word.strip_prefix("heartbeat=").and_then(|value| value.parse().ok()) {
            config.heartbeat = Nanos::millis(millis);
        }
        if word == "init=none" {
            config.init = None;
        }
    }
    Kernel::boot(machine, config).run()
}

/// The program that the first kernel starts: the control daemon.
fn control_daemon() -> Start {
    Start {
        name: String::from("shimosd"),
        argv: vec![String::from("/sbin/shimosd")],
        env: vec![String::from("PATH=/usr/sbin:/usr/bin:/sbin:/bin")],
        cwd: String::from("/"),
        kernel: Some(KernelId(0)),
        ..Start::default()
    }
}
