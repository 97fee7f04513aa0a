//! The root zygote: confines itself, then forks module zygotes.

use ipc::control::{CONTROL_FD, Command, Reply, Step, command, layer, reply};
use linux_raw_sys::errno::EBADMSG;
use linux_raw_sys::general::{
    __NR_clone, __NR_rt_sigaction, __NR_rt_sigprocmask, __NR_seccomp, CLONE_NEWPID, CLONE_PIDFD, SA_RESTORER,
    SIG_SETMASK, SIGCHLD, SIGKILL, SIGSTOP, kernel_sigaction, kernel_sigset_t,
};
use linux_raw_sys::prctl::{PR_SET_NAME, PR_SET_PDEATHSIG};

use crate::control::{self, Received};
use crate::sys::{self, Errno};
use crate::{confine, module};

/// Runs the root zygote to the end of its supervisor. `vdso` is the address of the kernel's vDSO, or 0.
pub fn run(vdso: u64) -> ! {
    // Nothing but the control socket, whatever the supervisor's own descriptors were.
    let descriptors =
        sys::close_range(0, CONTROL_FD as u32 - 1).and_then(|()| sys::close_range(CONTROL_FD + 1, u32::MAX));
    if let Err(errno) = descriptors {
        control::give_up(0, Step::Descriptors, errno);
    }
    if let Err(errno) = sys::prctl(PR_SET_PDEATHSIG, u64::from(SIGKILL), 0) {
        control::give_up(0, Step::DeathSignal, errno);
    }
    if let Err(errno) = reset_signals() {
        control::give_up(0, Step::Signals, errno);
    }
    // For people who list processes; nothing depends on it.
    let _ = sys::prctl(PR_SET_NAME, c"sandbox-zygote".as_ptr() as u64, 0);
    let first = expect(command::CONFINE);
    if first.command.layers & layer::USER_NAMESPACE != 0 {
        if let Err((step, errno)) = confine::new_user_namespace() {
            control::give_up(0, step, errno);
        }
        let _ = control::send(&Reply { kind: reply::UNSHARED, ..Reply::default() }, -1);
        // The filter program comes again with this message: the buffer holds one packet.
        let mapped = expect(command::MAPPED);
        start(&first.command, &mapped, vdso)
    } else {
        start(&first.command, &first, vdso)
    }
}

fn expect(kind: u32) -> Received {
    match control::receive() {
        Ok(Some(received)) if received.command.kind == kind => received,
        Ok(None) => sys::exit(0),
        Ok(Some(_)) => control::give_up(0, Step::Receive, Errno(EBADMSG as i32)),
        Err(errno) => control::give_up(0, Step::Receive, errno),
    }
}

fn start(command: &Command, with_filter: &Received, vdso: u64) -> ! {
    if let Err((step, errno)) = confine::confine(command) {
        control::give_up(0, step, errno);
    }
    // Dead module zygotes vanish by themselves: the supervisor learns of it from their control sockets.
    if let Err(errno) = ignore_dead_children(true) {
        control::give_up(0, Step::Signals, errno);
    }
    // Changing ids clears it (prctl(2)).
    if let Err(errno) = sys::prctl(PR_SET_PDEATHSIG, u64::from(SIGKILL), 0) {
        control::give_up(0, Step::DeathSignal, errno);
    }
    if command.layers & layer::SECCOMP != 0
        && let Err(errno) = install_filter(with_filter.filter, with_filter.command.filter_len, 0)
    {
        control::give_up(0, Step::Seccomp, errno);
    }
    serve(command.layers, vdso)
}

/// Serves the supervisor until it is gone.
fn serve(layers: u64, vdso: u64) -> ! {
    let _ = control::send(&Reply { kind: reply::READY, layers, ..Reply::default() }, -1);
    loop {
        let received = match control::receive() {
            Ok(Some(received)) => received,
            Ok(None) => sys::exit(0),
            Err(errno) => control::give_up(0, Step::Receive, errno),
        };
        let [artifact, socket] = received.fds;
        if received.command.kind != command::SPAWN_MODULE || artifact < 0 || socket < 0 {
            control::give_up(received.command.id, Step::Receive, Errno(EBADMSG as i32));
        }
        let namespace = match received.command.layers & layer::PID_NAMESPACE {
            0 => 0,
            _ => CLONE_NEWPID,
        };
        match fork(namespace) {
            Ok(Forked::Child) => module::run(&received, artifact, socket, vdso),
            Ok(Forked::Parent { pid, pidfd }) => {
                let spawned =
                    Reply { kind: reply::SPAWNED, id: received.command.id, pid, ..Reply::default() };
                let _ = control::send(&spawned, pidfd);
                sys::close(pidfd);
            }
            Err(errno) => control::send_failure(received.command.id, Step::Fork, errno),
        }
        sys::close(artifact);
        sys::close(socket);
    }
}

