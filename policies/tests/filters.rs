//! What the compiled filters decide, call by call, in the BPF interpreter.

use ipc::layout::{
    DIRECT_FD, DIRECT_FDS, DOORBELL_FD, GATE_PAGE, GATE_RETURN, MEMORIES_END, MEMORY_BASE, MEMORY_MAX,
    MEMORY_STRIDE, PAGE, RING_BASE, RING_END, memory_base,
};
use policies::{AUDIT_ARCH_X86_64, FilterContext, Policy, SeccompData, interpret, zygote_base_filter};

const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
const TRAP: u32 = libc::SECCOMP_RET_TRAP;
const AUDIT_ARCH_I386: u32 = 3 | 0x4000_0000;
/// Bit of the number in the x32 ABI.
const X32: u32 = 0x4000_0000;
/// Somewhere in the shim.
const ELSEWHERE: u64 = 0x5555_0000_1234;

fn call(number: i64, args: [u64; 6], instruction_pointer: u64) -> SeccompData {
    SeccompData { number: number as u32, arch: AUDIT_ARCH_X86_64, instruction_pointer, args }
}

/// The decision of a profile's filter for a module with one memory.
fn decide(profile: &str, data: &SeccompData) -> u32 {
    let filter = Policy::builtin(profile).unwrap().instance_filter(&FilterContext { memories: 1 }).unwrap();
    interpret(&filter, data).unwrap()
}

fn instance(profile: &str, number: i64, args: [u64; 6]) -> u32 {
    decide(profile, &call(number, args, ELSEWHERE))
}

fn gate(number: i64, args: [u64; 6]) -> u32 {
    decide("default", &call(number, args, GATE_RETURN))
}

/// Argument patterns for calls whose meaning does not matter.
const PATTERNS: [[u64; 6]; 6] = [
    [0; 6],
    [u64::MAX; 6],
    [3, 0, 8, 0, 0, 0],
    [MEMORY_BASE, PAGE, 3, 0, 0, 0],
    [RING_BASE, 0, 0, 0, 0, 0],
    [GATE_PAGE, PAGE, 5, 0, 0, 0],
];

/// Numbers that the filter allows with any of the patterns.
fn allowed_numbers(filter: &[libc::sock_filter], instruction_pointer: u64) -> Vec<u32> {
    (0..=600u32)
        .filter(|number| {
            PATTERNS.iter().any(|args| {
                interpret(filter, &call(i64::from(*number), *args, instruction_pointer)).unwrap() == ALLOW
            })
        })
        .collect()
}

fn numbers(calls: &[i64]) -> Vec<u32> {
    let mut numbers: Vec<u32> = calls.iter().map(|number| *number as u32).collect();
    numbers.sort_unstable();
    numbers
}

#[test]
fn an_instance_has_exactly_these_calls() {
    let (exit, mprotect) = (libc::SYS_exit_group, libc::SYS_mprotect);
    for (profile, calls) in [
        ("default", vec![exit, mprotect, libc::SYS_futex, libc::SYS_write]),
        ("wasi", vec![exit, mprotect, libc::SYS_futex, libc::SYS_write]),
        ("compute", vec![exit, mprotect]),
    ] {
        let filter =
            Policy::builtin(profile).unwrap().instance_filter(&FilterContext { memories: 1 }).unwrap();
        assert_eq!(allowed_numbers(&filter, ELSEWHERE), numbers(&calls), "{profile}");
        assert!(calls.len() <= 6);
    }
}

