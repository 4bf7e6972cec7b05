//! Debian's programs as packaged: some of the checks of `shimos compat`, each through `shimos run`.
use anyhow::{Context, Result, bail, ensure};
use shimos::{
    compat::{self, Report, Wanted},
    images::build,
    machine::Files,
};
use shimos_tests::{makings::Makings, suite::Suite};

/// What is tried here; `shimos compat` tries all.
const SAMPLE: [&str; 16] = [
    "bash-interactive",
    "coreutils",
    "procps",
    "python3-multiprocessing",
    "python3-asyncio",
    "python3-ssl",
    "gcc",
    "git",
    "curl",
    "sqlite3",
    "redis-server",
    "nginx",
    "apache2-event",
    "openssh",
    "postgresql",
    "stress-ng-epoll",
];

pub fn run(suite: &mut Suite) {
    if !suite.wants("compat::") {
        return;
    }
    let report = tried(&suite.makings);
    for name in SAMPLE {
        suite.case(&format!("compat::{name}"), || {
            let report = report.as_ref().map_err(|error| anyhow::anyhow!("{error:#}"))?;
            let Some(verdict) = report.verdicts.iter().find(|verdict| verdict.name == name) else {
                bail!("{name} was not tried");
            };
            ensure!(verdict.passed, "{}", verdict.detail);
            Ok(())
        });
    }
}

fn tried(makings: &Makings) -> Result<Report> {
    let image = build::compat_image(&makings.paths).context("the image with the programs")?;
    let files = Files { kernel: makings.files.kernel.clone(), image: image.file };
    let only = SAMPLE.map(str::to_string).to_vec();
    compat::run(&makings.paths, &files, &Wanted { only, kernels: 2, memory: 1024, tool: makings.tool.clone() })
}
