//! Several memories, and memories and tables with 64-bit indices.

use std::fmt::Write;

use compiler::{Caps, OptLevel, Options, TrapKind};
use ipc::layout::{MEMORIES_MAX, MEMORY_MAX, WASM_PAGE};

use super::loader::{self, Call, Outcome};
use super::own::{build, call, entry, result};

fn traps(outcome: &Outcome, kind: TrapKind) -> bool {
    matches!(outcome, Outcome::Trapped(Some(found), _) if *found == kind)
}

#[test]
fn each_memory_has_its_own_bytes_size_and_bounds() {
    let wat = r#"(module
        (memory $a 1 2) (memory $b 2) (memory $c 0 4)
        (data (memory $a) (i32.const 8) "aaaa") (data (memory $b) (i32.const 8) "bbbb") (data $p "pppp")
        (func (export "load_a") (param i32) (result i32) (i32.load $a offset=4 (local.get 0)))
        (func (export "load_b") (param i32) (result i32) (i32.load $b offset=4 (local.get 0)))
        (func (export "load_c") (param i32) (result i32) (i32.load $c offset=4 (local.get 0)))
        (func (export "far_b") (param i32) (result i32) (i32.load8_u $b offset=0xfffffff0 (local.get 0)))
        (func (export "sizes") (result i32 i32 i32) (memory.size $a) (memory.size $b) (memory.size $c))
        (func (export "grow_c") (param i32) (result i32) (memory.grow $c (local.get 0)))
        (func (export "copy_b_to_a") (param i32 i32 i32) (result i32)
            (memory.copy $a $b (local.get 0) (local.get 1) (local.get 2)) (i32.load $a (local.get 0)))
        (func (export "copy_four_a_to_b") (param i32 i32) (result i32)
            (memory.copy $b $a (local.get 0) (local.get 1) (i32.const 4)) (i32.load $b (local.get 0)))
        (func (export "fill_b") (param i32 i32) (result i32)
            (memory.fill $b (local.get 0) (i32.const 7) (local.get 1)) (i32.load $a (i32.const 8)))
        (func (export "init_b") (param i32) (result i32)
            (memory.init $b $p (local.get 0) (i32.const 0) (i32.const 4)) (i32.load $b (local.get 0)))
        (func (export "use_c") (result i32)
            (drop (memory.grow $c (i32.const 1))) (i32.store $c (i32.const 0) (i32.const 5))
            (i32.add (i32.load $c (i32.const 0)) (memory.size $c))))"#;
    for opt_level in [OptLevel::None, OptLevel::Speed] {
        let (_, artifact) = build(wat, &Options { opt_level, ..Options::default() });
        let (a, b, p) = (0x6161_6161, 0x6262_6262, 0x7070_7070);
        for (name, arguments, expected) in [
            ("load_a", &[4][..], a),
            ("load_b", &[4], b),
            ("load_b", &[0x1_fff8], 0),
            ("grow_c", &[4], 0),
            ("grow_c", &[5], 0xffff_ffff),
            ("copy_b_to_a", &[0xfffc, 8, 4], b),
            ("copy_four_a_to_b", &[0x1_fffc, 8], a),
            ("fill_b", &[0, 0x2_0000], a),
            ("init_b", &[0x1_fffc], p),
            ("use_c", &[], 6),
        ] {
            assert_eq!(result(&call(&artifact, name, arguments)), expected, "{name} {arguments:x?}");
        }
        for (name, arguments) in [
            ("load_a", &[0xfff9][..]),
            ("load_b", &[0x1_fff9]),
            ("load_b", &[0xffff_ffff]),
            ("far_b", &[0xffff_ffff]),
            ("load_c", &[0]),
            ("copy_b_to_a", &[0xfffd, 8, 4]),
            ("copy_b_to_a", &[0, 0x1_fffd, 4]),
            ("copy_four_a_to_b", &[0, 0xfffd]),
            ("fill_b", &[1, 0x2_0000]),
            ("init_b", &[0x1_fffd]),
        ] {
            let outcome = call(&artifact, name, arguments);
            assert!(traps(&outcome, TrapKind::MemoryOutOfBounds), "{name} {arguments:x?}: {outcome:x?}");
        }
        match call(&artifact, "sizes", &[]) {
            Outcome::Returned(values) => assert_eq!(values[..3], [1, 2, 0]),
            other => panic!("{other:x?}"),
        }
    }
}

