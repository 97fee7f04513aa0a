//! A host call that waits for its answer, beside a round trip of two processes by futex and one of two threads that never sleep: on one
//! processor and on two.

use std::fs::File;
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Barrier, Mutex};
use std::time::{Duration, Instant};
use std::{hint, io, process, ptr, thread};

use clap::Args;
use compiler::Options;
use nix::libc;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;
use policies::Policy;
use serde_json::{Value, json};
use supervisor::{
    Config, Extern, HostError, HostFunction, Imports, Job, LocalShard, Module, ModuleSource, Supervisor,
};

use crate::stats::Summary;
use crate::{Failure, check};

#[derive(Args)]
pub struct RoundTrip {
    /// Calls, or round trips, in one measurement.
    #[arg(long, default_value_t = 20_000)]
    calls: u32,
    /// Measurements of each kind, in turns.
    #[arg(long, default_value_t = 9)]
    rounds: usize,
}

/// Before the timed calls as many that are not.
fn guest(calls: u32) -> String {
    let calls = |local: &str| {
        format!(
            "(local.set {local} (i32.const {calls}))
            (loop $again{local}
                (call $call)
                (br_if $again{local} (local.tee {local} (i32.sub (local.get {local}) (i32.const 1)))))"
        )
    };
    let (warm, timed) = (calls("$warm"), calls("$timed"));
    format!(
        r#"(module
            (import "m" "place" (func $place)) (import "m" "call" (func $call))
            (import "m" "begin" (func $begin)) (import "m" "end" (func $end))
            (memory (export "memory") 1)
            (func (export "_start") (local $warm i32) (local $timed i32)
                (call $place) {warm} (call $begin) {timed} (call $end)))"#
    )
}

/// Keeps the calling thread on this processor.
fn stay_on(processor: usize) -> io::Result<()> {
    let mut only = CpuSet::new();
    only.set(processor)?;
    Ok(sched_setaffinity(Pid::from_raw(0), &only)?)
}

/// A word that two processes share.
struct Shared(*mut AtomicU32);

impl Shared {
    fn new() -> io::Result<Self> {
        let (length, protection) = (size_of::<AtomicU32>(), libc::PROT_READ | libc::PROT_WRITE);
        // SAFETY: new memory at an address of the kernel's choice.
        let start = unsafe {
            libc::mmap(ptr::null_mut(), length, protection, libc::MAP_SHARED | libc::MAP_ANONYMOUS, -1, 0)
        };
        if start == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(Self(start.cast())) }
    }

    fn word(&self) -> &AtomicU32 {
        // SAFETY: mapped as long as `self`, zero at first, and only used as an atomic.
        unsafe { &*self.0 }
    }

    /// Waits as long as the word has this value.
    fn wait_while(&self, value: u32) {
        while self.word().load(Ordering::Acquire) == value {
            // SAFETY: waits on a mapped word, and changes nothing.
            unsafe { libc::syscall(libc::SYS_futex, self.0, libc::FUTEX_WAIT, value, ptr::null::<u8>()) };
        }
    }

    fn set(&self, value: u32) {
        self.word().store(value, Ordering::Release);
        // SAFETY: wakes a waiter on a mapped word.
        unsafe { libc::syscall(libc::SYS_futex, self.0, libc::FUTEX_WAKE, 1) };
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // SAFETY: the mapping of `new`, to which nothing refers any more.
        unsafe { libc::munmap(self.0.cast(), size_of::<AtomicU32>()) };
    }
}

/// What ends the other process.
const END: u32 = u32::MAX;

/// How long one round trip takes of this process on one processor and a child on the other, each of which sleeps until it is woken.
fn futex(here: usize, there: usize, trips: u32) -> Result<Duration, Failure> {
    let shared = Shared::new()?;
    // Both can be had, or this ends here; the child inherits its own.
    stay_on(here)?;
    stay_on(there)?;
    // SAFETY: until it ends, the child makes system calls on its own memory and on the shared word: no lock of another thread is
    // taken, nothing is allocated.
    let child = unsafe { libc::fork() };
    if child < 0 {
        return Err(io::Error::last_os_error().into());
    }
    if child == 0 {
        let mut value = 0;
        loop {
            shared.wait_while(value);
            value = shared.word().load(Ordering::Acquire);
            if value == END {
                break;
            }
            value += 1;
            shared.set(value);
        }
        // SAFETY: ends this process, and nothing else.
        unsafe { libc::_exit(0) }
    }
    stay_on(here)?;
    let mut value = 0;
    let mut trip = || {
        shared.set(value + 1);
        shared.wait_while(value + 1);
        value += 2;
    };
    (0..trips / 10).for_each(|_| trip());
    let started = Instant::now();
    (0..trips).for_each(|_| trip());
    let took = started.elapsed();
    shared.set(END);
    let mut status = 0;
    // SAFETY: reaps this function's child.
    let reaped = unsafe { libc::waitpid(child, &raw mut status, 0) };
    if reaped != child || status != 0 {
        return Err("the other process of a round trip did not end well".into());
    }
    Ok(took / trips)
}

