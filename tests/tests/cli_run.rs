//! `sandboxctl run`: what the guest does comes out, the same through a daemon and without one.

use std::os::unix::fs::MetadataExt;
use std::process::Command;

use whole_system_tests::{Daemon, Output, Scratch, assert_no_orphans, guests, run, run_with_input};

/// Runs a test without a daemon and with one.
fn both_ways(test: impl Fn(&Scratch, &dyn Fn(&[&str]) -> Command)) {
    let scratch = Scratch::new();
    let command = |daemon: Option<&Daemon>, arguments: &[&str]| {
        let mut command = scratch.sandboxctl_run(daemon);
        command.args(arguments);
        command
    };
    test(&scratch, &|arguments| command(None, arguments));
    let daemon = Daemon::start();
    test(&scratch, &|arguments| command(Some(&daemon), arguments));
    drop(daemon);
    assert_no_orphans();
}

fn json(output: &Output) -> serde_json::Value {
    serde_json::from_str(output.text().lines().last().expect("a line")).expect("JSON")
}

#[test]
fn output_and_exit_status_come_back() {
    both_ways(|scratch, ctl| {
        scratch.module("hello.wasm", guests::HELLO);
        let output = run(&mut ctl(&["hello.wasm"]));
        assert_eq!(output.expect_status(0).text(), "hello\n");
        assert_eq!(output.stderr, "");
        scratch.write("hello.wat", guests::HELLO);
        assert_eq!(run(&mut ctl(&["hello.wat"])).expect_status(0).text(), "hello\n");
        scratch.module("exit.wasm", guests::EXIT_37);
        let output = run(&mut ctl(&["exit.wasm"]));
        assert_eq!(output.expect_status(37).stderr, "to stderr\n");
        assert_eq!(output.text(), "");
    });
}

#[test]
fn arguments_and_environment_go_in() {
    both_ways(|scratch, ctl| {
        scratch.module("strings.wasm", guests::STRINGS);
        let output =
            run(ctl(&["--env", "A=1", "--env", "B", "--env", "C=x=y", "strings.wasm", "-a", "", "é"])
                .env("B", "from here"));
        assert_eq!(output.expect_status(0).text(), "strings.wasm\0-a\0\0é\0A=1\0B=from here\0C=x=y\0");
        let output = run(&mut ctl(&["--argv0", "me", "./strings.wasm", "--", "--json", "--"]));
        assert_eq!(output.expect_status(0).text(), "me\0--json\0--\0");
        let long = "x".repeat(100_000);
        let output = run(&mut ctl(&["strings.wasm", &long]));
        assert_eq!(output.expect_status(0).text(), format!("strings.wasm\0{long}\0"));
    });
}

#[test]
fn standard_input_is_read_to_its_end() {
    both_ways(|scratch, ctl| {
        scratch.module("cat.wasm", guests::CAT);
        let input: Vec<u8> = (0..3_000_000u32).map(|n| (n.wrapping_mul(n) >> 7) as u8).collect();
        let output = run_with_input(&mut ctl(&["cat.wasm"]), &input);
        output.expect_status(0);
        assert!(output.stdout == input, "{} of {} bytes, or other ones", output.stdout.len(), input.len());
    });
}

#[test]
fn an_export_runs_with_typed_arguments_and_its_results_are_printed() {
    both_ways(|scratch, ctl| {
        scratch.module("m.wasm", guests::EXPORTS);
        let invoke = |arguments: &[&str]| run(ctl(&["--invoke"]).args(arguments));
        assert_eq!(invoke(&["add", "m.wasm", "2", "-5"]).expect_status(0).text(), "-3\n");
        assert_eq!(invoke(&["add", "m.wasm", "--", "-1", "0xffffffff"]).expect_status(0).text(), "-2\n");
        assert_eq!(
            invoke(&["echo", "m.wasm", "1", "-9223372036854775808", "1.5", "1e21"]).expect_status(0).text(),
            "1\n-9223372036854775808\n1.5\n1000000000000000000000\n"
        );
        invoke(&["add", "m.wasm", "1"]).expect_own_error(&["add", "2 arguments", "1 were given"]);
        invoke(&["add", "m.wasm", "1", "x"]).expect_own_error(&["argument 2", "`x`", "i32"]);
        invoke(&["add", "m.wasm", "1", "4294967296"]).expect_own_error(&["argument 2", "i32"]);
        invoke(&["reference", "m.wasm", "1"]).expect_own_error(&["parameter 1", "externref"]);
        invoke(&["missing", "m.wasm"]).expect_own_error(&["missing", "unreachable"]);
    });
}

