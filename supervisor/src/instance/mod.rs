//! One instance, from its shared memory to its report.

use std::cell::{Cell, RefCell};
use std::future::{self, Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};
use std::{io, mem};

use ipc::job::{ExitRecord, JobHeader, STRINGS_BYTES, VALUES_MAX, exit_kind, go, job_flags};
use ipc::layout::STACK_TOP;
use ipc::report::{Limit, LimitReached, MissingLayer, Outcome, PolicyDanger, Report, Usage, Value};
use ipc::ring::supervisor::{Queues, refuse_output};
use policies::Filesystem;
use tokio::sync::{mpsc, oneshot};
use zerocopy::IntoBytes;

use crate::error::{Error, errno};
use crate::job::{Entry, Job, Preopen};
use crate::module::{EntryPoint, Module};
use crate::observed::{Calls, Observed, Steps};
use crate::wasi::{WasiConfig, WasiContext};
use crate::zygote::module::{Death, ModuleZygote};

mod conversation;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
#[cfg(test)]
mod hostile;
mod limits;
mod meter;
mod outcome;
mod prefault;
mod provided;
mod seat;
mod seats;
mod serve;
mod shared_memory;
mod typed;
mod watch;

pub(crate) use conversation::{Answer, Operation, Request};
use conversation::{Conversation, UnderWay};
use limits::Limits;
use meter::Used;
use outcome::{Ending, Evidence};
pub(crate) use prefault::Prefault;
use prefault::Waiting;
use provided::Provided;
pub(crate) use provided::functions;
use seat::{Gauge, Process, Seat};
pub(crate) use seat::{Parked, has_ended, kill};
pub(crate) use seats::Seats;
use serve::{Ended, Server};
use shared_memory::RawValue;

/// Writable memory of an instance besides what the artifact maps and the guest's stack: the zygote's own image and
/// room for the kernel's rounding, bytes.
const OWN_DATA: u64 = 1 << 20;

/// Bytes of globals and tables that do not count against a job's memory limit: what one growable table reserves,
/// and some.
const FREE_DATA: u64 = 32 << 20;

/// Largest count that is taken over from an instance's own word: what every reader of a report can represent.
const BELIEVED_MAX: u64 = 1 << 53;

/// Most fuel that a job can have: what the counter holds. Nothing executes as much.
const FUEL_MAX: u64 = i64::MAX as u64;

/// How the jobs of a policy are confined, and what their reports say of that.
#[derive(Debug)]
pub(crate) struct Confined {
    /// Layers in force.
    pub(crate) layers: u64,
    /// Their names.
    names: Arc<[String]>,
    /// Layers that are not.
    missing: Arc<[MissingLayer]>,
    /// The policy's name.
    policy: String,
    dangers: Arc<[PolicyDanger]>,
    /// Seconds by which its monotonic clock is ahead of the host's; less than zero in a time namespace.
    clock_ahead: i64,
}

impl Confined {
    pub(crate) fn new(
        policy: &policies::Policy,
        layers: u64,
        missing: Vec<MissingLayer>,
        clock_ahead: i64,
    ) -> Self {
        let all = ipc::control::layer::ALL.iter();
        let names = all.filter(|(bit, _)| layers & bit != 0).map(|(_, name)| (*name).to_owned()).collect();
        let (policy, dangers) = (policy.name().to_owned(), dangers(policy));
        Self { layers, names, missing: missing.into(), policy, dangers, clock_ahead }
    }

    /// The report of a job.
    fn report(&self, outcome: Outcome, usage: Usage) -> Report {
        Report {
            outcome,
            usage,
            policy: self.policy.clone(),
            dangers: Arc::clone(&self.dangers),
            layers: Arc::clone(&self.names),
            missing_layers: Arc::clone(&self.missing),
        }
    }
}

/// Ends when the job must end whatever it does: cancelled, or out of time since `started`.
async fn interruption(cancel: impl Future<Output = ()>, limit: Option<Duration>, started: Instant) -> Ending {
    tokio::select! {
        () = cancel => Ending::Cancelled,
        () = sleep(limit, started) => Ending::Limit(LimitReached {
            limit: Limit::WallTime,
            value: limit.map_or(0, |t| t.as_nanos() as u64),
        }),
    }
}

