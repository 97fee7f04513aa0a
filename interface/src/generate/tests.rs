//! Results that are lists.

use std::path::Path;
use std::process::Command;

use crate::lower::{Element, Shape, WasmType};
use crate::model::Interface;
use crate::scalar::Scalar;

const WITH_LISTS: &str = r#"
interface = "k"
[[enum]]
name = "color"
cases = ["red", "green"]
[[error]]
name = "fault"
cases = ["full"]
[[record]]
name = "point"
fields = [{ name = "x", type = "f64" }, { name = "flag", type = "bool" }, { name = "color", type = "color" }]
[[function]]
name = "numbers"
results = [{ name = "out", type = "list<s64>" }]
[[function]]
name = "colors"
results = [{ name = "out", type = "list<color>" }]
error = "fault"
overflow = "full"
[[function]]
name = "points"
results = [{ name = "out", type = "list<point>" }, { name = "more", type = "list<point>" }]
"#;

#[track_caller]
fn compiles(directory: &Path, tool: &str, arguments: &[&str]) {
    let output = Command::new(tool).args(arguments).current_dir(directory).output();
    let output = output.unwrap_or_else(|error| panic!("{tool}: {error}; the tests need it"));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn lists_are_results_with_room_for_elements() {
    let lowered = Interface::parse(WITH_LISTS, "k.toml").expect("sound");
    assert!(matches!(&lowered.functions[0].results[0].shape, Shape::List(Element::Scalar(Scalar::S64))));
    assert_eq!(lowered.functions[0].params(), [WasmType::I32; 3]);
    let directory = tempfile::tempdir().expect("a directory");
    let header = lowered.c_header().expect("a header");
    assert!(header.contains("void k_numbers(int64_t *out, size_t out_room, size_t *out_count);"), "{header}");
    std::fs::write(directory.path().join("k.h"), header).expect("written");
    compiles(
        directory.path(),
        "clang",
        &["--target=wasm32-wasi", "-fsyntax-only", "-Wall", "-Wextra", "-Werror", "k.h"],
    );
    let module = lowered.rust_module().expect("a module");
    assert!(module.contains("pub fn numbers<'o>(out: &'o mut [i64]) -> &'o [i64] {"), "{module}");
    assert!(module.contains("if _element.flag > 1 || <Color as "), "{module}");
    std::fs::write(directory.path().join("k.rs"), module).expect("written");
    let arguments =
        ["--edition", "2024", "--target", "wasm32-wasip1", "--crate-type", "lib", "-D", "warnings"];
    compiles(directory.path(), "rustc", &[&arguments[..], &["k.rs", "-o", "k.rlib"]].concat());
    let signature = "(func $numbers (param $out i32) (param $out_room i32) (param $out_count i32))";
    assert!(lowered.reference().contains(signature));
}
