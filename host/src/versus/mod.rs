//! `shimos bench linux`: the same programs on Shimos and on Debian's Linux with one processor, in the same emulator.
//!
//! Both machines are there all the time, and each stands still while the other is measured. A round measures every row
//! on both, one after the other, so that a change of the host's load hits both.
mod report;
mod rows;
mod servers;
mod sides;

use crate::{names as words, paths::Paths, usage::one_line};
use anyhow::{Context, Result, bail};
use report::{Line, Samples};
use rows::{Group, How, ROWS, Row, WEB_PORT};
use shimos_abi::control::Partition;
use sides::{Debian, OneKernel, Side, Size};
use std::{path::PathBuf, time::Duration};

pub use report::Report;

/// The longest that one measurement may take.
const PATIENCE: Duration = Duration::from_secs(120);
/// Memory of both machines, in MiB.
const MEMORY: u64 = 1024;
/// Where this host is reached from inside.
const HOST: &str = "10.77.0.2";

/// What is to be measured.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Rounds.
    pub rounds: u32,
    /// Names of rows; none stands for all.
    pub only: Vec<String>,
    /// The processor's model, if not the accelerator's usual one.
    pub model: Option<String>,
    /// What keeps the kernels of Shimos apart beside their page tables.
    pub partition: Partition,
    /// The kernel.
    pub kernel: PathBuf,
    /// The image with `micro`.
    pub basic: PathBuf,
    /// The image with the whole programs, if there is one.
    pub programs: Option<PathBuf>,
}

/// The names of all rows.
pub fn names() -> Vec<&'static str> {
    ROWS.iter().map(|row| row.name).collect()
}

/// Whether a row is to be measured, if these are the names of the rows that are wanted.
fn is_wanted(row: &Row, only: &[String]) -> bool {
    only.is_empty() || only.iter().any(|name| name == row.name)
}

/// Whether a row of a whole program is among those.
pub fn wants_programs(only: &[String]) -> bool {
    ROWS.iter().any(|row| row.group == Group::Program && is_wanted(row, only))
}

/// Measures.
pub fn run(paths: &Paths, wanted: &Wanted) -> Result<Report> {
    let chosen: Vec<Row> = ROWS.iter().filter(|row| is_wanted(row, &wanted.only)).copied().collect();
    let (programs, rest): (Vec<Row>, Vec<Row>) = chosen.into_iter().partition(|row| row.group == Group::Program);
    let server = servers::start()?;
    let mut report = Report { machine: host(wanted), linux: String::new(), rounds: wanted.rounds, lines: Vec::new() };
    if !rest.is_empty() {
        measure(paths, wanted, &wanted.basic, &rest, server, &mut report)?;
    }
    match &wanted.programs {
        Some(image) if !programs.is_empty() => measure(paths, wanted, image, &programs, server, &mut report)?,
        _ => {
            let why = || Err("no image with the programs; give one with --image".to_string());
            report.lines.extend(programs.iter().map(|row| Line { row: *row, linux: why(), shimos: why() }));
        }
    }
    Ok(report)
}

/// The host in a few words.
fn host(wanted: &Wanted) -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = text.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": ")).map(|(_, name)| name);
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    format!(
        "{}, {} cores, load {} at the start; processor model {}, hardware partitioning {}",
        model.unwrap_or("unknown processor"),
        std::thread::available_parallelism().map_or(1, usize::from),
        load.split(' ').next().unwrap_or("?"),
        wanted.model.as_deref().unwrap_or("as usual"),
        words::partition(wanted.partition),
    )
}

