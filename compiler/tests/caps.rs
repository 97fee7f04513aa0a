//! Each cap: a module beyond it is refused with an error that names the cap, its value and the key that raises it; with the
//! key raised, the same module compiles.

use compiler::{Cap, Caps, Error, Options, Raise};

fn wasm(text: &str) -> Vec<u8> {
    compiler::parse_text(text.as_bytes()).expect(text)
}

/// The size of the artifact.
fn compile(wasm: &[u8], caps: Caps) -> Result<usize, Error> {
    compiler::compile(wasm, &Options { threads: 1, caps, ..Options::default() })
        .map(|artifact| artifact.len())
}

fn with(cap: Cap, value: u64) -> Caps {
    let mut caps = Caps::default();
    caps.set(cap, value);
    caps
}

/// Asserts that the error names this cap.
#[track_caller]
fn names(error: &Error, cap: Cap, value: u64, what: &str) {
    let Error::Cap { what: found_what, found, cap: found_cap, raise } = error else { panic!("{error}") };
    assert_eq!((*found_what, *found_cap, *raise), (what, value, Raise::Key(cap.key())));
    let text = error.to_string();
    let expected =
        format!("the module has {found} {what}, more than the cap of {value}; `{}` raises it", cap.key());
    assert_eq!(text, expected);
    assert_eq!(cap.key(), format!("compile.caps.{}", cap.name()));
}

/// Asserts that `module` needs `enough` of something.
#[track_caller]
fn needs(module: &str, cap: Cap, enough: u64, what: &str) {
    let wasm = wasm(module);
    let error = compile(&wasm, with(cap, enough - 1)).expect_err("beyond the cap");
    names(&error, cap, enough - 1, what);
    compile(&wasm, with(cap, enough)).expect("within the cap");
}

#[test]
fn input_bytes() {
    needs("(module)", Cap::InputBytes, 8, "bytes");
}

#[test]
fn text_bytes() {
    let parse = |value| compiler::parse_text_with(b"(module)", &with(Cap::TextBytes, value));
    names(&parse(7).expect_err("beyond the cap"), Cap::TextBytes, 7, "bytes of text");
    parse(8).expect("within the cap");
    // What is binary already is not text.
    compiler::parse_text_with(&wasm("(module)"), &with(Cap::TextBytes, 0)).expect("a module");
}

#[test]
fn functions() {
    needs("(module (func) (func) (func))", Cap::Functions, 3, "functions");
    let imported = r#"(module (import "wasi_snapshot_preview1" "proc_exit" (func (param i32))) (func))"#;
    needs(imported, Cap::Functions, 2, "functions");
    let only = r#"(module (import "wasi_snapshot_preview1" "proc_exit" (func (param i32))))"#;
    needs(only, Cap::Functions, 1, "functions");
}

#[test]
fn function_bytes() {
    needs("(module (func) (func nop nop))", Cap::FunctionBytes, 4, "bytes in one function");
}

#[test]
fn function_values() {
    let adds = "(local.set 0 (i32.add (local.get 0) (local.get 0)))".repeat(100);
    let module = wasm(&format!("(module (func (param i32) {adds}))"));
    let what = "values, instructions or operands in one function";
    names(&compile(&module, with(Cap::FunctionValues, 50)).unwrap_err(), Cap::FunctionValues, 50, what);
    compile(&module, with(Cap::FunctionValues, 500)).expect("within the cap");
}

#[test]
fn branches_to_loops() {
    let branches = "(br_if 0 (local.get 0))".repeat(50);
    let text = format!("(module (func (param i32) (local {}) (loop {branches})))", "i32 ".repeat(400));
    let module = wasm(&text);
    let error = compile(&module, with(Cap::FunctionValues, 1000)).unwrap_err();
    let Error::Cap { what, cap, raise, .. } = error else { panic!("{error}") };
    assert_eq!((what, cap), ("branches to loops times locals in one function", 16_000));
    assert_eq!(raise, Raise::Key("compile.caps.function_values"));
    compile(&module, with(Cap::FunctionValues, 50 * 401)).expect("within the cap");
}

