//! What a shard does between its jobs.

use std::rc::Rc;
use std::thread;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use super::State;

/// Does between jobs what no job should wait for: gives back what finished jobs used, parks instances, gives up parked
/// ones that nobody takes.
pub(crate) async fn housekeeper(state: Rc<State>) {
    /// How long a parked instance may be of no use.
    const RELAX: Duration = Duration::from_secs(30);
    /// How long what the next instances could use is kept for them.
    const IDLE: Duration = Duration::from_secs(1);
    let (mut relaxed, mut worked) = (Instant::now(), Instant::now());
    let (mut parked, mut kept) = (false, false);
    let mut looks = JoinSet::new();
    loop {
        tokio::select! {
            () = state.work.notified() => {
                // First whatever else there is to do here; then whoever waits for the report, who may be on this processor.
                tokio::task::yield_now().await;
                thread::yield_now();
                for remains in state.remains.take() {
                    // Nobody waits for it, so that this does not either.
                    if let Some(look) = remains.last_look() {
                        looks.spawn_local(look);
                    }
                }
                for zygote in state.zygotes() {
                    zygote.park().await;
                }
                (parked, kept, worked) = (true, true, Instant::now());
                // A zygote that parked nothing any more may be idle now.
                state.ended.notify_waiters();
            }
            // Whose zygote may be idle now.
            Some(_) = looks.join_next() => state.ended.notify_waiters(),
            () = tokio::time::sleep_until((worked + IDLE).into()), if kept => {
                state.zygotes().iter().for_each(|zygote| zygote.seats().clear());
                kept = false;
            }
            () = tokio::time::sleep_until((relaxed + RELAX).into()), if parked => {}
        }
        if relaxed.elapsed() >= RELAX {
            relaxed = Instant::now();
            // Each of them, not only up to the first that has some left.
            let left: Vec<bool> = state.zygotes().iter().map(|zygote| zygote.parking().relax()).collect();
            parked = left.contains(&true);
        }
    }
}
