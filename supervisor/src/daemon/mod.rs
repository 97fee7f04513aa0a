//! The daemon: jobs over a Unix socket.
//!
//! One thread accepts connections and hands each to the shard with the fewest, on whose thread it is served: a job that runs in the
//! same shard wakes nobody else between its client and its instance. A connection runs one job or one operation of a session at a
//! time, and whatever the daemon does for a client (reading a module, compiling, running), it watches
//! the connection while doing it: when the client goes away, the work is dropped, and with it the instance.
//!
//! * [`listener`]: the socket, and the right to serve it.
//! * `connection`: one client, from hello to end.
//! * [`policies`](Policies): the policies that clients can name, and their reload.
//! * `session`: the sessions of a connection.
//! * `host_calls`: functions that a client serves.
//! * `interfaces`: the interfaces that such functions are of.
//! * `loads`: who may read and compile modules at the same time.
//! * `request`: from a request and its descriptors to a job of the supervisor.
//! * [`module_error`], [`signals`]: what `sandboxctl` without a daemon does in the same way.
//!
//! Who may connect: the user that the daemon runs as, and root. The socket's mode says so, and the
//! credentials of every peer are checked again. Clients are not trusted beyond that: they can ask for jobs, and
//! the daemon never opens a path on their word.

use std::future::Future;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::shard::Here;
use crate::{Config, HostReport, Supervisor, processors};

mod connection;
mod host_calls;
mod interfaces;
pub mod listener;
mod loads;
pub mod module_error;
mod policies;
mod request;
mod session;
pub mod signals;

pub use self::policies::{Policies, PolicyErrors, policy_info};
pub use listener::{ListenError, Listener};
pub use loads::BLOCKING_THREADS;

/// Where artifacts are cached, by the daemon and by `sandboxctl` without one: as the user says, else
/// `$SANDBOXD_STATE_DIR`, else [`Config::default_state_dir`].
pub fn state_dir(given: Option<PathBuf>) -> Option<PathBuf> {
    let from_environment =
        || std::env::var_os("SANDBOXD_STATE_DIR").filter(|d| !d.is_empty()).map(PathBuf::from);
    given.or_else(from_environment).or_else(Config::default_state_dir)
}

/// Bounds of a daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Connections at the same time; further ones are refused with a message.
    pub connections: u32,
    /// Jobs at the same time, open sessions included; further jobs wait. Sessions take at most half of these places, so that jobs
    /// always get on; further ones are refused with a message.
    pub jobs: u32,
    /// Landlock lets the daemon open files below listed directories only, so that a job with another one is refused.
    pub listed_directories: bool,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { connections: 512, jobs: 256, listed_directories: false }
    }
}

/// How long a connection beyond the maximum waits for one that its client has closed and that another thread has not seen the end of yet.
const LEAVING: Duration = Duration::from_millis(200);

/// Sessions that all clients together may have open.
fn sessions_max(bounds: Bounds) -> u32 {
    bounds.jobs / 2
}

/// What all connections share.
struct Shared {
    supervisor: Supervisor,
    bounds: Bounds,
    /// What was found before the daemon confined itself, and how it is confined.
    host: HostReport,
    /// A permit per connection that is served.
    connection_permits: Semaphore,
    /// A permit per running job.
    job_permits: Semaphore,
    /// A permit per open session, which has one of a job's too.
    session_permits: Semaphore,
    /// A permit per module that is in memory to be loaded.
    loads: loads::Loads,
    connections: AtomicU32,
    /// Running jobs, open sessions included.
    jobs: AtomicU32,
    sessions: AtomicU32,
    /// The interfaces that jobs have.
    interfaces: interfaces::Interfaces,
    /// The policies that have names.
    policies: Policies,
    /// Where threads that may block come from. Not those of a shard's runtime, whose end would wait for them.
    blocking: Handle,
}

