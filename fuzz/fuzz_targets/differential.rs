//! Modules out of bytes, run here and in Wasmtime.
#![no_main]

use std::sync::LazyLock;

use arbitrary::Unstructured;
use compiler::OptLevel;
use libfuzzer_sys::fuzz_target;
use sandboxd_fuzz::differential::{Failure, compare};
use sandboxd_fuzz::{generate, peer};
use wasmtime::Engine;

static ENGINE: LazyLock<Engine> = LazyLock::new(|| peer::engine(true).expect("Wasmtime can be set up"));

fuzz_target!(|data: &[u8]| {
    let mut u = Unstructured::new(data);
    let Ok(seed) = u.arbitrary::<u64>() else { return };
    let Ok(wasm) = generate::terminating(&mut u) else { return };
    let level = if seed & 1 == 0 { OptLevel::Speed } else { OptLevel::None };
    if let Err(Failure::Differs(what)) = compare(&ENGINE, &wasm, level, seed) {
        panic!("{what}");
    }
});
