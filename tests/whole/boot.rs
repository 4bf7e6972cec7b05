//! Every kind and size of machine comes up, and every kernel says what it is.
use anyhow::{Context, Result, ensure};
use shimos::{
    console::Source,
    machine::{Kind, Options},
};
use shimos_abi::control::{Device, KernelStatus};
use shimos_tests::{clock::SOON, group::Group, rig::Rig, suite::Suite};

/// Private memory of a kernel here, in MiB.
const MEMORY: u64 = 64;

pub fn run(suite: &mut Suite) {
    let machines = [
        ("boot::one_kernel_on_q35", Kind::Q35, 1),
        ("boot::two_kernels_on_pc", Kind::Pc, 2),
        ("boot::four_kernels_on_microvm", Kind::Microvm, 4),
        ("boot::sixteen_kernels_on_q35", Kind::Q35, 16),
    ];
    for (name, kind, kernels) in machines {
        let options = Options { kernels, kind, memory: MEMORY, ..Options::default() };
        Group::new(suite, options).case(name, |rig| introduced(rig, kernels));
    }
}

/// Whether each kernel has announced itself, and the machine's state says the same.
fn introduced(rig: &mut Rig, kernels: u16) -> Result<()> {
    // A kernel publishes its build when it has its first turn.
    let status = rig.until(SOON, "what each kernel publishes of itself", |status| {
        let known = status.kernels.iter().all(|kernel| !kernel.published.build.is_empty());
        known.then(|| status.clone())
    })?;
    ensure!(status.kernels.len() == usize::from(kernels), "{} kernels in the state", status.kernels.len());
    let mut apics: Vec<u32> = status.kernels.iter().map(|kernel| kernel.apic).collect();
    apics.dedup();
    ensure!(apics.len() == usize::from(kernels), "APIC ids {apics:?}");
    ensure!(status.owners.len() == Device::ALL.len(), "{} devices", status.owners.len());
    ensure!(usize::from(status.monitor.0) < usize::from(kernels), "monitor {}", status.monitor);
    for kernel in &status.kernels {
        announced(rig, kernel)?;
    }
    Ok(())
}

fn announced(rig: &Rig, kernel: &KernelStatus) -> Result<()> {
    let id = kernel.id.0;
    ensure!(kernel.incarnation == 1, "k{id} has incarnation {}", kernel.incarnation);
    ensure!(kernel.memory >> 20 <= MEMORY && kernel.memory >> 20 > MEMORY / 2, "k{id} has {} bytes", kernel.memory);
    ensure!(kernel.free_frames > 0 && kernel.free_frames << 12 < kernel.memory, "k{id}: {} free", kernel.free_frames);
    let start = format!(
        "kernel k{id} on core {id}, APIC id {}, incarnation {}, {} MiB, ",
        kernel.apic,
        kernel.incarnation,
        kernel.memory >> 20
    );
    let said = rig
        .console()
        .wait_for(SOON, |line| line.source == Source::Kernel(id) && line.text.starts_with(&start))
        .with_context(|| format!("k{id} did not say '{start}'"))?;
    ensure!(said.text.ends_with(&kernel.published.build), "'{}' and {}", said.text, kernel.published.build);
    Ok(())
}
