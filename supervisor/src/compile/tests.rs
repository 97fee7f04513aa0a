//! Workers that do not do what they should, and what a worker cannot do.

use serde::{Deserialize, Serialize};

use super::*;

const MODULE: &[u8] = br#"(module (func (export "f") (result i32) (i32.const 7)))"#;

/// What a worker does instead of compiling.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Hook {
    Panic,
    Abort,
    Segfault,
    Hang,
    /// Writes this many bytes of nonsense, and ends as if they were an artifact.
    Garbage(u64),
    /// The same as an answer.
    GarbageAnswer,
    Probe(Probe),
}

/// A system call that an attacker would like to make.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Probe {
    OpenFile,
    Socket,
    Signal(i32),
    Trace(i32),
    ExecutableMemory,
    /// Memory that `RLIMIT_DATA` does not count.
    SharedMemory,
    /// Living on after the zygote.
    Survive,
    Fork,
}

/// The statuses of a worker whose probe came back.
const WORKED: i32 = 42;
const FAILED: i32 = 43;

impl Hook {
    pub(super) fn act(self) {
        let end = |bytes: u64, status: i32| {
            for _ in 0..bytes / 8 {
                // SAFETY: eight readable bytes.
                if unsafe { libc::write(1, b"nonsense".as_ptr().cast(), 8) } != 8 {
                    break;
                }
            }
            // SAFETY: ends the process.
            unsafe { libc::_exit(status) }
        };
        match self {
            Self::Panic => panic!("as the test wants"),
            Self::Abort => std::process::abort(),
            // SAFETY: is none; this is what a bug would do.
            Self::Segfault => unsafe { std::ptr::null_mut::<u8>().write_volatile(1) },
            Self::Hang => loop {
                // SAFETY: waits for nothing.
                unsafe { libc::poll(std::ptr::null_mut(), 0, -1) };
            },
            Self::Garbage(bytes) => end(bytes, status::ARTIFACT),
            Self::GarbageAnswer => end(64, status::ANSWER),
            Self::Probe(probe) => end(0, if probe.works() { WORKED } else { FAILED }),
        }
    }
}

impl Probe {
    fn works(self) -> bool {
        // SAFETY: each call has its arguments; what it opens or maps is given back.
        unsafe {
            match self {
                Self::OpenFile => closed(libc::open(c"/etc/passwd".as_ptr(), libc::O_RDONLY)),
                Self::Socket => closed(libc::socket(libc::AF_UNIX, libc::SOCK_STREAM, 0)),
                Self::Signal(pid) => libc::kill(pid, 0) == 0,
                Self::Trace(pid) => libc::ptrace(libc::PTRACE_SEIZE, pid, 0, 0) == 0,
                Self::ExecutableMemory => {
                    let protection = libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC;
                    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
                    let address = libc::mmap(std::ptr::null_mut(), 4096, protection, flags, -1, 0);
                    address != libc::MAP_FAILED && libc::munmap(address, 4096) == 0
                }
                Self::SharedMemory => {
                    let protection = libc::PROT_READ | libc::PROT_WRITE;
                    let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS;
                    let address = libc::mmap(std::ptr::null_mut(), 4096, protection, flags, -1, 0);
                    address != libc::MAP_FAILED && libc::munmap(address, 4096) == 0
                }
                Self::Survive => libc::prctl(libc::PR_SET_PDEATHSIG, 0, 0, 0, 0) == 0,
                Self::Fork => {
                    match libc::syscall(libc::SYS_clone, libc::SIGCHLD as libc::c_ulong, 0, 0, 0, 0) {
                        0 => libc::_exit(0),
                        -1 => false,
                        pid => libc::waitpid(pid as i32, std::ptr::null_mut(), 0) == pid as i32,
                    }
                }
            }
        }
    }
}

fn closed(fd: i32) -> bool {
    // SAFETY: takes a number.
    fd >= 0 && unsafe { libc::close(fd) } == 0
}

fn with(limits: CompileLimits) -> Compiler {
    Compiler::new(&Config { compile_limits: limits, ..Config::default() })
}

fn hooked(compiler: &Compiler, hook: Hook) -> String {
    *compiler.hook.lock().unwrap() = Some(hook);
    let error = compiler
        .compile(MODULE, compiler::Options::default())
        .expect_err("the hook does not compile")
        .to_string();
    *compiler.hook.lock().unwrap() = None;
    error
}

fn works(compiler: &Compiler) {
    let image = compiler.compile(MODULE, compiler::Options::default()).expect("an honest worker");
    compiler::Artifact::parse(image.view().expect("a view")).expect("an artifact");
}

