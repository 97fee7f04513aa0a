//! The module zygote: maps one artifact and forks its instances.

use ipc::context::Builtins;
use ipc::control::{CONTROL_FD, Reply, Step, command, layer, reply};
use ipc::layout::{STACK_MAX, STACK_TOP};
use linux_raw_sys::errno::{EAGAIN, EBADMSG, ECHILD, EINTR, EINVAL};
use linux_raw_sys::general::{
    __NR_ppoll, __NR_read, __NR_rt_sigaction, __NR_rt_sigprocmask, __NR_sigaltstack, __NR_signalfd4,
    __NR_wait4, MAP_ANONYMOUS, MAP_NORESERVE, MAP_PRIVATE, MAP_STACK, O_CLOEXEC, O_NONBLOCK, PROT_READ,
    PROT_WRITE, RLIMIT_CORE, RLIMIT_FSIZE, RLIMIT_MEMLOCK, RLIMIT_MSGQUEUE, RLIMIT_RTPRIO, RLIMIT_STACK,
    SIG_BLOCK, SIGCHLD, SIGKILL, SIGXFSZ, WNOHANG, pollfd, rusage,
};
use linux_raw_sys::prctl::PR_SET_PDEATHSIG;
use sandbox_shim::{growth, signals, state, vdso};

use crate::control::{self, Received};
use crate::image::{self, Sealing};
use crate::root::{self, Forked};
use crate::sys::{self, Errno};
use crate::{confine, gate, instance, speculation};

/// Sets up the module zygote and serves. Process 1 of its PID namespace.
pub fn run(received: &Received, artifact: i32, socket: i32, vdso: u64) -> ! {
    let id = received.command.id;
    if let Err(errno) = take_socket(artifact, socket) {
        // The supervisor sees the new socket close; this goes to the root zygote's.
        control::give_up(id, Step::Descriptors, errno);
    }
    let Prepared { children, listener } = match prepare(received, vdso) {
        Ok(prepared) => prepared,
        Err((step, errno)) => control::give_up(id, step, errno),
    };
    let (layers, direct) = (received.command.layers, received.command.direct != 0);
    let ready = Reply { kind: reply::READY, id, layers, ..Reply::default() };
    let _ = control::send(&ready, listener);
    if listener >= 0 {
        // Whoever has it can put descriptors into instances: the supervisor alone.
        sys::close(listener);
    }
    serve(children, layers, direct)
}

/// What a module zygote serves with.
struct Prepared {
    /// A descriptor that tells of dead children.
    children: i32,
    /// The listener of its filter, or -1.
    listener: i32,
}

/// Where the artifact's descriptor goes until it is mapped.
const ARTIFACT_FD: i32 = CONTROL_FD + 1;

/// Makes `socket` the control socket and closes everything else but the artifact.
fn take_socket(artifact: i32, socket: i32) -> Result<(), Errno> {
    // In this order: the socket's old number may be the artifact's new one, but not the other way round, because
    // what was received is never the control socket itself.
    sys::dup_to(socket, CONTROL_FD)?;
    if artifact != ARTIFACT_FD {
        sys::dup_to(artifact, ARTIFACT_FD)?;
    }
    sys::close_range(0, CONTROL_FD as u32 - 1)?;
    sys::close_range(ARTIFACT_FD + 1, u32::MAX)
}

