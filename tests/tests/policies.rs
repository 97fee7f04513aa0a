//! Policies as operators meet them: `sandboxctl policy`, and a daemon with a directory of policies.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use ipc::report::{Outcome, Violation};
use nix::sys::signal::Signal;
use policies::{Policy, Question};
use serde_json::Value as Json;
use whole_system_tests::attacker::Attacker;
use whole_system_tests::{Daemon, Scratch, guests, run, spawn};

fn policy(scratch: &Scratch, arguments: &[&str]) -> Command {
    let mut command = scratch.sandboxctl();
    command.arg("policy").args(arguments);
    command
}

fn text(scratch: &Scratch, arguments: &[&str], status: i32) -> String {
    let output = run(&mut policy(scratch, arguments));
    output.expect_status(status).text().to_owned()
}

fn json(scratch: &Scratch, arguments: &[&str], status: i32) -> Json {
    serde_json::from_str(&text(scratch, arguments, status)).expect("JSON")
}

/// A directory that only this user can write, whatever the umask is.
fn directory(scratch: &Scratch) -> PathBuf {
    let path = scratch.file("policies");
    std::fs::create_dir(&path).expect("mkdir");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("chmod");
    path
}

fn write(directory: &Path, name: &str, contents: &str) {
    let path = directory.join(name);
    // Complete or not there: a daemon may be reading.
    let new = directory.join(format!(".{name}.new"));
    std::fs::write(&new, contents).expect("write");
    std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o644)).expect("chmod");
    std::fs::rename(new, path).expect("rename");
}

#[test]
fn the_policies_that_there_are() {
    let scratch = Scratch::new();
    let listed = text(&scratch, &["list"], 0);
    for name in ["default", "compute", "wasi", "wasi-direct", "zygote", "compile", "supervisor"] {
        assert!(listed.lines().any(|line| line.starts_with(name)), "{name}: {listed}");
        assert!(text(&scratch, &["explain", name], 0).contains(name));
        assert!(text(&scratch, &["show-bpf", name], 0).contains("return allow"));
        assert!(json(&scratch, &["show-bpf", "--json", name], 0).as_array().expect("array").len() > 10);
    }
    let of_jobs = json(&scratch, &["list", "--json"], 0);
    let of_jobs = of_jobs.as_array().expect("array").iter().filter(|policy| policy["for_jobs"] == true);
    assert_eq!(of_jobs.count(), 4);
    let explained = json(&scratch, &["explain", "--json", "compute"], 0);
    assert_eq!(explained["extends"], "default");
    assert_eq!(explained["settings"]["limits"]["host_calls"], "0");
    assert!(explained["rules"].as_array().expect("rules").iter().all(|rule| rule["why"] != ""));
    let explained = json(&scratch, &["explain", "--json", "supervisor"], 0);
    let paths = explained["paths"].as_array().expect("paths");
    assert!(paths.iter().any(|rule| rule["place"] == "state" && rule["why"] != ""), "{explained}");
    let tested = json(&scratch, &["test", "--json", "--policy", "supervisor", "execve"], 1);
    assert_eq!(tested["effect"], "refused: the call fails with error 1");
}

#[test]
fn mistakes_are_shown_with_their_place() {
    let scratch = Scratch::new();
    scratch.write("bad.toml", "version = 1\n\n[limits]\n  memry = \"1MiB\"\n");
    for arguments in
        [&["check", "bad.toml"][..], &["explain", "bad.toml"], &["diff", "default", "./bad.toml"]]
    {
        let output = run(&mut policy(&scratch, arguments));
        assert_ne!(output.status, Some(0));
        for piece in [
            "unknown key \"memry\" in [limits]",
            "bad.toml:4:3",
            "memry = \"1MiB\"",
            "did you mean \"memory\"?",
        ] {
            assert!(output.stderr.contains(piece), "{piece}: {}", output.stderr);
        }
    }
    let checked = json(&scratch, &["check", "--json", "bad.toml", "default"], 1);
    assert_eq!(checked["ok"], false);
    let error = &checked["errors"][0];
    assert_eq!(
        (&error["line"], &error["column"], &error["text"]),
        (&Json::from(4), &Json::from(3), &Json::from("memry"))
    );
    assert_eq!(error["help"], "did you mean \"memory\"?");
    assert!(text(&scratch, &["check", "default", "compute"], 0).contains("compute: ok"));

    let directory = directory(&scratch);
    write(&directory, "good.toml", "version = 1\n");
    assert!(text(&scratch, &["check", "--policy-dir", "policies"], 0).contains("good: ok"));
    write(&directory, "wide.toml", "version = 1\nextends = \"good\"\n[limits]\nmemory = \"5GiB\"\n");
    let output = run(&mut policy(&scratch, &["check", "--policy-dir", "policies"]));
    output.expect_status(1);
    assert!(output.stderr.contains("widens the policy \"good\", which has 4GiB"), "{}", output.stderr);
}

