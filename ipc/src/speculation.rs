//! What the kernel says about a control of speculative execution, read the same way by who asks first (the supervisor) and by
//! who acts on it (the zygote).

/// What `prctl(PR_GET_SPECULATION_CTRL)` says about one kind of speculation (linux/prctl.h,
/// Documentation/userspace-api/spec_ctrl.rst).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Speculation {
    /// The processor does not have the weakness.
    NotAffected,
    /// Every process can disable it for itself and its children.
    PerProcess,
    /// It is disabled for every process.
    Disabled,
    /// It is enabled for every process, and no process can change that.
    Enabled,
    /// The kernel knows no such control; or it refuses to tell.
    Unknown,
}

impl Speculation {
    /// From the call's result; less than zero for an error.
    pub const fn from_state(state: i64) -> Self {
        const PRCTL: i64 = 1 << 0;
        const ENABLE: i64 = 1 << 1;
        match state {
            ..0 => Self::Unknown,
            0 => Self::NotAffected,
            _ if state & PRCTL != 0 => Self::PerProcess,
            _ if state & ENABLE != 0 => Self::Enabled,
            _ => Self::Disabled,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_of_the_kernel_is_told_apart() {
        // PR_SPEC_PRCTL 1, ENABLE 2, DISABLE 4, FORCE_DISABLE 8, DISABLE_NOEXEC 16.
        for (state, expected) in [
            (-19, Speculation::Unknown),
            (0, Speculation::NotAffected),
            (1 | 2, Speculation::PerProcess),
            (1 | 4, Speculation::PerProcess),
            (1 | 8, Speculation::PerProcess),
            (1 | 16, Speculation::PerProcess),
            (2, Speculation::Enabled),
            (4, Speculation::Disabled),
            (8, Speculation::Disabled),
        ] {
            assert_eq!(Speculation::from_state(state), expected, "{state}");
        }
    }
}
