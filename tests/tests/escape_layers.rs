//! Each layer that is no namespace against native code inside an instance: what the attack gains when only that layer (and the
//! seccomp filter, with which it does not even begin) is off, and that the layer takes it away. Where several layers stop
//! the same attack, that each alone does so.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::Command;

use ipc::control::layer;
use ipc::layout::{CODE_BASE, GATE_PAGE, MEMORY_BASE, PAGE, RING_BASE};
use ipc::report::{Outcome, Value, Violation};
use nix::sys::statvfs::{FsFlags, statvfs};
use policies::Policy;
use supervisor::{CallOutcome, PoolLimits};
use whole_system_tests::Scratch;
use whole_system_tests::attacker::Attacker;
use whole_system_tests::host::is_root;
use whole_system_tests::native::{ALL_BUT_SECCOMP, Native, assert_refused, assert_reported, only};

const USER: u64 = layer::USER_NAMESPACE;
const EPERM: i64 = -(libc::EPERM as i64);

/// Parks nothing: without a PID namespace an instance that is being forked when its supervisor ends would stay.
async fn attacker() -> Attacker {
    Attacker::with_pool(Policy::builtin("default").unwrap(), PoolLimits { min: 0, max: 0 }).await
}

/// What the filter alone refuses: every other layer is in force. With it, `escape_seccomp.rs` tries the same and more.
#[tokio::test]
async fn without_the_filter_native_code_makes_code_and_system_calls() {
    let attacker = attacker().await.with_policy(only(ALL_BUT_SECCOMP));
    let mut native = Native::of(attacker.session().await);
    let all = (libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC) as u64;
    // mov eax, 42; ret
    let code = native.put(&[0xb8, 42, 0, 0, 0, 0xc3]).await;
    assert_eq!(native.syscall(libc::SYS_mprotect, &[code, PAGE, all]).await, 0, "executable and writable");
    assert_eq!(native.call("call", &[code]).await, 42, "new code runs");
    // The gate comes back where it was, and calls through it are possible again.
    let flags = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE) as u64;
    let mapped = native.syscall(libc::SYS_mmap, &[GATE_PAGE, PAGE, all, flags, u64::MAX]).await;
    assert_eq!(mapped, GATE_PAGE as i64);
    native.call("poke", &[GATE_PAGE + PAGE - 8, 0x050f << 48]).await;
    let pid = native.syscall(libc::SYS_getpid, &[]).await;
    assert_eq!(native.call("syscall-through-gate", &[libc::SYS_getpid as u64]).await, pid);
    // Beyond waiting and ringing.
    assert_eq!(native.syscall(libc::SYS_futex, &[RING_BASE, libc::FUTEX_WAKE as u64, 1, 0]).await, 0);
    let pipe = native.put(&[0; 8]).await;
    assert_eq!(native.syscall(libc::SYS_pipe, &[pipe]).await, 0);
    let ends = native.get(pipe, 8).await;
    let write_end = u64::from(u32::from_le_bytes(ends[4..].try_into().unwrap()));
    assert_eq!(native.syscall(libc::SYS_write, &[write_end, pipe, 3]).await, 3, "any descriptor");
    assert_reported(&native.end().await, ALL_BUT_SECCOMP);

    // The other doors to the kernel; each kills where there is no such door.
    const GETPID_I386: u64 = 20;
    match attacker.attack("int80", &[GETPID_I386]).await.outcome {
        Outcome::Exited { results, .. } => assert!(matches!(results[..], [Value::I64(1..)]), "{results:?}"),
        other => println!("NOT CHECKED: this kernel has no int 0x80: {other:?}"),
    }
    match attacker.attack("syscall", &[0x4000_0000 | libc::SYS_getpid as u64]).await.outcome {
        Outcome::Exited { results, .. } if results == [Value::I64(-i64::from(libc::ENOSYS))] => {
            println!("NOT CHECKED: this kernel has no x32");
        }
        Outcome::Exited { results, .. } => assert!(matches!(results[..], [Value::I64(1..)]), "{results:?}"),
        other => panic!("{other:?}"),
    }
    const VSYSCALL_TIME: u64 = 0xffff_ffff_ff60_0400;
    match attacker.attack("call", &[VSYSCALL_TIME]).await.outcome {
        Outcome::Exited { results, .. } => assert!(matches!(results[..], [Value::I64(1..)]), "{results:?}"),
        other => println!("NOT CHECKED: this kernel emulates no vsyscall: {other:?}"),
    }
}

