//! The layers that a root zygote puts in force once, for everything below it.
//!
//! Order matters: the user namespace gives the capabilities that the other namespaces and the mounts need;
//! Landlock forbids mounting, so the empty root comes first; capabilities go last but for the one that forking
//! into a new PID namespace needs, which the module zygote drops.

use core::ffi::CStr;

use ipc::control::{Command, Step, layer};
use linux_raw_sys::errno::{EINVAL, ENOENT, EPERM};
use linux_raw_sys::general::{
    __NR_capset, __NR_chdir, __NR_keyctl, __NR_landlock_create_ruleset, __NR_landlock_restrict_self,
    __NR_mount, __NR_openat, __NR_pivot_root, __NR_setgroups, __NR_sethostname, __NR_setresgid,
    __NR_setresuid, __NR_umount2, __NR_unshare, __NR_write, AT_FDCWD, CLONE_NEWCGROUP, CLONE_NEWIPC,
    CLONE_NEWNET, CLONE_NEWNS, CLONE_NEWTIME, CLONE_NEWUSER, CLONE_NEWUTS, MNT_DETACH, MS_NODEV, MS_NOEXEC,
    MS_NOSUID, MS_PRIVATE, MS_RDONLY, MS_REC, O_WRONLY,
};
use linux_raw_sys::landlock::landlock_ruleset_attr;
use linux_raw_sys::prctl::{
    PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, PR_CAPBSET_DROP, PR_GET_MEMORY_MERGE, PR_SET_DUMPABLE,
    PR_SET_MEMORY_MERGE, PR_SET_NO_NEW_PRIVS, PR_SET_SECUREBITS,
};

use crate::sys::{self, Errno};

type Failed = (Step, Errno);

fn failed(step: Step) -> impl Fn(Errno) -> Failed {
    move |errno| (step, errno)
}

/// Enters a new user namespace. The supervisor writes the id maps afterwards.
pub fn new_user_namespace() -> Result<(), Failed> {
    unshare(CLONE_NEWUSER).map_err(failed(Step::UnshareUser))
}

/// Takes on the mapped ids, then enters every other namespace and puts every layer in force that the command
/// asks for, but for the seccomp filter.
pub fn confine(command: &Command) -> Result<(), Failed> {
    let wants = |bit| command.layers & bit != 0;
    unmerged().map_err(failed(Step::MemoryMerge))?;
    // With the old ids, which own the files in /proc that this takes; and the last look at /proc.
    if wants(layer::TIME_NAMESPACE) {
        unshare(CLONE_NEWTIME).map_err(failed(Step::UnshareTime))?;
        set_clocks(command.clock_offsets).map_err(failed(Step::ClockOffsets))?;
    }
    if wants(layer::OWN_KEYRING) {
        join_empty_keyring().map_err(failed(Step::Keyring))?;
    }
    take_ids(command).map_err(failed(Step::SetIds))?;
    let namespaces = [
        (Step::UnshareMount, CLONE_NEWNS),
        (Step::UnshareNet, CLONE_NEWNET),
        (Step::UnshareIpc, CLONE_NEWIPC),
        (Step::UnshareUts, CLONE_NEWUTS),
        (Step::UnshareCgroup, CLONE_NEWCGROUP),
    ];
    // One by one, so that an error names its layer.
    for (step, flag) in namespaces {
        if wants(step.layer()) {
            unshare(flag).map_err(failed(step))?;
        }
    }
    if wants(layer::UTS_NAMESPACE) {
        set_host_name(c"sandbox").map_err(failed(Step::HostName))?;
    }
    if wants(layer::EMPTY_ROOT) {
        empty_root().map_err(failed(Step::EmptyRoot))?;
    }
    if wants(layer::NO_NEW_PRIVS) {
        sys::prctl(PR_SET_NO_NEW_PRIVS, 1, 0).map_err(failed(Step::NoNewPrivs))?;
    }
    if wants(layer::LANDLOCK) {
        landlock(command.landlock).map_err(failed(Step::Landlock))?;
    }
    if wants(layer::UNDUMPABLE) {
        sys::prctl(PR_SET_DUMPABLE, 0, 0).map_err(failed(Step::Dumpable))?;
    }
    if wants(layer::CAPABILITIES) {
        lock_capabilities().map_err(failed(Step::Capabilities))?;
    }
    Ok(())
}

/// Takes this process and its children out of the merging of equal pages (KSM), which a host may switch on for whole services:
/// whether a page is shared with somebody else shows in how long a write to it takes.
fn unmerged() -> Result<(), Errno> {
    // An error means that the kernel has no such thing.
    match sys::prctl(PR_GET_MEMORY_MERGE, 0, 0) {
        Ok(1) => sys::prctl(PR_SET_MEMORY_MERGE, 0, 0).map(|_| ()),
        _ => Ok(()),
    }
}

