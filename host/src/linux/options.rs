//! What machine with Debian's kernel is wanted, and what the emulator is told.
use super::files::Files;
use crate::{accelerator::Accelerator, image::Extra, units::Published};
use std::path::{Path, PathBuf};

/// What machine is wanted.
#[derive(Clone, Debug)]
pub struct Options {
    /// Processors.
    pub cores: u16,
    /// Memory, in MiB.
    pub memory: u64,
    /// The processor's model, if not the accelerator's usual one.
    pub model: Option<String>,
    /// Root image (EROFS) with a writable layer above it; without one, only busybox is there.
    pub image: Option<PathBuf>,
    /// Files to put in besides.
    pub files: Vec<Extra>,
    /// Its address.
    pub address: [u8; 4],
    /// Ports of this host that lead inside.
    pub published: Vec<Published>,
    /// The network's back end, if not the emulator's own network of users; its id must be `n0`.
    pub network: Option<String>,
    /// More words for the kernel's command line.
    pub words: Vec<String>,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            cores: 1,
            memory: 512,
            model: None,
            image: None,
            files: Vec::new(),
            address: [10, 77, 1, 2],
            published: Vec::new(),
            network: None,
            words: Vec::new(),
        }
    }
}

/// What the emulator is told, apart from its own name.
pub fn arguments(options: &Options, accelerator: Accelerator, files: &Files, id: &str, qmp: &Path) -> Vec<String> {
    let path = |path: &Path| path.display().to_string().replace(',', ",,");
    let mut network = "user,id=n0,net=10.77.0.0/16,host=10.77.0.2,dns=10.77.0.3,ipv6=off".to_string();
    for rule in &options.published {
        network += &format!(",hostfwd={}", rule.rule());
    }
    let network = options.network.as_ref().unwrap_or(&network);
    let mut append = vec!["console=ttyS0", "quiet", "loglevel=0", "mitigations=off", "panic=-1"];
    append.extend(options.words.iter().map(String::as_str));
    let mut words: Vec<String> = Vec::new();
    let mut add = |more: &[&str]| words.extend(more.iter().map(|word| word.to_string()));
    add(&["-machine", "q35", "-bios", "qboot.rom"]);
    add(&accelerator.arguments());
    if let Some(model) = &options.model {
        add(&["-cpu", model]);
    }
    add(&["-name", id, "-nodefaults", "-no-user-config", "-vga", "none", "-display", "none", "-no-reboot"]);
    add(&["-smp", &options.cores.to_string(), "-m", &options.memory.to_string()]);
    add(&["-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console"]);
    add(&["-qmp", &format!("unix:{},server=on,wait=off", path(qmp))]);
    if let Some(image) = &options.image {
        add(&["-drive", &format!("if=none,id=root,format=raw,readonly=on,file={}", path(image))]);
        add(&["-device", "virtio-blk-pci,drive=root"]);
    }
    add(&["-netdev", network, "-device", "virtio-net-pci,netdev=n0,mac=52:53:48:4e:00:01"]);
    add(&["-kernel", &files.kernel.display().to_string(), "-initrd", &files.initramfs.display().to_string()]);
    add(&["-append", &append.join(" ")]);
    words
}