/// An ELF file with these instructions.
fn program(code: &[u8]) -> Vec<u8> {
    const BASE: u64 = 0x40_0000;
    const HEADERS: u64 = 64 + 56;
    let bytes = HEADERS + code.len() as u64;
    let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    // ET_EXEC, EM_X86_64, version 1.
    file.extend([2, 0, 62, 0, 1, 0, 0, 0]);
    for word in [BASE + HEADERS, 64, 0] {
        file.extend(word.to_le_bytes());
    }
    // Flags, header sizes, one program header, no sections.
    file.extend([0, 0, 0, 0, 64, 0, 56, 0, 1, 0, 64, 0, 0, 0, 0, 0]);
    // PT_LOAD, readable and executable.
    file.extend([1, 0, 0, 0, 5, 0, 0, 0]);
    for word in [0, BASE, BASE, bytes, bytes, 0x1000] {
        file.extend(word.to_le_bytes());
    }
    file.extend(code);
    file
}

/// Executes a program that ends with 0 if it has become root, else with something else.
async fn execute(attacker: &Attacker, layers: u64, path: &str) -> Result<u8, i64> {
    let mut native = Native::under(attacker, layers).await;
    let name = native.put_string(path).await;
    let args = native.put(&[name.to_le_bytes(), [0; 8]].concat()).await;
    let none = native.put(&[0; 8]).await;
    let outcome = native.try_call("syscall", &[libc::SYS_execve as u64, name, args, none]).await;
    match &outcome {
        CallOutcome::Returned(values) => match values[..] {
            [Value::I64(error)] => Err(error),
            _ => panic!("{values:?}"),
        },
        // The report says that what ended is not what was started.
        CallOutcome::Ended(Outcome::Violated(Violation::Died { how })) => {
            let status = how.split("exited with status ").nth(1).and_then(|rest| rest.split(' ').next());
            Ok(status.and_then(|s| s.parse().ok()).unwrap_or_else(|| panic!("{how}")))
        }
        other => panic!("{other:?}"),
    }
}

/// What makes root of anybody: a program with the set-user-ID bit. Each of four layers alone is enough against it.
#[tokio::test]
async fn a_setuid_program_makes_nobody_root() {
    let attacker = attacker().await;
    assert_refused(&attacker, libc::SYS_execve).await;
    assert_refused(&attacker, libc::SYS_execveat).await;
    let scratch = Scratch::new();
    fs::set_permissions(scratch.path(), fs::Permissions::from_mode(0o755)).unwrap();
    // geteuid, and exit_group with the result.
    let code = [0xb8, 107, 0, 0, 0, 0x0f, 0x05, 0x89, 0xc7, 0xb8, 231, 0, 0, 0, 0x0f, 0x05];
    let path = scratch.write("su", program(&code));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o4755)).unwrap();
    let path = path.to_str().unwrap();
    if !is_root() {
        println!("NOT CHECKED: an ordinary user cannot make a set-user-ID program of another user");
        return;
    }
    if statvfs(scratch.path()).unwrap().flags().contains(FsFlags::ST_NOSUID) {
        println!("NOT CHECKED: {} ignores set-user-ID bits", scratch.path().display());
        return;
    }
    assert_eq!(execute(&attacker, 0, path).await, Ok(0), "without any layer it makes root");
    let nobody = Ok((65534 & 0xff) as u8);
    assert_eq!(execute(&attacker, USER, path).await, nobody, "root does not exist in the user namespace");
    assert_eq!(execute(&attacker, layer::NO_NEW_PRIVS, path).await, nobody);
    let hidden = execute(&attacker, USER | layer::MOUNT_NAMESPACE | layer::EMPTY_ROOT, path).await;
    assert_eq!(hidden, Err(-i64::from(libc::ENOENT)));
    if supervisor::host::landlock_abi() == 0 {
        println!("NOT CHECKED: this kernel has no Landlock");
    } else {
        // It needs one of the other two to be put in force, but it alone refuses to execute anything at all.
        let denied = execute(&attacker, USER | layer::LANDLOCK, path).await;
        assert_eq!(denied, Err(-i64::from(libc::EACCES)));
    }
}

