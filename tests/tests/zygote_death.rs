//! A root zygote that dies between jobs costs nobody anything. A program of its own, because it looks for the only
//! root zygote below this process.

use std::sync::Arc;

use ipc::report::Outcome;
use nix::sys::signal::{Signal, kill};
use policies::Policy;
use supervisor::{Config, Job, ModuleSource, Supervisor};
use whole_system_tests::instances::Pid;

#[tokio::test]
async fn a_root_zygote_that_died_is_replaced_by_the_next_job() {
    let supervisor = Supervisor::start(Config::default()).unwrap();
    let text = r#"(module (func (export "_start")))"#;
    let module = supervisor.load(ModuleSource::Wasm(text.into())).await.unwrap();
    let policy = Arc::new(Policy::builtin("default").unwrap());
    let run = async || supervisor.run(Job::command(module.clone(), Arc::clone(&policy))).await;
    assert!(matches!(run().await.unwrap().outcome, Outcome::Exited { code: 0, .. }));

    let root = Pid::only_child_of(std::process::id());
    kill(nix::unistd::Pid::from_raw(root.0), Signal::SIGKILL).unwrap();
    root.wait_until_dead();
    // The module zygote below it dies with it; whether that is known yet or not, the next job must not notice for long.
    let report = match run().await {
        Ok(report) => report,
        Err(_) => run().await.unwrap(),
    };
    assert!(matches!(report.outcome, Outcome::Exited { code: 0, .. }), "{:?}", report.outcome);
}
