//! The supervisor's real end of a ring, served without an instance: a fuzzer is the other end. Only with the feature `fuzzing`, which
//! nothing that is shipped has.

use std::cell::{Cell, RefCell};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use compiler::metadata::Metadata;
use ipc::report::{LimitReached, Violation};
use policies::Policy;

use super::provided::Provided;
use super::seat::Seat;
use super::serve::{Ended, Server};
use crate::error::Error;
use crate::imports::Imports;
use crate::job::Preopen;
use crate::observed::Calls;
use crate::wasi::{WasiConfig, WasiContext};

/// Told of an address and a number of bytes.
pub type OnRead = Box<dyn FnMut(*const u8, usize)>;

thread_local! {
    static ON_READ: RefCell<Option<OnRead>> = const { RefCell::new(None) };
}

/// Has `hook` called on this thread whenever bytes of a ring were copied out to be looked at, before anybody looks at the copy.
pub fn on_read(hook: Option<OnRead>) {
    ON_READ.set(hook);
}

/// To be called where that happens.
pub(crate) fn was_read(from: *const u8, bytes: usize) {
    ON_READ.with_borrow_mut(|hook| {
        if let Some(hook) = hook {
            hook(from, bytes);
        }
    });
}

/// What the other end gets.
#[derive(Debug, Default)]
pub struct Guest {
    /// Descriptors 0, 1 and 2.
    pub stdio: [Option<OwnedFd>; 3],
    /// Directories, from descriptor 3 on.
    pub preopens: Vec<Preopen>,
    /// Sockets behind them.
    pub sockets: Vec<OwnedFd>,
    /// Descriptors open at a time.
    pub max_handles: u32,
    /// Bytes of output.
    pub max_output_bytes: u64,
    /// Host calls.
    pub max_calls: u64,
    /// Whether nothing that it sees depends on time.
    pub deterministic: bool,
}

/// How serving ended.
#[derive(Debug)]
pub enum End {
    /// The other end broke a rule.
    Violation(Violation),
    /// A limit was reached.
    Limit(LimitReached),
    /// It says that it has finished.
    Finished,
}

/// What was used when serving ended, or was given up.
#[derive(Clone, Copy, Debug, Default)]
pub struct Used {
    /// Host calls.
    pub calls: u64,
    /// Bytes of output.
    pub output_bytes: u64,
}

/// One ring.
#[derive(Debug)]
pub struct Ring {
    seat: Seat,
}

impl Ring {
    /// A new one. Its doorbell is watched by the tokio runtime that this is called in.
    pub fn new() -> Result<Self, Error> {
        Ok(Self { seat: Seat::new()? })
    }

    /// Makes it as good as new, as between two instances. Nobody may be serving it, and nobody write to it.
    pub fn renew(&self) -> Result<(), Error> {
        self.seat.renew()
    }

    /// The memory file, for the other end.
    pub fn memory(&self) -> BorrowedFd<'_> {
        self.seat.shared.file()
    }

    /// The doorbell, for the other end.
    pub fn doorbell(&self) -> BorrowedFd<'_> {
        self.seat.doorbell.get_ref().as_fd()
    }

    /// Where this end has the memory mapped: what [`on_read`] is told of.
    pub fn start(&self) -> *const u8 {
        self.seat.shared.start()
    }

    /// Serves calls of a module with this metadata until something ends it; `used` is told when that is, or when this is dropped.
    pub async fn serve(
        &self,
        guest: Guest,
        policy: &Policy,
        metadata: &Metadata,
        imports: &Imports,
        used: &Cell<Used>,
    ) -> Result<End, Box<dyn std::error::Error>> {
        let provided = Provided::new(metadata, imports)?;
        let wasi = WasiContext::new(WasiConfig {
            stdio: guest.stdio,
            preopens: guest.preopens,
            sockets: guest.sockets,
            max_handles: guest.max_handles,
            max_output_bytes: Some(guest.max_output_bytes),
            clock_resolution_ns: 1,
            monotonic_offset: 0,
            deterministic: guest.deterministic,
        })?;
        let calls = Cell::new(0);
        let mut told = Told { used, calls: &calls, wasi };
        let (failure, heard, output) = (RefCell::new(None), Cell::new(false), Cell::new(None));
        let server = Server {
            shared: &self.seat.shared,
            doorbell: &self.seat.doorbell,
            policy,
            provided: &provided,
            failure: &failure,
            waits_at_end: true,
            calls_max: Some(guest.max_calls),
            calls: &calls,
            seen: &Calls::new(),
            heard: &heard,
            output: &output,
        };
        Ok(match server.run(&mut told.wasi, None, None).await {
            Ended::Violation(violation) => End::Violation(violation),
            Ended::Limit(limit) => End::Limit(limit),
            Ended::Finished(..) => End::Finished,
        })
    }
}

/// Tells what was used when it is dropped.
struct Told<'t> {
    used: &'t Cell<Used>,
    calls: &'t Cell<u64>,
    wasi: WasiContext,
}

impl Drop for Told<'_> {
    fn drop(&mut self) {
        self.used.set(Used { calls: self.calls.get(), output_bytes: self.wasi.output_bytes() });
    }
}
