//! `sandboxctl compile`, `doctor` and `version`.

use supervisor::{Config, Error, ModuleSource, Supervisor};
use whole_system_tests::{Daemon, Scratch, guests, run};

#[test]
fn an_artifact_runs_like_its_module() {
    let scratch = Scratch::new();
    scratch.module("hello.wasm", guests::HELLO);
    let output = run(scratch.sandboxctl().args(["compile", "hello.wasm", "-o", "hello.sbx"]));
    output.expect_status(0);
    assert_eq!((output.text(), output.stderr.as_str()), ("", ""));
    assert_eq!(scratch.names(), ["hello.sbx", "hello.wasm"], "one file, and no temporary one");
    assert_eq!(run(scratch.sandboxctl_run(None).arg("hello.sbx")).expect_status(0).text(), "hello\n");
    let daemon = Daemon::start();
    assert_eq!(
        run(scratch.sandboxctl_run(Some(&daemon)).arg("hello.sbx")).expect_status(0).text(),
        "hello\n"
    );

    let first = std::fs::read(scratch.file("hello.sbx")).expect("read");
    run(scratch.sandboxctl().args(["compile", "hello.wasm", "-o", "hello.sbx"])).expect_status(0);
    assert!(std::fs::read(scratch.file("hello.sbx")).expect("read") == first, "the same bytes every time");
}

#[test]
fn a_damaged_artifact_is_refused() {
    let scratch = Scratch::new();
    scratch.module("hello.wasm", guests::HELLO);
    run(scratch.sandboxctl().args(["compile", "hello.wasm", "-o", "a"])).expect_status(0);
    let whole = std::fs::read(scratch.file("a")).expect("read");
    for (name, bytes) in [
        ("cut", whole[..whole.len() / 2].to_vec()),
        ("header", [&whole[..4], &[0xff; 60], &whole[64..]].concat()),
        ("short", whole[..10].to_vec()),
    ] {
        scratch.write(name, bytes);
        run(scratch.sandboxctl_run(None).arg(name)).expect_own_error(&[name, "artifact"]);
    }
}

/// An artifact that says that its code uses the SHA-512 instructions, which no artifact of this compiler uses.
fn of_another_processor(artifact: &[u8]) -> Vec<u8> {
    let mut bytes = artifact.to_vec();
    // The name of a feature, with its length before it.
    let (here, elsewhere) = (b"\x06popcnt", b"\x06sha512");
    let found: Vec<_> = (0..bytes.len()).filter(|at| bytes[*at..].starts_with(here)).collect();
    assert_eq!(found.len(), 1, "the artifact's list of features");
    bytes[found[0]..found[0] + elsewhere.len()].copy_from_slice(elsewhere);
    bytes
}

#[tokio::test]
async fn an_artifact_for_another_processor_is_refused_by_the_missing_feature() {
    let scratch = Scratch::new();
    scratch.module("hello.wasm", guests::HELLO);
    let options = ["--target-cpu", "baseline"];
    run(scratch.sandboxctl().args(["compile", "hello.wasm", "-o", "a"]).args(options)).expect_status(0);
    run(scratch.sandboxctl_run(None).arg("a")).expect_status(0);
    let other = of_another_processor(&std::fs::read(scratch.file("a")).expect("read"));
    scratch.write("other", &other);
    let said = ["other: ", "the artifact needs processor features that this one lacks: sha512;"];
    run(scratch.sandboxctl_run(None).arg("other")).expect_own_error(&said);
    run(scratch.sandboxctl_run(Some(&Daemon::start())).arg("other")).expect_own_error(&said);

    let supervisor = Supervisor::start(Config::default()).expect("a supervisor");
    let error = supervisor.load(ModuleSource::Artifact(other)).await.expect_err("refused");
    assert!(matches!(&error, Error::CpuFeatures { missing } if missing == "sha512"), "{error}");

    let mut inspect = std::process::Command::new(whole_system_tests::sandboxc());
    let inspected = run(inspect.current_dir(scratch.path()).args(["inspect", "other"]));
    assert!(inspected.expect_status(0).text().contains("this machine's CPU lacks sha512\n"));
}

