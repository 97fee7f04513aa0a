//! Each namespace against native code inside an instance: what the attack gains when nothing else is in its way, and that the
//! namespace alone takes it away. Where Landlock stops the same attack, that it alone does so, too.
//!
//! The seccomp filter is off in all of this but for the last word of each test: with it the attack does not even begin.

use std::fs;
use std::io::ErrorKind;
use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command};

use ipc::control::layer;
use policies::Policy;
use supervisor::PoolLimits;
use whole_system_tests::Scratch;
use whole_system_tests::attacker::Attacker;
use whole_system_tests::host::{is_root, landlock_has};
use whole_system_tests::native::{ALL_BUT_SECCOMP, Native, assert_refused, assert_reported};

/// Without it no other namespace can be made.
const USER: u64 = layer::USER_NAMESPACE;

/// Parks nothing: without a PID namespace an instance that is being forked when its supervisor ends would stay.
async fn attacker() -> Attacker {
    Attacker::with_pool(Policy::builtin("default").unwrap(), PoolLimits { min: 0, max: 0 }).await
}

/// A process of the user that instances run as.
fn neighbour() -> Child {
    let mut command = Command::new("sleep");
    command.arg("1000");
    if is_root() {
        command.uid(65534).gid(65534);
    }
    command.spawn().expect("sleep")
}

#[tokio::test]
async fn a_pid_namespace_leaves_nobody_to_signal() {
    let attacker = attacker().await;
    let mut victim = neighbour();
    let mut kill = async |layers: u64| {
        let mut native = Native::under(&attacker, layers).await;
        let answer = native.syscall(libc::SYS_kill, &[u64::from(victim.id()), libc::SIGTERM as u64]).await;
        assert_reported(&native.end().await, layers);
        (answer, victim.try_wait().unwrap())
    };
    assert_eq!(kill(USER | layer::PID_NAMESPACE).await, (-i64::from(libc::ESRCH), None));
    if landlock_has(6, "signals") {
        assert_eq!(kill(USER | layer::LANDLOCK).await, (-i64::from(libc::EPERM), None));
    }
    assert_eq!(kill(ALL_BUT_SECCOMP).await, (-i64::from(libc::ESRCH), None));
    // Last, because it works.
    assert_eq!(kill(USER).await.0, 0);
    assert_eq!(victim.wait().unwrap().signal(), Some(libc::SIGTERM));
    assert_refused(&attacker, libc::SYS_kill).await;
}

#[tokio::test]
async fn a_pid_namespace_leaves_nobody_to_see() {
    let attacker = attacker().await;
    let mut victim = neighbour();
    let exists = async |layers: u64| {
        let mut native = Native::under(&attacker, layers).await;
        let answer = native.syscall(libc::SYS_getsid, &[u64::from(victim.id())]).await;
        native.end().await;
        answer
    };
    // 0 where the session's leader is in a PID namespace outside the host's, as in a container.
    let seen = exists(USER).await;
    assert!(seen >= 0, "the neighbour can be seen: {seen}");
    assert_eq!(exists(USER | layer::PID_NAMESPACE).await, -i64::from(libc::ESRCH));
    assert_refused(&attacker, libc::SYS_getsid).await;
    victim.kill().unwrap();
    victim.wait().unwrap();
}

/// `struct sockaddr_in` of a port on the loopback interface.
fn loopback(port: u16) -> Vec<u8> {
    let mut address = (libc::AF_INET as u16).to_ne_bytes().to_vec();
    address.extend(port.to_be_bytes());
    address.extend([127, 0, 0, 1]);
    address.extend([0; 8]);
    address
}

async fn connect(attacker: &Attacker, layers: u64, family: i32, address: &[u8]) -> i64 {
    let mut native = Native::under(attacker, layers).await;
    let at = native.put(address).await;
    let socket = native.syscall(libc::SYS_socket, &[family as u64, libc::SOCK_STREAM as u64, 0]).await;
    assert!(socket >= 0, "socket: {socket}");
    let answer = native.syscall(libc::SYS_connect, &[socket as u64, at, address.len() as u64]).await;
    assert_reported(&native.end().await, layers);
    answer
}

#[tokio::test]
async fn a_net_namespace_has_nobody_to_talk_to() {
    let attacker = attacker().await;
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = loopback(listener.local_addr().unwrap().port());
    let tcp = async |layers| connect(&attacker, layers, libc::AF_INET, &address).await;
    assert_eq!(tcp(USER).await, 0);
    assert!(listener.accept().is_ok(), "somebody has come in");
    assert_eq!(tcp(USER | layer::NET_NAMESPACE).await, -i64::from(libc::ENETUNREACH));
    if landlock_has(4, "TCP") {
        assert_eq!(tcp(USER | layer::LANDLOCK).await, -i64::from(libc::EACCES));
    }
    assert_eq!(listener.accept().unwrap_err().kind(), ErrorKind::WouldBlock, "nobody else has");

    // A name without a file, so that no mount namespace hides it.
    let name = format!("sandboxd-test-{}", std::process::id());
    let listener = UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
    listener.set_nonblocking(true).unwrap();
    let mut address = (libc::AF_UNIX as u16).to_ne_bytes().to_vec();
    address.push(0);
    address.extend(name.as_bytes());
    let unix = async |layers| connect(&attacker, layers, libc::AF_UNIX, &address).await;
    assert_eq!(unix(USER).await, 0);
    assert!(listener.accept().is_ok(), "somebody has come in");
    assert_eq!(unix(USER | layer::NET_NAMESPACE).await, -i64::from(libc::ECONNREFUSED));
    if landlock_has(6, "abstract sockets") {
        assert_eq!(unix(USER | layer::LANDLOCK).await, -i64::from(libc::EPERM));
    }
    assert_eq!(listener.accept().unwrap_err().kind(), ErrorKind::WouldBlock, "nobody else has");
    assert_refused(&attacker, libc::SYS_socket).await;
    assert_refused(&attacker, libc::SYS_connect).await;
}

