//! Cgroups of tenants: who is in them, that nothing of them stays, and that no instance leaves its own.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use ipc::control::layer;
use ipc::report::Report;
use nix::sys::signal::Signal;
use policies::Policy;
use supervisor::{Config, Error, PoolLimits, TenantCgroups};
use whole_system_tests::attacker::Attacker;
use whole_system_tests::cgroups::{self, Cgroup, again_as_user};
use whole_system_tests::host::is_root;
use whole_system_tests::instances::Pid;
use whole_system_tests::lifecycle::eventually;
use whole_system_tests::native::{Native, assert_refused};
use whole_system_tests::{Daemon, Scratch, guests, run};

const LAYER: &str = "tenant-cgroup";
const USER: u64 = layer::USER_NAMESPACE;

fn config(wanted: TenantCgroups) -> Config {
    Config { cgroup: Some(wanted), pool: PoolLimits { min: 0, max: 0 }, ..Config::default() }
}

/// The attacker in a supervisor whose tenants have cgroups in this one.
async fn attacker_in(cgroup: &Cgroup) -> Attacker {
    let wanted = TenantCgroups { directory: Some(cgroup.path().into()), ..TenantCgroups::default() };
    Attacker::with_config(Policy::builtin("default").unwrap(), config(wanted)).await
}

/// The processes in a cgroup: a module zygote first, then its instances.
fn family(leaf: &Path) -> Vec<i32> {
    let text = fs::read_to_string(leaf.join("cgroup.procs")).expect("a leaf");
    let all: Vec<i32> = text.lines().map(|line| line.parse().expect("a number")).collect();
    let mut sorted = all.clone();
    sorted.sort_by_key(|pid| all.contains(&Pid(*pid).parent()));
    sorted
}

fn is_in_force(report: &Report) -> bool {
    report.layers.iter().any(|layer| layer == LAYER)
}

#[tokio::test]
async fn the_processes_of_a_tenant_are_in_its_cgroup_and_nothing_of_it_stays() {
    let Some(cgroup) = Cgroup::new() else { return };
    let attacker = attacker_in(&cgroup).await;
    let (first, second) = (attacker.session_of("a").await, attacker.session_of("b/c").await);
    assert_eq!(cgroup.leaves(), ["tenant-a", "tenant-b%2Fc"]);
    let supervisor = cgroup.supervisors().remove(0);
    let own = cgroups::of(std::process::id() as i32);
    for leaf in ["tenant-a", "tenant-b%2Fc"] {
        let family = family(&supervisor.join(leaf));
        let &[zygote, instance] = &family[..] else { panic!("{leaf}: {family:?}") };
        assert_eq!(Pid(instance).parent(), zygote, "{leaf}");
        assert!(cgroups::of(instance).ends_with(&format!("/{leaf}")), "{leaf}");
        // What serves every tenant is in nobody's.
        assert_eq!(cgroups::of(Pid(zygote).parent()), own, "{leaf}");
    }
    for session in [first, second] {
        assert!(is_in_force(&session.end().await.expect("a report")));
    }
    drop(attacker);
    eventually("nothing is left", || cgroup.supervisors().is_empty());
}

/// Who has a subtree delegated needs no privilege.
#[test]
fn an_ordinary_user_has_cgroups_where_one_is_delegated() {
    again_as_user("the_processes_of_a_tenant_are_in_its_cgroup_and_nothing_of_it_stays");
}

#[tokio::test]
async fn a_cgroup_goes_with_the_last_zygote_of_its_tenant() {
    let Some(cgroup) = Cgroup::new() else { return };
    let wanted = TenantCgroups { directory: Some(cgroup.path().into()), ..TenantCgroups::default() };
    let config = Config { module_zygotes: 1, ..config(wanted) };
    let attacker = Attacker::with_config(Policy::builtin("default").unwrap(), config).await;
    assert!(is_in_force(&attacker.session_of("a").await.end().await.expect("a report")));
    // There is room for one zygote.
    let session = attacker.session_of("b").await;
    eventually("the first one goes", || cgroup.leaves() == ["tenant-b"]);
    let family = family(&cgroup.supervisors()[0].join("tenant-b"));
    Pid(family[0]).signal(Signal::SIGKILL);
    eventually("the killed one's, too", || cgroup.leaves().is_empty());
    drop(session);
    // It comes back with the next job.
    let session = attacker.session_of("b").await;
    assert_eq!(cgroup.leaves(), ["tenant-b"]);
    drop((session, attacker));
    eventually("nothing is left", || cgroup.supervisors().is_empty());
}

