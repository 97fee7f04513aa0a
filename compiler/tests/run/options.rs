//! What the options of a compilation change in the behaviour of code, and what they must not change.

use compiler::{Artifact, CodeOptions, OptLevel, Options, TargetCpu, TrapKind};
use ipc::context::FUEL;

use super::loader::{self, Call, Outcome};
use super::own::{build, call, entry, result};

const LEVELS: [OptLevel; 3] = [OptLevel::None, OptLevel::Speed, OptLevel::SpeedAndSize];

/// Every kind of control flow. The costs are in the comments: one per operator, none for structure, one per call.
const COUNTED: &str = r#"(module
    (memory 1)
    (type $leaf (func))
    (table 1 1 funcref) (elem (i32.const 0) $leaf)
    (func $leaf (export "leaf"))                                                        ;; 1
    (func (export "sum") (param i32) (result i32) (local i32)                           ;; 1
        (loop $again
            (local.set 1 (i32.add (local.get 1) (local.get 0)))                         ;; 4 n
            (call $leaf)                                                                ;; 2 n
            (br_if $again (local.tee 0 (i32.sub (local.get 0) (i32.const 1)))))         ;; 5 n
        (local.get 1))                                                                  ;; 1
    (func (export "choose") (param i32)                                                 ;; 1
        (if (i32.eqz (local.get 0))                                                     ;; 3
            (then (call_indirect (type $leaf) (i32.const 0)) (nop))                     ;; 3
            (else (drop (i32.const 1)) (drop (i32.const 2))))                           ;; 2
        (block (block (block
            (br_table 0 1 2 (local.get 0)))                                             ;; 2
            (drop (i32.const 0))                                                        ;; 1 for 0
            (return))
            (drop (i32.const 0)) (drop (i32.const 0)))                                  ;; 2 for 1
        (drop (memory.grow (i32.const 0))))                                             ;; 2 for 1 and more
    (func (export "unreachable") (drop (i32.const 0)) (unreachable))                    ;; 2
    ;; The piece that the trap ends is not counted.
    (func (export "outside") (call $leaf) (drop (i32.load (i32.const -1))))             ;; 3
    (func $forever (export "forever") (loop (br 0)))
    (func $deep (export "deep") (call $deep)))"#;

/// What a call leaves of the fuel, and how it ended. `fuel` is what there is at first.
fn burn(artifact: &Artifact<Vec<u8>>, fuel: i64, name: &str, arguments: &[u128]) -> (Outcome, i64) {
    let artifact = loader::with_fuel(artifact, fuel);
    let calls = [Call::Function(entry(&artifact, name), arguments), Call::Read(FUEL)];
    let mut outcomes = loader::run(&artifact, &calls);
    let left = result(&outcomes.remove(1)) as i64;
    (outcomes.remove(0), left)
}

#[test]
fn fuel_is_the_same_at_every_level_and_on_every_target() {
    for opt_level in LEVELS {
        for target_cpu in [TargetCpu::Baseline, TargetCpu::Native] {
            let (_, artifact) =
                build(COUNTED, &Options { fuel: true, opt_level, target_cpu, ..Options::default() });
            let used = |name, arguments: &[u128]| 1_000_000 - burn(&artifact, 1_000_000, name, arguments).1;
            for (name, arguments, expected) in [
                ("leaf", &[][..], 1),
                ("sum", &[1], 1 + 11 + 1),
                ("sum", &[1000], 1 + 11_000 + 1),
                ("choose", &[0], 1 + 3 + 3 + 2 + 1),
                ("choose", &[1], 1 + 3 + 2 + 2 + 2 + 2),
                ("choose", &[7], 1 + 3 + 2 + 2 + 2),
                ("unreachable", &[], 2),
                ("outside", &[], 3),
            ] {
                assert_eq!(used(name, arguments), expected, "{name} {arguments:?} {opt_level:?}");
            }
        }
    }
}

/// What leaves a function in other ways than by its end, and what comes back in others than by a return.
const ELSEWHERE: &str = r#"(module
    (tag $t (param i32))
    (func $throw (param i32) (throw $t (local.get 0)))                                  ;; 1 + 2
    (func $tail (param i32) (result i32)                                                ;; 1
        (return_call $id (local.get 0)))                                                ;; 2
    (func $id (param i32) (result i32) (local.get 0))                                   ;; 1 + 1
    (func (export "catch") (result i32)                                                 ;; 1
        (drop (block $caught (result i32)
            (try_table (catch $t $caught)                                               ;; 1
                (call $throw (i32.const 5)))                                            ;; 2, and 3 there
            (i32.const 6)))
        (call $id (i32.const 7)))                                                       ;; 2, and 2 there
    (func (export "tail") (result i32) (call $tail (i32.const 4)))                      ;; 1 + 2, 3 and 2 there
    (func $loop (export "loop") (param i32) (result i32)                                ;; 1
        (if (result i32) (i32.eqz (local.get 0))                                        ;; 3
            (then (i32.const 9))                                                        ;; 1
            (else (return_call $loop (i32.sub (local.get 0) (i32.const 1)))))))"#;

