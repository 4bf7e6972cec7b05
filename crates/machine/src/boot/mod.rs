//! From the boot loader to one kernel on every core.
//!
//! The boot core looks around ([`memmap`], [`acpi`], `crate::clock`), decides ([`plan`]), writes what all kernels
//! share ([`tables`], [`trampoline`]), starts the other cores ([`cores`]) and then parks like all others. From there
//! every core, the boot core too, goes the same way into every incarnation: [`stage`].
pub mod acpi;
pub mod cores;
pub mod image;
pub mod memmap;
pub mod plan;
pub mod pvh;
pub mod stage;
pub mod tables;
pub mod trampoline;
pub mod warm;

use crate::{
    apic::Lapic,
    arch::{outb, outl, stop, write_cr3},
    clock,
    device::{self, Bus},
    info::{INFO_PAGES, Info},
    layout::{LARGE, PARK_STACK_PAGES},
    paging::build::Builder,
    park, say, serial, shell, watchdog,
};
use core::ptr::NonNull;
use memmap::Facts;
use shimos_abi::control::Partition;

/// Device registers while everything below 4 GiB is mapped one to one.
struct BootBus;

// SAFETY: the first 4 GiB are mapped one to one, and nothing else there is touched while devices are looked for.
unsafe impl Bus for BootBus {
    fn map_registers(&mut self, phys: u64, len: usize) -> Option<NonNull<u8>> {
        let end = phys.checked_add(len as u64)?;
        if end > 1 << 32 { None } else { NonNull::new(phys as *mut u8) }
    }
    fn take_dma(&mut self, _pages: usize) -> Option<(u64, NonNull<u8>)> {
        None
    }
}

fn fail(why: &str) -> ! {
    say!("shimos: cannot boot: {why}");
    // An emulator with a debug exit ends here.
    outl(0xf4, 0x11);
    stop()
}

/// What is to keep kernels apart: what the processor offers, unless the command line forbids it.
fn partition(cmdline: &str) -> Partition {
    let wish = cmdline.split_ascii_whitespace().find_map(|word| word.strip_prefix("partition="));
    match wish {
        Some("none") => Partition::None,
        _ if shell::offered() => Partition::Svm,
        _ => Partition::None,
    }
}

