//! What native code finds in the memory of its instance: nothing of the supervisor's, of another tenant's, of an earlier
//! instance's. And which physical pages tenants share.
//!
//! Every byte that is mapped is looked at. Where the mappings are is known from `/proc`, which shows them to root; to an ordinary user
//! only when the layer `undumpable` is off, which changes nothing about what is mapped.

use std::collections::BTreeSet;
use std::os::unix::fs::FileExt;
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ipc::control::layer;
use ipc::layout::{
    CODE_BASE, CODE_END, CONTEXT_BASE, DOORBELL_FD, MEMORY_BASE, PAGE, RING_BASE, STACK_DEFAULT, STACK_TOP,
};
use policies::Policy;
use supervisor::PoolLimits;
use whole_system_tests::attacker::{Attacker, SCAN_MASK};
use whole_system_tests::instances::{Mapping, Pid};
use whole_system_tests::native::Native;

/// Asks this program to be the supervisor that has a secret in its arguments and its environment.
const ROLE: &str = "SANDBOXD_TEST_SECRET";

fn policy() -> Policy {
    let policy = Policy::builtin("default").unwrap();
    if nix::unistd::geteuid().is_root() { policy } else { policy.without_layers(layer::UNDUMPABLE) }
}

/// A secret of 16 bytes that no program contains: only its digits are put together at run time.
fn secret(number: u64) -> [u8; 16] {
    let mut bytes = [0; 16];
    for (index, byte) in bytes.iter_mut().enumerate() {
        *byte = b'A' + ((number * 31 + index as u64 * 7 + number * index as u64) % 26) as u8;
    }
    bytes
}

/// Every instance below this process, parked ones too.
fn instances() -> Vec<Pid> {
    let modules = Pid::only_child_of(std::process::id()).children();
    modules.iter().flat_map(|module| module.children()).collect()
}

/// Which of them this is: the one in whose memory its mark is.
async fn pid_of(native: &mut Native) -> Pid {
    static MARKS: AtomicU64 = AtomicU64::new(0x6d61_726b_0000_0000);
    let mark = MARKS.fetch_add(1, Ordering::Relaxed).to_le_bytes();
    let address = native.put(&mark).await;
    let has_mark = |pid: &Pid| {
        let mut bytes = [0; 8];
        let memory = std::fs::File::open(format!("/proc/{}/mem", pid.0)).expect("its memory");
        memory.read_at(&mut bytes, address).is_ok() && bytes == mark
    };
    instances().into_iter().find(has_mark).expect("a living instance")
}

/// Where the attacker finds 16 bytes in its address space.
async fn find(native: &mut Native, pid: Pid, needle: [u8; 16]) -> Vec<(u64, String)> {
    let half = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().unwrap()) ^ SCAN_MASK;
    let (low, high) = (half(&needle[..8]), half(&needle[8..]));
    let mut found = Vec::new();
    let (mut looked_at, mut pages) = (0, 0);
    for Mapping { start, end, protection, name, .. } in pid.mappings() {
        // The page of vsyscalls can be executed only, and reads as nothing.
        if !protection.starts_with('r') || start >= 1 << 47 {
            continue;
        }
        let mut ranges = vec![(start, end)];
        if name.starts_with("[v") {
            // The kernel's own: not every page of these is there. The kernel tells by refusing to copy from it.
            ranges.clear();
            for page in (start..end).step_by(PAGE as usize) {
                let ring = [libc::SYS_write as u64, DOORBELL_FD as u64, page, 8];
                if native.call("syscall", &ring).await != -i64::from(libc::EFAULT) {
                    ranges.push((page, page + PAGE));
                }
            }
        }
        for (mut from, to) in ranges {
            looked_at += 1;
            pages += (to - from) / PAGE;
            loop {
                match native.call("scan", &[from, to - from, low, high]).await as u64 {
                    0 => break,
                    at => {
                        found.push((at, name.clone()));
                        from = at + 1;
                    }
                }
            }
        }
    }
    // Ring, context, code, stack, memory, zygote: less than that is no whole address space.
    assert!(
        looked_at >= 8 && pages > (STACK_DEFAULT + (5 << 20)) / PAGE,
        "{looked_at} ranges, {pages} pages"
    );
    found
}

#[test]
fn no_secret_of_others_is_in_an_address_space() {
    let canary = String::from_utf8(secret(1).to_vec()).unwrap();
    if std::env::var(ROLE).as_deref() != Ok(canary.as_str()) {
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "no_secret_of_others_is_in_an_address_space", &canary])
            .env(ROLE, &canary)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success() && said.contains("1 passed"), "{said}");
        return;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(search());
}

