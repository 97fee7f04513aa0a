//! `poll_oneoff`: waiting for clocks and descriptors.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::task::Poll;

use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::descriptors::{Descriptor, Descriptors};
use super::errno::Errno;
use super::metadata;
use super::streams::Stream;
use super::types::{Awaited, Clock, SUBSCRIPTION_BYTES, Subscription, event};
use crate::hostcall::SharedRegion;

/// Most subscriptions of one call: handling them is time that other guests of the thread wait.
pub(super) const MAX_SUBSCRIPTIONS: usize = 4096;

/// The clocks as the guest sees them.
#[derive(Clone, Copy, Debug)]
pub(super) struct GuestClocks {
    /// Readings are multiples of this many nanoseconds, rounded down.
    pub resolution: u64,
    /// Added to the host's monotonic clock, wrapping.
    pub monotonic_offset: u64,
}

impl GuestClocks {
    /// What the clock of this number reads for the guest.
    pub fn read(&self, clock: u32) -> Result<u64, Errno> {
        let time = match clock {
            0 => now(libc::CLOCK_REALTIME)?,
            1 => now(libc::CLOCK_MONOTONIC)?.wrapping_add(self.monotonic_offset),
            2 | 3 => return Err(Errno::BadDescriptor),
            _ => return Err(Errno::Invalid),
        };
        Ok(time - time % self.resolution.max(1))
    }
}

/// When a subscription is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Due {
    /// When the host's monotonic clock reads this many nanoseconds.
    At(u64),
    /// When the descriptor is ready.
    Ready(u32),
    /// Already.
    Now,
}

/// Waits until at least one subscription is due and writes an event for each that is. Returns their number.
pub(super) async fn poll_oneoff(
    table: &mut Descriptors,
    clocks: GuestClocks,
    subscriptions: SharedRegion<'_>,
    events: SharedRegion<'_>,
) -> Result<u32, Errno> {
    let subscriptions = subscriptions
        .copy_out()
        .as_chunks::<SUBSCRIPTION_BYTES>()
        .0
        .iter()
        .map(Subscription::parse)
        .collect::<Result<Vec<_>, _>>()?;
    let now = now(libc::CLOCK_MONOTONIC)?;
    let sleeps_only = is_sleep(&subscriptions);
    let mut dues = Vec::with_capacity(subscriptions.len());
    for subscription in &subscriptions {
        dues.push(due(subscription, table, clocks, now, sleeps_only)?);
    }

    // A stream may be awaited by many subscriptions; what is waited for is each stream once.
    let mut streams: Vec<u32> =
        dues.iter().filter_map(|due| if let Due::Ready(fd) = due { Some(*fd) } else { None }).collect();
    streams.sort_unstable();
    streams.dedup();
    let deadline =
        dues.iter().filter_map(|due| if let Due::At(time) = due { Some(*time) } else { None }).min();
    let now = if dues.contains(&Due::Now) { now } else { wait(table, &streams, deadline, now).await? };

    let mut ready = Vec::with_capacity(streams.len());
    for fd in streams {
        if stream(table, fd)?.is_ready() {
            ready.push(fd);
        }
    }
    let mut at_end = BTreeMap::new();
    let mut count = 0;
    let mut written = 0;
    for (subscription, due) in subscriptions.iter().zip(dues) {
        let is_due = match due {
            Due::At(time) => time <= now,
            Due::Ready(fd) => ready.binary_search(&fd).is_ok(),
            Due::Now => true,
        };
        if is_due {
            written += events.write(written, &event_of(subscription, table, sleeps_only, &mut at_end)?);
            count += 1;
        }
    }
    Ok(count)
}

/// Whether this is the call that C libraries make of `sleep`: one relative time and nothing else.
fn is_sleep(subscriptions: &[Subscription]) -> bool {
    matches!(subscriptions, [Subscription { awaited: Awaited::Clock { absolute: false, .. }, .. }])
}

fn due(
    subscription: &Subscription,
    table: &Descriptors,
    clocks: GuestClocks,
    now_monotonic: u64,
    sleeps_only: bool,
) -> Result<Due, Errno> {
    match subscription.awaited {
        Awaited::Clock { clock, timeout, absolute } => {
            // Up to the next multiple of the resolution, or the guest would wake and read too early a time.
            let timeout = timeout.checked_next_multiple_of(clocks.resolution.max(1)).unwrap_or(u64::MAX);
            let remaining = match (clock, absolute) {
                (Clock::Cpu, _) if !sleeps_only => return Err(Errno::Invalid),
                (_, false) => timeout,
                (Clock::Monotonic, true) => {
                    timeout.saturating_sub(now_monotonic.wrapping_add(clocks.monotonic_offset))
                }
                (_, true) => timeout.saturating_sub(now(libc::CLOCK_REALTIME)?),
            };
            Ok(if remaining == 0 { Due::Now } else { Due::At(now_monotonic.saturating_add(remaining)) })
        }
        Awaited::Read(fd) => match table.get(fd)? {
            Descriptor::Input(_) => Ok(Due::Ready(fd)),
            Descriptor::File(_) => Ok(Due::Now),
            Descriptor::Output(_) | Descriptor::Directory(_) => Err(Errno::BadDescriptor),
        },
        Awaited::Write(fd) => match table.get(fd)? {
            Descriptor::Output(_) => Ok(Due::Ready(fd)),
            Descriptor::File(file) => file.check_writable().map(|()| Due::Now),
            Descriptor::Input(_) | Descriptor::Directory(_) => Err(Errno::BadDescriptor),
        },
    }
}

