//! Compiling in processes of their own.
//!
//! The supervisor never parses a module. For each compilation a confined *worker* is forked that does it, ends, and leaves
//! an artifact in a memory file, which is sealed and checked before anything uses it. A worker that crashes, hangs, is killed
//! or writes garbage costs that one compilation an error.
//!
//! * [`zygote`]: the process that workers are forked from; started with the first compilation, and anew when it died.
//! * [`worker`]: what one compilation runs in.
//! * [`wire`]: what they say to each other.

mod wire;
mod worker;
mod zygote;

use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command as Process, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ipc::control::{CONTROL_FD, Command, Reply, Step, command, layer, reply};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use zerocopy::{FromBytes, IntoBytes};

use crate::config::{CompileLimits, Config, limit_key};
use crate::error::{Error, errno, system};
use crate::host;
use crate::module::Image;
use crate::zygote::root::{INSIDE_ID, map_ids};
use wire::{ANSWER_MAX, Answer, MESSAGES_MAX, NAME, Request, WorkerLimits, status};

/// The layers of every worker: all but the one that guards an instance's code.
const LAYERS: u64 = layer::USER_NAMESPACE
    | layer::MOUNT_NAMESPACE
    | layer::PID_NAMESPACE
    | layer::NET_NAMESPACE
    | layer::IPC_NAMESPACE
    | layer::UTS_NAMESPACE
    | layer::CGROUP_NAMESPACE
    | layer::EMPTY_ROOT
    | layer::LANDLOCK
    | layer::NO_NEW_PRIVS
    | layer::CAPABILITIES
    | layer::SECCOMP
    | layer::RLIMITS
    | layer::UNDUMPABLE;

/// How long a zygote may take to do what takes it milliseconds, before it counts as dead.
const PATIENCE: Duration = Duration::from_secs(60);

/// Compiles modules in workers.
#[derive(Debug)]
pub(crate) struct Compiler {
    limits: CompileLimits,
    sandbox_id: u32,
    zygote: Mutex<Option<Zygote>>,
    #[cfg(test)]
    hook: Mutex<Option<tests::Hook>>,
    /// Workers that are known to run, or to have run.
    #[cfg(test)]
    spawned: std::sync::atomic::AtomicUsize,
}

/// A running compile zygote. Dropping it ends it, and its workers with it.
#[derive(Debug)]
struct Zygote {
    control: OwnedFd,
    process: Child,
}

impl Drop for Zygote {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Why an attempt gave nothing.
enum Failure {
    /// The zygote died before it had forked the worker: worth another try.
    BeforeFork(String),
    Error(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

fn died(detail: String) -> Error {
    Error::CompileZygoteDied { detail }
}

fn too_large(image_cap: u64) -> Error {
    Error::CompileLimit {
        what: "an artifact size",
        limit: policies::format_size(image_cap),
        key: compiler::Cap::ImageBytes.key(),
    }
}

impl Compiler {
    /// Starts nothing yet.
    pub(crate) fn new(config: &Config) -> Self {
        // Keeps the linker from leaving the zygote's entry point out of programs that contain this library.
        std::hint::black_box(&raw const zygote::BEFORE_MAIN);
        Self {
            limits: config.compile_limits,
            sandbox_id: config.sandbox_id,
            zygote: Mutex::new(None),
            #[cfg(test)]
            hook: Mutex::new(None),
            #[cfg(test)]
            spawned: std::sync::atomic::AtomicUsize::new(0),
        }
    }

    /// Compiles a module, binary or text, to a sealed image. The image is what the worker wrote: not checked yet.
    pub(crate) fn compile(&self, module: &[u8], mut options: compiler::Options) -> Result<Image, Error> {
        if options.threads == 0 {
            // The worker has no file system to find out in.
            options.threads = std::thread::available_parallelism().map_or(1, |n| n.get());
        }
        let input = Image::from_bytes(module)?;
        match self.attempt(&input, module.len(), options) {
            Ok(image) => Ok(image),
            Err(Failure::Error(error)) => Err(error),
            Err(Failure::BeforeFork(_)) => match self.attempt(&input, module.len(), options) {
                Ok(image) => Ok(image),
                Err(Failure::Error(error)) => Err(error),
                Err(Failure::BeforeFork(detail)) => Err(died(detail)),
            },
        }
    }

    fn attempt(
        &self,
        input: &Image,
        input_bytes: usize,
        options: compiler::Options,
    ) -> Result<Image, Failure> {
        let request = Request {
            input_bytes: input_bytes as u64,
            options,
            limits: WorkerLimits {
                memory: self.limits.memory,
                cpu_seconds: self.limits.cpu_time.as_secs().max(1),
                output_bytes: options.caps.image_bytes.max(ANSWER_MAX as u64),
            },
            #[cfg(test)]
            hook: *self.hook.lock().unwrap_or_else(PoisonError::into_inner),
        };
        let packet = postcard::to_stdvec(&request)
            .map_err(|e| died(format!(" (its request cannot be encoded: {e})")))?;
        let output = memory_file(c"compile-output")?;
        let messages = memory_file(c"compile-messages")?;
        messages.set_len(MESSAGES_MAX as u64).map_err(system("size a worker's memory file"))?;
        fcntl(&messages, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SHRINK))
            .map_err(errno("seal a worker's memory file"))?;
        let (replies, theirs) = sockets()?;
        let (zygote, sent) = {
            let zygote = self.zygote()?;
            let zygote = zygote.as_ref().ok_or(Error::Stopped)?;
            let fds = [input.as_fd(), output.as_fd(), messages.as_fd(), theirs.as_fd()];
            (zygote.process.id(), ipc::fdpass::send(&zygote.control, &packet, &fds))
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
                return Err(step_error(step, errno).into());
            }
            Ok(_) => return Err(self.lost(zygote).into()),
            Err(error) if error.kind() == io::ErrorKind::TimedOut => return Err(self.lost(zygote).into()),
            Err(error) => return Err(before_fork(error)),
        };
        #[cfg(test)]
        self.spawned.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        let (exited, timed_out) = self.wait(zygote, &replies, &worker)?;
        Ok(self.verdict(&exited, timed_out, options.caps.image_bytes, output, messages)?)
    }

