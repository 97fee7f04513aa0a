//! Native code under `fs.data = "direct"`: with the descriptors that it gets it can read and write the files that it has opened, as far
//! as it has opened them for that. It can do nothing else with them, get no others, and keep none.

use std::fs::{self, File};
use std::os::fd::OwnedFd;

use ipc::control::layer;
use ipc::direct::{SLOTS, ask, descriptor};
use ipc::interface::FunctionId;
use ipc::job::ARENA_OFFSET;
use ipc::layout::{DIRECT_FD, DIRECT_FDS, DOORBELL_FD, MEMORY_BASE, RING_BASE};
use ipc::report::{Outcome, Violation};
use ipc::ring::pack_range;
use policies::Policy;
use supervisor::CallOutcome;
use tempfile::TempDir;
use whole_system_tests::attacker::Attacker;
use whole_system_tests::native::{ALL_BUT_SECCOMP, Native};

/// Where in the arena a session's own traffic does not come.
const NAME: u32 = 0x10_0000;
const RESULT: u32 = 0x20_0000;

const READ: u64 = 1 << 1;
const WRITE: u64 = 1 << 6;
const CREATE: u64 = 1;
const APPEND: u64 = 1;
/// The preopened directory.
const DIRECTORY: u64 = 3;

fn direct() -> Policy {
    Policy::builtin("wasi-direct").unwrap()
}

fn no(errno: i32) -> i64 {
    -i64::from(errno)
}

/// An attacker in a session with a directory that holds `file` and `other`.
async fn armed(attacker: &Attacker) -> (Native, TempDir) {
    let files = TempDir::new().unwrap();
    fs::write(files.path().join("file"), "contents").unwrap();
    fs::write(files.path().join("other"), "secret").unwrap();
    let directory = OwnedFd::from(File::open(files.path()).unwrap());
    (Native::of(attacker.session_with(directory).await), files)
}

/// Opens a file below the directory over the ring; the guest's descriptor.
async fn open(native: &mut Native, name: &str, oflags: u64, rights: u64, fdflags: u64) -> u64 {
    let mut word = [0; 8];
    word[..name.len()].copy_from_slice(name.as_bytes());
    let at = RING_BASE + ARENA_OFFSET as u64 + u64::from(NAME);
    native.call("poke", &[at, u64::from_le_bytes(word)]).await;
    let (name, result) = (pack_range(NAME, name.len() as u32), pack_range(RESULT, 4));
    let args = [DIRECTORY, 0, name, oflags, rights, 0, fdflags, result];
    let opened = native.host_call(FunctionId::path_open, &args).await.expect("an answer");
    assert_eq!(opened.errno, 0, "path_open");
    opened.value
}

/// Asks for a file; what the call returns.
async fn obtain(native: &mut Native, fd: u64, slot: u64) -> i64 {
    native.syscall(libc::SYS_sched_yield, &[ask::FILE, fd, slot]).await
}

async fn give_back(native: &mut Native, slot: u64) -> i64 {
    native.syscall(libc::SYS_sched_yield, &[ask::RETURN, 0, slot]).await
}

async fn read(native: &mut Native, number: i64) -> Result<String, i64> {
    let buffer = native.put(&[0; 64]).await;
    let length = native.syscall(libc::SYS_pread64, &[number as u64, buffer, 64, 0]).await;
    if length < 0 {
        return Err(length);
    }
    Ok(String::from_utf8(native.get(buffer, length as usize).await).unwrap())
}

async fn write(native: &mut Native, number: i64, text: &str) -> i64 {
    let buffer = native.put(text.as_bytes()).await;
    native.syscall(libc::SYS_pwrite64, &[number as u64, buffer, text.len() as u64, 0]).await
}

fn number(slot: usize) -> i64 {
    descriptor(slot).unwrap().into()
}

