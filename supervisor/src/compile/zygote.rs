//! The compile zygote: this program once more, caught before `main`.
//!
//! It is single-threaded, confines itself once, and forks a worker per compilation. It never looks at a module. It ends when
//! its control socket closes, which is when its supervisor ends; its workers end with it.
//!
//! Unlike the fork server of instances this is an ordinary program with a C library and an allocator, because the compiler
//! needs both: what a worker needs is loaded and initialised once, and inherited.

use std::ffi::{CStr, c_char, c_int};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use ipc::control::{
    CONTROL_FD, Command, FILTER_INSTRUCTION_BYTES, PACKET_MAX, Reply, Step, command, layer, reply,
};
use zerocopy::{FromBytes, IntoBytes};
use zygote::confine;
use zygote::sys::Errno;

use super::wire::{NAME, REQUEST_FDS, REQUEST_MAX, Request};
use super::worker;

/// Runs before `main` in every program that contains this library. The C library passes what `main` gets.
#[used]
#[unsafe(link_section = ".init_array")]
pub(super) static BEFORE_MAIN: extern "C" fn(c_int, *const *const c_char, *const *const c_char) = before_main;

extern "C" fn before_main(count: c_int, arguments: *const *const c_char, environment: *const *const c_char) {
    // SAFETY: as for `main`: both are arrays of C strings that end with a null pointer.
    let is_zygote = unsafe {
        count == 1
            && !arguments.is_null()
            && !(*arguments).is_null()
            && CStr::from_ptr(*arguments) == NAME
            && !environment.is_null()
            && (*environment).is_null()
    };
    if is_zygote {
        run()
    }
}

type Failed = (Step, i32);

fn last_errno() -> i32 {
    io::Error::last_os_error().raw_os_error().unwrap_or(0)
}

fn check(result: i64, step: Step) -> Result<i64, Failed> {
    if result < 0 { Err((step, last_errno())) } else { Ok(result) }
}

/// Where a zygote keeps a descriptor of itself, for its workers to see whether it lives.
pub(super) const OWN_PIDFD: i32 = CONTROL_FD + 1;

/// The control socket, which the supervisor put there.
fn control() -> BorrowedFd<'static> {
    // SAFETY: the descriptor stays open for the life of this process; workers close it with nobody left to use it.
    unsafe { BorrowedFd::borrow_raw(CONTROL_FD) }
}

fn exit(status: i32) -> ! {
    // SAFETY: ends the process without running anything of the program that this one could have been.
    unsafe { libc::_exit(status) }
}

fn give_up((step, errno): Failed) -> ! {
    let failed = Reply { kind: reply::FAILED, step: step as u32, errno, ..Reply::default() };
    let _ = ipc::fdpass::send(control(), failed.as_bytes(), &[]);
    exit(1)
}

fn run() -> ! {
    if let Err(failed) = set_up().and_then(|layers| {
        let ready = Reply { kind: reply::READY, layers, ..Reply::default() };
        ipc::fdpass::send(control(), ready.as_bytes(), &[]).map(|_| ()).map_err(|e| receive_failed(&e))
    }) {
        give_up(failed)
    }
    serve()
}

fn receive_failed(error: &io::Error) -> Failed {
    (Step::Receive, error.raw_os_error().unwrap_or(libc::EBADMSG))
}

/// Puts every layer in force. Returns which ones.
fn set_up() -> Result<u64, Failed> {
    // SAFETY: takes no pointer. Nothing of this program has opened a descriptor yet.
    let closed = unsafe { libc::syscall(libc::SYS_close_range, CONTROL_FD + 1, u32::MAX, 0) };
    check(closed, Step::Descriptors)?;
    // SAFETY: takes no pointer.
    let own = unsafe { libc::syscall(libc::SYS_pidfd_open, libc::getpid(), 0) };
    if check(own, Step::Descriptors)? != i64::from(OWN_PIDFD) {
        return Err((Step::Descriptors, libc::EBADF));
    }
    // SAFETY: a C string. For people who list processes, and for tests.
    unsafe { libc::prctl(libc::PR_SET_NAME, NAME.as_ptr()) };
    // SAFETY: plain dispositions. What a terminal or a service manager sends to a whole group is for the supervisor, whose end
    // ends this process; an ignored SIGCHLD, which survives exec, would lose the workers' ends.
    unsafe {
        for signal in [libc::SIGINT, libc::SIGQUIT, libc::SIGHUP, libc::SIGTERM] {
            libc::signal(signal, libc::SIG_IGN);
        }
        libc::signal(libc::SIGCHLD, libc::SIG_DFL);
    }
    // SAFETY: changes a number of the allocator. Otherwise it would look for the processors in the file system.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, 8) };

    let mut buffer = vec![0u8; PACKET_MAX];
    let (first, _) = receive_command(&mut buffer, command::CONFINE)?;
    let errno = |(step, Errno(errno)): (Step, Errno)| (step, errno);
    if first.layers & layer::USER_NAMESPACE != 0 {
        confine::new_user_namespace().map_err(errno)?;
    }
    let unshared = Reply { kind: reply::UNSHARED, ..Reply::default() };
    ipc::fdpass::send(control(), unshared.as_bytes(), &[]).map_err(|e| receive_failed(&e))?;
    let (_, filter) = receive_command(&mut buffer, command::MAPPED)?;
    confine::confine(&first).map_err(errno)?;
    if first.layers & layer::SECCOMP != 0 {
        install(filter)?;
    }
    Ok(first.layers)
}