#[test]
fn fuel_counts_exceptions_and_tail_calls_too() {
    for opt_level in LEVELS {
        let (_, artifact) = build(ELSEWHERE, &Options { fuel: true, opt_level, ..Options::default() });
        for (name, arguments, value, cost) in [
            ("catch", &[][..], 7, 1 + 1 + 2 + 3 + 2 + 2),
            ("tail", &[], 4, 3 + 3 + 2),
            ("loop", &[10], 9, 10 * (1 + 3 + 4) + 1 + 3 + 1),
        ] {
            let (outcome, left) = burn(&artifact, 1000, name, arguments);
            assert_eq!((result(&outcome), 1000 - left), (value, cost), "{name} {opt_level:?}");
        }
        let (outcome, _) = burn(&artifact, 1000, "loop", &[1_000_000]);
        assert!(matches!(outcome, Outcome::Trapped(Some(TrapKind::OutOfFuel), _)), "{outcome:?}");
    }
}

#[test]
fn a_guest_that_used_its_fuel_up_traps_and_one_that_did_not_goes_on() {
    for opt_level in LEVELS {
        let (_, artifact) = build(COUNTED, &Options { fuel: true, opt_level, ..Options::default() });
        let trapped = |outcome: &Outcome| matches!(outcome, Outcome::Trapped(Some(TrapKind::OutOfFuel), _));
        assert_eq!(burn(&artifact, 1102, "sum", &[100]), (Outcome::Returned(padded(5050)), 0));
        assert!(trapped(&burn(&artifact, 1100 - 11, "sum", &[100]).0));
        assert!(trapped(&burn(&artifact, 0, "leaf", &[]).0));
        for endless in ["forever", "deep"] {
            let (outcome, left) = burn(&artifact, 1000, endless, &[]);
            assert!(trapped(&outcome), "{endless}: {outcome:?}");
            assert!((-2..0).contains(&left), "{endless}: {left} left");
        }
    }
}

/// The loader gives all slots.
fn padded(first: u128) -> Vec<u128> {
    let mut values = vec![0; 64];
    values[0] = first;
    values
}

#[test]
fn without_the_option_nothing_is_counted() {
    let (_, artifact) = build(COUNTED, &Options::default());
    assert_eq!(burn(&artifact, 5, "sum", &[100]), (Outcome::Returned(padded(5050)), 5));
}

#[test]
fn nans_are_canonical_with_the_option() {
    // The sum of a NaN with a payload and a number keeps the payload, unless it is made canonical.
    let wat = r#"(module
        (func (export "f") (param f64) (result f64) (f64.add (local.get 0) (f64.const 1)))
        (func (export "g") (param f32) (result f32) (f32.mul (local.get 0) (f32.const 3))))"#;
    let bits = |nan_canonicalization, name, bits| {
        let (_, artifact) = build(wat, &Options { nan_canonicalization, ..Options::default() });
        result(&call(&artifact, name, &[bits]))
    };
    assert_eq!(bits(false, "f", 0xfff8_dead_beef_0001), 0xfff8_dead_beef_0001);
    assert_eq!(bits(true, "f", 0xfff8_dead_beef_0001), 0x7ff8_0000_0000_0000);
    assert_eq!(bits(true, "f", 2f64.to_bits()), 3f64.to_bits());
    assert_eq!(bits(false, "g", 0xffc0_1234), 0xffc0_1234);
    assert_eq!(bits(true, "g", 0xffc0_1234), 0x7fc0_0000);
}

#[test]
fn guarded_tables_behave_like_others() {
    let wat = r#"(module
        (type $t (func (result i32)))
        (table $fixed 3 3 funcref) (table $grows 2 9 funcref)
        (elem (table $fixed) (i32.const 0) func $one) (elem (table $grows) (i32.const 1) func $one)
        (func $one (result i32) (i32.const 1))
        (func (export "grow") (drop (table.grow $grows (ref.null func) (i32.const 1))))
        (func (export "fixed") (param i32) (result i32) (call_indirect $fixed (type $t) (local.get 0)))
        (func (export "grows") (param i32) (result i32) (call_indirect $grows (type $t) (local.get 0)))
        (func (export "get") (param i32) (result i32) (ref.is_null (table.get $fixed (local.get 0))))
        (func (export "set") (param i32) (table.set $grows (local.get 0) (ref.null func))))"#;
    let run = |options: &Options| {
        let (_, artifact) = build(wat, options);
        let mut outcomes = Vec::new();
        for name in ["fixed", "grows", "get", "set"] {
            for index in [0, 1, 2, 3, 0xffff_ffff] {
                outcomes.push(match call(&artifact, name, &[index]) {
                    Outcome::Trapped(kind, _) => Err(kind),
                    other => Ok(other),
                });
            }
        }
        outcomes
    };
    for opt_level in LEVELS {
        let with = run(&Options { spectre_guards: true, opt_level, ..Options::default() });
        assert_eq!(with, run(&Options { opt_level, ..Options::default() }));
        assert_eq!(with[0], Ok(Outcome::Returned(padded(1))));
        assert_eq!(with[3], Err(Some(TrapKind::TableOutOfBounds)));
    }
}

#[test]
fn an_artifact_records_how_it_was_compiled() {
    let options = Options {
        opt_level: OptLevel::SpeedAndSize,
        target_cpu: TargetCpu::Baseline,
        fuel: true,
        nan_canonicalization: true,
        spectre_guards: true,
        debug_info: true,
        ..Options::default()
    };
    let (_, artifact) = build("(module)", &options);
    assert_eq!(artifact.metadata().options, options.code());
    let (_, artifact) = build("(module)", &Options::default());
    assert_eq!(artifact.metadata().options, CodeOptions::default());
}
