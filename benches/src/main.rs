//! `jobs`: what one job costs, how many a host does per second, and whether they leave anything behind.
//!
//! ```text
//! jobs latency    [--count N] [--gap-us N] [--module FILE] [--policy NAME|FILE] [--local | --socket PATH | --in-process-wasmtime]
//! jobs throughput [--count N] [--in-flight N] [--shards N] [--module FILE] [--policy NAME|FILE] [--local | --socket PATH]
//! jobs floor      [--count N] [--rounds N]
//! jobs soak       [--count N] [--in-flight N] [--parked N] [--module FILE | --calls N] [--seconds N]
//! jobs bulk       [--calls N] [--bytes N]
//! jobs roundtrip  [--calls N] [--rounds N]
//! ```
//!
//! Prints one JSON object. A job whose outcome is not exit code 0 ends the measurement with an error: a fast
//! failure is not a figure.

mod bulk;
mod daemon;
mod family;
mod floor;
mod growth;
mod library;
mod roundtrip;
mod soak;
mod stats;
#[cfg(feature = "peers")]
mod wasmtime_peer;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Args, Parser, Subcommand};
use serde_json::{Value, json};
use stats::Summary;
use supervisor::{Outcome, PoolLimits, Report};

/// Any error: this program prints it and ends.
type Failure = Box<dyn std::error::Error>;

/// The module that is run when none is given: it does nothing, so what remains is the cost of a job.
const NOTHING: &str = r#"(module (memory (export "memory") 1) (func (export "_start")))"#;

#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    measurement: Measurement,
}

#[derive(Subcommand)]
enum Measurement {
    /// One job at a time, with a pause between.
    Latency(Latency),
    /// As many as possible.
    Throughput(Throughput),
    /// Many jobs, with host calls or without, and many parked instances that are killed together; an error if anything leaks or hangs.
    Soak(soak::Soak),
    /// What the kernel takes for processes that do nothing.
    Floor(floor::Floor),
    /// A parked job by the number of parked instances, the size of the image, and that of the memory.
    Growth,
    /// Bytes through a typed host function, in and out.
    Bulk(bulk::Bulk),
    /// A host call that waits for its answer, beside a round trip by futex, on one processor and on two.
    Roundtrip(roundtrip::RoundTrip),
}

#[derive(Args)]
struct Target {
    /// WebAssembly, or an artifact, to run; without it, a module that does nothing.
    #[arg(long)]
    module: Option<PathBuf>,
    /// Through the daemon that listens here, instead of the library in this process.
    #[arg(long)]
    socket: Option<PathBuf>,
    /// The policy of the jobs: a name or a file. Through a daemon it is always the default.
    #[arg(long, default_value = "default", conflicts_with = "socket")]
    policy: String,
}

#[derive(Args)]
struct Latency {
    #[command(flatten)]
    target: Target,
    /// Jobs that are measured; a tenth as many run before, unmeasured.
    #[arg(long, default_value_t = 2000)]
    count: usize,
    /// On the thread that asks, instead of a shard's own.
    #[arg(long, conflicts_with = "socket")]
    local: bool,
    /// Pause between jobs, microseconds.
    #[arg(long, default_value_t = 1000)]
    gap_us: u64,
    /// Instead of a job: instantiate, run and drop the module with Wasmtime in this process.
    #[cfg(feature = "peers")]
    #[arg(long, conflicts_with = "socket")]
    in_process_wasmtime: bool,
}

#[derive(Args)]
struct Throughput {
    #[command(flatten)]
    target: Target,
    /// Jobs that are measured; a tenth as many run before, unmeasured.
    #[arg(long, default_value_t = 20_000)]
    count: usize,
    /// Jobs in flight at any time.
    #[arg(long, default_value_t = 8)]
    in_flight: usize,
    /// Shards of the supervisor in this process. A daemon has its own.
    #[arg(long, default_value_t = 2)]
    shards: usize,
    /// Each shard on a thread that asks for its jobs itself.
    #[arg(long, conflicts_with = "socket")]
    local: bool,
}

/// Whatever runs jobs.
pub(crate) trait Runner {
    /// Runs one job to its end and checks that it went well.
    async fn run_one(&mut self) -> Result<(), Failure>;
}

/// The only good end of a measured job.
fn check(report: &Report) -> Result<(), Failure> {
    match &report.outcome {
        Outcome::Exited { code: 0, .. } => Ok(()),
        other => Err(format!("a measured job did not end well: {other:?}").into()),
    }
}

fn module_bytes(target: &Target) -> Result<Vec<u8>, Failure> {
    match &target.module {
        Some(path) => std::fs::read(path).map_err(|e| format!("{}: {e}", path.display()).into()),
        None => Ok(wat::parse_str(NOTHING)?),
    }
}

/// Jobs per second of threads that each have a shard of their own.
fn local_throughput(options: &Throughput, wasm: &[u8]) -> Result<f64, Failure> {
    let shards = options.shards.max(1);
    let (count, in_flight) = (options.count / shards, options.in_flight.div_ceil(shards));
    let thread = |processor: usize| -> Result<f64, String> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let tasks = tokio::task::LocalSet::new();
        let rate = async {
            let local = library::Local::new(
                wasm.to_vec(),
                Some(processor),
                &options.target.policy,
                PoolLimits::default(),
            )
            .await?;
            flat_out(vec![local; in_flight], count).await
        };
        tasks.block_on(&runtime.map_err(|e| e.to_string())?, rate).map_err(|e| e.to_string())
    };
    let rates: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..shards).map(|i| scope.spawn(move || thread(i))).collect();
        threads.into_iter().map(|t| t.join().unwrap_or_else(|_| Err("a panic".to_owned()))).collect()
    });
    Ok(rates.into_iter().collect::<Result<Vec<_>, _>>()?.iter().sum())
}

