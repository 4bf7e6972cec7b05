//! The few ACPI tables that matter: cores and I/O APICs (MADT), power (FADT), PCI configuration space (MCFG).
//! References are to ACPI 6.5. Read while the first 4 GiB are mapped one to one.
use crate::info::{IoApic, IrqOverride, PowerInfo};

/// Most cores that are looked at.
pub const MAX_CORES: usize = 256;

/// What the tables say.
pub struct Acpi {
    /// APIC ids of the usable cores.
    pub cores: [u32; MAX_CORES],
    /// How many.
    pub core_count: usize,
    /// Physical address of the local APICs.
    pub lapic: u64,
    /// I/O APICs.
    pub ioapics: [IoApic; 4],
    /// How many.
    pub ioapic_count: usize,
    /// ISA interrupts that are not wired one to one.
    pub overrides: [IrqOverride; 16],
    /// How many.
    pub override_count: usize,
    /// PCI configuration space, or 0.
    pub ecam: u64,
    /// Its first and last bus.
    pub ecam_buses: [u32; 2],
    /// Switching off.
    pub power: PowerInfo,
}

/// A table in memory.
#[derive(Clone, Copy)]
struct Table {
    at: u64,
    len: usize,
}

impl Table {
    /// The table with its header at physical address `at`, if it lies below 4 GiB.
    fn new(at: u64) -> Option<Table> {
        if at == 0 || at >= 0xffff_f000 {
            return None;
        }
        let len = Table { at, len: 8 }.get::<u32>(4)? as usize;
        (len >= 36 && at + len as u64 <= 1 << 32).then_some(Table { at, len })
    }
    fn get<T: Copy>(&self, offset: usize) -> Option<T> {
        if offset.checked_add(size_of::<T>())? > self.len {
            return None;
        }
        // SAFETY: firmware's table, below 4 GiB and inside its stated length; the types asked for are plain integers.
        Some(unsafe { ((self.at + offset as u64) as *const T).read_unaligned() })
    }
    fn is(&self, signature: &[u8; 4]) -> bool {
        self.get::<[u8; 4]>(0).as_ref() == Some(signature)
    }
}

/// Reads the tables. Without any, the machine has the core that we run on.
pub fn read(rsdp: u64, own_apic: u32) -> Acpi {
    let mut acpi = Acpi {
        cores: [0; MAX_CORES],
        core_count: 0,
        lapic: 0xfee0_0000,
        ioapics: [IoApic { phys: 0, gsi_base: 0, id: 0 }; 4],
        ioapic_count: 0,
        overrides: [IrqOverride { irq: 0, gsi: 0, flags: 0 }; 16],
        override_count: 0,
        ecam: 0,
        ecam_buses: [0; 2],
        power: PowerInfo { pm1a: 0, sleep: 0 },
    };
    let rsdp = if rsdp != 0 { Some(rsdp) } else { find_rsdp() };
    if let Some(root) = rsdp {
        let root = Table { at: root, len: 36 };
        // Revision 2 and later have the table of 64-bit addresses (5.2.5.3).
        let wide = root.get::<u8>(15).unwrap_or(0) >= 2;
        let list = if wide { root.get::<u64>(24) } else { root.get::<u32>(16).map(u64::from) };
        if let Some(list) = list.and_then(Table::new) {
            let size = if wide { 8 } else { 4 };
            for n in 0..(list.len - 36) / size {
                let at = 36 + n * size;
                let at = if wide { list.get::<u64>(at) } else { list.get::<u32>(at).map(u64::from) };
                let Some(table) = at.and_then(Table::new) else { continue };
                if table.is(b"APIC") {
                    acpi.madt(table);
                } else if table.is(b"FACP") {
                    acpi.fadt(table);
                } else if table.is(b"MCFG") {
                    acpi.ecam = table.get::<u64>(44).unwrap_or(0);
                    acpi.ecam_buses = [54, 55].map(|at| table.get::<u8>(at).unwrap_or(0).into());
                }
            }
        }
    }
    // The core that we run on is first, whatever the order in the table.
    let known = acpi.cores[..acpi.core_count].iter().position(|&core| core == own_apic);
    match known {
        Some(n) => acpi.cores[..=n].rotate_right(1),
        None => {
            acpi.cores.rotate_right(1);
            acpi.cores[0] = own_apic;
            acpi.core_count = (acpi.core_count + 1).min(MAX_CORES);
        }
    }
    acpi
}

/// Looks where a BIOS leaves the root (5.2.5.1).
fn find_rsdp() -> Option<u64> {
    (0xe_0000..0x10_0000).step_by(16).find(|&at| Table { at, len: 36 }.get::<[u8; 8]>(0) == Some(*b"RSD PTR "))
}

impl Acpi {
    fn madt(&mut self, table: Table) {
        if let Some(lapic) = table.get::<u32>(36) {
            self.lapic = lapic.into();
        }
        let mut at = 44;
        while let (Some(kind), Some(len)) = (table.get::<u8>(at), table.get::<u8>(at + 1)) {
            match kind {
                // 5.2.12.2: a core; bit 0 of the flags says that it is enabled.
                0 => {
                    if table.get::<u32>(at + 4).unwrap_or(0) & 1 != 0
                        && let Some(id) = table.get::<u8>(at + 3)
                        && self.core_count < MAX_CORES
                    {
                        self.cores[self.core_count] = id.into();
                        self.core_count += 1;
                    }
                }
                1 => {
                    if let (Some(id), Some(phys), Some(gsi_base)) =
                        (table.get::<u8>(at + 2), table.get::<u32>(at + 4), table.get::<u32>(at + 8))
                        && self.ioapic_count < self.ioapics.len()
                    {
                        self.ioapics[self.ioapic_count] = IoApic { phys: phys.into(), gsi_base, id: id.into() };
                        self.ioapic_count += 1;
                    }
                }
                2 => {
                    if let (Some(irq), Some(gsi), Some(flags)) =
                        (table.get::<u8>(at + 3), table.get::<u32>(at + 4), table.get::<u16>(at + 8))
                        && self.override_count < self.overrides.len()
                    {
                        self.overrides[self.override_count] = IrqOverride { irq: irq.into(), gsi, flags: flags.into() };
                        self.override_count += 1;
                    }
                }
                _ => {}
            }
            at += usize::from(len.max(2));
        }
    }
    fn fadt(&mut self, table: Table) {
        // 5.2.9: PM1a_CNT_BLK; SLEEP_CONTROL_REG is a generic address whose own address is 4 bytes in.
        self.power.pm1a = table.get::<u32>(64).unwrap_or(0) & 0xffff;
        if table.get::<u8>(244) == Some(0) {
            self.power.sleep = table.get::<u64>(248).unwrap_or(0);
        }
    }
}
