//! Archives that are broken or mean harm: each is refused in one line that says what is wrong, and nothing is left behind.
use crate::make::{Docker, Layout, Packer, Place, Tar, bzip2, config, gzip, header, xz, zstd};
use serde_json::json;
use shimos::images::blob::Limits;

/// A header whose fields are changed behind the checksum's back, and the checksum then made right.
fn odd(kind: u8, name: &[u8], change: impl FnOnce(&mut tar::Header)) -> tar::Header {
    let mut header = header(kind, name, 0);
    change(&mut header);
    header.set_cksum();
    header
}

#[test]
fn archives_that_lead_out_or_are_damaged_are_refused() {
    let place = Place::new();
    let long = [b"a/".repeat(2100), b"x".to_vec()].concat();
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("dots", Tar::new().file("../evil", b"x").end(), "leads out by '..'"),
        ("dots inside", Tar::new().file("a/../../evil", b"x").end(), "leads out by '..'"),
        ("dots that stay", Tar::new().file("a/../b", b"x").end(), "leads out by '..'"),
        ("absolute", Tar::new().file("/etc/passwd", b"x").end(), "/etc/passwd: the name is absolute"),
        ("no name", Tar::new().file("", b"x").end(), "the name is empty"),
        ("the root as a file", Tar::new().file("./.", b"x").end(), "has the root's name"),
        ("a zero in the name", Tar::new().attribute("path", b"a\0b").file("c", b"").end(), "zero byte"),
        ("a long name", Tar::new().attribute("path", &long).file("c", b"").end(), "longer than 4096"),
        ("a long part", Tar::new().attribute("path", &[b'n'; 256]).file("c", b"").end(), "longer than 255"),
        ("escape characters", Tar::new().file("/\x1b[2J\nx", b"x").end(), "/\\x1b[2J\\nx: the name is absolute"),
        (
            "through a link to outside",
            Tar::new().symlink("l", "/etc").file("l/passwd", b"x").end(),
            "l/passwd: the path leads through the symbolic link l",
        ),
        (
            "through a link upwards",
            Tar::new().directory("d").symlink("d/l", "../..").file("d/l/x", b"x").end(),
            "through the symbolic link d/l",
        ),
        (
            "a directory through a link",
            Tar::new().symlink("l", "/etc").directory("l/cron.d").end(),
            "through the symbolic link l",
        ),
        ("below a file", Tar::new().file("f", b"x").file("f/g", b"x").end(), "through f, which is no directory"),
        ("a link out", Tar::new().hard_link("h", "../x").end(), "hard link to ../x, which cannot be"),
        ("a link to the host", Tar::new().hard_link("h", "/etc/shadow").end(), "the name is absolute"),
        ("a link to nothing", Tar::new().hard_link("h", "x").end(), "no such file before it"),
        ("a link to a directory", Tar::new().directory("d").hard_link("h", "d").end(), "that is a directory"),
        (
            "a link through a link",
            Tar::new().symlink("l", "/etc").hard_link("h", "l/shadow").end(),
            "through the symbolic link l",
        ),
        ("a link with content", Tar::new().with(&odd(b'2', b"l", |h| h.set_size(512)), &[7; 512]).end(), "no content"),
        ("an empty link", Tar::new().symlink("l", "").end(), "without a usable text"),
        ("a disk", Tar::new().link(b'4', "sda", "").end(), "sda: it is a device outside of dev"),
        ("a terminal", Tar::new().link(b'3', "etc/tty", "").end(), "device outside of dev"),
        ("an unknown kind", Tar::new().link(b'Z', "x", "").end(), "unknown kind 'Z'"),
        ("a sparse file", Tar::new().link(b'S', "x", "").end(), "sparse"),
        (
            "a sparse file of another kind",
            Tar::new().attribute("GNU.sparse.major", b"1").file("x", b"").end(),
            "sparse",
        ),
        ("twice", Tar::new().file("a", b"1").file("./a", b"2").end(), "a: the archive has it twice"),
        ("twice, of two kinds", Tar::new().directory("a").file("a", b"2").end(), "a: the archive has it twice"),
        ("an owner that is none", Tar::new().attribute("uid", b"4294967295").file("a", b"").end(), "out of range"),
        ("an owner beyond all", Tar::new().attribute("gid", b"99999999999").file("a", b"").end(), "out of range"),
        ("an owner without digits", Tar::new().attribute("uid", b"root").file("a", b"").end(), "owner is no number"),
        (
            "no mode",
            Tar::new().with(&odd(b'0', b"a", |h| h.as_gnu_mut().unwrap().mode = *b"zzzzzzz\0"), b"").end(),
            "mode",
        ),
        ("a size without digits", Tar::new().attribute("size", b"-1").file("a", b"").end(), "size is no number"),
        ("a huge size", Tar::new().attribute("size", b"18446744073709551615").file("a", b"").end(), "cut short"),
        (
            "a huge size in the header",
            Tar::new().with(&odd(b'0', b"a", |h| h.set_size(u64::MAX)), b"").end(),
            "cut short",
        ),
        ("a huge name", Tar::new().with(&odd(b'L', b"n", |h| h.set_size(1 << 40)), b"").end(), "cut short"),
        (
            "a long long name",
            Tar::new().with(&header(b'L', b"n", 70_000), &[b'a'; 70_000]).end(),
            "a long name: has 70000 bytes",
        ),
        (
            "attributes without end",
            Tar::new().with(&header(b'x', b"n", 2 << 20), &vec![b'a'; 2 << 20]).end(),
            "has 2097152 bytes",
        ),
        ("odd attributes", Tar::new().with(&header(b'x', b"n", 5), b"99 a=").end(), "attributes are damaged"),
        (
            "a wrong checksum",
            Tar::new()
                .with(
                    &{
                        let mut h = header(b'0', b"a", 0);
                        h.as_mut_bytes()[0] = b'b';
                        h
                    },
                    b"",
                )
                .end(),
            "damaged",
        ),
        (
            "cut in a file",
            Tar::new().file("a", &[1; 2000]).unfinished()[..1500].to_vec(),
            "a: the archive is cut short: 2000 bytes should follow, 988 do",
        ),
        ("cut in a header", Tar::new().file("a", b"").unfinished()[..300].to_vec(), "cut short"),
        ("without an end", Tar::new().file("a", b"x").unfinished(), "its end is missing at byte 1024"),
        ("empty", Vec::new(), "cut short"),
        ("something else", b"#!/bin/sh\necho no archive\n".repeat(50), "no tar archive"),
    ];
    for (what, bytes, why) in cases {
        let line = place.refused(what, &bytes, Limits::default());
        assert!(line.contains(why), "{what}: {line}");
        assert!(line.starts_with("cannot make an image of "), "{what}: {line}");
    }
}