#[test]
fn calls_are_tested_against_the_compiled_filter() {
    let scratch = Scratch::new();
    let allowed = text(&scratch, &["test", "write", "DOORBELL_FD", "0", "8"], 0);
    assert!(
        allowed.contains("allowed") && allowed.contains("rule default:") && allowed.contains("why: "),
        "{allowed}"
    );
    let refused = text(&scratch, &["test", "write", "1", "0", "8"], 1);
    assert!(
        refused.contains("SIGSYS") && refused.contains("not met: arg0 == DOORBELL_FD (it is 0x1"),
        "{refused}"
    );
    let refused = text(&scratch, &["test", "--policy", "compute", "write", "DOORBELL_FD", "0", "8"], 1);
    assert!(refused.contains("no rule allows this call"), "{refused}");
    text(&scratch, &["test", "--gate", "clone", "0x1011"], 0);
    text(&scratch, &["test", "clone", "0x1011"], 1);
    let answer = json(&scratch, &["test", "--json", "--arch", "i386", "write", "-1"], 1);
    assert_eq!(
        (&answer["decided_by"], &answer["args"][0]),
        (&"architecture".into(), &"0xffffffffffffffff".into())
    );
    let output = run(&mut policy(&scratch, &["test"]));
    output.expect_status(125);
    let output = run(&mut policy(&scratch, &["test", "wirte"]));
    output.expect_status(125);
    assert!(output.stderr.contains("did you mean \"write\"?"), "{}", output.stderr);
}

#[test]
fn imports_are_asked_about_by_name() {
    let scratch = Scratch::new();
    scratch.write("some.toml", "version = 1\n[host_calls]\nimports = [\"kv.*\", \"log.write\"]\n");
    let ask = |policy: &str, import: &str, status| {
        text(&scratch, &["test", "--policy", policy, "--import", import], status)
    };
    assert!(ask("some.toml", "kv.get", 0).contains("by \"kv.*\" in host_calls.imports"));
    assert!(ask("default", "kv.get", 0).contains("by true in host_calls.imports"));
    assert!(ask("compute", "kv.get", 1).contains("a module may not import it"));
    assert!(ask("some.toml", "log.wirte", 1).contains("host_calls.imports has \"log.write\""));
    let answer = json(&scratch, &["test", "--json", "--policy", "some.toml", "--import", "log.wirte"], 1);
    assert_eq!((&answer["allowed"], &answer["nearest"]), (&false.into(), &"log.write".into()));
    run(&mut policy(&scratch, &["test", "--import", "kv"])).expect_status(125);
    run(&mut policy(&scratch, &["test", "--import", "kv.get", "write"])).expect_status(125);
    assert!(text(&scratch, &["explain", "some.toml"], 0).contains("    kv: all\n    log: write\n"));
    let differences = text(&scratch, &["diff", "default", "./some.toml"], 1);
    assert!(
        differences.contains("host_calls.imports: true -> [\"kv.*\", \"log.write\"] (narrower)"),
        "{differences}"
    );
}

#[test]
fn differences_are_told_with_their_direction() {
    let scratch = Scratch::new();
    assert_eq!(text(&scratch, &["diff", "default", "wasi"], 0), "");
    let narrower = text(&scratch, &["diff", "default", "compute"], 1);
    assert!(narrower.contains("limits.host_calls: \"unlimited\" -> 0 (narrower)"), "{narrower}");
    assert!(narrower.contains("seccomp.allow: - futex"), "{narrower}");
    let wider = json(&scratch, &["diff", "--json", "compute", "default"], 1);
    assert!(wider.as_array().expect("array").iter().all(|d| d["direction"] == "wider"), "{wider}");
}