/// Measures rows on a pair of machines with the same image.
fn measure(
    paths: &Paths,
    wanted: &Wanted,
    image: &std::path::Path,
    rows: &[Row],
    server: u16,
    report: &mut Report,
) -> Result<()> {
    let size = Size { memory: MEMORY, model: wanted.model.clone(), partition: wanted.partition };
    eprintln!("shimos: booting both machines");
    let mut linux = Debian::boot(paths, image, &size)?;
    report.linux = linux.release().to_string();
    linux.pause()?;
    let mut shimos = OneKernel::boot(paths, &wanted.kernel, image, &size)?;
    shimos.pause()?;
    let mut lines: Vec<Line> =
        rows.iter().map(|row| Line { row: *row, linux: Ok(Vec::new()), shimos: Ok(Vec::new()) }).collect();
    for round in 0..wanted.rounds {
        eprintln!("shimos: round {} of {}", round + 1, wanted.rounds);
        for line in &mut lines {
            // Who comes first changes from round to round.
            for second in [false, true] {
                if second == (round % 2 == 0) {
                    once(&mut shimos, &line.row, server, &mut line.shimos);
                } else {
                    once(&mut linux, &line.row, server, &mut line.linux);
                }
            }
        }
    }
    for samples in lines.iter_mut().flat_map(|line| [&mut line.linux, &mut line.shimos]).flatten() {
        samples.sort_by(f64::total_cmp);
    }
    report.lines.append(&mut lines);
    Ok(())
}

/// One sample of a row on one side; a row that has failed is not tried again.
fn once(side: &mut dyn Side, row: &Row, server: u16, samples: &mut Samples) {
    let Ok(so_far) = samples else { return };
    let measured = side.go_on().and_then(|()| sample(side, row, server));
    let paused = side.pause();
    match measured.and_then(|nanos| paused.map(|()| nanos)) {
        Ok(nanos) => so_far.push(nanos),
        Err(error) => {
            eprintln!("shimos: {} failed on {}: {}", row.name, side.name(), one_line(&error));
            *samples = Err(one_line(&error));
        }
    }
}

/// Nanoseconds of one operation.
fn sample(side: &mut dyn Side, row: &Row, server: u16) -> Result<f64> {
    match row.how {
        How::Micro => number(&side.run(&format!("micro {}", row.name), PATIENCE)?, row.name),
        How::Network => number(&side.run(&format!("micro {} {HOST} {server}", row.name), PATIENCE)?, row.name),
        How::Time(line) => {
            let timed = format!("a=$(date +%s%N); {line} >/dev/null || exit 1; b=$(date +%s%N); echo took $((b - a))");
            number(&side.run(&timed, PATIENCE)?, "took")
        }
        How::Redis(test) => {
            let line = format!(
                "redis-server --port 7000 --save '' >/dev/null 2>&1 & \
                 until redis-cli -p 7000 ping >/dev/null 2>&1; do sleep 0.1; done; \
                 redis-benchmark -p 7000 -t {test} -n 4000 -c 10 --csv; kill -9 $!"
            );
            per_request(&side.run(&line, PATIENCE)?, test)
        }
        How::Http(line) => {
            let asked = side.serve(line, WEB_PORT).and_then(servers::ask);
            let ended = side.end_serving();
            let nanos = asked?;
            ended.map(|()| nanos)
        }
    }
}

/// The number behind a name in what a program said.
fn number(lines: &[String], name: &str) -> Result<f64> {
    let found = lines.iter().find_map(|line| line.strip_prefix(name)?.trim().parse::<f64>().ok());
    found.filter(|number| *number > 0.0).with_context(|| format!("no figure in '{}'", lines.join(" / ")))
}

/// Nanoseconds of one request from redis-benchmark's table.
fn per_request(lines: &[String], test: &str) -> Result<f64> {
    let start = format!("\"{}\",\"", test.to_uppercase());
    let rate = lines.iter().find_map(|line| line.strip_prefix(&start)?.split('"').next()?.parse::<f64>().ok());
    match rate {
        Some(rate) if rate > 0.0 => Ok(1e9 / rate),
        _ => bail!("no figure in '{}'", lines.join(" / ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_found_in_what_programs_say() {
        let said = |text: &str| text.lines().map(str::to_string).collect::<Vec<_>>();
        assert_eq!(number(&said("hello\nnull_call 70.5\n"), "null_call").expect("there"), 70.5);
        assert!(number(&said("null_call failed: no"), "null_call").is_err());
        let table = "\"test\",\"rps\",\"avg\"\n\"SET\",\"2000.00\",\"0.1\"\n";
        assert_eq!(per_request(&said(table), "set").expect("there"), 500_000.0);
        assert!(per_request(&said(table), "get").is_err());
    }
}
