//! The worker: a child of the compile zygote that serves one request about one module and ends.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use compiler::Diagnostic;
use ipc::control::Step;
use zygote::confine;
use zygote::sys::{self, Errno};

use super::wire::{Answer, Make, PROGRESS_BYTES, Request, status};
use super::zygote::OWN_PIDFD;
use crate::image::Image;

/// Where the worker's descriptors are: those of the standard streams, so that messages of the runtime go where they should.
const INPUT: i32 = 0;
const OUTPUT: i32 = 1;
const MESSAGES: i32 = 2;
/// The number that the rule for `pwrite64` in the filter names.
const PROGRESS: i32 = 3;
/// Tells whether the zygote lives; only until the worker is sure to end with it.
const ZYGOTE: i32 = OWN_PIDFD;
const _: () = assert!(PROGRESS < ZYGOTE, "moving descriptors would close the zygote's");

/// Threads that all workers of a zygote together may have.
const THREADS_MAX: u64 = 1024;

/// Descriptors that a worker may have.
const DESCRIPTORS_MAX: u64 = 16;

/// Runs the worker to its end. This process is a copy of the zygote, with one thread, and process 1 of its PID namespace.
/// The descriptors are its input, output, messages and progress.
pub(super) fn run(request: &Request, descriptors: [OwnedFd; 4]) -> ! {
    let moved = move_descriptors(&descriptors);
    // SAFETY: descriptor 1 is the output; nothing else owns it.
    let mut output = unsafe { File::from_raw_fd(OUTPUT) };
    if let Err((step, errno)) = moved.and_then(|()| restrict(request)) {
        answer(&mut output, &Answer::Step { step: step as u32, errno })
    }
    // Threads of the compiler that panic make the whole compilation panic.
    let result = std::panic::catch_unwind(|| make(request));
    match result {
        Err(_) => exit(status::PANIC),
        Ok(Err(Answered(answered))) => answer(&mut output, &answered),
        Ok(Ok(made)) => write(&mut output, &made, status::MADE),
    }
}

fn exit(status: i32) -> ! {
    // SAFETY: ends the process without running anything else.
    unsafe { libc::_exit(status) }
}

fn write(output: &mut File, bytes: &[u8], status: i32) -> ! {
    match output.write_all(bytes) {
        Ok(()) => exit(status),
        Err(_) => exit(status::TOO_LARGE),
    }
}

fn answer(output: &mut File, answer: &Answer) -> ! {
    write(output, &postcard::to_stdvec(answer).unwrap_or_default(), status::ANSWER)
}

/// Keeps what the worker needs and closes all others: sockets, and what belongs to other workers.
fn move_descriptors([input, output, messages, progress]: &[OwnedFd; 4]) -> Result<(), (Step, i32)> {
    let failed = || (Step::Descriptors, io::Error::last_os_error().raw_os_error().unwrap_or(0));
    // All of them are above the control socket's number, so none is overwritten before it is moved.
    let moves = [
        (input.as_raw_fd(), INPUT),
        (output.as_raw_fd(), OUTPUT),
        (messages.as_raw_fd(), MESSAGES),
        (progress.as_raw_fd(), PROGRESS),
    ];
    for (from, to) in moves {
        // SAFETY: takes numbers.
        if unsafe { libc::dup3(from, to, 0) } < 0 {
            return Err(failed());
        }
    }
    // SAFETY: the values that own these descriptors are never dropped: this process ends by `_exit`.
    if unsafe { libc::syscall(libc::SYS_close_range, ZYGOTE + 1, u32::MAX, 0) } < 0 {
        return Err(failed());
    }
    Ok(())
}

/// Address space of a worker besides the memory that it may use, bytes: the program, its input, stacks of threads, and what
/// the C library reserves for its arenas without using it.
const ADDRESS_SPACE_BESIDES: u64 = 4 << 30;

