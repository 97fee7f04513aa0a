//! Bytes, and valid modules with some bytes changed, to the compiler: no panic, and what compiles is an artifact.
#![no_main]

use arbitrary::Unstructured;
use compiler::{Artifact, Caps, OptLevel, Options, TargetCpu};
use libfuzzer_sys::fuzz_target;
use sandboxd_fuzz::generate;

fuzz_target!(|data: &[u8]| {
    let Some((&mode, data)) = data.split_first() else { return };
    let wasm = if mode & 1 == 0 {
        data.to_vec()
    } else {
        let mut u = Unstructured::new(data);
        let Ok(mut wasm) = generate::any(&mut u) else { return };
        // What the generator left over says which bytes change.
        if mode & 2 != 0 {
            while let Ok((at, byte)) = u.arbitrary::<(u16, u8)>() {
                let length = wasm.len().max(1);
                if let Some(old) = wasm.get_mut(usize::from(at) % length) {
                    *old ^= byte;
                }
                if u.is_empty() {
                    break;
                }
            }
        }
        wasm
    };
    let options = Options {
        opt_level: match mode & 3 << 2 {
            0 => OptLevel::None,
            4 => OptLevel::SpeedAndSize,
            _ => OptLevel::Speed,
        },
        target_cpu: TargetCpu::Baseline,
        fuel: mode & 16 != 0,
        nan_canonicalization: mode & 32 != 0,
        spectre_guards: mode & 64 != 0,
        debug_info: mode & 128 != 0,
        open_imports: mode & 128 != 0,
        threads: 1,
        caps: Caps {
            function_values: 100_000,
            table_entries: 100_000,
            memory_pages: 1000,
            image_bytes: 64 << 20,
            ..Caps::default()
        },
    };
    let valid = compiler::validate(&wasm, &options).is_ok();
    if let Ok(artifact) = compiler::compile(&wasm, &options) {
        assert!(valid, "compiles, but does not validate");
        Artifact::parse(artifact).expect("our own artifact passes");
    }
});
