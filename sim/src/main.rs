//! The deterministic simulator: the whole machine, seeded, in one host process.
#![forbid(unsafe_code)]

mod image;
mod programs;

fn main() {
    let mut image = image::Image::new();
    image.program("counter", programs::counter(b'C', 1));
    image.program("ping", programs::ping_pong(b'P'));
    image.program("touch", programs::toucher(b'T', 8));
    image.program("echo", programs::echo_server(b'E'));
    image.program("init", programs::init(&[]));
    println!("{}", image.build().len());
}
