//! Controls of speculative execution that a process can set for itself. Here they are only read.

use std::io::Error as OsError;

use ipc::speculation::Speculation;

use super::{Status, read};

/// `PR_SCHED_CORE_GET` and `PIDTYPE_PID`, linux/prctl.h.
const PR_SCHED_CORE_GET: i32 = 0;
const PIDTYPE_PID: i32 = 0;

pub(super) fn indirect_branch() -> Status {
    control(libc::PR_SPEC_INDIRECT_BRANCH, "spectre_v2")
}

pub(super) fn store_bypass() -> Status {
    control(libc::PR_SPEC_STORE_BYPASS, "spec_store_bypass")
}

/// `PR_GET_SPECULATION_CTRL` (prctl(2)); `file` is what /sys says about the vulnerability.
fn control(which: i32, file: &str) -> Status {
    let host = read(format!("/sys/devices/system/cpu/vulnerabilities/{file}"))
        .map_or_else(String::new, |text| format!("; the host says: {text}"));
    // SAFETY: reads an attribute of this thread; takes no pointer.
    let state = unsafe { libc::prctl(libc::PR_GET_SPECULATION_CTRL, which, 0, 0, 0) };
    let error = OsError::last_os_error();
    match Speculation::from_state(state.into()) {
        Speculation::NotAffected => Status::with("this processor is not affected"),
        Speculation::PerProcess => Status::with(format!("each process can set it{host}")),
        Speculation::Disabled => Status::with(format!("disabled for every process{host}")),
        Speculation::Unknown => Status::missing(
            format!("the kernel offers no control: {error}{host}"),
            "a kernel with the mitigation, and on a virtual machine a host that passes the processor's control on",
        ),
        Speculation::Enabled => Status::missing(
            format!("the speculation is enabled for every process and no process can change that{host}"),
            "boot without mitigations=off, or with the mitigation's mode set to prctl or seccomp; on a virtual machine the host must \
             pass the processor's control on",
        ),
    }
}

pub(super) fn core_scheduling() -> Status {
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

pub(super) fn timestamp_counter() -> Status {
    let mut state = 0i32;
    // SAFETY: writes an integer to a writable word.
    if unsafe { libc::prctl(libc::PR_GET_TSC, &raw mut state) } == 0 {
        return Status::available();
    }
    Status::missing(format!("prctl(PR_GET_TSC): {}", OsError::last_os_error()), "a kernel for x86-64")
}