/// The boot core's way, under the loader entry's page tables: the first 4 GiB mapped one to one. `start` is what the
/// loader gave.
pub extern "C" fn boot_main(start: u32) -> ! {
    serial::init();
    // The PICs' vectors would look like exceptions.
    outb(0x21, 0xff);
    outb(0xa1, 0xff);
    // SAFETY: we run under the entry's page tables, and `start` is the loader's.
    let Some(mut facts) = (unsafe { Facts::read(start.into()) }) else { fail("not started through PVH") };
    // SAFETY: as above; nothing but this core uses the address.
    let own = unsafe { Lapic::at(0xfee0_0000) };
    let acpi = acpi::read(facts.rsdp, own.id());
    own.init();
    let rates = clock::calibrate(own);
    facts.remove(0, 0x8000);
    facts.remove(0x9_f000, image::end().next_multiple_of(4096));
    // A page for the trampoline, and behind the image what all share.
    let Some(trampoline) = facts.take(4096, 4096, 0x8000).filter(|&page| page < 0x9_f000) else {
        fail("no free memory below 640 KiB")
    };
    let gigabytes = facts.end().div_ceil(1 << 30);
    if gigabytes > 512 {
        fail("more than 512 GiB of memory");
    }
    let above = image::end();
    let table_pages = 64 + gigabytes.max(4) + image::end() / LARGE;
    let pages = INFO_PAGES + 2 + PARK_STACK_PAGES + 2 * table_pages;
    let Some(place) = facts.take(pages * 4096, 4096, above) else { fail("no memory behind the image") };
    if place + pages * 4096 > 1 << 32 {
        fail("no memory below 4 GiB");
    }
    // SAFETY: `place` is free memory below 4 GiB, mapped one to one, and large enough; all zeros is a valid `Info`.
    let info: &'static mut Info = unsafe {
        core::ptr::write_bytes(place as *mut u8, 0, (INFO_PAGES + 2) as usize * 4096);
        &mut *(place as *mut Info)
    };
    info.info = place;
    info.idt = place + INFO_PAGES * 4096;
    info.trampoline = trampoline;
    info.gigabytes = gigabytes;
    info.lapic = acpi.lapic;
    info.tsc_hz = rates.tsc;
    info.tsc_scale = crate::info::scale_of(rates.tsc);
    info.lapic_hz = rates.lapic;
    info.ioapics = acpi.ioapics;
    info.ioapic_count = acpi.ioapic_count as u32;
    info.overrides = acpi.overrides;
    info.override_count = acpi.override_count as u32;
    info.ecam = acpi.ecam;
    info.ecam_buses = acpi.ecam_buses;
    info.power = acpi.power;
    info.cmdline = facts.cmdline;
    info.cmdline_len = facts.cmdline_len as u64;
    info.by_apic = [0xff; 256];
    info.partition = partition(facts.cmdline());
    info.watchdog = watchdog::wanted(facts.cmdline());
    let places = tables::Places { park_idt: info.park_idt(), park_stacks: info.park_stacks(), trampoline };
    let mut io_apics = [device::IoApic { phys: 0, first: 0 }; 4];
    for (to, from) in io_apics.iter_mut().zip(info.ioapics()) {
        *to = device::IoApic { phys: from.phys, first: from.gsi_base };
    }
    let io_apics = io_apics.get(..info.ioapics().len()).unwrap_or(&[]);
    info.found = device::discover(&mut BootBus, facts.cmdline().as_bytes(), io_apics);
    if let Err(why) = plan::lay_out(info, &mut facts, &acpi.cores[..acpi.core_count], above) {
        fail(why);
    }
    let tables_at = places.park_stacks + PARK_STACK_PAGES * 4096;
    let middle = tables_at + table_pages * 4096;
    // SAFETY: all these pages were taken above for this purpose and are mapped one to one; the park tables are below 4
    // GiB.
    unsafe {
        tables::write_idts(info.idt, places.park_idt);
        let mut park = Builder::new(tables_at, middle);
        tables::build_park(&mut park, info, &places);
        info.park_cr3 = park.root();
        let mut stage = Builder::new(middle, middle + table_pages * 4096);
        tables::build_stage(&mut stage, info, &places);
        info.stage_cr3 = stage.root();
        trampoline::write(trampoline, info.park_cr3, park::park_from_reset as *const () as u64);
    }
    // SAFETY: the stage tables map all that the entry's tables do and that is still used: image, stack, all memory.
    unsafe { write_cr3(info.stage_cr3) };
    // SAFETY: the shared area was taken for this, and is mapped one to one.
    let resumed = unsafe { warm::begin(info) };
    let info: &'static Info = info;
    if info.partition == Partition::Svm {
        // SAFETY: the pages were taken for this, and the stage tables map them one to one.
        unsafe { shell::write_common(info) };
    }
    serial::set_speaker(info.boot_kernel);
    say!(
        "shimos: {} kernels, {} MiB each, TSC {} MHz, local APIC timer {} MHz",
        info.kernels,
        info.entries[0].private.count / 256,
        info.tsc_hz / 1_000_000,
        info.lapic_hz / 1_000_000
    );
    match info.partition {
        Partition::Svm => say!("shimos: hardware partitioning by SVM"),
        Partition::None => say!("shimos: no hardware partitioning"),
    }
    if let Some(resumed) = resumed {
        say!(
            "shimos: start {} of this memory after a reset: {} programs have images, {} are gone",
            resumed.starts,
            resumed.found,
            resumed.gone
        );
    }
    cores::start(info);
    // SAFETY: the stage tables map all that parking uses, and nothing of this stack is needed any more.
    unsafe { park::park_enter(info.boot_kernel) }
}
