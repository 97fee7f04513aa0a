//! Seccomp against native code inside an instance: what it may call, that everything else kills it and is named,
//! and that the call gate cannot be used any more.

use ipc::layout::{
    CODE_BASE, DOORBELL_FD, GATE_LANDING, GATE_PAGE, GATE_SYSCALL, MEMORY_BASE, MEMORY_RESERVED, PAGE,
    RING_BASE,
};
use ipc::report::{Outcome, Report, Value, Violation};
use policies::Policy;
use whole_system_tests::attacker::Attacker;

/// The system calls of the default profile's instances. Six is what DESIGN allows; four is what they need.
const ALLOWED: [i64; 4] = [libc::SYS_exit_group, libc::SYS_mprotect, libc::SYS_futex, libc::SYS_write];

/// `uretprobe` and `uprobe`: the kernel lets no filter see them (kernel/seccomp.c, since Linux 6.14), because it
/// plants them in traced programs itself. Called from outside the trampoline that it maps for that, the one raises
/// SIGILL and the other answers ENXIO.
const NEVER_FILTERED: [u64; 2] = [335, 336];

fn did_nothing(outcome: &Outcome) -> bool {
    match outcome {
        Outcome::Violated(Violation::Fault { signal, .. }) => signal == "SIGILL",
        Outcome::Exited { results, .. } => *results == [Value::I64(i64::from(-libc::ENXIO))],
        _ => false,
    }
}

async fn attacker() -> Attacker {
    Attacker::under(Policy::builtin("default").unwrap()).await
}

/// The refused call that a report names.
fn refused(report: &Report) -> Option<(u64, &str, &str)> {
    match &report.outcome {
        Outcome::Violated(Violation::Syscall { number, name, arch, .. }) => Some((*number, name, arch)),
        _ => None,
    }
}

fn assert_fault(report: &Report, what: &str) {
    assert!(
        matches!(report.outcome, Outcome::Violated(Violation::Fault { .. })),
        "{what}: {:?}",
        report.outcome
    );
}

#[tokio::test]
async fn the_weapon_works_where_the_policy_allows_it() {
    let text = r#"
        version = 1
        extends = "default"
        allow_dangerous = true
        dangerous_reason = "shows that the attacker's system calls do happen when nothing refuses them"
        [[seccomp.allow]]
        syscall = "close"
        why = "test"
    "#;
    let attacker = Attacker::under(Policy::parse(text, "dangerous.toml").unwrap()).await;
    let close = async |fd: i64| attacker.answer("syscall", &[libc::SYS_close as u64, fd as u64]).await;
    assert_eq!(close(i64::from(DOORBELL_FD)).await, Some(0), "the doorbell was open");
    assert_eq!(close(i64::from(DOORBELL_FD) + 1).await, Some(-i64::from(libc::EBADF)));
}

#[tokio::test]
async fn every_system_call_but_four_kills_and_is_named() {
    let attacker = attacker().await;
    for number in 0..=600u64 {
        for args in [[0; 5], [u64::MAX; 5], [1, 4096, 3, 0, 0]] {
            let mut all = vec![number];
            all.extend(args);
            let report = attacker.attack("syscall", &all).await;
            if number == libc::SYS_exit_group as u64 {
                assert!(refused(&report).is_none(), "exit_group: {:?}", report.outcome);
                continue;
            }
            if NEVER_FILTERED.contains(&number) && refused(&report).is_none() {
                assert!(did_nothing(&report.outcome), "{number}: {:?}", report.outcome);
                continue;
            }
            // The others that are allowed are allowed with the right arguments only, which these are not.
            let name = syscalls::x86_64::Sysno::new(number as usize).map_or("unknown", |s| s.name());
            assert_eq!(
                refused(&report),
                Some((number, name, "x86_64")),
                "{number} {args:?}: {:?}",
                report.outcome
            );
            assert_eq!(report.exit_status(), 159);
        }
    }
}

#[tokio::test]
async fn what_is_allowed_is_allowed_with_the_right_arguments_only() {
    let attacker = attacker().await;
    let rw = (libc::PROT_READ | libc::PROT_WRITE) as u64;
    let exec = (libc::PROT_READ | libc::PROT_EXEC) as u64;
    let [_, mprotect, futex, write] = ALLOWED.map(|n| n as u64);
    // Growing memory 0 by a page is what mprotect is for.
    assert_eq!(attacker.answer("syscall", &[mprotect, MEMORY_BASE + 0x1_0000, 0x1_0000, rw]).await, Some(0));
    let refusals: &[(&str, [u64; 5])] = &[
        ("heap executable", [mprotect, MEMORY_BASE, 0x1_0000, exec, 0]),
        ("heap executable and writable", [mprotect, MEMORY_BASE, 0x1_0000, rw | exec, 0]),
        ("heap with a growth flag", [mprotect, MEMORY_BASE, 0x1_0000, rw | libc::PROT_GROWSUP as u64, 0]),
        ("code writable", [mprotect, CODE_BASE, PAGE, rw, 0]),
        ("the gate's landing page writable", [mprotect, GATE_LANDING, PAGE, rw, 0]),
        ("the gate executable", [mprotect, GATE_PAGE, PAGE, exec, 0]),
        ("the ring executable", [mprotect, RING_BASE, PAGE, exec, 0]),
        ("beyond the memories", [mprotect, MEMORY_BASE + MEMORY_RESERVED, PAGE, rw, 0]),
        ("a length that reaches beyond", [mprotect, MEMORY_BASE, 1 << 40, rw, 0]),
        ("futex wake", [futex, RING_BASE, libc::FUTEX_WAKE as u64, 1, 0]),
        ("futex requeue", [futex, RING_BASE, libc::FUTEX_REQUEUE as u64, 1, 1]),
        ("futex outside the ring", [futex, MEMORY_BASE, libc::FUTEX_WAIT as u64, 0, 0]),
        ("write to another descriptor", [write, 1, RING_BASE, 8, 0]),
        ("write of another length", [write, 3, RING_BASE, 9, 0]),
    ];
    for (what, args) in refusals {
        let report = attacker.attack("syscall", args).await;
        assert!(refused(&report).is_some(), "{what}: {:?}", report.outcome);
    }
}

