//! A snapshot of a Rust program: `init` fills a table, `_start` looks something up in it.
//!
//!     rustc --edition 2024 --target wasm32-wasip1 -O --crate-type cdylib primes.rs -o primes.wasm

use std::sync::OnceLock;

const LIMIT: usize = 10_000_000;

static PRIMES: OnceLock<Vec<u32>> = OnceLock::new();

fn sieve() -> Vec<u32> {
    let mut composite = vec![false; LIMIT + 1];
    let mut primes = Vec::new();
    for n in 2..=LIMIT {
        if !composite[n] {
            primes.push(n as u32);
            (n.saturating_mul(n)..=LIMIT).step_by(n).for_each(|multiple| composite[multiple] = true);
        }
    }
    primes
}

/// Everything that is the same in each run.
#[unsafe(no_mangle)]
pub extern "C" fn init() {
    PRIMES.get_or_init(sieve);
}

/// What `sandboxctl run` calls. Without a snapshot it does the work of `init` itself.
#[unsafe(export_name = "_start")]
pub extern "C" fn start() {
    let primes = PRIMES.get_or_init(sieve);
    match std::env::args().nth(1).and_then(|n| n.parse::<usize>().ok()) {
        Some(n) if n > 0 && n <= primes.len() => println!("{}", primes[n - 1]),
        _ => println!("{} primes up to {LIMIT}; give a number to see which", primes.len()),
    }
}