#[tokio::test]
async fn native_code_reads_and_writes_what_it_has_opened_and_nothing_else() {
    let attacker = Attacker::under(direct()).await;
    let (mut native, files) = armed(&attacker).await;
    // Nothing is there before it is asked for.
    for slot in 0..SLOTS {
        assert_eq!(read(&mut native, number(slot)).await, Err(no(libc::EBADF)));
    }
    let both = open(&mut native, "file", 0, READ | WRITE, 0).await;
    assert_eq!(obtain(&mut native, both, 0).await, number(0));
    assert_eq!(read(&mut native, number(0)).await.unwrap(), "contents");
    assert_eq!(write(&mut native, number(0), "CON").await, 3);
    assert_eq!(fs::read_to_string(files.path().join("file")).unwrap(), "CONtents");

    // No more than the guest's rights.
    let only_read = open(&mut native, "file", 0, READ, 0).await;
    assert_eq!(obtain(&mut native, only_read, 1).await, number(1));
    assert_eq!(read(&mut native, number(1)).await.unwrap(), "CONtents");
    assert_eq!(write(&mut native, number(1), "x").await, no(libc::EBADF));
    let only_write = open(&mut native, "file", 0, WRITE, 0).await;
    assert_eq!(obtain(&mut native, only_write, 2).await, number(2));
    assert_eq!(read(&mut native, number(2)).await, Err(no(libc::EBADF)));
    assert_eq!(write(&mut native, number(2), "c").await, 1);

    // What only the supervisor can keep to what the guest may do with it is never given.
    let appending = open(&mut native, "file", 0, WRITE, APPEND).await;
    let created = open(&mut native, "new", CREATE, READ, 0).await;
    for fd in [appending, created, 0, 1, 2, DIRECTORY, 77, u64::MAX, 1 << 32 | both] {
        assert_eq!(obtain(&mut native, fd, 3).await, no(libc::EPERM), "descriptor {fd}");
        assert_eq!(read(&mut native, number(3)).await, Err(no(libc::EBADF)));
    }
    // Nor does anything come to another number: not over the doorbell, not beyond the range.
    for slot in [SLOTS as u64, 1 << 32, u64::MAX] {
        assert_eq!(obtain(&mut native, both, slot).await, no(libc::EPERM), "slot {slot}");
        assert_eq!(give_back(&mut native, slot).await, no(libc::EPERM), "slot {slot}");
    }
    let unknown = native.syscall(libc::SYS_sched_yield, &[7, both, 4]).await;
    assert_eq!(unknown, no(libc::EPERM));
    assert_eq!(fs::read_to_string(files.path().join("other")).unwrap(), "secret");
    let report = native.end().await;
    assert!(matches!(report.outcome, Outcome::Exited { .. }), "{:?}", report.outcome);
    assert!(report.dangers.iter().any(|danger| danger.policy == "wasi-direct"));
}

#[tokio::test]
async fn what_is_closed_is_gone_from_the_instance_first() {
    let attacker = Attacker::under(direct()).await;
    for (function, args) in
        [(FunctionId::fd_close, [4, 0]), (FunctionId::fd_renumber, [4, 5]), (FunctionId::fd_renumber, [5, 4])]
    {
        let (mut native, _files) = armed(&attacker).await;
        let held = open(&mut native, "file", 0, READ, 0).await;
        let free = open(&mut native, "other", 0, READ, 0).await;
        assert_eq!((held, free), (4, 5));
        assert_eq!(obtain(&mut native, held, 9).await, number(9));
        // As long as the instance has the file, its descriptor cannot go.
        match native.host_call(function, &args).await {
            Err(CallOutcome::Ended(Outcome::Violated(Violation::Ring { rule }))) => {
                assert!(rule.contains("descriptor 4, whose file the instance has not given back"), "{rule}");
            }
            other => panic!("{function:?} {args:?}: {other:?}"),
        }

        let (mut native, _files) = armed(&attacker).await;
        let held = open(&mut native, "file", 0, READ, 0).await;
        let other = open(&mut native, "other", 0, READ, 0).await;
        assert_eq!(obtain(&mut native, held, 9).await, number(9));
        // Given back, or replaced by another file, it is not there any more.
        assert_eq!(give_back(&mut native, 9).await, number(9));
        assert_eq!(read(&mut native, number(9)).await, Err(no(libc::ESPIPE)), "the doorbell is no file");
        assert_eq!(obtain(&mut native, held, 9).await, number(9));
        assert_eq!(obtain(&mut native, other, 9).await, number(9));
        assert_eq!(read(&mut native, number(9)).await.unwrap(), "secret");
        assert_eq!(native.host_call(FunctionId::fd_close, &[held]).await.expect("an answer").errno, 0);
        assert_eq!(obtain(&mut native, held, 10).await, no(libc::EPERM));
    }
}

