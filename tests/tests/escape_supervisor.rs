//! The daemon's own confinement, seen by whoever has taken it over: what works without a layer, and that the layer alone stops it.
//!
//! The attacker is a process that confines itself with the code that `sandboxd` confines itself with (`tests/src/bin/confined-attacker.rs`),
//! and then does what it likes.

use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::process::Command;

use ipc::control::layer;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid as ProcessId;
use supervisor::confine::LAYERS;
use whole_system_tests::host::{is_root, landlock_has};
use whole_system_tests::instances::Pid;
use whole_system_tests::{Daemon, Scratch, guests, run, sandboxd};

/// What an attack gave: nothing, or an error number.
type Outcome = Result<(), i32>;

/// Lets the attacker do one thing under these layers.
#[track_caller]
fn attack(layers: u64, directory: Option<&Scratch>, attack: &str, argument: &str) -> Outcome {
    let mut command = Command::new(env!("CARGO_BIN_EXE_confined-attacker"));
    let directory = directory.map_or("-", |scratch| scratch.path().to_str().expect("UTF-8"));
    let output = run(command.args([&layers.to_string(), directory, attack, argument]));
    output.expect_status(0);
    let mut lines = output.text().lines();
    let outcome = lines.next().expect("an outcome");
    // The process that it had started.
    let victim: i32 = lines.next().and_then(|id| id.parse().ok()).expect("a process id");
    let _ = kill(ProcessId::from_raw(victim), Signal::SIGKILL);
    match outcome {
        "done" => Ok(()),
        errno => Err(errno.parse().unwrap_or_else(|_| panic!("{attack}: {outcome}"))),
    }
}

/// Every layer that this host has.
fn all() -> u64 {
    if supervisor::host::landlock_abi() > 0 { LAYERS } else { LAYERS & !layer::LANDLOCK }
}

/// That the attack works under every layer but these, and under each of them alone fails with its error; and under all.
#[track_caller]
fn stopped_by(layers: &[(u64, i32)], closed: Option<&Scratch>, name: &str, argument: &str) {
    let these = layers.iter().fold(0, |these, (layer, _)| these | layer);
    assert_eq!(attack(0, closed, name, argument), Ok(()), "{name} without any layer");
    assert_eq!(attack(all() & !these, closed, name, argument), Ok(()), "{name} without these layers");
    for (layer, errno) in layers {
        assert_eq!(attack(*layer, closed, name, argument), Err(*errno), "{name} under {layer:#x} alone");
    }
    assert!(attack(all(), closed, name, argument).is_err(), "{name} under all layers");
}

const SECCOMP: (u64, i32) = (layer::SECCOMP, libc::EPERM);

#[test]
fn a_daemon_that_is_taken_over_starts_no_process() {
    stopped_by(&[SECCOMP], None, "fork", "");
    let nothing = Scratch::new();
    let landlock = (layer::LANDLOCK, libc::EACCES);
    let layers = if landlock_has(1, "files") { &[SECCOMP, landlock][..] } else { &[SECCOMP] };
    // With a list of clients' directories Landlock denies executing, too.
    stopped_by(layers, Some(&nothing), "execute", "");
    stopped_by(&[SECCOMP], None, "execute", "");
}

#[test]
fn it_makes_no_memory_executable() {
    stopped_by(&[SECCOMP], None, "code", "");
}

#[test]
fn it_reaches_no_other_process() {
    let mut others = Vec::new();
    if landlock_has(1, "tracing") {
        others.push(layer::LANDLOCK);
    }
    if is_root() {
        // The other process has capabilities.
        others.push(layer::CAPABILITIES);
    }
    let with = |errno| others.iter().map(|layer| (*layer, errno)).collect::<Vec<_>>();
    stopped_by(&[vec![SECCOMP], with(libc::EPERM)].concat(), None, "trace", "");
    if !others.is_empty() {
        stopped_by(&with(libc::EACCES), None, "memory", "");
    }
    let landlock = (layer::LANDLOCK, libc::EPERM);
    let layers = if landlock_has(6, "signals") { &[SECCOMP, landlock][..] } else { &[SECCOMP] };
    stopped_by(layers, None, "kill", "");
}

