//! Tests: the comparison sees what it is there for. A difference that was planted is reported.

use std::convert::Infallible;

use crate::differential::{Both, Compared, Failure};
use crate::generate;
use crate::mode::Mode;
use crate::peer::Engines;
use arbitrary::Unstructured;
use compiler::{Artifact, TargetCpu};
use object::elf::{FileHeader64, PF_X, ProgramHeader64};
use object::endian::LittleEndian;
use object::pod::{from_bytes, slice_from_bytes};
use wasm_encoder::Instruction;
use wasm_encoder::reencode::{Error, Reencode, utils};
use wasmparser::{Operator, Parser};

/// What a session cannot see.
const TABLE: &str = "a table's size";

/// What is planted: its name, what Wasmtime gets and what our compiler gets.
const PLANTED: [(&str, &str, &str); 15] = [
    (TABLE, "(drop (table.grow (ref.null func) (i32.const 1))) (i64.const 0)", "(i64.const 0)"),
    ("a result", "(i64.rotl (local.get 0) (local.get 1))", "(i64.rotr (local.get 0) (local.get 1))"),
    ("a result's sign", "(i64.extend8_s (local.get 0))", "(i64.and (local.get 0) (i64.const 255))"),
    (
        "a comparison",
        "(i64.extend_i32_u (i64.lt_s (local.get 0) (local.get 1)))",
        "(i64.extend_i32_u (i64.lt_u (local.get 0) (local.get 1)))",
    ),
    (
        "a float's rounding",
        "(i64.reinterpret_f64 (f64.nearest (f64.convert_i64_s (local.get 0))))",
        "(i64.reinterpret_f64 (f64.nearest (f64.convert_i64_u (local.get 0))))",
    ),
    (
        "lanes",
        "(i64x2.extract_lane 0 (i32x4.add (i64x2.splat (local.get 0)) (i64x2.splat (local.get 1))))",
        "(i64x2.extract_lane 0 (i64x2.add (i64x2.splat (local.get 0)) (i64x2.splat (local.get 1))))",
    ),
    ("a trap", "(unreachable)", "(i64.const 0)"),
    ("no trap", "(i64.const 0)", "(unreachable)"),
    ("a trap's kind", "(i64.div_u (local.get 0) (i64.const 0))", "(i64.load (i32.const -1))"),
    (
        "a global",
        "(global.set $g (i64.const 1)) (i64.const 0)",
        "(global.set $g (i64.const 2)) (i64.const 0)",
    ),
    (
        "a byte of memory",
        "(i64.store8 (i32.const 65535) (i64.const 1)) (i64.const 0)",
        "(i64.store8 (i32.const 65534) (i64.const 1)) (i64.const 0)",
    ),
    (
        "a memory's size",
        "(drop (memory.grow (i32.const 1))) (i64.const 0)",
        "(drop (memory.grow (i32.const 0))) (i64.const 0)",
    ),
    ("what a trap leaves", "(i64.store8 (i32.const 9) (i64.const 1)) (unreachable)", "(unreachable)"),
    (
        "an atomic update",
        "(i64.atomic.rmw.add (i32.const 8) (local.get 0))",
        "(i64.atomic.rmw.sub (i32.const 8) (local.get 0))",
    ),
    ("a reference", "(call_ref $one (ref.func $first))", "(call_ref $one (ref.func $second))"),
];