/// Learns, and runs the job again under what was proposed.
fn learn(scratch: &Scratch, arguments: &[&str]) -> (String, String) {
    let output = run(policy(scratch, &["learn", "-o", "learnt.toml"]).args(arguments));
    output.expect_status(0);
    let again = run(scratch.sandboxctl_run(None).args(["--policy", "learnt.toml"]).args(arguments));
    again.expect_status(0);
    assert_eq!(again.text(), output.text(), "the job does the same under the proposal");
    (std::fs::read_to_string(scratch.file("learnt.toml")).expect("proposal"), output.stderr)
}

#[test]
fn what_is_learnt_is_enough_and_no_more() {
    let scratch = Scratch::new();
    let module = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/guests/wordfreq.wasm");
    let texts = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/texts::/texts");
    let (proposal, warnings) = learn(&scratch, &["--ro-dir", texts, module, "-n", "5", "/texts"]);
    assert!(
        proposal.contains("filesystem = \"read-only\"") && !proposal.contains("allow = \"all\""),
        "{proposal}"
    );
    assert!(proposal.contains("random = false") || proposal.contains("\"random_get\""), "{proposal}");
    assert!(warnings.contains("Over-granted: everything below every directory"), "{warnings}");
    // Nothing more: another job, which writes more, does not run under it.
    scratch.module("flood.wasm", guests::FLOOD);
    let output = run(scratch.sandboxctl_run(None).args(["--policy", "learnt.toml", "flood.wasm"]));
    assert!(matches!(output.status, Some(125 | 137)), "{output:?}");

    // A module that only computes needs neither host calls nor growth, and loses the calls for them.
    scratch.module("exports.wasm", guests::EXPORTS);
    let (proposal, _) = learn(&scratch, &["--invoke", "add", "exports.wasm", "2", "3"]);
    assert!(proposal.contains("deny = [\"write\", \"mprotect\", \"futex\"]"), "{proposal}");
    assert!(proposal.contains("host_calls = 0") && proposal.contains("output = \"0B\""), "{proposal}");

    let grow = "(module (memory (export \"memory\") 1) (func (export \"f\") (param i32) (result i32) local.get 0 memory.grow))";
    scratch.module("grow.wasm", grow);
    let (proposal, _) = learn(&scratch, &["--invoke", "f", "grow.wasm", "0"]);
    assert!(proposal.contains("memory = \"64KiB\""), "{proposal}");
    // Growth beyond what was seen fails as WebAssembly has it; it is no violation, though mprotect is denied.
    let output = run(scratch.sandboxctl_run(None).args([
        "--policy",
        "learnt.toml",
        "--invoke",
        "f",
        "grow.wasm",
        "1",
    ]));
    assert_eq!(output.expect_status(0).text(), "-1\n");
    let (proposal, _) = learn(&scratch, &["--invoke", "f", "grow.wasm", "3"]);
    assert!(proposal.contains("memory = \"384KiB\""), "{proposal}");
}

#[test]
fn nothing_is_learnt_from_a_job_that_does_not_end_by_itself() {
    let scratch = Scratch::new();
    scratch.module("spin.wasm", guests::SPIN);
    let output =
        run(&mut policy(&scratch, &["learn", "-o", "learnt.toml", "--timeout", "300ms", "spin.wasm"]));
    output.expect_status(125);
    assert!(output.stderr.contains("no policy is proposed"), "{}", output.stderr);
    assert!(!scratch.file("learnt.toml").exists());
    scratch.module("hello.wasm", guests::HELLO);
    let output = run(&mut policy(&scratch, &["learn", "--json", "--margin", "0", "hello.wasm"]));
    let (hello, rest) = output.expect_status(0).text().split_once('\n').expect("lines");
    assert_eq!(hello, "hello");
    let learnt: Json = serde_json::from_str(rest).expect("JSON");
    assert!(learnt["policy"].as_str().expect("policy").contains("output = \"6B\""), "{learnt}");
    assert_eq!(learnt["report"]["outcome"], "exited");
    assert!(learnt["warnings"].as_array().expect("warnings").len() > 2);
}

struct Served {
    daemon: Daemon,
    scratch: Scratch,
    directory: PathBuf,
}

