//! `sandboxctl bench`: what a job costs on this host, step by step.

use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use client::PolicyRequest;
use nix::sched::{CpuSet, sched_getcpu, sched_setaffinity};
use nix::unistd::Pid;
use policies::Policy;
use serde_json::{Value, json};
use supervisor::daemon::signals::Interrupts;
use supervisor::{Config, Job, LocalShard, Module, ModuleSource, Outcome, PoolLimits, Steps, Supervisor};

use crate::embedded::{check_form, read_module};
use crate::error::Error;
use crate::run;

/// Measure what a job costs on this host, step by step: one after the other, with pauses between, in a supervisor of this process.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Jobs to measure of each kind; a tenth as many run before, unmeasured.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    count: u32,
    /// Pause between jobs, microseconds.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u64).range(..=10_000_000))]
    gap_us: u64,
    /// Policy: a profile's name or a file.
    #[arg(long, default_value = "default", value_name = "NAME|FILE")]
    policy: String,
    /// Print a JSON object.
    #[arg(long)]
    json: bool,
    /// A command module (.wasm or .wat) that ends by itself with status 0; without it, one that does nothing.
    #[arg(value_name = "MODULE")]
    module: Option<PathBuf>,
}

/// The module that is run when none is given: what remains is the cost of a job.
const NOTHING: &[u8] = br#"(module (memory (export "memory") 1) (func (export "_start")))"#;

/// The rows of the table, in the order of time.
const STEPS: [&str; 6] = [
    "check the job, make its header",
    "find zygote and instance, or a free ring",
    "write the job, wake a parked instance",
    "fork on demand, to the zygote's word",
    "the instance: limits, gate, guest, end",
    "find out what it used",
];
const REPORT: &str = "find the policy's layers, make the report";
const TOTAL: &str = "all, on the asking thread";
const BY_SHARD: &str = "all, by a shard's thread";

pub fn bench(options: Options) -> Result<u8, Error> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Error::Runtime)?;
    let policy = match run::policy(options.policy.clone())? {
        PolicyRequest::Named(name) => Policy::builtin(&name)?,
        PolicyRequest::Text { name, toml } => Policy::parse(&toml, &name)?,
    };
    let wasm = match &options.module {
        None => NOTHING.to_vec(),
        Some(path) => {
            let file = File::open(path).map_err(|source| Error::ReadModule { path: path.clone(), source })?;
            let bytes = read_module(file, path)?;
            check_form(&bytes, path)?;
            bytes
        }
    };
    let host = Host {
        wasm,
        policy: Arc::new(policy),
        count: options.count,
        gap: Duration::from_micros(options.gap_us),
    };
    let measured = async {
        let mut interrupts = Interrupts::catch().map_err(Error::Signals)?;
        tokio::select! {
            biased;
            () = interrupts.arrived() => Err(Error::Interrupted),
            measured = host.measure() => measured,
        }
    };
    // Where its instances stay as well, as a shard does.
    let mut only = CpuSet::new();
    let pinned = sched_getcpu()
        .and_then(|processor| only.set(processor))
        .and_then(|()| sched_setaffinity(Pid::from_raw(0), &only));
    pinned.map_err(|errno| Error::Pin(errno.into()))?;
    let columns = tokio::task::LocalSet::new().block_on(&runtime, measured)?;
    let mut out = std::io::stdout().lock();
    let written = if options.json {
        let columns: Vec<Value> = columns.iter().map(Column::json).collect();
        let object = json!({ "count": options.count, "gap_us": options.gap_us, "policy": options.policy, "jobs": columns });
        writeln!(out, "{object:#}")
    } else {
        table(&columns, &mut out)
    };
    written.and_then(|()| out.flush()).map_err(Error::Stdout)?;
    Ok(0)
}

/// What is measured.
struct Host {
    wasm: Vec<u8>,
    policy: Arc<Policy>,
    count: u32,
    gap: Duration,
}

impl Host {
    async fn measure(&self) -> Result<[Column; 2], Error> {
        let parked = self.column("parked", PoolLimits { min: 2, max: 2 }).await?;
        Ok([parked, self.column("on demand", PoolLimits { min: 0, max: 0 }).await?])
    }