fn unshare(flags: u32) -> Result<(), Errno> {
    // SAFETY: takes no pointer.
    unsafe { sys::call(__NR_unshare, [u64::from(flags), 0, 0, 0, 0, 0]) }.map(|_| ())
}

/// Sets the clocks of the time namespace that children enter; this process itself stays where it is (time_namespaces(7)).
fn set_clocks(offsets: [i64; 2]) -> Result<(), Errno> {
    let mut text = Offsets::default();
    for (clock, seconds) in [&b"monotonic "[..], b"boottime "].into_iter().zip(offsets) {
        text.push(clock);
        text.push_number(seconds);
        text.push(b" 0\n");
    }
    let path = c"/proc/self/timens_offsets".as_ptr() as u64;
    // SAFETY: a zero-terminated path.
    let file = unsafe { sys::call(__NR_openat, [AT_FDCWD as u64, path, u64::from(O_WRONLY), 0, 0, 0])? };
    let (bytes, length) = (text.bytes.as_ptr() as u64, text.length as u64);
    // SAFETY: the text is readable for its length.
    let written = unsafe { sys::call(__NR_write, [file, bytes, length, 0, 0, 0]) };
    sys::close(file as i32);
    written.map(|_| ())
}

/// What the kernel reads from `timens_offsets`.
struct Offsets {
    /// More than two clocks and two numbers of 20 characters take.
    bytes: [u8; 80],
    length: usize,
}

impl Default for Offsets {
    fn default() -> Self {
        Self { bytes: [0; 80], length: 0 }
    }
}

impl Offsets {
    fn push(&mut self, text: &[u8]) {
        for byte in text {
            if let Some(place) = self.bytes.get_mut(self.length) {
                *place = *byte;
                self.length += 1;
            }
        }
    }

    fn push_number(&mut self, number: i64) {
        if number < 0 {
            self.push(b"-");
        }
        let mut digits = [0u8; 20];
        let mut rest = number.unsigned_abs();
        let mut first = digits.len();
        loop {
            first -= 1;
            digits[first] = b'0' + (rest % 10) as u8;
            rest /= 10;
            if rest == 0 {
                break;
            }
        }
        self.push(&digits[first..]);
    }
}

/// linux/keyctl.h.
const KEYCTL_JOIN_SESSION_KEYRING: u64 = 1;

/// Leaves the supervisor's session keyring for a new one, whose keys nobody else has (session-keyring(7)).
fn join_empty_keyring() -> Result<(), Errno> {
    // SAFETY: no name, so no pointer.
    unsafe { sys::call(__NR_keyctl, [KEYCTL_JOIN_SESSION_KEYRING, 0, 0, 0, 0, 0]) }.map(|_| ())
}

/// Becomes the one user and group that the namespace maps. Supplementary groups cannot be dropped where
/// `setgroups` is denied, which is the case when an ordinary user made the namespace; they map to nothing.
fn take_ids(command: &Command) -> Result<(), Errno> {
    // SAFETY: no groups, so no pointer.
    match unsafe { sys::call(__NR_setgroups, [0; 6]) } {
        Ok(_) => {}
        Err(Errno(errno)) if errno == EPERM as i32 => {}
        Err(errno) => return Err(errno),
    }
    let (uid, gid) = (u64::from(command.uid), u64::from(command.gid));
    // SAFETY: take no pointers.
    unsafe {
        sys::call(__NR_setresgid, [gid, gid, gid, 0, 0, 0])?;
        sys::call(__NR_setresuid, [uid, uid, uid, 0, 0, 0])?;
    }
    Ok(())
}

fn set_host_name(name: &CStr) -> Result<(), Errno> {
    // SAFETY: the name is readable for its length.
    unsafe { sys::call(__NR_sethostname, [name.as_ptr() as u64, name.count_bytes() as u64, 0, 0, 0, 0]) }
        .map(|_| ())
}

