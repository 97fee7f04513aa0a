//! How many modules are read and compiled at the same time: of all users together, and of one.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};

/// Modules that are read and compiled at the same time: each can have [`ipc::protocol::MODULE_BYTES_MAX`] bytes.
const LOADS_MAX: usize = 16;
/// Those of one user: files that never answer must not keep others from loading theirs.
const OF_ONE_USER: usize = LOADS_MAX / 2;
/// Threads of the daemon that may block: enough for all files that may never answer, and for what needs none of them.
pub const BLOCKING_THREADS: usize = LOADS_MAX + 8;

/// Gives rights to load.
#[derive(Debug)]
pub(super) struct Loads {
    all: Arc<Semaphore>,
    /// By the user's id; gone when nobody has a right or waits for one.
    users: Mutex<HashMap<u32, Weak<Semaphore>>>,
}

/// The right to load one module. Whoever holds it never waits for a job's.
#[derive(Debug)]
pub(super) struct LoadPermit {
    _of_user: OwnedSemaphorePermit,
    _of_all: OwnedSemaphorePermit,
}

impl Loads {
    pub(super) fn new() -> Self {
        Self { all: Arc::new(Semaphore::new(LOADS_MAX)), users: Mutex::default() }
    }

    /// Waits for a right of this user. To be held by whatever reads the file, also when nobody waits for that any more.
    pub(super) async fn permit(&self, user: u32) -> Result<LoadPermit, AcquireError> {
        let of_user = self.of(user).acquire_owned().await?;
        let of_all = Arc::clone(&self.all).acquire_owned().await?;
        Ok(LoadPermit { _of_user: of_user, _of_all: of_all })
    }

    fn of(&self, user: u32) -> Arc<Semaphore> {
        // A poisoned lock only means that another thread panicked between two complete states.
        let mut users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
        users.retain(|_, permits| permits.strong_count() > 0);
        if let Some(permits) = users.get(&user).and_then(Weak::upgrade) {
            return permits;
        }
        let permits = Arc::new(Semaphore::new(OF_ONE_USER));
        users.insert(user, Arc::downgrade(&permits));
        permits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a future has at once.
    async fn at_once<T>(future: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            value = future => Some(value),
            () = std::future::ready(()) => None,
        }
    }

    #[tokio::test]
    async fn one_user_cannot_have_all() {
        let loads = Loads::new();
        let mut held = Vec::new();
        while let Some(permit) = at_once(loads.permit(1)).await {
            held.push(permit.expect("not closed"));
            assert!(held.len() < LOADS_MAX, "all of them");
        }
        assert_eq!(held.len(), OF_ONE_USER);
        let other = at_once(loads.permit(2)).await;
        assert!(other.is_some());
        held.pop();
        assert!(at_once(loads.permit(1)).await.is_some());
        drop((held, other));
        let _third = loads.permit(3).await;
        assert_eq!(loads.users.lock().expect("not poisoned").len(), 1, "nobody else's is kept");
    }
}