#[test]
fn every_trap_is_reported_with_its_backtrace() {
    both_ways(|scratch, ctl| {
        scratch.module("m.wasm", guests::EXPORTS);
        for (export, arguments, message) in [
            ("unreachable", &[][..], "wasm `unreachable` instruction executed"),
            ("out-of-bounds", &[], "out of bounds memory access"),
            ("divide", &["0"], "integer divide by zero"),
            ("overflow", &[], "integer overflow"),
            ("convert", &[], "invalid conversion to integer"),
            ("null", &[], "uninitialized element"),
            ("wrong-type", &[], "indirect call type mismatch"),
            ("undefined", &[], "undefined element: out of bounds table access"),
            ("recurse", &["0"], "call stack exhausted"),
        ] {
            let output = run(ctl(&["--invoke", export, "m.wasm"]).args(arguments));
            output.expect_status(134);
            let mut lines = output.stderr.lines();
            assert_eq!(lines.next(), Some(format!("sandboxctl: trap: {message}").as_str()), "{export}");
            let frame = lines.next().unwrap_or_else(|| panic!("{export}: no backtrace"));
            assert!(
                frame.starts_with("    0: ") && frame.contains("0x") && frame.contains(" - "),
                "{export}: {frame}"
            );
        }
        let output = run(&mut ctl(&["--invoke", "unreachable", "--json", "m.wasm"]));
        assert!(
            output.stderr.contains(" - inner\n") && output.stderr.contains(" - outer\n"),
            "{}",
            output.stderr
        );
        let report = json(&output);
        assert_eq!(report["outcome"], "trapped");
        let names: Vec<&str> = report["trap"]["backtrace"]
            .as_array()
            .expect("array")
            .iter()
            .map(|f| f["name"].as_str().unwrap_or("?"))
            .collect();
        assert_eq!(names, ["inner", "outer"]);
    });
}

