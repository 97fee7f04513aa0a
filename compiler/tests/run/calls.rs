//! Tail calls, calls through references, and tables whose type says what they hold.

use std::fmt::Write;

use compiler::{OptLevel, Options, TrapKind};
use ipc::interface::FunctionId;

use super::loader::Outcome;
use super::own::{build, call, result};

fn assert_trap(outcome: &Outcome, kind: TrapKind) {
    assert!(matches!(outcome, Outcome::Trapped(Some(found), _) if *found == kind), "{kind}: {outcome:x?}");
}

#[test]
fn tail_calls_run_in_constant_stack() {
    // Each takes another number of parameters than the one before, some on the stack: frames grow and shrink.
    let many = "i64 ".repeat(20);
    let gets: String = (1..20).map(|i| format!("(local.get {i})")).collect();
    let consts = "(i64.const 3)".repeat(19);
    let wat = format!(
        r#"(module
            (type $one (func (param i64) (result i64)))
            (type $many (func (param {many}) (result i64)))
            (table $t 2 funcref) (elem (table $t) (i32.const 0) func $a $b)
            (func $a (export "direct") (type $one)
                (if (i64.eqz (local.get 0)) (then (return (i64.const 11))))
                (return_call $b (i64.sub (local.get 0) (i64.const 1)) {consts}))
            (func $b (type $many)
                (if (i64.eqz (local.get 0)) (then (return (i64.const 12))))
                (if (i64.ne (i64.const 3) (local.get 19)) (then unreachable))
                (return_call $a (i64.sub (local.get 0) (i64.const 1))))
            (func $c (export "indirect") (type $one)
                (if (i64.eqz (local.get 0)) (then (return (i64.const 13))))
                (return_call_indirect $t2 (type $many) (i64.sub (local.get 0) (i64.const 1)) {consts} (i32.const 1)))
            (func $d (type $many)
                (if (i64.eqz (local.get 0)) (then (return (i64.const 14))))
                (return_call_indirect $t2 (type $one) (i64.sub (local.get 0) (i64.const 1)) (i32.const 0)))
            (table $t2 2 funcref) (elem (table $t2) (i32.const 0) func $c $d)
            (elem declare func $e $f)
            (func $e (export "ref") (type $one)
                (if (i64.eqz (local.get 0)) (then (return (i64.const 15))))
                (return_call_ref $many (i64.sub (local.get 0) (i64.const 1)) {consts} (ref.func $f)))
            (func $f (type $many)
                (if (i64.eqz (local.get 0)) (then (return (i64.const 16))))
                (return_call_ref $many (i64.sub (local.get 0) (i64.const 1)) {gets} (ref.func $f))))"#
    );
    for opt_level in [OptLevel::None, OptLevel::Speed] {
        let (_, artifact) = build(&wat, &Options { opt_level, ..Options::default() });
        for (name, even, odd) in [("direct", 11, 12), ("indirect", 13, 14), ("ref", 16, 16)] {
            assert_eq!(result(&call(&artifact, name, &[10_000_000])), even, "{name}");
            assert_eq!(result(&call(&artifact, name, &[10_000_001])), odd, "{name}");
        }
    }
}

#[test]
fn tail_calls_return_as_many_results_as_there_are() {
    let types = "i64 ".repeat(30);
    let values: String = (0..30).map(|i| format!("(i64.add (local.get 0) (i64.const {i}))")).collect();
    let wat = format!(
        r#"(module (type $t (func (param i64) (result {types})))
            (table 1 funcref) (elem (i32.const 0) func $last)
            (func $last (type $t) {values})
            (func $middle (type $t) (return_call_indirect (type $t) (i64.add (local.get 0) (i64.const 1)) (i32.const 0)))
            (func (export "f") (type $t) (return_call $middle (local.get 0))))"#
    );
    let (_, artifact) = build(&wat, &Options::default());
    match call(&artifact, "f", &[100]) {
        Outcome::Returned(values) => assert_eq!(values[..30], (101..131).collect::<Vec<u128>>()),
        other => panic!("{other:x?}"),
    }
}

#[test]
fn an_imported_function_can_be_tail_called() {
    let wat = r#"(module
        (type $t (func (param i32 i64 i32) (result i32)))
        (import "wasi_snapshot_preview1" "clock_time_get" (func $clock (type $t)))
        (table 1 funcref) (elem (i32.const 0) func $clock)
        (func (export "direct") (param i32) (result i32)
            (return_call $clock (local.get 0) (i64.const 20) (i32.const 3)))
        (func (export "indirect") (param i32) (result i32)
            (return_call_indirect (type $t) (local.get 0) (i64.const 20) (i32.const 3) (i32.const 0)))
        (func (export "ref") (param i32) (result i32)
            (return_call_ref $t (local.get 0) (i64.const 20) (i32.const 3) (ref.func $clock))))"#;
    let (_, artifact) = build(wat, &Options::default());
    let number = u64::from(FunctionId::clock_time_get.number());
    for name in ["direct", "indirect", "ref"] {
        assert_eq!(result(&call(&artifact, name, &[5])), number + 28, "{name}");
    }
}

