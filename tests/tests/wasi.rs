//! WASI as guests in real instances see it: what the instance answers itself, sockets, streams of any length, and runs that are the
//! same twice.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd, IntoRawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

use ipc::interface::{Arg, FUNCTIONS, Place, ValueType};
use ipc::report::{Outcome, Value};
use supervisor::{Config, Job, Supervisor};
use whole_system_tests::sessions::{self, call, returned};
use whole_system_tests::{Daemon, Scratch, guests, run, spawn};

/// A module that exports every function of WASI under its own name.
fn every_function() -> String {
    let mut module = String::from("(module\n");
    let types = |types: &[ValueType]| {
        let names = types.iter().map(|t| if *t == ValueType::I32 { " i32" } else { " i64" });
        names.collect::<String>()
    };
    for f in FUNCTIONS {
        let (params, results) = (types(f.params), types(f.results));
        let _ = writeln!(
            module,
            "(import \"{}\" \"{}\" (func ${} (param{params}) (result{results})))",
            f.module, f.name, f.name
        );
    }
    module += "(memory (export \"memory\") 1)\n";
    for f in FUNCTIONS {
        let (params, results) = (types(f.params), types(f.results));
        let gets: String = (0..f.params.len()).map(|i| format!("(local.get {i})")).collect();
        let _ = writeln!(
            module,
            "(func (export \"{}\") (param{params}) (result{results}) (call ${} {gets}))",
            f.name, f.name
        );
    }
    module + ")"
}

const FAULT: i32 = 21;
const INVAL: i32 = 28;
const BADF: i32 = 8;

/// The errors that docs/host-calls.md lists for the calls that the instance answers.
fn documented() -> BTreeMap<String, BTreeSet<String>> {
    let documentation = include_str!("../../docs/host-calls.md");
    let rows = documentation.lines().filter(|line| line.starts_with("| `") && line.contains("| instance |"));
    rows.map(|line| {
        let cells: Vec<_> = line.trim_matches('|').split('|').map(str::trim).collect();
        let errors = cells[3].split(", ").filter(|e| !e.is_empty()).map(str::to_owned).collect();
        (cells[0].trim_matches('`').to_owned(), errors)
    })
    .collect()
}

#[tokio::test]
async fn every_pointer_is_checked_and_the_instance_answers_as_documented() {
    let supervisor = Supervisor::start(Config::default()).expect("a supervisor");
    let job = sessions::job(&supervisor, &every_function()).await;
    let mut session = sessions::started(&supervisor, job).await;
    let mut seen: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for f in FUNCTIONS.iter().filter(|f| f.place == Place::Instance) {
        seen.insert(f.name.to_owned(), BTreeSet::new());
    }
    for f in FUNCTIONS {
        // Every pointer of the call outside the memory while the others are good: in the last bytes, and far away.
        for arg in f.args {
            let (pointer, length) = match *arg {
                Arg::Value(_) => continue,
                Arg::Result { ptr, .. } => (ptr, None),
                Arg::In { ptr, len, .. }
                | Arg::Out { ptr, len, .. }
                | Arg::GatherIn { ptr, len }
                | Arg::ScatterOut { ptr, len } => (ptr, Some(len)),
            };
            for address in [0xFFFF, -1] {
                let mut args: Vec<Value> = f
                    .params
                    .iter()
                    .map(|t| if *t == ValueType::I32 { Value::I32(0) } else { Value::I64(0) })
                    .collect();
                args[pointer as usize] = Value::I32(address);
                if let Some(length) = length {
                    args[length as usize] = Value::I32(2);
                }
                let errno = call(&mut session, f.name, &args).await;
                assert_eq!(errno, returned(FAULT), "{} with pointer {pointer} = {address}", f.name);
            }
        }
    }
    // The strings are none here, but where to put their number must be told.
    for name in ["args_sizes_get", "environ_sizes_get"] {
        for args in [[Value::I32(0), Value::I32(-1)], [Value::I32(-1), Value::I32(0)]] {
            assert_eq!(call(&mut session, name, &args).await, returned(FAULT), "{name}");
        }
        assert_eq!(call(&mut session, name, &[Value::I32(0), Value::I32(8)]).await, returned(0));
    }
    for (clock, errno) in [(0, 0), (1, 0), (2, BADF), (3, BADF), (4, INVAL), (-1, INVAL)] {
        for (name, args) in [
            ("clock_res_get", vec![Value::I32(clock), Value::I32(0)]),
            ("clock_time_get", vec![Value::I32(clock), Value::I64(1), Value::I32(0)]),
        ] {
            assert_eq!(call(&mut session, name, &args).await, returned(errno), "{name} of clock {clock}");
            if errno != 0 {
                let error = if errno == BADF { "badf" } else { "inval" };
                seen.entry(name.to_owned()).or_default().insert(error.to_owned());
            }
        }
    }
    assert_eq!(call(&mut session, "sched_yield", &[]).await, returned(0));
    assert_eq!(call(&mut session, "random_get", &[Value::I32(0), Value::I32(65_536)]).await, returned(0));
    assert_eq!(seen, documented());
    session.end().await.expect("a report");
}

