//! Options of the compiler, as they show in jobs: fuel and source lines.

use whole_system_tests::{Daemon, Output, Scratch, assert_no_orphans, run};

fn json(output: &Output) -> serde_json::Value {
    serde_json::from_str(output.text().lines().last().expect("a line")).expect("JSON")
}

/// 2 + 11 n units for `sum(n)`: one for each operator and each call.
const SUM: &str = r#"(module
    (func $leaf)
    (func (export "sum") (param i32) (result i32) (local i32)
        (loop $again
            (local.set 1 (i32.add (local.get 1) (local.get 0)))
            (call $leaf)
            (br_if $again (local.tee 0 (i32.sub (local.get 0) (i32.const 1)))))
        (local.get 1)))"#;

#[test]
fn fuel_is_counted_reported_and_runs_out() {
    let scratch = Scratch::new();
    scratch.write("sum.wat", SUM);
    scratch.write("fuel.toml", "version = 1\n[limits]\nfuel = 1000\n");
    let daemon = Daemon::start();
    for daemon in [None, Some(&daemon)] {
        let ctl = |arguments: &[&str]| run(scratch.sandboxctl_run(daemon).args(arguments));
        let plenty = ctl(&["--fuel", "5000", "--json", "--invoke", "sum", "sum.wat", "100"]);
        let report = json(plenty.expect_status(0));
        assert_eq!((&report["fuel"], &report["results"][0]["value"]), (&1102.into(), &"5050".into()));

        // The check is where the last iteration begins: ten remain, it takes 11.
        let exhausted = ctl(&["--fuel", "1080", "--json", "--invoke", "sum", "sum.wat", "100"]);
        let report = json(exhausted.expect_status(134));
        assert_eq!(report["trap"]["message"], "all fuel consumed by WebAssembly");
        let used = report["fuel"].as_u64().expect("fuel");
        assert!((1081..1081 + 11).contains(&used), "{used}");
        let again = json(&ctl(&["--fuel", "1080", "--json", "--invoke", "sum", "sum.wat", "100"]));
        assert_eq!(again["fuel"], used);

        // A policy limits too, and the lower limit counts.
        let policy = ["--policy", "./fuel.toml", "--json", "--invoke", "sum", "sum.wat", "100"];
        assert_eq!(json(ctl(&policy).expect_status(134))["outcome"], "trapped");
        let lower = [&["--fuel", "10"][..], &policy].concat();
        assert!(json(ctl(&lower).expect_status(134))["fuel"].as_u64().expect("fuel") < 30);

        // Without a limit nothing is counted.
        let report = json(&ctl(&["--json", "--invoke", "sum", "sum.wat", "100"]));
        assert_eq!(report["fuel"], serde_json::Value::Null);
    }
    drop(daemon);
    assert_no_orphans();
}

#[test]
fn an_artifact_that_does_not_count_fuel_does_not_run_with_it() {
    let scratch = Scratch::new();
    scratch.write("sum.wat", SUM);
    let compile = |arguments: &[&str]| {
        run(scratch.sandboxctl().arg("compile").args(arguments)).expect_status(0).text().len()
    };
    compile(&["sum.wat", "-o", "plain"]);
    compile(&["sum.wat", "-o", "counting", "--fuel"]);
    let ctl = |arguments: &[&str]| run(scratch.sandboxctl_run(None).args(arguments));
    ctl(&["--fuel", "5000", "--invoke", "sum", "plain", "100"]).expect_own_error(&[
        "plain",
        "fuel",
        "compile it with --fuel",
    ]);
    let counting = ctl(&["--fuel", "5000", "--json", "--invoke", "sum", "counting", "100"]);
    assert_eq!(json(counting.expect_status(0))["fuel"], 1102);
    // Code that counts says what was used, limited or not.
    let unlimited = ctl(&["--json", "--invoke", "sum", "counting", "100"]);
    assert_eq!(json(unlimited.expect_status(0))["fuel"], 1102);
}

#[test]
fn a_backtrace_names_source_lines() {
    const MODULE: &[u8] = include_bytes!("../../examples/guests/lines.wasm");
    const SOURCE: &str = include_str!("../../examples/guests/lines.c");
    let line = |text| SOURCE.lines().position(|line| line.contains(text)).expect("the line") + 1;
    let (divides, calls) = (line("return number / by"), line("sum += divide"));
    let scratch = Scratch::new();
    scratch.write("lines.wasm", MODULE);
    run(scratch.sandboxctl().args(["compile", "-g", "lines.wasm", "-o", "lines"])).expect_status(0);
    let daemon = Daemon::start();
    for (daemon, arguments) in
        [(None, &["-g", "lines.wasm", "x"][..]), (None, &["lines", "x"]), (Some(&daemon), &["lines", "x"])]
    {
        let output = run(scratch.sandboxctl_run(daemon).args(arguments));
        let stderr = &output.expect_status(134).stderr;
        assert!(stderr.contains("integer divide by zero"), "{stderr}");
        assert!(stderr.contains(&format!("divide at /examples/lines.c:{divides}\n")), "{stderr}");
        assert!(stderr.contains(&format!("halve at /examples/lines.c:{calls}\n")), "{stderr}");
    }
    let report = json(&run(scratch.sandboxctl_run(None).args(["--json", "lines", "x"])));
    let frame = &report["trap"]["backtrace"][0];
    assert_eq!((&frame["file"], &frame["line"]), (&"/examples/lines.c".into(), &divides.into()));
    // Without the option there is nothing to name.
    let report = json(&run(scratch.sandboxctl_run(None).args(["--json", "lines.wasm", "x"])));
    let frame = &report["trap"]["backtrace"][0];
    assert_eq!((&frame["name"], &frame["file"]), (&"divide".into(), &serde_json::Value::Null));
}
