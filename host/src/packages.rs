//! Debian packages: which are needed, fetched and kept, taken apart byte for byte.
use crate::{children::found, paths::Paths};
use anyhow::{Context, Result, bail};
use std::{
    collections::{BTreeSet, VecDeque},
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// The packages whose programs run inside.
pub const WANTED: [&str; 3] = ["bash", "busybox-static", "coreutils"];
/// Dependencies that only installing needs, or that hold nothing but documents.
const SKIPPED: [&str; 5] = ["base-files", "debianutils", "dpkg", "gcc-12-base", "gcc-14-base"];
/// A package name with more dependencies than this is a mistake of ours.
const MOST: usize = 100;

/// Where Debian's packages come from when the host does not say.
const MIRROR: &str = "http://deb.debian.org/debian";

/// The mirror that the host takes a release of Debian from.
pub fn mirror(release: &str) -> String {
    let format = "$(ORIGIN) $(CODENAME) $(COMPONENT) $(REPO_URI)";
    let arguments = ["indextargets", "--format", format, "Created-By: Packages"];
    let output = Command::new("apt-get").args(arguments).env("LC_ALL", "C").stdin(Stdio::null()).output();
    let said = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    mirror_in(&said, release).unwrap_or(MIRROR).to_string()
}

fn mirror_in<'a>(targets: &'a str, release: &str) -> Option<&'a str> {
    targets.lines().find_map(|line| {
        let mut words = line.split(' ');
        let of_release = [words.next()?, words.next()?, words.next()?] == ["Debian", release, "main"];
        words.next().filter(|address| of_release && !address.is_empty())
    })
}

/// Apt, with the lists of the host or with lists of our own (which needs no root).
struct Apt {
    options: Vec<String>,
}

impl Apt {
    fn of_host() -> Apt {
        Apt { options: vec!["-o".to_string(), "APT::Sandbox::User=".to_string()] }
    }

    /// Lists in our own cache, made anew.
    fn own(paths: &Paths) -> Result<Apt> {
        let state = paths.cache().join("apt");
        fs::create_dir_all(state.join("lists/partial"))?;
        fs::create_dir_all(state.join("archives/partial"))?;
        let mut apt = Apt::of_host();
        for option in [
            format!("Dir::State::Lists={}/lists", state.display()),
            format!("Dir::Cache={}", state.display()),
            format!("Dir::Cache::Archives={}/archives", state.display()),
        ] {
            apt.options.extend(["-o".to_string(), option]);
        }
        eprintln!("shimos: fetching Debian's package lists");
        // One source that fails must not stop the others; what is missing then shows at the download.
        let _ = apt.command("apt-get", ["update", "-q"]).stdout(Stdio::null()).stderr(Stdio::null()).status();
        Ok(apt)
    }