#[test]
fn what_cannot_be_compiled_or_written_leaves_nothing() {
    let scratch = Scratch::new();
    scratch.module("hello.wasm", guests::HELLO);
    scratch.write("bad.wasm", b"\0asm\x01\0\0\0\x07");
    let compile = |module: &str, to: &str| run(scratch.sandboxctl().args(["compile", module, "-o", to]));
    compile("bad.wasm", "out").expect_own_error(&["bad.wasm"]);
    compile("missing.wasm", "out").expect_own_error(&["missing.wasm", "No such file"]);
    compile("hello.wasm", "no/such/directory").expect_own_error(&["no/such/directory", "No such file"]);
    compile("hello.wasm", ".").expect_own_error(&["cannot write ."]);
    compile("/dev/zero", "out").expect_own_error(&["/dev/zero", "not a regular file"]);
    assert_eq!(scratch.names(), ["bad.wasm", "hello.wasm"]);
    // Onto itself, and again: the first makes an artifact of it.
    compile("hello.wasm", "hello.wasm").expect_status(0);
    compile("hello.wasm", "hello.wasm").expect_own_error(&["hello.wasm", "artifact already"]);
    scratch.write("text.wat", guests::HELLO);
    compile("text.wat", "text").expect_status(0);
}

#[test]
fn only_regular_files_are_replaced() {
    use std::os::unix::fs::FileTypeExt;
    let scratch = Scratch::new();
    scratch.module("hello.wasm", guests::HELLO);
    let compile = |to: &str| run(scratch.sandboxctl().args(["compile", "hello.wasm", "-o", to]));
    compile("plain").expect_status(0);
    let artifact = std::fs::read(scratch.file("plain")).expect("read");

    scratch.write("target", "old");
    std::os::unix::fs::symlink("target", scratch.file("link")).expect("symlink");
    compile("link").expect_status(0);
    assert!(std::fs::symlink_metadata(scratch.file("link")).expect("link").is_symlink());
    assert!(std::fs::read(scratch.file("target")).expect("read") == artifact);

    std::os::unix::fs::symlink("nowhere", scratch.file("dangling")).expect("symlink");
    compile("dangling").expect_own_error(&["dangling", "leads nowhere"]);

    let pipe = scratch.file("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRUSR | nix::sys::stat::Mode::S_IWUSR)
        .expect("mkfifo");
    let read = std::thread::scope(|threads| {
        let reader = threads.spawn(|| std::fs::read(&pipe).expect("read"));
        compile("pipe").expect_status(0);
        assert!(std::fs::symlink_metadata(&pipe).expect("pipe").file_type().is_fifo());
        reader.join().expect("reader")
    });
    assert!(read == artifact);
}

#[test]
fn the_doctor_names_every_layer() {
    let scratch = Scratch::new();
    let text = run(scratch.sandboxctl().arg("doctor"));
    text.expect_status(0);
    for layer in ipc::control::layer::ALL {
        assert!(text.text().contains(layer.1), "{} is missing:\n{}", layer.1, text.text());
    }
    let json = run(scratch.sandboxctl().args(["doctor", "--json"]));
    let report: serde_json::Value = serde_json::from_slice(&json.expect_status(0).stdout).expect("JSON");
    assert!(report.is_object());
}

#[test]
fn version_and_help_are_no_errors() {
    let scratch = Scratch::new();
    let version = run(scratch.sandboxctl().arg("version"));
    assert!(version.expect_status(0).text().starts_with("sandboxctl "));
    run(scratch.sandboxctl().arg("--version")).expect_status(0);
    let help = run(scratch.sandboxctl().args(["run", "--help"]));
    assert!(help.expect_status(0).text().contains("--policy"));
}
