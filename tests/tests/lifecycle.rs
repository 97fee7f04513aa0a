//! kill -9 and SIGSTOP of every kind of process, at every phase: each job ends once, the next one works, and nothing is left.
//!
//! A program of its own: it is the host app, and looks at every process below itself and at its own descriptors.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use compiler::Options;
use ipc::report::{Limit, LimitReached, Outcome, Report};
use nix::sys::signal::Signal;
use policies::Policy;
use supervisor::{
    CallOutcome, Config, Entry, Error, Extern, HostFunction, Job, Module, ModuleSource, PoolLimits,
    Supervisor,
};
use tokio::sync::Notify;
use whole_system_tests::instances::Pid;
use whole_system_tests::lifecycle::{below, descriptors, eventually, mounts, no_more_descriptors_than};
use whole_system_tests::{Daemon, Scratch, assert_no_orphans, guests, run, spawn};

/// Returns at once, or waits in a host call.
const GUEST: &str = r#"(module
    (import "host" "wait" (func $wait))
    (memory (export "memory") 1)
    (func (export "nothing"))
    (func (export "wait") (call $wait))
    (func (export "forever") (loop (br 0))))"#;

/// As [`GUEST`], for a module zygote of its own.
const OTHER: &str = r#"(module (import "host" "wait" (func $wait)) (memory 2) (func (export "nothing")))"#;

/// Only one test may run, because they look at all children and descriptors of this process.
fn lock() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    // What earlier tests have killed and nobody has reaped.
    assert_no_orphans();
    alone
}

