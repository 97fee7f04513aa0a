//! What the specification's tests do not cover: host calls, the table of sites, stack probes, native artifacts.

use std::fmt::Write;

use compiler::metadata::{Entry, ExportItem};
use compiler::{Artifact, Options, RawModule, TargetCpu, TrapKind};
use ipc::interface::FunctionId;

use super::loader::{self, Call, Outcome};

pub fn build(wat: &str, options: &Options) -> (Vec<u8>, Artifact<Vec<u8>>) {
    let wasm = compiler::parse_text(wat.as_bytes()).unwrap();
    let artifact = Artifact::parse(compiler::compile(&wasm, options).unwrap()).unwrap();
    (wasm, artifact)
}

pub fn entry(artifact: &Artifact<Vec<u8>>, name: &str) -> Entry {
    match artifact.export(name) {
        Some(ExportItem::Function { entry, .. }) => *entry,
        other => panic!("{name} is {other:?}"),
    }
}

pub fn call(artifact: &Artifact<Vec<u8>>, name: &str, arguments: &[u64]) -> Outcome {
    let arguments: Vec<u128> = arguments.iter().map(|argument| u128::from(*argument)).collect();
    loader::run(artifact, &[Call::Function(entry(artifact, name), &arguments)]).remove(0)
}

pub fn result(outcome: &Outcome) -> u64 {
    match outcome {
        Outcome::Returned(values) => values[0] as u64,
        other => panic!("{other:x?}"),
    }
}

#[test]
fn a_host_call_carries_its_number_parameters_and_result() {
    let wat = r#"(module
        (import "wasi_snapshot_preview1" "clock_time_get" (func (param i32 i64 i32) (result i32)))
        (export "f" (func 0))
        (func (export "g") (param i32) (result i32)
            local.get 0 i64.const 20 i32.const -1 call 0))"#;
    for target_cpu in [TargetCpu::Baseline, TargetCpu::Native] {
        let (_, artifact) = build(wat, &Options { target_cpu, ..Options::default() });
        let number = u64::from(FunctionId::clock_time_get.number());
        assert_eq!(artifact.metadata().host_functions, [number as u32]);
        assert_eq!(result(&call(&artifact, "f", &[1, 2, 3])), number + 6);
        // The parameter -1 arrives zero-extended; the loader returns the low half of the sum.
        assert_eq!(
            result(&call(&artifact, "g", &[5])),
            (number + 25).wrapping_add(0xffff_ffff) & 0xffff_ffff
        );
    }
}

#[test]
fn a_trap_is_found_at_its_operator() {
    let wat = r#"(module
        (memory 1) (table 4 funcref) (elem (i32.const 1) $other)
        (type $t (func (result i32)))
        (func $other)
        (func $load (export "load") (param i32) (result i32) (i32.load offset=3 (local.get 0)))
        (func $store (export "store") (param i32) (i64.store8 (local.get 0) (i64.const 1)))
        (func $div (export "div") (param i32 i32) (result i32) (i32.div_s (local.get 0) (local.get 1)))
        (func $convert (export "convert") (param f64) (result i64) (i64.trunc_f64_u (local.get 0)))
        (func $indirect (export "indirect") (param i32) (result i32) (call_indirect (type $t) (local.get 0)))
        (func $fill (export "fill") (param i32) (memory.fill (local.get 0) (i32.const 0) (i32.const 9)))
        (func $get (export "get") (param i32) (drop (table.get (local.get 0))))
        (func $dead (export "dead") unreachable))"#;
    let (wasm, artifact) = build(wat, &Options::default());
    let nan = f64::NAN.to_bits();
    let (min, minus_one) = (0x8000_0000, 0xffff_ffff);
    // Export, arguments, what it is, the operator's first byte in the module.
    let cases: &[(&str, &[u64], TrapKind, u8)] = &[
        ("load", &[0x1_0000], TrapKind::MemoryOutOfBounds, 0x28),
        ("load", &[0xffff_ffff], TrapKind::MemoryOutOfBounds, 0x28),
        ("store", &[0x1_0000], TrapKind::MemoryOutOfBounds, 0x3c),
        ("div", &[1, 0], TrapKind::IntegerDivideByZero, 0x6d),
        ("div", &[min, minus_one], TrapKind::IntegerOverflow, 0x6d),
        ("convert", &[nan], TrapKind::InvalidConversionToInteger, 0xb1),
        ("convert", &[(-1f64).to_bits()], TrapKind::IntegerOverflow, 0xb1),
        ("indirect", &[0], TrapKind::UninitializedElement, 0x11),
        ("indirect", &[1], TrapKind::IndirectCallTypeMismatch, 0x11),
        ("indirect", &[4], TrapKind::TableOutOfBounds, 0x11),
        ("fill", &[0xfff8], TrapKind::MemoryOutOfBounds, 0xfc),
        ("get", &[4], TrapKind::TableOutOfBounds, 0x25),
        ("dead", &[], TrapKind::Unreachable, 0x00),
    ];
    for (name, arguments, kind, opcode) in cases {
        let Outcome::Trapped(found, pc) = call(&artifact, name, arguments) else {
            panic!("{name} {arguments:x?} does not trap");
        };
        assert_eq!(found, Some(*kind), "{name} {arguments:x?}");
        let frame = artifact.symbolize(pc).unwrap();
        assert_eq!((frame.name.as_str(), frame.function), (*name, entry(&artifact, name).function));
        assert_eq!(
            wasm[frame.wasm_offset as usize], *opcode,
            "{name} {arguments:x?} at {:#x}",
            frame.wasm_offset
        );
    }
}

