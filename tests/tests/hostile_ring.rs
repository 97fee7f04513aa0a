//! The ring against hostile instances that do random things, through the real path: confined instances of one zygote, thousands of them,
//! while an honest tenant's jobs run on the same supervisor.
//!
//! `SANDBOXD_FUZZ_SECONDS` makes it go on that long, `SANDBOXD_FUZZ_SEED` begins elsewhere.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Seek, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ipc::report::{Outcome, Violation};
use nix::sys::memfd::{MFdFlags, memfd_create};
use policies::Policy;
use supervisor::{CallOutcome, Job, JobLimits, Module, ModuleSource, Preopen, Supervisor};
use tokio::time::timeout;
use whole_system_tests::attacker::{Attacker, weapon};
use whole_system_tests::ring_program::{Finale, Program, Random};
use whole_system_tests::{PATIENCE, Scratch, guests};

/// Programs that a plain run tries.
const PROGRAMS: u64 = 300;
/// In flight at a time.
const LANES: u64 = 4;
/// Time after which a silent instance is ended.
const SILENCE: Duration = Duration::from_millis(100);
/// Resident memory by which the supervisor may grow: what allocators keep, and lists of results here.
const ROOM_KIB: u64 = 64 << 10;

fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

fn status(key: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("this process's status");
    let line = status.lines().find_map(|line| line.strip_prefix(key)).expect("a line");
    line.split_whitespace().find_map(|word| word.parse().ok()).expect("a number")
}

fn descriptors() -> usize {
    fs::read_dir("/proc/self/fd").expect("this process's descriptors").count()
}

/// The honest tenant's jobs: each gets back what it gave, and nothing else.
struct Honest {
    supervisor: Supervisor,
    module: Module,
    policy: Arc<Policy>,
}

impl Honest {
    async fn job(&self, random: &mut Random) {
        let length = random.below(100_000) as usize;
        let given: Vec<u8> = (0..length).map(|_| random.bits() as u8).collect();
        let file = |name| File::from(memfd_create(name, MFdFlags::MFD_CLOEXEC).expect("a file"));
        let (mut input, mut output) = (file(c"input"), file(c"output"));
        input.write_all(&given).expect("written");
        input.rewind().expect("rewound");
        let mut job = Job::command(self.module.clone(), Arc::clone(&self.policy));
        job.tenant = String::from("honest");
        job.stdio = [Some(input.into()), Some(output.try_clone().expect("a copy").into()), None];
        let report =
            timeout(PATIENCE, self.supervisor.run(job)).await.expect("served in time").expect("a report");
        assert_eq!(report.outcome, Outcome::Exited { code: 0, results: Vec::new() });
        let mut got = Vec::new();
        output.rewind().expect("rewound");
        output.read_to_end(&mut got).expect("read");
        assert!(got == given, "{} bytes came out of {length}", got.len());
    }
}

struct Hostile {
    attacker: Attacker,
    /// What it may look at, and not change.
    directory: Scratch,
}

impl Hostile {
    fn job(&self, program: &Program, seed: u64) -> Job {
        let mut job = self.attacker.job("program", &program.parameters());
        job.tenant = String::from("hostile");
        job.args = program.arguments();
        job.limits = JobLimits { wall_time: Some(SILENCE), ..JobLimits::default() };
        if seed.is_multiple_of(2) {
            let directory = File::open(self.directory.path()).expect("the directory").into();
            job.preopens.push(Preopen { directory, guest_path: String::from("/"), read_only: true });
        }
        job
    }

    /// Runs the program of a seed; what came of it.
    async fn run(&self, seed: u64) -> Outcome {
        let program = Program::new(seed);
        let job = self.job(&program, seed);
        let outcome = if seed.is_multiple_of(5) {
            self.session(job, &program).await
        } else {
            let report = timeout(PATIENCE, self.attacker.supervisor.run(job)).await;
            report.unwrap_or_else(|_| panic!("seed {seed}: no report")).expect("a report").outcome
        };
        check(seed, &program, &outcome);
        outcome
    }

    async fn session(&self, job: Job, program: &Program) -> Outcome {
        let mut session = self.attacker.supervisor.session(job).await.expect("a session");
        match timeout(PATIENCE, session.start()).await.expect("an answer").expect("an outcome") {
            CallOutcome::Returned(_) => {}
            CallOutcome::Ended(outcome) => return outcome,
            other => panic!("{other:?}"),
        }
        let called = timeout(PATIENCE, weapon(&mut session, "program", &program.parameters())).await;
        match called.expect("an answer") {
            CallOutcome::Ended(outcome) => outcome,
            // A forged reply says whatever it likes about the call, which is the session's own affair.
            _ => timeout(PATIENCE, session.end()).await.expect("an end").expect("a report").outcome,
        }
    }
}

