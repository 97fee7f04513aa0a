//! Bytes through a typed host function of the host app: so many in, and as many out.

use std::sync::Arc;
use std::time::Instant;

use clap::Args;
use compiler::Options;
use interface::{Interface, Reply, Value};
use policies::Policy;
use serde_json::json;
use supervisor::{Config, Job, ModuleSource, Service, Supervisor};

use crate::{Failure, check};

#[derive(Args)]
pub struct Bulk {
    /// Calls, all in one job.
    #[arg(long, default_value_t = 2000)]
    calls: u32,
    /// Bytes that go in, and come back.
    #[arg(long, default_value_t = 1 << 20)]
    bytes: u32,
}

const INTERFACE: &str = r#"
interface = "bulk"
[[function]]
name = "echo"
params = [{ name = "data", type = "bytes" }]
results = [{ name = "same", type = "bytes" }]
"#;

/// Calls the function with the same bytes again and again; the length of what comes back is checked by the trap.
fn guest(Bulk { calls, bytes }: &Bulk) -> String {
    let (from, to) = (65536, 65536 + bytes.next_multiple_of(65536));
    let pages = 1 + 2 * bytes.div_ceil(65536);
    format!(
        r#"(module
            (import "bulk" "echo" (func $echo (param i32 i32 i32 i32 i32)))
            (memory {pages})
            (func (export "_start") (local $left i32)
                (memory.fill (i32.const {from}) (i32.const 7) (i32.const {bytes}))
                (local.set $left (i32.const {calls}))
                (block $done (loop $next
                    (br_if $done (i32.eqz (local.get $left)))
                    (call $echo (i32.const {from}) (i32.const {bytes}) (i32.const {to}) (i32.const {bytes}) (i32.const 0))
                    (if (i32.ne (i32.load (i32.const 0)) (i32.const {bytes})) (then unreachable))
                    (local.set $left (i32.sub (local.get $left) (i32.const 1)))
                    (br $next)))))"#
    )
}

/// Measures on this thread.
pub async fn measure(options: &Bulk) -> Result<serde_json::Value, Failure> {
    let compile = Options { open_imports: true, ..Options::default() };
    let supervisor = Supervisor::start(Config { shards: 1, compile, ..Config::default() })?;
    let module = supervisor.load(ModuleSource::Wasm(guest(options).into_bytes())).await?;
    let mut service = Service::new(Interface::parse(INTERFACE, "bulk.toml")?);
    service.function("echo", |_, arguments: Vec<Value>| async move { Ok(Reply::Values(arguments)) })?;
    let policy = Arc::new(Policy::builtin("default")?);
    let shard = supervisor.local_shard()?;
    let mut seconds = f64::INFINITY;
    for _ in 0..3 {
        let mut job = Job::command(module.clone(), Arc::clone(&policy));
        job.imports.serve(&service)?;
        let started = Instant::now();
        check(&shard.run(job).await?)?;
        seconds = seconds.min(started.elapsed().as_secs_f64());
    }
    let calls = f64::from(options.calls.max(1));
    let bytes = 2.0 * f64::from(options.bytes) * calls;
    Ok(json!({
        "bytes_each_way": options.bytes,
        "us_per_call": seconds * 1e6 / calls,
        "gigabytes_per_second_in_and_out": bytes / seconds / 1e9,
    }))
}
