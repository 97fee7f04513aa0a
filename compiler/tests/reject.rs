//! Modules that are not compiled: the error says what and where, and nothing panics.

use compiler::{Cap, Caps, Error, Options, Raise};

fn error(wat: &str) -> Error {
    let wasm = compiler::parse_text(wat.as_bytes()).unwrap();
    compiler::compile(&wasm, &Options::default()).expect_err(wat)
}

#[test]
fn features_that_are_not_supported_are_named_with_their_offset() {
    let cases = [
        ("shared memory", "(module (memory 1 1 shared))"),
        ("legacy exception handling", "(module (func try catch_all end))"),
        ("garbage collection", "(module (type (struct)))"),
        ("garbage collection", "(module (type (array i8)))"),
        ("garbage collection", "(module (func (drop (ref.i31 (i32.const 0)))))"),
        ("custom page sizes", "(module (memory 1 (pagesize 1)))"),
        ("stack switching", "(module (type $f (func)) (type $c (cont $f)))"),
    ];
    for (feature, wat) in cases {
        match error(wat) {
            Error::UnsupportedFeature { feature: found, offset, .. } => {
                assert!(found.starts_with(feature), "{wat}: {found} instead of {feature}");
                assert!(offset >= 8, "{wat}: {offset}");
            }
            other => panic!("{wat}: {other}"),
        }
    }
    let text = error("(module (func (drop (ref.i31 (i32.const 0)))))").to_string();
    assert!(text.contains("garbage collection") && text.contains("at offset 0x1"), "{text}");
    let component = compiler::parse_text(b"(component)").unwrap();
    let found = compiler::compile(&component, &Options::default()).unwrap_err();
    assert!(matches!(found, Error::Component), "{found}");
}

#[test]
fn a_feature_is_rejected_even_in_code_that_is_never_reached() {
    let found = error("(module (func (result i32) unreachable (drop (ref.i31 (i32.const 0)))))");
    assert!(matches!(found, Error::UnsupportedFeature { .. }), "{found}");
}

#[test]
fn the_first_of_several_errors_is_reported_on_any_number_of_threads() {
    let bad: String = (0..200)
        .map(|i| {
            if i % 50 == 49 {
                "(func (result i32) (drop (ref.i31 (i32.const 0))) (i32.const 1))"
            } else {
                "(func (result i32) i32.const 1)"
            }
        })
        .collect();
    let wasm = compiler::parse_text(format!("(module {bad})").as_bytes()).unwrap();
    let text = |threads| {
        compiler::compile(&wasm, &Options { threads, ..Options::default() }).unwrap_err().to_string()
    };
    let first = text(1);
    for threads in [2, 3, 8] {
        assert_eq!(first, text(threads));
    }
}

#[test]
fn what_is_not_supported_is_refused_before_code_is_generated() {
    // Generating code for the first function meets a cap; the second one is not supported.
    let wasm =
        compiler::parse_text(b"(module (func (drop (i32.const 1))) (func (drop (ref.i31 (i32.const 0)))))")
            .unwrap();
    let caps = Caps { function_values: 0, code_bytes: 0, ..Caps::default() };
    for threads in [1, 2] {
        let found = compiler::compile(&wasm, &Options { threads, caps, ..Options::default() }).unwrap_err();
        assert!(matches!(found, Error::UnsupportedFeature { .. }), "{found}");
    }
}

#[test]
fn code_beyond_its_cap_stops_code_generation() {
    // The last function would meet another cap, if it were translated.
    let many = "(func (result i32) i32.const 1)".repeat(100);
    let adds = "(drop (i32.add (local.get 0) (local.get 0)))".repeat(100);
    let text = format!("(module {many} (func (param i32) {adds}))");
    let wasm = compiler::parse_text(text.as_bytes()).unwrap();
    let caps = Caps { code_bytes: 64, function_values: 50, ..Caps::default() };
    let found = compiler::compile(&wasm, &Options { threads: 1, caps, ..Options::default() }).unwrap_err();
    assert!(matches!(found, Error::Cap { what: "bytes of machine code", found: 65, cap: 64, .. }), "{found}");
}