    fn command(&self, program: &str, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Command {
        let mut command = Command::new(program);
        command.args(&self.options).args(arguments).env("LC_ALL", "C").stdin(Stdio::null());
        command
    }

    /// The direct dependencies of a package; nothing when it is not known.
    fn dependencies(&self, package: &str) -> Result<Vec<String>> {
        let output = self.command("apt-cache", ["depends", package]).output().context("cannot run apt-cache")?;
        Ok(dependencies_in(&String::from_utf8_lossy(&output.stdout)))
    }

    /// The packages and all that they need.
    fn closure(&self) -> Result<BTreeSet<String>> {
        let mut known: BTreeSet<String> = WANTED.iter().map(|name| name.to_string()).collect();
        let mut queue: VecDeque<String> = known.iter().cloned().collect();
        while let Some(package) = queue.pop_front() {
            for name in self.dependencies(&package)? {
                if !SKIPPED.contains(&name.as_str()) && known.insert(name.clone()) {
                    queue.push_back(name);
                }
            }
            if known.len() > MOST {
                bail!("the packages {WANTED:?} need more than {MOST} others");
            }
        }
        Ok(known)
    }

    fn download(&self, packages: &BTreeSet<String>, into: &Path) -> Result<()> {
        let mut command = self.command("apt-get", ["download", "-q"]);
        let output = command.args(packages).current_dir(into).output().context("cannot run apt-get")?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        bail!(
            "apt-get download failed: {}",
            said.lines().find(|line| line.starts_with("E:")).unwrap_or("no reason given")
        )
    }
}

/// Reads what `apt-cache depends` prints. Of alternatives and of providers the first is taken.
fn dependencies_in(text: &str) -> Vec<String> {
    let mut names = Vec::new();
    let mut alternative = false;
    let mut provider = false;
    for line in text.lines().skip(1) {
        let relation = line.trim_start().split_once(": ");
        let Some((kind, name)) = relation else {
            // Indented further: a package that provides the virtual one above.
            if provider && line.starts_with("    ") {
                names.push(line.trim().to_string());
                provider = false;
            }
            continue;
        };
        provider = false;
        let (first, kind) = match kind.strip_prefix('|') {
            Some(kind) => (true, kind),
            None => (false, kind),
        };
        let needed = matches!(kind, "Depends" | "PreDepends");
        if needed && !alternative {
            if name.starts_with('<') {
                provider = true;
            } else {
                names.push(name.trim().split(':').next().unwrap_or_default().to_string());
            }
        }
        alternative = needed && first;
    }
    names
}

/// The packages' files in the cache, fetched if they are not there.
pub fn fetch(paths: &Paths) -> Result<Vec<PathBuf>> {
    let cache = paths.cache().join("packages");
    if let Some(files) = cached(&cache) {
        return Ok(files);
    }
    for program in ["apt-get", "apt-cache", "dpkg-deb", "tar"] {
        if !found(program) {
            bail!(
                "{program} is missing, so no root image can be made from Debian's packages; give one with --image FILE"
            );
        }
    }
    eprintln!("shimos: fetching {} and what they need from Debian", WANTED.join(", "));
    let fresh = cache.with_extension("new");
    let mut attempt = fetch_with(&Apt::of_host(), &fresh);
    if attempt.is_err() {
        // Without lists, or with lists that are older than the archive.
        attempt = fetch_with(&Apt::own(paths)?, &fresh);
    }
    let packages =
        attempt.context("cannot fetch Debian's packages; check the network and /etc/apt, or give --image FILE")?;
    let _ = fs::remove_dir_all(&cache);
    fs::rename(&fresh, &cache).with_context(|| format!("cannot move {}", fresh.display()))?;
    cached(&cache).with_context(|| format!("of the packages {packages:?} not all arrived; try again"))
}

fn fetch_with(apt: &Apt, into: &Path) -> Result<BTreeSet<String>> {
    let _ = fs::remove_dir_all(into);
    fs::create_dir_all(into).with_context(|| format!("cannot make the directory {}", into.display()))?;
    let packages = apt.closure()?;
    apt.download(&packages, into)?;
    fs::write(into.join("list"), packages.iter().map(|name| format!("{name}\n")).collect::<String>())?;
    Ok(packages)
}

/// Fetches the package that an empty one stands for (its first dependency), alone, into a directory.
pub fn fetch_concrete(paths: &Paths, package: &str, into: &Path) -> Result<PathBuf> {
    fs::create_dir_all(into).with_context(|| format!("cannot make the directory {}", into.display()))?;
    eprintln!("shimos: fetching {package} from Debian");
    let attempt = |apt: &Apt| -> Result<PathBuf> {
        let names = apt.dependencies(package)?;
        let name = names.first().with_context(|| format!("Debian's lists know no package {package}"))?;
        apt.download(&BTreeSet::from([name.clone()]), into)?;
        let start = format!("{name}_");
        let mut files = fs::read_dir(into)?.filter_map(|item| Some(item.ok()?.path()));
        let file = files.find(|file| file.file_name().is_some_and(|file| file.to_string_lossy().starts_with(&start)));
        file.with_context(|| format!("the package {name} did not arrive"))
    };
    let found = attempt(&Apt::of_host()).or_else(|_| attempt(&Apt::own(paths)?));
    found.with_context(|| format!("cannot fetch {package}; check the network and /etc/apt"))
}

/// The files in a cache directory, if they are all there.
fn cached(directory: &Path) -> Option<Vec<PathBuf>> {
    let list = fs::read_to_string(directory.join("list")).ok()?;
    let mut files: Vec<PathBuf> = fs::read_dir(directory).ok()?.filter_map(|item| Some(item.ok()?.path())).collect();
    files.retain(|file| file.extension() == Some(OsStr::new("deb")));
    files.sort();
    let there = |name: &str| {
        let start = format!("{name}_");
        files.iter().any(|file| file.file_name().is_some_and(|file| file.to_string_lossy().starts_with(&start)))
    };
    (WANTED.iter().all(|name| there(name)) && list.lines().all(there)).then_some(files)
}

/// Takes a package's files apart into a directory in which `/bin` and the like lead to `/usr`.
pub fn unpack(package: &Path, into: &Path) -> Result<()> {
    let mut files = Command::new("dpkg-deb")
        .arg("--fsys-tarfile")
        .arg(package)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot run dpkg-deb")?;
    let pipe = files.stdout.take().context("dpkg-deb has no output")?;
    let tar = Command::new("tar")
        .args(["-x", "--keep-directory-symlink", "--no-same-owner", "--warning=no-timestamp", "-C"])
        .arg(into)
        .stdin(pipe)
        .status()
        .context("cannot run tar")?;
    let unpacked = files.wait()?.success() && tar.success();
    if !unpacked {
        bail!("cannot take {} apart; remove it and try again", package.display());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_alternatives_and_providers_is_taken() {
        let text = "bash\n  PreDepends: libc6\n  PreDepends: libtinfo6\n |Depends: one\n |Depends: two\n\
                    \x20 Depends: three\n  Depends: <awk>\n    mawk\n    gawk\n  Conflicts: bash-completion\n\
                    \x20 Recommends: <r>\n    provider\n";
        assert_eq!(dependencies_in(text), ["libc6", "libtinfo6", "one", "mawk"]);
        assert!(dependencies_in("").is_empty());
    }

    #[test]
    fn the_mirror_is_that_of_the_release() {
        let targets = "Debian trixie main http://a/\nUbuntu bookworm main http://b/\nodd\n\
                       Debian bookworm contrib http://c/\nDebian bookworm main http://d/debian/\n";
        assert_eq!(mirror_in(targets, "bookworm"), Some("http://d/debian/"));
        assert_eq!(mirror_in("", "bookworm"), None);
    }

    #[test]
    fn a_cache_counts_only_when_it_is_whole() {
        let directory = std::env::temp_dir().join(format!("shimos-packages-{}", std::process::id()));
        fs::create_dir_all(&directory).expect("directory");
        assert!(cached(&directory).is_none());
        fs::write(directory.join("list"), "bash\nbusybox-static\ncoreutils\nlibc6\n").expect("writes");
        for name in ["bash_5_amd64.deb", "busybox-static_1_amd64.deb", "coreutils_9_amd64.deb"] {
            fs::write(directory.join(name), "").expect("writes");
        }
        assert!(cached(&directory).is_none());
        fs::write(directory.join("libc6_2_amd64.deb"), "").expect("writes");
        assert_eq!(cached(&directory).map(|files| files.len()), Some(4));
        let _ = fs::remove_dir_all(directory);
    }
}
