//! Signals of the programs: `sandboxd` and `sandboxctl`.

use std::io;
use std::task::Poll;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// The signals that ask for an end: Ctrl-C, `kill`, a closed terminal.
#[derive(Debug)]
pub struct Interrupts(Vec<Signal>);

impl Interrupts {
    /// Catches them from now on, but for those that are ignored: whoever started us (nohup(1), a shell that puts us in the
    /// background) wants it so. Must be called once, inside a tokio runtime.
    ///
    /// # Errors
    /// As sigaction(2).
    pub fn catch() -> io::Result<Self> {
        Self::catch_these(&[SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()])
    }

    /// The same for a program to which a hang-up means something else, see [`Hangup`].
    ///
    /// # Errors
    /// As sigaction(2).
    pub fn catch_but_hangup() -> io::Result<Self> {
        Self::catch_these(&[SignalKind::interrupt(), SignalKind::terminate()])
    }

    fn catch_these(kinds: &[SignalKind]) -> io::Result<Self> {
        let mut caught = Vec::new();
        for kind in kinds.iter().copied() {
            if !is_ignored(kind.as_raw_value())? {
                caught.push(signal(kind)?);
            }
        }
        Ok(Self(caught))
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

/// SIGHUP, which asks a daemon to read its policies anew. One that is ignored stays ignored, as whoever started us wants it.
#[derive(Debug)]
pub struct Hangup(Option<Signal>);

impl Hangup {
    /// Catches it from now on. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// As sigaction(2).
    pub fn catch() -> io::Result<Self> {
        let kind = SignalKind::hangup();
        Ok(Self(if is_ignored(kind.as_raw_value())? { None } else { Some(signal(kind)?) }))
    }

    /// Ready when one has arrived; several that come at once may count as one.
    pub async fn arrived(&mut self) {
        match &mut self.0 {
            Some(signal) => drop(signal.recv().await),
            None => std::future::pending().await,
        }
    }
}

/// Has a write beyond `RLIMIT_FSIZE` fail with EFBIG, which the guest that asked for it is told; by default the kernel kills the
/// process that writes, which is ours.
///
/// # Errors
/// As sigaction(2).
pub fn survive_file_size_limit() -> io::Result<()> {
    // SAFETY: SIG_IGN is no function, so no code runs in a signal handler.
    match unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) } {
        libc::SIG_ERR => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

fn is_ignored(number: i32) -> io::Result<bool> {
    // SAFETY: all zeros is a valid `sigaction`: an empty mask, no flags, and SIG_DFL.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: a null new action changes nothing; the old one is written to `action`, which is ours.
    if unsafe { libc::sigaction(number, std::ptr::null(), &raw mut action) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(action.sa_sigaction == libc::SIG_IGN)
}