#[test]
fn it_mounts_nothing_and_changes_no_namespace() {
    let place = Scratch::new();
    let mut layers = vec![SECCOMP, (layer::CAPABILITIES, libc::EPERM)];
    if landlock_has(1, "mounts") {
        layers.push((layer::LANDLOCK, libc::EPERM));
    }
    stopped_by(&layers, Some(&place), "mount", place.path().to_str().expect("UTF-8"));
    stopped_by(&[SECCOMP], None, "own-mount-namespace", "");
}

#[test]
fn it_connects_to_nobody_and_listens_to_nobody() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    let landlock = (layer::LANDLOCK, libc::EACCES);
    let layers = if landlock_has(4, "TCP") { &[SECCOMP, landlock][..] } else { &[SECCOMP] };
    stopped_by(layers, None, "connect", &address);
    stopped_by(layers, None, "listen", "");
    let name = format!("sandboxd-test-{}", std::process::id());
    let _listener =
        UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name).expect("a name")).expect("bind");
    let landlock = (layer::LANDLOCK, libc::EPERM);
    let layers = if landlock_has(6, "abstract sockets") { &[SECCOMP, landlock][..] } else { &[SECCOMP] };
    stopped_by(layers, None, "abstract", &name);
}

#[test]
fn it_opens_no_file_outside_of_its_places_where_they_are_listed() {
    if !landlock_has(1, "files") {
        return;
    }
    let (place, other) = (Scratch::new(), Scratch::new());
    let (inside, outside) = (place.write("inside", "mine"), other.write("secret", "not mine"));
    let text = |path: &std::path::PathBuf| path.to_str().expect("UTF-8").to_owned();
    let landlock = [(layer::LANDLOCK, libc::EACCES)];
    stopped_by(&landlock, Some(&place), "read", &text(&outside));
    stopped_by(&landlock, Some(&place), "read", "/etc/passwd");
    stopped_by(&landlock, Some(&place), "write", &text(&other.file("new")));
    if is_root() {
        stopped_by(&landlock, Some(&place), "read", "/etc/shadow");
    } else {
        println!("NOT CHECKED: only root can read /etc/shadow without a layer");
    }
    assert_eq!(attack(all(), Some(&place), "read", &text(&inside)), Ok(()));
    // What is left where they are not: the documents say so.
    assert_eq!(attack(all(), None, "read", &text(&outside)), Ok(()));
}

#[test]
fn a_daemon_of_root_has_nothing_of_roots_power() {
    if !is_root() {
        println!("NOT CHECKED: only root has capabilities to lose");
        return;
    }
    let scratch = Scratch::new();
    let secret = scratch.write("secret", "of another user");
    std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o600)).expect("chmod");
    nix::unistd::chown(&secret, Some(1234.into()), Some(1234.into())).expect("chown");
    let path = secret.to_str().expect("UTF-8");
    stopped_by(&[(layer::CAPABILITIES, libc::EACCES)], None, "read", path);
    stopped_by(&[SECCOMP, (layer::CAPABILITIES, libc::EPERM)], None, "become", "");
}

/// The threads of a process.
fn threads(of: u32) -> Vec<Pid> {
    let threads = std::fs::read_dir(format!("/proc/{of}/task")).expect("threads");
    threads.map(|t| Pid(t.expect("entry").file_name().to_string_lossy().parse().expect("a number"))).collect()
}