#[test]
fn a_worker_compiles_what_the_compiler_compiles() {
    let compiler = with(CompileLimits::default());
    let image = compiler.compile(MODULE, compiler::Options::default()).expect("compiles");
    let wasm = compiler::parse_text(MODULE).expect("parses");
    let expected = compiler::compile(&wasm, &compiler::Options::default()).expect("compiles");
    assert!(image.view().expect("a view").as_ref() == expected);
    let refused = compiler
        .compile(b"(module (func unknown))", compiler::Options::default())
        .expect_err("refused")
        .to_string();
    let expected = compiler::parse_text(b"(module (func unknown))").expect_err("refused").to_string();
    assert_eq!(refused, format!("module refused: {expected}"));
    let refused = compiler
        .compile(b"\0asm\x01\0\0\0\x07", compiler::Options::default())
        .expect_err("refused")
        .to_string();
    assert!(refused.starts_with("module refused: invalid WebAssembly module"), "{refused}");
}

#[test]
fn a_worker_that_ends_badly_costs_one_error() {
    let compiler = with(CompileLimits { wall_time: Duration::from_millis(300), ..CompileLimits::default() });
    for (hook, said) in [
        (Hook::Panic, "panicked: "),
        (Hook::Abort, "aborted"),
        (Hook::Segfault, "crashed (SIGSEGV)"),
        (Hook::Hang, "`compile.limits.wall_time`"),
        (Hook::GarbageAnswer, "no answer that makes sense"),
    ] {
        let error = hooked(&compiler, hook);
        assert!(error.contains(said), "{hook:?}: {error}");
        assert!(!error.contains('\n'), "{hook:?}: {error}");
    }
    works(&with(CompileLimits::default()));
}

#[test]
fn what_a_worker_writes_is_bounded_and_checked() {
    let compiler = with(CompileLimits::default());
    *compiler.hook.lock().unwrap() = Some(Hook::Garbage(4096));
    let image =
        compiler.compile(MODULE, compiler::Options::default()).expect("an image that nobody has checked");
    assert!(compiler::Artifact::parse(image.view().expect("a view")).is_err());
    let descriptor = image.as_fd().try_clone_to_owned().expect("a copy");
    let mut file = File::from(descriptor);
    assert!(std::io::Write::write_all(&mut file, b"x").is_err(), "sealed");

    // What it writes beyond the limit never arrives.
    let mut options = compiler::Options::default();
    options.caps.image_bytes = 1 << 20;
    *compiler.hook.lock().unwrap() = Some(Hook::Garbage(64 << 20));
    let image = compiler.compile(MODULE, options).expect("an image");
    assert_eq!(image.view().expect("a view").as_ref().len(), 1 << 20);
    *compiler.hook.lock().unwrap() = None;
    works(&compiler);
}

#[test]
fn a_worker_can_do_nothing_but_compile() {
    let compiler = with(CompileLimits::default());
    let mut other = Process::new("sleep").arg("60").spawn().expect("a process to attack");
    let pid = other.id() as i32;
    for (probe, refusal) in [
        // The C library asks for files at times, so that this one is an error.
        (Probe::OpenFile, "ended with status 43"),
        (Probe::Socket, "SIGSYS"),
        (Probe::Signal(pid), "SIGSYS"),
        (Probe::ExecutableMemory, "SIGSYS"),
        (Probe::SharedMemory, "SIGSYS"),
        (Probe::Survive, "SIGSYS"),
        (Probe::Fork, "SIGSYS"),
        (Probe::Trace(pid), "SIGSYS"),
    ] {
        let error = hooked(&compiler, Hook::Probe(probe));
        assert!(error.contains(refusal), "{probe:?}: {error}");
        assert!(probe.works(), "{probe:?} must work where nothing refuses it");
    }
    other.kill().expect("kill");
    other.wait().expect("wait");
    works(&compiler);
}

#[test]
fn a_dead_zygote_is_replaced() {
    let compiler = with(CompileLimits::default());
    works(&compiler);
    let kill_zygote = || {
        let mut zygote = compiler.locked();
        let process = &mut zygote.as_mut().expect("it runs").process;
        process.kill().expect("kill");
        process.id()
    };
    let first = kill_zygote();
    works(&compiler);
    assert_ne!(kill_zygote(), first);
    // While a worker is at work: that compilation is lost, the next is not.
    works(&compiler);
    *compiler.hook.lock().unwrap() = Some(Hook::Hang);
    let spawned = || compiler.spawned.load(std::sync::atomic::Ordering::SeqCst);
    let before = spawned();
    let error = std::thread::scope(|scope| {
        let lost = scope
            .spawn(|| compiler.compile(MODULE, compiler::Options::default()).expect_err("lost").to_string());
        // Before the zygote has reported its worker, its death would be worth another attempt, which would hang.
        while spawned() == before {
            std::thread::yield_now();
        }
        kill_zygote();
        lost.join().expect("no panic")
    });
    assert!(error.contains("the compile zygote died"), "{error}");
    *compiler.hook.lock().unwrap() = None;
    works(&compiler);
}