#[test]
fn addresses_outside_of_the_functions_have_no_frame() {
    let (_, artifact) = build(r#"(module (func (export "f") call 0))"#, &Options::default());
    let entry = entry(&artifact, "f");
    assert_eq!(artifact.symbolize(entry.trampoline), None);
    assert_eq!(artifact.symbolize(0), None);
    assert_eq!(artifact.symbolize(u64::MAX), None);
    assert_eq!(artifact.symbolize(entry.code).unwrap().function, 0);
    assert_eq!(artifact.trap_at(entry.code), None);
    // The call returns to what follows it, and that belongs to the call.
    let returns: Vec<_> = (entry.code + 1..entry.code + 64)
        .filter_map(|pc| Some((pc, artifact.symbolize_return(pc)?)))
        .collect();
    assert!(
        returns
            .iter()
            .any(|(_, frame)| frame.wasm_offset > artifact.symbolize(entry.code).unwrap().wasm_offset)
    );
}

#[test]
fn recursion_ends_at_the_guard_whatever_the_frame() {
    // Values that are alive across the call make a frame of 8 bytes each.
    for values in [1, 200, 2_000, 9_000] {
        let mut body = String::new();
        for i in 0..values {
            write!(body, "(local.set {} (i64.load offset={} (i32.const 0)))", i + 1, i * 8).unwrap();
        }
        body.push_str("(call 0 (local.get 0))");
        for i in 0..values {
            write!(body, "(i64.store offset={} (i32.const 0) (local.get {}))", i * 8, i + 1).unwrap();
        }
        let locals = "i64 ".repeat(values);
        let wat = format!(r#"(module (memory 4) (func (export "f") (param i32) (local {locals}) {body}))"#);
        let (_, artifact) = build(&wat, &Options::default());
        match call(&artifact, "f", &[0]) {
            Outcome::Trapped(Some(TrapKind::StackExhausted), _) => {}
            other => panic!("{values} values: {other:x?}"),
        }
    }
}

#[test]
fn many_parameters_and_results_pass_through_trampolines() {
    let types = ["i32", "i64", "f32", "f64"];
    let list: Vec<_> = (0..40).map(|i| types[i % 4]).collect();
    let gets: String = (0..40).map(|i| format!("(local.get {i})")).collect();
    let wat = format!(
        r#"(module (func $id (param {0}) (result {0}) {gets}) (func (export "f") (param {0}) (result {0}) {gets} call $id))"#,
        list.join(" ")
    );
    let (_, artifact) = build(&wat, &Options::default());
    let arguments: Vec<u64> = (0..40).map(|i| if i % 2 == 0 { 0x8765_0000 + i } else { !0 - i }).collect();
    match call(&artifact, "f", &arguments) {
        Outcome::Returned(values) => {
            let values: Vec<u64> = values[..40].iter().map(|value| *value as u64).collect();
            assert_eq!(values, arguments);
        }
        other => panic!("{other:x?}"),
    }
}

#[test]
fn far_offsets_reach_their_bytes() {
    let wat = r#"(module (memory 65536)
        (func (export "f") (param i32 i32) (result i32)
            (i32.store8 offset=0x7fffffff (local.get 0) (local.get 1))
            (i32.store8 offset=0x3fffffff (i32.const 0) (i32.const 7))
            (i32.store8 offset=0x40000000 (i32.const 0) (i32.const 8))
            (i32.add
                (i32.load8_u offset=0xffffffff (i32.const 0))
                (i32.load16_u offset=0x3fffffff (i32.const 0)))))"#;
    let (_, artifact) = build(wat, &Options::default());
    assert_eq!(result(&call(&artifact, "f", &[0x8000_0000, 100])), 100 + 0x0807);
    match call(&artifact, "f", &[0x8000_0001, 100]) {
        Outcome::Trapped(Some(TrapKind::MemoryOutOfBounds), _) => {}
        other => panic!("{other:x?}"),
    }
}

#[test]
fn small_copies_and_fills_are_right_for_every_length() {
    // For each length: fill with the pattern's byte, and copies that overlap in both directions.
    let mut wat = String::from("(module (memory 1) (func $init (local i32) (loop (i32.store8 (local.get 0) (i32.mul (local.get 0) (i32.const 7))) (br_if 0 (i32.lt_u (local.tee 0 (i32.add (local.get 0) (i32.const 1))) (i32.const 1000)))))
        (func $sum (result i64) (local i32 i64) (loop (local.set 1 (i64.add (i64.mul (local.get 1) (i64.const 31)) (i64.load8_u (local.get 0)))) (br_if 0 (i32.lt_u (local.tee 0 (i32.add (local.get 0) (i32.const 1))) (i32.const 1000)))) (local.get 1))");
    for n in 0..140 {
        write!(
            wat,
            r#"(func (export "{n}") (param i32 i32 i32) (result i64)
                (call $init)
                (memory.copy (local.get 0) (local.get 1) (i32.const {n}))
                (memory.fill (local.get 2) (local.get 1) (i32.const {n}))
                (call $sum))"#
        )
        .unwrap();
    }
    wat.push(')');
    let (_, artifact) = build(&wat, &Options::default());
    let cases: Vec<(u64, u64, u64, u64)> = (0..140)
        .flat_map(|n| [(n, 100, 103, 700), (n, 103, 100, 701), (n, 300, 100, 395), (n, 100, 100, 120)])
        .collect();
    let arguments: Vec<[u128; 3]> =
        cases.iter().map(|&(_, to, from, fill)| [to, from, fill].map(u128::from)).collect();
    let calls: Vec<Call<'_>> = cases
        .iter()
        .zip(&arguments)
        .map(|((n, ..), arguments)| Call::Function(entry(&artifact, &n.to_string()), arguments))
        .collect();
    for (outcome, (n, to, from, fill)) in loader::run(&artifact, &calls).iter().zip(cases) {
        let mut memory: Vec<u8> = (0..1000).map(|i| (i * 7) as u8).collect();
        memory.copy_within(from as usize..(from + n) as usize, to as usize);
        memory[fill as usize..(fill + n) as usize].fill(from as u8);
        let sum = memory.iter().fold(0u64, |sum, byte| sum.wrapping_mul(31).wrapping_add(u64::from(*byte)));
        assert_eq!(result(outcome), sum, "{n} bytes from {from} to {to}, fill {fill}");
    }
    // A length of zero is checked too, and a constant length traps where it should.
    for (name, at, traps) in
        [("0", 0x1_0000, false), ("0", 0x1_0001, true), ("16", 0xfff0, false), ("16", 0xfff1, true)]
    {
        let outcome = call(&artifact, name, &[at, 0, 0]);
        assert_eq!(
            matches!(outcome, Outcome::Trapped(Some(TrapKind::MemoryOutOfBounds), _)),
            traps,
            "{outcome:x?}"
        );
    }
}

#[test]
fn native_code_runs_as_an_artifact() {
    // lea rax, [rdi + rsi]; ret; nops; ud2
    let code = vec![0x48, 0x8d, 0x04, 0x37, 0xc3, 0x90, 0x90, 0x90, 0x0f, 0x0b];
    let functions = vec![("add".to_owned(), 0, 2, 1), ("die".to_owned(), 8, 0, 0)];
    let artifact = Artifact::parse(
        RawModule { code, functions, memory_pages: 2, memory_max_pages: 2, ..RawModule::default() }
            .build()
            .unwrap(),
    )
    .unwrap();
    assert_eq!(artifact.metadata().memories[0].min_pages, 2);
    assert_eq!(result(&call(&artifact, "add", &[40, 2])), 42);
    assert_eq!(call(&artifact, "die", &[]), Outcome::Trapped(None, entry(&artifact, "die").code));
}

#[test]
fn the_output_does_not_depend_on_the_number_of_threads() {
    let mut wat = String::from(
        "(module (memory 1) (data (i32.const 8) \"x\") (table 9 funcref) (elem (i32.const 0) 3 1 2)",
    );
    for i in 0..300 {
        write!(
            wat,
            "(func (param i32) (result i32) (i32.add (call {} (local.get 0)) (i32.const {i})))",
            (i * 7) % 300
        )
        .unwrap();
    }
    wat.push_str("(export \"f\" (func 9)))");
    let wasm = compiler::parse_text(wat.as_bytes()).unwrap();
    let compile = |threads| compiler::compile(&wasm, &Options { threads, ..Options::default() }).unwrap();
    let one = compile(1);
    assert!(one == compile(4) && one == compile(3));
}

#[test]
fn atomic_operators_trap_in_order_and_change_only_what_they_access() {
    let wat = r#"(module (memory 1 1)
        (func (export "load") (param i32) (result i64) (i64.atomic.load offset=4 (local.get 0)))
        (func (export "store16") (param i32 i32) (i32.atomic.store16 (local.get 0) (local.get 1)))
        (func (export "notify") (param i32) (result i32) (memory.atomic.notify (local.get 0) (i32.const 1)))
        (func (export "wait32") (param i32) (result i32)
            (memory.atomic.wait32 (local.get 0) (i32.const 0) (i64.const 0)))
        (func (export "wait64") (param i32) (result i32)
            (memory.atomic.wait64 offset=8 (local.get 0) (i64.const 0) (i64.const 0)))
        (func (export "fence") (result i32) atomic.fence i32.const 7)
        (func (export "swap8") (param i64 i64) (result i64 i64)
            (i64.store (i32.const 8) (i64.const 0x1122334455667788))
            (i64.atomic.rmw8.cmpxchg_u (i32.const 9) (local.get 0) (local.get 1))
            (i64.load (i32.const 8))))"#;
    let unaligned = Some(TrapKind::UnalignedAtomic);
    let outside = Some(TrapKind::MemoryOutOfBounds);
    let shared = Some(TrapKind::ExpectedSharedMemory);
    for target_cpu in [TargetCpu::Baseline, TargetCpu::Native] {
        let (_, artifact) = build(wat, &Options { target_cpu, ..Options::default() });
        for (name, argument, trap) in [
            // The offset counts: 4 more than this is aligned.
            ("load", 4, None),
            ("load", 8, unaligned),
            ("load", 0xfffc, outside),
            ("load", 0xffff_fffc, outside),
            ("load", 0xffff_fff8, unaligned),
            ("store16", 0xfffe, None),
            ("store16", 0xffff, unaligned),
            ("store16", 0x1_0000, outside),
            ("notify", 0xfffc, None),
            ("notify", 2, unaligned),
            ("notify", 0x1_0000, outside),
            ("wait32", 0, shared),
            ("wait32", 2, unaligned),
            ("wait32", 0x1_0000, outside),
            ("wait64", 0xfff0, shared),
            ("wait64", 4, unaligned),
            ("wait64", 0xfff8, outside),
        ] {
            match (call(&artifact, name, &[argument, 1]), trap) {
                (Outcome::Returned(values), None) => {
                    assert_eq!(values[0] as u64, if name == "store16" { argument } else { 0 })
                }
                (Outcome::Trapped(found, _), Some(_)) => assert_eq!(found, trap, "{name} {argument:#x}"),
                (other, _) => panic!("{name} {argument:#x}: {other:x?}"),
            }
        }
        assert_eq!(result(&call(&artifact, "fence", &[])), 7);
        // Of the expected value, the accessed byte counts.
        for (expected, memory) in [(0xab77, 0x1122_3344_5566_cd88), (0x78, 0x1122_3344_5566_7788_u64)] {
            match call(&artifact, "swap8", &[expected, 0xefcd]) {
                Outcome::Returned(values) => assert_eq!(values[..2], [0x77, u128::from(memory)]),
                other => panic!("{other:x?}"),
            }
        }
    }
}