/// Bytes that are read in a round trip with a payload: a page of a file.
const PAYLOAD: usize = 4096;

/// A file of one page in memory.
fn page() -> Result<File, Failure> {
    // SAFETY: the name is a string; the result is checked before it is owned.
    let file = unsafe {
        let fd = libc::memfd_create(c"page".as_ptr(), libc::MFD_CLOEXEC);
        if fd < 0 {
            return Err(io::Error::last_os_error().into());
        }
        File::from_raw_fd(fd)
    };
    file.write_all_at(&[7; PAYLOAD], 0)?;
    Ok(file)
}

/// What the cheapest protocol would cost: one thread asks, another one answers, and neither ever sleeps. With `reads`, the other reads a page of a file
/// into memory that both have, and the first copies it from there.
fn spin(here: usize, there: usize, trips: u32, reads: bool) -> Result<Duration, Failure> {
    let file = page()?;
    let (asked, answered) = (Line(AtomicU32::new(0)), Line(AtomicU32::new(0)));
    let shared: Vec<AtomicU64> = (0..PAYLOAD / 8).map(|_| AtomicU64::new(0)).collect();
    let mut copy = [0u64; PAYLOAD / 8];
    let both = Barrier::new(2);
    thread::scope(|scope| {
        let other = scope.spawn(|| -> io::Result<()> {
            let placed = stay_on(there);
            both.wait();
            let mut result = Ok(());
            for trip in 1..=trips {
                while asked.0.load(Ordering::Acquire) != trip {
                    hint::spin_loop();
                }
                if reads {
                    // SAFETY: the kernel writes at most so many bytes to atomics, which nobody else uses until the answer.
                    let read = unsafe {
                        libc::pread(file.as_raw_fd(), shared.as_ptr().cast_mut().cast(), PAYLOAD, 0)
                    };
                    if read != PAYLOAD as isize {
                        result = Err(io::Error::last_os_error());
                    }
                }
                answered.0.store(trip, Ordering::Release);
            }
            placed.and(result)
        });
        // Whoever spins at a real-time priority lets nobody else come to a processor of its own.
        both.wait();
        let placed = stay_on(here);
        let mut started = Instant::now();
        for trip in 1..=trips {
            // The first tenth is not measured.
            if trip == trips / 10 {
                started = Instant::now();
            }
            asked.0.store(trip, Ordering::Release);
            while answered.0.load(Ordering::Acquire) != trip {
                hint::spin_loop();
            }
            if reads {
                copy.iter_mut().zip(&shared).for_each(|(to, from)| *to = from.load(Ordering::Relaxed));
                hint::black_box(&mut copy);
            }
        }
        let took = started.elapsed();
        other.join().map_err(|_| "the other thread of a round trip panicked")??;
        placed?;
        Ok(took / (trips - trips / 10 + 1))
    })
}

/// A word alone on its cache line.
#[repr(align(128))]
struct Line(AtomicU32);

/// How long reading the same page takes without anybody else.
fn read_alone(here: usize, trips: u32) -> Result<Duration, Failure> {
    let (file, mut copy) = (page()?, [0; PAYLOAD]);
    stay_on(here)?;
    let started = Instant::now();
    for _ in 0..trips {
        file.read_exact_at(hint::black_box(&mut copy), 0)?;
    }
    Ok(started.elapsed() / trips)
}

/// When the timed calls began and ended.
#[derive(Default)]
struct Times {
    began: Option<Instant>,
    took: Option<Duration>,
}

/// The functions that the guest calls. `place` runs before all others, on the thread that serves them.
fn imports(
    times: &Arc<Mutex<Times>>,
    place: impl Fn() -> Result<(), HostError> + Send + Sync + 'static,
) -> Imports {
    let mut imports = Imports::default();
    let mut define = |name: &str, run: Box<dyn Fn() -> Result<(), HostError> + Send + Sync>| {
        let function = HostFunction::immediate([], [], move |_| run().map(|()| Vec::new()));
        imports.define("m", name, Extern::Function(function));
    };
    define("place", Box::new(place));
    define("call", Box::new(|| Ok(())));
    let lock = |times: &Arc<Mutex<Times>>| {
        let times = Arc::clone(times);
        move |change: fn(&mut Times)| -> Result<(), HostError> {
            change(&mut *times.lock().map_err(|_| "a panic")?);
            Ok(())
        }
    };
    let (begin, end) = (lock(times), lock(times));
    define("begin", Box::new(move || begin(|times| times.began = Some(Instant::now()))));
    define("end", Box::new(move || end(|times| times.took = times.began.map(|began| began.elapsed()))));
    imports
}

fn job(
    module: &Module,
    policy: &Arc<Policy>,
    place: impl Fn() -> Result<(), HostError> + Send + Sync + 'static,
) -> (Job, Arc<Mutex<Times>>) {
    let times = Arc::<Mutex<Times>>::default();
    let mut job = Job::command(module.clone(), Arc::clone(policy));
    job.imports = imports(&times, place);
    (job, times)
}