/// Everything that instances inherit.
fn prepare(received: &Received, vdso: u64) -> Result<Prepared, (Step, Errno)> {
    let layers = received.command.layers;
    let direct = received.command.direct != 0;
    let step = |step| move |errno| (step, errno);
    sys::prctl(PR_SET_PDEATHSIG, u64::from(SIGKILL), 0).map_err(step(Step::DeathSignal))?;
    root::ignore_dead_children(false).map_err(step(Step::Signals))?;
    let sealing = if layers & layer::SEALED_CODE != 0 { Sealing::Wanted } else { Sealing::NotWanted };
    image::map(ARTIFACT_FD, sealing)?;
    sys::close(ARTIFACT_FD);
    map_stack(received.command.stack_bytes).map_err(step(Step::MapStack))?;
    // SAFETY: the artifact's context is mapped, readable and writable: the supervisor's check of artifacts demands it,
    // and a fault here would only end this zygote.
    unsafe { (ipc::context::BUILTINS as *mut Builtins).write(growth::builtins()) };
    if layers & layer::NO_TIMESTAMP_COUNTER == 0 {
        // SAFETY: `vdso` is what the kernel passed to this process in AT_SYSINFO_EHDR.
        let clock = unsafe { vdso::find_clock_gettime(vdso) };
        state::with(|s| s.clock_gettime = clock);
    }
    handle_signals().map_err(step(Step::Signals))?;
    let children = watch_children().map_err(step(Step::Signals))?;
    if layers & layer::RLIMITS != 0 {
        set_limits(direct).map_err(step(Step::Rlimits))?;
    }
    if direct {
        // Where the host limits the size of files, a write beyond it must be the guest's EFBIG, not the instance's death.
        root::set_ignored(SIGXFSZ, true).map_err(step(Step::Signals))?;
    }
    gate::map().map_err(step(Step::MapGate))?;
    if sealing == Sealing::Wanted {
        gate::seal_landing().map_err(step(Step::Seal))?;
    }
    speculation::restrict(layers)?;
    if layers & layer::CAPABILITIES != 0 {
        confine::no_capabilities()?;
    }
    let mut listener = -1;
    if layers & layer::SECCOMP != 0 {
        let flags = if direct { SECCOMP_FILTER_FLAG_NEW_LISTENER } else { 0 };
        let installed = root::install_filter(received.filter, received.command.filter_len, flags)
            .map_err(step(Step::Seccomp))?;
        if direct {
            listener = installed;
        }
    }
    sys::use_gate();
    Ok(Prepared { children, listener })
}

fn map_stack(bytes: u64) -> Result<(), Errno> {
    if bytes == 0 || bytes > STACK_MAX || !bytes.is_multiple_of(ipc::layout::PAGE) {
        return Err(Errno(EINVAL as i32));
    }
    let flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_STACK;
    // SAFETY: inside the stack's region, where nothing else is.
    unsafe { sys::map(STACK_TOP - bytes, bytes, PROT_READ | PROT_WRITE, flags, -1, 0)? };
    signals::set_stack_bottom(STACK_TOP - bytes);
    Ok(())
}

fn handle_signals() -> Result<(), Errno> {
    let stack = signals::stack();
    // SAFETY: the stack is static memory that nothing else uses.
    unsafe { sys::call(__NR_sigaltstack, [&raw const stack as u64, 0, 0, 0, 0, 0])? };
    for signal in signals::HANDLED {
        let action = signals::action(signal);
        // SAFETY: `action` is readable; the handler never returns and touches only what an instance has mapped.
        unsafe { sys::call(__NR_rt_sigaction, [u64::from(signal), &raw const action as u64, 0, 8, 0, 0])? };
    }
    Ok(())
}

/// A descriptor that becomes readable when a child dies (signalfd(2)).
fn watch_children() -> Result<i32, Errno> {
    let set = 1u64 << (SIGCHLD - 1);
    let flags = u64::from(O_CLOEXEC | O_NONBLOCK);
    // SAFETY: the signal set is readable and has 8 bytes.
    unsafe {
        sys::call(__NR_rt_sigprocmask, [u64::from(SIG_BLOCK), &raw const set as u64, 0, 8, 0, 0])?;
        sys::call(__NR_signalfd4, [-1i64 as u64, &raw const set as u64, 8, flags, 0, 0]).map(|fd| fd as i32)
    }
}

/// `linux/seccomp.h`.
const SECCOMP_FILTER_FLAG_NEW_LISTENER: u32 = 1 << 3;

/// Instances that write files themselves keep the host's limit of their size.
fn set_limits(writes_files: bool) -> Result<(), Errno> {
    if !writes_files {
        sys::set_limit(RLIMIT_FSIZE, 0, 0)?;
    }
    for (resource, value) in
        [(RLIMIT_CORE, 0), (RLIMIT_MEMLOCK, 0), (RLIMIT_MSGQUEUE, 0), (RLIMIT_RTPRIO, 0), (RLIMIT_STACK, 0)]
    {
        sys::set_limit(resource, value, value)?;
    }
    Ok(())
}