/// Reads and writes of files by number and buffer, and one call that is handed over; nothing else beyond the default.
#[test]
fn direct_file_data_adds_two_calls_and_one_that_is_never_carried_out() {
    let (first, end) = (DIRECT_FD as u64, (DIRECT_FD + DIRECT_FDS) as u64);
    let of = |number, args| instance("wasi-direct", number, args);
    for number in [libc::SYS_pread64, libc::SYS_pwrite64] {
        for fd in [first, end - 1] {
            for buffer in [MEMORY_BASE, MEMORY_BASE + MEMORY_MAX - 1] {
                assert_eq!(of(number, [fd, buffer, 1 << 20, 5, 0, 0]), ALLOW, "{number} {fd} {buffer:#x}");
            }
            for buffer in [0, RING_BASE, MEMORY_BASE - 1, MEMORY_BASE + MEMORY_MAX, u64::MAX] {
                assert_eq!(of(number, [fd, buffer, 1, 0, 0, 0]), TRAP, "{number} {fd} {buffer:#x}");
            }
        }
        for fd in [0, 1, 2, DOORBELL_FD as u64, end, u64::MAX, 1 << 32 | first] {
            assert_eq!(of(number, [fd, MEMORY_BASE, 1, 0, 0, 0]), TRAP, "{number} {fd}");
        }
        assert_eq!(instance("default", number, [first, MEMORY_BASE, 1, 0, 0, 0]), TRAP);
    }
    assert_eq!(of(libc::SYS_sched_yield, [1, 5, 0, 0, 0, 0]), libc::SECCOMP_RET_USER_NOTIF);
    assert_eq!(decide("wasi-direct", &call(libc::SYS_sched_yield, [0; 6], GATE_RETURN)), TRAP);
    assert_eq!(instance("default", libc::SYS_sched_yield, [0; 6]), TRAP);
    let numbers_of = |profile: &str| {
        let policy = Policy::builtin(profile).unwrap();
        let calls = policy.seccomp().allow.iter().map(|rule| i64::from(rule.syscall.id()));
        numbers(&calls.collect::<Vec<_>>())
    };
    let mut expected = numbers_of("default");
    expected.extend([libc::SYS_pread64, libc::SYS_pwrite64, libc::SYS_sched_yield].map(|n| n as u32));
    expected.sort_unstable();
    assert_eq!(numbers_of("wasi-direct"), expected);
}

#[test]
fn the_gate_passes_what_the_zygote_needs_only() {
    let calls = [
        libc::SYS_read,
        libc::SYS_close,
        libc::SYS_wait4,
        libc::SYS_prlimit64,
        libc::SYS_ppoll,
        libc::SYS_close_range,
        libc::SYS_exit_group,
        libc::SYS_recvmsg,
        libc::SYS_sendmsg,
        libc::SYS_futex,
        libc::SYS_munmap,
        libc::SYS_mmap,
        libc::SYS_dup3,
        libc::SYS_clone,
    ];
    let filter = Policy::builtin("default").unwrap().instance_filter(&FilterContext::default()).unwrap();
    let unpinned = allowed_numbers(&filter, GATE_RETURN);
    assert!(unpinned.iter().all(|number| calls.contains(&i64::from(*number))), "{unpinned:?}");
    for (number, args) in [
        (libc::SYS_clone, [0x1011, 0, 0, 0, 0, 0]),
        (libc::SYS_mmap, [RING_BASE, 1 << 20, 3, 0x11, 5, 0]),
        (libc::SYS_munmap, [GATE_PAGE, PAGE, 0, 0, 0, 0]),
        (libc::SYS_dup3, [7, DOORBELL_FD as u64, 0, 0, 0, 0]),
        (libc::SYS_recvmsg, [3, 1, 2, 0, 0, 0]),
        (libc::SYS_sendmsg, [3, 1, 2, 0, 0, 0]),
        (libc::SYS_prlimit64, [0, 2, 3, 0, 0, 0]),
        (libc::SYS_futex, [RING_BASE, 0, 0, 0, 0, 0]),
    ] {
        assert_eq!(gate(number, args), ALLOW, "{number}");
        if number != libc::SYS_futex {
            assert_eq!(instance("default", number, args), TRAP, "{number} away from the gate");
        }
    }
    for (number, args) in [
        // Threads, shared memory, other namespaces, clone without a pidfd.
        (libc::SYS_clone, [0x1111, 0, 0, 0, 0, 0]),
        (libc::SYS_clone, [0x2000_1011, 0, 0, 0, 0, 0]),
        (libc::SYS_clone, [0x1000_1011, 0, 0, 0, 0, 0]),
        (libc::SYS_clone, [0x11, 0, 0, 0, 0, 0]),
        (libc::SYS_clone, [0x1_0000_1011, 0, 0, 0, 0, 0]),
        (libc::SYS_clone3, [0; 6]),
        (libc::SYS_mmap, [RING_BASE, 1 << 20, 7, 0x11, 5, 0]),
        (libc::SYS_mmap, [0x1000_0000, 1 << 20, 3, 0x11, 5, 0]),
        (libc::SYS_mprotect, [MEMORY_BASE, PAGE, 3, 0, 0, 0]),
        (libc::SYS_mprotect, [GATE_PAGE, PAGE, 5, 0, 0, 0]),
        (libc::SYS_munmap, [GATE_PAGE + PAGE, PAGE, 0, 0, 0, 0]),
        (libc::SYS_munmap, [GATE_PAGE, 2 * PAGE, 0, 0, 0, 0]),
        (libc::SYS_prlimit64, [1, 2, 3, 0, 0, 0]),
        (libc::SYS_prctl, [1, 9, 0, 0, 0, 0]),
        (libc::SYS_seccomp, [1, 0, 0, 0, 0, 0]),
        (libc::SYS_write, [3, 0, 8, 0, 0, 0]),
        (libc::SYS_execve, [0; 6]),
    ] {
        assert_eq!(gate(number, args), TRAP, "{number} {args:x?}");
    }
}