#[test]
fn exceptions_are_caught_or_reported() {
    let module = r#"(module (tag $e (param i32)) (table $t 200000 exnref)
        (func $down (param i32) (result i32)
          (if (i32.eqz (local.get 0)) (then (throw $e (i32.const 42))))
          (i32.add (call $down (i32.sub (local.get 0) (i32.const 1))) (i32.const 1)))
        (func $outer (export "uncaught") (param i32) (result i32) (call $down (local.get 0)))
        (func (export "caught") (param i32) (result i32)
          (block $h (result i32) (try_table (catch $e $h) (return (call $down (local.get 0)))) (unreachable)))
        (func (export "many") (param $n i32) (result i32)
          (loop $more
            (block $h (result i32 exnref) (try_table (catch_ref $e $h) (throw $e (local.get $n))) (unreachable))
            (drop) (drop)
            (br_if $more (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))
          (local.get $n))
        (func (export "keep") (param $n i32)
          (loop $more
            (table.set $t (local.get $n)
              (block $h (result exnref) (try_table (catch_all_ref $h) (throw $e (i32.const 0))) (unreachable)))
            (br_if $more (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))))"#;
    both_ways(|scratch, ctl| {
        scratch.module("m.wasm", module);
        for (export, argument, result) in [("caught", "100000", "42\n"), ("many", "10000000", "0\n")] {
            let output = run(ctl(&["--invoke", export, "m.wasm"]).arg(argument));
            output.expect_status(0);
            assert_eq!(output.stdout, result.as_bytes(), "{export}");
        }
        for (export, argument, message) in
            [("uncaught", "1", "thrown Wasm exception"), ("keep", "199999", "out of memory for exceptions")]
        {
            let output = run(ctl(&["--invoke", export, "m.wasm"]).arg(argument));
            output.expect_status(134);
            assert!(
                output.stderr.starts_with(&format!("sandboxctl: trap: {message}\n")),
                "{}",
                output.stderr
            );
            if export == "uncaught" {
                let names: Vec<_> =
                    output.stderr.lines().filter_map(|l| Some(l.split_once(" - ")?.1)).collect();
                assert_eq!(names, ["down", "down", "outer"]);
            }
        }
    });
}

#[test]
fn limits_end_a_job_with_their_own_status() {
    both_ways(|scratch, ctl| {
        scratch.module("spin.wasm", guests::SPIN);
        let output = run(&mut ctl(&["--timeout", "300ms", "--json", "spin.wasm"]));
        assert!(output.expect_status(124).stderr.contains("limit: the job has run for 300ms"));
        assert!(output.text().starts_with("ready\n"), "{}", output.text());
        let report = json(&output);
        assert_eq!(report["outcome"], "limit-reached");
        assert_eq!(report["limit"], serde_json::json!({ "limit": "wall-time", "value": 300_000_000 }));

        scratch.module("flood.wasm", guests::FLOOD);
        scratch.write("little.toml", "version = 1\n[limits]\noutput = \"100KiB\"\n");
        let output = run(&mut ctl(&["--policy", "little.toml", "--json", "flood.wasm"]));
        assert!(output.expect_status(137).stderr.contains("output"));
        assert!(output.stdout.len() < 110_000, "{} bytes", output.stdout.len());

        // Running into the limit of memory is the guest's to handle, unless the policy says otherwise.
        scratch.module("grow.wasm", guests::GROW);
        let output = run(&mut ctl(&["--invoke", "grow", "--memory", "2MiB", "grow.wasm"]));
        assert_eq!(output.expect_status(0).text(), "17\n");
        scratch.write("kill.toml", "version = 1\n[limits]\nmemory_exceeded = \"kill\"\n");
        let output =
            run(&mut ctl(&["--policy", "kill.toml", "--memory", "2MiB", "--invoke", "grow", "grow.wasm"]));
        assert!(output.expect_status(137).stderr.contains("memory"), "{}", output.stderr);
    });
}

#[test]
fn the_report_says_what_was_used_and_what_was_in_force() {
    both_ways(|scratch, ctl| {
        scratch.module("hello.wasm", guests::HELLO);
        let output = run(&mut ctl(&["--json", "hello.wasm"]));
        output.expect_status(0);
        assert_eq!(output.text().lines().count(), 2, "{}", output.text());
        let report = json(&output);
        assert_eq!(report["outcome"], "exited");
        assert_eq!(report["exit_code"], 0);
        assert_eq!(report["policy"], "default");
        assert_eq!(report["output_bytes"], 6);
        assert!(report["wall_ns"].as_u64().is_some_and(|ns| ns > 0));
        let layers = report["layers"].as_array().expect("array");
        assert!(layers.iter().any(|l| l == "seccomp"), "{layers:?}");

        // The kernel counts small processes coarsely; this one has 8 MiB.
        scratch.module("touch.wasm", guests::TOUCH_8_MIB);
        let report = json(run(&mut ctl(&["--json", "touch.wasm"])).expect_status(0));
        assert!(report["peak_memory_bytes"].as_u64().is_some_and(|bytes| bytes >= 8 << 20), "{report}");
        assert_eq!(report["wasm_memory_bytes"], 8 << 20);
    });
}

#[test]
fn a_socket_that_nobody_serves_is_an_obstacle_only_if_it_is_named() {
    let scratch = Scratch::new();
    scratch.module("hello.wasm", guests::HELLO);
    // Of a daemon that was killed: a socket that refuses connections.
    drop(std::os::unix::net::UnixListener::bind(scratch.file("sandboxd.sock")).expect("bind"));
    let mut command = scratch.sandboxctl();
    command.args(["run", "hello.wasm"]).env("XDG_RUNTIME_DIR", scratch.path());
    // Root's default socket is the system's, not a test's: for root only the socket that is named can be looked at.
    if nix::unistd::geteuid().is_root() {
        command.env("SANDBOXD_SOCKET", scratch.file("sandboxd.sock"));
        run(&mut command).expect_own_error(&["sandboxd.sock", "refused"]);
    } else {
        assert_eq!(run(&mut command).expect_status(0).text(), "hello\n");
    }
}

#[test]
fn a_cache_that_cannot_be_used_is_in_the_report_only() {
    let scratch = Scratch::new();
    scratch.module("hello.wasm", guests::HELLO);
    let problem = |state: &str| {
        let output = run(scratch.sandboxctl_run(None).args(["--json", "--state-dir", state, "hello.wasm"]));
        assert_eq!(output.expect_status(0).stderr, "");
        json(&output)["cache_problem"].clone()
    };
    assert!(problem("state").is_null());
    let text = problem("hello.wasm");
    assert!(text.as_str().is_some_and(|t| t.contains("hello.wasm")), "{text}");
}

#[test]
fn a_second_run_does_not_compile() {
    let scratch = Scratch::new();
    scratch.module("hello.wasm", guests::HELLO);
    let entries = || {
        let mut found = Vec::new();
        let mut directories = vec![scratch.file("state/artifacts")];
        while let Some(directory) = directories.pop() {
            for entry in std::fs::read_dir(directory).expect("directory") {
                let entry = entry.expect("entry");
                match entry.file_type().expect("type").is_dir() {
                    true => directories.push(entry.path()),
                    false => found.push((entry.path(), std::fs::metadata(entry.path()).expect("metadata"))),
                }
            }
        }
        found.sort_by(|a, b| a.0.cmp(&b.0));
        found.into_iter().map(|(p, m)| (p, m.len(), m.ino())).collect::<Vec<_>>()
    };
    run(scratch.sandboxctl_run(None).arg("hello.wasm")).expect_status(0);
    let first = entries();
    assert_eq!(first.len(), 1, "one artifact: {first:?}");
    run(scratch.sandboxctl_run(None).arg("hello.wasm")).expect_status(0);
    assert_eq!(entries(), first, "the second run must use the same file");
    // A corrupted entry is detected and made again.
    std::fs::write(&first[0].0, b"rubbish").expect("write");
    assert_eq!(run(scratch.sandboxctl_run(None).arg("hello.wasm")).expect_status(0).text(), "hello\n");
    assert_eq!(entries()[0].1, first[0].1, "rebuilt");
}
