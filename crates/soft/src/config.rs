//! What a simulated machine is made of.
use shimos_abi::time::Nanos;

/// What one run of the simulator is made of.
#[derive(Clone, Debug)]
pub struct Config {
    /// How many kernels.
    pub kernels: usize,
    /// Frames in the pool of each.
    pub pool_frames: u32,
    /// Decides everything that is left to chance.
    pub seed: u64,
    /// Content of the disk; rounded up to whole blocks.
    pub disk: Vec<u8>,
    /// The byte that fills a frame nobody has written yet.
    pub fill: u8,
    /// Speed and its accidents.
    pub timing: Timing,
}

impl Config {
    /// A machine without accidents.
    pub fn new(kernels: usize, seed: u64) -> Config {
        Config { kernels, pool_frames: 4096, seed, disk: Vec::new(), fill: 0xa5, timing: Timing::default() }
    }
}

/// How long things take, and what goes wrong with time.
#[derive(Clone, Debug)]
pub struct Timing {
    /// Shortest and longest time of one call of the machine, in nanoseconds.
    pub call: (u64, u64),
    /// Shortest and longest time of one instruction, in nanoseconds.
    pub instruction: (u64, u64),
    /// Longest time in user mode before the processor is given to another core.
    pub slice: Nanos,
    /// Shortest and longest time of a disk read, in nanoseconds.
    pub disk: (u64, u64),
    /// Time from a restart to the first step of the new incarnation, shortest and longest.
    pub boot: (u64, u64),
    /// How often a core stalls, in millionths of its turns.
    pub stall_ppm: u32,
    /// The longest stall.
    pub stall: Nanos,
    /// How often the ring of a peer is lost, in millionths.
    pub lost_ipi_ppm: u32,
    /// How often an Ethernet frame is lost, in millionths.
    pub lost_packet_ppm: u32,
    /// How often a core loses the processor in the middle of a turn, in millionths of its steps (with threads only).
    pub preempt_ppm: u32,
}

impl Default for Timing {
    fn default() -> Timing {
        Timing {
            call: (20, 120),
            instruction: (150, 250),
            slice: Nanos::micros(100),
            disk: (20_000, 120_000),
            boot: (1_000_000, 3_000_000),
            stall_ppm: 0,
            stall: Nanos::millis(40),
            lost_ipi_ppm: 0,
            lost_packet_ppm: 0,
            preempt_ppm: 0,
        }
    }
}
