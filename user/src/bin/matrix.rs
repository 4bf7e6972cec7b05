//! Multiplies square matrices of 64-bit floating-point numbers: for measurements.
//!
//! `matrix N` multiplies two matrices of N rows and prints a sum of the product, which is the same wherever it runs.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    let size =
        std::env::args().nth(1).and_then(|word| word.parse::<usize>().ok()).filter(|size| (1..=4096).contains(size));
    let Some(size) = size else {
        eprintln!("matrix: say how many rows, 1 to 4096, like: matrix 200");
        return ExitCode::from(2);
    };
    println!("{}", trace(&multiply(&filled(size, 3), &filled(size, 5), size), size));
    ExitCode::SUCCESS
}

fn filled(size: usize, step: usize) -> Vec<f64> {
    (0..size * size).map(|place| (place * step % 17) as f64 / 16.0).collect()
}

fn multiply(left: &[f64], right: &[f64], size: usize) -> Vec<f64> {
    let mut product = vec![0.0; size * size];
    for (row, into) in left.chunks(size).zip(product.chunks_mut(size)) {
        for (factor, from) in row.iter().zip(right.chunks(size)) {
            for (sum, value) in into.iter_mut().zip(from) {
                *sum += factor * value;
            }
        }
    }
    product
}

fn trace(matrix: &[f64], size: usize) -> f64 {
    matrix.iter().step_by(size + 1).sum()
}