#[test]
fn only_the_gate_s_return_address_is_the_gate() {
    let clone = [0x1011, 0, 0, 0, 0, 0];
    assert_eq!(gate(libc::SYS_clone, clone), ALLOW);
    for pointer in [
        GATE_RETURN - 1,
        GATE_RETURN + 1,
        GATE_RETURN - 2,
        GATE_RETURN + (1 << 32),
        GATE_RETURN | (1 << 63),
        GATE_RETURN << 32,
        0,
        u64::MAX,
    ] {
        assert_eq!(decide("default", &call(libc::SYS_clone, clone, pointer)), TRAP, "{pointer:#x}");
    }
}

#[test]
fn other_architectures_and_the_x32_abi_are_refused_at_and_off_the_gate() {
    for profile in ["default", "compute"] {
        let filter = Policy::builtin(profile).unwrap().instance_filter(&FilterContext::default()).unwrap();
        for pointer in [ELSEWHERE, GATE_RETURN] {
            for number in 0..=600u32 {
                for args in PATTERNS {
                    let data = call(i64::from(number), args, pointer);
                    for arch in [AUDIT_ARCH_I386, 0, u32::MAX, 0xC000_00B7] {
                        assert_eq!(
                            interpret(&filter, &SeccompData { arch, ..data }),
                            Ok(TRAP),
                            "{number} {arch:#x}"
                        );
                    }
                    assert_eq!(
                        interpret(&filter, &SeccompData { number: number | X32, ..data }),
                        Ok(TRAP),
                        "{number}"
                    );
                }
            }
        }
    }
}

#[test]
fn mprotect_grows_memories_and_nothing_else() {
    const RW: u64 = 3;
    let one = |args| instance("default", libc::SYS_mprotect, args);
    let end = MEMORY_BASE + MEMORY_MAX;
    for (args, decision) in [
        ([MEMORY_BASE, PAGE, RW, 0, 0, 0], ALLOW),
        ([MEMORY_BASE, MEMORY_MAX, RW, 0, 0, 0], ALLOW),
        ([end - PAGE, MEMORY_MAX, RW, 0, 0, 0], ALLOW),
        ([MEMORY_BASE, MEMORY_MAX + 1, RW, 0, 0, 0], TRAP),
        ([MEMORY_BASE, u64::MAX, RW, 0, 0, 0], TRAP),
        ([MEMORY_BASE - 1, PAGE, RW, 0, 0, 0], TRAP),
        ([MEMORY_BASE - PAGE, PAGE, RW, 0, 0, 0], TRAP),
        ([end, PAGE, RW, 0, 0, 0], TRAP),
        ([GATE_PAGE, PAGE, RW, 0, 0, 0], TRAP),
        ([0x1000_0000, PAGE, RW, 0, 0, 0], TRAP),
        ([MEMORY_BASE | (1 << 63), PAGE, RW, 0, 0, 0], TRAP),
    ] {
        assert_eq!(one(args), decision, "{args:x?}");
    }
    for protection in
        (0..64).filter(|p| *p != RW).chain([RW | (1 << 24), RW | (1 << 25), RW | (1 << 32), u64::MAX])
    {
        assert_eq!(one([MEMORY_BASE, PAGE, protection, 0, 0, 0]), TRAP, "{protection:#x}");
    }
}