/// What a host app holds of its session, seen from the shard.
#[derive(Debug)]
pub(crate) struct SessionEnd {
    pub(crate) requests: mpsc::UnboundedReceiver<Request>,
    /// Told when the instance is set up.
    pub(crate) ready: oneshot::Sender<()>,
}

/// What is left of an instance after its job. Cleaning up costs microseconds for which no report should wait. Dropping this
/// kills what still lives, and gives back what the next instance can use.
#[derive(Debug, Default)]
pub(crate) struct Remains {
    seat: Option<Seat>,
    process: Option<Process>,
    /// Where the seat came from.
    seats: Option<Rc<Seats>>,
    /// For one that has finished and is to be looked at before it is killed.
    waiting: Option<Waiting>,
}

impl Remains {
    /// What takes time to do before this is dropped, if anything does.
    pub(crate) fn last_look(mut self) -> Option<impl Future<Output = ()>> {
        let waiting = self.waiting.take()?;
        Some(async move {
            if let Some(seat) = &self.seat {
                waiting.look(seat).await;
            }
        })
    }
}

impl Drop for Remains {
    fn drop(&mut self) {
        if let (Some(seat), Some(process), Some(seats)) = (self.seat.take(), self.process.take(), &self.seats)
        {
            seats.give_back(seat, process);
        }
    }
}

