//! Plain archives, directories, and layers over one another.
use crate::make::{Docker, Packer, Place, Tar, bzip2, config, gzip, header, xz, zstd};
use shimos::images::{blob::Limits, reader::Reader};
use shimos_vfs::Kind;
use std::{
    fs::{self, File},
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
};

fn sample() -> Vec<u8> {
    let mut owned = header(b'0', b"./usr/bin/tool", 4);
    owned.set_mode(0o4755);
    owned.set_uid(1000);
    owned.set_gid(50);
    owned.set_cksum();
    Tar::new()
        .directory("./")
        .with(&owned, b"tool")
        .symlink("./bin", "usr/bin")
        .hard_link("./usr/bin/again", "usr/bin/tool")
        .attribute("uid", b"3000000")
        .attribute("mtime", b"1700000001.25")
        .attribute("path", "usr/share/a name that is long \u{e9}".as_bytes())
        .file("short", b"long")
        .with(&header(b'L', b"././@LongLink", 201), &[&[b'n'; 200][..], b"\0"].concat())
        .file("nnn", b"gnu")
        .link(b'6', "run/pipe", "")
        .link(b'3', "dev/null", "")
        .end()
}

#[test]
fn archives_are_imported_with_owners_modes_and_links() {
    let packers: [Packer; 5] = [|bytes| bytes.to_vec(), gzip, bzip2, xz, zstd];
    let mut images = Vec::new();
    for pack in packers {
        let place = Place::new();
        let kept = place.import(&pack(&sample())).expect("imported");
        let mut reader = Reader::open(&kept.file()).expect("an image");
        let tool = reader.find("/bin/tool").expect("reads").expect("there").metadata;
        assert_eq!((tool.mode, tool.uid, tool.gid, tool.nlink), (0o4755, 1000, 50, 2));
        let again = reader.find("/usr/bin/again").expect("reads").expect("there").metadata;
        assert_eq!(again.ino, tool.ino);
        let long = reader.find("/usr/share/a name that is long \u{e9}").expect("reads").expect("there").metadata;
        assert_eq!((long.uid, long.mtime), (3_000_000, 1_700_000_001_250_000_000));
        assert_eq!(reader.find("/run/pipe").expect("reads").expect("there").metadata.kind, Kind::Fifo);
        assert!(reader.find("/dev/null").expect("reads").is_none());
        assert_eq!(reader.read(&format!("/{}", "n".repeat(200)), 9).expect("reads").as_deref(), Some(&b"gnu"[..]));
        assert_eq!(place.text(&kept, "/etc/resolv.conf").as_deref(), Some("nameserver 10.77.0.3\n"));
        assert_eq!(kept.names, ["input"]);
        images.push(fs::read(kept.file()).expect("reads"));
    }
    assert!(images.iter().all(|image| *image == images[0]), "one compression gave another image");
}

#[test]
fn several_pieces_of_compressed_data_are_one() {
    let place = Place::new();
    let sample = sample();
    let (one, two) = sample.split_at(1000);
    for pack in [gzip, bzip2, xz, zstd] as [Packer; 4] {
        place.import(&[pack(one), pack(two)].concat()).expect("imported");
    }
    // A frame of zstd that is to be skipped.
    let skipped = [&[0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3][..], &zstd(&sample)].concat();
    place.import(&skipped).expect("imported");
}

#[test]
fn the_same_input_is_found_again() {
    let place = Place::new();
    let first = place.import(&sample()).expect("imported");
    let made = fs::metadata(first.file()).expect("metadata").ino();
    let again = place.import(&sample()).expect("imported");
    assert_eq!(first, again);
    assert_eq!(fs::metadata(again.file()).expect("metadata").ino(), made);
    let other = place.import(&Tar::new().file("a", b"").end()).expect("imported");
    assert_ne!(first.digest, other.digest);
    // The name has moved.
    assert_eq!(place.store.find("input").expect("there").digest, other.digest);
    assert_eq!(place.store.find(&first.digest[..8]).expect("there").digest, first.digest);
    assert!(place.store.find("nothing").is_err() && place.store.find("").is_err());
    place.store.lock().expect("a lock").remove(&other).expect("removes");
    assert_eq!(place.left(), [first.digest.as_str(), "lock"]);
}

#[test]
fn what_a_killed_tool_has_left_goes() {
    let place = Place::new();
    fs::create_dir_all(place.directory.join("images/work-1/new")).expect("directory");
    drop(place.store.lock().expect("a lock"));
    assert_eq!(place.left(), ["lock"]);
}