/// Which side of a fork this is.
pub enum Forked {
    Parent { pid: i32, pidfd: i32 },
    Child,
}

/// `fork(2)` with a pidfd, into new namespaces by `flags`.
pub fn fork(flags: u32) -> Result<Forked, Errno> {
    let mut pidfd = -1i32;
    let flags = u64::from(flags | CLONE_PIDFD | SIGCHLD);
    // clone(2): without CLONE_VM and with stack 0 the child goes on with a copy of this stack; the third argument
    // receives the pidfd.
    // SAFETY: as fork: one thread, and `pidfd` is writable.
    let pid = unsafe { sys::call(__NR_clone, [flags, 0, &raw mut pidfd as u64, 0, 0, 0])? };
    Ok(if pid == 0 { Forked::Child } else { Forked::Parent { pid: pid as i32, pidfd } })
}

/// Undoes what the host app did to its signals: blocked and ignored ones survive an exec, and a blocked SIGSEGV
/// would make of every trap a death.
fn reset_signals() -> Result<(), Errno> {
    let none = 0u64;
    // SAFETY: the signal set is readable and has 8 bytes.
    unsafe { sys::call(__NR_rt_sigprocmask, [u64::from(SIG_SETMASK), &raw const none as u64, 0, 8, 0, 0])? };
    let default = action(None);
    for signal in (1..=64).filter(|s| *s != SIGKILL && *s != SIGSTOP) {
        // SAFETY: `default` is readable; the signal set has 8 bytes.
        unsafe { sys::call(__NR_rt_sigaction, [u64::from(signal), &raw const default as u64, 0, 8, 0, 0])? };
    }
    Ok(())
}

fn action(handler: linux_raw_sys::general::__kernel_sighandler_t) -> kernel_sigaction {
    kernel_sigaction {
        sa_handler_kernel: handler,
        sa_flags: u64::from(SA_RESTORER),
        sa_restorer: None,
        sa_mask: kernel_sigset_t { sig: [0; 1] },
    }
}

/// Has the kernel reap dead children (`SIG_IGN`), or not (`SIG_DFL`).
pub fn ignore_dead_children(ignore: bool) -> Result<(), Errno> {
    set_ignored(SIGCHLD, ignore)
}

/// Has a signal ignored (`SIG_IGN`), or not (`SIG_DFL`).
pub fn set_ignored(signal: u32, ignore: bool) -> Result<(), Errno> {
    let mut action = action(None);
    if ignore {
        // SAFETY: SIG_IGN is the number 1 in the place of a handler's address; the kernel never calls it.
        action.sa_handler_kernel =
            unsafe { core::mem::transmute::<usize, linux_raw_sys::general::__kernel_sighandler_t>(1) };
    }
    // SAFETY: `action` is readable; the signal set has 8 bytes.
    unsafe { sys::call(__NR_rt_sigaction, [u64::from(signal), &raw const action as u64, 0, 8, 0, 0]) }
        .map(|_| ())
}

const SECCOMP_SET_MODE_FILTER: u64 = 1;

/// `struct sock_fprog`.
#[repr(C)]
struct Program {
    instructions: u16,
    filter: *const u8,
}

/// Installs a filter program (seccomp(2)). `no_new_privs` must be set, or a capability held. `flags` may ask for a listener, whose
/// descriptor is the result then.
pub fn install_filter(filter: *const u8, instructions: u32, flags: u32) -> Result<i32, Errno> {
    let program = Program { instructions: instructions as u16, filter };
    let args = [SECCOMP_SET_MODE_FILTER, u64::from(flags), &raw const program as u64, 0, 0, 0];
    // SAFETY: `filter` is the rest of the control packet, checked there to hold that many instructions.
    unsafe { sys::call(__NR_seccomp, args) }.map(|listener| listener as i32)
}