#[tokio::test]
async fn two_supervisors_of_one_process_do_not_meet() {
    let Some(cgroup) = Cgroup::new() else { return };
    let (one, other) = (attacker_in(&cgroup).await, attacker_in(&cgroup).await);
    let sessions = (one.session_of("a").await, other.session_of("a").await);
    let all = cgroup.supervisors();
    assert_eq!(all.len(), 2, "{all:?}");
    for supervisor in &all {
        assert_eq!(family(&supervisor.join("tenant-a")).len(), 2);
    }
    drop((sessions.0, one));
    eventually("one goes, the other stays", || cgroup.supervisors().len() == 1);
    assert_eq!(family(&cgroup.supervisors()[0].join("tenant-a")).len(), 2);
    drop((sessions.1, other));
    eventually("nothing is left", || cgroup.supervisors().is_empty());
}

/// A policy that cannot do without.
fn requires() -> Policy {
    let default = Policy::builtin("default").unwrap();
    let names = layer::ALL.iter().filter(|(bit, _)| (default.required() | layer::TENANT_CGROUP) & bit != 0);
    let names: Vec<String> = names.map(|(_, name)| format!("{name:?}")).collect();
    Policy::parse(&format!("version = 1\n[require]\nlayers = [{}]", names.join(", ")), "requires.toml")
        .unwrap()
}

#[tokio::test]
async fn where_there_is_none_the_report_says_why_and_a_policy_can_insist() {
    let refusal = async |attacker: &Attacker| match attacker
        .with_policy(requires())
        .try_attack("peek", &[1 << 28])
        .await
    {
        Err(Error::LayerMissing { policy, layer, reason }) => {
            assert_eq!((policy.as_str(), layer.as_str()), ("requires.toml", LAYER));
            reason
        }
        other => panic!("{other:?}"),
    };
    // Nobody asks for one.
    let attacker =
        Attacker::with_pool(Policy::builtin("default").unwrap(), PoolLimits { min: 0, max: 0 }).await;
    let report = attacker.attack("peek", &[1 << 28]).await;
    assert!(!is_in_force(&report) && report.missing_layers.iter().all(|missing| missing.layer != LAYER));
    assert!(refusal(&attacker).await.contains("no [cgroup]"));
    assert_eq!(attacker.supervisor.cgroup_problem(), None);
    // Asked for where there is none.
    let scratch = Scratch::new();
    let wanted = TenantCgroups { directory: Some(scratch.path().into()), ..TenantCgroups::default() };
    let attacker = Attacker::with_config(Policy::builtin("default").unwrap(), config(wanted)).await;
    let report = attacker.attack("peek", &[1 << 28]).await;
    let missing = report.missing_layers.iter().find(|missing| missing.layer == LAYER).expect("told");
    assert!(
        !is_in_force(&report) && missing.reason.contains("no directory of a cgroup v2 hierarchy"),
        "{missing:?}"
    );
    assert_eq!(refusal(&attacker).await, missing.reason);
    assert_eq!(attacker.supervisor.cgroup_problem(), Some(missing.reason.as_str()));
}

/// Limits that the host's kernel enforces, where their controllers are there.
#[tokio::test]
async fn limits_need_their_controllers_which_are_named_where_they_are_missing() {
    let Some(cgroup) = Cgroup::new() else { return };
    const LIMIT: u64 = 64 << 20;
    let wanted = TenantCgroups {
        directory: Some(cgroup.path().into()),
        memory_max: Some(LIMIT),
        pids_max: Some(100),
        cpu_percent: Some(50),
        ..TenantCgroups::default()
    };
    let attacker = Attacker::with_config(Policy::builtin("default").unwrap(), config(wanted)).await;
    let report = attacker.attack("peek", &[1 << 28]).await;
    let controllers = fs::read_to_string(cgroup.path().join("cgroup.controllers")).expect("a cgroup");
    let has = |controller: &str| controllers.split_whitespace().any(|has| has == controller);
    let absent: Vec<&str> = ["memory", "cpu", "pids"].into_iter().filter(|wanted| !has(wanted)).collect();
    if !absent.is_empty() {
        let missing = report.missing_layers.iter().find(|missing| missing.layer == LAYER).expect("told");
        assert!(absent.iter().all(|absent| missing.reason.contains(absent)), "{missing:?}");
        assert!(cgroup.supervisors().is_empty(), "nothing is made in vain");
        println!("NOT CHECKED: that the kernel enforces limits of tenants: {}", missing.reason);
        return;
    }
    assert!(is_in_force(&report), "{report:?}");
    let leaf = cgroup.supervisors().remove(0).join("tenant-default");
    for (file, value) in [("memory.max", "67108864"), ("pids.max", "100"), ("cpu.max", "50000 100000")] {
        assert_eq!(fs::read_to_string(leaf.join(file)).expect(file).trim(), value, "{file}");
    }
    drop(attacker);
    eventually("nothing is left", || cgroup.supervisors().is_empty());
}