/// Runs a test alone. Its runtime, too, has descriptors, so that it comes after the lock.
fn alone(test: impl Future<Output = ()>) {
    let _alone = lock();
    runtime().block_on(test);
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

/// A supervisor in this process, with a host function that tells when it is called and waits until it is told to return.
struct Host {
    supervisor: Supervisor,
    module: Module,
    called: Arc<Notify>,
    release: Arc<Notify>,
}

impl Host {
    async fn start(pool: PoolLimits) -> Self {
        Self::with(Config { pool, ..Config::default() }).await
    }

    async fn with(config: Config) -> Self {
        let compile = Options { open_imports: true, ..Options::default() };
        let supervisor = Supervisor::start(Config { compile, ..config }).expect("a supervisor");
        let module = supervisor.load(ModuleSource::Wasm(GUEST.into())).await.expect("it loads");
        Self { supervisor, module, called: Arc::default(), release: Arc::default() }
    }

    fn job(&self, module: &Module, name: &str) -> Job {
        let mut job =
            Job::command(module.clone(), Arc::new(Policy::builtin("default").expect("the profile")));
        job.entry = Entry::Export { name: name.into(), args: Vec::new() };
        let (called, release) = (Arc::clone(&self.called), Arc::clone(&self.release));
        let wait = HostFunction::new([], [], move |_| {
            let (called, release) = (Arc::clone(&called), Arc::clone(&release));
            async move {
                called.notify_one();
                release.notified().await;
                Ok(Vec::new())
            }
        });
        job.imports.define("host", "wait", Extern::Function(wait));
        job
    }

    /// A job on its way.
    fn submit(&self, name: &str) -> tokio::task::JoinHandle<Result<Report, Error>> {
        let (supervisor, job) = (self.supervisor.clone(), self.job(&self.module, name));
        tokio::spawn(async move { supervisor.run(job).await })
    }

    /// A job that has come to its host call, and its instance: the one that was not there before.
    async fn waiting(&self) -> (tokio::task::JoinHandle<Result<Report, Error>>, Pid) {
        let job = self.submit("wait");
        self.called.notified().await;
        // The one that was parked last is taken first, and none is parked while a job runs.
        let instance = module_zygote().children().into_iter().max_by_key(|pid| pid.0).expect("an instance");
        (job, instance)
    }

    async fn next_job_works(&self) {
        assert_exited(self.submit("nothing").await.expect("a task"));
    }

    /// Waits until so many are parked, all asleep.
    fn parked(&self, count: usize) -> Vec<Pid> {
        let mut found = Vec::new();
        eventually("parked", || {
            found = module_zygotes().into_iter().flat_map(Pid::children).collect();
            // The supervisor has them when it has opened what they use in /proc; the list of descriptors is one more.
            let known = descriptors().get("/proc").copied().unwrap_or(0) > count;
            known && found.len() == count && found.iter().all(|pid| pid.state() == Some('S'))
        });
        found
    }
}

fn descendants() -> Vec<Pid> {
    below(std::process::id())
}

/// The only one.
#[track_caller]
fn only(pids: Vec<Pid>) -> Pid {
    assert_eq!(pids.len(), 1, "{pids:?}");
    pids[0]
}

fn root_zygote() -> Pid {
    only(Pid(std::process::id() as i32).living_children())
}

fn module_zygotes() -> Vec<Pid> {
    Pid(std::process::id() as i32).living_children().into_iter().flat_map(Pid::living_children).collect()
}

fn module_zygote() -> Pid {
    only(module_zygotes())
}

#[track_caller]
fn assert_exited(report: Result<Report, Error>) {
    let report = report.expect("a report");
    assert!(matches!(report.outcome, Outcome::Exited { code: 0, .. }), "{:?}", report.outcome);
}

#[track_caller]
fn assert_killed(report: Result<Report, Error>) {
    let report = report.expect("a report");
    assert_eq!(report.outcome, Outcome::LimitReached(LimitReached { limit: Limit::Host, value: 0 }));
    assert!(report.usage.wall_ns > 0 && report.usage.peak_memory_bytes > 0, "{:?}", report.usage);
}

#[track_caller]
fn assert_died(report: Result<Report, Error>) {
    match report {
        Err(Error::ZygoteDied { .. }) => {}
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn assert_silent(report: Result<Report, Error>) {
    match report {
        Err(Error::ZygoteSilent { .. }) => {}
        other => panic!("{other:?}"),
    }
}

const NONE_PARKED: PoolLimits = PoolLimits { min: 0, max: 0 };
const TWO_PARKED: PoolLimits = PoolLimits { min: 2, max: 2 };
/// For zygotes that do not answer. Long enough for one that does, on a busy machine.
const SHORT: Duration = Duration::from_secs(3);

#[test]
fn an_instance_killed_in_a_host_call_is_reported_once() {
    alone(async {
        for pool in [NONE_PARKED, TWO_PARKED] {
            let host = Host::start(pool).await;
            host.next_job_works().await;
            host.parked(pool.min);
            let (job, instance) = host.waiting().await;
            instance.signal(Signal::SIGKILL);
            assert_killed(job.await.expect("a task"));
            host.next_job_works().await;
            drop(host);
            assert_no_orphans();
        }
    });
}

#[test]
fn a_session_whose_instance_is_killed_ends() {
    alone(async {
        let host = Host::start(NONE_PARKED).await;
        for in_call in [false, true] {
            let mut session =
                host.supervisor.session(host.job(&host.module, "wait")).await.expect("a session");
            assert_eq!(session.start().await.expect("starts"), CallOutcome::Returned(Vec::new()));
            let instance = only(module_zygote().living_children());
            let outcome = if in_call {
                let kill = async {
                    host.called.notified().await;
                    instance.signal(Signal::SIGKILL);
                };
                tokio::join!(session.call("wait", &[]), kill).0
            } else {
                instance.signal(Signal::SIGKILL);
                session.call("nothing", &[]).await
            };
            match outcome.expect("an outcome") {
                CallOutcome::Ended(Outcome::LimitReached(LimitReached { limit: Limit::Host, .. })) => {}
                other => panic!("{other:?}"),
            }
            host.next_job_works().await;
        }
    });
}

/// The supervisor takes it for alive: it is, but stopped, and killed when the job has been given to it.
#[test]
fn a_parked_instance_killed_before_it_takes_its_job_costs_nothing() {
    alone(async {
        let host = Host::start(PoolLimits { min: 1, max: 1 }).await;
        let other = host.supervisor.load(ModuleSource::Wasm(OTHER.into())).await.expect("it loads");
        host.next_job_works().await;
        for _ in 0..5 {
            let parked = host.parked(1)[0];
            parked.stop();
            let job = host.submit("nothing");
            tokio::task::yield_now().await;
            // One thread serves both jobs, the first first: when the second has ended, the first has been given.
            assert_exited(host.supervisor.run(host.job(&other, "nothing")).await);
            assert!(!job.is_finished());
            parked.signal(Signal::SIGKILL);
            assert_exited(job.await.expect("a task"));
            // Back to one module zygote with one parked instance.
            for zygote in module_zygotes() {
                zygote.signal(Signal::SIGKILL);
                zygote.wait_until_dead();
            }
            host.next_job_works().await;
        }
    });
}

/// Killed while nobody can tell the supervisor: its zygote is stopped.
#[test]
fn a_parked_instance_whose_death_is_not_told_yet_costs_nothing() {
    alone(async {
        let host = Host::start(PoolLimits { min: 1, max: 1 }).await;
        host.next_job_works().await;
        for _ in 0..5 {
            let (parked, zygote) = (host.parked(1)[0], module_zygote());
            zygote.stop();
            parked.signal(Signal::SIGKILL);
            eventually("dead", || parked.state().is_none_or(|state| state == 'Z'));
            let job = host.submit("nothing");
            tokio::task::yield_now().await;
            zygote.signal(Signal::SIGCONT);
            assert_exited(job.await.expect("a task"));
        }
    });
}

/// An instance that has ended and is not reaped, because its zygote is stopped: what the zygote does next decides.
#[test]
fn a_job_that_is_finishing_ends_once_whatever_becomes_of_its_zygote() {
    alone(async {
        let host =
            Host::with(Config { pool: NONE_PARKED, zygote_patience: SHORT, ..Config::default() }).await;
        for next in ["continues", "is killed", "stays silent"] {
            let (job, instance) = host.waiting().await;
            let zygote = module_zygote();
            zygote.stop();
            host.release.notify_one();
            eventually("finished", || instance.state() == Some('Z'));
            match next {
                "continues" => zygote.signal(Signal::SIGCONT),
                "is killed" => zygote.signal(Signal::SIGKILL),
                _ => {}
            }
            let report = job.await.expect("a task");
            match next {
                "continues" => assert_exited(report),
                "is killed" => assert_died(report),
                _ => assert_silent(report),
            }
            if next != "continues" {
                zygote.wait_until_dead();
            }
            host.next_job_works().await;
        }
        drop(host);
        assert_no_orphans();
    });
}

#[test]
fn a_module_zygote_killed_with_parked_children_leaves_nothing() {
    alone(async {
        let host = Host::start(TWO_PARKED).await;
        host.next_job_works().await;
        let parked = host.parked(2);
        let before = descriptors();
        let (job, instance) = host.waiting().await;
        let zygote = module_zygote();
        zygote.signal(Signal::SIGKILL);
        assert_died(job.await.expect("a task"));
        for pid in parked.into_iter().chain([instance, zygote]) {
            pid.wait_until_dead();
        }
        // Without another job: no ring, no doorbell, no pidfd of theirs is left.
        eventually("given back", || {
            let now = descriptors();
            let kinds = ["anon_inode:[eventfd]", "anon_inode:[pidfd]", "/proc"];
            kinds
                .iter()
                .all(|kind| now.get(*kind).copied().unwrap_or(0) < before.get(*kind).copied().unwrap_or(0))
        });
        host.next_job_works().await;
        host.parked(2);
        eventually("as before", || no_more_descriptors_than(&before));
    });
}

/// Stopped between the command to fork and the fork, then killed: nothing of the job had happened.
#[test]
fn a_module_zygote_killed_while_it_should_fork_costs_no_job() {
    alone(async {
        let host = Host::start(NONE_PARKED).await;
        let other = host.supervisor.load(ModuleSource::Wasm(OTHER.into())).await.expect("it loads");
        host.next_job_works().await;
        let zygote = module_zygote();
        zygote.stop();
        let jobs: Vec<_> = (0..5).map(|_| host.submit("nothing")).collect();
        tokio::task::yield_now().await;
        assert_exited(host.supervisor.run(host.job(&other, "nothing")).await);
        assert!(jobs.iter().all(|job| !job.is_finished()));
        zygote.signal(Signal::SIGKILL);
        for job in jobs {
            assert_exited(job.await.expect("a task"));
        }
    });
}

#[test]
fn a_stopped_module_zygote_costs_its_own_jobs_an_error() {
    alone(async {
        for pool in [NONE_PARKED, PoolLimits { min: 0, max: 4 }] {
            let host = Host::with(Config { pool, zygote_patience: SHORT, ..Config::default() }).await;
            let other = host.supervisor.load(ModuleSource::Wasm(OTHER.into())).await.expect("it loads");
            host.next_job_works().await;
            let zygote = module_zygote();
            zygote.stop();
            // One parked instance may serve one of them, and is not reaped then.
            let jobs: Vec<_> = (0..3).map(|_| host.submit("nothing")).collect();
            // The shard serves others meanwhile.
            for _ in 0..10 {
                assert_exited(host.supervisor.run(host.job(&other, "nothing")).await);
            }
            let mut silent = 0;
            for job in jobs {
                match job.await.expect("a task") {
                    Err(Error::ZygoteSilent { who: "module", .. }) => silent += 1,
                    other => assert_exited(other),
                }
            }
            assert!(silent >= 2, "{silent} of 3");
            zygote.wait_until_dead();
            host.next_job_works().await;
            drop(host);
            assert_no_orphans();
        }
    });
}

#[test]
fn a_stopped_root_zygote_costs_one_job_an_error_and_no_running_job_anything() {
    alone(async {
        let host =
            Host::with(Config { pool: NONE_PARKED, zygote_patience: SHORT, ..Config::default() }).await;
        let other = host.supervisor.load(ModuleSource::Wasm(OTHER.into())).await.expect("it loads");
        let (job, _) = host.waiting().await;
        root_zygote().stop();
        assert_silent(host.supervisor.run(host.job(&other, "nothing")).await);
        assert_exited(host.supervisor.run(host.job(&other, "nothing")).await);
        host.release.notify_one();
        assert_exited(job.await.expect("a task"));
        drop(host);
        assert_no_orphans();
        assert_eq!(descendants(), []);
    });
}

#[test]
fn a_root_zygote_killed_under_a_running_job_costs_that_job() {
    alone(async {
        let host = Host::start(TWO_PARKED).await;
        host.next_job_works().await;
        host.parked(2);
        let (job, instance) = host.waiting().await;
        let (root, module) = (root_zygote(), module_zygote());
        root.signal(Signal::SIGKILL);
        assert_died(job.await.expect("a task"));
        for pid in [root, module, instance] {
            pid.wait_until_dead();
        }
        host.next_job_works().await;
    });
}

/// Kills whatever is there while jobs run: whatever is hit, at whatever moment.
#[test]
fn a_storm_of_kills_leaves_nothing_behind() {
    const KILLS: usize = 60;
    const SEED: u64 = 0x5eed_0001;
    let _alone = lock();
    let scratch = Scratch::new();
    // This process's compile zygote stays, with its sockets: it is there before anything is counted.
    drop(runtime().block_on(Host::start(NONE_PARKED)));
    let (before, mounted) = (descriptors(), mounts());
    let outer = runtime();
    let state_dir = Some(scratch.file("state"));
    let host =
        Arc::new(outer.block_on(Host::with(Config { pool: TWO_PARKED, state_dir, ..Config::default() })));
    outer.block_on(host.next_job_works());
    host.parked(2);
    let quiet = descriptors();
    let files = tree(&scratch);

    let over = Arc::new(AtomicBool::new(false));
    let ended: Arc<[AtomicUsize; 3]> = Arc::default();
    let jobs: Vec<_> = (0..6)
        .map(|lane| {
            let (host, over, ended) = (Arc::clone(&host), Arc::clone(&over), Arc::clone(&ended));
            outer.spawn(async move {
                while !over.load(Ordering::SeqCst) {
                    let mut job = host.job(&host.module, if lane < 4 { "nothing" } else { "forever" });
                    job.limits.wall_time = (lane >= 4).then_some(Duration::from_millis(20));
                    let kind = match host.supervisor.run(job).await {
                        Ok(Report { outcome: Outcome::Exited { code: 0, .. }, .. }) => 0,
                        Ok(Report { outcome: Outcome::LimitReached(LimitReached { limit, .. }), .. }) => {
                            assert!(
                                limit == Limit::Host || limit == Limit::WallTime && lane >= 4,
                                "{limit:?}"
                            );
                            1
                        }
                        Err(Error::ZygoteDied { .. }) => 2,
                        other => panic!("{other:?}"),
                    };
                    ended[kind].fetch_add(1, Ordering::SeqCst);
                }
            })
        })
        .collect();
    let killer = std::thread::spawn({
        let (over, ended) = (Arc::clone(&over), Arc::clone(&ended));
        move || {
            let killed = kill_at_random(KILLS, SEED, &ended);
            over.store(true, Ordering::SeqCst);
            killed
        }
    });
    for job in jobs {
        outer.block_on(job).expect("no job ended in another way");
    }
    let killed = killer.join().expect("the killer");
    println!("killed (module zygote, childless): {killed:?}; jobs: {ended:?}");
    // One that dies in the last moment may cost one job more.
    let next = outer.block_on(async { host.submit("nothing").await.expect("a task") });
    if next.is_err() {
        assert_died(next);
    }
    outer.block_on(host.next_job_works());
    host.parked(2);
    eventually("the descriptors of before", || no_more_descriptors_than(&quiet));
    assert_eq!(tree(&scratch), files, "files");
    assert_eq!(mounts(), mounted, "mounts");
    drop(host);
    drop(outer);
    eventually("no descendants", || descendants().is_empty());
    eventually("no descriptors", || no_more_descriptors_than(&before));
    assert_no_orphans();
}

/// Kills descendants of this process. Returns how many, by whether they were a module zygote and whether they had no children.
fn kill_at_random(count: usize, seed: u64, ended: &[AtomicUsize; 3]) -> BTreeMap<(bool, bool), usize> {
    let done = || ended.iter().map(|count| count.load(Ordering::SeqCst)).sum::<usize>();
    let (mut random, mut killed) = (seed, BTreeMap::new());
    for _ in 0..count {
        // Between two kills some jobs end, so that there is something to hit again.
        let target = done() + (random % 7) as usize;
        eventually("jobs end", || done() >= target);
        // xorshift64 (Marsaglia, 2003).
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let all = descendants();
        let Some(victim) = all.get((random >> 8) as usize % all.len().max(1)) else { continue };
        let kind = (module_zygotes().contains(victim), victim.children().is_empty());
        victim.signal(Signal::SIGKILL);
        *killed.entry(kind).or_default() += 1;
    }
    killed
}

/// Names of all files below, without those of the cache that change with every use.
fn tree(scratch: &Scratch) -> Vec<std::path::PathBuf> {
    let mut todo = vec![scratch.path().to_owned()];
    let mut found = Vec::new();
    while let Some(directory) = todo.pop() {
        for entry in std::fs::read_dir(directory).expect("a directory").flatten() {
            if entry.file_type().expect("a type").is_dir() {
                todo.push(entry.path());
            }
            found.push(entry.path());
        }
    }
    found.sort();
    found
}

/// The role of [`host_app`] in this process.
const ROLE: &str = "SANDBOXD_TEST_HOST_APP";

/// A host app with the library, to be killed: started by the tests below as a process of its own. By itself it does nothing.
#[test]
fn host_app() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let runtime = runtime();
    runtime.block_on(async {
        let host = Host::start(TWO_PARKED).await;
        host.next_job_works().await;
        host.parked(2);
        let mut session = None;
        match role.as_str() {
            "parked" => {}
            "host call" => drop(host.waiting().await),
            "running" => drop(host.submit("forever")),
            _ => {
                let own = host.supervisor.session(host.job(&host.module, "wait")).await.expect("a session");
                session.insert(own).start().await.expect("it starts");
            }
        }
        println!("\nready");
        std::io::stdout().flush().expect("stdout");
        std::future::pending::<()>().await;
    });
}

#[test]
fn a_killed_host_app_leaves_nothing() {
    let _alone = lock();
    let mounted = mounts();
    for role in ["parked", "host call", "running", "session"] {
        let mut command = Command::new(std::env::current_exe().expect("this program"));
        command.args(["--exact", "host_app", "--nocapture"]).env(ROLE, role);
        let mut process = spawn(&mut command);
        let lines = BufReader::new(process.stdout()).lines();
        assert!(lines.map_while(Result::ok).any(|line| line == "ready"), "{role}");
        let below = below(process.id());
        assert!(below.len() >= 4, "{role}: {below:?}");
        process.signal(Signal::SIGKILL);
        process.wait();
        for pid in below {
            pid.wait_until_dead();
        }
        assert_no_orphans();
    }
    assert_eq!(mounts(), mounted);
}

/// With parked instances, and with one that waits for input.
#[test]
fn a_killed_daemon_leaves_no_process() {
    let _alone = lock();
    for phase in ["parked", "host call"] {
        let mut daemon = Daemon::start();
        let scratch = Scratch::new();
        let hello = scratch.module("hello.wasm", guests::HELLO);
        run(scratch.sandboxctl_run(Some(&daemon)).arg(&hello)).expect_status(0);
        let mut client = (phase == "host call").then(|| {
            let wait = scratch.module("wait.wasm", guests::WAIT);
            spawn(scratch.sandboxctl_run(Some(&daemon)).arg(wait))
        });
        let mut input = None;
        if let Some(client) = &mut client {
            input = Some(client.stdin());
            let mut line = String::new();
            BufReader::new(client.stdout()).read_line(&mut line).expect("the guest's word");
            assert_eq!(line, "ready\n");
        }
        // Zygotes, and at least one instance: one is parked after the first job.
        eventually("an instance below the daemon", || below(daemon.id()).len() >= 3);
        let below = below(daemon.id());
        daemon.end(Signal::SIGKILL);
        for pid in below {
            pid.wait_until_dead();
        }
        if let Some(client) = client {
            let (status, stderr) = client.wait();
            assert_eq!(status.code(), Some(125), "{stderr}");
        }
        drop(input);
        assert_no_orphans();
    }
}
