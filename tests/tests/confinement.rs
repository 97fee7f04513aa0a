//! What confines a running instance, as the kernel shows it: the same as root and as an ordinary user.
//!
//! An instance is closed to everybody but root (it is not dumpable), so what `/proc` shows only to root is
//! checked when the tests run as root, and that it is closed when they do not.

use std::io::Read;

use ipc::layout::{
    CODE_BASE, CODE_END, CONTEXT_BASE, CONTEXT_END, DOORBELL_FD, GATE_LANDING, GATE_PAGE, MEMORY_BASE,
    MEMORY_RESERVED, OWN_STACK_BASE, OWN_STACK_TOP, PAGE, RING_BASE, RING_END, STACK_DEFAULT, STACK_TOP,
};
use whole_system_tests::host::is_root;
use whole_system_tests::instances::{Family, Mapping};
use whole_system_tests::{Process, Scratch, assert_no_orphans, guests, spawn};

/// A guest that has said `ready` and computes, and the processes below its supervisor.
fn running(scratch: &Scratch) -> (Process, Family) {
    let module = scratch.module("spin.wasm", guests::SPIN);
    let mut process = spawn(scratch.sandboxctl_run(None).arg("--env").arg("SECRET=canary").arg(module));
    let mut ready = [0; 6];
    process.stdout().read_exact(&mut ready).expect("the guest's word");
    assert_eq!(&ready, b"ready\n");
    let family = Family::below(process.id());
    (process, family)
}

#[test]
fn the_kernel_confirms_every_layer() {
    let scratch = Scratch::new();
    let (process, family) = running(&scratch);
    let status = family.instance.status();
    let field = |name: &str| status.get(name).unwrap_or_else(|| panic!("no {name} in {status:?}")).as_str();
    assert_eq!(field("NoNewPrivs"), "1");
    assert_eq!(field("Seccomp"), "2", "SECCOMP_MODE_FILTER");
    assert_eq!(field("Seccomp_filters"), "2", "the base filter and the policy's");
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(field(set), "0000000000000000", "{set}");
    }
    assert_eq!(field("Threads"), "1");
    assert_eq!(
        field("NSpid").split_whitespace().count(),
        2,
        "a PID namespace of its own: {}",
        field("NSpid")
    );
    let own_uid = nix::unistd::geteuid().as_raw();
    let expected = if is_root() { 65534 } else { own_uid };
    let uids: Vec<u32> = field("Uid").split_whitespace().map(|u| u.parse().unwrap()).collect();
    assert_eq!(uids, [expected; 4], "root's instances run as an unprivileged user, a user's as himself");
    for limit in ["Max core file size", "Max file size", "Max locked memory"] {
        assert_eq!(family.instance.limit(limit), ("0".to_owned(), "0".to_owned()), "{limit}");
    }
    let (soft, hard) = family.instance.limit("Max data size");
    assert_eq!(soft, hard);
    let data: u64 = soft.parse().expect("RLIMIT_DATA is set");
    // The default profile allows 4 GiB of linear memory; stack, image and the zygote's own pages come on top.
    assert!(data < (4 << 30) + (64 << 20), "RLIMIT_DATA is {data}");
    drop(process);
    assert_no_orphans();
}

#[test]
fn an_instance_has_nothing_but_its_doorbell() {
    let scratch = Scratch::new();
    let (process, family) = running(&scratch);
    assert_eq!(family.instance.is_open_to_us(), is_root(), "an instance must not be dumpable");
    if is_root() {
        let doorbell = vec![(DOORBELL_FD, "anon_inode:[eventfd]".to_owned())];
        assert_eq!(family.instance.descriptors(), doorbell);
        assert_eq!(family.instance.read("comm").unwrap(), b"sandbox-zygote\n");
        for strings in ["cmdline", "environ"] {
            assert_eq!(family.instance.read(strings).unwrap(), b"", "{strings} of ours");
        }
    }
    drop(process);
}