/// Runs a job in an instance of its own, parked in or forked from a zygote that `zygote` gives. `cancel` ends it from outside. With a
/// `session` no entry point runs, but what the host app asks for. What an instance was seen to do goes to `observed`.
pub(crate) async fn run(
    mut job: Job,
    confined: &Confined,
    zygote: impl AsyncFn() -> Result<Rc<ModuleZygote>, Error>,
    cancel: impl Future<Output = ()>,
    session: Option<SessionEnd>,
    remains: &mut Remains,
    observed: Option<&mut Observed>,
) -> Result<Report, Error> {
    let started = Instant::now();
    let limits = Limits::of(job.policy.limits(), &job.limits);
    let module = job.module.clone();
    let entry = match session {
        None => module.entry_point(&job.entry)?,
        Some(_) => EntryPoint::none(),
    };
    let metadata = module.artifact().metadata();
    if limits.fuel.is_some() && !metadata.options.fuel {
        return Err(Error::FuelNotCounted);
    }
    let fuel = limits.fuel.unwrap_or(FUEL_MAX).min(FUEL_MAX);
    let provided = Provided::new(metadata, &job.imports)?;
    let report = |outcome, usage| confined.report(outcome, usage);
    let mut interruption = pin!(interruption(cancel, limits.wall_time, started));
    let initial_memory = module.initial_memory();
    // Globals and tables.
    let other_data = metadata.data_bytes.saturating_sub(initial_memory);
    let start_memory = initial_memory.saturating_add(provided.added_memory);
    if start_memory > limits.memory || other_data > limits.memory.saturating_add(FREE_DATA) {
        let limit = LimitReached { limit: Limit::Memory, value: limits.memory };
        return Ok(report(Outcome::LimitReached(limit), Usage::default()));
    }
    if let (Some(kind), None) = (metadata.start_trap, &session) {
        let trap = ipc::report::Trap { message: kind.to_string(), backtrace: Vec::new() };
        return Ok(report(Outcome::Trapped(trap), Usage::default()));
    }
    let (args, env) = granted_strings(&mut job)?;
    let (args_bytes, env_bytes) = (strings_bytes(&args), strings_bytes(&env));
    if args_bytes + env_bytes > STRINGS_BYTES {
        let bytes = args_bytes + env_bytes;
        return Err(Error::TooManyStrings { what: "arguments and environment", bytes, limit: STRINGS_BYTES });
    }
    let kill_on_memory = job.policy.limits().memory_exceeded == policies::MemoryExceeded::Kill;
    let is_session = session.is_some();
    let clock_resolution_ns = job.policy.wasi().clock_resolution.as_nanos().clamp(1, u64::MAX.into()) as u64;
    let (deterministic, monotonic_base) = (job.policy.wasi().deterministic, job.policy.wasi().monotonic_base);
    let monotonic_base = monotonic_base.as_nanos().min(u64::MAX.into()) as u64;
    // Of a deterministic guest nothing depends on the host's clock.
    let monotonic_offset =
        if deterministic { monotonic_base } else { monotonic_offset()?.wrapping_add(monotonic_base) };
    let mut wasi = WasiContext::new(WasiConfig {
        stdio: if job.policy.wasi().stdio { mem::take(&mut job.stdio) } else { [None, None, None] },
        preopens: granted_preopens(&mut job),
        sockets: if job.policy.wasi().sockets { mem::take(&mut job.sockets) } else { Vec::new() },
        max_handles: job.policy.limits().open_files,
        max_output_bytes: job.policy.limits().output,
        clock_resolution_ns,
        monotonic_offset,
        deterministic,
    })?;

    let (mut requests, ready) = session.map(|s| (s.requests, s.ready)).unzip();
    let calls = Cell::new(0);
    let seen = Calls::new();
    let failure = RefCell::new(None);
    let data_limit = other_data.saturating_add(limits.memory).saturating_add(limits.stack + OWN_DATA);
    let header = JobHeader {
        go: go::PARKED,
        prefault: 0,
        unused: 0,
        flags: if kill_on_memory { job_flags::KILL_ON_MEMORY_LIMIT } else { 0 }
            | if is_session { job_flags::SESSION } else { 0 }
            | if deterministic { job_flags::DETERMINISTIC } else { 0 },
        data_limit,
        memory_limit: limits.memory,
        fuel,
        cpu_limit: limits.cpu_seconds,
        start_code: entry.start.map_or(0, |e| e.code),
        start_trampoline: entry.start.map_or(0, |e| e.trampoline),
        init_code: entry.init.map_or(0, |e| e.code),
        init_trampoline: entry.init.map_or(0, |e| e.trampoline),
        entry_code: entry.entry.code,
        entry_trampoline: entry.entry.trampoline,
        memory: module.memory_descriptor(),
        initial_memory,
        parameters: entry.values.len() as u32,
        results: entry.results.len() as u32,
        imports: provided.records.len() as u32,
        typed: provided.table_entries(),
        args_count: args.len() as u32,
        args_bytes: args_bytes as u32,
        env_count: env.len() as u32,
        env_bytes: env_bytes as u32,
        clock_resolution: clock_resolution_ns,
        // The same reading from a clock that is ahead.
        monotonic_offset: monotonic_offset
            .wrapping_sub(confined.clock_ahead.wrapping_mul(1_000_000_000) as u64),
        random_seed: random_seed(job.policy.wasi())?,
    };
    let explain =
        |record: &ExitRecord| outcome::fault(record, &module, STACK_TOP - limits.stack, failure.take());
    let under_way = UnderWay::default();
    let gauge: RefCell<Option<Gauge>> = RefCell::default();
    let measure = |record: &ExitRecord, output_bytes| {
        let used = gauge.borrow().as_ref().and_then(Gauge::used);
        let counted = metadata.options.fuel;
        Usage {
            wall_ns: started.elapsed().as_nanos() as u64,
            cpu_us: used.map_or(0, |used| used.cpu_us),
            peak_memory_bytes: used.map_or(0, |used| used.resident_bytes),
            wasm_memory_bytes: record.memory_bytes.min(limits.memory),
            refused_grows: record.refused_grows.min(BELIEVED_MAX),
            host_calls: calls.get(),
            local_host_calls: record.local_calls.min(BELIEVED_MAX),
            output_bytes,
            fuel: counted.then(|| fuel_spent(fuel, record)),
        }
    };
    let mut conversation = requests.as_mut().map(|requests| Conversation {
        requests,
        ready,
        under_way: &under_way,
        explain: &explain,
        measure: &measure,
    });
    let mut start = Start::Usual;
    let is_watched = observed.is_some();
    let elapsed = || if is_watched { started.elapsed() } else { Duration::ZERO };
    let mut steps = Steps { prepared: elapsed(), ..Steps::default() };
    let (ending, death, record, values, tenant_memory) = loop {
        // Whatever the first attempt left must not go on beside the second.
        remains.process = None;
        let zygote = tokio::select! {
            biased;
            zygote = zygote() => match (zygote, start) {
                (Ok(zygote), _) => zygote,
                (Err(Error::ZygoteDied { .. }), Start::Usual) => {
                    start = Start::Again;
                    continue;
                }
                (Err(error), _) => return Err(error),
            },
            ending = &mut interruption => return Ok(report(outcome::not_started(ending), Usage::default())),
        };
        let parked = if start == Start::Usual { zygote.take_parked() } else { None };
        let (seat, parked) = match parked {
            Some(Parked { seat, process }) => (seat, Some(process)),
            None => (zygote.seats().take()?, None),
        };
        // One that is not metered must die before anybody knows what it used.
        let waits_at_end =
            !is_session && parked.as_ref().is_some_and(Process::is_metered) && can_wait(&job.policy).is_ok();
        remains.seats = Some(Rc::clone(zygote.seats()));
        let seat = &*remains.seat.insert(seat);
        (steps.parked, steps.seated) = (parked.is_some(), elapsed());
        let shared = &seat.shared;
        let fits = shared.write_strings(args.iter().chain(&env).map(Vec::as_slice));
        debug_assert!(fits, "checked above");
        shared.write_values(&entry.values);
        shared.arena().write(0, provided.records.as_bytes());
        shared.write_table(&provided.table);
        let wait = if waits_at_end { job_flags::WAIT_AT_END } else { 0 };
        let direct = if zygote.listener().is_some() { job_flags::DIRECT } else { 0 };
        shared.write_job(&JobHeader { flags: header.flags | wait | direct, ..header });
        refuse_output(shared, wasi.refuses_queueing());
        shared.go();
        steps.given = elapsed();
        let heard = Cell::new(false);
        let output = Cell::new(None);
        // Nothing of the job has happened: neither it says so, nor has it asked for anything.
        let is_untouched = || shared.is_untaken() && !heard.get() && !shared.has_output();
        let process = remains.process.insert(match parked {
            Some(process) => process,
            // It never has to wait for its job.
            None => tokio::select! {
                biased;
                forked = seat.fork(&zygote) => match forked {
                    Ok(process) => process,
                    Err(Error::ZygoteDied { .. }) if start == Start::Usual && is_untouched() => {
                        start = Start::Again;
                        continue;
                    }
                    Err(error) => return Err(error),
                },
                ending = &mut interruption => return Ok(report(outcome::not_started(ending), Usage::default())),
            },
        });
        if is_session {
            gauge.replace(process.gauge());
        }
        let mut asking = zygote.listener().and_then(|listener| process.asking(listener));
        steps.forked = elapsed();
        let server = Server {
            shared,
            doorbell: &seat.doorbell,
            policy: &job.policy,
            provided: &provided,
            failure: &failure,
            waits_at_end,
            calls_max: limits.calls,
            calls: &calls,
            seen: &seen,
            heard: &heard,
            output: &output,
        };
        let closed = {
            let mut serving = pin!(server.run(&mut wasi, conversation.as_mut(), asking.as_mut()));
            tokio::select! {
                biased;
                dead = process.death(&zygote) => Closed::Dead(dead),
                ending = &mut interruption => Closed::Ending(ending),
                ended = &mut serving => match ended {
                    Ended::Violation(violation) => Closed::Ending(Ending::Violation(violation)),
                    Ended::Limit(limit) => Closed::Ending(Ending::Limit(limit)),
                    Ended::Finished(queues, sequence) => Closed::Finished(queues, sequence),
                },
                // After the serving, which is where operations begin.
                ending = poll_fn(|context| under_way.poll_interruption(context)) => Closed::Ending(ending),
            }
        };
        steps.ended = elapsed();
        // What it has written before its end comes out: all of it, but for one that must end nothing that would have to wait.
        let must_end = matches!(closed, Closed::Ending(_));
        if must_end {
            // Before anything else: it could go on adding to its output.
            process.kill();
        }
        let written = {
            let mut rest = pin!(server.serve_output(&mut wasi));
            tokio::select! {
                biased;
                written = &mut rest => written,
                () = future::ready(()), if must_end => Ok(()),
                _ = &mut interruption, if !must_end => Ok(()),
            }
        };
        let late = match written {
            _ if must_end => Ending::None,
            Ok(()) | Err(Ended::Finished(..)) => Ending::None,
            Err(Ended::Limit(limit)) => Ending::Limit(limit),
            Err(Ended::Violation(violation)) => Ending::Violation(violation),
        };
        let record = shared.exit_record();
        let (ending, dead) = match closed {
            Closed::Dead(dead) => {
                let nothing_done = match &dead {
                    Ok(death) => was_killed(death),
                    Err(error) => matches!(error, Error::ZygoteDied { .. }),
                };
                if nothing_done && start == Start::Usual && is_untouched() {
                    // If it was for its tenant's memory, that explains no other death.
                    zygote.kill_for_memory();
                    start = Start::Again;
                    continue;
                }
                (late, dead)
            }
            // The instance may have been dead before it was killed, which the zygote tells next.
            Closed::Ending(ending) => (ending, process.death(&zygote).await),
            Closed::Finished(queues, sequence) => {
                let death = finished(process, &zygote, &record).await;
                // One that had to be killed to know what it used cannot be looked at.
                if process.may_live() && zygote.prefault().wants_more() {
                    let (zygote, module) = (Rc::clone(&zygote), module.clone());
                    remains.waiting = Some(Waiting { zygote, module, queues, sequence });
                }
                (late, death)
            }
        };
        let death = dead?;
        let tenant_memory = match ending {
            Ending::None if was_killed(&death) => zygote.kill_for_memory(),
            _ => None,
        };
        break (ending, death, record, shared.values(entry.results.len()), tenant_memory);
    };
    if let Some(observed) = observed {
        steps.known = elapsed();
        *observed = Observed { initial_memory, steps, ..Observed::of_calls(&seen) };
        wasi.observe(observed);
    }
    let results = entry.results_from(&values);
    let usage = Usage {
        cpu_us: death.cpu_us,
        peak_memory_bytes: death.peak_bytes,
        fuel: metadata.options.fuel.then(|| fuel_used(fuel, &record)).flatten(),
        ..measure(&record, wasi.output_bytes())
    };
    let outcome = outcome::outcome(Evidence {
        ending,
        death,
        record: &record,
        module: &module,
        policy: job.policy.name(),
        stack_bottom: STACK_TOP - limits.stack,
        cpu_limit_seconds: limits.cpu_seconds,
        memory_limit: limits.memory,
        tenant_memory,
        ends_at_memory_limit: kill_on_memory || provided.added_memory > 0,
        failure: failure.take(),
        results,
    });
    Ok(report(outcome, usage))
}