#[test]
fn growth_is_confined_to_the_memories_that_the_module_has() {
    let policy = Policy::builtin("default").unwrap();
    let decision = |memories, address| {
        let filter = policy.instance_filter(&FilterContext { memories }).unwrap();
        interpret(&filter, &call(libc::SYS_mprotect, [address, PAGE, 3, 0, 0, 0], ELSEWHERE)).unwrap()
    };
    assert_eq!(decision(0, MEMORY_BASE), TRAP);
    assert_eq!(decision(1, memory_base(1)), TRAP);
    assert_eq!(decision(2, memory_base(1)), ALLOW);
    assert_eq!(decision(64, memory_base(63)), ALLOW);
    // The longest growth from the last address stays away from what lies behind the last memory.
    assert_eq!(decision(u32::MAX, memory_base(63) + MEMORY_MAX), TRAP);
    assert_eq!(decision(u32::MAX, memory_base(63) + MEMORY_MAX - PAGE), ALLOW);
    let longest_end = memory_base(63) + MEMORY_MAX - PAGE + MEMORY_MAX;
    assert!(longest_end < MEMORIES_END && longest_end < memory_base(63) + MEMORY_STRIDE);
}

#[test]
fn futex_waits_on_the_ring_and_nothing_else() {
    let futex = |args| instance("default", libc::SYS_futex, args);
    assert_eq!(futex([RING_BASE, 0, 7, 0, 1, 2]), ALLOW);
    assert_eq!(futex([RING_END - 4, 0, u64::MAX, 0, 0, 0]), ALLOW);
    for address in [RING_BASE - 1, RING_END, 0, MEMORY_BASE, RING_BASE | (1 << 32)] {
        assert_eq!(futex([address, 0, 0, 0, 0, 0]), TRAP, "{address:#x}");
    }
    for operation in (1..1024).chain([1 << 31, 1 << 32]) {
        assert_eq!(futex([RING_BASE, operation, 0, 0, 0, 0]), TRAP, "{operation:#x}");
    }
    assert_eq!(futex([RING_BASE, 0, 0, RING_BASE, 0, 0]), TRAP, "a timeout");
}

#[test]
fn write_rings_the_doorbell_and_nothing_else() {
    let write = |fd, count| instance("default", libc::SYS_write, [fd, RING_BASE, count, 0, 0, 0]);
    assert_eq!(write(DOORBELL_FD as u64, 8), ALLOW);
    for fd in [0, 1, 2, 4, u64::MAX, 3 | (1 << 32)] {
        assert_eq!(write(fd, 8), TRAP, "descriptor {fd}");
    }
    for count in [0, 7, 9, 16, u64::MAX, 8 | (1 << 32)] {
        assert_eq!(write(DOORBELL_FD as u64, count), TRAP, "{count} bytes");
    }
    assert_eq!(instance("compute", libc::SYS_write, [3, RING_BASE, 8, 0, 0, 0]), TRAP);
    assert_eq!(instance("compute", libc::SYS_futex, [RING_BASE, 0, 0, 0, 0, 0]), TRAP);
}