/// What is a worker's own, on top of what it inherits.
fn restrict(request: &Request) -> Result<(), (Step, i32)> {
    let errno = |step: Step| move |Errno(errno): Errno| (step, errno);
    confine::no_capabilities().map_err(|(step, Errno(errno))| (step, errno))?;
    // After the change of capabilities, which clears it.
    sys::prctl(libc::PR_SET_PDEATHSIG as u32, libc::SIGKILL as u64, 0).map_err(errno(Step::DeathSignal))?;
    end_if_orphaned();
    let limits = &request.limits;
    for (resource, value) in [
        (libc::RLIMIT_DATA, limits.memory),
        // What is not counted there (a growing stack) is address space all the same.
        (libc::RLIMIT_AS, limits.memory.saturating_add(ADDRESS_SPACE_BESIDES)),
        (libc::RLIMIT_CPU, limits.cpu_seconds),
        (libc::RLIMIT_FSIZE, limits.output_bytes),
        (libc::RLIMIT_NOFILE, DESCRIPTORS_MAX),
        (libc::RLIMIT_NPROC, THREADS_MAX),
        (libc::RLIMIT_CORE, 0),
    ] {
        sys::set_limit(resource, value, value).map_err(errno(Step::Rlimits))?;
    }
    // Process 1 of a PID namespace does not die of a signal that it sends itself.
    // SAFETY: the handler only ends the process, which is async-signal-safe.
    unsafe {
        let handler: extern "C" fn(libc::c_int) = aborted;
        if libc::signal(libc::SIGABRT, handler as *const () as libc::sighandler_t) == libc::SIG_ERR {
            return Err((Step::Signals, libc::EINVAL));
        }
        // A write beyond the limit is an error of that write.
        libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
    }
    Ok(())
}

/// The zygote may have died before this process asked to be told. From a PID namespace of its own it cannot see its parent's
/// number change, so it asks the zygote's descriptor, which is readable once the zygote has ended.
fn end_if_orphaned() {
    let mut zygote = libc::pollfd { fd: ZYGOTE, events: libc::POLLIN, revents: 0 };
    // SAFETY: one element. The descriptor is this function's to close.
    unsafe {
        if libc::poll(&raw mut zygote, 1, 0) != 0 {
            libc::_exit(status::ABORT)
        }
        libc::close(ZYGOTE);
    }
}

extern "C" fn aborted(_: libc::c_int) {
    exit(status::ABORT)
}

/// What there is instead of what was asked for.
struct Answered(Answer);

fn make(request: &Request) -> Result<Vec<u8>, Answered> {
    #[cfg(test)]
    if let Some(hook) = &request.hook {
        hook.act();
    }
    let step = |_| Answered(Answer::Step { step: Step::MapArtifact as u32, errno: libc::EINVAL });
    // SAFETY: descriptor 0 is the input; nothing else owns it.
    let input = unsafe { File::from_raw_fd(INPUT) };
    let length = usize::try_from(request.input_bytes).unwrap_or(0);
    let image = Image::sealed(input, length);
    let view = image.view().map_err(step)?;
    let refused =
        |error: &compiler::Error, wasm: &[u8]| Answered(Answer::Refused(Diagnostic::new(error, wasm)));
    let input = view.as_ref();
    let parsed;
    let wasm = if input.starts_with(b"\0asm") {
        input
    } else {
        parsed =
            compiler::parse_text_with(input, &request.options.caps).map_err(|error| refused(&error, &[]))?;
        &parsed
    };
    let options = &request.options;
    match request.make {
        Make::Nothing => compiler::validate(wasm, options).map(|()| Vec::new()),
        Make::Imports => match compiler::imports(wasm, options) {
            // What cannot be encoded is no list, which is told by whoever reads it.
            Ok(imports) => Ok(postcard::to_stdvec(&imports).unwrap_or_default()),
            Err(error) => Err(error),
        },
        Make::Artifact => compiler::compile_with_progress(wasm, options, &tell),
        Make::Listing(listing) => compiler::list(wasm, options, listing, &tell).map(String::into_bytes),
    }
    .map_err(|error| refused(&error, wasm))
}

/// Tells how far the compilation is.
fn tell(done: u64, total: u64) {
    let words = [done, total];
    // SAFETY: two words. Nobody depends on them, so a failure is none.
    unsafe { libc::pwrite(PROGRESS, words.as_ptr().cast(), PROGRESS_BYTES, 0) };
}
