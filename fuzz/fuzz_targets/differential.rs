//! Modules out of bytes, run here and in Wasmtime.
#![no_main]

use std::sync::LazyLock;

use arbitrary::Unstructured;
use libfuzzer_sys::fuzz_target;
use sandboxd_fuzz::differential::{Failure, compare};
use sandboxd_fuzz::generate;
use sandboxd_fuzz::mode::Mode;
use sandboxd_fuzz::peer::Engines;

static ENGINES: LazyLock<Engines> = LazyLock::new(|| Engines::new().expect("Wasmtime can be set up"));

fuzz_target!(|data: &[u8]| {
    let mut u = Unstructured::new(data);
    let Ok(seed) = u.arbitrary::<u64>() else { return };
    let mode = Mode::of(seed);
    let Ok(wasm) = generate::terminating(&mut u, !mode.nan_canonicalization) else { return };
    if let Err(Failure::Differs(what)) = compare(&ENGINES, &wasm, mode, seed) {
        panic!("{what}");
    }
});