#[test]
fn the_base_filter_refuses_what_no_process_below_the_root_zygote_needs() {
    let filter = zygote_base_filter().unwrap();
    let decide = |number, args| interpret(&filter, &call(number, args, ELSEWHERE)).unwrap();
    for (number, args) in [
        (libc::SYS_clone, [0x2000_1011, 0, 0, 0, 0, 0]),
        (libc::SYS_clone, [0x1011, 0, 0, 0, 0, 0]),
        (libc::SYS_mmap, [0x1000_0000, PAGE, 5, 0x12, 4, 0]),
        (libc::SYS_mmap, [MEMORY_BASE, PAGE, 3, 0x12, 4, 0]),
        (libc::SYS_mmap, [MEMORY_BASE, PAGE, 0, 0x4022, u64::MAX, 0]),
        (libc::SYS_mprotect, [GATE_PAGE, 2 * PAGE, 5, 0, 0, 0]),
        (libc::SYS_pread64, [4, 1, 64, 0, 0, 0]),
    ] {
        assert_eq!(decide(number, args), ALLOW, "{number} {args:x?}");
    }
    for (number, args) in [
        (libc::SYS_clone, [0x1000_1011, 0, 0, 0, 0, 0]),
        (libc::SYS_clone, [0x11, 0, 0, 0, 0, 0]),
        (libc::SYS_mmap, [MEMORY_BASE, PAGE, 7, 0x12, 4, 0]),
        (libc::SYS_mprotect, [GATE_PAGE, PAGE, 7, 0, 0, 0]),
        (libc::SYS_mprotect, [MEMORY_BASE, PAGE, 7, 0, 0, 0]),
        (libc::SYS_prctl, [4, 1, 0, 0, 0, 0]),
        // What a control of speculation could be undone by: PR_SET_SPECULATION_CTRL to enable, PR_SCHED_CORE to share, PR_SET_TSC
        // to enable.
        (libc::SYS_prctl, [53, 0, 2, 0, 0, 0]),
        (libc::SYS_prctl, [62, 2, 1, 0, 0, 0]),
        (libc::SYS_prctl, [26, 1, 0, 0, 0, 0]),
        (libc::SYS_prlimit64, [1, 2, 3, 0, 0, 0]),
    ] {
        assert_eq!(decide(number, args), TRAP, "{number} {args:x?}");
    }
    for number in [
        libc::SYS_openat,
        libc::SYS_open,
        libc::SYS_execve,
        libc::SYS_execveat,
        libc::SYS_socket,
        libc::SYS_connect,
        libc::SYS_ptrace,
        libc::SYS_kill,
        libc::SYS_mount,
        libc::SYS_unshare,
        libc::SYS_setns,
        libc::SYS_bpf,
        libc::SYS_io_uring_setup,
        libc::SYS_clone3,
        libc::SYS_fork,
        libc::SYS_vfork,
        libc::SYS_rt_sigreturn,
        libc::SYS_mremap,
        libc::SYS_userfaultfd,
        libc::SYS_perf_event_open,
        libc::SYS_process_vm_readv,
        libc::SYS_pidfd_getfd,
        libc::SYS_keyctl,
        libc::SYS_ioctl,
    ] {
        for args in PATTERNS {
            assert_eq!(decide(number, args), TRAP, "{number}");
        }
    }
}

/// The base filter is inherited, and the strictest of all filters decides. So it must let pass whatever the gate's and
/// the profiles' lists let pass, and trap where they trap.
#[test]
fn the_base_filter_covers_the_gate_and_the_profiles() {
    let base = zygote_base_filter().unwrap();
    for profile in Policy::names() {
        let filter = Policy::builtin(profile).unwrap().instance_filter(&FilterContext::default()).unwrap();
        let mut allowed = 0;
        for pointer in [ELSEWHERE, GATE_RETURN] {
            for number in 0..=600 {
                for first in [0, 3, 0x1011, RING_BASE, MEMORY_BASE, GATE_PAGE] {
                    for second in [0, 3, PAGE] {
                        for third in [0, 3, 8] {
                            let data = call(number, [first, second, third, 0, 0, 0], pointer);
                            if interpret(&filter, &data).unwrap() == ALLOW {
                                allowed += 1;
                                assert_eq!(interpret(&base, &data), Ok(ALLOW), "{profile} {data:x?}");
                            }
                        }
                    }
                }
            }
        }
        assert!(allowed > 0);
    }
    for decision in (0..=600).map(|number| interpret(&base, &call(number, [0; 6], ELSEWHERE)).unwrap()) {
        assert!(decision == ALLOW || decision == TRAP, "{decision:#x}");
    }
}