/// Waits for a command, and the filter program behind it. Ends the process when the supervisor is gone.
fn receive_command(buffer: &mut [u8], kind: u32) -> Result<(Command, &[u8]), Failed> {
    let length = ipc::fdpass::receive(control(), buffer, &mut Vec::new()).map_err(|e| receive_failed(&e))?;
    if length == 0 {
        exit(0)
    }
    let malformed = (Step::Receive, libc::EBADMSG);
    let packet = buffer.get(..length).ok_or(malformed)?;
    let (command, filter) = Command::read_from_prefix(packet).map_err(|_| malformed)?;
    if command.kind != kind || filter.len() != command.filter_len as usize * FILTER_INSTRUCTION_BYTES {
        return Err(malformed);
    }
    Ok((command, filter))
}

fn install(filter: &[u8]) -> Result<(), Failed> {
    let instructions: Vec<libc::sock_filter> = filter
        .chunks_exact(FILTER_INSTRUCTION_BYTES)
        .filter_map(|i| match *i {
            [c0, c1, jt, jf, k0, k1, k2, k3] => Some(libc::sock_filter {
                code: u16::from_ne_bytes([c0, c1]),
                jt,
                jf,
                k: u32::from_ne_bytes([k0, k1, k2, k3]),
            }),
            _ => None,
        })
        .collect();
    let program =
        libc::sock_fprog { len: instructions.len() as u16, filter: instructions.as_ptr().cast_mut() };
    // SAFETY: `program` points to its instructions, which live until the call returns.
    let installed =
        unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const program) };
    check(installed, Step::Seccomp).map(|_| ())
}

/// A worker at work.
struct Worker {
    pid: i32,
    pidfd: OwnedFd,
    replies: OwnedFd,
}

/// Serves the supervisor until it is gone.
fn serve() -> ! {
    let mut workers: Vec<Worker> = Vec::new();
    let mut buffer = vec![0u8; REQUEST_MAX];
    loop {
        let watch = |fd: i32| libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
        let mut watched: Vec<libc::pollfd> = workers.iter().map(|w| watch(w.pidfd.as_raw_fd())).collect();
        watched.push(watch(CONTROL_FD));
        // SAFETY: as many elements as the length says.
        if unsafe { libc::poll(watched.as_mut_ptr(), watched.len() as libc::nfds_t, -1) } < 0 {
            if last_errno() == libc::EINTR {
                continue;
            }
            exit(1)
        }
        let requested = watched.pop().is_some_and(|w| w.revents != 0);
        let mut dead = watched.iter().map(|w| w.revents != 0);
        workers.retain(|worker| !(dead.next() == Some(true) && report(worker)));
        if requested {
            let mut fds = Vec::with_capacity(REQUEST_FDS);
            match ipc::fdpass::receive(control(), &mut buffer, &mut fds) {
                // With the zygote its workers die.
                Ok(0) => exit(0),
                Ok(length) => workers.extend(start(buffer.get(..length).unwrap_or_default(), fds)),
                Err(_) => exit(1),
            }
        }
    }
}

/// Reaps a worker and reports its end; false if it has not ended.
fn report(worker: &Worker) -> bool {
    let mut status = 0;
    // SAFETY: rusage is numbers, so zero is a value.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: both are writable.
    let reaped = unsafe { libc::wait4(worker.pid, &mut status, libc::WNOHANG, &mut usage) };
    if reaped != worker.pid {
        return false;
    }
    let microseconds = |t: libc::timeval| t.tv_sec as u64 * 1_000_000 + t.tv_usec as u64;
    let exited = Reply {
        kind: reply::EXITED,
        status,
        user_us: microseconds(usage.ru_utime),
        system_us: microseconds(usage.ru_stime),
        peak_kib: usage.ru_maxrss as u64,
        ..Reply::default()
    };
    // Whoever asked may be gone.
    let _ = ipc::fdpass::send(&worker.replies, exited.as_bytes(), &[]);
    true
}

/// Forks a worker and says so. `None`: there is none.
fn start(request: &[u8], fds: Vec<OwnedFd>) -> Option<Worker> {
    let fds: [OwnedFd; REQUEST_FDS] = fds.try_into().ok()?;
    let [input, output, messages, progress, replies] = fds;
    let refuse = |step: Step, errno: i32| {
        let failed = Reply { kind: reply::FAILED, step: step as u32, errno, ..Reply::default() };
        let _ = ipc::fdpass::send(&replies, failed.as_bytes(), &[]);
        None
    };
    let request = match Request::from_packet(request) {
        Ok(request) => request,
        Err((step, errno)) => return refuse(step, errno),
    };
    let mut pidfd: c_int = -1;
    let flags = libc::CLONE_NEWPID | libc::CLONE_PIDFD | libc::SIGCHLD;
    // clone(2): without CLONE_VM and with stack 0 the child goes on with a copy of this stack; the third argument receives the
    // pidfd.
    // SAFETY: as fork. This process has one thread, so no lock is held by another and the allocator is whole in the child.
    let pid = unsafe { libc::syscall(libc::SYS_clone, flags as libc::c_ulong, 0, &raw mut pidfd, 0, 0) };
    match pid {
        0 => worker::run(&request, [input, output, messages, progress]),
        1.. => {
            // SAFETY: the kernel has just opened it for this process.
            let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
            let spawned = Reply { kind: reply::SPAWNED, ..Reply::default() };
            let _ = ipc::fdpass::send(&replies, spawned.as_bytes(), &[pidfd.as_fd()]);
            Some(Worker { pid: pid as i32, pidfd, replies })
        }
        _ => refuse(Step::Fork, last_errno()),
    }
}