#[test]
fn locals() {
    needs("(module (func (param i32) (local i32 i64 i64)))", Cap::Locals, 4, "locals of one function");
    needs("(module (func (param i32 i32)))", Cap::Locals, 2, "locals of one function");
}

#[test]
fn nesting() {
    let what = "control structures inside each other";
    for module in [
        "(module (func (block (loop (if (i32.const 1) (then (block)))))))",
        "(module (tag $t) (func (block (try_table (catch_all 0) (block (loop))))))",
        // Nobody gets there, but it must be read.
        "(module (func unreachable (block (block (block (block))))))",
        // Side by side is not inside each other.
        "(module (func (block (block)) (block (block (block (block (nop))) (block)))))",
    ] {
        needs(module, Cap::Nesting, 4, what);
    }
}

#[test]
fn br_table_targets() {
    let module = "(module (func (param i32) (br_table 0 0 0 0 (local.get 0))))";
    needs(module, Cap::BrTableTargets, 3, "`br_table` targets");
    let unreached = "(module (func unreachable (br_table 0 0 0 0)))";
    needs(unreached, Cap::BrTableTargets, 3, "`br_table` targets");
}

#[test]
fn function_br_table_targets() {
    let tables = "(block (br_table 0 0 0 (local.get 0)))".repeat(3);
    let module = format!("(module (func (param i32) {tables}))");
    needs(&module, Cap::FunctionBrTableTargets, 6, "`br_table` targets in one function");
    let calls = "(call 0)".repeat(5);
    let module =
        format!("(module (tag $t) (func) (func (block (try_table (catch $t 0) (catch_all 0) {calls}))))");
    let what = "exception handlers of all calls in one function";
    needs(&module, Cap::FunctionBrTableTargets, 10, what);
}

#[test]
fn data_segments() {
    let module = r#"(module (memory 1) (data "a") (data (i32.const 0) "b") (data "c"))"#;
    needs(module, Cap::DataSegments, 3, "data segments");
    // With a count ahead of the code.
    let module = r#"(module (memory 1) (data "a") (data "b") (func (data.drop 1)))"#;
    needs(module, Cap::DataSegments, 2, "data segments");
}

#[test]
fn data_bytes() {
    let module = r#"(module (memory 1) (data "abc") (data (i32.const 0) "defg"))"#;
    needs(module, Cap::DataBytes, 7, "bytes of data segments");
}

#[test]
fn element_segments() {
    let module = "(module (table 1 funcref) (func) (elem func 0) (elem (i32.const 0) func 0))";
    needs(module, Cap::ElementSegments, 2, "element segments");
}

#[test]
fn element_items() {
    let module = "(module (table 2 funcref) (func) (elem func 0 0) (elem declare func 0)
        (elem (i32.const 0) funcref (ref.null func) (ref.func 0)))";
    needs(module, Cap::ElementItems, 5, "items of element segments");
}

#[test]
fn table_entries() {
    let module = "(module (table 4 funcref) (table 5 externref))";
    needs(module, Cap::TableEntries, 9, "initial table entries");
}

#[test]
fn memory_pages() {
    needs("(module (memory 2) (memory 3))", Cap::MemoryPages, 5, "initial memory pages");
}

#[test]
fn code_bytes() {
    // What is linked counts in pages.
    needs("(module (func))", Cap::CodeBytes, 4096, "bytes of machine code");
}

