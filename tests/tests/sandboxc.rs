//! `sandboxc` as a user meets it.

use std::path::Path;
use std::process::{Command, Output};

use nix::sys::signal::Signal;
use whole_system_tests::instances::compile_zygotes_of;
use whole_system_tests::{assert_no_orphans, guests, spawn};

fn sandboxc(directory: &Path, args: &[&str]) -> Output {
    Command::new(whole_system_tests::sandboxc()).current_dir(directory).args(args).output().unwrap()
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
fn an_artifact_tells_what_the_host_app_has_to_provide() {
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path();
    let toml = "interface = \"kv\"\n[[function]]\nname = \"get\"\nparams = [{ name = \"key\", type = \"string\" }]\n\
                results = [{ name = \"value\", type = \"u64\" }]\n";
    std::fs::write(at.join("kv.toml"), toml).unwrap();
    let wat = r#"(module
        (import "wasi_snapshot_preview1" "proc_exit" (func (param i32)))
        (import "kv" "get" (func (param i32 i32) (result i64))))"#;
    std::fs::write(at.join("m.wat"), wat).unwrap();
    let compiled = json(&sandboxc(at, &["m.wat", "-o", "a", "--json", "--interface", "kv.toml"]));
    let inspected = json(&sandboxc(at, &["inspect", "a", "--json"]));
    assert_eq!(compiled, inspected);
    let get =
        serde_json::json!({ "module": "kv", "name": "get", "kind": "function", "ty": "(i32, i32) -> (i64)" });
    assert_eq!(inspected["open_imports"], serde_json::json!([get]));
    assert_eq!(inspected["imports"].as_array().map(Vec::len), Some(1));
    let text = sandboxc(at, &["inspect", "a"]).stdout;
    let line = "open import function \"kv\" \"get\" (i32, i32) -> (i64)\n";
    assert!(String::from_utf8_lossy(&text).contains(line), "{}", String::from_utf8_lossy(&text));
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

fn json(output: &Output) -> serde_json::Value {
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!((text.lines().count(), output.stderr.len()), (1, 0), "{output:?}");
    serde_json::from_str(&text).unwrap()
}

#[test]
fn an_artifact_tells_what_is_in_it() {
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path();
    let wat = r#"(module
        (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
        (memory (export "memory") 1 2) (data (i32.const 0) "x")
        (table 3 funcref) (elem (i32.const 0) $divide)
        (func $divide (export "divide") (param i64 i64) (result i64)
            (i64.div_s (local.get 0) (local.get 1)))
        (func $load (param i32) (result i32) (call $exit (local.get 0)) (i32.load (local.get 0))))"#;
    std::fs::write(at.join("m.wat"), wat).unwrap();
    let options = ["--fuel", "--spectre-guards", "--nan-canonicalization", "-g", "--opt-level", "none"];
    let compiled =
        json(&sandboxc(at, &[&["m.wat", "-o", "a", "--json", "--threads", "2"][..], &options].concat()));
    let inspected = json(&sandboxc(at, &["inspect", "a", "--json"]));
    assert_eq!(compiled, inspected);

    let bytes = std::fs::read(at.join("a")).unwrap();
    assert_eq!(inspected["hash"], blake3::hash(&bytes).to_hex().as_str());
    let wasm = compiler::parse_text(wat.as_bytes()).unwrap();
    assert_eq!(inspected["wasm_hash"], blake3::hash(&wasm).to_hex().as_str());
    assert_eq!(inspected["sizes"]["file"], bytes.len());
    for option in ["fuel", "spectre_guards", "nan_canonicalization", "debug_info"] {
        assert_eq!(inspected["options"][option], true, "{option}");
    }
    assert_eq!(inspected["options"]["opt_level"], "none");
    assert_eq!(inspected["compiler"], compiler::version());
    let import = serde_json::json!({ "module": "wasi_snapshot_preview1", "name": "proc_exit", "signature": "(i32) -> ()" });
    assert_eq!(inspected["imports"], serde_json::json!([import]));
    assert_eq!(inspected["exports"][1]["signature"], "(i64, i64) -> (i64)");
    for (trap, count) in [
        ("integer divide by zero", 1),
        ("out of bounds memory access", 1),
        ("all fuel consumed by WebAssembly", 2),
    ] {
        assert_eq!(inspected["trap_sites"][trap], count, "{trap}");
    }
    // The functions lie in the code, one behind the other, and are named.
    let names: Vec<_> =
        inspected["functions"].as_array().unwrap().iter().map(|f| f["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["exit", "divide", "load"]);
    let code = inspected["segments"].as_array().unwrap().iter().find(|s| s["access"] == "r-x").unwrap();
    let mut end = code["address"].as_u64().unwrap();
    for function in inspected["functions"].as_array().unwrap() {
        assert_eq!(function["address"], end);
        end += function["bytes"].as_u64().unwrap();
    }
    assert!(end <= code["address"].as_u64().unwrap() + inspected["sizes"]["code"].as_u64().unwrap());

    let text = String::from_utf8(sandboxc(at, &["inspect", "a"]).stdout).unwrap();
    for line in [
        "options     opt level none, native processor, fuel, NaN canonicalisation, Spectre guards, debugging information",
        "import      wasi_snapshot_preview1 proc_exit (i32) -> ()",
        "export      \"divide\" function 1 (i64, i64) -> (i64) at 0x10",
        "traps              2 all fuel consumed by WebAssembly",
    ] {
        assert!(text.contains(line), "no `{line}` in\n{text}");
    }
}

#[test]
fn errors_are_json_for_programs() {
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path();
    let wrong = "(module (func) (func (result i32) (i64.const 1)))";
    std::fs::write(at.join("wrong.wasm"), compiler::parse_text(wrong.as_bytes()).unwrap()).unwrap();
    std::fs::write(at.join("wrong.wat"), "(module\n  (fnc))").unwrap();
    let error = |arguments: &[&str]| {
        let output = sandboxc(at, arguments);
        assert_eq!(output.status.code(), Some(125));
        json(&output)
    };
    for arguments in [&["wrong.wasm", "-o", "a", "--json"][..], &["wrong.wasm", "--validate", "--json"]] {
        let error = error(arguments);
        assert_eq!(
            (&error["kind"], &error["function"], &error["file"]),
            (&"invalid".into(), &1.into(), &"wrong.wasm".into())
        );
        assert!(error["offset"].is_u64() && error["message"].as_str().unwrap().contains("type mismatch"));
    }
    let text = error(&["wrong.wat", "-o", "a", "--json"]);
    assert_eq!((&text["kind"], &text["offset"]), (&"text".into(), &serde_json::Value::Null));
    let set = |key: &str| error(&["wrong.wasm", "-o", "a", "--json", "--set", key])["kind"].clone();
    assert_eq!(set("compile.caps.functions=1"), "cap");
    assert_eq!(set("compile.caps.unknown=1"), "configuration");
    std::fs::write(at.join("large.wasm"), guests::large(1, 400_000)).unwrap();
    let limit = ["--set", r#"compile.limits.memory="64MiB""#];
    assert_eq!(error(&[&["large.wasm", "-o", "a", "--json"][..], &limit].concat())["kind"], "limit");
    assert_eq!(error(&["none.wasm", "-o", "a", "--json"])["kind"], "io");
    assert_eq!(error(&["inspect", "wrong.wasm", "--json"])["kind"], "artifact");
}

#[test]
fn the_directory_does_not_matter() {
    let [one, two] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let artifacts = [one.path().to_owned(), two.path().join("deeper/down")].map(|directory| {
        std::fs::create_dir_all(&directory).unwrap();
        std::fs::write(directory.join("m.wasm"), include_bytes!("../../examples/guests/lines.wasm")).unwrap();
        let output = sandboxc(&directory, &["m.wasm", "-o", "a", "-g", "--fuel"]);
        assert!(output.status.success(), "{output:?}");
        std::fs::read(directory.join("a")).unwrap()
    });
    assert!(artifacts[0] == artifacts[1]);
}

#[test]
fn a_module_is_compiled_in_a_confined_worker_and_nowhere_else() {
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path();
    std::fs::write(at.join("large.wasm"), guests::large(400, 8000)).unwrap();
    let arguments = ["large.wasm", "-o", "a", "--threads", "1"];
    for form in ["image", "asm"] {
        let mut command = Command::new(whole_system_tests::sandboxc());
        let process = spawn(command.current_dir(at).args(arguments).args(["--emit", form]));
        let worker = loop {
            let zygotes = compile_zygotes_of(process.id());
            let workers: Vec<_> = zygotes.iter().flat_map(|z| compile_zygotes_of(z.0 as u32)).collect();
            match workers.into_iter().next() {
                Some(worker) => break worker,
                None => std::thread::yield_now(),
            }
        };
        let status = worker.status();
        let field = |name: &str| status.get(name).map(String::as_str).unwrap_or_default();
        assert_eq!((field("NoNewPrivs"), field("Seccomp")), ("1", "2"));
        // Its end is the end of the compilation.
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(worker.0), Signal::SIGKILL).unwrap();
        let (status, stderr) = process.wait();
        assert_eq!(status.code(), Some(125), "{stderr}");
        assert!(stderr.contains("large.wasm: ") && stderr.contains("was killed (SIGKILL)"), "{stderr}");
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
        assert!(!at.join("a").exists());
    }
    assert_no_orphans();
}

#[test]
fn what_an_artifact_says_of_itself_does_no_harm_to_a_terminal() {
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path();
    let wat = r#"(module (func $n (export "\1b[2J\0a") (result i32) (i32.const 7)))"#;
    std::fs::write(at.join("m.wat"), wat).unwrap();
    assert!(sandboxc(at, &["m.wat", "-o", "a"]).status.success());
    // Where the artifact names its compiler and the processor's features.
    let mut bytes = std::fs::read(at.join("a")).unwrap();
    for (from, to) in [(&b"sandboxd-compiler"[..], &b"\x1b[2Jboxd-compiler"[..]), (b"ssse3", b"\x1b[0m3")] {
        let found: Vec<_> = (0..bytes.len()).filter(|i| bytes[*i..].starts_with(from)).collect();
        assert!(!found.is_empty());
        found.into_iter().for_each(|at| bytes[at..at + to.len()].copy_from_slice(to));
    }
    std::fs::write(at.join("a"), bytes).unwrap();
    let output = sandboxc(at, &["inspect", "a"]);
    let text = [output.stdout, output.stderr].concat();
    assert!(text.iter().all(|byte| *byte == b'\n' || !byte.is_ascii_control()), "{:?}", text.escape_ascii());
}
