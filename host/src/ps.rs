//! `ps`: the programs of a machine and their processes.
use crate::{
    control::Control,
    names,
    programs::{self, Found},
    status::ms,
};
use anyhow::Result;
use serde_json::{Value, json};
use shimos_abi::{
    control::{ProcessInfo, Processes, Target},
    time::Nanos,
};

/// Bytes of a page.
const PAGE: u64 = 4096;

/// A program with its processes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Row {
    /// The program.
    pub found: Found,
    /// Its processes.
    pub processes: Processes,
}

impl Row {
    fn memory(&self) -> u64 {
        self.processes.list.iter().map(|process| u64::from(process.pages) * PAGE).sum()
    }
    fn uptime(&self) -> Nanos {
        since(self.processes.now, self.processes.started)
    }
}

fn since(now: Nanos, then: Nanos) -> Nanos {
    Nanos(now.0.saturating_sub(then.0))
}

/// Asks for one program or for all.
pub fn ask(control: &mut Control, target: Option<&Target>) -> Result<Vec<Row>> {
    let wanted = match target {
        Some(target) => vec![programs::find(control, target)?],
        None => programs::all(&control.status()?),
    };
    let mut rows = Vec::new();
    for found in wanted {
        // A program that has ended meanwhile is none.
        if let Ok(processes) = control.processes(found.status.id) {
            rows.push(Row { found: Found { kernel: processes.kernel, ..found }, processes });
        }
    }
    Ok(rows)
}

/// For people.
pub fn table(rows: &[Row]) -> String {
    let mut text = String::new();
    for row in rows {
        let status = &row.found.status;
        let protection = match &status.protection {
            None => "not protected".to_string(),
            Some(protection) => format!("protected every {} ms", ms(protection.interval)),
        };
        text += &format!(
            "{} ({}) on {}, {protection}, up {}, {}\n",
            status.name,
            status.id,
            row.found.kernel,
            span(row.uptime()),
            size(row.memory()),
        );
        if let Some(why) = &status.waiting {
            text += &format!("  waits: {why}\n");
        }
        text += "      PID    PPID  STATE     THREADS       TIME     MEMORY  COMMAND\n";
        for process in &row.processes.list {
            text += &format!(
                "  {:>7} {:>7}  {:<8} {:>8} {:>10} {:>10}  {}\n",
                process.pid.0,
                process.parent.0,
                names::process(process.state),
                process.threads,
                span(process.used),
                size(u64::from(process.pages) * PAGE),
                process.command
            );
        }
    }
    text
}

/// For programs. Times are nanoseconds, sizes are bytes.
pub fn json(rows: &[Row]) -> Value {
    json!(rows.iter().map(row_json).collect::<Vec<_>>())
}

fn row_json(row: &Row) -> Value {
    let status = &row.found.status;
    let now = row.processes.now;
    json!({
        "id": status.id.0,
        "name": status.name,
        "kernel": row.found.kernel.0,
        "protection": status.protection.as_ref().map(|protection| json!({
            "interval": protection.interval.0, "output": names::output(protection.output),
        })),
        "takeovers": status.takeovers,
        "uptime": row.uptime().0,
        "memory": row.memory(),
        "waiting": status.waiting,
        "processes": row.processes.list.iter().map(|process| process_json(process, now)).collect::<Vec<_>>(),
    })
}

fn process_json(process: &ProcessInfo, now: Nanos) -> Value {
    json!({
        "pid": process.pid.0,
        "parent": process.parent.0,
        "state": names::process(process.state),
        "threads": process.threads,
        "time": process.used.0,
        "uptime": since(now, process.started).0,
        "memory": u64::from(process.pages) * PAGE,
        "command": process.command,
    })
}

/// A span of time in a few characters.
fn span(span: Nanos) -> String {
    let seconds = span.0 as f64 / 1e9;
    match span.0 / 1_000_000_000 {
        0..100 => format!("{seconds:.2} s"),
        whole @ 100..6000 => format!("{} min {} s", whole / 60, whole % 60),
        whole => format!("{} h {} min", whole / 3600, whole % 3600 / 60),
    }
}

fn size(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::sample;
    use shimos_abi::{
        control::ProcessState,
        ids::{KernelId, Pid},
    };

    fn rows() -> Vec<Row> {
        let process = ProcessInfo {
            pid: Pid(32769),
            parent: Pid(0),
            state: ProcessState::Sleeping,
            used: Nanos::millis(1250),
            started: Nanos::secs(1),
            threads: 2,
            pages: 384,
            command: "/bin/httpd -f".to_string(),
        };
        let processes = Processes {
            kernel: KernelId(3),
            now: Nanos::secs(200),
            started: Nanos::secs(1),
            list: vec![process],
            next: None,
        };
        programs::all(&sample::machine())
            .into_iter()
            .map(|found| Row { found: Found { kernel: KernelId(3), ..found }, processes: processes.clone() })
            .collect()
    }

    #[test]
    fn programs_and_processes_are_shown() {
        let text = table(&rows());
        for part in [
            "httpd (p2) on k3, protected every 20 ms, up 3 min 19 s, 1.5 MiB",
            "32769",
            "sleeping",
            "1.25 s",
            "/bin/httpd -f",
        ] {
            assert!(text.contains(part), "{part} in\n{text}");
        }
    }

    #[test]
    fn json_has_the_same() {
        let value = json(&rows());
        assert_eq!(value[0]["name"], "httpd");
        assert_eq!(value[0]["processes"][0]["pid"], 32769);
        assert_eq!(value[0]["processes"][0]["time"], 1_250_000_000_u64);
        assert_eq!(value[0]["uptime"], 199_000_000_000_u64);
    }

    #[test]
    fn spans_are_short() {
        assert_eq!(span(Nanos(0)), "0.00 s");
        assert_eq!(span(Nanos::secs(99)), "99.00 s");
        assert_eq!(span(Nanos::secs(7260)), "2 h 1 min");
    }
}
