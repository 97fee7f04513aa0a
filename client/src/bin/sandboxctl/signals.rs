//! Signals that end a run.

use std::task::Poll;

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::error::Error;

/// The signals that ask for an end: Ctrl-C, `kill`, a closed terminal.
pub struct Interrupts(Vec<Signal>);

impl Interrupts {
    /// Catches them from now on. Must be called inside a tokio runtime.
    pub fn catch() -> Result<Self, Error> {
        [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()]
            .into_iter()
            .map(signal)
            .collect::<Result<_, _>>()
            .map(Self)
            .map_err(Error::Signals)
    }

    /// Ready when one has arrived.
    pub async fn arrived(&mut self) {
        std::future::poll_fn(|context| match self.0.iter_mut().any(|s| s.poll_recv(context).is_ready()) {
            true => Poll::Ready(()),
            false => Poll::Pending,
        })
        .await;
    }
}
