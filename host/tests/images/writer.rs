//! The file systems that are written: read with the kernel's reader, and checked by the tools of EROFS where they are.
use crate::make::Place;
use shimos::images::{
    erofs,
    reader::Reader,
    tree::{Body, Content, Meta, Node, Tree},
};
use shimos_random::Random;
use std::{collections::BTreeMap, fs, process::Command};

fn bytes(len: usize) -> Vec<u8> {
    (0..len).map(|index| (index * 7 % 251) as u8).collect()
}

fn node(body: Body, mode: u16) -> Node {
    Node { meta: Meta { mode, uid: u32::from(mode) * 70_000, gid: 5, mtime: (1_600_000_000, 123) }, body }
}

/// A tree with files of these lengths in many directories.
fn random_tree(rng: &mut Random, files: usize) -> (Tree, BTreeMap<String, Vec<u8>>) {
    const SIZES: [usize; 14] = [0, 1, 63, 64, 1000, 2047, 2048, 2049, 4095, 4096, 4097, 8191, 8192, 50_000];
    let mut tree = Tree::default();
    let mut contents = BTreeMap::new();
    let mut directories = vec![String::new()];
    for index in 0..files {
        let directory = directories[rng.index(directories.len())].clone();
        let name = format!("{directory}{}{index}", "!.x~\u{ff}".repeat(rng.index(12)));
        match rng.index(8) {
            0 => {
                tree.put(name.as_bytes(), node(Body::directory(), 0o750)).expect("fits");
                directories.push(format!("{name}/"));
            }
            1 => {
                let text = bytes(1 + rng.index(4094)).into_iter().map(|byte| byte.max(1)).collect();
                tree.put(name.as_bytes(), node(Body::Symlink(text), 0o777)).expect("fits");
            }
            _ => {
                let content = bytes(SIZES[rng.index(SIZES.len())]);
                let body = Body::File(Content::Bytes(content.as_slice().into()));
                tree.put(name.as_bytes(), node(body, 0o640)).expect("fits");
                contents.insert(name, content);
            }
        }
    }
    (tree, contents)
}

#[test]
fn what_is_written_is_read_again() {
    let place = Place::new();
    let file = place.directory.join("image");
    let mut rng = Random::new(7);
    for files in [0, 1, 30, 300, 3000] {
        let (tree, contents) = random_tree(&mut rng, files);
        let written = erofs::write(&tree, &file).expect("writes");
        assert_eq!(written.files, files + 1);
        assert_eq!(fs::metadata(&file).expect("metadata").len(), written.bytes);
        let mut reader = Reader::open(&file).expect("an image");
        for (name, content) in &contents {
            assert_eq!(reader.read(name, 1 << 20).expect("reads").as_ref(), Some(content), "{name}");
            let found = reader.find(name).expect("reads").expect("there").metadata;
            let wanted = (0o640, 0o640 * 70_000, 5, 1, 1_600_000_000_000_000_123);
            assert_eq!((found.mode, found.uid, found.gid, found.nlink, found.mtime), wanted);
        }
        // The same tree gives the same bytes, also when it comes from there.
        let again = place.directory.join("again");
        let copy = reader.tree(&file).expect("reads");
        erofs::write(&copy, &again).expect("writes");
        assert!(fs::read(&file).expect("reads") == fs::read(&again).expect("reads"), "{files} files");
        if let Ok(output) = Command::new("fsck.erofs").arg("--extract").arg(&file).output() {
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        }
    }
}

#[test]
fn directories_have_all_their_names_in_order() {
    let place = Place::new();
    let file = place.directory.join("image");
    let mut tree = Tree::default();
    // Names before and behind the two dots, as many as fill blocks to the last byte.
    for index in 0..2000 {
        let name =
            format!("d/{}{index:03}", ["!", "-", "..", ".a", "/"][index % 5].replace('/', "z").repeat(1 + index % 40));
        tree.put(name.as_bytes(), node(Body::Fifo, 0o600)).expect("fits");
    }
    tree.put(b"d/sub", node(Body::directory(), 0o700)).expect("fits");
    erofs::write(&tree, &file).expect("writes");
    let mut reader = Reader::open(&file).expect("an image");
    let copy = reader.tree(&file).expect("reads");
    let names = |tree: &Tree| -> Vec<Vec<u8>> {
        let dir = tree.find(b"d").expect("a path").expect("there");
        tree.children(dir).map(|(name, _)| name.clone()).collect()
    };
    assert_eq!(names(&copy), names(&tree));
    for name in names(&tree) {
        let path = format!("/d/{}", String::from_utf8(name).expect("text"));
        assert!(reader.find(&path).expect("reads").is_some(), "{path}");
    }
    assert_eq!(reader.find("/d").expect("reads").expect("there").metadata.nlink, 3);
}

#[test]
fn a_file_that_shrinks_while_it_is_read_is_noticed() {
    let place = Place::new();
    let source = place.write("source", b"short");
    let mut tree = Tree::default();
    tree.put(b"f", node(Body::File(Content::File(source, 5000)), 0o644)).expect("fits");
    let error = erofs::write(&tree, &place.directory.join("image")).expect_err("refused");
    assert!(format!("{error:#}").contains("became shorter"), "{error:#}");
}
