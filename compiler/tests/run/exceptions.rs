//! Exceptions beyond the specification's tests: what is live across a throw, memory, depth.

use compiler::metadata::ExportItem;
use compiler::{Artifact, OptLevel, Options, TrapKind};

use super::loader::{self, Call, Outcome};

/// Calls the export `f` with one argument, at both levels of optimisation.
fn both(wat: &str, argument: u64) -> Outcome {
    let wasm = compiler::parse_text(wat.as_bytes()).unwrap();
    let [first, second] = [OptLevel::Speed, OptLevel::None].map(|opt_level| {
        let options = Options { opt_level, ..Options::default() };
        let artifact = Artifact::parse(compiler::compile(&wasm, &options).unwrap()).unwrap();
        let Some(ExportItem::Function { entry, .. }) = artifact.export("f") else {
            panic!("no function `f`")
        };
        match loader::run(&artifact, &[Call::Function(*entry, &[argument.into()])]).remove(0) {
            Outcome::Returned(values) => Outcome::Returned(vec![values[0]]),
            Outcome::Trapped(kind, _) => Outcome::Trapped(kind, 0),
            Outcome::NotRun => Outcome::NotRun,
        }
    });
    assert_eq!(first, second);
    first
}

#[test]
fn many_locals_of_every_class_survive_a_throw() {
    let locals = 40u64;
    let mut wat = String::from(
        "(module (tag $e (param i64 f64)) (func $t (param i64) (throw $e (local.get 0) (f64.const 0.5)))
         (func (export \"f\") (param $n i64) (result i64) (local $x f64)",
    );
    for i in 0..locals {
        wat += &format!("(local $i{i} i64) (local $d{i} f64)");
    }
    for i in 0..locals {
        wat += &format!("(local.set $i{i} (i64.mul (local.get $n) (i64.const {})))", i + 1);
        wat += &format!("(local.set $d{i} (f64.convert_i64_s (i64.add (local.get $n) (i64.const {i}))))");
    }
    wat += "(block $h (result i64 f64)
              (try_table (catch $e $h) (call $t (i64.const 1000)))
              (unreachable))
            (local.set $x) (i64.add (i64.trunc_f64_s (f64.mul (local.get $x) (f64.const 2))))";
    wat = wat
        .replace("(i64.add (i64.trunc", "(i64.trunc")
        .replace("(f64.const 2))))", "(f64.const 2))) (i64.add)");
    for i in 0..locals {
        wat += &format!("(i64.add (local.get $i{i})) (i64.add (i64.trunc_f64_s (local.get $d{i})))");
    }
    wat += "))";
    let n = 7;
    let expected = 1000 + 1 + (0..locals).map(|i| n * (i + 1) + n + i).sum::<u64>();
    assert_eq!(both(&wat, n), Outcome::Returned(vec![expected.into()]));
}

#[test]
fn ten_million_exceptions_need_the_memory_of_a_few() {
    // Each is caught with its reference, so nothing but the search for references can free it.
    let wat = r#"(module (tag $e (param i32)) (func $t (param i32) (throw $e (local.get 0)))
        (func (export "f") (param $n i32) (result i32) (local $sum i32) (local $last exnref)
          (loop $more
            (block $h (result i32 exnref)
              (try_table (catch_ref $e $h) (call $t (local.get $n)))
              (unreachable))
            (local.set $last)
            (local.set $sum (i32.xor (local.get $sum)))
            (br_if $more (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))
          (local.get $sum)))"#;
    let expected = (1..=10_000_000u32).fold(0, |sum, n| sum ^ n);
    assert_eq!(both(wat, 10_000_000), Outcome::Returned(vec![expected.into()]));
}

#[test]
fn references_in_tables_globals_and_exceptions_keep_exceptions() {
    // The first exception is in a table, the second in a global, a third inside of the one in a local; then 100,000
    // others pass by, and the three still carry what they did.
    let wat = r#"(module (tag $e (param i32)) (tag $outer (param exnref))
        (table $t 4 exnref) (global $g (mut exnref) (ref.null exn))
        (func $make (param i32) (result exnref)
          (block $h (result i32 exnref) (try_table (catch_ref $e $h) (throw $e (local.get 0))) (unreachable))
          (local.set 0 (i32.const 0)) drop_first)
        (func $value (param exnref) (result i32)
          (block $h (result i32) (try_table (catch $e $h) (throw_ref (local.get 0))) (unreachable)))
        (func (export "f") (param $n i32) (result i32) (local $o exnref)
          (table.set $t (i32.const 2) (call $make (i32.const 1)))
          (global.set $g (call $make (i32.const 20)))
          (block $h (result exnref exnref)
            (try_table (catch_ref $outer $h) (throw $outer (call $make (i32.const 300))))
            (unreachable))
          (local.set $o) (drop)
          (loop $more
            (drop (call $make (i32.const 7)))
            (br_if $more (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))
          (call $value (table.get $t (i32.const 2)))
          (i32.add (call $value (global.get $g)))
          (block $h (result exnref)
            (try_table (catch $outer $h) (throw_ref (local.get $o)))
            (unreachable))
          (call $value)
          (i32.add)))"#;
    let wat = wat.replace("(local.set 0 (i32.const 0)) drop_first)", "(local.set $r) (drop) (local.get $r))");
    let wat = wat.replace(
        "(func $make (param i32) (result exnref)",
        "(func $make (param i32) (result exnref) (local $r exnref)",
    );
    assert_eq!(both(&wat, 100_000), Outcome::Returned(vec![321]));
}

#[test]
fn exceptions_that_are_all_referred_to_run_out() {
    let wat = r#"(module (tag $e) (table $t 200000 exnref)
        (func (export "f") (param $n i32)
          (loop $more
            (table.set $t (local.get $n)
              (block $h (result exnref) (try_table (catch_all_ref $h) (throw $e)) (unreachable)))
            (br_if $more (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))))"#;
    assert_eq!(both(wat, 199_999), Outcome::Trapped(Some(TrapKind::ExceptionMemory), 0));
    assert_eq!(both(wat, 50_000), Outcome::Returned(vec![50_000]));
}

#[test]
fn a_throw_passes_many_frames() {
    let wat = r#"(module (tag $e (param i32))
        (func $down (param i32) (result i32)
          (if (i32.eqz (local.get 0)) (then (throw $e (i32.const 42))))
          (i32.add (call $down (i32.sub (local.get 0) (i32.const 1))) (i32.const 1)))
        (func (export "f") (param i32) (result i32)
          (block $h (result i32) (try_table (catch $e $h) (return (call $down (local.get 0)))) (unreachable))))"#;
    assert_eq!(both(wat, 20_000), Outcome::Returned(vec![42]));
}

#[test]
fn a_null_reference_is_not_thrown() {
    let wat = r#"(module (func (export "f") (param i32) (throw_ref (ref.null exn))))"#;
    assert_eq!(both(wat, 0), Outcome::Trapped(Some(TrapKind::NullException), 0));
}