#[test]
fn a_null_reference_traps_where_it_is_used() {
    let wat = r#"(module
        (type $t (func (result i32)))
        (elem declare func $seven)
        (func $seven (type $t) (i32.const 7))
        (func $pick (param i32) (result (ref null $t))
            (if (result (ref null $t)) (local.get 0) (then (ref.func $seven)) (else (ref.null $t))))
        (func (export "call") (param i32) (result i32) (call_ref $t (call $pick (local.get 0))))
        (func (export "tail") (param i32) (result i32) (return_call_ref $t (call $pick (local.get 0))))
        (func (export "as") (param i32) (result i32) (call_ref $t (ref.as_non_null (call $pick (local.get 0)))))
        (func (export "on_null") (param i32) (result i32)
            (block $null (return (call_ref $t (br_on_null $null (call $pick (local.get 0))))))
            (i32.const 100))
        (func (export "on_non_null") (param i32) (result i32) (local $f (ref $t))
            (block $set (result (ref $t))
                (br_on_non_null $set (call $pick (local.get 0)))
                (return (i32.const 200)))
            (local.set $f)
            (i32.add (call_ref $t (local.get $f)) (i32.const 1))))"#;
    for opt_level in [OptLevel::None, OptLevel::Speed] {
        let (wasm, artifact) = build(wat, &Options { opt_level, ..Options::default() });
        for (name, kind, opcode) in [
            ("call", TrapKind::NullFunctionReference, 0x14),
            ("tail", TrapKind::NullFunctionReference, 0x15),
            ("as", TrapKind::NullReference, 0xd4),
        ] {
            assert_eq!(result(&call(&artifact, name, &[1])), 7, "{name}");
            let outcome = call(&artifact, name, &[0]);
            assert_trap(&outcome, kind);
            let Outcome::Trapped(_, pc) = outcome else { panic!("{outcome:x?}") };
            assert_eq!(wasm[artifact.symbolize(pc).unwrap().wasm_offset as usize], opcode, "{name}");
        }
        for (name, found, missing) in [("on_null", 7, 100), ("on_non_null", 8, 200)] {
            assert_eq!(result(&call(&artifact, name, &[1])), found, "{name}");
            assert_eq!(result(&call(&artifact, name, &[0])), missing, "{name}");
        }
    }
}

#[test]
fn branches_on_references_take_operands_along() {
    let wat = r#"(module
        (func (export "null") (param externref) (result i32)
            (block $l (result i32) (i32.const 5) (br_on_null $l (local.get 0)) (drop) (drop) (i32.const 6)))
        (func (export "non_null") (param externref) (result i32)
            (block $l (result i32 (ref extern))
                (i32.const 5) (br_on_non_null $l (local.get 0)) (return (i32.add (i32.const 2))))
            (drop)))"#;
    let (_, artifact) = build(wat, &Options::default());
    for (name, null, other) in [("null", 5, 6), ("non_null", 7, 5)] {
        assert_eq!(result(&call(&artifact, name, &[0])), null, "{name}");
        assert_eq!(result(&call(&artifact, name, &[9])), other, "{name}");
    }
}

#[test]
fn tables_begin_with_what_their_initialiser_says() {
    let wat = r#"(module
        (type $t (func (result i32))) (type $other (func (result i64)))
        (table $full 3 (ref $t) (ref.func $one))
        (table $part 3 10 (ref null $t))
        (table $any 2 funcref (ref.func $wide))
        (elem (table $full) (i32.const 1) (ref $t) (ref.func $two))
        (elem (table $part) (i32.const 1) (ref $t) (ref.func $two))
        (func $one (type $t) (i32.const 1)) (func $two (type $t) (i32.const 2))
        (func $wide (type $other) (i64.const 9))
        (func (export "full") (param i32) (result i32) (call_indirect $full (type $t) (local.get 0)))
        (func (export "part") (param i32) (result i32) (call_indirect $part (type $t) (local.get 0)))
        (func (export "any") (param i32) (result i32) (call_indirect $any (type $t) (local.get 0)))
        (func (export "wrong") (param i32) (result i64) (call_indirect $part (type $other) (local.get 0)))
        (func (export "grown") (param i32) (result i32)
            (drop (table.grow $part (ref.func $one) (i32.const 2)))
            (call_indirect $part (type $t) (local.get 0))))"#;
    let (_, artifact) = build(wat, &Options::default());
    for (name, index, expected) in
        [("full", 0, 1), ("full", 1, 2), ("full", 2, 1), ("part", 1, 2), ("grown", 4, 1)]
    {
        assert_eq!(result(&call(&artifact, name, &[index])), expected, "{name} {index}");
    }
    for (name, index, kind) in [
        ("full", 3, TrapKind::TableOutOfBounds),
        ("part", 3, TrapKind::TableOutOfBounds),
        ("part", 0, TrapKind::UninitializedElement),
        ("any", 1, TrapKind::IndirectCallTypeMismatch),
        ("wrong", 0, TrapKind::UninitializedElement),
        ("wrong", 1, TrapKind::IndirectCallTypeMismatch),
        ("grown", 5, TrapKind::TableOutOfBounds),
    ] {
        assert_trap(&call(&artifact, name, &[index]), kind);
    }
}

#[test]
fn types_that_refer_to_equal_types_are_equal() {
    // Two definitions of the same function type, and two of a type that takes a reference to it.
    let mut wat = String::from("(module (table 2 funcref) (elem (i32.const 0) func $f $g)");
    for i in 0..2 {
        write!(
            wat,
            "(type $a{i} (func (param i32))) (type $b{i} (func (param (ref null $a{i})) (result i32)))"
        )
        .unwrap();
    }
    wat.push_str(
        r#"(type $c (func (param (ref null 1)) (result i32)))
        (func $f (type $b0) (i32.const 1)) (func $g (type $c) (i32.const 2))
        (func (export "f") (param i32) (result i32) (call_indirect (type $b1) (ref.null $a1) (local.get 0))))"#,
    );
    let (_, artifact) = build(&wat, &Options::default());
    assert_eq!(result(&call(&artifact, "f", &[0])), 1);
    assert_trap(&call(&artifact, "f", &[1]), TrapKind::IndirectCallTypeMismatch);
}