impl Shared {
    /// Has a thread that may block do some work. It may run anywhere, not only where the shard of a connection is.
    fn on_blocking_thread<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> JoinHandle<T> {
        let processors = processors::for_helper();
        self.blocking.spawn_blocking(move || {
            processors::allow(processors);
            work()
        })
    }
}

/// Counts something for as long as it lives.
struct Counted<'c>(&'c AtomicU32);

impl<'c> Counted<'c> {
    fn new(counter: &'c AtomicU32) -> Self {
        counter.fetch_add(1, Ordering::Relaxed);
        Self(counter)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Serves clients until `end` is ready. Then all connections are closed and their jobs cancelled; the socket is
/// gone when this returns. `reload` asks for the policies to be read anew; `host` is what clients are told that ask for it: a daemon that
/// has confined itself cannot try things out.
pub async fn serve(
    listener: Listener,
    supervisor: Supervisor,
    bounds: Bounds,
    host: HostReport,
    policies: Policies,
    reload: signals::Hangup,
    end: impl Future<Output = ()>,
) {
    let shared = Arc::new(Shared {
        supervisor,
        bounds,
        host,
        connection_permits: Semaphore::new(bounds.connections as usize),
        job_permits: Semaphore::new(bounds.jobs as usize),
        session_permits: Semaphore::new(sessions_max(bounds) as usize),
        loads: loads::Loads::new(),
        connections: AtomicU32::new(0),
        jobs: AtomicU32::new(0),
        sessions: AtomicU32::new(0),
        interfaces: interfaces::Interfaces::new(),
        policies,
        blocking: Handle::current(),
    });
    let (closing, is_closing) = watch::channel(());
    let (open, mut all_closed) = mpsc::channel(1);
    accept_until(&listener, &shared, reload, end, Open { is_closing, _open: open }).await;
    drop(closing);
    // No connection sends anything: this ends with the last of them.
    let _ = all_closed.recv().await;
}

/// What a connection holds while it is open.
#[derive(Clone)]
struct Open {
    /// Closed when all connections are to end.
    is_closing: watch::Receiver<()>,
    _open: mpsc::Sender<()>,
}

async fn accept_until(
    listener: &Listener,
    shared: &Arc<Shared>,
    mut reload: signals::Hangup,
    end: impl Future<Output = ()>,
    open: Open,
) {
    let mut end = std::pin::pin!(end);
    loop {
        tokio::select! {
            biased;
            () = &mut end => break,
            () = reload.arrived() => {
                let shared = Arc::clone(shared);
                // Its result has been logged.
                tokio::spawn(async move { drop(shared.policies.reload(&shared.blocking).await) });
            }
            stream = listener.accept() => {
                let (shared, open) = (Arc::clone(shared), open.clone());
                let supervisor = shared.supervisor.clone();
                // Without a shard nobody is served any more.
                let _ = supervisor.spawn(Box::new(|here| Box::pin(connect(stream, here, shared, open))));
            }
        }
    }
}

/// Serves a client on this thread until it leaves or the daemon ends.
async fn connect(stream: UnixStream, here: Here, shared: Arc<Shared>, mut open: Open) {
    tokio::select! {
        biased;
        // Nothing is ever sent, so it is ready when the sender is gone.
        _ = open.is_closing.changed() => {}
        () = admit(stream, &here, &shared) => {}
    }
    // Before this connection counts as closed: the supervisor must not have its end here.
    drop(shared);
    drop(open);
}

/// Lets a client in, or says why not.
async fn admit(stream: UnixStream, here: &Here, shared: &Shared) {
    let counted = Counted::new(&shared.connections);
    let permit = timeout(LEAVING, shared.connection_permits.acquire()).await;
    let refusal = match permit {
        Ok(_) => listener::check_peer(&stream).err().map(|e| e.to_string()),
        Err(_) => Some(format!("it serves {} connections already, its maximum", shared.bounds.connections)),
    };
    connection::serve(stream, here, shared, refusal).await;
    drop((permit, counted));
}