#[test]
fn compressed_data_that_is_damaged_or_swells_is_refused() {
    let place = Place::new();
    let tar = Tar::new().file("a", &(0..60_000_u32).flat_map(u32::to_le_bytes).collect::<Vec<u8>>()).end();
    let packers: [(&str, Packer); 4] = [("gzip", gzip), ("bzip2", bzip2), ("xz", xz), ("zstd", zstd)];
    let zeros = Tar::new().file("zeros", &vec![0; 16 << 20]).end();
    for (name, pack) in packers {
        let packed = pack(&tar);
        for cut in [packed.len() / 2, packed.len() - 1, 12] {
            let line = place.refused(name, &packed[..cut], Limits::default());
            assert!(line.contains(name) && (line.contains("cut short") || line.contains("damaged")), "{line}");
        }
        let mut changed = packed.clone();
        let middle = changed.len() / 2;
        changed[middle] ^= 0x55;
        let line = place.refused(name, &changed, Limits::default());
        assert!(line.contains(&format!("the {name} data is")) || line.contains("damaged"), "{line}");
        let bomb = pack(&zeros);
        assert!(bomb.len() < 1 << 20, "{name}");
        let line = place.refused(name, &bomb, Limits { bytes: 1 << 20, ..Limits::default() });
        assert!(line.contains("unpacks to more than 1048576 bytes, the limit for an image"), "{line}");
    }
}

#[test]
fn archives_with_too_much_in_them_are_refused() {
    let place = Place::new();
    let many = (0..100).fold(Tar::new(), |tar, index| tar.file(&format!("f{index}"), b"")).end();
    let line = place.refused("many", &many, Limits { entries: 50, ..Limits::default() });
    assert!(line.contains("more than 50 entries, the limit for an image"), "{line}");
    let line = place.refused("long", &many, Limits { names: 100, ..Limits::default() });
    assert!(line.contains("names have more than 100 bytes, the limit for an image"), "{line}");
}