#[test]
fn a_daemon_leaves_none_behind_and_removes_those_of_one_that_was_killed() {
    let Some(cgroup) = Cgroup::new() else { return };
    let directory = format!("cgroup.directory={:?}", cgroup.path());
    let scratch = Scratch::new();
    scratch.module("hello.wasm", guests::HELLO);
    run(scratch.sandboxctl().args(["compile", "hello.wasm", "-o", "hello"])).expect_status(0);
    let tenant = format!("tenant-uid-{}", nix::unistd::geteuid());
    let serves = |daemon: &Daemon| {
        let output = run(scratch.sandboxctl_run(Some(daemon)).args(["--json", "hello"]));
        output.expect_status(0);
        assert!(output.text().contains(LAYER), "{}", output.text());
        assert_eq!(cgroup.leaves(), [tenant.as_str()]);
    };
    // With and without the confinement, and with files closed to it: it is the spawner that makes them.
    for options in [&[][..], &["--set", "daemon.directories=[]"], &["--set", "daemon.confine=\"off\""]] {
        if options.iter().any(|option| option.contains("directories"))
            && supervisor::host::landlock_abi() == 0
        {
            println!("NOT CHECKED: this kernel has no Landlock to close files to a daemon");
            continue;
        }
        let mut daemon = Daemon::start_with(&[&["--set", &directory], options].concat());
        serves(&daemon);
        assert!(daemon.end(Signal::SIGTERM).success());
        assert_eq!(cgroup.supervisors(), Vec::<std::path::PathBuf>::new(), "{options:?}");
    }
    let mut killed = Daemon::start_with(&["--set", &directory]);
    serves(&killed);
    let left = cgroup.supervisors();
    let _ = killed.end(Signal::SIGKILL);
    assert_eq!(cgroup.supervisors(), left, "nobody is there to remove it");
    // A living one's stays.
    let first = Daemon::start_with(&["--set", &directory]);
    assert!(left.iter().all(|left| !left.exists()));
    serves(&first);
    let second = Daemon::start_with(&["--set", &directory]);
    assert_eq!(cgroup.supervisors().len(), 2);
    drop(second);
    serves(&first);
}

/// Native code that finds the cgroup file system and may write to it, which no host should let it.
#[tokio::test]
async fn an_instance_neither_leaves_its_cgroup_nor_sees_others() {
    let Some(cgroup) = Cgroup::new() else { return };
    let outside = cgroup.path().join("outside");
    fs::create_dir(&outside).expect("a cgroup");
    for directory in [cgroup.path(), &outside] {
        fs::set_permissions(directory.join("cgroup.procs"), Permissions::from_mode(0o666)).expect("open");
    }
    let attacker = attacker_in(&cgroup).await;
    // Whether it has left, or the error of trying; and what it has read.
    let leave = async |layers: u64| {
        let mut native = Native::under(&attacker, layers | layer::TENANT_CGROUP).await;
        let instance = *family(&cgroup.supervisors()[0].join("tenant-default")).last().expect("an instance");
        assert!(cgroups::of(instance).ends_with("/tenant-default"));
        let path = native.put_string(outside.join("cgroup.procs").to_str().unwrap()).await;
        let zero = native.put(b"0").await;
        let seen = native.read_file(cgroup.path().join("cgroup.procs").to_str().unwrap()).await;
        let fd = native.syscall(libc::SYS_open, &[path, libc::O_WRONLY as u64]).await;
        let left = if fd < 0 {
            Err(-fd as i32)
        } else {
            assert_eq!(native.syscall(libc::SYS_write, &[fd as u64, zero, 1]).await, 1);
            assert!(cgroups::of(instance).ends_with("/outside"));
            Ok(())
        };
        drop(native);
        Pid(instance).wait_until_dead();
        (left, seen.map(drop))
    };
    assert_eq!(leave(0).await, (Ok(()), Ok(())), "without a layer it leaves");
    let hidden = leave(USER | layer::MOUNT_NAMESPACE | layer::EMPTY_ROOT).await;
    assert_eq!(hidden, (Err(libc::ENOENT), Err(libc::ENOENT)));
    if supervisor::host::landlock_abi() > 0 {
        assert_eq!(leave(USER | layer::LANDLOCK).await, (Err(libc::EACCES), Err(libc::EACCES)));
    } else {
        println!("NOT CHECKED: this kernel has no Landlock");
    }
    if is_root() {
        // As a host has it: nobody but its owner writes there, and an instance is somebody else.
        fs::set_permissions(outside.join("cgroup.procs"), Permissions::from_mode(0o644)).expect("closed");
        assert_eq!(leave(USER).await.0, Err(libc::EACCES));
    } else {
        println!("NOT CHECKED: an ordinary user's instances run as that user");
    }
    assert_refused(&attacker, libc::SYS_open).await;
    assert_refused(&attacker, libc::SYS_openat).await;
    drop(attacker);
    eventually("nothing is left", || fs::remove_dir(&outside).is_ok() && cgroup.supervisors().is_empty());
}