#[tokio::test]
async fn an_ipc_namespace_has_no_memory_of_others() {
    const SECRET: u64 = 0x0073_6563_7265_7421;
    let attacker = attacker().await;
    // SAFETY: a new segment of one page, attached wherever there is room, written inside.
    let id = unsafe {
        let id = libc::shmget(libc::IPC_PRIVATE, 4096, libc::IPC_CREAT | 0o666);
        assert!(id >= 0);
        let memory = libc::shmat(id, std::ptr::null(), 0);
        assert_ne!(memory as isize, -1);
        memory.cast::<u64>().write(SECRET);
        id
    };
    let steal = async |layers: u64| {
        let mut native = Native::under(&attacker, layers).await;
        let found = match native.syscall(libc::SYS_shmat, &[id as u64, 0, libc::SHM_RDONLY as u64]).await {
            error @ -4095..0 => Err(-error as i32),
            memory => Ok(native.call("peek", &[memory as u64]).await as u64),
        };
        native.end().await;
        found
    };
    let results = [
        steal(USER).await,
        steal(ALL_BUT_SECCOMP & !layer::IPC_NAMESPACE).await,
        steal(USER | layer::IPC_NAMESPACE).await,
    ];
    // SAFETY: removes the segment that was made above.
    unsafe { libc::shmctl(id, libc::IPC_RMID, std::ptr::null_mut()) };
    assert_eq!(results, [Ok(SECRET), Ok(SECRET), Err(libc::EINVAL)], "no other layer hides it");
    assert_refused(&attacker, libc::SYS_shmat).await;
}

#[tokio::test]
async fn a_uts_namespace_does_not_tell_the_host_s_name() {
    let attacker = attacker().await;
    let name = async |layers: u64| {
        let mut native = Native::under(&attacker, layers).await;
        let names = native.put(&[0; size_of::<libc::utsname>()]).await;
        assert_eq!(native.syscall(libc::SYS_uname, &[names]).await, 0);
        let node = names + std::mem::offset_of!(libc::utsname, nodename) as u64;
        let name = native.get(node, 65).await;
        native.end().await;
        String::from_utf8(name.split(|byte| *byte == 0).next().unwrap().to_vec()).unwrap()
    };
    let host = nix::unistd::gethostname().unwrap().into_string().unwrap();
    assert_ne!(host, "sandbox", "the host must have another name for this test");
    assert_eq!(name(USER).await, host);
    assert_eq!(name(ALL_BUT_SECCOMP & !layer::UTS_NAMESPACE).await, host, "no other layer hides it");
    assert_eq!(name(USER | layer::UTS_NAMESPACE).await, "sandbox");
    assert_refused(&attacker, libc::SYS_uname).await;
}

#[tokio::test]
async fn a_cgroup_namespace_does_not_tell_the_host_s_cgroups() {
    let attacker = attacker().await;
    let own = fs::read_to_string("/proc/self/cgroup").unwrap();
    let paths = |text: &str| -> Vec<String> {
        text.lines().filter_map(|line| line.splitn(3, ':').nth(2)).map(str::to_owned).collect()
    };
    let cgroups = async |layers: u64| {
        let mut native = Native::under(&attacker, layers).await;
        let text = native.read_file("/proc/self/cgroup").await.unwrap();
        native.end().await;
        paths(&text)
    };
    if paths(&own).iter().all(|path| path == "/") {
        println!(
            "NOT CHECKED: this test runs in the root of every cgroup hierarchy, so there is nothing to hide"
        );
    }
    assert_eq!(cgroups(USER).await, paths(&own));
    let hidden = cgroups(USER | layer::CGROUP_NAMESPACE).await;
    assert!(hidden.iter().all(|path| path == "/"), "{hidden:?}");
    // The empty root hides the same file.
    let mut native = Native::under(&attacker, ALL_BUT_SECCOMP & !layer::LANDLOCK).await;
    assert_eq!(native.read_file("/proc/self/cgroup").await, Err(libc::ENOENT));
    assert_refused(&attacker, libc::SYS_open).await;
}

fn now(clock: nix::time::ClockId) -> i64 {
    nix::time::clock_gettime(clock).unwrap().tv_sec()
}