/// How a job gets its instance.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Start {
    /// Parked, or else forked.
    Usual,
    /// Forked on demand: what it was given first was killed from outside before it had taken the job. Once only, so that a
    /// host that kills everything gets its answer.
    Again,
}

/// Whether it was killed by the host: no instance can send a signal.
pub(crate) fn was_killed(death: &Death) -> bool {
    libc::WIFSIGNALED(death.status) && libc::WTERMSIG(death.status) == libc::SIGKILL
}

/// Why the conversation with an instance is over.
enum Closed {
    /// It is dead; an error: its zygote is, too.
    Dead(Result<Death, Error>),
    /// It must end.
    Ending(Ending),
    /// It has finished and waits.
    Finished(Queues, u32),
}

/// The end of an instance that has finished and waits to be killed: as if it had exited as its record says. What kills it is
/// its [`Remains`], once the report is on its way.
async fn finished(process: &mut Process, zygote: &ModuleZygote, record: &ExitRecord) -> Result<Death, Error> {
    let status = ((record.code & 0xff) as i32) << 8;
    if let Some(Used { cpu_us, resident_bytes }) = process.used() {
        return Ok(Death { status, cpu_us, peak_bytes: resident_bytes });
    }
    process.kill();
    let death = process.death(zygote).await?;
    // Unless it did not wait after all, but ended in a way of its own.
    Ok(if was_killed(&death) { Death { status, ..death } } else { death })
}