/// Times of `count` jobs, one after the other, `gap` apart.
async fn one_by_one(runner: &mut impl Runner, count: usize, gap: Duration) -> Result<Vec<Duration>, Failure> {
    let mut times = Vec::with_capacity(count);
    for i in 0..count + count / 10 {
        let start = Instant::now();
        runner.run_one().await?;
        if i >= count / 10 {
            times.push(start.elapsed());
        }
        if !gap.is_zero() {
            tokio::time::sleep(gap).await;
        }
    }
    Ok(times)
}

/// Jobs per second over `runners`, each of which runs one job after the other.
async fn flat_out(runners: Vec<impl Runner + 'static>, count: usize) -> Result<f64, Failure> {
    let per_runner = count.div_ceil(runners.len().max(1));
    let warm_up = per_runner / 10;
    let local = tokio::task::LocalSet::new();
    local
        .run_until(async move {
            let mut warm = Vec::new();
            for mut runner in runners {
                warm.push(tokio::task::spawn_local(async move {
                    for _ in 0..warm_up {
                        runner.run_one().await.map_err(|e| e.to_string())?;
                    }
                    Ok::<_, String>(runner)
                }));
            }
            let mut ready = Vec::new();
            for task in warm {
                ready.push(task.await??);
            }
            let (start, total) = (Instant::now(), per_runner * ready.len());
            let mut tasks = Vec::new();
            for mut runner in ready {
                tasks.push(tokio::task::spawn_local(async move {
                    for _ in 0..per_runner {
                        runner.run_one().await.map_err(|e| e.to_string())?;
                    }
                    Ok::<_, String>(())
                }));
            }
            for task in tasks {
                task.await??;
            }
            Ok(total as f64 / start.elapsed().as_secs_f64())
        })
        .await
}

async fn latency(options: &Latency) -> Result<Value, Failure> {
    let (count, gap) = (options.count, Duration::from_micros(options.gap_us));
    let wasm = module_bytes(&options.target)?;
    #[cfg(feature = "peers")]
    if options.in_process_wasmtime {
        let times = one_by_one(&mut wasmtime_peer::InProcess::new(&wasm)?, count, gap).await?;
        return Ok(json!({ "what": "wasmtime in-process", "latency": Summary::of(times) }));
    }
    let (what, times) = match &options.target.socket {
        Some(socket) => {
            let mut runner = daemon::Connection::new(socket, &wasm).await?;
            ("daemon", one_by_one(&mut runner, count, gap).await?)
        }
        None if options.local => {
            let tasks = tokio::task::LocalSet::new();
            let measured = tasks.run_until(async {
                let mut runner =
                    library::Local::new(wasm, None, &options.target.policy, PoolLimits::default()).await?;
                one_by_one(&mut runner, count, gap).await
            });
            ("library, on this thread", measured.await?)
        }
        None => {
            let mut runner =
                library::Library::new(wasm, 1, &options.target.policy, PoolLimits::default()).await?;
            ("library", one_by_one(&mut runner, count, gap).await?)
        }
    };
    Ok(json!({ "what": what, "gap_us": options.gap_us, "latency": Summary::of(times) }))
}

async fn throughput(options: &Throughput) -> Result<Value, Failure> {
    let wasm = module_bytes(&options.target)?;
    let (what, rate) = match &options.target.socket {
        Some(socket) => {
            let mut runners = Vec::new();
            for _ in 0..options.in_flight {
                runners.push(daemon::Connection::new(socket, &wasm).await?);
            }
            ("daemon", flat_out(runners, options.count).await?)
        }
        None if options.local => ("library, on its threads", local_throughput(options, &wasm)?),
        None => {
            let library =
                library::Library::new(wasm, options.shards, &options.target.policy, PoolLimits::default())
                    .await?;
            ("library", flat_out(vec![library; options.in_flight], options.count).await?)
        }
    };
    Ok(json!({ "what": what, "in_flight": options.in_flight, "jobs_per_second": rate }))
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => {
            eprintln!("jobs: no runtime: {e}");
            return ExitCode::FAILURE;
        }
    };
    let result = runtime.block_on(async {
        match &cli.measurement {
            Measurement::Latency(options) => latency(options).await,
            Measurement::Throughput(options) => throughput(options).await,
            Measurement::Soak(options) => soak::soak(options).await,
            Measurement::Floor(options) => floor::measure(options),
            Measurement::Growth => growth::growth().await,
            Measurement::Bulk(options) => {
                tokio::task::LocalSet::new().run_until(bulk::measure(options)).await
            }
            Measurement::Roundtrip(options) => {
                tokio::task::LocalSet::new().run_until(roundtrip::measure(options)).await
            }
        }
    });
    match result {
        Ok(figures) => {
            println!("{figures}");
            ExitCode::SUCCESS
        }
        Err(e) => {
            eprintln!("jobs: {e}");
            ExitCode::FAILURE
        }
    }
}
