//! Which of the kernel's modules are needed, in the order in which they must be loaded.
use anyhow::{Context, Result};
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

/// All modules below a directory by name: Linux takes `-` and `_` for the same there.
fn all(directory: &Path, found: &mut BTreeMap<String, PathBuf>) -> Result<()> {
    for item in fs::read_dir(directory).with_context(|| format!("cannot read {}", directory.display()))? {
        let path = item?.path();
        if path.is_dir() {
            all(&path, found)?;
        } else if path.extension().is_some_and(|extension| extension == "ko")
            && let Some(name) = path.file_stem()
        {
            found.insert(name.to_string_lossy().replace('-', "_"), path);
        }
    }
    Ok(())
}

/// What a module says that it needs: the string behind `depends=` in its section of strings.
fn dependencies(module: &[u8]) -> Vec<String> {
    const MARK: &[u8] = b"\0depends=";
    let Some(at) = module.windows(MARK.len()).position(|window| window == MARK) else { return Vec::new() };
    let text = module.get(at + MARK.len()..).unwrap_or_default();
    let text = text.split(|byte| *byte == 0).next().unwrap_or_default();
    let names = String::from_utf8_lossy(text).replace('-', "_");
    names.split(',').filter(|name| !name.is_empty()).map(str::to_string).collect()
}

/// The modules `wanted` and what they need, each behind what it needs. A name that is no module is left out: it may be
/// part of the kernel itself.
pub fn in_order(directory: &Path, wanted: &[&str]) -> Result<Vec<(String, Vec<u8>)>> {
    let mut found = BTreeMap::new();
    all(directory, &mut found)?;
    let mut loaded: Vec<(String, Vec<u8>)> = Vec::new();
    // A name comes a second time when what it needs has been dealt with.
    let mut stack: Vec<(String, bool)> = wanted.iter().rev().map(|name| (name.to_string(), false)).collect();
    let mut contents: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    while let Some((name, ready)) = stack.pop() {
        if ready {
            if let Some(content) = contents.remove(&name) {
                loaded.push((name, content));
            }
            continue;
        }
        let Some(path) = found.remove(&name) else { continue };
        let content = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        stack.push((name.clone(), true));
        stack.extend(dependencies(&content).into_iter().map(|name| (name, false)));
        contents.insert(name, content);
    }
    Ok(loaded)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_comes_behind_what_it_needs() {
        let directory = std::env::temp_dir().join(format!("shimos-modules-{}", std::process::id()));
        fs::create_dir_all(directory.join("net")).expect("directory");
        let module = |name: &str, needs: &str| {
            let text = format!("license=GPL\0depends={needs}\0name={name}\0");
            fs::write(directory.join(name), text).expect("writes");
        };
        module("net/virtio-net.ko", "net_failover,virtio");
        module("net/net_failover.ko", "failover");
        module("failover.ko", "");
        module("virtio.ko", "");
        let order = in_order(&directory, &["virtio_net", "virtio", "part_of_the_kernel"]).expect("reads");
        let names: Vec<&str> = order.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["virtio", "failover", "net_failover", "virtio_net"]);
        let _ = fs::remove_dir_all(directory);
    }
}