#[tokio::test]
async fn dropped_capabilities_are_needed_for_what_they_do() {
    let attacker = attacker().await;
    const SET_SECUREBITS: u64 = libc::PR_SET_SECUREBITS as u64;
    let attack = async |layers: u64| {
        let mut native = Native::under(&attacker, layers).await;
        let name = native.put(b"taken").await;
        let named = native.syscall(libc::SYS_sethostname, &[name, 5]).await;
        let net = native.syscall(libc::SYS_unshare, &[libc::CLONE_NEWNET as u64]).await;
        let bits = native.syscall(libc::SYS_prctl, &[libc::PR_GET_SECUREBITS as u64]).await;
        // SECBIT_KEEP_CAPS, which the layer locks.
        let set = native.syscall(libc::SYS_prctl, &[SET_SECUREBITS, bits as u64 | 1 << 4]).await;
        let root = native.syscall(libc::SYS_prctl, &[SET_SECUREBITS, 0]).await;
        let bound = native.syscall(libc::SYS_prctl, &[libc::PR_CAPBSET_READ as u64, 21]).await;
        assert_reported(&native.end().await, layers);
        (named, net, bits, set, root, bound)
    };
    assert_eq!(attack(ALL_BUT_SECCOMP & !layer::CAPABILITIES).await, (0, 0, 0, 0, 0, 1));
    let locked = 0b1110_1111;
    assert_eq!(attack(ALL_BUT_SECCOMP).await, (EPERM, EPERM, locked, EPERM, EPERM, 0));
    assert_eq!(attack(USER | layer::CAPABILITIES).await, (EPERM, EPERM, locked, EPERM, EPERM, 0));
    for call in [libc::SYS_sethostname, libc::SYS_unshare, libc::SYS_prctl, libc::SYS_capset] {
        assert_refused(&attacker, call).await;
    }
}

/// Capabilities of a user namespace of the attacker's own making are beyond what the layer can take: the filter is what stops
/// that, and what is left without it is still bound by Landlock and by namespaces that belong to others.
#[tokio::test]
async fn a_user_namespace_of_its_own_gives_an_instance_nothing_of_ours() {
    let attacker = attacker().await;
    let mut native = Native::under(&attacker, ALL_BUT_SECCOMP).await;
    assert_eq!(
        native.syscall(libc::SYS_unshare, &[libc::CLONE_NEWUSER as u64]).await,
        0,
        "the kernel lets it"
    );
    let name = native.put(b"taken").await;
    assert_eq!(
        native.syscall(libc::SYS_sethostname, &[name, 5]).await,
        EPERM,
        "our host name is not its own"
    );
    assert_eq!(native.syscall(libc::SYS_unshare, &[libc::CLONE_NEWNS as u64]).await, 0);
    let (kind, place) = (native.put_string("tmpfs").await, native.put_string("/").await);
    assert_eq!(native.syscall(libc::SYS_mount, &[kind, place, kind, 0, 0]).await, EPERM, "Landlock");
    drop(native);
    assert_refused(&attacker, libc::SYS_unshare).await;
    assert_refused(&attacker, libc::SYS_setns).await;
}

