//! The same bytes for the same module and options: whatever the number of threads, on every run. (In every
//! directory: see the tests of `sandboxc`.)

use std::fmt::Write;

use compiler::{OptLevel, Options, TargetCpu};

/// A module with DWARF, and one with more functions than several threads take at once.
fn modules() -> [Vec<u8>; 2] {
    let mut wat = String::from(
        "(module (memory 1) (data (i32.const 8) \"x\") (table 9 funcref) (elem (i32.const 0) 3 1 2) (type $t (func (param i32) (result i32)))",
    );
    for i in 0..300 {
        write!(
            wat,
            "(func $f{i} (param i32) (result i32) (loop (br_if 0 (local.tee 0 (i32.sub (local.get 0) (i32.const 1)))))
                (i32.add (call {} (local.get 0)) (call_indirect (type $t) (i32.load (local.get 0)) (i32.const {i}))))",
            (i * 7) % 300
        )
        .unwrap();
    }
    wat.push_str("(export \"f\" (func 9)))");
    [
        include_bytes!("../../examples/guests/lines.wasm").to_vec(),
        compiler::parse_text(wat.as_bytes()).unwrap(),
    ]
}

#[test]
fn bytes_depend_on_module_and_options_alone() {
    let base = Options { target_cpu: TargetCpu::Baseline, ..Options::default() };
    let sets = [
        base,
        Options { opt_level: OptLevel::None, ..base },
        Options { opt_level: OptLevel::SpeedAndSize, ..base },
        Options { target_cpu: TargetCpu::Native, ..base },
        Options { fuel: true, ..base },
        Options { nan_canonicalization: true, ..base },
        Options { spectre_guards: true, ..base },
        Options { debug_info: true, ..base },
        Options { fuel: true, nan_canonicalization: true, spectre_guards: true, debug_info: true, ..base },
    ];
    for wasm in &modules() {
        let mut seen = Vec::new();
        for set in sets {
            let compile = |threads| compiler::compile(wasm, &Options { threads, ..set }).unwrap();
            let first = compile(1);
            for threads in [1, 2, 7] {
                assert!(compile(threads) == first, "{threads} threads, {set:?}");
            }
            assert!(!seen.contains(&first), "{set:?} changes nothing");
            seen.push(first);
        }
    }
}