#[test]
fn as_many_memories_as_there_can_be_all_have_their_contents() {
    let mut wat = String::from("(module (func (export \"sum\") (result i32) (i32.const 0)");
    for i in 0..MEMORIES_MAX {
        write!(wat, "(i32.add (i32.load8_u {i} (i32.const 0)) (i32.load8_u {i} (i32.const 0xfffff)))")
            .unwrap();
        wat.push_str("(i32.add)");
    }
    wat.push(')');
    for i in 0..MEMORIES_MAX {
        write!(wat, r#"(memory 16) (data (memory {i}) (i32.const 0) "\01") (data (memory {i}) (i32.const 0xfffff) "\02")"#)
            .unwrap();
    }
    wat.push(')');
    let (_, artifact) = build(&wat, &Options::default());
    assert_eq!(result(&call(&artifact, "sum", &[])), 3 * MEMORIES_MAX);
}

/// Accesses of a memory with 64-bit indices whose declaration is `limits`.
fn wide(limits: &str) -> String {
    format!(
        r#"(module
        (memory $m i64 {limits}) (memory $n 1)
        (data (i64.const 0xfff8) "01234567") (data $p "pppp")
        (func (export "load") (param i64) (result i64) (i64.load (local.get 0)))
        (func (export "load8") (param i64) (result i32) (i32.load8_u (local.get 0)))
        (func (export "near") (param i64) (result i32) (i32.load8_u offset=0xffff (local.get 0)))
        (func (export "far") (param i64) (result i32) (i32.load8_u offset=0x10000 (local.get 0)))
        (func (export "farther") (param i64) (result i32) (i32.load8_u offset=0x100000000 (local.get 0)))
        (func (export "farthest") (param i64) (result i64) (i64.load offset=0xfffffffffffffff0 (local.get 0)))
        (func (export "store") (param i64) (i64.store offset=8 (local.get 0) (i64.const -1)))
        (func (export "fill") (param i64 i64) (memory.fill (local.get 0) (i32.const 1) (local.get 1)))
        (func (export "copy") (param i64 i64 i64) (memory.copy (local.get 0) (local.get 1) (local.get 2)))
        (func (export "to_n") (param i32 i64 i32) (memory.copy $n $m (local.get 0) (local.get 1) (local.get 2)))
        (func (export "from_n") (param i64 i32 i32) (memory.copy $m $n (local.get 0) (local.get 1) (local.get 2)))
        (func (export "init") (param i64 i32 i32) (memory.init $p (local.get 0) (local.get 1) (local.get 2)))
        (func (export "size") (result i64) (memory.size))
        (func (export "grow") (param i64) (result i64) (memory.grow (local.get 0)))
        (func (export "round") (result i64)
            (memory.copy $n $m (i32.const 1) (i64.const 0xfff8) (i32.const 8))
            (memory.copy $m $n (i64.const 0) (i32.const 1) (i32.const 8))
            (i64.load (i64.const 0)))
        (func (export "grown") (param i64 i64) (result i64)
            (drop (memory.grow (local.get 0)))
            (i64.store offset=16 (local.get 1) (i64.const 77))
            (i64.load offset=0x10010 (i64.sub (local.get 1) (i64.const 0x10000)))))"#
    )
}

