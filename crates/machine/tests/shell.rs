//! The shell's own logic on the host: what a kernel is confined to, what it may use, what an exit means.
#![allow(dead_code, reason = "the bare machine's parts are not here")]

#[path = "../src/layout.rs"]
mod layout;
#[path = "../src/paging"]
mod paging {
    pub mod build;
    mod entry;
    pub use entry::{ADDRESS, DEVICE, LARGE_PAGE, NO_EXECUTE, PRESENT, READ_ONLY, READ_WRITE, USER, WRITE};
}
#[path = "../src/shell/ground.rs"]
mod ground;
#[path = "../src/shell/mend.rs"]
mod mend;
#[path = "../src/shell/permit.rs"]
mod permit;
#[path = "../src/shell/vmcb.rs"]
mod vmcb;

use ground::Run;
use layout::LARGE;
use paging::{ADDRESS, LARGE_PAGE, NO_EXECUTE, PRESENT, USER, WRITE, build::Builder};
use vmcb::{Access, Entry, Exit, Tables, Vmcb};

#[derive(Clone, Copy)]
#[repr(C, align(4096))]
struct Page([u64; 512]);

/// Nested tables in memory of the test. Addresses in them are the test's own.
struct Nested {
    _pages: Vec<Page>,
    tables: Builder,
}

impl Nested {
    fn new() -> Nested {
        let mut pages = vec![Page([0; 512]); 64];
        let start = pages.as_mut_ptr() as u64;
        // SAFETY: the pages are the test's alone, and stay where they are as long as the builder.
        let tables = unsafe { Builder::nested(start, start + 64 * 4096) };
        Nested { _pages: pages, tables }
    }
    /// What the processor would find for a physical address: flags that all levels allow, and where it leads.
    fn find(&self, address: u64) -> Option<(u64, u64)> {
        let mut table = self.tables.root();
        let mut allowed = WRITE | USER;
        for level in (0..4).rev() {
            let index = address >> (12 + 9 * level) & 511;
            // SAFETY: `table` is one of the pages above.
            let entry = unsafe { *((table + index * 8) as *const u64) };
            if entry & PRESENT == 0 {
                return None;
            }
            allowed &= entry;
            if level == 0 || entry & LARGE_PAGE != 0 {
                let inside = address & ((4096 << (9 * level)) - 1);
                return Some((allowed | entry & NO_EXECUTE, (entry & ADDRESS) + inside));
            }
            table = entry & ADDRESS;
        }
        None
    }
}

#[test]
fn a_kernel_reaches_its_runs_and_nothing_else() {
    let mut nested = Nested::new();
    let own = Run::own(LARGE, 512);
    for run in
        [own, Run::pool(2 * LARGE, 1024), Run::code(0x1000, 1), Run::data(0x2000, 2), Run::registers(0xfee0_0010, 4)]
    {
        run.map(&mut nested.tables);
    }
    let at = |address: u64| nested.find(address);
    assert_eq!(at(LARGE + 0x1234), Some((WRITE | USER | NO_EXECUTE, LARGE + 0x1234)));
    assert_eq!(at(4 * LARGE - 8), Some((WRITE | USER, 4 * LARGE - 8)));
    assert_eq!(at(0x1008), Some((USER, 0x1008)));
    assert_eq!(at(0x3ff8), Some((USER | NO_EXECUTE, 0x3ff8)));
    assert_eq!(at(0xfee0_0300), Some((WRITE | USER | NO_EXECUTE, 0xfee0_0300)));
    for outside in [0, 0x4000, 4 * LARGE, LARGE - 1, 0xfee0_1000, 1 << 39, 1 << 46] {
        assert_eq!(at(outside), None, "{outside:#x}");
    }
}

#[test]
fn a_peers_pool_comes_and_goes() {
    let mut nested = Nested::new();
    let peer = Run::code(8 * LARGE, 1024);
    assert!(!peer.is_writable());
    peer.map(&mut nested.tables);
    assert_eq!(nested.find(9 * LARGE), Some((USER, 9 * LARGE)));
    peer.hidden().map(&mut nested.tables);
    assert_eq!(nested.find(9 * LARGE), None);
    let device = Run::registers(0xfe00_0ff0, 32);
    assert_eq!(device.pages, 2);
    device.map(&mut nested.tables);
    assert!(nested.find(0xfe00_1000).is_some());
    device.hidden().map(&mut nested.tables);
    assert!(nested.find(0xfe00_0000).is_none() && nested.find(0xfe00_1000).is_none());
}