/// Replaces the root directory by an empty read-only file system and leaves nothing else mounted.
fn empty_root() -> Result<(), Errno> {
    // Nothing that is mounted here reaches the host, nor the other way round.
    mount(c"none", c"/", c"", MS_REC | MS_PRIVATE, c"")?;
    // Any directory will do as the place to mount on; the first of these that exists.
    let options = c"size=4k,nr_inodes=1,mode=0555";
    let flags = MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC;
    let mut mounted = Err(Errno(ENOENT as i32));
    for place in [c"/tmp", c"/proc", c"/usr", c"/dev"] {
        mounted =
            mount(c"tmpfs", place, c"tmpfs", flags, options).and_then(|()| path_call(__NR_chdir, place));
        if mounted.is_ok() {
            break;
        }
    }
    mounted?;
    // pivot_root(2): with both arguments ".", the old root ends up mounted over the new one, and is then detached.
    let here = c".".as_ptr() as u64;
    // SAFETY: the paths are zero-terminated strings.
    unsafe {
        sys::call(__NR_pivot_root, [here, here, 0, 0, 0, 0])?;
        sys::call(__NR_umount2, [here, u64::from(MNT_DETACH), 0, 0, 0, 0])?;
    }
    path_call(__NR_chdir, c"/")
}

fn path_call(number: u32, path: &CStr) -> Result<(), Errno> {
    // SAFETY: the path is a zero-terminated string; used for calls that take nothing else.
    unsafe { sys::call(number, [path.as_ptr() as u64, 0, 0, 0, 0, 0]) }.map(|_| ())
}

fn mount(source: &CStr, target: &CStr, kind: &CStr, flags: u32, options: &CStr) -> Result<(), Errno> {
    let args = [
        source.as_ptr() as u64,
        target.as_ptr() as u64,
        kind.as_ptr() as u64,
        u64::from(flags),
        options.as_ptr() as u64,
        0,
    ];
    // SAFETY: all are zero-terminated strings.
    unsafe { sys::call(__NR_mount, args) }.map(|_| ())
}

/// Enforces a ruleset without rules: every access that it handles is denied.
fn landlock(handled: [u64; 3]) -> Result<(), Errno> {
    let [handled_access_fs, handled_access_net, scoped] = handled;
    let attributes = landlock_ruleset_attr { handled_access_fs, handled_access_net, scoped };
    // A kernel that knows fewer fields accepts a longer structure whose further bytes are zero (landlock(7)).
    // SAFETY: `attributes` is readable for its size.
    let ruleset = unsafe {
        let args = [&raw const attributes as u64, size_of::<landlock_ruleset_attr>() as u64, 0, 0, 0, 0];
        sys::call(__NR_landlock_create_ruleset, args)?
    };
    // SAFETY: takes no pointer.
    let restricted = unsafe { sys::call(__NR_landlock_restrict_self, [ruleset, 0, 0, 0, 0, 0]) };
    sys::close(ruleset as i32);
    restricted.map(|_| ())
}

/// `SECBIT_NOROOT`, `SECBIT_NO_SETUID_FIXUP`, `SECBIT_KEEP_CAPS` off, `SECBIT_NO_CAP_AMBIENT_RAISE`, each with its
/// lock (linux/securebits.h).
const SECUREBITS: u64 = 0b11 | 0b11 << 2 | 0b10 << 4 | 0b11 << 6;

/// `CAP_SYS_ADMIN`, which `clone(CLONE_NEWPID)` needs.
const CAP_SYS_ADMIN: u32 = 21;

/// Empties the bounding set, locks the securebits and keeps one capability, which only this user namespace honours.
pub fn lock_capabilities() -> Result<(), Errno> {
    let _ = sys::prctl(PR_CAP_AMBIENT, u64::from(PR_CAP_AMBIENT_CLEAR_ALL), 0);
    for capability in 0.. {
        match sys::prctl(PR_CAPBSET_DROP, capability, 0) {
            Ok(_) => {}
            // The first number that the kernel does not know.
            Err(Errno(errno)) if errno == EINVAL as i32 && capability > 0 => break,
            Err(errno) => return Err(errno),
        }
    }
    sys::prctl(PR_SET_SECUREBITS, SECUREBITS, 0)?;
    set_capabilities(1 << CAP_SYS_ADMIN)
}

/// Drops every capability.
pub fn no_capabilities() -> Result<(), Failed> {
    set_capabilities(0).map_err(failed(Step::Capabilities))
}

/// Sets the effective and permitted sets; the inheritable set becomes empty (capset(2), version 3).
fn set_capabilities(set: u64) -> Result<(), Errno> {
    const VERSION_3: u32 = 0x2008_0522;
    let header = [VERSION_3, 0];
    let (low, high) = (set as u32, (set >> 32) as u32);
    let data = [[low, low, 0], [high, high, 0]];
    // SAFETY: the structures are as version 3 declares them, and readable.
    unsafe { sys::call(__NR_capset, [header.as_ptr() as u64, data.as_ptr() as u64, 0, 0, 0, 0]) }.map(|_| ())
}
