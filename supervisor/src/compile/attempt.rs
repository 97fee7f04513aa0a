//! One worker, seen from the supervisor: what it is asked for, and what its end means.

use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use compiler::Diagnostic;
use ipc::control::{Reply, Step, reply};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use zerocopy::FromBytes;

use super::start::{PATIENCE, died, zygote_error};
use super::wire::{ANSWER_MAX, Answer, MESSAGES_MAX, Make, Request, WorkerLimits, status};
use super::{CompileProgress, Compiler};
use crate::config::limit_key;
use crate::error::{Error, errno, system};
use crate::image::Image;
use crate::process;

/// What a worker is to do.
pub(super) struct Work<'w> {
    pub(super) make: Make,
    pub(super) input: &'w Image,
    pub(super) input_bytes: usize,
    pub(super) options: compiler::Options,
    pub(super) progress: &'w CompileProgress,
}

/// Why an attempt gave nothing.
pub(super) enum Failure {
    /// The zygote died before it had forked the worker: worth another try.
    BeforeFork(String),
    Error(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

fn too_large(cap: u64) -> Error {
    Error::CompileLimit {
        what: "an output size",
        limit: policies::format_size(cap),
        key: compiler::Cap::ImageBytes.key(),
    }
}

impl Compiler {
    /// Has one worker do the work.
    pub(super) fn attempt(&self, work: &Work<'_>) -> Result<Image, Failure> {
        let cap = work.options.caps.image_bytes;
        let request = Request {
            make: work.make,
            input_bytes: work.input_bytes as u64,
            options: work.options,
            limits: WorkerLimits {
                memory: self.limits().memory,
                cpu_seconds: self.limits().cpu_time.as_secs().max(1),
                output_bytes: cap.max(ANSWER_MAX as u64),
            },
            #[cfg(test)]
            hook: *self.hook.lock().unwrap_or_else(std::sync::PoisonError::into_inner),
        };
        let packet =
            request.to_packet().map_err(|e| died(format!(" (its request cannot be encoded: {e})")))?;
        let output = process::memory_file(c"compile-output")?;
        let messages = process::memory_file(c"compile-messages")?;
        messages.set_len(MESSAGES_MAX as u64).map_err(system("size a worker's memory file"))?;
        fcntl(&messages, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SHRINK))
            .map_err(errno("seal a worker's memory file"))?;
        let progress = work.progress.begin()?;
        let (replies, theirs) = process::sockets()?;
        let (zygote, named, sent) = {
            let zygote = self.zygote()?;
            let zygote = zygote.as_ref().ok_or(Error::Stopped)?;
            let input = work.input.as_fd();
            let fds = [input, output.as_fd(), messages.as_fd(), progress.as_fd(), theirs.as_fd()];
            (zygote.process.id(), zygote.named.clone(), ipc::fdpass::send(&zygote.control, &packet, &fds))
        };
        drop(theirs);
        let before_fork = |error: io::Error| {
            self.discard(zygote);
            Failure::BeforeFork(format!(" ({error})"))
        };
        sent.map_err(before_fork)?;
        let worker = match receive(&replies, Instant::now() + PATIENCE) {
            Ok(Some((Reply { kind: reply::SPAWNED, .. }, Some(pidfd)))) => pidfd,
            Ok(Some((Reply { kind: reply::FAILED, step, errno, .. }, _))) => {
                return Err(zygote_error(named.as_deref(), step, errno).into());
            }
            Ok(_) => return Err(self.lost(zygote).into()),
            Err(error) if error.kind() == io::ErrorKind::TimedOut => return Err(self.lost(zygote).into()),
            Err(error) => return Err(before_fork(error)),
        };
        #[cfg(test)]
        self.spawned.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        let (exited, timed_out) = self.wait(zygote, &replies, &worker)?;
        Ok(self.verdict(&exited, timed_out, cap, output, messages)?)
    }

    /// A zygote that does not answer as it should is replaced.
    fn lost(&self, zygote: u32) -> Error {
        self.discard(zygote);
        died(String::from(" or does not answer"))
    }

    /// Waits for the worker's end, and brings it about when its time is up; tells whether it was.
    fn wait(&self, zygote: u32, replies: &OwnedFd, worker: &OwnedFd) -> Result<(Reply, bool), Error> {
        match receive(replies, Instant::now() + self.limits().wall_time) {
            Ok(Some((reply, _))) if reply.kind == reply::EXITED => return Ok((reply, false)),
            Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                kill(worker);
                return match receive(replies, Instant::now() + PATIENCE) {
                    Ok(Some((reply, _))) if reply.kind == reply::EXITED => Ok((reply, true)),
                    _ => Err(self.lost(zygote)),
                };
            }
            _ => {}
        }
        // The zygote is gone. The worker goes with it, but its end is nobody's to report.
        kill(worker);
        self.discard(zygote);
        Err(died(String::new()))
    }