/// Reads a sibling's memory: another instance of the same tenant, module and policy.
async fn read_sibling(attacker: &Attacker, layers: u64) -> Result<u64, i64> {
    const SECRET: u64 = 0x7369_626c_696e_6721;
    let mut sibling = Native::under(attacker, layers).await;
    let secret = sibling.put(&SECRET.to_le_bytes()).await;
    let mut native = Native::under(attacker, layers).await;
    let (own, other) = (
        native.syscall(libc::SYS_getpid, &[]).await as u64,
        sibling.syscall(libc::SYS_getpid, &[]).await as u64,
    );
    assert_ne!(own, other);
    let buffer = native.put(&[0; 8]).await;
    let vector = async |native: &mut Native, address: u64| {
        native.put(&[address.to_le_bytes(), 8u64.to_le_bytes()].concat()).await
    };
    let (local, remote) = (vector(&mut native, buffer).await, vector(&mut native, secret).await);
    let read = native.syscall(libc::SYS_process_vm_readv, &[other, local, 1, remote, 1]).await;
    let answer = u64::from_le_bytes(native.get(buffer, 8).await.try_into().unwrap());
    assert_eq!(answer == SECRET, read == 8);
    if read == 8 { Ok(answer) } else { Err(read) }
}

#[tokio::test]
async fn an_undumpable_instance_is_closed_to_its_siblings() {
    let attacker = attacker().await;
    assert_eq!(read_sibling(&attacker, ALL_BUT_SECCOMP).await, Err(EPERM));
    assert_eq!(read_sibling(&attacker, USER | layer::PID_NAMESPACE | layer::UNDUMPABLE).await, Err(EPERM));
    assert_refused(&attacker, libc::SYS_process_vm_readv).await;
    assert_refused(&attacker, libc::SYS_ptrace).await;
    let open = read_sibling(&attacker, ALL_BUT_SECCOMP & !layer::UNDUMPABLE).await;
    if !is_root() {
        assert!(open.is_ok(), "without the layer it is open: {open:?}");
        return;
    }
    // Root's instances change their user id, which closes them already (PR_SET_DUMPABLE(2const)). So the same again as an
    // ordinary user, who can read no program of root's directory.
    assert_eq!(open, Err(EPERM));
    let scratch = Scratch::new();
    fs::set_permissions(scratch.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let program = scratch.file("test");
    fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    let mut again = Command::new(program);
    again.args(["--exact", "an_undumpable_instance_is_closed_to_its_siblings"]);
    let output = again.uid(65534).gid(65534).current_dir("/").output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
}

#[tokio::test]
async fn resource_limits_hold_without_the_filter() {
    let attacker = attacker().await;
    let attack = async |layers: u64| {
        let mut native = Native::under(&attacker, layers).await;
        let mut descriptors = 0;
        let last = loop {
            match native.syscall(libc::SYS_dup, &[3]).await {
                error @ ..0 => break error,
                _ if descriptors == 40 => break 0,
                _ => descriptors += 1,
            }
        };
        let lock = native.syscall(libc::SYS_mlock, &[MEMORY_BASE, PAGE]).await;
        let file = native.put_string("file").await;
        let file = native.syscall(libc::SYS_memfd_create, &[file, 0]).await;
        let size = match file {
            0.. => native.syscall(libc::SYS_ftruncate, &[file as u64, 4096]).await,
            // No descriptor is left.
            error => error,
        };
        assert_reported(&native.end().await, layers);
        (last, lock, size)
    };
    let (last, lock, size) = attack(ALL_BUT_SECCOMP & !layer::RLIMITS).await;
    assert_eq!((last, size), (0, 0), "descriptors and files");
    if lock != 0 {
        println!("NOT CHECKED: this test may lock no memory itself: {lock}");
    }
    assert_eq!(attack(ALL_BUT_SECCOMP).await, (-i64::from(libc::EMFILE), EPERM, -i64::from(libc::EMFILE)));
    assert_eq!(attack(USER | layer::RLIMITS).await.0, -i64::from(libc::EMFILE));
    // Memory is limited per job, whatever the layers are.
    let mut native = Native::under(&attacker, ALL_BUT_SECCOMP).await;
    let (rw, flags) =
        (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE);
    let map = async |native: &mut Native, bytes: u64| {
        native.syscall(libc::SYS_mmap, &[0, bytes, rw as u64, flags as u64, u64::MAX]).await
    };
    assert_eq!(map(&mut native, 5 << 30).await, -i64::from(libc::ENOMEM), "more than the policy's 4 GiB");
    assert!(map(&mut native, 1 << 20).await > 0);
    for call in [libc::SYS_dup, libc::SYS_mlock, libc::SYS_memfd_create, libc::SYS_mmap, libc::SYS_prlimit64]
    {
        assert_refused(&attacker, call).await;
    }
}

#[tokio::test]
async fn sealed_code_stays_what_it_is() {
    let attacker = attacker().await;
    let report = attacker.attack("peek", &[CODE_BASE]).await;
    if !report.layers.iter().any(|layer| layer == "sealed-code") {
        println!("NOT CHECKED: this kernel has no mseal(2): {:?}", report.missing_layers);
        return;
    }
    let all = (libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC) as u64;
    let unseal = async |layers: u64| {
        let mut native = Native::under(&attacker, layers).await;
        let protect = native.syscall(libc::SYS_mprotect, &[CODE_BASE, PAGE, all]).await;
        if protect == 0 {
            // Code that was there before now does something else: mov eax, 42; ret in the place of the first weapon.
            let code = u64::from_le_bytes([0xb8, 42, 0, 0, 0, 0xc3, 0xcc, 0xcc]);
            native.call("poke", &[CODE_BASE, code]).await;
            assert_eq!(native.call("scan", &[]).await, 42);
        }
        // Last, because it takes the weapons away: where it works, nothing comes back.
        let unmapped = native.try_call("syscall", &[libc::SYS_munmap as u64, CODE_BASE, PAGE]).await;
        (protect, unmapped == CallOutcome::Returned(vec![Value::I64(EPERM)]))
    };
    assert_eq!(unseal(ALL_BUT_SECCOMP & !layer::SEALED_CODE).await, (0, false));
    assert_eq!(unseal(ALL_BUT_SECCOMP).await, (EPERM, true));
    assert_eq!(unseal(USER | layer::SEALED_CODE).await, (EPERM, true));
    for call in [libc::SYS_munmap, libc::SYS_mremap, libc::SYS_mmap, libc::SYS_mseal] {
        assert_refused(&attacker, call).await;
    }
}

/// A key in the session keyring of a thread that then starts a supervisor.
#[test]
fn a_keyring_of_its_own_has_no_keys_of_the_supervisor() {
    const JOIN_SESSION_KEYRING: u64 = 1;
    const READ: u64 = 11;
    const SESSION_KEYRING: i64 = -3;
    let name = format!("sandboxd-test-{}", std::process::id());
    let description = std::ffi::CString::new(name.as_str()).unwrap();
    // SAFETY: no name; zero-terminated strings and three readable bytes. The keyring is this thread's, and of threads that it starts.
    let key = unsafe {
        libc::syscall(libc::SYS_keyctl, JOIN_SESSION_KEYRING, 0).min(libc::syscall(
            libc::SYS_add_key,
            c"user".as_ptr(),
            description.as_ptr(),
            c"key".as_ptr(),
            3,
            SESSION_KEYRING,
        ))
    };
    if key < 0 {
        println!("NOT CHECKED: this host lets nobody make keys: {}", std::io::Error::last_os_error());
        return;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let attacker = attacker().await;
        let steal = async |layers: u64| {
            let mut native = Native::under(&attacker, layers).await;
            let (kind, name) = (native.put_string("user").await, native.put_string(&name).await);
            let found = native.syscall(libc::SYS_request_key, &[kind, name, 0, 0]).await;
            if found < 0 {
                native.end().await;
                return Err(found);
            }
            let buffer = native.put(&[0; 16]).await;
            let length = native.syscall(libc::SYS_keyctl, &[READ, found as u64, buffer, 16]).await;
            assert_reported(&native.end().await, layers);
            Ok(length)
        };
        assert_eq!(steal(USER).await, Ok(3), "a child has its parent's keys");
        assert_eq!(steal(ALL_BUT_SECCOMP & !layer::OWN_KEYRING).await, Ok(3), "no other layer hides them");
        assert_eq!(steal(USER | layer::OWN_KEYRING).await, Err(-i64::from(libc::ENOKEY)));
        assert_eq!(steal(ALL_BUT_SECCOMP).await, Err(-i64::from(libc::ENOKEY)));
        for call in [libc::SYS_request_key, libc::SYS_keyctl, libc::SYS_add_key] {
            assert_refused(&attacker, call).await;
        }
    });
}
