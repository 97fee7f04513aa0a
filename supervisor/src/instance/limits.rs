//! The limits of one job: what its policy and its host app say together.

use std::time::Duration;

use crate::job::JobLimits;

/// Effective limits of one job.
#[derive(Debug)]
pub(super) struct Limits {
    pub(super) memory: u64,
    pub(super) wall_time: Option<Duration>,
    pub(super) cpu_seconds: u64,
    pub(super) stack: u64,
    pub(super) calls: Option<u64>,
    pub(super) fuel: Option<u64>,
}

impl Limits {
    /// The narrower of the policy's and the job's own, one by one.
    pub(super) fn of(policy: &policies::Limits, job: &JobLimits) -> Self {
        Self {
            memory: job.memory_within(policy),
            wall_time: [job.wall_time, policy.wall_time].into_iter().flatten().min(),
            // RLIMIT_CPU counts whole seconds.
            cpu_seconds: policy.cpu_time.map_or(0, |t| t.as_secs_f64().ceil().max(1.0) as u64),
            stack: policy.stack,
            calls: policy.host_calls,
            fuel: [job.fuel, policy.fuel].into_iter().flatten().min(),
        }
    }
}

#[cfg(test)]
mod tests {
    use policies::Policy;

    use super::*;

    /// Every combination of small, large and missing limits, of both sides.
    #[test]
    fn a_job_never_widens_its_policy() {
        const NUMBERS: [Option<u64>; 6] =
            [None, Some(0), Some(1), Some(1 << 20), Some(u64::MAX - 1), Some(u64::MAX)];
        let time = |number: Option<u64>| number.map(Duration::from_nanos);
        let within = |limit: Option<u64>, wider: Option<u64>| match (limit, wider) {
            (_, None) => true,
            (None, Some(_)) => false,
            (Some(limit), Some(wider)) => limit <= wider,
        };
        let base = *Policy::builtin("default").expect("the default profile").limits();
        for (own, theirs) in NUMBERS.iter().flat_map(|own| NUMBERS.map(|theirs| (*own, theirs))) {
            let policy = policies::Limits {
                memory: theirs.unwrap_or(u64::MAX),
                wall_time: time(theirs),
                cpu_time: time(theirs),
                host_calls: theirs,
                fuel: theirs,
                ..base
            };
            let job = JobLimits { memory: own, wall_time: time(own), fuel: own };
            let limits = Limits::of(&policy, &job);
            let wall_ns = limits.wall_time.map(|t| t.as_nanos() as u64);
            for (limit, of) in
                [(Some(limits.memory), "memory"), (wall_ns, "wall time"), (limits.fuel, "fuel")]
            {
                assert!(within(limit, theirs), "{of}: {limit:?} of {own:?} under {theirs:?}");
                assert!(within(limit, own), "{of}: {limit:?} of {own:?} under {theirs:?}");
                // Nor is anything narrower than both say.
                assert!(limit == own || limit == theirs || limit == Some(u64::MAX), "{of}: {limit:?}");
            }
            // What no job can say anything about.
            assert_eq!((limits.stack, limits.calls), (base.stack, theirs));
            let cpu = theirs.map_or(0, |ns| ns.div_ceil(1_000_000_000).max(1));
            assert!(limits.cpu_seconds.abs_diff(cpu) <= 1 && (limits.cpu_seconds == 0) == theirs.is_none());
        }
    }
}
