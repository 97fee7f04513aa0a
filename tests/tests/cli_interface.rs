//! `sandboxctl interface`, modules that are compiled for interfaces, and the example whose guests are made of what is generated.

use std::path::Path;
use std::process::Command;

use interface::Interface;
use serde_json::Value as Json;
use whole_system_tests::{Output, Scratch, guests, key_value, run, sandboxc};

const INTERFACE: &str = r#"interface = "k"
[[error]]
name = "fault"
cases = ["full"]
[[function]]
name = "number"
params = [{ name = "value", type = "u32" }, { name = "wide", type = "u64" }]
results = [{ name = "sum", type = "f64" }]
[[function]]
name = "text"
results = [{ name = "out", type = "string" }]
error = "fault"
"#;

/// Imports all of it as it is, and WASI.
const FITS: &str = r#"(module
  (import "wasi_snapshot_preview1" "proc_exit" (func (param i32)))
  (import "k" "number" (func (param i32 i64) (result f64)))
  (import "k" "text" (func (param i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (func (export "_start")))"#;

/// Imports nothing of it as it is, and something else.
const DIFFERS: &str = r#"(module
  (import "k" "number" (func (param i32 i32) (result f64)))
  (import "k" "txt" (func))
  (import "k" "text" (global i32))
  (import "kk" "number" (func))
  (memory (export "memory") 1)
  (func (export "_start")))"#;

fn scratch() -> Scratch {
    let scratch = Scratch::new();
    scratch.write("k.toml", INTERFACE);
    scratch.module("fits.wasm", FITS);
    scratch.module("differs.wasm", DIFFERS);
    scratch
}

fn interface(scratch: &Scratch, arguments: &[&str]) -> Output {
    run(scratch.sandboxctl().arg("interface").args(arguments))
}

#[track_caller]
fn assert_says(text: &str, all: &[&str]) {
    for piece in all {
        assert!(text.contains(piece), "{piece:?} expected in: {text}");
    }
}

#[test]
fn text_is_generated_to_stdout_or_a_file() {
    let scratch = scratch();
    for (command, piece) in [
        ("header", "double k_number(uint32_t value, uint64_t wide);"),
        ("rust", "pub fn number(value: u32, wide: u64) -> f64 {"),
        (
            "docs",
            "(import \"k\" \"number\" (func $number (param $value i32) (param $wide i64) (result f64)))",
        ),
    ] {
        let shown = interface(&scratch, &[command, "k.toml"]);
        assert_says(shown.expect_status(0).text(), &[piece]);
        assert_eq!(interface(&scratch, &[command, "k.toml", "-o", "out"]).expect_status(0).text(), "");
        assert_eq!(std::fs::read(scratch.file("out")).expect("read"), shown.stdout, "{command}");
        interface(&scratch, &[command, "k.toml", "-o", "no/such/file"])
            .expect_own_error(&["cannot write no/such/file"]);
    }
    scratch.write("taken.toml", "interface = \"thread\"\n[[function]]\nname = \"local\"\n");
    interface(&scratch, &["header", "taken.toml"]).expect_own_error(&["in C", "`thread_local`", "rename"]);
    interface(&scratch, &["rust", "taken.toml"]).expect_status(0);
}

#[test]
fn check_tells_what_guests_import() {
    let scratch = scratch();
    let output = interface(&scratch, &["check", "k.toml"]);
    let expected = "k: ok (2 functions, 1 types)\n  number: (i32 i64) -> (f64)\n  text: (i32 i32 i32) -> (i32)\n\
                    warning: function text: a guest traps whose room for out is too small; name a case of an error with \
                    \"overflow\"\n";
    assert_eq!(output.expect_status(0).text(), expected);
    let output = interface(&scratch, &["check", "--json", "k.toml"]);
    let json: Json = serde_json::from_str(output.expect_status(0).text()).expect("JSON");
    assert_eq!(
        (&json["ok"], &json["interface"], &json["mismatches"]),
        (&true.into(), &"k".into(), &Json::Null)
    );
    assert_eq!(json["functions"][1]["params"], serde_json::json!(["i32", "i32", "i32"]));
}

#[test]
fn mistakes_are_shown_with_their_place() {
    let scratch = Scratch::new();
    let text = INTERFACE.replace("\"u64\"", "\"u46\"");
    scratch.write("bad.toml", text);
    let shown = ["there is no type \"u46\"", "bad.toml:7:45", "did you mean \"u16\"?"];
    for (command, status) in [("check", 1), ("header", 125), ("rust", 125), ("docs", 125)] {
        let output = interface(&scratch, &[command, "bad.toml"]);
        assert_eq!(output.expect_status(status).text(), "");
        assert_says(&output.stderr, &shown);
    }
    let output = interface(&scratch, &["check", "--json", "bad.toml"]);
    let json: Json = serde_json::from_str(output.expect_status(1).text()).expect("JSON");
    let error = &json["errors"][0];
    assert_eq!((&error["line"], &error["file"]), (&7.into(), &"bad.toml".into()));
    let missing = interface(&scratch, &["check", "missing.toml"]);
    assert_says(&missing.expect_status(1).stderr, &["missing.toml"]);
}

#[test]
fn check_compares_a_module_with_the_interface() {
    let scratch = scratch();
    let check = |module: &str| interface(&scratch, &["check", "k.toml", "--module", module]);
    assert_says(check("fits.wasm").expect_status(0).text(), &["fits.wasm: ok (2 imports from k)\n"]);
    let output = check("differs.wasm");
    let told = output.expect_status(1).text();
    assert_says(
        told,
        &[
            "differs.wasm: k.number: the module imports (i32 i32) -> (f64), the interface has (i32 i64) -> (f64)\n",
            "differs.wasm: k.txt: the module imports () -> (), the interface has no such function (did you mean \"text\"?)\n",
            "differs.wasm: k.text: the module imports a global, the interface has functions only\n",
        ],
    );
    assert!(!told.contains("kk."), "imports of other modules are not looked at: {told}");
    let output = interface(&scratch, &["check", "--json", "k.toml", "--module", "differs.wasm"]);
    let json: Json = serde_json::from_str(output.expect_status(1).text()).expect("JSON");
    assert_eq!((&json["ok"], &json["imports"]), (&false.into(), &3.into()));
    assert_eq!(json["mismatches"].as_array().expect("array").len(), 3);

    // An artifact is looked at as it is; text is a module too.
    run(scratch.sandboxctl().args(["compile", "fits.wasm", "--interface", "k.toml", "-o", "fits.sbx"]))
        .expect_status(0);
    assert_says(check("fits.sbx").expect_status(0).text(), &["fits.sbx: ok (2 imports from k)\n"]);
    scratch.write("differs.wat", DIFFERS);
    check("differs.wat").expect_status(1);

    scratch.write("hostile.wat", DIFFERS.replace("\"txt\"", "\"\\1b[2J\\0atext\""));
    let output = check("hostile.wat");
    assert!(!output.expect_status(1).text().contains('\u{1b}'), "{}", output.text());
    scratch.write("none.wasm", "nothing");
    check("none.wasm").expect_own_error(&["none.wasm", "not a WebAssembly module"]);
    scratch.write("cut.wasm", b"\0asm\x01\0\0\0\x02\x09\x01");
    check("cut.wasm").expect_own_error(&["cut.wasm", "invalid WebAssembly module"]);
    check("missing.wasm").expect_own_error(&["missing.wasm"]);
}

#[test]
fn a_module_is_compiled_for_its_interfaces_only() {
    let scratch = scratch();
    scratch.write("other.toml", "interface = \"kk\"\n[[function]]\nname = \"number\"\n");
    scratch.module("both.wasm", &FITS.replace("(memory", "(import \"kk\" \"number\" (func)) (memory"));
    let compile = |arguments: &[&str]| run(scratch.sandboxctl().arg("compile").args(arguments));

    compile(&["fits.wasm", "-o", "a"]).expect_own_error(&["unknown import `k` `number`"]);
    compile(&["fits.wasm", "--interface", "k.toml", "-o", "a"]).expect_status(0);
    compile(&["differs.wasm", "--interface", "k.toml", "-o", "b"]).expect_own_error(&[
        "differs.wasm: the module imports what the interfaces (k) do not have: ",
        "k.number: the module imports (i32 i32) -> (f64), the interface has (i32 i64) -> (f64); ",
        "k.txt: ",
        "k.text: the module imports a global",
        "kk.number: the module imports a function, the interface has nothing named \"kk\" (valid are k)",
    ]);
    // Not even what is open otherwise.
    compile(&["both.wasm", "--interface", "k.toml", "-o", "b"]).expect_own_error(&["kk.number"]);
    assert!(!scratch.file("b").exists());
    compile(&["both.wasm", "--interface", "k.toml", "--interface", "other.toml", "-o", "b"]).expect_status(0);
    compile(&["fits.wasm", "--interface", "k.toml", "--interface", "k.toml", "-o", "c"])
        .expect_own_error(&["two interfaces have the name \"k\""]);
    scratch.write("bad.toml", "interface = \"K\"\n");
    compile(&["fits.wasm", "--interface", "bad.toml", "-o", "c"]).expect_own_error(&["bad.toml:1:13"]);
    assert_eq!(scratch.names().iter().filter(|name| name.len() == 1).collect::<Vec<_>>(), ["a", "b"]);
    // Nobody provides the functions here.
    run(scratch.sandboxctl_run(None).arg("a")).expect_own_error(&["\"k\" \"number\""]);
    // A module with WASI only needs no interface, and may have one.
    scratch.module("hello.wasm", guests::HELLO);
    compile(&["hello.wasm", "--interface", "k.toml", "-o", "d"]).expect_status(0);
    assert_eq!(run(scratch.sandboxctl_run(None).arg("d")).expect_status(0).text(), "hello\n");
}

#[test]
fn sandboxc_compiles_for_interfaces_too() {
    let scratch = scratch();
    let sandboxc =
        |arguments: &[&str]| run(Command::new(sandboxc()).current_dir(scratch.path()).args(arguments));
    sandboxc(&["fits.wasm", "--interface", "k.toml", "-o", "a"]).expect_status(0);
    let checked = interface(&scratch, &["check", "k.toml", "--module", "a"]);
    assert_says(checked.expect_status(0).text(), &["a: ok (2 imports from k)"]);
    sandboxc(&["fits.wasm", "--interface", "k.toml", "--validate"]).expect_status(0);
    for arguments in [&["--validate"][..], &["-o", "b"], &["--emit", "clif", "-o", "b"]] {
        let arguments = [&["differs.wasm", "--json", "--interface", "k.toml"][..], arguments].concat();
        let output = sandboxc(&arguments);
        let json: Json = serde_json::from_str(output.expect_status(125).text()).expect("JSON");
        assert_eq!((&json["kind"], &json["file"]), (&"interface".into(), &"differs.wasm".into()), "{json}");
        assert_says(json["message"].as_str().expect("text"), &["k.number", "k.txt", "kk.number"]);
    }
    let output = sandboxc(&["fits.wasm", "--json", "--interface", "missing.toml", "-o", "b"]);
    let json: Json = serde_json::from_str(output.expect_status(125).text()).expect("JSON");
    assert_eq!(json["kind"], "interface");
    assert!(!scratch.file("b").exists());
}

/// What both guests of the example print.
const EXAMPLE: &str = "\
entries: ok, 0
put cherry: ok
put apple: ok
put banana: ok
put banana: exists
put cherry: exists
put date: full
get banana: too_small, needs 2 bytes
get banana: 21
get date: not_found
0: cherry, 2 bytes
1: banana, 2 bytes
2: apple, 3 bytes
3: not_found
entries: too_small, needs room for 3
entries: ok, 3
  3 bytes, something else
  2 bytes, a number
  2 bytes, a number, read-only
entries: ok, 3
  2 bytes, a number, read-only
  2 bytes, a number
  3 bytes, something else
sum: 34999999999790
3 keys, 24 bytes, full
";

#[test]
fn guests_made_of_generated_text_do_the_same() {
    let scratch = Scratch::new();
    let guests: [(&str, &[u8]); 2] = [
        ("c.wasm", include_bytes!("../../examples/host-functions/guest_c.wasm")),
        ("rust.wasm", include_bytes!("../../examples/host-functions/guest_rust.wasm")),
    ];
    scratch.write("kv.toml", include_str!("../../examples/host-functions/kv.toml"));
    for (name, wasm) in guests {
        let path = scratch.write(name, wasm);
        let output = run(Command::new(key_value()).current_dir(scratch.path()).arg(Path::new(&path)));
        assert_eq!(output.expect_status(0).text(), EXAMPLE, "{name}: {}", output.stderr);
        interface(&scratch, &["check", "kv.toml", "--module", name]).expect_status(0);
    }
    let output = run(Command::new(key_value()).current_dir(scratch.path()).arg("no-such-file"));
    assert_ne!(output.status, Some(0));
}

#[test]
fn the_host_app_of_the_example_serves_what_its_guests_are_made_of() {
    let output = run(Command::new(key_value()).arg("--interface"));
    let served = Interface::parse(output.expect_status(0).text(), "served").expect("a sound interface");
    let kv = include_str!("../../examples/host-functions/kv.toml");
    let guests = Interface::parse(kv, "kv.toml").expect("a sound interface");
    assert_eq!(served.interface(), guests.interface());
}

#[test]
fn what_the_example_was_made_of_is_what_is_generated_now() {
    let scratch = Scratch::new();
    scratch.write("kv.toml", include_str!("../../examples/host-functions/kv.toml"));
    for (command, text) in [
        ("header", include_str!("../../examples/host-functions/kv.h")),
        ("rust", include_str!("../../examples/host-functions/kv.rs")),
        ("docs", include_str!("../../examples/host-functions/kv.md")),
    ] {
        let output = interface(&scratch, &[command, "kv.toml"]);
        assert!(output.expect_status(0).text() == text, "{command}: examples/build.sh was not run");
    }
}
