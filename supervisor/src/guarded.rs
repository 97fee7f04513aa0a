//! Calls of the host app's code, which may panic, also in destructors, or not answer in time: that is an error of the call.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use crate::imports::HostError;

/// Why a call failed whose function panicked.
pub(crate) const PANICKED: &str = "it panicked";

/// What a call of the host app's code is while it runs.
pub(crate) type CallFuture<T> = Pin<Box<dyn Future<Output = Result<T, HostError>> + Send>>;

/// Starts a call and waits for its answer, no longer than `deadline`. Dropping the future gives the call up.
pub(crate) async fn call<T>(
    start: impl FnOnce() -> CallFuture<T>,
    deadline: Option<Duration>,
) -> Result<T, HostError> {
    let started = catch_unwind(AssertUnwindSafe(start)).map_err(|_| HostError::from(PANICKED))?;
    let call = Guarded(Some(started));
    let Some(deadline) = deadline else { return call.await };
    let late =
        |_| format!("it did not answer within its deadline of {}", policies::format_duration(deadline));
    tokio::time::timeout(deadline, call).await.map_err(late)?
}

/// A future of the host app's.
struct Guarded<T>(Option<CallFuture<T>>);

impl<T> Future for Guarded<T> {
    type Output = Result<T, HostError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(future) = &mut self.0 else { return Poll::Ready(Err(PANICKED.into())) };
        // What it has left behind is its own affair: nothing of ours is in its reach.
        catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(context)))
            .unwrap_or_else(|_| Poll::Ready(Err(PANICKED.into())))
    }
}

impl<T> Drop for Guarded<T> {
    fn drop(&mut self) {
        let future = self.0.take();
        let _ = catch_unwind(AssertUnwindSafe(|| drop(future)));
    }
}