impl Served {
    /// A daemon with a directory of one policy, `small`.
    fn start() -> Self {
        let scratch = Scratch::new();
        let directory = directory(&scratch);
        write(&directory, "small.toml", "version = 1\n[limits]\noutput = 1000\n");
        let daemon = Daemon::start_with(&["--policy-dir", directory.to_str().expect("path")]);
        for (name, module) in [("hello.wasm", guests::HELLO), ("cat.wasm", guests::CAT)] {
            scratch.module(name, module);
        }
        Self { daemon, scratch, directory }
    }

    fn hello(&self, policy: &str) -> whole_system_tests::Output {
        run(self.scratch.sandboxctl_run(Some(&self.daemon)).args([
            "--policy",
            policy,
            "--json",
            "hello.wasm",
        ]))
    }

    fn reload(&self) -> whole_system_tests::Output {
        let socket = self.daemon.socket().to_str().expect("path");
        run(&mut policy(&self.scratch, &["reload", "--socket", socket]))
    }
}

#[test]
fn a_reload_is_all_or_nothing() {
    let served = Served::start();
    served.hello("small").expect_status(0);
    served.hello("new").expect_own_error(&["no policy is named \"new\""]);
    // A client's own text may extend it, and is held to it.
    served.scratch.write("mine.toml", "version = 1\nextends = \"small\"\n[limits]\noutput = 2000\n");
    served.hello("./mine.toml").expect_own_error(&["mine.toml:4:10", "widens the policy \"small\""]);

    write(&served.directory, "new.toml", "version = 1\nextends = \"small\"\n");
    write(&served.directory, "small.toml", "version = 1\n[limits]\noutput = 2\n");
    write(&served.directory, "bad.toml", "version = 1\n[limits]\nouptut = 3\n");
    let refused = served.reload();
    refused.expect_own_error(&["the old ones stay", "bad.toml:3:1", "ouptut", "did you mean \"output\"?"]);
    served.daemon.wait_for_line("bad.toml:3:1");
    // Nothing has changed: not even what is right by itself.
    served.hello("small").expect_status(0);
    served.hello("new").expect_own_error(&["no policy is named \"new\""]);

    std::fs::remove_file(served.directory.join("bad.toml")).expect("remove");
    let reloaded = served.reload();
    assert_eq!(reloaded.expect_status(0).text(), "6 policies\nnew: new\nchanged: small\n");
    assert_eq!(
        served.daemon.wait_for_line("policies reloaded"),
        "policies reloaded: 6 policies; new: new; changed: small"
    );
    served.hello("small").expect_status(137);
    served.hello("new").expect_status(137);
    let socket = served.daemon.socket().to_str().expect("path");
    let listed = json(&served.scratch, &["list", "--json", "--socket", socket], 0);
    let new = listed.as_array().expect("array").iter().find(|policy| policy["name"] == "new").expect("new");
    assert_eq!(new["extends"], "small");

    // A file that is gone, by signal.
    std::fs::remove_file(served.directory.join("new.toml")).expect("remove");
    served.daemon.signal(Signal::SIGHUP);
    assert!(served.daemon.wait_for_line("policies reloaded").contains("gone: new"));
    served.hello("new").expect_own_error(&["no policy is named \"new\""]);
    // A directory that is gone changes nothing either.
    std::fs::rename(&served.directory, served.scratch.file("elsewhere")).expect("rename");
    served.daemon.signal(Signal::SIGHUP);
    served.daemon.wait_for_line("policies not reloaded, the old ones stay");
    served.hello("small").expect_status(137);
}

#[test]
fn a_running_job_keeps_its_policy() {
    let served = Served::start();
    let mut job =
        spawn(served.scratch.sandboxctl_run(Some(&served.daemon)).args(["--policy", "small", "cat.wasm"]));
    let (mut input, mut output) = (job.stdin(), BufReader::new(job.stdout()));
    let mut line = String::new();
    input.write_all(b"before\n").expect("write");
    output.read_line(&mut line).expect("the job runs");
    write(&served.directory, "small.toml", "version = 1\n[limits]\noutput = 2\n");
    served.daemon.signal(Signal::SIGHUP);
    assert!(served.daemon.wait_for_line("policies reloaded").contains("changed: small"));
    // The new policy counts for new jobs, and would have ended this one.
    served.hello("small").expect_status(137);
    input.write_all(b"after\n").expect("write");
    drop(input);
    output.read_to_string(&mut line).expect("output");
    assert_eq!(line, "before\nafter\n");
    assert!(job.wait().0.success());
}

