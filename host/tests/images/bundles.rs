//! Images of Docker and OCI, as archives and as directories.
use crate::make::{Docker, Layout, Place, Tar, config, gzip, zstd};
use serde_json::json;
use shimos::images::{
    blob::Limits,
    config::Config,
    furnish::Agents,
    import::{self, Import},
};
use std::fs;

fn layers() -> [Vec<u8>; 2] {
    let users = Tar::new()
        .file("etc/passwd", b"root:x:0:0::/:/bin/sh\nweb:x:33:33::/:/bin/sh\n")
        .file("etc/group", b"log:x:4:web\n")
        .end();
    [users, Tar::new().file("bin/tool", b"#!").end()]
}

fn wanted() -> Config {
    Config {
        entrypoint: vec!["/bin/tool".to_string()],
        cmd: vec!["serve".to_string()],
        env: vec!["PATH=/bin".to_string(), "GREETING=hello".to_string()],
        workdir: "/srv/work".to_string(),
        user: "web:log".to_string(),
    }
}

#[test]
fn what_docker_saves_is_imported() {
    let layers = layers();
    let docker = Docker::new(&layers, &config(&layers));
    for bytes in [docker.tar().end(), gzip(&docker.tar().end())] {
        let place = Place::new();
        let kept = place.import(&bytes).expect("imported");
        assert_eq!((&kept.config, kept.names.as_slice()), (&wanted(), &["test/web:1".to_string()][..]));
        assert_eq!(place.text(&kept, "/bin/tool").as_deref(), Some("#!"));
        let user = kept.image().user(&kept.config.user).expect("a user");
        assert_eq!((user.uid, user.gid, user.groups), (33, 4, vec![]));
        assert_eq!(kept.image().user("web").expect("a user").groups, [4]);
        assert!(kept.image().user("nobody").is_err());
    }
    // Layers that are alike, as earlier versions wrote them; layers may also be compressed.
    let same = [layers[0].clone(), layers[1].clone(), layers[1].clone()];
    let mut docker = Docker::new(&same, &config(&same));
    docker.files.pop();
    docker.files[1].1 = gzip(&docker.files[1].1);
    let place = Place::new();
    place.import(&docker.tar().symlink("layer2/layer.tar", "../layer1/layer.tar").end()).expect("imported");
}

#[test]
fn layouts_are_imported_as_archives_and_as_directories() {
    let layers = layers();
    let mut layout = Layout::new(&layers, &config(&layers));
    let place = Place::new();
    let kept = place.import(&layout.tar().end()).expect("imported");
    assert_eq!((&kept.config, kept.names.as_slice()), (&wanted(), &["test".to_string()][..]));
    assert_eq!(place.text(&kept, "/bin/tool").as_deref(), Some("#!"));
    let directory = place.directory.join("layout");
    layout.write(&directory);
    let same = place.import_path(&directory, Limits::default()).expect("imported");
    assert_eq!(fs::read(same.file()).expect("reads"), fs::read(kept.file()).expect("reads"));
    let again = place.import_path(&directory, Limits::default()).expect("imported");
    assert_eq!(again.digest, same.digest);
    // A list for several machines, in which a description of the build stands too.
    let mut inner = layout.index.clone();
    inner["manifests"][0]["platform"] = json!({ "os": "linux", "architecture": "amd64" });
    let mut other = inner["manifests"][0].clone();
    other["platform"] = json!({ "os": "unknown", "architecture": "unknown" });
    other["digest"] = json!("sha256:0");
    inner["manifests"].as_array_mut().expect("a list").push(other);
    let list = layout.add("application/vnd.oci.image.index.v1+json", inner.to_string().into_bytes());
    layout.index = json!({ "manifests": [list] });
    place.import(&layout.tar().end()).expect("imported");
}

#[test]
fn one_of_several_is_chosen_by_name() {
    let layers = layers();
    let mut docker = Docker::new(&layers, &config(&layers));
    let mut other = docker.manifest[0].clone();
    other["RepoTags"] = json!(["other:2"]);
    docker.manifest.as_array_mut().expect("a list").push(other);
    let place = Place::new();
    let source = place.write("two.tar", &docker.tar().end());
    let choose = |wanted| {
        let import = Import { source: &source, name: None, wanted: Some(wanted), limits: Limits::default() };
        import::run(&place.store, &Agents::default(), import)
    };
    assert_eq!(choose("other:2").expect("imported").names, ["other:2"]);
    assert!(format!("{:#}", choose("third").expect_err("refused")).contains("holds no image 'third'"));
}

#[test]
fn zstd_layers_and_new_archives_of_docker_are_imported() {
    // Docker of today writes a layout and says in manifest.json what its blobs are.
    let layers = layers();
    let mut layout = Layout::new(&layers, &config(&layers));
    let names: Vec<String> = layout.blobs.iter().map(|(digest, _)| format!("blobs/sha256/{digest}")).collect();
    let manifest = json!([{ "Config": names[0], "RepoTags": null, "Layers": [names[1], names[2]] }]);
    let place = Place::new();
    let tar = layout.tar().file("manifest.json", manifest.to_string().as_bytes());
    assert_eq!(place.import(&tar.end()).expect("imported").config, wanted());
    let (_, bytes) = layout.blobs.pop().expect("a manifest");
    let mut manifest: serde_json::Value = serde_json::from_slice(&bytes).expect("JSON");
    for (index, layer) in layers.iter().enumerate() {
        manifest["layers"][index] = layout.add("application/vnd.oci.image.layer.v1.tar+zstd", zstd(layer));
    }
    layout.index_of(&manifest);
    place.import(&layout.tar().end()).expect("imported");
}