fn serve(children: i32, layers: u64, direct: bool) -> ! {
    loop {
        match wait_for_work(children) {
            Ok(ready) => {
                // Deaths first: a process id is free for reuse only after its end has been told.
                if ready.children {
                    reap(children);
                }
                if ready.command {
                    obey(layers, direct);
                }
            }
            Err(errno) => control::give_up(0, Step::Receive, errno),
        }
    }
}

struct Ready {
    command: bool,
    children: bool,
}

fn wait_for_work(children: i32) -> Result<Ready, Errno> {
    const POLLIN: i16 = 1;
    let mut fds = [
        pollfd { fd: CONTROL_FD, events: POLLIN, revents: 0 },
        pollfd { fd: children, events: POLLIN, revents: 0 },
    ];
    loop {
        // SAFETY: `fds` is writable and has two entries; no time-out, no signal mask.
        match unsafe { sys::call(__NR_ppoll, [fds.as_mut_ptr() as u64, 2, 0, 0, 0, 0]) } {
            Ok(_) => return Ok(Ready { command: fds[0].revents != 0, children: fds[1].revents != 0 }),
            Err(Errno(errno)) if errno == EINTR as i32 => {}
            Err(errno) => return Err(errno),
        }
    }
}

/// Reaps every dead child and tells the supervisor.
fn reap(children: i32) {
    // The contents say nothing that `wait4` does not; reading clears the signal.
    let mut signal = [0u8; 128];
    // SAFETY: `signal` is writable; the descriptor does not block.
    let _ = unsafe { sys::call(__NR_read, [children as u64, signal.as_mut_ptr() as u64, 128, 0, 0, 0]) };
    loop {
        let mut status = 0i32;
        // SAFETY: rusage is plain integers.
        let mut usage: rusage = unsafe { core::mem::zeroed() };
        let args = [-1i64 as u64, &raw mut status as u64, u64::from(WNOHANG), &raw mut usage as u64, 0, 0];
        // SAFETY: both pointers are writable.
        match unsafe { sys::call(__NR_wait4, args) } {
            Ok(0) => return,
            Ok(pid) => {
                let micros = |t: linux_raw_sys::general::__kernel_old_timeval| {
                    (t.tv_sec as u64).wrapping_mul(1_000_000).wrapping_add(t.tv_usec as u64)
                };
                let exited = Reply {
                    kind: reply::EXITED,
                    pid: pid as i32,
                    status,
                    user_us: micros(usage.ru_utime),
                    system_us: micros(usage.ru_stime),
                    peak_kib: usage.ru_maxrss as u64,
                    page_faults: usage.ru_minflt as u64,
                    ..Reply::default()
                };
                let _ = control::send(&exited, -1);
            }
            Err(Errno(errno)) if errno == EINTR as i32 => {}
            Err(Errno(errno)) => {
                debug_assert!(errno == ECHILD as i32 || errno == EAGAIN as i32);
                return;
            }
        }
    }
}

/// Carries out the next command.
fn obey(layers: u64, direct: bool) {
    let received = match control::receive() {
        Ok(Some(received)) => received,
        // The supervisor dropped this module: every instance dies with this process.
        Ok(None) => sys::exit(0),
        Err(errno) => control::give_up(0, Step::Receive, errno),
    };
    let [ring, doorbell] = received.fds;
    let id = received.command.id;
    if received.command.kind != command::SPAWN_INSTANCE || ring < 0 || doorbell < 0 {
        control::give_up(id, Step::Receive, Errno(EBADMSG as i32));
    }
    match root::fork(0) {
        Ok(Forked::Child) => instance::run(ring, doorbell, layers, direct),
        Ok(Forked::Parent { pid, pidfd }) => {
            let _ = control::send(&Reply { kind: reply::SPAWNED, id, pid, ..Reply::default() }, pidfd);
            sys::close(pidfd);
        }
        Err(errno) => control::send_failure(id, Step::Fork, errno),
    }
    sys::close(ring);
    sys::close(doorbell);
}
