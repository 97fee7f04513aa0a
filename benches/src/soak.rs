//! Many jobs in a row, many calls that wait, and many parked instances killed together: what is held and left behind must not grow, and
//! no wake-up may be lost.
//!
//! Everything is compared with what was held after a warm-up. Counts that only this process decides (descriptors, mappings,
//! processes, files of the cache) must be equal; memory and the kernel's own objects have some room, because they are
//! freed late and the rest of the host uses them too. A leak of one of the latter per job is beyond that room.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use policies::Policy;
use serde::Serialize;
use serde_json::{Value, json};
use supervisor::{Config, Job, Module, ModuleSource, PoolLimits, Supervisor};

use crate::family::{Family, below};
use crate::{Failure, check, module_bytes};

#[derive(Args)]
pub struct Soak {
    #[command(flatten)]
    target: crate::Target,
    /// Jobs, after a warm-up of 500; 0 for none.
    #[arg(long, default_value_t = 100_000)]
    count: usize,
    /// Jobs in flight at any time.
    #[arg(long, default_value_t = 8)]
    in_flight: usize,
    /// Host calls that wait for their answer, of each job; without a module.
    #[arg(long, default_value_t = 0, conflicts_with = "module")]
    calls: u32,
    /// Ends after this time, whatever the count.
    #[arg(long)]
    seconds: Option<u64>,
    /// Instances that are parked at once and killed together, three times in different ways; 0 for none.
    #[arg(long, default_value_t = 0)]
    parked: usize,
}

/// Jobs before the first look.
const WARM_UP: usize = 500;
/// How long what was given back may take to be gone.
const SETTLE: Duration = Duration::from_secs(60);
/// How long all calls of a job may take. Nothing but the answer wakes an instance, so a lost wake-up is a job that ends by this.
const CALLS_PATIENCE: Duration = Duration::from_secs(60);
/// Growth of this process's resident memory, KiB: what allocators keep.
const OWN_MEMORY_KIB: u64 = 8 << 10;
/// Growth of one zygote's, KiB.
const ZYGOTE_MEMORY_KIB: u64 = 256;
/// Descriptors of one parked instance here: ring, doorbell, pidfd, statm.
const DESCRIPTORS_EACH: u64 = 4;

/// What is held at one moment.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct Held {
    descriptors: usize,
    mappings: usize,
    processes: usize,
    cache_files: usize,
    resident_kib: u64,
    largest_zygote_kib: u64,
    /// Objects in use of the kernel, where it tells.
    kernel_objects: BTreeMap<String, u64>,
}

impl Held {
    fn now(cache: &Path) -> Self {
        let Family { roots, modules, .. } = Family::now();
        Self {
            descriptors: fs::read_dir("/proc/self/fd").map_or(0, Iterator::count),
            mappings: fs::read_to_string("/proc/self/maps").map_or(0, |maps| maps.lines().count()),
            processes: below(std::process::id() as i32).len(),
            cache_files: files(cache),
            resident_kib: resident_kib(std::process::id() as i32),
            largest_zygote_kib: roots.into_iter().chain(modules).map(resident_kib).max().unwrap_or(0),
            kernel_objects: kernel_objects(),
        }
    }

    /// What has leaked between `before` and now.
    fn leaks(&self, before: &Self, jobs: usize) -> Vec<String> {
        let mut leaks = Vec::new();
        let mut compare = |what: &str, now: u64, then: u64, room: u64| {
            if now > then + room {
                leaks.push(format!("{what}: {now} after {then}, {room} more would be fine"));
            }
        };
        compare("descriptors", self.descriptors as u64, before.descriptors as u64, 0);
        // The allocator's arenas come and go by a few.
        compare("mappings", self.mappings as u64, before.mappings as u64, 16);
        compare("processes", self.processes as u64, before.processes as u64, 0);
        compare("files of the cache", self.cache_files as u64, before.cache_files as u64, 0);
        compare("resident KiB", self.resident_kib, before.resident_kib, OWN_MEMORY_KIB);
        let (now, then) = (self.largest_zygote_kib, before.largest_zygote_kib);
        compare("resident KiB of a zygote", now, then, ZYGOTE_MEMORY_KIB);
        for (name, now) in &self.kernel_objects {
            let then = before.kernel_objects.get(name).copied().unwrap_or(0);
            compare(name, *now, then, (jobs as u64 / 10).max(1000));
        }
        leaks
    }
}

fn resident_kib(pid: i32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

fn files(directory: &Path) -> usize {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|entry| if entry.path().is_dir() { files(&entry.path()) } else { 1 }).sum()
}