#[test]
fn a_64_bit_index_is_in_bounds_or_a_trap() {
    let digits = u64::from_le_bytes(*b"01234567");
    let minus = |n: u64| n.wrapping_neg();
    for limits in ["1 1", "1 2", "1", "1 0x1000000000000"] {
        for opt_level in [OptLevel::None, OptLevel::Speed] {
            let (_, artifact) = build(&wide(limits), &Options { opt_level, ..Options::default() });
            let cases: &[(&str, &[u64], Option<u64>)] = &[
                ("load", &[0xfff8], Some(digits)),
                ("load", &[0xfff9], None),
                ("load", &[1 << 31], None),
                ("load", &[(1 << 31) - 4], None),
                ("load", &[1 << 32], None),
                ("load", &[(1 << 32) + 0xfff8], None),
                ("load", &[MEMORY_MAX - 1], None),
                ("load", &[MEMORY_MAX], None),
                ("load", &[MEMORY_MAX + 1], None),
                ("load", &[1 << 63], None),
                ("load", &[minus(1)], None),
                ("load", &[minus(8)], None),
                // What would reach the memory if the address wrapped around.
                ("load", &[minus(0x4000_0000) + 0xfff8], None),
                ("load8", &[0xffff], Some(b'7'.into())),
                ("load8", &[0x1_0000], None),
                ("near", &[0], Some(b'7'.into())),
                ("near", &[1], None),
                ("near", &[MEMORY_MAX], None),
                ("near", &[minus(0xffff)], None),
                ("far", &[0], None),
                ("far", &[minus(0x1_0000)], None),
                ("far", &[minus(1)], None),
                ("farther", &[0], None),
                ("farther", &[minus(1 << 32)], None),
                ("farthest", &[0], None),
                ("farthest", &[16], None),
                ("farthest", &[0x1_0000], None),
                ("store", &[0xfff1], None),
                ("store", &[minus(8)], None),
                ("fill", &[0xffff, 1], Some(0)),
                ("fill", &[0x1_0000, 0], Some(0)),
                ("fill", &[0x1_0001, 0], None),
                ("fill", &[1, minus(1)], None),
                ("fill", &[minus(1), 1], None),
                ("fill", &[minus(1), 2], None),
                ("copy", &[0, 1, 0xffff], Some(0)),
                ("copy", &[0, 2, 0xffff], None),
                ("copy", &[2, 0, 0xffff], None),
                ("copy", &[1, 0, minus(1)], None),
                ("copy", &[0, minus(1), 2], None),
                ("to_n", &[0, 0, 0x1_0000], Some(0)),
                ("to_n", &[1, 0, 0x1_0000], None),
                ("to_n", &[0, 1, 0x1_0000], None),
                ("to_n", &[0, minus(1), 2], None),
                ("to_n", &[0, 1 << 32, 0], None),
                ("from_n", &[0, 0, 0x1_0000], Some(0)),
                ("from_n", &[minus(1), 0, 2], None),
                ("init", &[0xfffc, 0, 4], Some(0)),
                ("init", &[0xfffd, 0, 4], None),
                ("init", &[minus(1), 0, 4], None),
                ("init", &[0, 1, 4], None),
                ("size", &[], Some(1)),
                ("grow", &[0], Some(1)),
                ("grow", &[minus(1)], Some(minus(1))),
                ("grow", &[1 << 48], Some(minus(1))),
                ("round", &[], Some(digits)),
            ];
            for (name, arguments, expected) in cases {
                // Of what returns nothing only that it does return.
                let outcome = call(&artifact, name, arguments);
                let right = match (&outcome, expected) {
                    (Outcome::Returned(_), Some(0)) => true,
                    (Outcome::Returned(values), Some(expected)) => values[0] == u128::from(*expected),
                    (_, None) => traps(&outcome, TrapKind::MemoryOutOfBounds),
                    _ => false,
                };
                assert!(right, "{limits} {opt_level:?} {name} {arguments:x?}: {outcome:x?}");
            }
        }
    }
}

#[test]
fn a_64_bit_memory_grows_beyond_4_gib_up_to_its_room() {
    let (_, artifact) = build(&wide("1"), &Options::default());
    let pages = MEMORY_MAX / WASM_PAGE;
    assert_eq!(artifact.metadata().memories[0].max_pages, pages);
    assert!(artifact.metadata().memories[0].memory64 && !artifact.metadata().memories[1].memory64);
    let last = MEMORY_MAX - 24;
    assert_eq!(result(&call(&artifact, "grown", &[pages - 1, last])), 77);
    assert_eq!(result(&call(&artifact, "grown", &[0x1_2000, (1 << 32) + 5])), 77);
    assert!(traps(&call(&artifact, "grown", &[pages - 1, last + 1]), TrapKind::MemoryOutOfBounds));
    assert!(traps(&call(&artifact, "grown", &[pages - 1, MEMORY_MAX - 8]), TrapKind::MemoryOutOfBounds));
    assert!(traps(&call(&artifact, "grown", &[0x1_2000, 0x1_2001 * WASM_PAGE]), TrapKind::MemoryOutOfBounds));
    let grow = entry(&artifact, "grow");
    let outcomes = loader::run(
        &artifact,
        &[
            Call::Function(grow, &[pages.into()]),
            Call::Function(grow, &[(pages - 1).into()]),
            Call::Function(grow, &[1]),
            Call::Function(grow, &[0]),
        ],
    );
    let found: Vec<u64> = outcomes.iter().map(result).collect();
    assert_eq!(found, [u64::MAX, 1, u64::MAX, pages]);
}

