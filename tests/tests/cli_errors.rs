//! Bad input: one line that says what and where, exit status 125, nothing left behind.

use std::process::Command;

use whole_system_tests::{Daemon, Scratch, assert_no_orphans, guests, run};

/// Runs `sandboxctl run` with these arguments without a daemon and with one: each must refuse in the same words.
#[track_caller]
fn refused(scratch: &Scratch, daemon: &Daemon, arguments: &[&str], needles: &[&str]) {
    let before = scratch.names();
    let state = |directory: &Scratch| files_below(&directory.file("state/artifacts"));
    let artifacts = (state(scratch), state(daemon.scratch()));
    let direct = run(scratch.sandboxctl_run(None).args(arguments));
    direct.expect_own_error(needles);
    let through = run(scratch.sandboxctl_run(Some(daemon)).args(arguments));
    through.expect_own_error(needles);
    assert_eq!(direct.stderr, through.stderr, "with and without a daemon");
    assert_no_orphans();
    let known = |name: &String| name == "state" || before.contains(name);
    assert!(scratch.names().iter().all(known), "files left behind: {:?}", scratch.names());
    assert_eq!((state(scratch), state(daemon.scratch())), artifacts, "artifacts left behind");
}

fn files_below(directory: &std::path::Path) -> usize {
    let Ok(entries) = std::fs::read_dir(directory) else { return 0 };
    entries
        .map(|entry| entry.expect("entry").path())
        .map(|path| if path.is_dir() { files_below(&path) } else { 1 })
        .sum()
}

#[test]
fn modules_that_are_none() {
    let (scratch, daemon) = (Scratch::new(), Daemon::start());
    let check = |arguments: &[&str], needles: &[&str]| refused(&scratch, &daemon, arguments, needles);

    scratch.write("text.wasm", "this is no module");
    check(&["text.wasm"], &["text.wasm: not a WebAssembly module (neither binary nor text)"]);
    scratch.write("empty.wasm", "");
    check(&["empty.wasm"], &["empty.wasm: not a WebAssembly module"]);
    let whole = std::fs::read(scratch.module("whole.wasm", guests::HELLO)).expect("read");
    scratch.write("truncated.wasm", &whole[..whole.len() - 3]);
    check(&["truncated.wasm"], &["truncated.wasm", "0x"]);
    scratch.write("invalid.wasm", wat::parse_str("(module (func (result i32) i64.const 1))").expect("wat"));
    check(&["invalid.wasm"], &["invalid.wasm", "type mismatch", "0x"]);
    scratch.write("syntax.wat", "(module (func $f");
    check(&["syntax.wat"], &["syntax.wat: ", "does not parse: 1:17: "]);
    check(&["missing.wasm"], &["missing.wasm", "No such file"]);
    check(&["."], &["directory"]);
    check(&["/dev/null"], &["/dev/null", "not a regular file"]);
    scratch.write("elf.wasm", b"\x7fELF but not ours");
    check(&["elf.wasm"], &["elf.wasm", "artifact"]);
    let feature = "(module (type (array i32)) (func (drop (array.new_default 0 (i32.const 1)))))";
    scratch.module("feature.wasm", feature);
    check(&["feature.wasm"], &["feature.wasm", "garbage collection", "0x"]);
    // Others may mount what they like meanwhile.
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
    for directory in [scratch.path(), daemon.scratch().path()] {
        assert!(!mounts.contains(&*directory.to_string_lossy()), "{mounts}");
    }
}

#[test]
fn an_over_large_module() {
    let (scratch, daemon) = (Scratch::new(), Daemon::start());
    let file = std::fs::File::create(scratch.file("large.wasm")).expect("create");
    file.set_len(3 << 30).expect("sparse");
    refused(&scratch, &daemon, &["large.wasm"], &["large.wasm", "3221225472 bytes", "at most"]);
}

