//! Workers that do not do what they should, and what a worker cannot do.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd};
use std::process::Command as Process;
use std::time::Duration;

use compiler::Diagnostic;
use serde::{Deserialize, Serialize};

use super::wire::{Answer, Request, status};
use super::*;
use crate::process;

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
    /// Answers with a message that would disturb a terminal, and is too long.
    RudeRefusal,
    /// Tells these numbers as its progress.
    Tell([u64; 2]),
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
    /// Writing these bytes to this place of this descriptor.
    WriteAt(i32, usize, i64),
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
            Self::Garbage(bytes) => end(bytes, status::MADE),
            Self::GarbageAnswer => end(64, status::ANSWER),
            Self::RudeRefusal => {
                let message = format!("\x1b[2J{}", "x".repeat(10_000));
                let kind = compiler::ErrorKind::Invalid;
                let refused = Diagnostic { kind, message, offset: None, function: None };
                let bytes = postcard::to_stdvec(&Answer::Refused(refused)).unwrap();
                // SAFETY: as many readable bytes as the length says.
                unsafe { libc::write(1, bytes.as_ptr().cast(), bytes.len()) };
                end(0, status::ANSWER)
            }
            Self::Tell(words) => {
                // SAFETY: sixteen readable bytes.
                unsafe { libc::pwrite(3, words.as_ptr().cast(), 16, 0) };
                end(0, status::MADE)
            }
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
                Self::WriteAt(fd, bytes, place) => {
                    libc::pwrite(fd, [0u8; 64].as_ptr().cast(), bytes, place) == bytes as isize
                }
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

fn image(compiler: &Compiler) -> Result<Image, Error> {
    compiler.image(MODULE, &compiler::Options::default(), &CompileProgress::default())
}

fn hooked(compiler: &Compiler, hook: Hook) -> String {
    *compiler.hook.lock().unwrap() = Some(hook);
    let error = image(compiler).expect_err("the hook does not compile").to_string();
    *compiler.hook.lock().unwrap() = None;
    error
}

fn works(compiler: &Compiler) {
    compiler
        .compile(MODULE, &compiler::Options::default(), &CompileProgress::default())
        .expect("an honest worker");
}

#[test]
fn a_worker_makes_what_the_compiler_makes() {
    let compiler = with(CompileLimits::default());
    let (options, progress) = (compiler::Options::default(), CompileProgress::default());
    let wasm = compiler::parse_text(MODULE).expect("parses");
    let expected = compiler::compile(&wasm, &options).expect("compiles");
    for module in [MODULE, &wasm] {
        let artifact = compiler.compile(module, &options, &progress).expect("compiles");
        assert!(artifact.bytes() == expected);
        compiler.validate(module, &options).expect("valid");
        for form in [Listing::Assembly, Listing::Clif] {
            let expected = compiler::list(&wasm, &options, form, &|_, _| ()).expect("compiles");
            let text = compiler.list(module, &options, form, &progress).expect("compiles");
            assert_eq!(text.as_ref(), expected.as_bytes());
        }
    }
}