#[tokio::test]
async fn descriptors_serve_for_nothing_but_positioned_reads_and_writes() {
    let attacker = Attacker::under(direct()).await;
    // Without the filter all of this works on an open file.
    let mut native = Native::under(&attacker, ALL_BUT_SECCOMP & !layer::RLIMITS).await;
    let name = native.put_string("own").await;
    let fd = native.syscall(libc::SYS_memfd_create, &[name, 0]).await;
    assert!(fd >= 0, "{fd}");
    let fd = fd as u64;
    assert_eq!(native.syscall(libc::SYS_ftruncate, &[fd, 4096]).await, 0);
    assert_eq!(native.syscall(libc::SYS_lseek, &[fd, 5, 0]).await, 5);
    assert!(native.syscall(libc::SYS_mmap, &[0, 4096, 3, libc::MAP_SHARED as u64, fd]).await > 0);
    assert!(native.syscall(libc::SYS_dup, &[fd]).await > 0);
    native.end().await;

    let file = DIRECT_FD as u64;
    let refusals: &[(&str, i64, [u64; 5])] = &[
        ("read", libc::SYS_read, [file, MEMORY_BASE, 1, 0, 0]),
        ("write", libc::SYS_write, [file, RING_BASE, 8, 0, 0]),
        ("preadv", libc::SYS_preadv, [file, MEMORY_BASE, 1, 0, 0]),
        ("pwritev2", libc::SYS_pwritev2, [file, MEMORY_BASE, 1, 0, 0]),
        ("lseek", libc::SYS_lseek, [file, 0, 0, 0, 0]),
        ("ftruncate", libc::SYS_ftruncate, [file, 0, 0, 0, 0]),
        ("fallocate", libc::SYS_fallocate, [file, 0, 0, 4096, 0]),
        ("mmap", libc::SYS_mmap, [0, 4096, 1, libc::MAP_SHARED as u64, file]),
        ("fchmod", libc::SYS_fchmod, [file, 0o777, 0, 0, 0]),
        ("fcntl", libc::SYS_fcntl, [file, libc::F_DUPFD as u64, 0, 0, 0]),
        ("dup", libc::SYS_dup, [file, 0, 0, 0, 0]),
        ("dup3", libc::SYS_dup3, [file, DOORBELL_FD as u64, 0, 0, 0]),
        ("close", libc::SYS_close, [file, 0, 0, 0, 0]),
        ("ioctl", libc::SYS_ioctl, [file, 0, 0, 0, 0]),
        ("flock", libc::SYS_flock, [file, 2, 0, 0, 0]),
        ("sendfile", libc::SYS_sendfile, [file, file, 0, 1, 0]),
        ("openat", libc::SYS_openat, [file, MEMORY_BASE, 0, 0, 0]),
        ("execveat", libc::SYS_execveat, [file, MEMORY_BASE, 0, 0, 0]),
        ("recvmsg", libc::SYS_recvmsg, [DOORBELL_FD as u64, MEMORY_BASE, 0, 0, 0]),
        ("sendmsg", libc::SYS_sendmsg, [DOORBELL_FD as u64, MEMORY_BASE, 0, 0, 0]),
        ("pread64 of the doorbell", libc::SYS_pread64, [DOORBELL_FD as u64, MEMORY_BASE, 8, 0, 0]),
        ("pread64 beyond", libc::SYS_pread64, [(DIRECT_FD + DIRECT_FDS) as u64, MEMORY_BASE, 8, 0, 0]),
        ("pread64 to the ring", libc::SYS_pread64, [file, RING_BASE, 8, 0, 0]),
        ("pwrite64 of the ring", libc::SYS_pwrite64, [file, RING_BASE, 8, 0, 0]),
    ];
    for (what, number, args) in refusals {
        let mut all = vec![*number as u64];
        all.extend(args);
        let report = attacker.attack("syscall", &all).await;
        match &report.outcome {
            Outcome::Violated(Violation::Syscall { number: named, .. }) => {
                assert_eq!(*named, all[0], "{what}")
            }
            other => panic!("{what}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn under_another_policy_nobody_answers() {
    let attacker = Attacker::under(Policy::builtin("default").unwrap()).await;
    for number in [libc::SYS_sched_yield, libc::SYS_pread64, libc::SYS_pwrite64] {
        let report = attacker.attack("syscall", &[number as u64, DIRECT_FD as u64, MEMORY_BASE, 1, 0]).await;
        assert!(matches!(report.outcome, Outcome::Violated(Violation::Syscall { .. })), "{number}");
    }
}

/// The files of one instance are not to be had from another, not even from a sibling under the same zygote.
#[tokio::test]
async fn an_instance_gets_its_own_files_only() {
    let attacker = Attacker::under(direct()).await;
    let (mut one, _its) = armed(&attacker).await;
    let (mut two, _others) = armed(&attacker).await;
    let fd = open(&mut one, "file", 0, READ, 0).await;
    assert_eq!(
        obtain(&mut two, fd, 0).await,
        no(libc::EPERM),
        "that descriptor is open in the other one only"
    );
    assert_eq!(obtain(&mut one, fd, 0).await, number(0));
    assert_eq!(read(&mut two, number(0)).await, Err(no(libc::EBADF)));
    let other = open(&mut two, "other", 0, READ, 0).await;
    assert_eq!(fd, other);
    assert_eq!(obtain(&mut two, other, 0).await, number(0));
    assert_eq!(read(&mut one, number(0)).await.unwrap(), "contents");
    assert_eq!(read(&mut two, number(0)).await.unwrap(), "secret");
}

/// Asking counts as a host call.
#[tokio::test]
async fn asking_is_limited_as_host_calls_are() {
    let text = "version = 1\nextends = \"wasi-direct\"\n[limits]\nhost_calls = 5\n";
    let attacker = Attacker::under(Policy::parse(text, "few.toml").unwrap()).await;
    let mut native = Native::of(attacker.session().await);
    for _ in 0..5 {
        assert_eq!(obtain(&mut native, 9, 0).await, no(libc::EPERM));
    }
    let args = [libc::SYS_sched_yield as u64, ask::FILE, 9, 0];
    let ended = native.try_call("syscall", &args).await;
    assert!(matches!(ended, CallOutcome::Ended(Outcome::LimitReached(_))), "{ended:?}");
}