#[tokio::test]
async fn x32_and_32_bit_calls_are_refused_and_named() {
    let attacker = attacker().await;
    for number in [0u64, 1, 9, 59, 520, 547] {
        let report = attacker.attack("syscall", &[number | 0x4000_0000]).await;
        let (reported, _, arch) =
            refused(&report).unwrap_or_else(|| panic!("x32 {number}: {:?}", report.outcome));
        assert_eq!((reported, arch), (number | 0x4000_0000, "x32"));
    }
    for number in 0..=460u64 {
        let report = attacker.attack("int80", &[number, 0, 0, 0, 0, 0]).await;
        // A kernel without 32-bit emulation has no such gate into the kernel at all: the instruction faults.
        if let Outcome::Violated(Violation::Fault { signal, .. }) = &report.outcome {
            assert_eq!(signal, "SIGSEGV");
            continue;
        }
        let name = syscalls::x86::Sysno::new(number as usize).map_or("unknown", |s| s.name());
        assert_eq!(refused(&report), Some((number, name, "i386")), "int 0x80 {number}: {:?}", report.outcome);
    }
}

#[tokio::test]
async fn the_gate_is_gone_and_cannot_come_back() {
    let attacker = attacker().await;
    let through_gate: &[(&str, [u64; 6])] = &[
        ("fork", [libc::SYS_clone as u64, (libc::CLONE_PIDFD | libc::SIGCHLD) as u64, 0, 0, 0, 0]),
        ("map", [libc::SYS_mmap as u64, RING_BASE, PAGE, 3, libc::MAP_PRIVATE as u64, 0]),
        ("exit", [libc::SYS_exit_group as u64, 7, 0, 0, 0, 0]),
    ];
    for (what, args) in through_gate {
        // The same call from the gate's address: there is no instruction there any more.
        let report = attacker.attack("syscall-through-gate", args).await;
        match &report.outcome {
            Outcome::Violated(Violation::Fault { pc, .. }) => assert_eq!(*pc, GATE_SYSCALL, "{what}"),
            other => panic!("{what} through the gate: {other:?}"),
        }
        let report = attacker.attack("syscall", args).await;
        if *what != "exit" {
            assert!(refused(&report).is_some(), "{what} from elsewhere: {:?}", report.outcome);
        }
    }
    // Nothing can put code there again.
    assert_fault(&attacker.attack("poke", &[GATE_PAGE, 0x050f]).await, "write to the gate");
    assert_fault(&attacker.attack("poke", &[GATE_LANDING, 0x050f]).await, "write to the landing page");
    assert_fault(&attacker.attack("poke", &[CODE_BASE, 0x050f]).await, "write to the code");
    assert_fault(&attacker.attack("jump", &[MEMORY_BASE]).await, "run the heap");
    assert_fault(&attacker.attack("jump", &[RING_BASE]).await, "run the ring");
    // The landing page holds one `ret`: calling it comes back, and that is all it does.
    assert!(attacker.answer("peek", &[GATE_LANDING]).await.is_some_and(|word| word & 0xff == 0xc3));
}

#[tokio::test]
async fn the_legacy_vsyscall_page_gives_nothing() {
    let attacker = attacker().await;
    // gettimeofday, time and getcpu at their fixed addresses: emulated by the kernel as system calls, or absent.
    for entry in [0xffff_ffff_ff60_0000u64, 0xffff_ffff_ff60_0400, 0xffff_ffff_ff60_0800] {
        let report = attacker.attack("jump", &[entry]).await;
        assert!(matches!(report.outcome, Outcome::Violated(_)), "{entry:#x}: {:?}", report.outcome);
    }
}

#[test]
fn the_default_profile_allows_no_more_than_six() {
    let policy = Policy::builtin("default").unwrap();
    let mut allowed: Vec<i64> = policy.seccomp().allow.iter().map(|r| r.syscall.id() as i64).collect();
    allowed.sort_unstable();
    let mut expected = ALLOWED;
    expected.sort_unstable();
    assert_eq!(allowed, expected);
}
