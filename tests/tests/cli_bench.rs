//! `sandboxctl bench` as its users see it. What it measures is not looked at: only that it is there.

use whole_system_tests::{Scratch, run};

#[test]
fn every_step_of_a_job_is_measured() {
    let scratch = Scratch::new();
    let output = run(scratch.sandboxctl().args(["bench", "--count", "20", "--gap-us", "0", "--json"]));
    output.expect_status(0);
    let measured: serde_json::Value = serde_json::from_str(output.text()).expect("JSON");
    let jobs = measured["jobs"].as_array().expect("jobs");
    assert_eq!(
        jobs.iter().map(|job| job["instance"].as_str().unwrap()).collect::<Vec<_>>(),
        ["parked", "on demand"]
    );
    // Only with no pause it may be that none was parked in time.
    for step in jobs[1]["steps"].as_array().expect("steps") {
        let figure = |name: &str| step[name].as_f64().unwrap_or_else(|| panic!("{name} of {step}"));
        assert!(figure("p50_us") >= 0.0 && figure("p50_us") <= figure("p99_us"), "{step}");
    }
    assert_eq!(jobs[0]["steps"].as_array().map(Vec::len), Some(9));
    let all = |job: usize| jobs[job]["steps"][7]["p50_us"].as_f64();
    assert!(all(1).expect("all") > 0.0);

    let table = run(scratch.sandboxctl().args(["bench", "--count", "1"]));
    table.expect_status(0);
    assert_eq!(table.text().lines().count(), 10, "{}", table.text());
}

#[test]
fn what_does_not_end_well_is_not_measured() {
    let scratch = Scratch::new();
    scratch
        .module("m.wasm", r#"(module (memory (export "memory") 1) (func (export "_start") (unreachable)))"#);
    let output = run(scratch.sandboxctl().args(["bench", "--count", "1", "m.wasm"]));
    output.expect_status(125);
    assert!(
        output.stderr.contains("did not exit with status 0") && output.stderr.contains("unreachable"),
        "{}",
        output.stderr
    );
    let output = run(scratch.sandboxctl().args(["bench", "--policy", "nowhere.toml"]));
    output.expect_status(125);
}