    async fn column(&self, name: &'static str, pool: PoolLimits) -> Result<Column, Error> {
        let supervisor = Supervisor::start(Config { shards: 1, pool, ..Config::default() })?;
        let module = supervisor.load(ModuleSource::Wasm(self.wasm.clone())).await?;
        let shard = supervisor.local_shard()?;
        let mut rows: Vec<(&'static str, Vec<Duration>)> =
            STEPS.into_iter().chain([REPORT, TOTAL, BY_SHARD]).map(|name| (name, Vec::new())).collect();
        for number in 0..self.warm_up() + self.count {
            let times = self.on_this_thread(&shard, &module, pool.max > 0).await?;
            if let Some(times) = times.filter(|_| number >= self.warm_up()) {
                rows.iter_mut().zip(times).for_each(|((_, row), time)| row.push(time));
            }
            tokio::time::sleep(self.gap).await;
        }
        drop(shard);
        for number in 0..self.warm_up() + self.count {
            let started = Instant::now();
            let report = supervisor.run(self.job(&module)).await?;
            let time = started.elapsed();
            good(&report.outcome)?;
            if let Some((_, row)) = rows.last_mut().filter(|_| number >= self.warm_up()) {
                row.push(time);
            }
            tokio::time::sleep(self.gap).await;
        }
        Ok(Column { name, rows: rows.into_iter().map(|(name, times)| Row::of(name, times)).collect() })
    }

    /// The times of each step, what is left for the report, and all; `None` if the instance came the other way than it is to be
    /// measured.
    async fn on_this_thread(
        &self,
        shard: &LocalShard,
        module: &Module,
        parked: bool,
    ) -> Result<Option<[Duration; STEPS.len() + 2]>, Error> {
        let started = Instant::now();
        let (report, observed) = shard.observe(self.job(module), std::future::pending()).await?;
        let all = started.elapsed();
        good(&report.outcome)?;
        let Steps { prepared, seated, given, forked, ended, known, .. } = observed.steps;
        let times = [
            prepared,
            seated.saturating_sub(prepared),
            given.saturating_sub(seated),
            forked.saturating_sub(given),
            ended.saturating_sub(forked),
            known.saturating_sub(ended),
            all.saturating_sub(known),
            all,
        ];
        Ok((observed.steps.parked == parked).then_some(times))
    }

    fn job(&self, module: &Module) -> Job {
        Job::command(module.clone(), Arc::clone(&self.policy))
    }

    fn warm_up(&self) -> u32 {
        self.count.div_ceil(10)
    }
}

/// A job that fails fast is no measure.
fn good(outcome: &Outcome) -> Result<(), Error> {
    match outcome {
        Outcome::Exited { code: 0, .. } => Ok(()),
        other => Err(Error::Measured(format!("{other:?}"))),
    }
}

/// One way to get an instance.
struct Column {
    name: &'static str,
    rows: Vec<Row>,
}

impl Column {
    fn json(&self) -> Value {
        let steps: Vec<Value> = self
            .rows
            .iter()
            .map(|row| json!({ "step": row.name, "p50_us": row.median, "p99_us": row.high }))
            .collect();
        json!({ "instance": self.name, "steps": steps })
    }
}

/// Times of one step, microseconds.
struct Row {
    name: &'static str,
    median: Option<f64>,
    high: Option<f64>,
}

impl Row {
    fn of(name: &'static str, mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        // Nearest rank.
        let rank = |percent: usize| {
            let position = (times.len() * percent).div_ceil(100).max(1) - 1;
            times.get(position).map(|time| time.as_nanos() as f64 / 1000.0)
        };
        Self { name, median: rank(50), high: rank(99) }
    }
}

fn table(columns: &[Column], out: &mut impl Write) -> std::io::Result<()> {
    write!(out, "{:42}", "microseconds, p50 (p99)")?;
    for column in columns {
        write!(out, "{:>22}", column.name)?;
    }
    writeln!(out)?;
    let rows = columns.first().map_or(0, |column| column.rows.len());
    for index in 0..rows {
        let cells = columns.iter().filter_map(|column| column.rows.get(index));
        for (position, row) in cells.enumerate() {
            if position == 0 {
                write!(out, "{:42}", row.name)?;
            }
            let cell = match (row.median, row.high) {
                (Some(median), Some(high)) => format!("{median:.1} ({high:.1})"),
                _ => String::from("-"),
            };
            write!(out, "{cell:>22}")?;
        }
        writeln!(out)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_by_nearest_rank() {
        let row = Row::of("", (1..=200).rev().map(Duration::from_micros).collect());
        assert_eq!((row.median, row.high), (Some(100.0), Some(198.0)));
        let row = Row::of("", Vec::new());
        assert_eq!((row.median, row.high), (None, None));
    }
}
