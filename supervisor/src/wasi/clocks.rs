//! The clocks as the guest sees them.

use super::errno::Errno;

/// What the realtime clock of a deterministic guest reads when it starts: 2000-01-01T00:00:00Z.
const REALTIME_START: u64 = 946_684_800_000_000_000;
/// Nanoseconds that pass for a deterministic guest with each reading, at least: one that waits by looking at the clock gets there.
const READING: u64 = 1_000;

/// Clocks of one guest.
#[derive(Clone, Copy, Debug)]
pub(super) struct GuestClocks {
    /// Readings are multiples of this many nanoseconds, rounded down.
    pub resolution: u64,
    /// Added to the host's monotonic clock, wrapping; of a deterministic guest, to the time that has passed.
    pub monotonic_offset: u64,
    /// Nanoseconds that have passed for a guest whose time passes only by what it does.
    pub passed: Option<u64>,
}

impl GuestClocks {
    /// A time that grows as the monotonic clock does.
    pub fn now(&self) -> Result<u64, Errno> {
        self.passed.map_or_else(|| host(libc::CLOCK_MONOTONIC), Ok)
    }

    /// The realtime clock.
    pub fn realtime(&self) -> Result<u64, Errno> {
        match self.passed {
            Some(passed) => Ok(REALTIME_START.saturating_add(passed)),
            None => host(libc::CLOCK_REALTIME),
        }
    }

    /// The guest's monotonic clock at the time `now`.
    pub fn monotonic(&self, now: u64) -> u64 {
        now.wrapping_add(self.monotonic_offset)
    }

    /// Lets time pass until `now` reads `time`.
    pub fn pass_until(&mut self, time: u64) {
        self.passed = self.passed.map(|passed| passed.max(time));
    }

    /// What the clock of this number reads for the guest.
    pub fn read(&mut self, clock: u32) -> Result<u64, Errno> {
        let time = match clock {
            0 => self.realtime()?,
            1 => self.monotonic(self.now()?),
            2 | 3 => return Err(Errno::BadDescriptor),
            _ => return Err(Errno::Invalid),
        };
        let resolution = self.resolution.max(1);
        self.passed = self.passed.map(|passed| passed.saturating_add(resolution.max(READING)));
        Ok(time - time % resolution)
    }
}

/// A reading of a clock of the host in nanoseconds.
fn host(clock: libc::clockid_t) -> Result<u64, Errno> {
    let time = nix::time::clock_gettime(nix::time::ClockId::from_raw(clock))?;
    u64::try_from(time.tv_sec())
        .ok()
        .and_then(|seconds| seconds.checked_mul(1_000_000_000))
        .and_then(|ns| ns.checked_add_signed(time.tv_nsec()))
        .ok_or(Errno::Overflow)
}
