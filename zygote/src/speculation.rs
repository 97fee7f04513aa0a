//! Controls of speculative execution, set once by a module zygote and inherited by its instances over `fork`.

use ipc::control::Step;
use ipc::speculation::Speculation;
use linux_raw_sys::errno::{ENODEV, ENXIO};
use linux_raw_sys::prctl::{
    PR_GET_SPECULATION_CTRL, PR_SCHED_CORE, PR_SCHED_CORE_CREATE, PR_SET_SPECULATION_CTRL, PR_SET_TSC,
    PR_SPEC_FORCE_DISABLE, PR_SPEC_INDIRECT_BRANCH, PR_SPEC_STORE_BYPASS, PR_TSC_SIGSEGV,
};

use crate::sys::{self, Errno};

/// A layer's step, and what puts it in force.
type Control = (Step, fn() -> Result<(), Errno>);

/// Puts those of the layers in force that are about speculation.
pub fn restrict(layers: u64) -> Result<(), (Step, Errno)> {
    let controls: [Control; 4] = [
        (Step::IndirectBranch, || disable(PR_SPEC_INDIRECT_BRANCH)),
        (Step::StoreBypass, || disable(PR_SPEC_STORE_BYPASS)),
        (Step::CoreScheduling, own_cookie),
        (Step::TimestampCounter, no_timestamp_counter),
    ];
    for (step, control) in controls {
        if layers & step.layer() != 0 {
            control().map_err(|errno| (step, errno))?;
        }
    }
    Ok(())
}

/// Disables a kind of speculation in a way that cannot be taken back, unless it is disabled or unknown to the processor
/// already.
fn disable(which: u32) -> Result<(), Errno> {
    let state = sys::prctl(PR_GET_SPECULATION_CTRL, u64::from(which), 0)?;
    match Speculation::from_state(state as i64) {
        Speculation::NotAffected | Speculation::Disabled => Ok(()),
        Speculation::PerProcess => {
            sys::prctl(PR_SET_SPECULATION_CTRL, u64::from(which), u64::from(PR_SPEC_FORCE_DISABLE))
                .map(|_| ())
        }
        Speculation::Enabled | Speculation::Unknown => Err(Errno(ENXIO as i32)),
    }
}

/// Takes a new cookie for this process, which its children inherit
/// (Documentation/admin-guide/hw-vuln/core-scheduling.rst).
fn own_cookie() -> Result<(), Errno> {
    match sys::prctl(PR_SCHED_CORE, u64::from(PR_SCHED_CORE_CREATE), 0) {
        // No core runs two threads: there is nobody to keep away.
        Err(Errno(errno)) if errno == ENODEV as i32 => Ok(()),
        result => result.map(|_| ()),
    }
}

/// From here on `rdtsc` and its kin raise SIGSEGV, also where the vDSO reads its clocks: nothing here or below may call it.
fn no_timestamp_counter() -> Result<(), Errno> {
    sys::prctl(PR_SET_TSC, u64::from(PR_TSC_SIGSEGV), 0).map(|_| ())
}