#[test]
fn imports_are_checked_by_name_and_type() {
    let found = error(r#"(module (import "env" "f" (func)))"#);
    assert_eq!(found.to_string(), "unknown import `env` `f`: no host function has this name");
    let found =
        error(r#"(module (import "wasi_snapshot_preview1" "proc_exit" (func (param i64) (result i32))))"#);
    assert_eq!(
        found.to_string(),
        "import `wasi_snapshot_preview1` `proc_exit` has type (i64) -> (i32), but the host function has type (i32) -> ()"
    );
    for (kind, import) in
        [("memory", "(memory 1)"), ("table", "(table 1 funcref)"), ("global", "(global i32)")]
    {
        let found = error(&format!(r#"(module (import "env" "x" {import}))"#)).to_string();
        assert_eq!(found, format!("import `env` `x` is a {kind}; only functions can be imported"));
    }
}

#[test]
fn memories_and_tables_have_room_for_so_much() {
    // Room in the address space, which no cap of the caller's changes. What tables have of it depends on the rest.
    let caps = Caps { memory_pages: u64::MAX, table_entries: u64::MAX, ..Caps::default() };
    let tables = Cap::TableEntries.highest();
    let with = |wat: &str| {
        let wasm = compiler::parse_text(wat.as_bytes()).unwrap();
        compiler::compile(&wasm, &Options { caps, ..Options::default() }).map(drop)
    };
    with("(module (memory i64 131072))").unwrap();
    with("(module (memory i64 0 0x1000000000000))").unwrap();
    let memories = "(memory 0)".repeat(65);
    for (wat, what, found) in [
        ("(module (memory i64 131073))", "initial pages of one memory", 131_073),
        ("(module (memory i64 0x1000000000000))", "initial pages of one memory", 1 << 48),
        (&format!("(module {memories})")[..], "memories", 65),
        (&format!("(module (table i64 {tables} funcref))"), "bytes of context and tables", 0),
        ("(module (table i64 0x1000000000 funcref))", "initial table entries", 1 << 36),
        ("(module (table i64 0xffffffffffffffff funcref))", "initial table entries", u64::MAX),
    ] {
        match with(wat) {
            Err(Error::Cap { what: named, found: counted, raise, .. }) => {
                assert_eq!(named, what, "{wat}");
                assert!(!matches!(raise, Raise::Key(_)), "{wat}: {raise}");
                assert!(found == 0 || counted == found, "{wat}: {counted}");
            }
            other => panic!("{wat}: {other:?}"),
        }
    }
    let found = error("(module (memory i64 65537))").to_string();
    assert!(found.contains("65537 initial memory pages"), "{found}");
    let found = error("(module (table i64 10000001 funcref))").to_string();
    assert!(found.contains("10000001 initial table entries"), "{found}");
}

#[test]
fn what_is_not_a_module_says_so() {
    let compile = |bytes: &[u8]| compiler::compile(bytes, &Options::default()).unwrap_err().to_string();
    assert!(compile(b"").starts_with("not a WebAssembly module"));
    assert!(compile(b"\x7fELF").starts_with("not a WebAssembly module"));
    assert!(compile(b"\0asm").starts_with("invalid WebAssembly module"));
    let text = compiler::parse_text(b"(module\n  (func i32.konst))").unwrap_err().to_string();
    assert!(text.contains(": 2:9: ") && !text.contains(['\n', '|']), "{text}");
}

/// A module with something of everything.
fn rich_module() -> Vec<u8> {
    compiler::parse_text(
        br#"(module $m
            (import "wasi_snapshot_preview1" "fd_write" (func $w (param i32 i32 i32 i32) (result i32)))
            (type $t (func (param i32 i64) (result i64 i32)))
            (memory (export "memory") 1 3) (table $f 5 funcref) (table $e 2 externref)
            (global $g (mut i32) (i32.const 3)) (global f64 (f64.const 1.5)) (global funcref (ref.func $a))
            (elem (table $f) (i32.const 1) func $a $b) (elem $p func $a) (elem declare func $b)
            (data (i32.const 4) "hello") (data $d "passive")
            (func $a (export "a") (type $t)
                (block (result i64 i32)
                    (loop (param) (br_if 0 (i32.eqz (local.get 0))))
                    (if (result i64) (local.get 0) (then (local.get 1)) (else (i64.const 5)))
                    (i32.const 9)))
            (func $b (result f32) (local f32 f64)
                (memory.init $d (i32.const 0) (i32.const 0) (i32.const 3)) (data.drop $d)
                (table.init $f $p (i32.const 0) (i32.const 0) (i32.const 1)) (elem.drop $p)
                (table.set $f (i32.const 0) (ref.func $b)) (drop (table.grow $e (ref.null extern) (i32.const 1)))
                (drop (call_indirect $f (param i32 i64) (result i64 i32) (i32.const 1) (i64.const 2) (i32.const 1))) drop
                (block (block (br_table 0 1 0 (global.get $g))))
                (global.set $g (i32.extend8_s (i32.trunc_sat_f32_s (local.get 0))))
                (drop (call $w (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0)))
                (i64.store (i32.const 0) (i64.div_u (i64.const 1) (i64.const 2)))
                (f32.demote_f64 (f64.load (memory.grow (i32.const 1)))))
            (memory $wide i64 1 2) (table $typed i64 2 9 (ref null $t) (ref.func $a))
            (data (memory $wide) (i64.const 4) "wide") (elem (table $typed) (i64.const 1) (ref null $t) (ref.func $a))
            (func $c (param (ref null $t) i64) (result i64 i32) (local (ref null $t))
                (i64.store32 $wide offset=0x20000 (local.get 1) (i64.load $wide (local.get 1)))
                (memory.copy $wide 0 (local.get 1) (i32.const 1) (i32.const 2))
                (table.set $typed (local.get 1) (ref.as_non_null (local.get 0)))
                (block $l (result (ref $t)) (br_on_non_null $l (local.get 0)) (return (i64.const 1) (i32.const 2)))
                (local.set 2)
                (block $n (drop (br_on_null $n (local.get 2))))
                (drop (call_ref $t (i32.const 1) (i64.const 2) (local.get 2))) (drop)
                (if (i64.eqz (local.get 1)) (then (return_call $a (i32.const 1) (i64.const 2))))
                (if (i32.const 1) (then (return_call_ref $t (i32.const 1) (i64.const 2) (local.get 2))))
                (return_call_indirect $typed (type $t) (i32.const 1) (i64.const 2) (local.get 1)))
            (start $s) (func $s (drop (call $b))))"#,
    )
    .unwrap()
}

#[test]
fn truncated_modules_are_errors() {
    let wasm = rich_module();
    let options = Options { threads: 1, ..Options::default() };
    compiler::compile(&wasm, &options).unwrap();
    let mut accepted = 0;
    for length in 0..wasm.len() {
        // What remains is a module when the cut removes whole sections, as long as no function lost its body.
        if let Ok(artifact) = compiler::compile(&wasm[..length], &options) {
            compiler::Artifact::parse(artifact).unwrap();
            accepted += 1;
        }
    }
    assert!(accepted < 10, "{accepted} of {} truncations are accepted", wasm.len());
}

#[test]
fn damaged_modules_are_errors_or_other_modules() {
    let wasm = rich_module();
    let options = Options { threads: 1, ..Options::default() };
    let (mut rejected, mut accepted) = (0, 0);
    for at in 8..wasm.len() {
        for flip in [0x01, 0x02, 0x04, 0x08, 0x10, 0x20, 0x40, 0x80] {
            let mut damaged = wasm.clone();
            damaged[at] ^= flip;
            match compiler::compile(&damaged, &options) {
                Ok(artifact) => {
                    compiler::Artifact::parse(artifact).unwrap();
                    accepted += 1;
                }
                Err(_) => rejected += 1,
            }
        }
    }
    assert!(rejected > 1000 && accepted > 100, "{rejected} rejected, {accepted} accepted");
}

#[test]
fn imports_that_the_host_side_cannot_provide_are_refused() {
    let options = Options { open_imports: true, ..Options::default() };
    for import in [
        r#"(global (ref func))"#,
        r#"(global (ref extern))"#,
        r#"(table 1 (ref func))"#,
        r#"(func (result i32 (ref func)))"#,
        r#"(memory 1 1 shared)"#,
    ] {
        let wasm = compiler::parse_text(format!(r#"(module (import "m" "x" {import}))"#).as_bytes()).unwrap();
        let found = compiler::compile(&wasm, &options).expect_err(import);
        assert!(matches!(found, Error::UnsupportedFeature { .. }), "{import}: {found}");
    }
    let items = r#"(module (import "m" "x" (global externref)) (elem externref (global.get 0)))"#;
    let wasm = compiler::parse_text(items.as_bytes()).unwrap();
    let found = compiler::compile(&wasm, &options).unwrap_err().to_string();
    assert!(found.contains("imported references to host values in element segments"), "{found}");
    // A function of the interface table is that one, whatever else may be imported.
    let wrong = r#"(module (import "wasi_snapshot_preview1" "fd_close" (func)))"#;
    let wasm = compiler::parse_text(wrong.as_bytes()).unwrap();
    assert!(matches!(compiler::compile(&wasm, &options), Err(Error::ImportType { .. })));
}

#[test]
fn caps_hold_for_what_is_imported() {
    let options = |caps| Options { open_imports: true, caps, ..Options::default() };
    for (import, caps) in [
        ("(memory 3)", Caps { memory_pages: 2, ..Caps::default() }),
        ("(table 3 funcref)", Caps { table_entries: 2, ..Caps::default() }),
    ] {
        let wasm = compiler::parse_text(format!(r#"(module (import "m" "x" {import}))"#).as_bytes()).unwrap();
        let found = compiler::compile(&wasm, &options(caps)).expect_err(import);
        assert!(matches!(found, Error::Cap { found: 3, cap: 2, .. }), "{import}: {found}");
    }
}