    /// A zygote that does not answer as it should is replaced.
    fn lost(&self, zygote: u32) -> Error {
        self.discard(zygote);
        died(String::from(" or does not answer"))
    }

    /// Waits for the worker's end, and brings it about when its time is up; tells whether it was.
    fn wait(&self, zygote: u32, replies: &OwnedFd, worker: &OwnedFd) -> Result<(Reply, bool), Error> {
        match receive(replies, Instant::now() + self.limits.wall_time) {
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
        image_cap: u64,
        mut output: File,
        mut messages: File,
    ) -> Result<Image, Error> {
        let crashed = |what: String| Err(Error::CompilerCrashed { what });
        let (exit, signal) = (exited.status >> 8 & 0xff, exited.status & 0x7f);
        if timed_out && signal != 0 {
            return Err(Error::CompileLimit {
                what: "a wall time",
                limit: policies::format_duration(self.limits.wall_time),
                key: limit_key::WALL_TIME,
            });
        }
        if signal == libc::SIGKILL {
            let cpu = Duration::from_micros(exited.user_us.saturating_add(exited.system_us));
            let limit = Duration::from_secs(self.limits.cpu_time.as_secs().max(1));
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
            status::ARTIFACT => {
                let bytes = output.metadata().map_err(system("examine an artifact's memory file"))?.len();
                match usize::try_from(bytes) {
                    Ok(length) if bytes <= image_cap => Image::seal(output, length),
                    _ => Err(too_large(image_cap)),
                }
            }
            status::ANSWER => match answer(&mut output)? {
                Some(Answer::Refused { message }) => {
                    Err(Error::Refused { message: ipc::protocol::one_line(&message) })
                }
                Some(Answer::Step { step, errno }) => Err(step_error(step, errno)),
                None => crashed(String::from("gave no answer that makes sense")),
            },
            status::TOO_LARGE => Err(too_large(image_cap)),
            status::PANIC => crashed(format!("panicked: {}", text(&mut messages)?)),
            status::ABORT => {
                let text = text(&mut messages)?;
                if text.contains("memory allocation of") {
                    return Err(Error::CompileLimit {
                        what: "a memory",
                        limit: policies::format_size(self.limits.memory),
                        key: limit_key::MEMORY,
                    });
                }
                crashed(format!("aborted: {text}"))
            }
            other => crashed(format!("ended with status {other}")),
        }
    }

    fn locked(&self) -> MutexGuard<'_, Option<Zygote>> {
        // A poisoned lock only means that another thread panicked between two complete states.
        self.zygote.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the zygote with this process id, unless another has taken its place already.
    fn discard(&self, pid: u32) {
        let mut zygote = self.locked();
        if zygote.as_ref().is_some_and(|z| z.process.id() == pid) {
            *zygote = None;
        }
    }

    /// The zygote, started if there is none that lives.
    fn zygote(&self) -> Result<MutexGuard<'_, Option<Zygote>>, Error> {
        let mut zygote = self.locked();
        let lives = zygote.as_mut().is_some_and(|z| matches!(z.process.try_wait(), Ok(None)));
        if !lives {
            // First the old one, which holds a seccomp filter.
            *zygote = None;
            *zygote = Some(start(self.sandbox_id)?);
        }
        Ok(zygote)
    }
}

/// Starts a zygote and waits until it is confined.
fn start(sandbox_id: u32) -> Result<Zygote, Error> {
    let (control, theirs) = sockets()?;
    // From here on the value's destructor ends the process, whatever fails.
    let zygote = Zygote { control, process: spawn(theirs)? };
    let program = policies::compile_filter()?;
    let mut filter = Vec::with_capacity(size_of_val(program.as_slice()));
    for instruction in &program {
        filter.extend_from_slice(&instruction.code.to_ne_bytes());
        filter.extend_from_slice(&[instruction.jt, instruction.jf]);
        filter.extend_from_slice(&instruction.k.to_ne_bytes());
    }
    let send = |command: &Command, filter: &[u8]| {
        let mut packet = command.as_bytes().to_vec();
        packet.extend_from_slice(filter);
        ipc::fdpass::send(&zygote.control, &packet, &[]).map(|_| ()).map_err(|e| died(format!(" ({e})")))
    };
    let confine = Command {
        kind: command::CONFINE,
        // The worker does by itself what these two stand for.
        layers: LAYERS,
        landlock: host::landlock_handled(host::landlock_abi()),
        uid: INSIDE_ID,
        gid: INSIDE_ID,
        ..Command::default()
    };
    send(&confine, &[])?;
    expect(&zygote.control, reply::UNSHARED)?;
    map_ids(zygote.process.id(), sandbox_id)?;
    let mapped = Command { kind: command::MAPPED, filter_len: program.len() as u32, ..Command::default() };
    send(&mapped, &filter)?;
    let ready = expect(&zygote.control, reply::READY)?;
    if ready.layers != LAYERS {
        return Err(died(format!(": layers {:#x} instead of {LAYERS:#x}", ready.layers)));
    }
    Ok(zygote)
}

fn expect(control: &OwnedFd, kind: u32) -> Result<Reply, Error> {
    match receive(control, Instant::now() + PATIENCE) {
        Ok(Some((reply, _))) if reply.kind == kind => Ok(reply),
        Ok(Some((Reply { kind: reply::FAILED, step, errno, .. }, _))) => Err(step_error(step, errno)),
        Ok(_) => Err(died(String::from(" while it started: this program cannot start itself anew"))),
        Err(error) => Err(died(format!(" while it started ({error})"))),
    }
}

fn step_error(step: u32, errno: i32) -> Error {
    match Step::from_number(step) {
        Some(step) => Error::CompileWorkerStep { step, errno },
        None => Error::CompilerCrashed { what: format!("failed at an unknown step {step}") },
    }
}

/// This program once more, with a name that it recognises before `main`. It inherits nothing but its control socket.
fn spawn(socket: OwnedFd) -> Result<Child, Error> {
    use std::os::unix::ffi::OsStrExt;
    let control = socket.as_raw_fd();
    let mut process = Process::new("/proc/self/exe");
    process.arg0(std::ffi::OsStr::from_bytes(NAME.to_bytes())).env_clear().current_dir("/");
    process.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    // SAFETY: runs between fork and exec; `dup2`, `fcntl` and `close_range` are async-signal-safe and allocate nothing.
    unsafe {
        process.pre_exec(move || {
            let moved = if control == CONTROL_FD {
                libc::fcntl(control, libc::F_SETFD, 0)
            } else {
                libc::dup2(control, CONTROL_FD)
            };
            if moved < 0 {
                return Err(io::Error::last_os_error());
            }
            let flags = libc::CLOSE_RANGE_CLOEXEC as libc::c_int;
            if libc::syscall(libc::SYS_close_range, CONTROL_FD + 1, u32::MAX, flags) != 0 {
                return Err(io::Error::last_os_error());
            }
            Ok(())
        });
    }
    process.spawn().map_err(system("start the compile zygote from /proc/self/exe (is /proc mounted?)"))
}

fn sockets() -> Result<(OwnedFd, OwnedFd), Error> {
    socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)
        .map_err(errno("create a socket for the compile zygote"))
}

fn memory_file(name: &std::ffi::CStr) -> Result<File, Error> {
    memfd_create(name, MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)
        .map(File::from)
        .map_err(errno("create a memory file for the compile worker"))
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
fn receive(socket: &OwnedFd, until: Instant) -> io::Result<Option<(Reply, Option<OwnedFd>)>> {
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

#[cfg(test)]
mod tests;
