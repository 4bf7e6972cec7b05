//! The small machine of a schedule, and the programs on it.
use crate::{image::Image, programs};
use shimos_abi::{
    control::{Output, Protection, Request, Start},
    ids::KernelId,
    time::Nanos,
};
use shimos_random::Random;
use shimos_soft::Config;

/// Frames of each kernel.
const POOL: u32 = 768;
/// Pages that the toucher looks at.
const TOUCHED: u64 = 12;

/// The letters of the programs of a seed: one shows what nobody can foresee, one serves the network, and sometimes there is
/// one more.
pub fn letters(seed: u64) -> Vec<u8> {
    let third: &[u8] = match seed % 4 {
        0 => b"T",
        1 => b"P",
        _ => b"",
    };
    [b"RE", third].concat()
}

/// The machine of a seed; its programs' output leaves as told.
pub fn config(seed: u64, output: Output) -> Config {
    let mut random = Random::new(seed ^ 0x5c4e_d01e);
    let kernels = random.between(2, 3) as usize;
    let mut config = Config::new(kernels, seed);
    config.pool_frames = POOL;
    config.timing.preempt_ppm = random.below(3) as u32 * 2_000;
    let interval = Nanos::millis(random.between(3, 20));
    let (mut image, mut requests) = (Image::new(), Vec::new());
    for letter in letters(seed) {
        let name = format!("prog-{}", letter.to_ascii_lowercase() as char);
        image.program(&name, program(letter));
        requests.push(Request::Start(Start {
            name: name.clone(),
            argv: vec![format!("/bin/{name}")],
            cwd: "/".into(),
            kernel: Some(KernelId(random.below(kernels as u64) as u16)),
            protection: Some(Protection::new(interval, output)),
            ..Start::default()
        }));
    }
    image.program("init", programs::init(&requests));
    config.disk = image.build();
    config
}

fn program(letter: u8) -> Vec<u8> {
    match letter {
        b'R' => programs::dice(letter, 4_000_000),
        b'P' => programs::ping_pong(letter, 4_000_000),
        b'T' => programs::toucher(letter, TOUCHED, 4_000_000),
        _ => programs::echo_server(letter),
    }
}
