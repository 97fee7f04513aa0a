//! Helpers for the tests of the whole system: they run the real programs in real processes.
//!
//! * [`sandboxctl`], [`sandboxd`], [`sandboxc`], [`key_value`] (an example): the programs, built on first use by the profile of the test itself. Set `SANDBOXD_BIN_DIR`
//!   to a directory that holds them to test those instead (needed where there is no cargo).
//! * [`Scratch`]: a directory of a test's own, with a module in it.
//! * [`run`]: a program from start to end, with a watchdog; [`Output`]: what it did.
//! * [`Daemon`]: a daemon of a test's own.
//! * [`assert_no_orphans`]: that nothing is left running.
//! * [`guests`]: small guests; [`attacker`]: guests that are native code.
//! * [`ring_program`]: random programs for what attacks the ring.
//! * [`native`]: a guest that has been taken over, step by step.
//! * [`side_channel`]: what the processor's caches give away.
//! * [`raw_client`]: clients of the daemon that break its rules.
//! * [`sessions`]: sessions of small guests.
//! * [`cgroups`]: cgroups of a test's own.
//! * [`instances`]: running instances as the kernel shows them; [`lifecycle`]: what a crash leaves behind.

pub mod attacker;
pub mod cgroups;
mod daemon;
pub mod guests;
pub mod host;
pub mod instances;
pub mod lifecycle;
pub mod native;
mod process;
mod programs;
pub mod raw_client;
pub mod ring_program;
mod scratch;
pub mod sessions;
pub mod side_channel;
pub mod typed_guest;

pub use daemon::Daemon;
pub use process::{Output, PATIENCE, Process, assert_no_orphans, run, run_with_input, spawn};
pub use programs::{key_value, sandboxc, sandboxctl, sandboxd};
pub use scratch::Scratch;