/// Active objects of the slabs that processes and their files are made of (slabinfo(5)); root only.
fn kernel_objects() -> BTreeMap<String, u64> {
    const SLABS: &[&str] = &[
        "task_struct",
        "mm_struct",
        "signal_cache",
        "files_cache",
        "pid",
        "nsproxy",
        "sock_inode_cache",
        "shmem_inode_cache",
    ];
    let text = fs::read_to_string("/proc/slabinfo").unwrap_or_default();
    let slab = |line: &str| {
        let mut fields = line.split_whitespace();
        let name = fields.next().filter(|name| SLABS.contains(name))?;
        Some((name.to_owned(), fields.next()?.parse().ok()?))
    };
    text.lines().filter_map(slab).collect()
}

/// Waits until something holds.
pub async fn settled(what: &str, mut holds: impl FnMut() -> bool) -> Result<Duration, Failure> {
    let start = Instant::now();
    while !holds() {
        if start.elapsed() > SETTLE {
            return Err(format!("{what}: not after {SETTLE:?}").into());
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(start.elapsed())
}

/// A supervisor with a cache of its own, a module and a policy.
struct Host {
    supervisor: Supervisor,
    module: Module,
    policy: Arc<Policy>,
    /// Host calls of each job.
    calls: Option<u32>,
}

/// A module that asks for the status of its standard output so many times, and each time gets it.
fn calling(calls: u32) -> Result<Vec<u8>, Failure> {
    Ok(wat::parse_str(format!(
        r#"(module
          (import "wasi_snapshot_preview1" "fd_filestat_get" (func $status (param i32 i32) (result i32)))
          (memory (export "memory") 1)
          (func (export "_start") (local $left i32)
            (local.set $left (i32.const {calls}))
            (loop $next
              (if (call $status (i32.const 1) (i32.const 0)) (then (unreachable)))
              (br_if $next (local.tee $left (i32.sub (local.get $left) (i32.const 1)))))))"#
    ))?)
}

impl Host {
    async fn start(wasm: &[u8], cache: &Path, pool: PoolLimits) -> Result<Self, Failure> {
        let state_dir = Some(cache.to_owned());
        let supervisor = Supervisor::start(Config { pool, state_dir, ..Config::default() })?;
        let module = supervisor.load(ModuleSource::Wasm(wasm.to_owned())).await?;
        Ok(Self { supervisor, module, policy: Arc::new(Policy::builtin("default")?), calls: None })
    }

    async fn run(&self) -> Result<(), Failure> {
        let mut job = Job::command(self.module.clone(), Arc::clone(&self.policy));
        job.limits.wall_time = self.calls.map(|_| CALLS_PATIENCE);
        let report = self.supervisor.run(job).await?;
        check(&report)?;
        match self.calls {
            Some(calls) if report.usage.host_calls != u64::from(calls) => {
                Err(format!("{} calls were served of {calls}", report.usage.host_calls).into())
            }
            _ => Ok(()),
        }
    }

    /// Runs jobs, so many at a time, until `end`. How many.
    async fn run_many(&self, count: usize, in_flight: usize, end: Option<Instant>) -> Result<usize, Failure> {
        let in_flight = in_flight.max(1);
        let done = Cell::new(0);
        let lane = |lane: usize| {
            let done = &done;
            async move {
                for _ in 0..count / in_flight + usize::from(lane < count % in_flight) {
                    if end.is_some_and(|end| Instant::now() >= end) {
                        break;
                    }
                    self.run().await?;
                    done.set(done.get() + 1);
                }
                Ok::<_, Failure>(())
            }
        };
        let mut lanes: Vec<_> = (0..in_flight).map(|number| Box::pin(lane(number))).collect();
        std::future::poll_fn(|context| {
            let mut index = 0;
            while let Some(lane) = lanes.get_mut(index) {
                match lane.as_mut().poll(context) {
                    std::task::Poll::Ready(Ok(())) => drop(lanes.swap_remove(index)),
                    std::task::Poll::Ready(Err(error)) => return std::task::Poll::Ready(Err(error)),
                    std::task::Poll::Pending => index += 1,
                }
            }
            if lanes.is_empty() { std::task::Poll::Ready(Ok(())) } else { std::task::Poll::Pending }
        })
        .await?;
        Ok(done.get())
    }
}

/// A directory of this run's own, removed at the end.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Result<Self, Failure> {
        let path = std::env::temp_dir().join(format!("sandboxd-soak-{}", std::process::id()));
        fs::create_dir(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Runs the soak.
pub async fn soak(options: &Soak) -> Result<Value, Failure> {
    let wasm = module_bytes(&options.target)?;
    if options.target.socket.is_some() {
        return Err("soak looks at the supervisor in this process: without --socket".into());
    }
    let jobs = if options.count > 0 { many_jobs(options, &wasm).await? } else { Value::Null };
    let parked = if options.parked > 0 { many_parked(options.parked, &wasm).await? } else { Value::Null };
    Ok(json!({ "jobs": jobs, "parked": parked, "kernel": kernel() }))
}

fn kernel() -> Option<String> {
    let output = Command::new("uname").arg("-r").output().ok()?;
    Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

async fn many_jobs(options: &Soak, wasm: &[u8]) -> Result<Value, Failure> {
    let scratch = Scratch::new()?;
    let calls = (options.calls > 0).then_some(options.calls);
    let module = calls.map(calling).transpose()?;
    let wasm = module.as_deref().unwrap_or(wasm);
    let host = Host { calls, ..Host::start(wasm, &scratch.0, PoolLimits::default()).await? };
    // So many that the pool is as large as it becomes.
    host.run_many(WARM_UP, options.in_flight, None).await?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let before = Held::now(&scratch.0);
    let start = Instant::now();
    let end = options.seconds.map(|seconds| start + Duration::from_secs(seconds));
    let count = host.run_many(options.count, options.in_flight, end).await?;
    let seconds = start.elapsed().as_secs_f64();
    let mut after = Held::now(&scratch.0);
    let waited = Instant::now();
    let leaks = loop {
        let leaks = after.leaks(&before, count);
        if leaks.is_empty() || waited.elapsed() > SETTLE {
            break leaks;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        after = Held::now(&scratch.0);
    };
    if !leaks.is_empty() {
        return Err(format!("leaked in {count} jobs: {}", leaks.join("; ")).into());
    }
    let calls = options.calls as usize * count;
    let figures =
        json!({ "count": count, "calls": calls, "seconds": seconds, "before": before, "after": after });
    drop(host);
    settled("the processes are gone", || below(std::process::id() as i32).is_empty()).await?;
    Ok(figures)
}

async fn many_parked(count: usize, wasm: &[u8]) -> Result<Value, Failure> {
    let wanted = count as u64 * DESCRIPTORS_EACH + 256;
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if hard < wanted {
        return Err(
            format!("{count} parked instances need {wanted} descriptors, and the limit is {hard}").into()
        );
    }
    setrlimit(Resource::RLIMIT_NOFILE, soft.max(wanted), hard)?;
    let scratch = Scratch::new()?;
    let before = Held::now(&scratch.0);
    let host = Host::start(wasm, &scratch.0, PoolLimits { min: count, max: count }).await?;
    let mut kills = Vec::new();
    for how in ["each instance", "the module zygote", "the root zygote"] {
        host.run().await?;
        let mut family = Family::default();
        let filled = settled("all are parked", || {
            family = Family::now();
            family.instances.len() >= count
        })
        .await?;
        let parked = &family.instances;
        let memory: u64 = parked.iter().map(|pid| resident_kib(*pid)).sum();
        let victims = match how {
            "each instance" => parked,
            "the module zygote" => &family.modules,
            _ => &family.roots,
        };
        let start = Instant::now();
        victims.iter().for_each(|pid| kill9(*pid));
        let gone = || parked.iter().all(|pid| !is_there(*pid));
        settled("all are dead", gone).await?;
        let dead = start.elapsed();
        let next = Instant::now();
        // What was in flight would get an error; nothing is, so that this must work.
        host.run().await?;
        kills.push(json!({
            "killed": how, "parked": parked.len(), "filled_s": filled.as_secs_f64(), "resident_kib_each": memory / parked.len() as u64,
            "dead_after_s": dead.as_secs_f64(), "next_job_us": next.elapsed().as_micros() as u64,
        }));
    }
    host.run().await?;
    settled("all are parked", || Family::now().instances.len() >= count).await?;
    let start = Instant::now();
    drop(host);
    settled("the processes are gone", || below(std::process::id() as i32).is_empty()).await?;
    kills.push(json!({ "killed": "with the supervisor", "dead_after_s": start.elapsed().as_secs_f64() }));
    fs::remove_dir_all(&scratch.0)?;
    let mut after = Held::now(&scratch.0);
    let waited = Instant::now();
    while !after.leaks(&before, 0).is_empty() {
        if waited.elapsed() > SETTLE {
            return Err(format!("leaked by {count} parked: {}", after.leaks(&before, 0).join("; ")).into());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        after = Held::now(&scratch.0);
    }
    Ok(json!({ "count": count, "kills": kills, "before": before, "after": after }))
}

fn kill9(pid: i32) {
    let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
}

/// Whether the process is there, dead ones that nobody reaped included.
fn is_there(pid: i32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}