#[test]
fn layers_hide_and_replace_what_lies_below() {
    let place = Place::new();
    let layers = [
        Tar::new()
            .file("keep", b"0")
            .file("gone", b"0")
            .file("tree/a", b"0")
            .file("tree/b/c", b"0")
            .file("opaque/old", b"0")
            .file("again", b"0")
            .directory("was-a-directory")
            .file("was-a-directory/x", b"0")
            .file("was-a-file", b"0")
            .file("both/one", b"0")
            .end(),
        Tar::new()
            .file(".wh.gone", b"")
            .file("tree/.wh.b", b"")
            // New things are there although the sign that hides the old ones stands behind them.
            .file("opaque/new", b"1")
            .file("opaque/.wh..wh..opq", b"")
            .file("again", b"1")
            .file(".wh.again", b"")
            .file("was-a-directory", b"1")
            .directory("was-a-file")
            .file("was-a-file/x", b"1")
            .file(".wh.never-there", b"")
            .file("not-there/.wh.x", b"")
            .file(".wh..wh.plnk", b"")
            .directory("both")
            .file("both/two", b"1")
            .hard_link("linked", "keep")
            .end(),
    ];
    let kept = place.import(&Docker::new(&layers, &config(&layers)).tar().end()).expect("imported");
    for (path, wanted) in [
        ("/keep", Some("0")),
        ("/linked", Some("0")),
        ("/gone", None),
        ("/.wh.gone", None),
        ("/tree/a", Some("0")),
        ("/tree/b/c", None),
        ("/opaque/old", None),
        ("/opaque/new", Some("1")),
        ("/again", Some("1")),
        ("/was-a-directory", Some("1")),
        ("/was-a-file/x", Some("1")),
        ("/both/one", Some("0")),
        ("/both/two", Some("1")),
        ("/.wh..wh.plnk", None),
    ] {
        assert_eq!(place.text(&kept, path).as_deref(), wanted, "{path}");
    }
    let mut reader = Reader::open(&kept.file()).expect("an image");
    assert!(reader.find("/srv/work").expect("reads").expect("there").is_directory(), "the working directory is made");
    // In an archive that is no layer, these names mean nothing.
    let plain = place.import(&Tar::new().file("a", b"0").file(".wh.a", b"0").end()).expect("imported");
    assert!(place.text(&plain, "/a").is_some() && place.text(&plain, "/.wh.a").is_some());
}

#[test]
fn directories_are_imported_as_they_are() {
    let place = Place::new();
    let root = place.directory.join("tree");
    fs::create_dir_all(root.join("d/e")).expect("directory");
    fs::write(root.join("d/f"), "text").expect("writes");
    fs::set_permissions(root.join("d/f"), PermissionsExt::from_mode(0o751)).expect("changes");
    fs::hard_link(root.join("d/f"), root.join("d/e/g")).expect("links");
    symlink("/etc/passwd", root.join("d/l")).expect("links");
    File::create(root.join("sparse")).expect("makes").set_len(3 << 20).expect("grows");
    let kept = place.import_path(&root, Limits::default()).expect("imported");
    let mut reader = Reader::open(&kept.file()).expect("an image");
    let host = fs::metadata(root.join("d/f")).expect("metadata");
    let found = reader.find("/d/f").expect("reads").expect("there").metadata;
    assert_eq!((found.mode, found.uid, found.gid, found.nlink), (0o751, host.uid(), host.gid(), 2));
    assert_eq!(found.mtime, host.mtime() * 1_000_000_000 + host.mtime_nsec());
    assert_eq!(reader.find("/d/e/g").expect("reads").expect("there").metadata.ino, found.ino);
    assert!(reader.find("/d/l").expect("reads").is_none(), "the link leads to nothing inside");
    assert_eq!(reader.find("/sparse").expect("reads").expect("there").metadata.size, 3 << 20);
    assert_eq!(kept.names, ["tree"]);
    let again = place.import_path(&root, Limits::default()).expect("imported");
    assert_eq!(again.digest, kept.digest);
    fs::write(root.join("d/f"), "TEXT").expect("writes");
    assert_ne!(place.import_path(&root, Limits::default()).expect("imported").digest, kept.digest);
    assert!(place.import_path(&root.join("nothing"), Limits::default()).is_err());
}