#[test]
fn a_refusal_says_what_the_compiler_says() {
    let compiler = with(CompileLimits::default());
    let (options, progress) = (compiler::Options::default(), CompileProgress::default());
    let cut = &b"\0asm\x01\0\0\0\x07"[..];
    let wrong = compiler::parse_text(b"(module (func) (func (result i32) (i64.const 1)))").expect("parses");
    // Longer than an answer may be.
    let text = format!(r#"(module (import "a" "{}" (func)))"#, "n".repeat(90_000));
    let unknown = compiler::parse_text(text.as_bytes()).expect("parses");
    for wasm in [cut, &wrong, &unknown] {
        let error = compiler::compile(wasm, &options).expect_err("refused");
        let expected = Diagnostic::new(&error, wasm);
        let refusals = [
            compiler.compile(wasm, &options, &progress).map(|_| ()),
            compiler.validate(wasm, &options),
            compiler.list(wasm, &options, Listing::Clif, &progress).map(|_| ()),
        ];
        for refusal in refusals {
            match refusal {
                Err(Error::Refused(diagnostic)) => assert_eq!(diagnostic, expected),
                other => panic!("{other:?}"),
            }
        }
    }
    let error = compiler.validate(b"(module (func unknown))", &options).expect_err("refused");
    let expected = compiler::parse_text(b"(module (func unknown))").expect_err("refused");
    assert_eq!(error.to_string(), format!("module refused: {expected}"));
}

#[test]
fn what_a_worker_says_is_cleaned_and_clamped() {
    let compiler = with(CompileLimits::default());
    let error = hooked(&compiler, Hook::RudeRefusal);
    assert_eq!(error, format!("module refused:  [2J{}", "x".repeat(4092)));
    for (told, seen) in [([3, 7], (3, 7)), ([u64::MAX, 7], (7, 7)), ([1, u64::MAX], (1, u64::MAX))] {
        *compiler.hook.lock().unwrap() = Some(Hook::Tell(told));
        let progress = CompileProgress::default();
        assert_eq!(progress.get(), (0, 0));
        compiler.image(MODULE, &compiler::Options::default(), &progress).expect("an empty image");
        assert_eq!(progress.get(), seen);
    }
    *compiler.hook.lock().unwrap() = None;
    let progress = CompileProgress::default();
    compiler.compile(MODULE, &compiler::Options::default(), &progress).expect("compiles");
    assert_eq!(progress.get(), (1, 1));
}

#[test]
fn a_request_of_another_version_is_not_decoded() {
    let request = Request {
        make: Make::Nothing,
        input_bytes: 1,
        options: compiler::Options::default(),
        limits: wire::WorkerLimits { memory: 1, cpu_seconds: 1, output_bytes: 1 },
        hook: None,
    };
    let mut packet = request.to_packet().expect("encodes");
    assert!(packet.len() <= wire::REQUEST_MAX);
    assert_eq!(Request::from_packet(&packet).expect("decodes").input_bytes, 1);
    assert!(Request::from_packet(&packet[..packet.len() - 1]).is_err());
    packet[0] ^= 1;
    let (step, errno) = Request::from_packet(&packet).expect_err("another version");
    let error = start::zygote_error(Some("/bin/other".as_ref()), step as u32, errno).to_string();
    assert!(error.starts_with("/bin/other cannot be a compile worker: it is of another version"), "{error}");
}

#[test]
fn a_program_that_is_no_worker_is_one_error() {
    for program in ["/bin/true", "/no/such/program", "/"] {
        let config = Config { worker_program: Some(program.into()), ..Config::default() };
        let error = image(&Compiler::new(&config)).expect_err("no worker").to_string();
        assert!(error.starts_with(&format!("{program} cannot be a compile worker: ")), "{error}");
        assert!(error.contains("Config.worker_program"), "{error}");
    }
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
    let image = image(&compiler).expect("an image that nobody has checked");
    assert!(compiler::Artifact::parse(image.view().expect("a view")).is_err());
    let descriptor = image.as_fd().try_clone_to_owned().expect("a copy");
    let mut file = File::from(descriptor);
    assert!(std::io::Write::write_all(&mut file, b"x").is_err(), "sealed");

    // What it writes beyond the limit never arrives.
    let mut options = compiler::Options::default();
    options.caps.image_bytes = 1 << 20;
    *compiler.hook.lock().unwrap() = Some(Hook::Garbage(64 << 20));
    let image = compiler.image(MODULE, &options, &CompileProgress::default()).expect("an image");
    assert_eq!(image.view().expect("a view").as_ref().len(), 1 << 20);

    // Neither nonsense nor too much is a list of imports.
    options.caps.image_bytes = 64 << 20;
    for (bytes, message) in
        [(4096, "no list of imports that makes sense"), (32 << 20, "at most 8388608 are looked at")]
    {
        *compiler.hook.lock().unwrap() = Some(Hook::Garbage(bytes));
        let error = compiler.imports(MODULE, &options).expect_err("refused").to_string();
        assert!(error.contains(message), "{error}");
    }
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
    // To tell how far it is takes one kind of write; the file takes no more.
    let file = process::memory_file(c"test").expect("a memory file");
    assert!(Probe::WriteAt(file.as_raw_fd(), 16, 16).works());
    for probe in [Probe::WriteAt(1, 16, 0), Probe::WriteAt(3, 16, 16), Probe::WriteAt(3, 8, 0)] {
        let error = hooked(&compiler, Hook::Probe(probe));
        assert!(error.contains("SIGSYS"), "{probe:?}: {error}");
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
        process.end();
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
        let lost = scope.spawn(|| image(&compiler).expect_err("lost").to_string());
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