#[test]
fn a_kernel_may_use_what_it_needs() {
    let mut map = vec![0; permit::MSR_PAGES as usize * 4096];
    permit::write_msr_map(&mut map);
    let bits = |offset: usize, msr: u32| map[offset + (msr & 0x1fff) as usize / 4] >> (msr % 4 * 2) & 3;
    // FS base and LSTAR; reading is free, writing EFER, the APIC's base, SVM's own registers is not.
    assert_eq!((bits(0x800, 0xc000_0100), bits(0x800, 0xc000_0082), bits(0, 0x17a)), (0, 0, 0));
    for (offset, msr) in [(0x800, 0xc000_0080), (0, 0x1b), (0x1000, 0xc001_0114), (0x1000, 0xc001_0117)] {
        assert_eq!(bits(offset, msr), 2, "{msr:#x}");
    }
    let mut map = vec![0; permit::IO_PAGES as usize * 4096];
    permit::write_io_map(&mut map, &permit::ports(0x604, 0x443..0x444));
    let open = |port: usize| map[port / 8] >> (port % 8) & 1 == 0;
    assert!([0x3f8, 0x3fd, 0x70, 0x71, 0xf4, 0x604, 0x605, 0x443].into_iter().all(open));
    assert!([0x64, 0xcf8, 0xcf9, 0x20, 0x606, 0x442, 0x444, 0, 0xffff].into_iter().all(|port| !open(port)));
}

#[test]
fn what_differs_is_set_right() {
    let words = |values: [u64; 4]| values.map(std::sync::atomic::AtomicU64::new);
    let original = words([1, 2, 3, 4]);
    assert_eq!(mend::mend(&words([1, 2, 3, 4]), &original), None);
    let now = words([1, 6, 3, 0]);
    assert_eq!(mend::mend(&now, &original), Some(mend::Mended { first: 1, words: 2 }));
    assert_eq!(now.map(std::sync::atomic::AtomicU64::into_inner), [1, 2, 3, 4]);
}

#[test]
fn exits_say_what_happened() {
    let mut pages = vec![Page([0; 512])];
    // SAFETY: a whole page of zeros is a valid block.
    let vmcb = unsafe { &mut *pages.as_mut_ptr().cast::<Vmcb>() };
    vmcb.set_up(
        &Entry { root: 0x5000, rip: 7, rsp: 8, selectors: [8, 16], gdt: (1, 63), idt: (2, 4095) },
        &Tables { nested_root: 0x6000, io_map: 0x7000, msr_map: 0x9000 },
    );
    let words = pages[0].0;
    // AMD64 manual 2, appendix B: shutdown is intercepted, VMRUN is (it must be), there is an address space number.
    assert_eq!(words[1] >> 63, 1);
    assert_eq!(words[2] & 1, 1);
    assert_eq!(words[0x58 / 8] as u32, 1);
    assert_eq!((words[0x90 / 8], words[0xb0 / 8]), (1, 0x6000));
    assert_eq!((words[0x578 / 8], words[0x5d8 / 8], words[0x550 / 8]), (7, 8, 0x5000));
    assert_ne!(words[0x4d0 / 8] & vmcb::SVME, 0);
    for (code, first, second, exit) in [
        (0x61, 0, 0, Exit::Nmi),
        (0x81, 0, 0, Exit::Call),
        (0x80, 0, 0, Exit::Forbidden),
        (0x7f, 0, 0, Exit::TripleFault),
        (0x7c, 1, 0, Exit::RegisterWrite),
        (0x7b, 0xcf9 << 16 | 0x11, 0, Exit::Port(0xcf9)),
        (0x400, 1 << 32 | 6, 0x1234, Exit::Outside { address: 0x1234, access: Access::Write }),
        (0x400, 1 << 32 | 0x14, 0x99, Exit::Outside { address: 0x99, access: Access::Execute }),
        (0x72, 0, 0, Exit::Other(0x72)),
    ] {
        let page = pages.as_mut_ptr().cast::<u64>();
        // SAFETY: inside the page.
        let vmcb = unsafe {
            page.add(0x70 / 8).write(code);
            page.add(0x78 / 8).write(first);
            page.add(0x80 / 8).write(second);
            &*page.cast::<Vmcb>()
        };
        assert_eq!(vmcb.exit(), exit);
    }
    // A program that makes the kernel's call is told that there is no such instruction.
    // SAFETY: as above.
    let vmcb = unsafe { &mut *pages.as_mut_ptr().cast::<Vmcb>() };
    vmcb.saved.cpl = 3;
    // SAFETY: as above.
    unsafe { pages.as_mut_ptr().cast::<u64>().add(0x70 / 8).write(0x81) };
    // SAFETY: as above.
    assert_eq!(unsafe { &*pages.as_mut_ptr().cast::<Vmcb>() }.exit(), Exit::Forbidden);
}
