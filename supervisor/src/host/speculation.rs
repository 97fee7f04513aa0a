//! Controls of speculative execution that a process can set for itself. Here they are only read.

use std::io::Error as OsError;

use super::{Feature, Kind, Status, read};

/// `PR_SCHED_CORE_GET` and `PIDTYPE_PID`, linux/prctl.h.
const PR_SCHED_CORE_GET: i32 = 0;
const PIDTYPE_PID: i32 = 0;

pub(super) fn probe() -> Vec<Feature> {
    let feature = |name, status| Feature { name, kind: Kind::Speculation, status };
    vec![
        feature("indirect-branch-control", control(libc::PR_SPEC_INDIRECT_BRANCH, "spectre_v2")),
        feature("store-bypass-control", control(libc::PR_SPEC_STORE_BYPASS, "spec_store_bypass")),
        feature("core-scheduling", core_scheduling()),
        feature("timestamp-counter-control", timestamp_counter()),
    ]
}

/// `PR_GET_SPECULATION_CTRL` (prctl(2)); `file` is what /sys says about the vulnerability.
fn control(which: i32, file: &str) -> Status {
    const NOT_AFFECTED: i32 = 0;
    const PER_PROCESS: i32 = 1 << 0;
    const DISABLED: i32 = 1 << 2 | 1 << 3;
    let host = read(format!("/sys/devices/system/cpu/vulnerabilities/{file}"))
        .map_or_else(String::new, |text| format!("; the host says: {text}"));
    // SAFETY: reads an attribute of this thread; takes no pointer.
    match unsafe { libc::prctl(libc::PR_GET_SPECULATION_CTRL, which, 0, 0, 0) } {
        NOT_AFFECTED => Status::with("this processor is not affected"),
        state if state < 0 => Status::missing(
            format!("the kernel offers no control: {}{host}", OsError::last_os_error()),
            "a kernel with the mitigation, and on a virtual machine a host that passes the processor's control on",
        ),
        state if state & PER_PROCESS != 0 => Status::with(format!("each process can set it{host}")),
        state if state & DISABLED != 0 => Status::with(format!("disabled for every process{host}")),
        _ => Status::missing(
            format!("the speculation is enabled for every process and no process can change that{host}"),
            "boot without mitigations=off, or with the mitigation's mode set to prctl or seccomp",
        ),
    }
}

fn core_scheduling() -> Status {
    let mut cookie = 0u64;
    // SAFETY: prctl(2): writes this thread's cookie to a writable word.
    let result =
        unsafe { libc::prctl(libc::PR_SCHED_CORE, PR_SCHED_CORE_GET, 0, PIDTYPE_PID, &raw mut cookie) };
    let error = OsError::last_os_error();
    if result == 0 {
        return Status::available();
    }
    // The kernel answers ENODEV where no core has two threads.
    if error.raw_os_error() == Some(libc::ENODEV) {
        return Status::with("not needed: no processor core runs two threads");
    }
    Status::missing(
        format!("prctl(PR_SCHED_CORE): {error}"),
        "Linux 5.14 or newer with CONFIG_SCHED_CORE=y, or switch SMT off",
    )
}

fn timestamp_counter() -> Status {
    let mut state = 0i32;
    // SAFETY: writes an integer to a writable word.
    if unsafe { libc::prctl(libc::PR_GET_TSC, &raw mut state) } == 0 {
        return Status::available();
    }
    Status::missing(format!("prctl(PR_GET_TSC): {}", OsError::last_os_error()), "a kernel for x86-64")
}