    /// What a worker's end means.
    fn verdict(
        &self,
        exited: &Reply,
        timed_out: bool,
        cap: u64,
        mut output: File,
        mut messages: File,
    ) -> Result<Image, Error> {
        let crashed = |what: String| Err(Error::CompilerCrashed { what });
        let (exit, signal) = (exited.status >> 8 & 0xff, exited.status & 0x7f);
        if timed_out && signal != 0 {
            return Err(Error::CompileLimit {
                what: "a wall time",
                limit: policies::format_duration(self.limits().wall_time),
                key: limit_key::WALL_TIME,
            });
        }
        if signal == libc::SIGKILL {
            let cpu = Duration::from_micros(exited.user_us.saturating_add(exited.system_us));
            let limit = Duration::from_secs(self.limits().cpu_time.as_secs().max(1));
            // The kernel compares a sum of ticks with the limit; what it reports at the end is measured, and may be less.
            let slack = (limit / 4).min(Duration::from_secs(1));
            if cpu + slack >= limit {
                return Err(Error::CompileLimit {
                    what: "a CPU time",
                    limit: policies::format_duration(limit),
                    key: limit_key::CPU_TIME,
                });
            }
            return crashed(String::from("was killed (SIGKILL)"));
        }
        if signal == libc::SIGSYS {
            return crashed(String::from("made a system call that it may not make (SIGSYS)"));
        }
        if signal != 0 {
            let name = nix::sys::signal::Signal::try_from(signal).map_or("a signal", |s| s.as_str());
            return crashed(format!("crashed ({name})"));
        }
        match exit {
            status::MADE => {
                let bytes = output.metadata().map_err(system("examine a worker's memory file"))?.len();
                match usize::try_from(bytes) {
                    Ok(length) if bytes <= cap => Image::seal(output, length),
                    _ => Err(too_large(cap)),
                }
            }
            status::ANSWER => match answer(&mut output)? {
                Some(Answer::Refused(diagnostic)) => {
                    // Whoever took the worker over may have written it.
                    let message = ipc::protocol::one_line(&diagnostic.message);
                    Err(Error::Refused(Diagnostic { message, ..diagnostic }))
                }
                Some(Answer::Step { step, errno }) => Err(step_error(step, errno)),
                None => crashed(String::from("gave no answer that makes sense")),
            },
            status::TOO_LARGE => Err(too_large(cap)),
            status::PANIC => crashed(format!("panicked: {}", text(&mut messages)?)),
            status::ABORT => {
                let text = text(&mut messages)?;
                if text.contains("memory allocation of") {
                    return Err(Error::CompileLimit {
                        what: "a memory",
                        limit: policies::format_size(self.limits().memory),
                        key: limit_key::MEMORY,
                    });
                }
                crashed(format!("aborted: {text}"))
            }
            other => crashed(format!("ended with status {other}")),
        }
    }
}

pub(super) fn step_error(step: u32, errno: i32) -> Error {
    match Step::from_number(step) {
        Some(step) => Error::CompileWorkerStep { step, errno },
        None => Error::CompilerCrashed { what: format!("failed at an unknown step {step}") },
    }
}

fn kill(worker: &OwnedFd) {
    // SAFETY: a pidfd, a signal, no further information. It may have ended already.
    unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            worker.as_raw_fd(),
            libc::SIGKILL,
            std::ptr::null::<libc::siginfo_t>(),
            0,
        )
    };
}

/// The next reply and its descriptor. `None`: not a reply, or the end.
pub(super) fn receive(socket: &OwnedFd, until: Instant) -> io::Result<Option<(Reply, Option<OwnedFd>)>> {
    loop {
        let left = until.saturating_duration_since(Instant::now());
        // Rounded up, and split where it is longer than the call can take.
        let left = left.min(Duration::from_secs(3600)) + Duration::from_millis(1);
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(socket.as_fd(), PollFlags::POLLIN)], timeout) {
            Ok(0) if Instant::now() >= until => return Err(io::ErrorKind::TimedOut.into()),
            Ok(0) | Err(Errno::EINTR) => {}
            Ok(_) => break,
            Err(error) => return Err(error.into()),
        }
    }
    let (mut packet, mut fds) = ([0u8; size_of::<Reply>() + 1], Vec::new());
    let length = ipc::fdpass::receive(socket, &mut packet, &mut fds)?;
    if length == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let reply = packet.get(..length).and_then(|bytes| Reply::read_from_bytes(bytes).ok());
    Ok(reply.map(|reply| (reply, fds.into_iter().next())))
}

/// The answer in the place of an artifact, if it is one.
fn answer(output: &mut File) -> Result<Option<Answer>, Error> {
    let bytes = beginning(output, ANSWER_MAX)?;
    Ok(postcard::from_bytes(&bytes).ok())
}

/// What a worker said, in one line.
fn text(messages: &mut File) -> Result<String, Error> {
    let bytes = beginning(messages, MESSAGES_MAX)?;
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    let text = String::from_utf8_lossy(bytes.get(..end).unwrap_or_default()).into_owned();
    Ok(ipc::protocol::one_line(text.trim()))
}

fn beginning(file: &mut File, bytes_max: usize) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    file.rewind()
        .and_then(|()| file.take(bytes_max as u64).read_to_end(&mut bytes))
        .map_err(system("read what the compile worker wrote"))?;
    Ok(bytes)
}