#[test]
fn the_kernel_confirms_it_for_every_thread_of_a_daemon_that_serves() {
    let daemon = Daemon::start();
    let said = daemon.wait_for_line("confined: ");
    for (bit, name) in layer::ALL.iter().filter(|(bit, _)| all() & bit != 0) {
        assert!(said.contains(name), "{name} {bit:#x}: {said}");
    }
    let scratch = Scratch::new();
    // Whoever asks is told the same, and what the host has, as whoever is not confined finds it.
    let ask = |options: &[&str]| {
        let output = run(scratch.sandboxctl().arg("doctor").args(options));
        output.expect_status(0);
        output.text().to_owned()
    };
    let socket = daemon.socket().to_str().expect("UTF-8");
    let told = ask(&["--socket", socket]);
    assert!(told.contains(&said) && !ask(&[]).contains("confined: "), "{told}");
    let json = |options: &[&str]| -> serde_json::Value { serde_json::from_str(&ask(options)).expect("JSON") };
    let (theirs, ours) = (json(&["--json", "--socket", socket]), json(&["--json"]));
    let layers = |report: &serde_json::Value| {
        let features = report["features"].as_array().expect("features").iter();
        let layers = features.filter(|feature| feature["kind"] == "layer");
        layers.map(|layer| (layer["name"].clone(), layer["status"].clone())).collect::<Vec<_>>()
    };
    assert_eq!(layers(&theirs), layers(&ours));
    scratch.module("hello.wasm", guests::HELLO);
    run(scratch.sandboxctl_run(Some(&daemon)).arg("hello.wasm")).expect_status(0);
    let threads = threads(daemon.id());
    assert!(threads.len() > 1, "{threads:?}");
    for thread in threads {
        let status = thread.status();
        for (key, value) in
            [("NoNewPrivs", "1"), ("Seccomp", "2"), ("CapEff", NONE), ("CapPrm", NONE), ("CapInh", NONE)]
        {
            assert_eq!(status[key], value, "{key} of thread {thread:?}");
        }
        if is_root() {
            assert_eq!(status["CapBnd"], NONE);
        } else {
            println!(
                "NOT CHECKED: an ordinary user cannot empty the bounding set, and needs no_new_privs in its place"
            );
        }
    }
    // What starts processes has kept what that takes, and can be looked into by as few.
    let spawner = Pid::only_child_of(daemon.id());
    assert_eq!(spawner.status()["Name"], "sandbox-spawner");
    assert_eq!((&*spawner.status()["NoNewPrivs"], &*spawner.status()["Seccomp"]), ("1", "0"));
    for process in [Pid(daemon.id() as i32), spawner] {
        assert!(is_root() || !process.is_open_to_us(), "{process:?} is dumpable");
    }
    if is_root() {
        println!("NOT CHECKED: root may look into every process, dumpable or not");
    }
}

const NONE: &str = "0000000000000000";

#[test]
fn confinement_can_be_required_or_switched_off_and_the_log_says_which() {
    let scratch = Scratch::new();
    if landlock_has(1, "files") {
        let daemon = Daemon::start_with(&["--set", "daemon.confine=\"required\""]);
        assert!(!daemon.wait_for_line("confined: ").contains("NOT"));
    } else {
        let socket = scratch.file("s");
        let required = ["--set", "daemon.confine=\"required\""];
        let refused = run(Command::new(sandboxd()).arg("--socket").arg(&socket).args(required));
        refused.expect_status(1);
        assert!(refused.stderr.contains("NOT landlock"), "{}", refused.stderr);
    }
    let socket = scratch.file("s");
    let off = ["--set", "daemon.confine=\"off\"", "--set", "daemon.directories=[]"];
    let refused = run(Command::new(sandboxd()).arg("--socket").arg(&socket).args(off));
    refused.expect_status(1);
    assert!(refused.stderr.contains("nothing enforces it"), "{}", refused.stderr);
    let daemon = Daemon::start_with(&["--set", "daemon.confine=\"off\""]);
    daemon.wait_for_line("NOT confined: daemon.confine is \"off\"");
    scratch.module("hello.wasm", guests::HELLO);
    run(scratch.sandboxctl_run(Some(&daemon)).arg("hello.wasm")).expect_status(0);
    assert_eq!(Pid(daemon.id() as i32).status()["Seccomp"], if host_is_filtered() { "2" } else { "0" });
}

