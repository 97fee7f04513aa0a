//! Compilation in confined workers, with real modules and real limits.

use std::time::Duration;

use supervisor::{CompileLimits, Config, Error, ModuleSource, Supervisor};
use whole_system_tests::guests::large;
use whole_system_tests::instances::compile_zygotes_of;

const SMALL: &str = r#"(module (func (export "_start")))"#;

fn supervisor(compile_limits: CompileLimits) -> Supervisor {
    Supervisor::start(Config { compile_limits, ..Config::default() }).expect("a supervisor")
}

/// The error that `limits` cause. With the limit raised the same module compiles.
async fn refused(module: Vec<u8>, limits: CompileLimits) -> String {
    let limited = supervisor(limits);
    let error = limited.load(ModuleSource::Wasm(module.clone())).await.expect_err("a limit is reached");
    assert!(matches!(error, Error::CompileLimit { .. }), "{error}");
    // The limit costs that module its compilation, and nobody else anything.
    limited.load(ModuleSource::Wasm(SMALL.into())).await.expect("a small module");
    let raised = supervisor(CompileLimits::default());
    raised.load(ModuleSource::Wasm(module)).await.expect("within the limit");
    error.to_string()
}

#[tokio::test]
async fn a_module_that_takes_too_much_memory_is_refused() {
    let limits = CompileLimits { memory: 64 << 20, ..CompileLimits::default() };
    let error = refused(large(1, 250_000), limits).await;
    assert!(error.contains("memory of 64MiB: `compile.limits.memory` raises the limit"), "{error}");
}

#[tokio::test]
async fn a_module_that_takes_too_much_processor_time_is_refused() {
    let limits = CompileLimits { cpu_time: Duration::from_secs(1), ..CompileLimits::default() };
    let error = refused(large(400, 8000), limits).await;
    assert!(error.contains("CPU time of 1s: `compile.limits.cpu_time` raises the limit"), "{error}");
}

#[tokio::test]
async fn a_module_that_takes_too_long_is_refused() {
    let limits = CompileLimits { wall_time: Duration::from_millis(200), ..CompileLimits::default() };
    let error = refused(large(200, 8000), limits).await;
    assert!(error.contains("wall time of 200ms: `compile.limits.wall_time` raises the limit"), "{error}");
}

#[tokio::test]
async fn the_kernel_confirms_the_confinement_of_the_compile_zygote() {
    let supervisor = supervisor(CompileLimits::default());
    supervisor.load(ModuleSource::Wasm(SMALL.into())).await.expect("a small module");
    let zygotes = compile_zygotes_of(std::process::id());
    assert!(!zygotes.is_empty(), "it stays for the next compilation");
    for zygote in zygotes {
        let status = zygote.status();
        let field = |name: &str| status.get(name).map(String::as_str).unwrap_or_default();
        assert_eq!(field("NoNewPrivs"), "1");
        assert_eq!((field("Seccomp"), field("Seccomp_filters")), ("2", "1"));
        assert_eq!((field("Threads"), field("CapBnd")), ("1", "0000000000000000"));
        // What forking into a PID namespace takes; workers drop it.
        assert_eq!(field("CapEff"), "0000000000200000");
    }
}
