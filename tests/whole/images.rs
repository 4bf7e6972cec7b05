//! Programs from several root images on one machine.
use anyhow::{Context, Result, bail, ensure};
use serde_json::json;
use sha2::{Digest, Sha256};
use shimos::{
    disk,
    images::{self, Image, reader::Reader},
    machine::Options,
};
use shimos_abi::control::{Extent, Fault, Start};
use shimos_tests::{group::Group, makings::Makings, programs, rig::Rig, suite::Suite, tool};
use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

/// Files that the program reads one after the other, over its kernel's death.
const FILES: usize = 150;

pub fn run(suite: &mut Suite) {
    let makings = suite.makings.clone();
    let mut group = Group::new(suite, Options { memory: 64, ..Options::default() });
    group.case("images::a_directory_and_a_saved_image_run_beside_the_machines_own", |rig| beside(rig, &makings));
    group.case("images::a_program_of_a_second_image_outlives_its_kernel", |rig| outlives(rig, &makings));
    group.case("images::what_is_no_image_is_refused", |rig| refused(rig, &makings));
    drop(group);
    suite.case("images::the_tool_keeps_names_and_removes_images", || kept(&makings));
}

/// A directory that goes with the test.
struct Scratch(PathBuf);

impl Scratch {
    fn new(makings: &Makings, name: &str) -> Result<Scratch> {
        let path = makings.paths.build.join(format!("scratch-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Scratch(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The machine's own busybox.
fn busybox(makings: &Makings) -> Result<Vec<u8>> {
    Reader::open(&makings.files.image)?.read("/usr/bin/busybox", 16 << 20)?.context("the root image has no busybox")
}

/// A directory with a shell in it, imported.
fn directory(makings: &Makings, scratch: &Path) -> Result<Image> {
    let root = scratch.join("root");
    fs::create_dir_all(root.join("bin"))?;
    fs::create_dir_all(root.join("data"))?;
    fs::write(root.join("bin/busybox"), busybox(makings)?)?;
    fs::set_permissions(root.join("bin/busybox"), fs::Permissions::from_mode(0o755))?;
    fs::write(root.join("which"), "the directory\n")?;
    for index in 0..FILES {
        // Each file has its own block: after a takeover each must be asked of the disk.
        fs::write(root.join(format!("data/{index}")), format!("{index}\n{}", " ".repeat(4096)))?;
    }
    Ok(images::import(&makings.paths, &root, Some("test-directory"), None)?.image())
}

fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn archive(files: &[(&str, &[u8], u32, u64)]) -> Result<Vec<u8>> {
    let mut archive = tar::Builder::new(Vec::new());
    for (name, bytes, mode, uid) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(*mode);
        header.set_uid(*uid);
        header.set_gid(*uid);
        archive.append_data(&mut header, name, *bytes)?;
    }
    Ok(archive.into_inner()?)
}

/// An image as `docker save` writes it, imported: a user, an environment, a working directory, an entry point.
fn saved(makings: &Makings, scratch: &Path) -> Result<Image> {
    let busybox = busybox(makings)?;
    let below = archive(&[
        ("bin/busybox", &busybox, 0o755, 0),
        ("etc/passwd", b"root:x:0:0::/:/bin/sh\nweb:x:33:34::/srv/work:/bin/sh\n", 0o644, 0),
        ("etc/group", b"www:x:34:\nlog:x:4:web\n", 0o644, 0),
        ("which", b"the lower layer\n", 0o644, 0),
        ("hidden", b"", 0o644, 0),
    ])?;
    let script = "cat /which; pwd; id -u; id -g; id -G; echo $GREETING $0 $1; ls -d /hidden /own; cat /secret; cat /own; \
                  echo new > /srv/work/new; echo $?";
    let above = archive(&[
        (".wh.hidden", b"", 0o644, 0),
        ("which", b"the upper layer\n", 0o644, 0),
        ("own", b"readable\n", 0o600, 33),
        ("secret", b"not readable\n", 0o600, 0),
    ])?;
    let config = json!({
        "architecture": "amd64",
        "os": "linux",
        "config": {
            "User": "web",
            "Env": ["PATH=/bin", "GREETING=hello"],
            "Entrypoint": ["/bin/busybox", "sh", "-c", script, "zero"],
            "Cmd": ["one"],
            "WorkingDir": "/srv/work",
        },
        "rootfs": { "type": "layers",
                    "diff_ids": [format!("sha256:{}", digest(&below)), format!("sha256:{}", digest(&above))] },
    })
    .to_string();
    let name = format!("{}.json", digest(config.as_bytes()));
    let manifest = json!([{ "Config": name, "RepoTags": ["test/saved:1"], "Layers": ["0/layer.tar", "1/layer.tar"] }]);
    let all = archive(&[
        (&name, config.as_bytes(), 0o644, 0),
        ("0/layer.tar", &below, 0o644, 0),
        ("1/layer.tar", &above, 0o644, 0),
        ("manifest.json", manifest.to_string().as_bytes(), 0o644, 0),
    ])?;
    let file = scratch.join("saved.tar");
    fs::write(&file, all)?;
    Ok(images::import(&makings.paths, &file, None, None)?.image())
}

fn beside(rig: &mut Rig, makings: &Makings) -> Result<()> {
    let scratch = Scratch::new(makings, "beside")?;
    let directory = directory(makings, &scratch.0)?;
    let saved = saved(makings, &scratch.0)?;
    let resolved = images::resolve(&makings.paths, "test/saved:1")?;
    ensure!(resolved == saved, "the name leads to {resolved:?}");
    let place = images::place_on(rig.machine.entry(), &directory)?;
    ensure!(images::place_on(rig.machine.entry(), &directory)? == place, "an image was put on the disk twice");
    let mut start = programs::script("of-directory", 1, "cat /which; ls -1 /etc; ls /srv/www");
    start.image = Some(place);
    rig.start(start)?;
    let start = Start {
        name: "of-saved".to_string(),
        argv: saved.config.command(&[]),
        env: saved.config.env.clone(),
        cwd: saved.config.directory().to_string(),
        image: Some(images::place_on(rig.machine.entry(), &saved)?),
        user: Some(saved.user(&saved.config.user)?),
        ..Start::default()
    };
    rig.start(start)?;
    rig.start(programs::script(
        "of-machine",
        2,
        "ls -1 /srv/www; cat /which 2>/dev/null || echo nothing; id -u; echo end",
    ))?;
    rig.wait_line("of-machine", "end")?;
    let wanted = ["index.html", "stream.bin", "nothing", "0", "end"];
    ensure!(rig.lines("of-machine")[..] == wanted, "{:?}", rig.lines("of-machine"));
    rig.wait_line("of-directory", "ls: /srv/www: No such file or directory")?;
    let wanted = ["the directory", "hostname", "hosts", "resolv.conf", "ls: /srv/www: No such file or directory"];
    ensure!(rig.lines("of-directory")[..] == wanted, "{:?}", rig.lines("of-directory"));
    rig.wait_line("of-saved", "1")?;
    let wanted = [
        "the upper layer",
        "/srv/work",
        "33",
        "34",
        "34 4",
        "hello zero one",
        "/own",
        "ls: /hidden: No such file or directory",
        "cat: can't open '/secret': Permission denied",
        "readable",
        "zero: line 0: can't create /srv/work/new: Permission denied",
        "1",
    ];
    let mut said = rig.lines("of-saved");
    // Which of the two streams comes first is busybox's affair.
    said.sort();
    let mut sorted: Vec<String> = wanted.map(str::to_string).to_vec();
    sorted.sort();
    ensure!(said == sorted, "{said:?}");
    tool::refused(tool::command(makings, &["image", "rm", "test-directory"]), "in use by the machine")
}

fn outlives(rig: &mut Rig, makings: &Makings) -> Result<()> {
    let scratch = Scratch::new(makings, "outlives")?;
    let image = directory(makings, &scratch.0)?;
    let place = images::place_on(rig.machine.entry(), &image)?;
    let script =
        format!("i=0; while [ $i -lt {FILES} ]; do head -n 1 /data/$i; i=$((i+1)); usleep 20000; done; echo end");
    let reader = rig.start_protected(Start { image: Some(place), ..programs::script("reader", 1, &script) })?;
    let count = rig.start_protected(Start { image: Some(place), ..programs::count("count", 2) })?;
    rig.wait_more("reader", 5)?;
    rig.kill_under(reader.program, Fault::Panic)?;
    rig.kill_under(count.program, Fault::InfiniteLoop)?;
    rig.counts_on("count", 3)?;
    rig.wait_line("reader", "end")?;
    let wanted: Vec<String> = (0..FILES).map(|index| index.to_string()).chain(["end".to_string()]).collect();
    ensure!(rig.lines("reader") == wanted, "{:?}", rig.lines("reader"));
    Ok(())
}

fn refused(rig: &mut Rig, makings: &Makings) -> Result<()> {
    let scratch = Scratch::new(makings, "refused")?;
    let image = directory(makings, &scratch.0)?;
    let good = images::place_on(rig.machine.entry(), &image)?;
    let noise = scratch.0.join("noise");
    fs::write(&noise, vec![0x5a; 1 << 16])?;
    let bad = disk::place(&rig.machine.entry().directory, "noise", &noise)?;
    for (name, image, why) in [
        ("noise", bad, "not an EROFS image (magic 0x5a5a5a5a)"),
        ("short", Extent { blocks: good.blocks - 1, ..good }, "more than lie there"),
        ("hole", Extent { first: 1 << 20, blocks: 100 }, "not an EROFS image (magic 0x00000000)"),
        ("beyond", Extent { first: 1 << 40, blocks: 100 }, "cannot be used"),
        ("far beyond", Extent { first: u64::MAX, blocks: u64::MAX }, "cannot be used"),
    ] {
        match rig.start(Start { image: Some(image), ..programs::script(name, 3, "echo no") }) {
            Ok(started) => bail!("{name}: it runs as {started:?}"),
            Err(error) => ensure!(format!("{error:#}").contains(why), "{name}: {error:#}"),
        }
    }
    // The kernel has taken no harm, and a program may have the same name again.
    rig.start(Start { image: Some(good), ..programs::script("noise", 3, "cat /which") })?;
    rig.wait_line("noise", "the directory")
}

fn kept(makings: &Makings) -> Result<()> {
    let scratch = Scratch::new(makings, "kept")?;
    let image = |words: &[&str]| tool::run(tool::command(makings, &[&["image"], words].concat()));
    let file = scratch.0.join("small.tar");
    fs::write(&file, archive(&[("a", b"text", 0o644, 0)])?)?;
    let path = file.display().to_string();
    let first = image(&["import", &path, "--name", "kept-one"])?;
    ensure!(first.code == Some(0), "{first:?}");
    let again = image(&["import", &path, "--name", "kept-two"])?;
    ensure!(again.errors.contains("there already") && again.out.contains("kept-one, kept-two"), "{again:?}");
    let list = image(&["list", "--json"])?.out;
    let list: serde_json::Value = serde_json::from_str(&list)?;
    let names = list.as_array().into_iter().flatten().filter(|kept| kept["names"][0] == "kept-one").count();
    ensure!(names == 1, "{list}");
    ensure!(image(&["rm", "kept-one"])?.code == Some(0) && image(&["rm", "kept-two"])?.code == Some(0));
    tool::refused(tool::command(makings, &["image", "rm", "kept-two"]), "there is no image 'kept-two'")?;
    fs::write(&file, archive(&[("a", b"text", 0o644, 0)])?.get(..700).unwrap_or_default())?;
    tool::refused(tool::command(makings, &["image", "import", &path]), "cut short")?;
    tool::refused(tool::command(makings, &["image", "import", "/nothing"]), "cannot open /nothing")?;
    tool::refused(tool::command(makings, &["image", "import", &path, "--name", "-x y"]), "")?;
    tool::refused(tool::command(makings, &["image", "build", "--packages", "../x"]), "not the name of a Debian package")
}
