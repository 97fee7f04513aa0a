//! Writes the inputs that fuzzing starts with: `seeds [DIRECTORY]`, by default `corpus` beside this crate's manifest.
//!
//! For `fuzz-artifact` artifacts of small modules, as only an artifact gets past the first checks; for `fuzz-compile`
//! modules and the bytes of modules; for `fuzz-differential` bytes; for `fuzz-interface` and `fuzz-protocol` what a client sends.

use std::fs;
use std::path::{Path, PathBuf};

use arbitrary::Unstructured;
use compiler::{OptLevel, Options, TargetCpu};
use interface::{Interface, Value};
use ipc::protocol::{
    CallId, HEADER_BYTES, HandleChanges, HostResult, HostReturn, OpenedHandle, Payload, Request, encode,
};
use sandboxd_fuzz::generate;

/// Generated modules to start with.
const MODULES: u64 = 60;
/// Larger artifacts than this only make fuzzing slow.
const ARTIFACT_MAX: usize = 96 << 10;
/// What the first byte's lowest bits say in `fuzz-compile`: the rest is a module; the rest makes a module; it makes a changed
/// one. The others are options.
const MODES: [u8; 3] = [0, 1, 3];

/// Modules written by hand, for what the generator seldom makes.
const TEXTS: [&str; 4] = [
    "(module (func (export \"f\")))",
    "(module (memory (export \"m\") 1 2) (data (i32.const 5) \"data\")
       (func (export \"f\") (param i32) (result i32) (i32.load8_u offset=3 (local.get 0))))",
    "(module (table (export \"t\") 3 funcref) (elem (i32.const 0) $a $b) (type $t (func (result i32)))
       (func $a (result i32) (i32.const 1)) (func $b (result i32) (i32.div_u (i32.const 1) (i32.const 0)))
       (func (export \"f\") (param i32) (result i32) (call_indirect (type $t) (local.get 0))))",
    "(module (tag $e (export \"e\") (param i64)) (global (export \"g\") (mut f64) (f64.const 1.5))
       (func $t (throw $e (i64.const 7)))
       (func (export \"f\") (result i64) (block $h (result i64) (try_table (catch $e $h) (call $t)) (i64.const 1))))",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let directory = std::env::args_os().nth(1).map(PathBuf::from);
    let corpus = directory.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus"));
    let [compile, artifact, differential, interface, protocol] =
        ["fuzz-compile", "fuzz-artifact", "fuzz-differential", "fuzz-interface", "fuzz-protocol"]
            .map(|target| corpus.join(target));
    for directory in [&compile, &artifact, &differential, &interface, &protocol] {
        fs::create_dir_all(directory)?;
    }
    let sound = Interface::parse(include_str!("../../fuzz_targets/interface.toml"), "interface.toml")?;
    fs::write(interface.join("sent"), [&[0xff], &*sound.interface().to_bytes()?].concat())?;
    fs::write(protocol.join("typed-answer"), typed_answer()?)?;
    let mut modules = Vec::new();
    for text in TEXTS {
        modules.push(compiler::parse_text(text.as_bytes())?);
    }
    for seed in 0..MODULES {
        let random = generate::bytes(seed, 256 << (seed % 5));
        fs::write(differential.join(format!("seed-{seed}")), &random)?;
        for mode in MODES.into_iter().skip(1).map(|mode| mode | (seed as u8) << 2) {
            let input = [&[mode], random.as_slice()].concat();
            fs::write(compile.join(format!("seed-{seed}-{mode}")), input)?;
        }
        if let Ok(wasm) = generate::terminating(&mut Unstructured::new(&random), true) {
            modules.push(wasm);
        }
    }
    let mut artifacts = 0;
    for (number, wasm) in modules.iter().enumerate() {
        fs::write(compile.join(format!("module-{number}")), [&MODES[..1], wasm].concat())?;
        let opt_level = if number % 4 == 3 { OptLevel::None } else { OptLevel::Speed };
        let options =
            Options { opt_level, target_cpu: TargetCpu::Baseline, threads: 1, ..Options::default() };
        // The generator may be ahead of the compiler.
        let Ok(bytes) = compiler::compile(wasm, &options) else { continue };
        if bytes.len() <= ARTIFACT_MAX {
            fs::write(artifact.join(format!("module-{number}")), bytes)?;
            artifacts += 1;
        }
    }
    println!("{} modules and {artifacts} artifacts in {}", modules.len(), corpus.display());
    Ok(())
}

/// An answer to a typed call, with a value of every kind and a handle. The first byte is the target's.
fn typed_answer() -> Result<Vec<u8>, Box<dyn std::error::Error>> {
    let record = Value::Record(vec![Value::U8(1), Value::F64(0.5), Value::Handle(0x1_0000)]);
    let values = [
        Value::Enum(1),
        Value::String("text".to_owned()),
        Value::Bytes(vec![0, 255]),
        Value::List(vec![Value::S32(-1), Value::S32(1)]),
        Value::List(vec![record.clone(), record.clone()]),
        record,
    ];
    let values = values.iter().filter_map(Value::to_wire).collect();
    let opened = vec![OpenedHandle { handle: 0x1_0000, kind: 2 }];
    let handles = HandleChanges { closed: vec![0x2_0001], opened };
    let result = HostResult::Returned(Payload::Typed(values));
    let wire = encode(&Request::HostReturn(HostReturn { call: CallId(300), result, handles }))?;
    Ok([&[7], wire.get(HEADER_BYTES..).unwrap_or_default()].concat())
}