async fn search() {
    // In the supervisor: arguments, environment, and the heap before its zygote is started.
    let heap = vec![secret(2); 4096];
    let arguments = std::fs::read("/proc/self/cmdline").unwrap();
    assert!(arguments.windows(16).any(|window| window == secret(1)));
    let attacker = Attacker::with_pool(policy(), PoolLimits { min: 2, max: 2 }).await;
    let session = async |tenant: &str| Native::of(attacker.session_of(tenant).await);

    // In another tenant's instance, which lives.
    let mut other = session("other").await;
    other.put(&secret(3).repeat(1000)).await;
    // The first one of this tenant is forked on demand. Two are parked after it, and take part in what follows.
    session("own").await.end().await;
    let before = loop {
        let now = instances();
        // One of the other tenant, and two parked for each.
        if now.len() == 5 {
            break now;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    };
    // In an earlier instance of the same module and tenant: everywhere where it can write.
    let mut earlier = session("own").await;
    let places = [
        MEMORY_BASE + 0x8000,
        STACK_TOP - STACK_DEFAULT,
        RING_BASE + ipc::job::ARENA_OFFSET as u64 + (1 << 20),
        CONTEXT_BASE + PAGE - 16,
    ];
    for place in places {
        for (index, half) in secret(4).chunks_exact(8).enumerate() {
            let half = u64::from_le_bytes(half.try_into().unwrap());
            earlier.call("poke", &[place + 8 * index as u64, half]).await;
        }
    }
    let pid = pid_of(&mut earlier).await;
    assert!(before.contains(&pid), "it was parked");
    // This is also what shows that the search finds what is there.
    let found = find(&mut earlier, pid, secret(4)).await;
    for place in places {
        assert!(found.iter().any(|(at, _)| *at == place), "not found at {place:#x}: {found:x?}");
    }
    earlier.end().await;

    let mut parked_before = 0;
    for round in 0..3 {
        let mut native = session("own").await;
        let pid = pid_of(&mut native).await;
        parked_before += usize::from(before.contains(&pid));
        for number in 1..=4 {
            let found = find(&mut native, pid, secret(number)).await;
            assert!(found.is_empty(), "round {round}, secret {number}: {found:x?}");
        }
        native.end().await;
    }
    assert_eq!(parked_before, 1, "one was there already when the earlier instance had its secret");
    other.end().await;
    drop(heap);
}

/// The part of its mappings that comes from the artifact and is never written: code and read-only data.
fn code(pid: Pid) -> Vec<Mapping> {
    let maps = pid.mappings().into_iter();
    maps.filter(|map| CODE_BASE <= map.start && map.end <= CODE_END).collect()
}

#[test]
fn tenants_share_no_page_of_a_module() {
    // In a process of its own, because it looks at every instance below.
    if std::env::var(ROLE).as_deref() != Ok("pages") {
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "tenants_share_no_page_of_a_module"])
            .env(ROLE, "pages")
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success() && said.contains("1 passed"), "{said}");
        print!("{said}");
        return;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(compare());
}

async fn compare() {
    let attacker = Attacker::with_pool(policy(), PoolLimits { min: 0, max: 0 }).await;
    let mut pids = Vec::new();
    let mut sessions = Vec::new();
    for tenant in ["one", "one", "two"] {
        let mut native = Native::of(attacker.session_of(tenant).await);
        let pid = pid_of(&mut native).await;
        // Pages are there once they are used.
        for map in code(pid) {
            native.call("peek", &[map.start]).await;
        }
        pids.push(pid);
        sessions.push(native);
    }
    let files: Vec<Vec<u64>> =
        pids.iter().map(|pid| code(*pid).iter().map(|map| map.inode).collect()).collect();
    assert!(!files[0].is_empty() && files[0].iter().all(|inode| *inode != 0), "{files:?}");
    assert_eq!(files[0], files[1], "instances of one tenant have the same file mapped");
    assert!(files[0].iter().all(|inode| !files[2].contains(inode)), "{files:?}");
    if !nix::unistd::geteuid().is_root() {
        println!("NOT CHECKED: the numbers of physical pages are for root only; the files differ");
        return;
    }
    let pages = |pid: Pid, of: &dyn Fn(&Mapping) -> bool| -> BTreeSet<u64> {
        let maps = pid.mappings().into_iter().filter(|map| of(map) && map.start < 1 << 47);
        maps.flat_map(|map| pid.physical_pages(map.start, map.end)).collect()
    };
    let shared = |a: &BTreeSet<u64>, b: &BTreeSet<u64>| a.intersection(b).count();
    let is_artifact = |map: &Mapping| CODE_BASE <= map.start && map.end <= CODE_END;
    let [one, again, two] = [0, 1, 2].map(|index| pages(pids[index], &is_artifact));
    assert!(!one.is_empty() && !one.contains(&0), "{one:?}");
    assert!(shared(&one, &again) > 0, "instances of one tenant share code: {one:?} {again:?}");
    assert_eq!(shared(&one, &two), 0, "tenants share pages of the module: {one:?} {two:?}");
    // What SECURITY.md says that they do share: the fork server's own code.
    let is_zygote = |map: &Mapping| map.name.contains("memfd:zygote") && map.protection.contains('x');
    let [one, two] = [0, 2].map(|index| pages(pids[index], &is_zygote));
    assert!(!one.is_empty() && one == two, "the fork server's code: {one:?} {two:?}");
    for native in sessions {
        native.end().await;
    }
}
