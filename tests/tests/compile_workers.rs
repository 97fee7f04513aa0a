//! Compilation in confined workers, with real modules and real limits.

use std::time::Duration;

use supervisor::{CompileLimits, Config, Error, ModuleSource, Supervisor};

const SMALL: &str = r#"(module (func (export "_start")))"#;

/// A module that takes the compiler a while: many functions of many operators.
fn large() -> Vec<u8> {
    let mut text = String::from("(module\n");
    for _ in 0..200 {
        text.push_str("(func (param i32) (result i32) local.get 0\n");
        for number in 0..2000 {
            text.push_str(&format!("i32.const {number} i32.mul local.get 0 i32.xor\n"));
        }
        text.push_str(")\n");
    }
    text.push(')');
    wat::parse_str(&text).expect("well-formed")
}

fn supervisor(compile_limits: CompileLimits) -> Supervisor {
    Supervisor::start(Config { compile_limits, ..Config::default() }).expect("a supervisor")
}

async fn refused(limits: CompileLimits) -> String {
    let supervisor = supervisor(limits);
    let error = supervisor.load(ModuleSource::Wasm(large())).await.expect_err("a limit is reached");
    assert!(matches!(error, Error::CompileLimit { .. }), "{error}");
    // The limit costs that module its compilation, and nobody else anything.
    supervisor.load(ModuleSource::Wasm(SMALL.into())).await.expect("a small module");
    error.to_string()
}

#[tokio::test]
async fn a_module_that_takes_too_much_memory_is_refused() {
    let error = refused(CompileLimits { memory: 40 << 20, ..CompileLimits::default() }).await;
    assert!(error.contains("memory of 40MiB") && error.contains("Config.compile_limits.memory"), "{error}");
}

#[tokio::test]
async fn a_module_that_takes_too_much_processor_time_is_refused() {
    let error = refused(CompileLimits { cpu_time: Duration::from_secs(1), ..CompileLimits::default() }).await;
    assert!(error.contains("CPU time of 1s") && error.contains("Config.compile_limits.cpu_time"), "{error}");
}

#[tokio::test]
async fn a_module_that_takes_too_long_is_refused() {
    let error = refused(CompileLimits { wall_time: Duration::from_millis(200), ..CompileLimits::default() });
    let error = error.await;
    assert!(error.contains("200ms") && error.contains("Config.compile_limits.wall_time"), "{error}");
}