#[test]
fn image_bytes() {
    let module = wasm(r#"(module (memory 1) (data (i32.const 0) "x"))"#);
    let size = compile(&module, Caps::default()).expect("no cap is near") as u64;
    let error = compile(&module, with(Cap::ImageBytes, size - 1)).expect_err("beyond the cap");
    names(&error, Cap::ImageBytes, size - 1, "bytes of artifact");
    compile(&module, with(Cap::ImageBytes, size)).expect("within the cap");
}

/// A section with an id and contents.
fn section(id: u8, contents: &[u8]) -> Vec<u8> {
    [&[id][..], &leb(contents.len() as u32), contents].concat()
}

fn leb(mut value: u32) -> Vec<u8> {
    let mut out = Vec::new();
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
    out
}

fn module(sections: &[Vec<u8>]) -> Vec<u8> {
    [&b"\0asm\x01\0\0\0"[..], &sections.concat()].concat()
}

#[test]
fn a_cap_at_its_largest_value_says_so() {
    let types = section(1, &[1, 0x60, 0, 0]);
    let body = |bytes: &[u8]| [leb(bytes.len() as u32), bytes.to_vec()].concat();
    let one = |bytes: &[u8]| section(10, &[&[1][..], &body(bytes)].concat());
    let functions = section(3, &[1, 0]);
    let nops = [&[0][..], &vec![1; 7_654_320], &[0x0b]].concat();
    let locals = [&[1][..], &leb(50_001), &[0x7f, 0x0b]].concat();
    for (cap, bytes) in [
        (Cap::Functions, module(&[types.clone(), section(3, &leb(1_000_001))])),
        (Cap::FunctionBytes, module(&[types.clone(), functions.clone(), one(&nops)])),
        (Cap::Locals, module(&[types.clone(), functions.clone(), one(&locals)])),
        (Cap::DataSegments, module(&[section(12, &leb(100_001))])),
        (Cap::DataSegments, module(&[section(11, &leb(100_001))])),
        (Cap::ElementSegments, module(&[section(9, &leb(100_001))])),
    ] {
        // Also when it is set beyond that.
        for caps in [Caps::default(), with(cap, u64::MAX)] {
            let error = compile(&bytes, caps).expect_err("beyond the cap");
            let Error::Cap { found, cap: value, raise, .. } = error else { panic!("{error}") };
            assert_eq!((found, value), (cap.highest() + 1, cap.highest()), "{cap:?}");
            assert_eq!(raise, Raise::Exhausted(cap.key()));
            assert!(error.to_string().ends_with(&format!("; `{}` cannot be any higher", cap.key())));
        }
    }
}

#[test]
fn counts_that_validation_bounds_are_bounded() {
    for (what, bytes) in [
        ("types", module(&[section(1, &leb(1_000_001))])),
        ("imports", module(&[section(2, &leb(1_000_001))])),
        ("globals", module(&[section(6, &leb(1_000_001))])),
        ("exports", module(&[section(7, &leb(1_000_001))])),
        ("tags", module(&[section(13, &leb(1_000_001))])),
        ("tables", module(&[section(4, &leb(101))])),
    ] {
        let error = compile(&bytes, Caps::default()).expect_err(what);
        let text = error.to_string();
        assert!(matches!(error, Error::Invalid { .. }) && text.contains(what), "{what}: {text}");
        assert!(text.contains("limit of 1000000") || text.contains("limit of 100"), "{what}: {text}");
    }
}

/// Nothing that a module goes through recurses over control structures: neither the parser of text, nor validation, nor the
/// code generator.
#[test]
fn the_deepest_nesting_compiles() {
    let depth = Caps::default().nesting as usize;
    for (open, close) in
        [("block ", "end "), ("loop ", "end "), ("local.get 0 if ", "end "), ("(block ", ") ")]
    {
        let text = format!("(module (func (param i32) {} nop {}))", open.repeat(depth), close.repeat(depth));
        let module = wasm(&text);
        compile(&module, Caps::default()).expect(open);
        let error = compile(&module, with(Cap::Nesting, depth as u64 - 1)).expect_err(open);
        assert!(matches!(error, Error::Cap { .. }), "{error}");
    }
}
