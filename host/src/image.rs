//! The root image: Debian's own files, our programs, a little configuration, as an uncompressed EROFS file system.
use crate::{artifacts, exclusive, images::furnish, packages, paths::Paths};
use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};
use std::{
    ffi::OsStr,
    fs,
    io::{BufWriter, Write},
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// Changes whenever this file makes another image from the same inputs.
const RECIPE: &str = "2";
/// Bytes of the file that the demonstration downloads.
pub const STREAM_BYTES: u64 = 72 * 1024 * 1024;
/// Where that file lies in the web server's directory.
pub const STREAM_NAME: &str = "stream.bin";

/// Directories that no package brings.
const DIRECTORIES: [&str; 16] = [
    "boot",
    "dev",
    "etc",
    "home",
    "mnt",
    "opt",
    "proc",
    "root",
    "run",
    "srv/www",
    "sys",
    "tmp",
    "usr/local/bin",
    "var/log",
    "var/tmp",
    "var/www",
];
/// Directories that lead into `/usr`, as on every Debian of today.
const MERGED: [&str; 5] = ["bin", "lib", "lib32", "lib64", "sbin"];
/// What nobody reads inside.
const UNREAD: [&str; 6] =
    ["usr/share/doc", "usr/share/info", "usr/share/lintian", "usr/share/locale", "usr/share/man", "usr/share/menu"];
/// Small files.
const CONFIGURATION: [(&str, &str); 10] = [
    ("etc/passwd", "root:x:0:0:root:/root:/bin/bash\nnobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n"),
    ("etc/group", "root:x:0:\ntty:x:5:\nnogroup:x:65534:\n"),
    ("etc/hostname", "shimos\n"),
    ("etc/hosts", "127.0.0.1 localhost\n127.0.1.1 shimos\n"),
    ("etc/resolv.conf", "nameserver 10.77.0.3\n"),
    (
        "etc/nsswitch.conf",
        "passwd: files\ngroup: files\nshadow: files\nhosts: files dns\nservices: files\nprotocols: files\n",
    ),
    ("etc/services", "http 80/tcp\nshimos 7411/tcp\n"),
    ("etc/protocols", "ip 0 IP\nicmp 1 ICMP\ntcp 6 TCP\nudp 17 UDP\n"),
    ("etc/os-release", "PRETTY_NAME=\"Debian programs on Shimos\"\nID=debian\n"),
    ("srv/www/index.html", "<!doctype html><title>Shimos</title><p>Served by a program that outlives its kernel.\n"),
];

/// A file to put into the image: where inside, and from where.
#[derive(Clone, Debug)]
pub struct Extra {
    /// Path inside, absolute.
    pub inside: String,
    /// The file to copy.
    pub source: PathBuf,
}

/// The image, made if it is not there or if anything in it has changed.
pub fn root(paths: &Paths) -> Result<PathBuf> {
    artifacts::user(paths)?;
    let programs =
        artifacts::USER_PROGRAMS.map(|(name, inside)| Extra { inside: inside.to_string(), source: paths.user(name) });
    with_files(paths, &programs)
}

/// An image with these files in it besides Debian's. One process at a time makes it; others wait and then find it.
pub fn with_files(paths: &Paths, extras: &[Extra]) -> Result<PathBuf> {
    let _held = exclusive::hold(&paths.images().join("lock"), "another shimos makes the root image; waiting for it")?;
    let packages = packages::fetch(paths)?;
    let image = paths.images().join(format!("root-{}.erofs", key(&packages, extras)?));
    if image.is_file() {
        return Ok(image);
    }
    eprintln!("shimos: making the root image from {} packages", packages.len());
    let staging = paths.images().join(format!("staging-{}", std::process::id()));
    clear(&staging)?;
    let made = stage(&staging, &packages, extras).and_then(|()| pack(&staging, &image));
    clear(&staging)?;
    made?;
    forget_others(paths, &image);
    Ok(image)
}

/// What the image is made of, as a short name.
fn key(packages: &[PathBuf], extras: &[Extra]) -> Result<String> {
    let mut hash = Sha256::new();
    hash.update(RECIPE);
    hash.update(STREAM_BYTES.to_le_bytes());
    for (path, text) in CONFIGURATION {
        hash.update(path);
        hash.update(text);
    }
    for package in packages {
        // A package's name holds its version: the content is the same for ever.
        hash.update(package.file_name().unwrap_or_default().to_string_lossy().as_bytes());
        hash.update(fs::metadata(package)?.len().to_le_bytes());
    }
    for extra in extras {
        hash.update(&extra.inside);
        hash.update(fs::read(&extra.source).with_context(|| format!("cannot read {}", extra.source.display()))?);
    }
    Ok(hash.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect())
}

/// Lays all files out in a directory.
fn stage(staging: &Path, packages: &[PathBuf], extras: &[Extra]) -> Result<()> {
    fs::create_dir_all(staging).with_context(|| format!("cannot make the directory {}", staging.display()))?;
    for name in MERGED {
        fs::create_dir_all(staging.join("usr").join(name))?;
        symlink(format!("usr/{name}"), staging.join(name))?;
    }
    for name in DIRECTORIES {
        fs::create_dir_all(staging.join(name))?;
    }
    for name in ["tmp", "var/tmp"] {
        fs::set_permissions(staging.join(name), fs::Permissions::from_mode(0o1777))?;
    }
    for package in packages {
        packages::unpack(package, staging)?;
    }
    for name in UNREAD {
        clear(&staging.join(name))?;
    }
    for (name, text) in CONFIGURATION {
        fs::write(staging.join(name), text)?;
    }
    link_applets(staging)?;
    let agents = staging.join(furnish::DIRECTORY.trim_start_matches('/'));
    fs::create_dir_all(&agents)?;
    for extra in extras {
        let path = staging.join(extra.inside.trim_start_matches('/'));
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::copy(&extra.source, &path).with_context(|| format!("cannot copy {}", extra.source.display()))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
        if let Some(name) = extra.source.file_name().filter(|name| is_agent(name)) {
            // Where they are in every image.
            let place = agents.join(name);
            if place != path {
                fs::hard_link(&path, &place).with_context(|| format!("cannot make {}", place.display()))?;
            }
        }
    }
    write_stream(&staging.join("srv/www").join(STREAM_NAME))
}

/// Whether a program of this name is put into every image.
fn is_agent(name: &OsStr) -> bool {
    artifacts::USER_PROGRAMS.iter().any(|(agent, _)| name == *agent)
}

/// Gives busybox a name for each of its commands that no package brings: its own leaves that to the administrator.
fn link_applets(staging: &Path) -> Result<()> {
    let busybox = staging.join("usr/bin/busybox");
    let output = Command::new(&busybox).arg("--list").output().context("cannot run the downloaded busybox")?;
    for name in String::from_utf8_lossy(&output.stdout).lines() {
        let taken =
            ["usr/bin", "usr/sbin"].iter().any(|place| staging.join(place).join(name).symlink_metadata().is_ok());
        if !taken && !name.contains('/') {
            symlink("busybox", staging.join("usr/bin").join(name))?;
        }
    }
    Ok(())
}

/// The bytes of the stream, block by block: any reader can compute them again.
pub fn stream_blocks() -> impl Iterator<Item = [u8; 4096]> {
    let mut state = 0x5348_494d_4f53_u64;
    (0..STREAM_BYTES / 4096).map(move |_| {
        let mut block = [0; 4096];
        for word in block.chunks_exact_mut(8) {
            // SplitMix64.
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut mixed = state;
            mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            word.copy_from_slice(&(mixed ^ (mixed >> 31)).to_le_bytes());
        }
        block
    })
}

fn write_stream(path: &Path) -> Result<()> {
    let mut file = BufWriter::new(fs::File::create(path)?);
    for block in stream_blocks() {
        file.write_all(&block).with_context(|| format!("cannot write {}", path.display()))?;
    }
    file.flush()?;
    Ok(())
}

/// Makes the file system. It gets its final name only when it is whole.
fn pack(staging: &Path, image: &Path) -> Result<()> {
    let unfinished = image.with_extension("unfinished");
    let output = Command::new("mkfs.erofs")
        .args(["-T0", "--all-root", "-x-1", "-U53484d4f-5300-4000-8000-000000000001", "--quiet"])
        .arg(&unfinished)
        .arg(staging)
        .stdin(Stdio::null())
        .output()
        .context("cannot run mkfs.erofs; run: apt-get install erofs-utils")?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("mkfs.erofs failed: {}", said.lines().next_back().unwrap_or("no reason given"));
    }
    fs::rename(&unfinished, image).with_context(|| format!("cannot move {}", unfinished.display()))
}