/// A module that runs the body, with many arguments.
fn module(body: &str) -> Vec<u8> {
    let names: String = (0..8).map(|name| format!("(export \"f{name}\")")).collect();
    let text = format!(
        "(module (memory (export \"m\") 1 2) (global $g (export \"g\") (mut i64) (i64.const 0))
           (table (export \"t\") 1 2 funcref) (type $one (func (result i64))) (elem declare func $first $second)
           (func $first (result i64) (i64.const 1)) (func $second (result i64) (i64.const 2))
           (func {names} (param i64 i64) (result i64) {body}))"
    );
    compiler::parse_text(text.as_bytes()).expect("the text is right")
}

fn engines() -> Engines {
    Engines::new().expect("Wasmtime can be set up")
}

fn both(engines: &Engines, theirs: &[u8], ours: &[u8], seed: u64) -> Both {
    Both::new(engines, theirs, ours, Mode::of(seed), seed).unwrap_or_else(|failure| panic!("{failure:?}"))
}

#[track_caller]
fn assert_reported(what: &str, result: &Result<Compared, Failure>) {
    assert!(matches!(result, Err(Failure::Differs(_))), "{what}: {result:?}");
}

#[test]
fn every_kind_of_difference_is_reported_in_every_mode() {
    let engines = engines();
    for (what, theirs, ours) in PLANTED {
        let (theirs, ours) = (module(theirs), module(ours));
        for seed in 0..32 {
            let result = both(&engines, &theirs, &theirs, seed).compare();
            assert!(matches!(result, Ok(Compared { calls: 8.., .. })), "{what}: {result:?}");
            assert_reported(what, &both(&engines, &theirs, &ours, seed).compare());
        }
    }
}

#[test]
fn more_fuel_than_the_peer_uses_is_reported() {
    let (engines, fuel) = (engines(), 4);
    assert!(Mode::of(fuel).fuel);
    let (plain, more) = (module("(i64.const 1)"), module("(drop (i64.const 0)) (i64.const 1)"));
    let result = both(&engines, &plain, &plain, fuel).compare();
    assert!(matches!(result, Ok(Compared { fuel: 8.., .. })), "{result:?}");
    assert_reported("fuel", &both(&engines, &plain, &more, fuel).compare());
}

/// The module is the same on both sides, and one bit of our machine code is not.
#[test]
fn a_miscompilation_is_reported() {
    let engines = engines();
    let wasm = module("(i64.rotl (local.get 0) (local.get 1))");
    for seed in (0..64).filter(|seed| Mode::of(*seed).target_cpu == TargetCpu::Baseline) {
        let both = both(&engines, &wasm, &wasm, seed);
        both.compare().unwrap_or_else(|failure| panic!("{failure:?}"));
        let artifact = rotating_the_other_way(both.artifact());
        assert_reported("machine code", &both.with_artifact(artifact).compare());
    }
}

/// Makes the code's only `rol` a `ror`.
fn rotating_the_other_way(artifact: &Artifact<Vec<u8>>) -> Artifact<Vec<u8>> {
    const LE: LittleEndian = LittleEndian;
    let mut file = artifact.bytes().to_vec();
    let (header, rest) = from_bytes::<FileHeader64<LittleEndian>>(&file).unwrap();
    let count = header.e_phnum.get(LE).into();
    let (segments, _) = slice_from_bytes::<ProgramHeader64<LittleEndian>>(rest, count).unwrap();
    let code = segments.iter().find(|segment| segment.p_flags.get(LE) & PF_X != 0).unwrap();
    let (at, bytes) = (code.p_offset.get(LE) as usize, code.p_filesz.get(LE) as usize);
    // A REX prefix for 64 bits, `d3`, and a register: `/0` is `rol`, `/1` is `ror`.
    let is_rol = |bytes: &[u8]| matches!(bytes, [0x48..=0x4f, 0xd3, 0xc0..=0xc7]);
    let found: Vec<usize> = (at..at + bytes - 2).filter(|i| is_rol(&file[*i..*i + 3])).collect();
    assert_eq!(found.len(), 1);
    file[found[0] + 2] |= 8;
    Artifact::parse(file).unwrap()
}

/// Some operators are others.
struct Confused {
    swapped: bool,
}

impl Reencode for Confused {
    type Error = Infallible;

    fn instruction<'a>(&mut self, operator: Operator<'a>) -> Result<Instruction<'a>, Error> {
        let other = match operator {
            Operator::I32Add => Instruction::I32Sub,
            Operator::I32Xor => Instruction::I32Or,
            Operator::I64Mul => Instruction::I64Add,
            Operator::I64ShrS => Instruction::I64ShrU,
            Operator::F64Sub => Instruction::F64Add,
            Operator::F32Min => Instruction::F32Max,
            Operator::I32Clz => Instruction::I32Ctz,
            Operator::I64LtS => Instruction::I64LtU,
            Operator::I16x8Add => Instruction::I8x16Add,
            other => return utils::instruction(self, other),
        };
        self.swapped = true;
        Ok(other)
    }
}

/// Many of a generated module's operators are never executed; of the others much can be seen.
#[test]
fn swapped_operators_of_generated_modules_are_reported() {
    let engines = engines();
    let (mut planted, mut reported) = (0, 0);
    for seed in 0..200 {
        let (random, mode) = (generate::bytes(seed, 16 << 10), Mode::of(seed));
        let canonical = !mode.nan_canonicalization;
        let Ok(wasm) = generate::terminating(&mut Unstructured::new(&random), canonical) else { continue };
        let mut confused = Confused { swapped: false };
        let mut module = wasm_encoder::Module::new();
        confused.parse_core_module(&mut module, Parser::new(0), &wasm).unwrap();
        if !confused.swapped {
            continue;
        }
        planted += 1;
        let result = Both::new(&engines, &wasm, &module.finish(), mode, seed).and_then(|both| both.compare());
        reported += usize::from(matches!(result, Err(Failure::Differs(_))));
    }
    println!("{reported} of {planted} reported");
    assert!(planted >= 100 && reported * 4 >= planted, "{reported} of {planted}");
}

#[cfg(feature = "confined")]
#[test]
fn differences_of_confined_instances_are_reported() {
    let (engines, confined) = (engines(), crate::confined::Confined::start().unwrap());
    for (what, theirs, ours) in PLANTED.into_iter().filter(|(what, ..)| *what != TABLE) {
        let (theirs, ours) = (module(theirs), module(ours));
        let result = both(&engines, &theirs, &theirs, 0).compare_confined(&confined);
        assert!(matches!(result, Ok(Compared { calls: 8.., .. })), "{what}: {result:?}");
        assert_reported(what, &both(&engines, &theirs, &ours, 0).compare_confined(&confined));
    }
}