#[test]
fn images_of_docker_that_do_not_fit_together_are_refused() {
    let place = Place::new();
    let layers = [Tar::new().file("a", b"1").end(), Tar::new().file("b", b"2").end()];
    let good = Docker::new(&layers, &config(&layers));
    let changed = |change: &dyn Fn(&mut Docker)| {
        let mut docker = good.clone();
        change(&mut docker);
        docker.tar().end()
    };
    let other = |change: &dyn Fn(&mut serde_json::Value)| {
        let mut config = config(&layers);
        change(&mut config);
        Docker::new(&layers, &config).tar().end()
    };
    let hostile = [Tar::new().file("../a", b"1").end()];
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("a changed layer", changed(&|d| d.files[1].1[600] ^= 1), "layer 1: its digest is sha256:"),
        (
            "a missing layer",
            changed(&|d| {
                d.files.remove(2);
            }),
            "the layer layer1/layer.tar is missing",
        ),
        ("a changed configuration", changed(&|d| d.files[0].1.push(b' ')), "the configuration: its digest is"),
        (
            "a missing configuration",
            changed(&|d| {
                d.files.remove(0);
            }),
            "the configuration",
        ),
        (
            "no configuration",
            changed(&|d| {
                d.manifest[0].as_object_mut().unwrap().remove("Config");
            }),
            "no configuration",
        ),
        (
            "one layer too few",
            changed(&|d| d.manifest[0]["Layers"] = json!(["layer0/layer.tar"])),
            "has 1 layers, and its configuration names 2",
        ),
        ("no layers", changed(&|d| d.manifest[0]["Layers"] = json!([])), "has no layers"),
        ("a layer outside", changed(&|d| d.manifest[0]["Layers"][0] = json!("../../etc/passwd")), "is missing"),
        (
            "two images",
            changed(&|d| {
                let image = d.manifest[0].clone();
                d.manifest.as_array_mut().unwrap().push(image);
            }),
            "choose one with --ref: test/web:1",
        ),
        ("another architecture", other(&|c| c["architecture"] = json!("arm64")), "for 'linux' on 'arm64'"),
        ("another system", other(&|c| c["os"] = json!("windows")), "for 'windows'"),
        ("an unknown digest", other(&|c| c["rootfs"]["diff_ids"][0] = json!("md5:abc")), "none of SHA-256"),
        (
            "a configuration that is none",
            changed(&|d| {
                d.files[0] = ("c".to_string(), b"{".to_vec());
                d.manifest[0]["Config"] = json!("c");
            }),
            "the configuration",
        ),
        (
            "a hostile layer",
            Docker::new(&hostile, &config(&hostile)).tar().end(),
            "layer 1: ../a: the name leads out by '..'",
        ),
        ("a link that nothing uses", good.tar().symlink("l", "../../x").file("x", b"").end(), ""),
        ("twice", good.tar().file("manifest.json", b"[]").end(), "manifest.json: the archive has it twice"),
    ];
    for (what, bytes, why) in cases {
        if why.is_empty() {
            // What nothing refers to does no harm.
            let kept = place.import(&bytes).expect(what);
            place.store.lock().expect("a lock").remove(&kept).expect("removes");
            continue;
        }
        let line = place.refused(what, &bytes, Limits::default());
        assert!(line.contains(why), "{what}: {line}");
    }
    // Layers that are links lead nowhere but to others of the archive.
    for (target, why) in [
        ("../../etc/passwd", "leads out of the archive"),
        ("/etc/passwd", "leads out"),
        ("layer.tar", "too many links"),
    ] {
        let mut docker = good.clone();
        docker.files.remove(2);
        let line = place.refused(target, &docker.tar().symlink("layer1/layer.tar", target).end(), Limits::default());
        assert!(line.contains(why), "{target}: {line}");
    }
}

