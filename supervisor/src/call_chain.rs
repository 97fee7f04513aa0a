//! Whose calls the running code serves: a host function must not wait for a session whose own call waits for it.
//!
//! What serves a call runs in the scope of its [`CallChain`], wherever its future is polled, and so does a thread that serves it. Whatever it
//! calls goes on with that chain: sessions and jobs. Tasks and threads that the host app starts do not.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

tokio::task_local! {
    static SERVED: CallChain;
}

/// A session of this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SessionId(u64);

impl SessionId {
    pub(crate) fn next() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

/// Sessions that are in a call, the innermost first: each waits for the one before it.
#[derive(Clone, Debug, Default)]
pub(crate) struct CallChain(Option<Arc<Link>>);

#[derive(Debug)]
struct Link {
    session: SessionId,
    outer: CallChain,
}

impl CallChain {
    /// Those that the running code serves.
    pub(crate) fn served() -> Self {
        SERVED.try_with(Self::clone).unwrap_or_default()
    }

    /// And a call of this session in addition.
    pub(crate) fn and(self, session: SessionId) -> Self {
        Self(Some(Arc::new(Link { session, outer: self })))
    }

    pub(crate) fn contains(&self, session: SessionId) -> bool {
        let mut chain = self;
        while let Some(call) = &chain.0 {
            if call.session == session {
                return true;
            }
            chain = &call.outer;
        }
        false
    }

    /// Has a future serve them.
    pub(crate) async fn serve<T>(self, future: impl Future<Output = T>) -> T {
        SERVED.scope(self, future).await
    }

    /// Serves them here, on this thread.
    pub(crate) fn serve_here<T>(self, serve: impl FnOnce() -> T) -> T {
        SERVED.sync_scope(self, serve)
    }
}
