//! `sandboxc` as a user meets it.

use std::path::Path;
use std::process::{Command, Output};

fn sandboxc(directory: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_sandboxc")).current_dir(directory).args(args).output().unwrap()
}

fn fails_with(output: &Output, message: &str) {
    assert_eq!(output.status.code(), Some(125), "{output:?}");
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains(message) && text.lines().count() == 1, "{text}");
}

#[test]
fn compiles_inspects_and_lists() {
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path();
    let wat = r#"(module (memory (export "mem") 1) (func $name (export "f") (param i32) (result i32) local.get 0))"#;
    std::fs::write(at.join("m.wat"), wat).unwrap();
    std::fs::write(at.join("m.wasm"), compiler::parse_text(wat.as_bytes()).unwrap()).unwrap();

    for level in ["none", "speed", "speed_and_size"] {
        for input in ["m.wat", "m.wasm"] {
            let output = sandboxc(at, &[input, "-o", "a", "--opt-level", level, "--target-cpu", "baseline"]);
            assert!(output.status.success(), "{output:?}");
        }
    }
    let text = sandboxc(at, &["inspect", "a"]).stdout;
    assert!(
        String::from_utf8_lossy(&text).contains("export      \"f\" function 0 (i32) -> (i32) at 0x10000000")
    );
    let json: serde_json::Value =
        serde_json::from_slice(&sandboxc(at, &["inspect", "a", "--json"]).stdout).unwrap();
    assert_eq!(json["memories"][0]["min_pages"], 1);
    assert_eq!(json["exports"][0]["name"], "mem");

    for (form, expected) in [("asm", "pushq %rbp"), ("clif", "function u0:0(i32) -> i32 tail")] {
        assert!(sandboxc(at, &["m.wat", "--emit", form, "-o", "text"]).status.success());
        let text = std::fs::read_to_string(at.join("text")).unwrap();
        assert!(text.contains("; function 0: name") && text.contains(expected), "{text}");
    }
    assert!(sandboxc(at, &["m.wasm", "--validate"]).status.success());
}

#[test]
fn errors_are_one_line_with_the_file() {
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path();
    std::fs::write(at.join("bad.wasm"), b"\0asm\x01\0\0\0\x01").unwrap();
    std::fs::write(at.join("other"), b"hello").unwrap();
    fails_with(&sandboxc(at, &["none.wasm", "-o", "a"]), "cannot read none.wasm");
    fails_with(&sandboxc(at, &["bad.wasm", "-o", "a"]), "bad.wasm: invalid WebAssembly module");
    fails_with(&sandboxc(at, &["bad.wasm", "--validate"]), "bad.wasm: invalid WebAssembly module");
    fails_with(&sandboxc(at, &["other", "-o", "a"]), "other: not a WebAssembly module");
    fails_with(&sandboxc(at, &["inspect", "other"]), "other: the artifact has 5 bytes");
    assert!(!at.join("a").exists());
}
