//! Whether a virtual processor had to wait so long for one of the host's that its kernel may be taken for dead for that alone.
use crate::qmp::Qmp;
use serde_json::json;
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle, sleep},
    time::Duration,
};

/// How long is long: an interval of the daemons, between two looks.
const LONG: Duration = Duration::from_millis(100);
/// Time between two looks.
const LOOK: Duration = Duration::from_millis(25);

/// Looks until it is asked.
pub struct Starved {
    end: Arc<AtomicBool>,
    looking: JoinHandle<Vec<bool>>,
}

impl Starved {
    /// Looks at the host's threads that are the virtual processors of a machine.
    pub fn watch(qmp: &mut Qmp) -> Starved {
        let answer = qmp.execute("query-cpus-fast", json!({})).unwrap_or_default();
        let threads: Vec<u64> =
            answer.as_array().into_iter().flatten().filter_map(|cpu| cpu["thread-id"].as_u64()).collect();
        let end = Arc::new(AtomicBool::new(false));
        let told = end.clone();
        Starved { end, looking: thread::spawn(move || look(&threads, &told)) }
    }

    /// Which of them had to wait long at one time.
    pub fn end(self) -> Vec<bool> {
        self.end.store(true, Ordering::Relaxed);
        self.looking.join().unwrap_or_default()
    }
}

fn look(threads: &[u64], end: &AtomicBool) -> Vec<bool> {
    let mut before: Vec<Duration> = threads.iter().map(|thread| waited(*thread)).collect();
    let mut starved = vec![false; threads.len()];
    while !end.load(Ordering::Relaxed) {
        sleep(LOOK);
        for ((thread, before), starved) in threads.iter().zip(&mut before).zip(&mut starved) {
            let now = waited(*thread);
            *starved |= now.saturating_sub(*before) >= LONG;
            *before = now;
        }
    }
    starved
}

/// How long a thread of the host was ready to run and did not, since it began; zero where the host does not tell.
fn waited(thread: u64) -> Duration {
    let told = std::fs::read_to_string(format!("/proc/{thread}/schedstat")).unwrap_or_default();
    Duration::from_nanos(told.split_whitespace().nth(1).and_then(|word| word.parse().ok()).unwrap_or_default())
}