#[test]
fn relaxed_operators_have_the_same_results_on_every_target() {
    let operators = [
        ("i8x16.relaxed_swizzle", 2),
        ("i32x4.relaxed_trunc_f32x4_s", 1),
        ("i32x4.relaxed_trunc_f32x4_u", 1),
        ("i32x4.relaxed_trunc_f64x2_s_zero", 1),
        ("i32x4.relaxed_trunc_f64x2_u_zero", 1),
        ("f32x4.relaxed_madd", 3),
        ("f32x4.relaxed_nmadd", 3),
        ("f64x2.relaxed_madd", 3),
        ("f64x2.relaxed_nmadd", 3),
        ("i8x16.relaxed_laneselect", 3),
        ("i16x8.relaxed_laneselect", 3),
        ("i32x4.relaxed_laneselect", 3),
        ("i64x2.relaxed_laneselect", 3),
        ("f32x4.relaxed_min", 2),
        ("f32x4.relaxed_max", 2),
        ("f64x2.relaxed_min", 2),
        ("f64x2.relaxed_max", 2),
        ("i16x8.relaxed_q15mulr_s", 2),
        ("i16x8.relaxed_dot_i8x16_i7x16_s", 2),
        ("i32x4.relaxed_dot_i8x16_i7x16_add_s", 3),
    ];
    let functions: String = operators
        .iter()
        .map(|(name, count)| {
            let gets: String = (0..*count).map(|i| format!("(local.get {i})")).collect();
            format!(r#"(func (export "{name}") (param v128 v128 v128) (result v128) ({name} {gets}))"#)
        })
        .collect();
    // Bits of all kinds: NaNs, infinities, zeros of both signs, numbers too large to convert, ordinary ones.
    let words: [u128; 6] = [
        0x7fc0_0001_ff80_0000_8000_0000_0000_0000,
        0x4f80_0000_cf00_0001_3f80_0001_bf80_0003,
        0x41ef_ffff_ffe0_0000_c1e0_0000_0020_0000,
        0x8000_7fff_8001_0102_fffe_80ff_7f80_3fc0,
        0xffff_ffff_ffff_ffff_0000_0000_0000_0000,
        0x3ff0_0000_0000_0001_bff8_0000_0000_0001,
    ];
    let triples: Vec<[u128; 3]> = (0..216).map(|n| [words[n % 6], words[n / 6 % 6], words[n / 36]]).collect();
    let [baseline, native] = [TargetCpu::Baseline, TargetCpu::Native].map(|target_cpu| {
        let (_, artifact) =
            build(&format!("(module {functions})"), &Options { target_cpu, ..Options::default() });
        let calls: Vec<Call<'_>> = operators
            .iter()
            .flat_map(|(name, _)| {
                let entry = entry(&artifact, name);
                triples.iter().map(move |triple| Call::Function(entry, triple))
            })
            .collect();
        loader::run(&artifact, &calls)
    });
    for (i, (baseline, native)) in baseline.iter().zip(&native).enumerate() {
        let (name, triple) = (operators[i / triples.len()].0, triples[i % triples.len()]);
        match (baseline, native) {
            (Outcome::Returned(baseline), Outcome::Returned(native)) => {
                assert_eq!(baseline[0], native[0], "{name} of {triple:x?}");
            }
            other => panic!("{name}: {other:x?}"),
        }
    }
}