#[test]
fn an_instance_sees_an_empty_world() {
    let scratch = Scratch::new();
    let (process, family) = running(&scratch);
    if is_root() {
        let own = whole_system_tests::instances::Pid(std::process::id() as i32);
        for kind in ["user", "mnt", "pid", "net", "ipc", "uts", "cgroup"] {
            assert_ne!(family.instance.namespace(kind), own.namespace(kind), "{kind} namespace");
        }
        if std::path::Path::new("/proc/self/timens_offsets").exists() {
            assert_ne!(family.instance.namespace("time"), own.namespace("time"), "time namespace");
        }
        assert_eq!(family.instance.root_directory(), Vec::<String>::new(), "the root directory is empty");
        let mounts = family.instance.mounts();
        assert_eq!(mounts.len(), 1, "nothing else is mounted: {mounts:?}");
        assert!(mounts[0].contains(" / / ro,nosuid,nodev,noexec"), "read-only: {}", mounts[0]);
    } else {
        // The namespaces of another user namespace's process are closed to us, and that is the point.
        assert!(std::fs::read_link(format!("/proc/{}/ns/net", family.instance.0)).is_err());
    }
    drop(process);
}

#[test]
fn the_address_space_is_the_table_of_the_documents() {
    let scratch = Scratch::new();
    let (process, family) = running(&scratch);
    if is_root() {
        let maps = family.instance.mappings();
        check_address_space(&maps);
    } else {
        assert!(family.instance.read("maps").map_or(true, |m| m.is_empty()));
    }
    drop(process);
}

fn check_address_space(maps: &[Mapping]) {
    for map in maps {
        assert!(
            !(map.protection.contains('w') && map.protection.contains('x')),
            "writable and executable: {map:?}"
        );
        assert!(map.start >= RING_BASE, "below the ring: {map:?}");
        let inside = |from: u64, to: u64| from <= map.start && map.end <= to;
        let known: &[(&str, bool)] = &[
            ("rw-s", inside(RING_BASE, RING_END)),
            ("rw-p", inside(OWN_STACK_BASE, OWN_STACK_TOP)),
            ("rw-p", inside(CONTEXT_BASE, CONTEXT_END)),
            ("r-xp", inside(GATE_LANDING, GATE_LANDING + PAGE)),
            ("r-xp", inside(CODE_BASE, CODE_END)),
            ("r--p", inside(CODE_BASE, CODE_END)),
            ("rw-p", inside(STACK_TOP - STACK_DEFAULT, STACK_TOP)),
            ("rw-p", inside(MEMORY_BASE, MEMORY_BASE + MEMORY_RESERVED)),
            ("---p", inside(MEMORY_BASE, MEMORY_BASE + MEMORY_RESERVED)),
        ];
        let ours = known.iter().any(|(protection, inside)| *inside && map.protection == *protection);
        // Everything else is the zygote's own image and what the kernel gives every process.
        let high = map.start >= MEMORY_BASE + MEMORY_RESERVED;
        assert_ne!(map.name, "[stack]", "what the exec put there is gone");
        let named = map.name.is_empty() || map.name.starts_with('[') || map.name.contains("memfd:zygote");
        assert!(ours || high && named, "a mapping that no table explains: {map:?}");
        assert!(!(map.start < GATE_PAGE + PAGE && GATE_PAGE < map.end), "the gate is still mapped: {map:?}");
    }
    let ring: Vec<_> = maps.iter().filter(|m| m.start < RING_END).collect();
    assert_eq!(ring.len(), 1, "{ring:?}");
    assert_eq!((ring[0].start, ring[0].protection.as_str()), (RING_BASE, "rw-s"));
}

#[test]
fn nothing_survives_the_supervisor() {
    let scratch = Scratch::new();
    let (process, family) = running(&scratch);
    process.signal(nix::sys::signal::Signal::SIGKILL);
    process.wait();
    assert_no_orphans();
    for pid in [family.root, family.module, family.instance] {
        pid.wait_until_dead();
    }
}

#[test]
fn killing_any_process_below_costs_one_job_one_clear_report() {
    for (victim, status, needle) in [
        ("instance", 137, "killed from outside"),
        ("module zygote", 125, "module zygote died"),
        ("root zygote", 125, "zygote died"),
    ] {
        let scratch = Scratch::new();
        let (process, family) = running(&scratch);
        let pid = match victim {
            "instance" => family.instance,
            "module zygote" => family.module,
            _ => family.root,
        };
        // An ordinary user may not signal into the user namespace's process… but it is his own: same user id.
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid.0), nix::sys::signal::Signal::SIGKILL).unwrap();
        let (ended, stderr) = process.wait();
        assert_eq!(ended.code(), Some(status), "{victim}: {stderr}");
        assert!(stderr.contains(needle), "{victim}: {stderr}");
        assert_no_orphans();
    }
}