/// A container's runtime may have put a filter around everything.
fn host_is_filtered() -> bool {
    Pid(std::process::id() as i32).status()["Seccomp"] != "0"
}

/// Makes `new` in its first directory and reads `text` there.
const FILES: &str = r#"(module
    (import "wasi_snapshot_preview1" "path_open"
        (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
    (memory (export "memory") 1)
    (data (i32.const 0) "new" "text")
    (func (export "_start") (local $errno i32)
        (local.set $errno (call $open (i32.const 3) (i32.const 0) (i32.const 3) (i32.const 4) (i32.const 0)
            (i64.const 2) (i64.const 0) (i32.const 0) (i32.const 100)))
        (if (i32.eqz (local.get $errno)) (then
            (local.set $errno (call $open (i32.const 3) (i32.const 0) (i32.const 0) (i32.const 3) (i32.const 1)
                (i64.const 64) (i64.const 0) (i32.const 0) (i32.const 100)))))
        (call $exit (local.get $errno))))"#;

#[test]
fn clients_bring_directories_from_the_listed_places_only() {
    if !landlock_has(1, "files") {
        return;
    }
    let (scratch, other) = (Scratch::new(), Scratch::new());
    scratch.module("files.wasm", FILES);
    let listed = format!("daemon.directories=[{:?}]", scratch.path().join("listed"));
    let socket = scratch.file("s");
    let refused = run(Command::new(sandboxd()).arg("--socket").arg(&socket).args(["--set", &listed]));
    refused.expect_status(1);
    assert!(
        refused.stderr.contains("listed cannot be left open to the confined daemon"),
        "{}",
        refused.stderr
    );
    assert!(!socket.exists());
    std::fs::create_dir_all(scratch.file("listed/job")).expect("a directory");
    std::fs::create_dir(scratch.file("elsewhere")).expect("a directory");
    for place in ["listed/job/text", "elsewhere/text"] {
        scratch.write(place, "text");
    }
    let policies = other.file("policies");
    std::fs::create_dir(&policies).expect("a directory");
    std::fs::set_permissions(&policies, std::fs::Permissions::from_mode(0o755)).expect("chmod");
    let policy_dir = policies.to_str().expect("UTF-8");
    let daemon = Daemon::start_with(&["--set", &listed, "--policy-dir", policy_dir]);
    let run_with = |directory: &str| {
        run(scratch
            .sandboxctl_run(Some(&daemon))
            .arg("--dir")
            .arg(format!("{directory}::/d"))
            .arg("files.wasm"))
    };
    run_with("listed/job").expect_status(0);
    assert!(scratch.file("listed/job/new").exists());
    run_with("elsewhere").expect_own_error(&["/d", "daemon.directories"]);
    run_with(other.path().to_str().expect("UTF-8")).expect_own_error(&["/d", "daemon.directories"]);
    assert!(!scratch.file("elsewhere/new").exists());
    // The rest of the daemon works without the rest of the file system.
    let cached = std::fs::read_dir(daemon.scratch().file("state/artifacts")).expect("the cache").count();
    assert_eq!(cached, 1);
    let policy = policies.join("late.toml");
    std::fs::write(&policy, "version = 1\n").expect("a policy");
    std::fs::set_permissions(&policy, std::fs::Permissions::from_mode(0o644)).expect("chmod");
    let reloaded = run(scratch.sandboxctl().args(["policy", "reload", "--socket"]).arg(daemon.socket()));
    assert!(reloaded.expect_status(0).text().contains("new: late"), "{reloaded:?}");
}

#[test]
fn a_daemon_without_its_spawner_ends_and_says_so() {
    let mut daemon = Daemon::start();
    let spawner = Pid::only_child_of(daemon.id());
    spawner.signal(Signal::SIGKILL);
    daemon.wait_for_line("the spawner, which starts zygotes, has ended");
    assert_eq!(daemon.wait().code(), Some(1));
}