/// Whether the instance may ring its doorbell and wait on its ring, which a policy for jobs without host calls need not allow.
/// An error names the system call that is missing.
pub(crate) fn can_wait(policy: &policies::Policy) -> Result<(), &'static str> {
    for (name, number) in [("write", libc::SYS_write), ("futex", libc::SYS_futex)] {
        if !policy.seccomp().allow.iter().any(|rule| i64::from(rule.syscall.id()) == number) {
            return Err(name);
        }
    }
    Ok(())
}

/// Fuel that was used, by the word of the instance; `None` when it left no record.
fn fuel_used(given: u64, record: &ExitRecord) -> Option<u64> {
    (record.kind != exit_kind::NONE).then(|| fuel_spent(given, record))
}

/// The same for an instance that is known to have left one.
fn fuel_spent(given: u64, record: &ExitRecord) -> u64 {
    let used = i128::from(given) - i128::from(record.fuel_left);
    used.clamp(0, i128::from(BELIEVED_MAX)) as u64
}

/// Ends at the limit after `started`; never without one.
async fn sleep(limit: Option<Duration>, started: Instant) {
    match limit.and_then(|limit| started.checked_add(limit)) {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}

/// What a report says of where the policy may widen.
pub(crate) fn dangers(policy: &policies::Policy) -> Arc<[PolicyDanger]> {
    let danger = |danger: &policies::Danger| PolicyDanger {
        policy: danger.policy.to_string(),
        reason: danger.reason.clone(),
    };
    policy.dangers().iter().map(danger).collect()
}

/// Directories, as far as the policy grants them.
fn granted_preopens(job: &mut Job) -> Vec<Preopen> {
    let mut preopens = mem::take(&mut job.preopens);
    match job.policy.wasi().filesystem {
        Filesystem::None => preopens.clear(),
        Filesystem::ReadOnly => preopens.iter_mut().for_each(|p| p.read_only = true),
        Filesystem::ReadWrite => {}
    }
    preopens
}

type Strings = Vec<Vec<u8>>;

/// Arguments and environment, as far as the policy grants them.
fn granted_strings(job: &mut Job) -> Result<(Strings, Strings), Error> {
    let wasi = job.policy.wasi();
    let args = if wasi.args { mem::take(&mut job.args) } else { Vec::new() };
    let env = if wasi.env { mem::take(&mut job.env) } else { Vec::new() };
    for (what, strings) in [("argument", &args), ("environment entry", &env)] {
        if let Some(index) = strings.iter().position(|s| s.contains(&0)) {
            return Err(Error::ZeroByte { what, index });
        }
    }
    Ok((args, env))
}

fn strings_bytes(strings: &[Vec<u8>]) -> usize {
    strings.iter().map(|s| s.len() + 1).sum()
}

/// The policy's seed, or a new one.
fn random_seed(wasi: &policies::Wasi) -> Result<[u8; 32], Error> {
    let mut seed = [0u8; 32];
    if wasi.random_seed.is_some() || wasi.deterministic {
        let (number, _) = seed.split_at_mut(8);
        number.copy_from_slice(&wasi.random_seed.unwrap_or(0).to_le_bytes());
        return Ok(seed);
    }
    // SAFETY: 32 writable bytes; requests of up to 256 bytes are never cut short (getrandom(2)).
    let filled = unsafe { libc::getrandom(seed.as_mut_ptr().cast(), seed.len(), 0) };
    if filled == seed.len() as isize {
        Ok(seed)
    } else {
        Err(Error::System {
            what: "get random bytes for the instance's seed",
            source: io::Error::last_os_error(),
        })
    }
}

/// What makes a guest's monotonic clock start near zero, so that it does not tell how long the host is up.
fn monotonic_offset() -> Result<u64, Error> {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC)
        .map_err(errno("read the monotonic clock"))?;
    let nanoseconds = (now.tv_sec() as u64).wrapping_mul(1_000_000_000).wrapping_add(now.tv_nsec() as u64);
    Ok(nanoseconds.wrapping_neg())
}

impl EntryPoint {
    /// The results, typed.
    fn results_from(&self, raw: &[RawValue]) -> Vec<Value> {
        self.results.iter().zip(raw).map(|(kind, raw)| kind.value(*raw)).collect()
    }
}

/// Whether a module exports what the job asks for, without running anything.
pub(crate) fn check_entry(module: &Module, entry: &Entry) -> Result<(), Error> {
    module.entry_point(entry).map(|_| ())
}

const _: () = assert!(VALUES_MAX >= 1000, "WebAssembly functions may have 1000 parameters");
