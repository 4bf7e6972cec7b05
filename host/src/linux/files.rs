//! What a machine with Debian's own kernel is made of: the kernel and an initial file system.
//!
//! The initial file system holds busybox, the modules for the machine's devices, and a script that sets the machine up,
//! says that it is ready, and then runs what comes over the serial console, line by line.
use super::{cpio::Archive, modules, options::Options};
use crate::{packages, paths::Paths};
use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};
use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// The package that names Debian's current kernel for virtual machines.
const KERNEL: &str = "linux-image-cloud-amd64";
/// Modules for the devices and file systems of the machine, and to hinder packets in tests.
const MODULES: [&str; 6] = ["virtio_pci", "virtio_blk", "virtio_net", "erofs", "overlay", "sch_netem"];
/// What the machine says when it can be used.
pub const READY: &str = "linux-ready";
/// What it says behind the output of a command, with the exit status.
pub const STATUS: &str = "linux-status";

/// The script that is the first process.
const INIT: &str = r#"#!/bin/busybox sh
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
/bin/busybox --install -s /bin
mkdir -p /proc /sys /dev /tmp /run
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
stty -F /dev/ttyS0 -echo -onlcr 2>/dev/null
for name in $(cat /modules/list); do insmod /modules/$name.ko; done
. /setup
ip link set lo up
ip link set eth0 up
ip address add $ADDRESS/16 dev eth0
ip route add default via 10.77.0.2 2>/dev/null
root=/
if [ -b /dev/vda ]; then
    mkdir -p /image /writable /root
    mount -t erofs -o ro /dev/vda /image
    mount -t tmpfs -o size=75% tmpfs /writable
    mkdir -p /writable/upper /writable/work
    mount -t overlay -o lowerdir=/image,upperdir=/writable/upper,workdir=/writable/work overlay /root
    root=/root
    mkdir -p /root/proc /root/sys /root/dev /root/tmp /root/run
    mount -t proc proc /root/proc
    mount -t sysfs sysfs /root/sys
    mount -t devtmpfs dev /root/dev
    mount -t tmpfs tmpfs /root/tmp
    chmod 1777 /root/tmp
    mount -t tmpfs tmpfs /root/run
    cp -a /extra/. /root/
else
    cp -a /extra/. /
fi
mkdir -p $root/dev/pts $root/dev/shm
mount -t devpts -o ptmxmode=666,mode=620 devpts $root/dev/pts
mount -t tmpfs tmpfs $root/dev/shm
echo linux-ready
while read -r line; do
    chroot $root /bin/sh -c "$line" </dev/null 2>&1
    echo "linux-status $?"
done
poweroff -f
"#;

/// The two files of such a machine.
#[derive(Clone, Debug)]
pub struct Files {
    /// The kernel.
    pub kernel: PathBuf,
    /// The initial file system.
    pub initramfs: PathBuf,
    /// Which release of Linux it is.
    pub release: String,
}

/// The kernel's package taken apart, in the cache.
struct Package {
    kernel: PathBuf,
    modules: PathBuf,
    release: String,
}

fn only_entry(directory: &Path, start: &str) -> Result<PathBuf> {
    let items = fs::read_dir(directory).with_context(|| format!("cannot read {}", directory.display()))?;
    let mut found: Vec<PathBuf> = items
        .filter_map(|item| Some(item.ok()?.path()))
        .filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(start)))
        .collect();
    found.sort();
    found.pop().with_context(|| format!("{} holds no {start}", directory.display()))
}

fn package(paths: &Paths) -> Result<Package> {
    let cache = paths.cache().join("linux");
    let tree = cache.join("tree");
    if !tree.is_dir() {
        let file = packages::fetch_concrete(paths, KERNEL, &cache)?;
        let fresh = cache.join("tree.new");
        let _ = fs::remove_dir_all(&fresh);
        fs::create_dir_all(&fresh)?;
        packages::unpack(&file, &fresh)?;
        fs::rename(&fresh, &tree).with_context(|| format!("cannot move {}", fresh.display()))?;
    }
    let kernel = only_entry(&tree.join("boot"), "vmlinuz-")?;
    let modules = [tree.join("lib/modules"), tree.join("usr/lib/modules")].into_iter().find(|path| path.is_dir());
    let modules = only_entry(&modules.context("the kernel's package holds no modules")?, "")?;
    let release = modules.file_name().unwrap_or_default().to_string_lossy().into_owned();
    Ok(Package { kernel, modules, release })
}

/// Busybox, out of its package.
fn busybox(paths: &Paths) -> Result<Vec<u8>> {
    let files = packages::fetch(paths)?;
    let package = files
        .iter()
        .find(|file| file.file_name().is_some_and(|name| name.to_string_lossy().starts_with("busybox-static_")))
        .context("the package busybox-static is missing")?;
    let mut archive = Command::new("dpkg-deb")
        .arg("--fsys-tarfile")
        .arg(package)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot run dpkg-deb")?;
    let pipe = archive.stdout.take().context("dpkg-deb has no output")?;
    let output = Command::new("tar")
        .args(["-xO", "--wildcards", "./bin/busybox", "./usr/bin/busybox"])
        .stdin(pipe)
        .stderr(Stdio::null())
        .output()
        .context("cannot run tar")?;
    archive.wait()?;
    if output.stdout.get(..4) != Some(b"\x7fELF") {
        bail!("{} holds no busybox", package.display());
    }
    Ok(output.stdout)
}

/// Fetches and makes what such a machine needs.
pub fn make(paths: &Paths, options: &Options) -> Result<Files> {
    let package = package(paths)?;
    let mut archive = Archive::new();
    for name in ["bin", "modules", "extra"] {
        archive.directory(name);
    }
    archive.file("bin/busybox", &busybox(paths)?);
    archive.link("bin/sh", "busybox");
    archive.file("init", INIT.as_bytes());
    let [a, b, c, d] = options.address;
    archive.file("setup", format!("ADDRESS={a}.{b}.{c}.{d}\n").as_bytes());
    let mut list = String::new();
    for (name, content) in modules::in_order(&package.modules, &MODULES)? {
        archive.file(&format!("modules/{name}.ko"), &content);
        list += &format!("{name}\n");
    }
    archive.file("modules/list", list.as_bytes());
    for extra in &options.files {
        let inside = format!("extra/{}", extra.inside.trim_start_matches('/'));
        archive.directories_to(&inside);
        let content = fs::read(&extra.source).with_context(|| format!("cannot read {}", extra.source.display()))?;
        archive.file(&inside, &content);
    }
    let bytes = archive.finish();
    let key: String = Sha256::digest(&bytes).iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    fs::create_dir_all(paths.images())?;
    let initramfs = paths.images().join(format!("linux-{key}.cpio"));
    if !initramfs.is_file() {
        let unfinished = initramfs.with_extension(format!("{}", std::process::id()));
        fs::write(&unfinished, &bytes).with_context(|| format!("cannot write {}", unfinished.display()))?;
        fs::rename(&unfinished, &initramfs).with_context(|| format!("cannot move {}", unfinished.display()))?;
    }
    Ok(Files { kernel: package.kernel, initramfs, release: package.release })
}