/// Accepts a connection on descriptor 3, sends back what comes until it ends, and ends its own side.
const ECHO: &str = r#"(module
  (import "wasi_snapshot_preview1" "sock_accept" (func $accept (param i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "sock_recv" (func $recv (param i32 i32 i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "sock_send" (func $send (param i32 i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "sock_shutdown" (func $shutdown (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 2)
  (data (i32.const 64) "\40\00\00\00\06\00\00\00ready\n")
  (data (i32.const 32) "\48\00\00\00\06\00\00\00")
  (func $check (param i32) (if (local.get 0) (then (call $exit (local.get 0)))))
  (func (export "_start")
    (call $check (call $write (i32.const 1) (i32.const 32) (i32.const 1) (i32.const 8)))
    (call $check (call $accept (i32.const 3) (i32.const 0) (i32.const 16)))
    (loop $more
      (i32.store (i32.const 0) (i32.const 65536))
      (i32.store (i32.const 4) (i32.const 65536))
      (call $check (call $recv (i32.load (i32.const 16)) (i32.const 0) (i32.const 1) (i32.const 0) (i32.const 8) (i32.const 12)))
      (if (i32.load (i32.const 8)) (then
        (i32.store (i32.const 4) (i32.load (i32.const 8)))
        (call $check (call $send (i32.load (i32.const 16)) (i32.const 0) (i32.const 1) (i32.const 0) (i32.const 8)))
        (br $more))))
    (call $check (call $shutdown (i32.load (i32.const 16)) (i32.const 2)))))"#;

/// Starts the guest that echoes, waits until it runs, and talks to it.
fn echo(command: &mut Command, address: std::net::SocketAddr) {
    let mut process = spawn(command);
    let mut ready = [0; 6];
    process.stdout().read_exact(&mut ready).expect("the guest runs");
    assert_eq!(&ready, b"ready\n");
    let mut client = TcpStream::connect(address).expect("connect");
    let sent: Vec<u8> = (0..3_000_000u32).map(|i| (i % 251) as u8).collect();
    let mut reader = client.try_clone().expect("dup");
    let received = std::thread::spawn(move || {
        let mut received = Vec::new();
        reader.read_to_end(&mut received).expect("receive");
        received
    });
    client.write_all(&sent).expect("send");
    client.shutdown(std::net::Shutdown::Write).expect("shutdown");
    assert!(received.join().expect("reader") == sent, "what came back differs");
    let (status, stderr) = process.wait();
    assert_eq!(status.code(), Some(0), "{stderr}");
}

/// An address that nothing listens on.
fn free_address() -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    listener.local_addr().expect("address")
}

#[test]
fn a_guest_serves_on_the_sockets_that_it_is_given_and_on_no_other() {
    let scratch = Scratch::new();
    scratch.module("echo.wasm", ECHO);
    let daemon = Daemon::start();
    for daemon in [None, Some(&daemon)] {
        let address = free_address();
        echo(
            scratch.sandboxctl_run(daemon).args(["--tcplisten", &address.to_string(), "echo.wasm"]),
            address,
        );

        // As a service manager passes them: descriptor 3 of `sandboxctl`.
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let address = listener.local_addr().expect("address");
        let mut command = scratch.sandboxctl_run(daemon);
        command.args(["--listenfd", "echo.wasm"]);
        pass_listener(&mut command, listener);
        echo(&mut command, address);

        // Behind a directory it has another number.
        let address = free_address().to_string();
        let options = ["--tcplisten", &address, "--dir", ".::/d", "echo.wasm"];
        let notsock = 57;
        run(scratch.sandboxctl_run(daemon).args(options)).expect_status(notsock);
        // None, by the policy's word, and none at all: bad descriptor.
        scratch.write("none.toml", "version = 1\n[wasi]\nsockets = false\n");
        let options = ["--policy", "./none.toml", "--tcplisten", &address, "echo.wasm"];
        run(scratch.sandboxctl_run(daemon).args(options)).expect_status(BADF);
        run(scratch.sandboxctl_run(daemon).args(["echo.wasm"])).expect_status(BADF);
    }
    run(scratch.sandboxctl_run(None).args(["--listenfd", "echo.wasm"]))
        .expect_own_error(&["--listenfd", "LISTEN_FDS"]);
    run(scratch.sandboxctl_run(None).args(["--tcplisten", "nowhere", "echo.wasm"]))
        .expect_own_error(&["--tcplisten nowhere"]);
}

/// Makes a program start with `listener` as descriptor 3, and with the variables that say so. The process id must be that of the
/// program, which a shell knows before it becomes it.
fn pass_listener(command: &mut Command, listener: TcpListener) {
    let program = command.get_program().to_owned();
    let args: Vec<_> = command.get_args().map(ToOwned::to_owned).collect();
    let directory = command.get_current_dir().map(ToOwned::to_owned);
    let envs: Vec<_> = command.get_envs().filter_map(|(k, v)| Some((k.to_owned(), v?.to_owned()))).collect();
    *command = Command::new("/bin/sh");
    command.args(["-c", "LISTEN_PID=$$ LISTEN_FDS=1 exec \"$@\"", "sh"]).arg(program).args(args).envs(envs);
    if let Some(directory) = directory {
        command.current_dir(directory);
    }
    // Kept open until the program has it: this test's own copy goes with the command.
    let fd = listener.into_raw_fd();
    // SAFETY: dup2(2) and close(2) are async-signal-safe. Nothing else of this test refers to `fd`.
    unsafe {
        command.pre_exec(move || match libc::dup2(fd, 3) {
            3 if fd == 3 => match libc::fcntl(3, libc::F_SETFD, 0) {
                0 => Ok(()),
                _ => Err(std::io::Error::last_os_error()),
            },
            3 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        });
    }
}

/// Largest resident memory that a process ever had, in KiB: `VmHWM` of proc_pid_status(5).
fn peak_memory(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("status");
    let line = status.lines().find(|line| line.starts_with("VmHWM")).expect("VmHWM");
    line.split_whitespace().nth(1).expect("a number").parse().expect("a number")
}

/// Reads its standard input to the end and counts.
const COUNT: &str = r#"(module
  (import "wasi_snapshot_preview1" "fd_read" (func $fd_read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 33)
  (global $count (mut i64) (i64.const 0))
  (func (export "_start")
    (loop $more
      (i32.store (i32.const 0) (i32.const 65536))
      (i32.store (i32.const 4) (i32.const 2097152))
      (if (call $fd_read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)) (then (unreachable)))
      (global.set $count (i64.add (global.get $count) (i64.extend_i32_u (i32.load (i32.const 8)))))
      (br_if $more (i32.load (i32.const 8))))
    (i64.store (i32.const 16) (global.get $count))
    (i32.store (i32.const 0) (i32.const 16))
    (i32.store (i32.const 4) (i32.const 8))
    (drop (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))))"#;

#[test]
fn a_stream_of_any_length_takes_no_memory() {
    const BYTES: u64 = (4 << 30) + 12_345;
    let scratch = Scratch::new();
    scratch.module("count.wasm", COUNT);
    let mut process = spawn(scratch.sandboxctl_run(None).args(["--json", "count.wasm"]));
    let mut input = process.stdin();
    // Fewer and larger pieces; refused where the user has too many pipes already.
    let _ = nix::fcntl::fcntl(&input, nix::fcntl::FcntlArg::F_SETPIPE_SZ(1 << 20));
    let piece = vec![0; 1 << 20];
    input.write_all(&piece).expect("the guest reads");
    let early = peak_memory(process.id());
    let mut left = BYTES - piece.len() as u64;
    while left > 0 {
        let count = piece.len().min(left as usize);
        input.write_all(&piece[..count]).expect("the guest reads");
        left -= count as u64;
    }
    let late = peak_memory(process.id());
    assert!(late < early + (64 << 10), "the supervisor had {early} KiB, then {late} KiB");
    drop(input);
    let mut output = Vec::new();
    process.stdout().read_to_end(&mut output).expect("stdout");
    let (status, stderr) = process.wait();
    assert_eq!(status.code(), Some(0), "{stderr}");
    let (count, report) = output.split_at(8);
    assert_eq!(u64::from_le_bytes(count.try_into().expect("8 bytes")), BYTES);
    let report: serde_json::Value = serde_json::from_slice(report).expect("JSON");
    let peak = report["peak_memory_bytes"].as_u64().expect("a number");
    assert!(peak < 32 << 20, "the instance had {peak} bytes");
}

/// Writes until that fails, and exits with the error.
const WRITE: &str = r#"(module
  (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 2)
  (data (i32.const 0) "\00\00\01\00\00\00\01\00")
  (func (export "_start") (local $errno i32)
    (loop $more
      (local.set $errno (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))
      (br_if $more (i32.eqz (local.get $errno))))
    (call $exit (local.get $errno))))"#;

#[tokio::test]
async fn who_reads_slowly_slows_his_guest_only() {
    // Both guests are served by one thread.
    let supervisor = Supervisor::start(Config { shards: 1, ..Config::default() }).expect("a supervisor");
    let (mut slow, writer) = std::io::pipe().expect("pipe");
    let capacity = nix::fcntl::fcntl(&slow, nix::fcntl::FcntlArg::F_GETPIPE_SZ).expect("capacity");
    let mut job = sessions::job(&supervisor, WRITE).await;
    job.stdio[1] = Some(writer.into());
    let hello = sessions::job(&supervisor, guests::HELLO).await.module;
    let running = supervisor.run(job);
    let meanwhile = async {
        // Nobody reads: the pipe is full, and its guest waits.
        for round in 0..10 {
            while unread(&slow) < capacity {
                tokio::task::yield_now().await;
            }
            let other = supervisor.run(Job::command(hello.clone(), sessions::default_policy())).await;
            assert!(matches!(other.expect("a report").outcome, Outcome::Exited { code: 0, .. }), "{round}");
            assert_eq!(unread(&slow), capacity);
            slow.read_exact(&mut vec![0; 4096]).expect("read");
        }
        drop(slow);
    };
    let (report, ()) = tokio::join!(running, meanwhile);
    let pipe = 64;
    let report = report.expect("a report");
    assert!(matches!(report.outcome, Outcome::Exited { code, .. } if code == pipe), "{report:?}");
}

/// Writes everything that is not the same every time: readings of the clocks, random bytes, a sleep between, where a file has its
/// number and its times, and what comes from standard input.
const UNCERTAIN: &str = r#"(module
  (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "random_get" (func $random (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "clock_time_get" (func $time (param i32 i64 i32) (result i32)))
  (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "path_open" (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_filestat_get" (func $stat (param i32 i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 16) "new")
  (func $must (param i32) (if (local.get 0) (then (unreachable))))
  (func (export "_start")
    (call $must (call $random (i32.const 1024) (i32.const 64)))
    (call $must (call $time (i32.const 0) (i64.const 1) (i32.const 1088)))
    (call $must (call $time (i32.const 1) (i64.const 1) (i32.const 1096)))
    ;; 5 ms by the monotonic clock.
    (i32.store (i32.const 528) (i32.const 1))
    (i64.store (i32.const 536) (i64.const 5000000))
    (call $must (call $poll (i32.const 512) (i32.const 600) (i32.const 1) (i32.const 700)))
    (call $must (call $time (i32.const 1) (i64.const 1) (i32.const 1104)))
    (call $must (call $open (i32.const 3) (i32.const 0) (i32.const 16) (i32.const 3) (i32.const 1) (i64.const 66) (i64.const 0) (i32.const 0) (i32.const 700)))
    (call $must (call $stat (i32.load (i32.const 700)) (i32.const 1112)))
    (i32.store (i32.const 0) (i32.const 1176))
    (i32.store (i32.const 4) (i32.const 100))
    (call $must (call $read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 1276)))
    (i32.store (i32.const 0) (i32.const 1024))
    (i32.store (i32.const 4) (i32.const 256))
    (call $must (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))))"#;

/// Its output, under a policy with these keys in `[wasi]`. Its input comes in two pieces, the second when the first is read.
fn uncertain(keys: &str) -> Vec<u8> {
    let scratch = Scratch::new();
    scratch.module("uncertain.wasm", UNCERTAIN);
    scratch.write("policy.toml", format!("version = 1\n[wasi]\n{keys}\n"));
    std::fs::create_dir(scratch.path().join("d")).expect("a directory");
    let mut process = spawn(scratch.sandboxctl_run(None).args([
        "--policy",
        "./policy.toml",
        "--dir",
        "d::/d",
        "uncertain.wasm",
    ]));
    let mut input = process.stdin();
    input.write_all(b"first").expect("the guest reads");
    if keys.contains("deterministic") {
        while unread(&input) > 0 {
            std::thread::yield_now();
        }
    }
    input.write_all(b"second").expect("the guest reads");
    drop(input);
    let mut output = Vec::new();
    process.stdout().read_to_end(&mut output).expect("stdout");
    let (status, stderr) = process.wait();
    assert_eq!(status.code(), Some(0), "{stderr}");
    assert_eq!(output.len(), 256);
    output
}

/// Bytes in a pipe.
fn unread(pipe: &impl AsRawFd) -> i32 {
    let mut bytes = 0;
    // SAFETY: FIONREAD writes one int, which lives through the call.
    assert_eq!(unsafe { libc::ioctl(pipe.as_raw_fd(), libc::FIONREAD, &raw mut bytes) }, 0);
    bytes
}

#[test]
fn a_deterministic_run_is_the_same_twice_bit_for_bit() {
    let (one, two) = (uncertain("deterministic = true"), uncertain("deterministic = true"));
    assert_eq!(one, two);
    let number = |at: usize| u64::from_le_bytes(one[at..at + 8].try_into().expect("8 bytes"));
    assert_eq!(number(64), 946_684_800_000_000_000);
    assert_eq!((number(72), number(80)), (1_000, 5_002_000));
    assert_eq!(&one[152..163], b"firstsecond");
    // Without, everything differs that was the same.
    let (other, another) = (uncertain(""), uncertain(""));
    for range in [0..64, 64..72] {
        assert_ne!(other[range.clone()], another[range.clone()], "{range:?}");
    }
    // Each part by itself.
    let seeded = uncertain("deterministic = true\nrandom_seed = 7\nmonotonic_base = \"1h\"");
    assert_ne!(seeded[..64], one[..64]);
    assert_eq!(seeded[72..80], (3_600_000_001_000u64).to_le_bytes());
    let (seeded, again) = (uncertain("random_seed = 7"), uncertain("random_seed = 7"));
    assert_eq!(seeded[..64], again[..64]);
    assert_ne!(seeded[64..72], again[64..72]);
    let based = uncertain("monotonic_base = \"1h\"");
    let hour = 3_600_000_000_000;
    let read = u64::from_le_bytes(based[72..80].try_into().expect("8 bytes"));
    assert!((hour..2 * hour).contains(&read), "{read}");
}

/// Through the library, and a session: the host app passes a socket as it passes a directory.
#[tokio::test]
async fn a_host_app_passes_sockets_by_the_library() {
    let supervisor = Supervisor::start(Config::default()).expect("a supervisor");
    let mut job = sessions::job(&supervisor, ECHO).await;
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let address = listener.local_addr().expect("address");
    job.sockets = vec![listener.into()];
    let client = tokio::task::spawn_blocking(move || {
        let mut client = TcpStream::connect(address).expect("connect");
        client.write_all(b"hello").expect("send");
        client.shutdown(std::net::Shutdown::Write).expect("shutdown");
        let mut answer = String::new();
        client.read_to_string(&mut answer).expect("receive");
        answer
    });
    let report = supervisor.run(job).await.expect("a report");
    assert!(matches!(report.outcome, Outcome::Exited { code: 0, .. }), "{report:?}");
    assert_eq!(client.await.expect("client"), "hello");
    // What is no socket is an error of the job, not of the guest.
    let mut job = sessions::job(&supervisor, guests::HELLO).await;
    job.sockets = vec![tempfile::tempfile().expect("a file").into()];
    let error = supervisor.run(job).await.expect_err("a file is no socket").to_string();
    assert!(error.contains("socket 0 of the job"), "{error}");
}