#[test]
fn data_reaches_a_64_bit_memory_beyond_4_gib() {
    let wat = r#"(module (memory i64 0x10010)
        (data (i64.add (i64.const 0x100000000) (i64.const 0xffff8)) "01234567")
        (func (export "f") (result i64) (i64.load offset=0x1000ffff8 (i64.const 0)))
        (func (export "g") (param i64) (result i32) (i32.load8_u offset=1 (local.get 0))))"#;
    let caps = Caps { memory_pages: 1 << 17, ..Caps::default() };
    let (_, artifact) = build(wat, &Options { caps, ..Options::default() });
    assert_eq!(result(&call(&artifact, "f", &[])), u64::from_le_bytes(*b"01234567"));
    assert_eq!(result(&call(&artifact, "g", &[0x1_000f_fffe])), b'7'.into());
    assert!(traps(&call(&artifact, "g", &[0x1_000f_ffff]), TrapKind::MemoryOutOfBounds));
    for (offset, traps) in [("0x1000ffff9", true), ("-1", true), ("0x1000ffff8", false)] {
        let wat = format!(r#"(module (memory i64 0x10010) (data (i64.const {offset}) "01234567"))"#);
        let (_, artifact) = build(&wat, &Options { caps, ..Options::default() });
        let trap = traps.then_some(TrapKind::MemoryOutOfBounds);
        assert_eq!(artifact.metadata().start_trap, trap, "{offset}");
    }
}

#[test]
fn a_table_with_64_bit_indices_keeps_its_bounds() {
    let minus = |n: u64| n.wrapping_neg();
    for limits in ["3 3", "3 10", "3"] {
        let wat = format!(
            r#"(module
            (type $t (func (result i32)))
            (table $t i64 {limits} funcref) (table $u 4 funcref)
            (elem (table $t) (i64.const 1) func $one) (elem $p func $one $two)
            (func $one (result i32) (i32.const 1)) (func $two (result i32) (i32.const 2))
            (func (export "call") (param i64) (result i32) (call_indirect $t (type $t) (local.get 0)))
            (func (export "null") (param i64) (result i32) (ref.is_null (table.get $t (local.get 0))))
            (func (export "set") (param i64) (result i32)
                (table.set $t (local.get 0) (ref.func $two)) (call_indirect $t (type $t) (local.get 0)))
            (func (export "size") (result i64) (table.size $t))
            (func (export "grow") (param i64) (result i64) (table.grow $t (ref.func $two) (local.get 0)))
            (func (export "fill") (param i64 i64) (table.fill $t (local.get 0) (ref.func $two) (local.get 1)))
            (func (export "init") (param i64 i32 i32)
                (table.init $t $p (local.get 0) (local.get 1) (local.get 2)))
            (func (export "to_u") (param i32 i64 i32) (table.copy $u $t (local.get 0) (local.get 1) (local.get 2)))
            (func (export "from_u") (param i64 i32 i32) (table.copy $t $u (local.get 0) (local.get 1) (local.get 2)))
            (func (export "copy") (param i64 i64 i64)
                (table.copy $t $t (local.get 0) (local.get 1) (local.get 2))))"#
        );
        let (_, artifact) = build(&wat, &Options::default());
        assert!(artifact.metadata().tables[0].table64 && !artifact.metadata().tables[1].table64);
        for (name, arguments, expected) in [
            ("call", &[1][..], Some(1)),
            ("call", &[3], None),
            ("call", &[1 << 32], None),
            ("call", &[(1 << 32) + 1], None),
            ("call", &[minus(1)], None),
            // What would be entry 1 if the address wrapped around.
            ("call", &[(1 << 60) + 1], None),
            ("null", &[0], Some(1)),
            ("null", &[minus(15)], None),
            ("set", &[2], Some(2)),
            ("set", &[(1 << 60) + 2], None),
            ("size", &[], Some(3)),
            ("grow", &[0], Some(3)),
            ("grow", &[minus(1)], Some(minus(1))),
            ("grow", &[1 << 60], Some(minus(1))),
            ("fill", &[0, 3], Some(0)),
            ("fill", &[1, 3], None),
            ("fill", &[1, minus(1)], None),
            ("fill", &[minus(1), 2], None),
            ("init", &[1, 0, 2], Some(0)),
            ("init", &[2, 0, 2], None),
            ("init", &[minus(1), 0, 2], None),
            ("to_u", &[0, 1, 2], Some(0)),
            ("to_u", &[0, 2, 2], None),
            ("to_u", &[0, minus(1), 2], None),
            ("from_u", &[minus(1), 0, 2], None),
            ("from_u", &[0, 2, 3], None),
            ("copy", &[0, 1, 2], Some(0)),
            ("copy", &[1, 0, minus(1)], None),
            ("copy", &[minus(1), 0, 2], None),
        ] {
            let outcome = call(&artifact, name, arguments);
            let right = match (&outcome, expected) {
                (Outcome::Returned(_), Some(0)) => true,
                (Outcome::Returned(values), Some(expected)) => values[0] == u128::from(expected),
                (_, None) => traps(&outcome, TrapKind::TableOutOfBounds),
                _ => false,
            };
            assert!(right, "{limits} {name} {arguments:x?}: {outcome:x?}");
        }
    }
}