#[tokio::test]
async fn a_time_namespace_does_not_tell_how_long_the_host_is_up() {
    let started = now(nix::time::ClockId::CLOCK_MONOTONIC);
    let attacker = attacker().await;
    for clock in [libc::CLOCK_MONOTONIC, libc::CLOCK_BOOTTIME, libc::CLOCK_MONOTONIC_RAW] {
        let host = now(clock.into());
        let reading = async |layers: u64| {
            let mut native = Native::under(&attacker, layers).await;
            let time = native.put(&[0; 16]).await;
            assert_eq!(native.syscall(libc::SYS_clock_gettime, &[clock as u64, time]).await, 0);
            let seconds = i64::from_le_bytes(native.get(time, 8).await.try_into().unwrap());
            assert_reported(&native.end().await, layers);
            seconds
        };
        assert!(reading(USER).await >= host, "clock {clock}: without the layer it is the host's");
        let lacking = reading(ALL_BUT_SECCOMP & !layer::TIME_NAMESPACE).await;
        assert!(lacking >= host, "clock {clock}: no other layer hides it");
        let hidden = reading(USER | layer::TIME_NAMESPACE).await;
        let elapsed = now(nix::time::ClockId::CLOCK_MONOTONIC) - started;
        // The kernel moves raw time by the same seconds, though it runs a little slower or faster; it may come out below zero.
        let drift = if clock == libc::CLOCK_MONOTONIC_RAW { 1 + host / 100 } else { 0 };
        let range = -drift..=elapsed + 2 + drift;
        assert!(range.contains(&hidden), "clock {clock}: {hidden} is not in {range:?}");
    }
    assert_refused(&attacker, libc::SYS_clock_gettime).await;
}

#[tokio::test]
async fn an_empty_root_and_landlock_each_alone_hide_every_file() {
    let attacker = attacker().await;
    let scratch = Scratch::new();
    fs::set_permissions(scratch.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let secret = scratch.write("secret", "the secret of the host");
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o666)).unwrap();
    let new = scratch.file("new");
    let (secret, new_name) = (secret.to_str().unwrap(), new.to_str().unwrap());
    // Reads one file, changes it, and makes another.
    let attack = async |layers: u64| {
        let mut native = Native::under(&attacker, layers).await;
        let read = native.read_file(secret).await;
        let path = native.put_string(secret).await;
        let change = native.syscall(libc::SYS_truncate, &[path, 3]).await;
        let path = native.put_string(new_name).await;
        let make = native.syscall(libc::SYS_creat, &[path, 0o644]).await;
        assert_reported(&native.end().await, layers);
        (read, change, make)
    };
    let refused = |errno: i32| (Err(errno), -i64::from(errno), -i64::from(errno));
    let hidden = attack(USER | layer::MOUNT_NAMESPACE | layer::EMPTY_ROOT).await;
    // Nothing can be made in a root that is read-only.
    assert_eq!(hidden, refused(libc::ENOENT));
    if landlock_has(3, "truncation") {
        assert_eq!(attack(USER | layer::LANDLOCK).await, refused(libc::EACCES));
    }
    assert_eq!(fs::read_to_string(secret).unwrap(), "the secret of the host");
    assert!(!new.exists());
    let (read, change, make) = attack(USER).await;
    assert_eq!((read.as_deref(), change), (Ok("the secret of the host"), 0));
    assert!(make >= 0, "{make}");
    assert_eq!(fs::read_to_string(secret).unwrap(), "the");
    assert!(new.exists());
    for call in [libc::SYS_open, libc::SYS_openat, libc::SYS_truncate, libc::SYS_creat, libc::SYS_openat2] {
        assert_refused(&attacker, call).await;
    }
}

/// What is mounted in an instance stays there; what is mounted in the host cannot be changed from it.
#[tokio::test]
async fn a_mount_namespace_keeps_mounts_to_itself() {
    let attacker = attacker().await;
    let scratch = Scratch::new();
    fs::set_permissions(scratch.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let mount = async |layers: u64| {
        let mut native = Native::under(&attacker, layers).await;
        let (kind, place) =
            (native.put_string("tmpfs").await, native.put_string(scratch.path().to_str().unwrap()).await);
        let answer = native.syscall(libc::SYS_mount, &[kind, place, kind, 0, 0]).await;
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains(scratch.path().to_str().unwrap()), "the host sees it");
        native.end().await;
        answer
    };
    // With every capability of its user namespace.
    assert_eq!(mount(USER | layer::MOUNT_NAMESPACE).await, 0);
    // The mounts of the host belong to another user namespace: the user namespace alone is enough.
    assert_eq!(mount(USER).await, -i64::from(libc::EPERM));
    assert_eq!(mount(USER | layer::MOUNT_NAMESPACE | layer::CAPABILITIES).await, -i64::from(libc::EPERM));
    if landlock_has(1, "mounts") {
        assert_eq!(mount(USER | layer::MOUNT_NAMESPACE | layer::LANDLOCK).await, -i64::from(libc::EPERM));
    }
    assert_refused(&attacker, libc::SYS_mount).await;
}
