//! Writing a cpio archive in the format that Linux takes as its initial file system ("newc", man 5 cpio).
use std::path::Path;

/// File types of the mode field.
const DIRECTORY: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;
const LINK: u32 = 0o120_000;

/// An archive that is being written.
#[derive(Default, Debug)]
pub struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

impl Archive {
    /// An empty archive.
    pub fn new() -> Archive {
        Archive::default()
    }

    /// Adds a directory.
    pub fn directory(&mut self, path: &str) {
        self.entry(path, DIRECTORY | 0o755, &[]);
    }

    /// Adds the directories that lead to a file, from the top. Twice the same does no harm.
    pub fn directories_to(&mut self, path: &str) {
        let mut above: Vec<&Path> = Path::new(path.trim_start_matches('/')).ancestors().skip(1).collect();
        above.reverse();
        for directory in above.iter().filter_map(|path| path.to_str()).filter(|path| !path.is_empty()) {
            self.directory(directory);
        }
    }

    /// Adds a file that can be executed.
    pub fn file(&mut self, path: &str, content: &[u8]) {
        self.entry(path, REGULAR | 0o755, content);
    }

    /// Adds a symbolic link.
    pub fn link(&mut self, path: &str, target: &str) {
        self.entry(path, LINK | 0o777, target.as_bytes());
    }

    /// The archive with its end mark.
    pub fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, &[]);
        self.bytes
    }

    fn entry(&mut self, path: &str, mode: u32, content: &[u8]) {
        let path = path.trim_start_matches('/');
        self.entries += 1;
        // Inode, mode, owner, group, links, time, size, four device numbers, length of the name, checksum.
        let (size, name) = (content.len() as u32, path.len() as u32 + 1);
        let fields = [self.entries, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, name, 0];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(path.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        io::Write,
        process::{Command, Stdio},
    };

    #[test]
    fn entries_are_aligned_and_ended() {
        let mut archive = Archive::new();
        archive.directories_to("/a/b/file");
        archive.file("a/b/file", b"content");
        archive.link("a/link", "b/file");
        let bytes = archive.finish();
        assert_eq!(bytes.len() % 4, 0);
        assert!(bytes.starts_with(b"070701"));
        let mut child =
            match Command::new("cpio").args(["-t", "--quiet"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn() {
                Ok(child) => child,
                // No other reader at hand.
                Err(_) => return,
            };
        child.stdin.take().expect("a pipe").write_all(&bytes).expect("writes");
        let output = child.wait_with_output().expect("ends");
        assert_eq!(String::from_utf8_lossy(&output.stdout), "a\na/b\na/b/file\na/link\n");
    }
}