#[test]
fn modules_that_do_not_fit_the_host() {
    let (scratch, daemon) = (Scratch::new(), Daemon::start());
    let check = |arguments: &[&str], needles: &[&str]| refused(&scratch, &daemon, arguments, needles);
    scratch.module("import.wasm", r#"(module (import "env" "launch" (func)))"#);
    check(&["import.wasm"], &["import.wasm", "env", "launch"]);
    let wrong = r#"(module (import "wasi_snapshot_preview1" "fd_close" (func (param i64))))"#;
    scratch.module("type.wasm", wrong);
    check(&["type.wasm"], &["type.wasm", "fd_close", "i64", "i32"]);
    scratch.module("memory.wasm", r#"(module (import "env" "memory" (memory 1)))"#);
    check(&["memory.wasm"], &["memory.wasm", "env", "memory"]);
}

#[test]
fn entry_points_that_are_not_there() {
    let (scratch, daemon) = (Scratch::new(), Daemon::start());
    scratch.module("none.wasm", "(module (func (export \"other\")))");
    // The module is fine and may be kept: it is compiled before this looks for what it leaves behind.
    run(scratch.sandboxctl_run(None).args(["--invoke", "other", "none.wasm"])).expect_status(0);
    run(scratch.sandboxctl_run(Some(&daemon)).args(["--invoke", "other", "none.wasm"])).expect_status(0);
    refused(&scratch, &daemon, &["none.wasm"], &["none.wasm: ", "_start", "other"]);
    refused(&scratch, &daemon, &["--invoke", "missing", "none.wasm"], &["none.wasm: ", "missing", "other"]);
    refused(
        &scratch,
        &daemon,
        &["--invoke", "other", "none.wasm", "1"],
        &["none.wasm: ", "other", "0 arguments"],
    );
}

#[test]
fn policies_with_errors() {
    let (scratch, daemon) = (Scratch::new(), Daemon::start());
    scratch.module("hello.wasm", guests::HELLO);
    run(scratch.sandboxctl_run(None).arg("hello.wasm")).expect_status(0);
    run(scratch.sandboxctl_run(Some(&daemon)).arg("hello.wasm")).expect_status(0);
    let check = |policy: &str, needles: &[&str]| {
        refused(&scratch, &daemon, &["--policy", policy, "hello.wasm"], needles);
    };
    check("defualt", &["defualt", "default"]);
    check("missing.toml", &["missing.toml", "No such file"]);
    scratch.write("key.toml", "version = 1\n[limits]\nmemry = \"1GiB\"\n");
    check("key.toml", &["key.toml:3:1", "memry", "memory"]);
    scratch.write("syntax.toml", "version = \n");
    check("./syntax.toml", &["syntax.toml:1:"]);
    scratch.write("binary.toml", [0xff, 0xfe]);
    check("binary.toml", &["binary.toml"]);
    scratch.write("large.toml", "#".repeat(300 << 10));
    check("large.toml", &["large.toml"]);
    check("./", &["./"]);
}

#[test]
fn directories_and_variables_that_cannot_be_had() {
    let (scratch, daemon) = (Scratch::new(), Daemon::start());
    scratch.module("hello.wasm", guests::HELLO);
    scratch.write("file", "");
    let check = |arguments: &[&str], needles: &[&str]| refused(&scratch, &daemon, arguments, needles);
    check(&["--dir", "missing::/", "hello.wasm"], &["missing", "No such file"]);
    check(&["--ro-dir", "file::/", "hello.wasm"], &["file", "Not a directory"]);
    check(&["--env", "NO_SUCH_VARIABLE", "hello.wasm"], &["NO_SUCH_VARIABLE", "not set"]);
    check(&["--env", "=x", "hello.wasm"], &["--env =x", "no name"]);
    if !nix::unistd::geteuid().is_root() {
        std::fs::create_dir(scratch.file("secret")).expect("mkdir");
        let closed = std::os::unix::fs::PermissionsExt::from_mode(0o000);
        std::fs::set_permissions(scratch.file("secret"), closed).expect("chmod");
        check(&["--dir", "secret::/", "hello.wasm"], &["secret", "Permission denied"]);
    }
}

#[test]
fn command_lines_that_make_no_sense() {
    let scratch = Scratch::new();
    for (arguments, needle) in [
        (&["run"][..], "MODULE"),
        (&["run", "--unknown", "m.wasm"], "--unknown"),
        (&["run", "--memory", "much", "m.wasm"], "much"),
        (&["run", "--timeout", "1", "m.wasm"], "duration"),
        (&["run", "--dir", "::", "m.wasm"], "HOST::GUEST"),
        (&["compile", "m.wasm"], "--output"),
        (&["jump"], "jump"),
    ] {
        run(scratch.sandboxctl().args(arguments)).expect_own_error(&[needle]);
    }
}

#[test]
fn a_socket_that_nobody_serves() {
    let scratch = Scratch::new();
    scratch.module("hello.wasm", guests::HELLO);
    let socket = scratch.file("stale.sock");
    drop(std::os::unix::net::UnixListener::bind(&socket).expect("bind"));
    let through = |socket: &str| run(scratch.sandboxctl().args(["run", "--socket", socket, "hello.wasm"]));
    through("stale.sock").expect_own_error(&["stale.sock", "refused"]);
    through("missing.sock").expect_own_error(&["missing.sock", "No such file"]);
    through("hello.wasm").expect_own_error(&["hello.wasm"]);
    let mut command: Command = scratch.sandboxctl();
    command.args(["run", "hello.wasm"]).env("SANDBOXD_SOCKET", &socket);
    run(&mut command).expect_own_error(&["stale.sock", "refused"]);
    assert_eq!(scratch.names(), ["hello.wasm", "stale.sock"]);
}

#[test]
fn a_peer_that_is_no_daemon() {
    use std::io::{Read, Write};
    let scratch = Scratch::new();
    scratch.module("hello.wasm", guests::HELLO);
    let listener = std::os::unix::net::UnixListener::bind(scratch.file("other.sock")).expect("bind");
    for (answer, needle) in [
        (&b"HTTP/1.1 400 Bad Request\r\n\r\n"[..], "frame"),
        (b"", "closed"),
        (b"\x05\0\0\0hello", "no hello"),
        (b"\x0e\0\0\0sandboxd\0\0\x07\0\x09\0", "versions 7 to 9"),
        (b"\x14\0\0\0sandboxd\0\0\x01\0\x01\0no\nway", "no way"),
    ] {
        std::thread::scope(|threads| {
            threads.spawn(|| {
                let (mut stream, _) = listener.accept().expect("accept");
                let mut hello = [0; 16];
                stream.read_exact(&mut hello).expect("hello");
                stream.write_all(answer).expect("answer");
            });
            run(scratch.sandboxctl().args(["run", "--socket", "other.sock", "hello.wasm"]))
                .expect_own_error(&[needle]);
        });
    }
}
