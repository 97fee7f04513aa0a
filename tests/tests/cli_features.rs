//! WebAssembly beyond 2.0 in a confined instance: tail calls, function references, several memories, 64-bit memories.

use whole_system_tests::{Scratch, run};

#[test]
fn a_tail_call_leaves_no_frame_behind() {
    let scratch = Scratch::new();
    scratch.module(
        "m.wasm",
        r#"(module
            (type $t (func (param i32) (result i32)))
            (elem declare func $inner $middle)
            (func $inner (type $t) (i32.div_u (i32.const 1) (local.get 0)))
            (func $middle (type $t) (return_call_ref $t (local.get 0) (ref.func $inner)))
            (func $outer (export "run") (type $t) (i32.add (call $middle (local.get 0)) (i32.const 1)))
            (func $down (export "down") (type $t)
                (if (i32.eqz (local.get 0)) (then (return_call $outer (i32.const 0))))
                (return_call $down (i32.sub (local.get 0) (i32.const 1)))))"#,
    );
    for (export, argument) in [("run", "0"), ("down", "10000000")] {
        let mut command = scratch.sandboxctl_run(None);
        let output = run(command.args(["--invoke", export, "--json", "m.wasm", "--", argument]));
        output.expect_status(134);
        assert!(output.stderr.contains("integer divide by zero"), "{}", output.stderr);
        let report = output.text();
        let report: serde_json::Value =
            serde_json::from_str(report.lines().last().expect("a line")).expect("JSON");
        let frames = report["trap"]["backtrace"].as_array().expect("array");
        let names: Vec<&str> = frames.iter().map(|f| f["name"].as_str().unwrap_or("?")).collect();
        assert_eq!(names, ["inner", "outer"], "{export}");
    }
}

#[test]
fn a_null_reference_is_a_trap_with_its_name() {
    let scratch = Scratch::new();
    scratch.module(
        "m.wasm",
        r#"(module (type $t (func))
            (func (export "call") (call_ref $t (ref.null $t)))
            (func (export "as") (drop (ref.as_non_null (ref.null $t)))))"#,
    );
    for (export, message) in [("call", "null function reference"), ("as", "null reference")] {
        let output = run(scratch.sandboxctl_run(None).args(["--invoke", export, "m.wasm"]));
        output.expect_status(134);
        assert!(output.stderr.contains(&format!("trap: {message}\n")), "{}", output.stderr);
    }
}

#[test]
fn memories_grow_each_in_its_place_and_a_64_bit_one_beyond_4_gib() {
    let scratch = Scratch::new();
    scratch.write(
        "large.toml",
        "version = 1\nallow_dangerous = true\ndangerous_reason = \"a large memory\"\n[limits]\nmemory = \"16GiB\"\n",
    );
    scratch.module(
        "m.wasm",
        r#"(module
            (memory $a 1) (memory $b i64 1) (memory $c 1 2)
            (func (export "grow") (param $pages i64) (param $at i64) (result i64)
                (drop (memory.grow $a (i32.const 3))) (drop (memory.grow $c (i32.const 1)))
                (i32.store $a (i32.const 0x3fffc) (i32.const 1))
                (i32.store $c (i32.const 0x1fffc) (i32.const 2))
                (drop (memory.grow $b (local.get $pages)))
                (i64.store $b (local.get $at) (i64.const 40))
                (i64.add (i64.load $b (local.get $at))
                    (i64.extend_i32_u (i32.add
                        (i32.load $a (i32.const 0x3fffc)) (i32.load $c (i32.const 0x1fffc))))))
            (func (export "refused") (param i64) (result i64) (memory.grow $b (local.get 0))))"#,
    );
    let invoke = |policy: &str, arguments: &[&str]| {
        let mut command = scratch.sandboxctl_run(None);
        command.args(["--policy", policy, "--invoke"]).arg(arguments[0]).args(["m.wasm", "--"]);
        run(command.args(&arguments[1..]))
    };
    // 8 GiB at once, which the filter lets pass, and its last bytes.
    let output = invoke("large.toml", &["grow", "131071", "8589934584"]);
    assert_eq!(output.expect_status(0).text(), "43\n");
    let output = invoke("large.toml", &["grow", "131071", "8589934585"]);
    assert!(output.expect_status(134).stderr.contains("out of bounds memory access"), "{}", output.stderr);
    // One page more than there is room for; and more than the default policy allows.
    assert_eq!(invoke("large.toml", &["refused", "131072"]).expect_status(0).text(), "-1\n");
    assert_eq!(invoke("default", &["refused", "65536"]).expect_status(0).text(), "-1\n");
}