fn per_call(times: &Mutex<Times>, calls: u32) -> Result<Duration, Failure> {
    let took = times.lock().map_err(|_| "a panic")?.took;
    Ok(took.ok_or("the guest was not timed")? / calls)
}

/// Something that runs on a processor all the time, for as long as this lives.
struct Busy {
    stop: Arc<AtomicU32>,
    thread: Option<thread::JoinHandle<io::Result<()>>>,
}

impl Busy {
    fn on(processor: usize) -> Self {
        let stop = Arc::<AtomicU32>::default();
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            stay_on(processor)?;
            while stopped.load(Ordering::Relaxed) == 0 {
                hint::spin_loop();
            }
            Ok(())
        });
        Self { stop, thread: Some(thread) }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.stop.store(1, Ordering::Relaxed);
        if let Some(Err(_) | Ok(Err(_))) = self.thread.take().map(thread::JoinHandle::join) {
            eprintln!("jobs: a processor could not be kept busy");
            process::abort();
        }
    }
}

/// Whether this thread gives way only to others of its kind: then a busy thread beside it means something else.
fn is_real_time() -> bool {
    // SAFETY: takes no pointer.
    let policy = unsafe { libc::sched_getscheduler(0) };
    policy == libc::SCHED_FIFO || policy == libc::SCHED_RR
}

struct Measured {
    supervisor: Supervisor,
    local: LocalShard,
    module: Module,
    policy: Arc<Policy>,
    calls: u32,
    /// The shard of the host app's thread, and its instances, are on the first.
    processors: [usize; 2],
}

impl Measured {
    /// By a shard on this thread, which goes to a processor first. Its instances stay on the first.
    async fn local(&self, processor: usize) -> Result<Duration, Failure> {
        let [first, _] = self.processors;
        stay_on(first)?;
        let place = move || stay_on(processor).map_err(|error| error.to_string().into());
        let (job, times) = job(&self.module, &self.policy, place);
        let report = self.local.run(job).await;
        stay_on(first)?;
        check(&report?)?;
        per_call(&times, self.calls)
    }

    /// By the supervisor's own shard, which goes wherever it likes.
    async fn shard(&self) -> Result<Duration, Failure> {
        let (job, times) = job(&self.module, &self.policy, || Ok(()));
        check(&self.supervisor.run(job).await?)?;
        per_call(&times, self.calls)
    }
}

/// Measures all kinds in turns. Needs a `LocalSet`.
pub async fn measure(options: &RoundTrip) -> Result<Value, Failure> {
    let allowed = sched_getaffinity(Pid::from_raw(0))?;
    let mut processors = (0..CpuSet::count()).filter(|cpu| allowed.is_set(*cpu).unwrap_or(false));
    let (Some(first), Some(second)) = (processors.next(), processors.next()) else {
        return Err("a round trip between processors takes two of them".into());
    };
    let compile = Options { open_imports: true, ..Options::default() };
    // While this thread may be anywhere: the shards' threads inherit where.
    let supervisor = Supervisor::start(Config { shards: 1, compile, ..Config::default() })?;
    let module = supervisor.load(ModuleSource::Wasm(guest(options.calls).into_bytes())).await?;
    let measured = Measured {
        local: supervisor.local_shard()?,
        supervisor,
        module,
        policy: Arc::new(Policy::builtin("default")?),
        calls: options.calls,
        processors: [first, second],
    };
    const NAMES: [&str; 9] = [
        "futex_same_processor",
        "futex_across_processors",
        "spinning_across_processors",
        "spinning_across_processors_reading_4_kib",
        "reading_4_kib_alone",
        "call_same_processor",
        "call_across_processors_not_watched",
        "call_of_the_supervisors_shard",
        "call_of_the_supervisors_shard_all_processors_busy",
    ];
    let mut times: [Vec<Duration>; NAMES.len()] = Default::default();
    for _ in 0..options.rounds {
        let alone = [
            futex(first, first, options.calls)?,
            futex(first, second, options.calls)?,
            spin(first, second, options.calls, false)?,
            spin(first, second, options.calls, true)?,
            read_alone(first, options.calls)?,
            measured.local(first).await?,
            measured.local(second).await?,
        ];
        sched_setaffinity(Pid::from_raw(0), &allowed)?;
        let watched = measured.shard().await?;
        let busy = if is_real_time() {
            None
        } else {
            let _busy = [Busy::on(first), Busy::on(second)];
            Some(measured.shard().await?)
        };
        let taken = alone.into_iter().chain([watched]).map(Some).chain([busy]);
        times.iter_mut().zip(taken).for_each(|(all, time)| all.extend(time));
    }
    let mut figures = serde_json::Map::from_iter([("trips".to_owned(), json!(options.calls))]);
    for (name, times) in NAMES.iter().zip(times) {
        figures.insert((*name).to_owned(), json!(Summary::of(times)));
    }
    Ok(Value::Object(figures))
}