/// An offender ends with what it did: a rule of the ring with its figures, or a limit that it ran into before.
fn check(seed: u64, program: &Program, outcome: &Outcome) {
    let fail = || panic!("seed {seed}, {:?}: {outcome:?}", program.finale);
    match outcome {
        Outcome::Violated(Violation::Ring { rule }) => {
            assert!(rule.chars().any(|c| c.is_ascii_digit()) && rule.len() > 10, "seed {seed}: {rule}");
        }
        Outcome::LimitReached(_) => {}
        _ if program.may_finish => {}
        Outcome::Exited { code: 0, .. } if program.finale == Finale::Leave => {}
        // A session's instance obeys commands that it wrote itself, or finds in slots that nobody has written yet.
        _ if seed.is_multiple_of(5) => {}
        _ => fail(),
    }
}

fn kind(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Violated(Violation::Ring { rule }) => {
            let words = rule.split(|c: char| c.is_ascii_digit()).next().unwrap_or_default();
            format!("ring: {words}…")
        }
        Outcome::Violated(other) => {
            format!("{other:?}").split([' ', '{']).next().unwrap_or_default().to_owned()
        }
        Outcome::LimitReached(reached) => format!("limit: {:?}", reached.limit),
        Outcome::Exited { .. } => String::from("exited"),
        other => format!("{other:?}").split(['(', ' ']).next().unwrap_or_default().to_owned(),
    }
}

#[tokio::test]
async fn random_programs_end_as_they_must_and_cost_nobody_else_anything() {
    let attacker = Attacker::under(Policy::builtin("wasi-direct").expect("the profile")).await;
    let supervisor = attacker.supervisor.clone();
    let directory = Scratch::new();
    directory.write("a", "what the hostile tenant may read");
    let cat = ModuleSource::Wasm(wat::parse_str(guests::CAT).expect("a module"));
    let honest = Honest {
        module: supervisor.load(cat).await.expect("loads"),
        policy: Arc::new(Policy::builtin("default").expect("the profile")),
        supervisor,
    };
    let hostile = Hostile { attacker, directory };
    let first = variable("SANDBOXD_FUZZ_SEED").unwrap_or(0);
    let seconds = variable("SANDBOXD_FUZZ_SECONDS").map(Duration::from_secs);
    let started = Instant::now();
    let goes_on = |seed: u64| match seconds {
        Some(seconds) => started.elapsed() < seconds,
        None => seed < first + PROGRAMS,
    };
    // What is there once everything was there once.
    for seed in 0..LANES * 8 {
        hostile.run(u64::MAX - seed).await;
    }
    honest.job(&mut Random(first)).await;
    let before = (status("VmRSS:"), status("Threads:"));
    let held = descriptors();
    let lane = |lane: u64| {
        let (hostile, goes_on) = (&hostile, &goes_on);
        async move {
            let mut kinds = BTreeMap::<String, u64>::new();
            for seed in (first + lane..).step_by(LANES as usize).take_while(|seed| goes_on(*seed)) {
                *kinds.entry(kind(&hostile.run(seed).await)).or_default() += 1;
            }
            kinds
        }
    };
    let served = async {
        let mut random = Random(first);
        let mut served = 0u64;
        let mut rounds = first..;
        while served < 50 || seconds.is_some() && goes_on(rounds.next().unwrap_or(0)) {
            honest.job(&mut random).await;
            served += 1;
        }
        served
    };
    let (a, b, c, d, served) = tokio::join!(lane(0), lane(1), lane(2), lane(3), served);
    let mut kinds = BTreeMap::<String, u64>::new();
    for (kind, count) in [a, b, c, d].into_iter().flatten() {
        *kinds.entry(kind).or_default() += count;
    }
    let programs: u64 = kinds.values().sum();
    println!("{programs} programs in {:?}, {served} honest jobs beside them: {kinds:#?}", started.elapsed());
    let violations =
        kinds.iter().filter(|(kind, _)| kind.starts_with("ring: ")).map(|(_, count)| count).sum::<u64>();
    assert!(violations >= programs / 4, "most programs break a rule");
    assert!(kinds.len() >= 6, "in different ways");
    honest.job(&mut Random(first)).await;
    // What is parked is the pool's affair, four descriptors each.
    let after = (status("VmRSS:"), status("Threads:"));
    assert!(after.0 < before.0 + ROOM_KIB, "resident KiB: {} after {}", after.0, before.0);
    assert_eq!(after.1, before.1, "threads");
    assert!(descriptors() < held + 256, "descriptors: {} after {held}", descriptors());
}