#[test]
fn layouts_that_do_not_fit_together_are_refused() {
    let place = Place::new();
    let layers = [Tar::new().file("a", b"1").end()];
    let good = Layout::new(&layers, &config(&layers));
    // Configuration, layer, manifest.
    let changed = |change: &dyn Fn(&mut Layout)| {
        let mut layout = good.clone();
        change(&mut layout);
        layout.tar().end()
    };
    let manifest = |change: &dyn Fn(&mut serde_json::Value)| {
        let mut layout = good.clone();
        let (_, bytes) = layout.blobs.pop().expect("a manifest");
        let mut manifest = serde_json::from_slice(&bytes).expect("JSON");
        change(&mut manifest);
        layout.index_of(&manifest);
        layout.tar().end()
    };
    let mut nested = good.clone();
    for _ in 0..5 {
        let index = nested.index.to_string().into_bytes();
        let descriptor = nested.add("application/vnd.oci.image.index.v1+json", index);
        nested.index = json!({ "manifests": [descriptor] });
    }
    let zeros = "0".repeat(64);
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("a changed layer", changed(&|l| l.blobs[1].1[20] ^= 1), "layer 1: its digest is sha256:"),
        ("a longer layer", changed(&|l| l.blobs[1].1.push(0)), "bytes, and should have"),
        (
            "a missing layer",
            changed(&|l| {
                l.blobs.remove(1);
            }),
            "layer 1: the blob",
        ),
        ("a changed manifest", changed(&|l| l.blobs[2].1[5] ^= 1), "the manifest: its digest is"),
        ("a changed configuration", changed(&|l| l.blobs[0].1[5] ^= 1), "the configuration: its digest is"),
        (
            "no index",
            good.blobs
                .iter()
                .fold(Tar::new(), |t, (d, b)| t.file(&format!("blobs/sha256/{d}"), b))
                .file("oci-layout", b"{\"imageLayoutVersion\":\"1.0.0\"}")
                .end(),
            "index.json is missing",
        ),
        (
            "another version",
            changed(&|l| l.layout = json!({ "imageLayoutVersion": "2.0.0" })),
            "unknown version '2.0.0'",
        ),
        ("no image", changed(&|l| l.index = json!({ "manifests": [] })), "holds no image for linux on amd64"),
        (
            "another machine's image",
            changed(&|l| l.index["manifests"][0]["platform"] = json!({ "os": "linux", "architecture": "s390x" })),
            "holds no image for linux",
        ),
        (
            "two images",
            changed(&|l| {
                let m = l.index["manifests"][0].clone();
                l.index["manifests"].as_array_mut().unwrap().push(m);
            }),
            "choose one with --ref: test, test",
        ),
        (
            "a manifest of an unknown type",
            changed(&|l| l.index["manifests"][0]["mediaType"] = json!("text/plain")),
            "media type 'text/plain' is unknown",
        ),
        (
            "a digest that is a path",
            changed(&|l| l.index["manifests"][0]["digest"] = json!("sha256:../../../etc/passwd")),
            "none of SHA-256",
        ),
        (
            "another digest",
            changed(&|l| l.index["manifests"][0]["digest"] = json!(format!("sha512:{zeros}"))),
            "none of SHA-256",
        ),
        (
            "no size",
            changed(&|l| {
                l.index["manifests"][0].as_object_mut().unwrap().remove("size");
            }),
            "it has no size",
        ),
        (
            "a layer of an unknown type",
            manifest(&|m| m["layers"][0]["mediaType"] = json!("application/wasm")),
            "layer 1: its media type 'application/wasm' is unknown",
        ),
        (
            "a configuration of an unknown type",
            manifest(&|m| m["config"]["mediaType"] = json!("application/x\u{1b}")),
            "media type",
        ),
        (
            "a layer with a wrong digest",
            manifest(&|m| m["layers"][0]["digest"] = json!(format!("sha256:{zeros}"))),
            "is missing",
        ),
        ("no layers", manifest(&|m| m["layers"] = json!([])), "has no layers"),
        ("lists in lists", nested.tar().end(), "too deep in one another"),
    ];
    for (what, bytes, why) in cases {
        let line = place.refused(what, &bytes, Limits::default());
        assert!(line.contains(why), "{what}: {line}");
    }
}

/// Changes at random: whatever comes of it, it is an image or a refusal, and a refusal leaves nothing.
#[test]
fn changes_at_random_do_no_harm() {
    let place = Place::new();
    let layers = [
        Tar::new().directory("d").file("d/f", &[7; 3000]).symlink("l", "d/f").hard_link("h", "d/f").end(),
        Tar::new().file("d/.wh.f", b"").attribute("path", b"long/name").file("x", b"y").end(),
    ];
    let inputs = [
        Docker::new(&layers, &config(&layers)).tar().end(),
        Layout::new(&layers, &config(&layers)).tar().end(),
        layers[0].clone(),
        gzip(&layers[1]),
        xz(&layers[1]),
        zstd(&layers[1]),
        bzip2(&layers[1]),
    ];
    let mut state = 0x5eed_u64;
    let mut random = |end: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % end
    };
    let (mut imported, mut refused) = (0, 0);
    for round in 0..700 {
        let mut bytes = inputs[round % inputs.len()].clone();
        for _ in 0..1 + random(4) {
            let at = random(bytes.len());
            match random(4) {
                0 => bytes[at] = random(256) as u8,
                1 => bytes[at] ^= 1 << random(8),
                2 => bytes.truncate(at + 1),
                // A header's checksum made right again, so that what is behind it is looked at.
                _ => {
                    let start = at / 512 * 512;
                    if let Some(record) = bytes.get_mut(start..start + 512) {
                        record[random(345)] = [0, 0xff, b'7', b'/', b'.'][random(5)];
                        let mut header = tar::Header::from_byte_slice(record).clone();
                        header.set_cksum();
                        record.copy_from_slice(header.as_bytes());
                    }
                }
            }
        }
        match place.import(&bytes) {
            Ok(kept) => {
                imported += 1;
                place.store.lock().expect("a lock").remove(&kept).expect("removes");
            }
            Err(error) => {
                refused += 1;
                assert!(!format!("{error:#}").contains('\n'), "{error:#}");
            }
        }
        assert_eq!(place.left(), ["lock"], "round {round}");
    }
    assert!(imported > 0 && refused > 300, "{imported} imported, {refused} refused");
}