#[test]
fn a_daemon_does_not_start_with_a_bad_policy_and_reports_name_dangers() {
    let scratch = Scratch::new();
    let directory = directory(&scratch);
    write(
        &directory,
        "wide.toml",
        "version = 1\nallow_dangerous = true\ndangerous_reason = \"big data\"\n[limits]\nmemory = \"5GiB\"\n",
    );
    let daemon = Daemon::start_with(&["--policy-dir", directory.to_str().expect("path")]);
    scratch.module("hello.wasm", guests::HELLO);
    let output =
        run(scratch.sandboxctl_run(Some(&daemon)).args(["--policy", "wide", "--json", "hello.wasm"]));
    let report: Json =
        serde_json::from_str(output.expect_status(0).text().lines().nth(1).expect("report")).expect("JSON");
    assert_eq!(report["policy_dangers"][0]["reason"], "big data");

    write(&directory, "bad.toml", "version = 1\nextends = \"wdie\"\n");
    let mut second = Command::new(whole_system_tests::sandboxd());
    second.arg("--socket").arg(scratch.file("s")).arg("--policy-dir").arg(&directory);
    let output = run(&mut second);
    output.expect_status(1);
    assert!(
        output.stderr.contains("bad.toml:2:11") && output.stderr.contains("did you mean \"wide\"?"),
        "{}",
        output.stderr
    );
    assert!(!scratch.file("s").exists());
    // Without a directory there is nothing to reload; the daemon says so and goes on.
    let plain = Daemon::start();
    plain.signal(Signal::SIGHUP);
    plain.wait_for_line("no directory of policies");
    run(scratch.sandboxctl_run(Some(&plain)).arg("hello.wasm")).expect_status(0);
}

/// What `policy test` computes is what happens to native code in an instance.
#[tokio::test]
async fn the_kernel_does_what_policy_test_says() {
    let narrow = r#"
        version = 1
        [seccomp]
        deny = ["write", "futex"]
        [[seccomp.allow]]
        syscall = "write"
        when = ["arg0 == DOORBELL_FD", "arg2 == 8", "arg1 >= RING_BASE", "arg1 & 7 == 0"]
        why = "Only aligned words of the ring."
    "#;
    let ring = ipc::layout::RING_BASE;
    let memory = ipc::layout::MEMORY_BASE;
    let (write, futex, mprotect) =
        (libc::SYS_write as u32, libc::SYS_futex as u32, libc::SYS_mprotect as u32);
    let attacker = Attacker::under(Policy::builtin("default").expect("policy")).await;
    for policy in [
        Policy::builtin("default").expect("policy"),
        Policy::parse("version = 1\n[seccomp]\ndeny = [\"write\", \"futex\"]", "silent.toml")
            .expect("policy"),
        Policy::parse(narrow, "narrow.toml").expect("policy"),
    ] {
        let attacker = attacker.with_policy(policy.clone());
        let (mut allowed, mut refused) = (0, 0);
        for (number, args) in [
            (write, [3, ring, 8]),
            (write, [3, ring + 4, 8]),
            (write, [3, memory, 8]),
            (write, [3, 0x1000, 8]),
            (write, [3, ring, 9]),
            (write, [2, ring, 8]),
            (futex, [ring, 0, 7]),
            (futex, [ring, 1, 7]),
            (mprotect, [memory, 4096, 3]),
            (mprotect, [memory, 4096, 7]),
            (mprotect, [ring, 4096, 3]),
            (libc::SYS_openat as u32, [0, 0, 0]),
            (libc::SYS_getpid as u32, [0, 0, 0]),
            (1000, [0, 0, 0]),
        ] {
            let [a, b, c] = args;
            let question = Question::new(number, [a, b, c, 0, 0, 0]);
            let answer = policy.answer(&question).expect("answer");
            let report = attacker.attack("syscall", &[u64::from(number), a, b, c]).await;
            let killed = matches!(report.outcome, Outcome::Violated(Violation::Syscall { .. }));
            assert_eq!(
                killed,
                !answer.is_allowed(),
                "{}: {number} {args:x?}: {answer:?} {report:?}",
                policy.name()
            );
            if killed { refused += 1 } else { allowed += 1 }
        }
        assert!(allowed > 0 && refused > 5, "{}: {allowed} {refused}", policy.name());
    }
}