/// Removes images of other inputs that are not in use by a machine started a while ago.
fn forget_others(paths: &Paths, image: &Path) {
    for item in fs::read_dir(paths.images()).into_iter().flatten().flatten() {
        let path = item.path();
        let ours = path.extension().is_some_and(|extension| extension == "erofs" || extension == "unfinished");
        if ours && path != image {
            // An emulator that has it open keeps it.
            let _ = fs::remove_file(path);
        }
    }
}

/// Removes a directory and all in it, also when a package made parts of it read-only.
fn clear(path: &Path) -> Result<()> {
    if path.symlink_metadata().is_err() {
        return Ok(());
    }
    fs::remove_dir_all(path).with_context(|| format!("cannot remove {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stream_is_the_same_every_time_and_does_not_repeat() {
        let mut blocks = stream_blocks();
        let (first, second) = (blocks.next().expect("a block"), blocks.next().expect("another"));
        assert_eq!(stream_blocks().next(), Some(first));
        assert_ne!(first, second);
        assert_eq!(STREAM_BYTES % 4096, 0);
        const { assert!(STREAM_BYTES >= 64_000_000) };
    }

    #[test]
    fn the_name_follows_the_content() {
        let file = std::env::temp_dir().join(format!("shimos-image-{}", std::process::id()));
        let extra = [Extra { inside: "/sbin/x".to_string(), source: file.clone() }];
        fs::write(&file, "one").expect("writes");
        let one = key(&[], &extra).expect("reads");
        fs::write(&file, "two").expect("writes");
        assert_ne!(one, key(&[], &extra).expect("reads"));
        let _ = fs::remove_file(file);
        assert!(key(&[], &extra).is_err());
    }
}