/// The event of a subscription that is due, with the values that Wasmtime gives. `at_end` remembers which
/// descriptors are files at their end, so that each is examined once per call.
fn event_of(
    subscription: &Subscription,
    table: &Descriptors,
    sleeps_only: bool,
    at_end: &mut BTreeMap<u32, bool>,
) -> Result<[u8; 32], Errno> {
    Ok(match subscription.awaited {
        Awaited::Clock { .. } => event(subscription, u64::from(sleeps_only), false),
        Awaited::Read(fd) => {
            let known = at_end.get(&fd).copied();
            let is_at_end = match (known, table.get(fd)?) {
                (Some(known), _) => known,
                (None, Descriptor::File(file)) => metadata::size(file.as_fd())? <= file.position(),
                (None, _) => false,
            };
            at_end.insert(fd, is_at_end);
            event(subscription, 1, is_at_end)
        }
        Awaited::Write(_) => event(subscription, 1, false),
    })
}

/// Waits until one of the streams is ready or the deadline is reached. Returns the monotonic time then.
async fn wait(
    table: &mut Descriptors,
    streams: &[u32],
    deadline: Option<u64>,
    mut time: u64,
) -> Result<u64, Errno> {
    let any_ready =
        |table: &Descriptors| streams.iter().any(|&fd| stream(table, fd).is_ok_and(Stream::is_ready));
    if any_ready(table) {
        return Ok(time);
    }
    for &fd in streams {
        if let Descriptor::Input(stream) | Descriptor::Output(stream) = table.get_mut(fd)? {
            stream.watch()?;
        }
    }
    let timer = deadline.map(timer).transpose()?;
    let watched = streams.iter().map(|&fd| stream(table, fd)).collect::<Result<Vec<_>, _>>()?;
    while !any_ready(table) && deadline.is_none_or(|deadline| deadline > time) {
        poll_fn(|context| {
            // All are asked, so that each can wake this task.
            let mut woken = Poll::Pending;
            for stream in &watched {
                if let Poll::Ready(result) = stream.when_ready(context) {
                    woken = Poll::Ready(result);
                }
            }
            if let Some(timer) = &timer
                && let Poll::Ready(result) = timer.poll_read_ready(context)
            {
                woken = Poll::Ready(result.map(drop).map_err(Errno::from));
            }
            woken
        })
        .await?;
        time = now(libc::CLOCK_MONOTONIC)?;
    }
    Ok(time)
}

fn stream(table: &Descriptors, fd: u32) -> Result<&Stream, Errno> {
    match table.get(fd)? {
        Descriptor::Input(stream) | Descriptor::Output(stream) => Ok(stream),
        Descriptor::Directory(_) | Descriptor::File(_) => Err(Errno::BadDescriptor),
    }
}

/// A timer of the kernel: the event loop's own counts in milliseconds.
#[derive(Debug)]
struct Timer(TimerFd);

impl AsRawFd for Timer {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

/// A timer that is readable from `deadline` on, a time of the monotonic clock in nanoseconds.
fn timer(deadline: u64) -> Result<AsyncFd<Timer>, Errno> {
    let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK)?;
    // At most 584 years: both parts fit. What is later than the kernel counts is never.
    let time = TimeSpec::new((deadline / 1_000_000_000) as i64, (deadline % 1_000_000_000) as i64);
    timer.set(Expiration::OneShot(time), TimerSetTimeFlags::TFD_TIMER_ABSTIME)?;
    // SAFETY: a `TimerFd` owns one descriptor, the same as long as it lives, and the `AsyncFd` owns it.
    let registered = unsafe { AsyncFd::register_with_interest(Timer(timer), Interest::READABLE) };
    Ok(registered.map_err(std::io::Error::from)?)
}

/// A reading of a clock in nanoseconds.
fn now(clock: libc::clockid_t) -> Result<u64, Errno> {
    let time = nix::time::clock_gettime(nix::time::ClockId::from_raw(clock))?;
    u64::try_from(time.tv_sec())
        .ok()
        .and_then(|seconds| seconds.checked_mul(1_000_000_000))
        .and_then(|ns| ns.checked_add_signed(time.tv_nsec()))
        .ok_or(Errno::Overflow)
}
