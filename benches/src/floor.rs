//! What this machine's kernel takes for the least that a job is made of: to have a process, confined or not, and to have it gone again. Figures of
//! jobs mean something beside these only: machines of the same kind differ by a factor of two.

use std::ffi::CStr;
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::{Duration, Instant};

use clap::Args;
use nix::sched::{CloneFlags, CpuSet, sched_getaffinity, sched_setaffinity, unshare};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::Failure;

#[derive(Args)]
pub(crate) struct Floor {
    /// Processes that are made and reaped, for each figure.
    #[arg(long, default_value_t = 5000)]
    count: u32,
    /// How often each figure is taken; the median is printed.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
}

/// Microseconds from one fork to the next, where each child ends at once and is reaped.
pub(crate) fn measure(options: &Floor) -> Result<Value, Failure> {
    let plain = CloneFlags::empty();
    // Not the PID namespace: its first process would have to live as long as the others.
    let apart = CloneFlags::CLONE_NEWUSER
        | CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWNET
        | CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWUTS
        | CloneFlags::CLONE_NEWCGROUP;
    let median = |figure: &dyn Fn() -> Result<f64, Failure>| -> Result<f64, Failure> {
        let mut all = (0..options.rounds.max(1)).map(|_| figure()).collect::<Result<Vec<_>, _>>()?;
        all.sort_by(f64::total_cmp);
        Ok(all[all.len() / 2])
    };
    let allowed = sched_getaffinity(Pid::from_raw(0))?;
    let all: Vec<usize> = (0..CpuSet::count()).filter(|cpu| allowed.is_set(*cpu).unwrap_or(false)).collect();
    let one = |namespaces| median(&|| forking(options.count, &all[..1], namespaces));
    let each = median(&|| forking(options.count, &all, plain))?;
    Ok(json!({
        "fork_exit_reap_us": one(plain)?,
        "fork_exit_reap_in_namespaces_us": one(apart)?,
        "processors": all.len(),
        "forks_per_second_on_all": 1e6 / each * all.len() as f64,
    }))
}

/// On each of these processors at the same time.
fn forking(count: u32, processors: &[usize], namespaces: CloneFlags) -> Result<f64, Failure> {
    // What it takes to start the program is taken off.
    let (nothing, all) = (run(1, processors, namespaces)?, run(count, processors, namespaces)?);
    Ok(all.saturating_sub(nothing).as_secs_f64() * 1e6 / f64::from(count.saturating_sub(1).max(1)))
}

fn run(count: u32, processors: &[usize], namespaces: CloneFlags) -> Result<Duration, Failure> {
    let program = program(count)?;
    let path = format!("/proc/self/fd/{}", program.as_raw_fd());
    let started = Instant::now();
    let mut children = Vec::new();
    for processor in processors {
        let mut set = CpuSet::new();
        set.set(*processor)?;
        let mut command = Command::new(&path);
        // SAFETY: system calls only, which neither allocate nor lock.
        unsafe {
            command.pre_exec(move || {
                sched_setaffinity(Pid::from_raw(0), &set)?;
                unshare(namespaces)?;
                Ok(())
            });
        }
        children.push(command.spawn()?);
    }
    for mut child in children {
        let status = child.wait()?;
        if !status.success() {
            return Err(format!("the program that forks ended with {status}").into());
        }
    }
    Ok(started.elapsed())
}

/// A static program of one page that forks so often, each time after the last child's end.
fn program(count: u32) -> Result<OwnedFd, Failure> {
    const NAME: &CStr = c"floor";
    const BASE: u64 = 0x40_0000;
    const HEADERS: u64 = 64 + 56;
    let code = code();
    let size = HEADERS + 4 + code.len() as u64;
    let mut elf = Vec::new();
    elf.extend(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    // ET_EXEC, EM_X86_64, version (elf(5)).
    elf.extend([2u16, 62].map(u16::to_le_bytes).concat());
    elf.extend(1u32.to_le_bytes());
    // Entry, program headers, no section headers.
    elf.extend([BASE + HEADERS + 4, 64, 0].map(u64::to_le_bytes).concat());
    elf.extend(0u32.to_le_bytes());
    elf.extend([64u16, 56, 1, 0, 0, 0].map(u16::to_le_bytes).concat());
    // PT_LOAD, readable and executable, all of the file.
    elf.extend([1u32, 5].map(u32::to_le_bytes).concat());
    elf.extend([0, BASE, BASE, size, size, 4096].map(u64::to_le_bytes).concat());
    debug_assert_eq!(elf.len() as u64, HEADERS);
    // Where the code looks for it: right before itself.
    elf.extend(count.to_le_bytes());
    elf.extend(code);
    // Not closed at exec: the path leads through it.
    let fd = memfd_create(NAME, MFdFlags::empty())?;
    let mut file = File::from(fd);
    file.write_all(&elf)?;
    // A file that is open for writing cannot be executed.
    let again = nix::fcntl::open(
        format!("/proc/self/fd/{}", file.as_fd().as_raw_fd()).as_str(),
        nix::fcntl::OFlag::O_RDONLY,
        nix::sys::stat::Mode::empty(),
    )?;
    Ok(again)
}

#[cfg(target_arch = "x86_64")]
std::arch::global_asm!(
    ".globl sandboxd_floor_start",
    "sandboxd_floor_start:",
    "mov ebx, [rip + sandboxd_floor_start - 4]",
    "2:",
    // clone(SIGCHLD, 0, 0, 0, 0)
    "mov eax, 56",
    "mov edi, 17",
    "xor esi, esi",
    "xor edx, edx",
    "xor r10d, r10d",
    "xor r8d, r8d",
    "syscall",
    "test eax, eax",
    "js 4f",
    "jz 3f",
    // wait4(child, 0, 0, 0)
    "mov edi, eax",
    "mov eax, 61",
    "xor esi, esi",
    "xor edx, edx",
    "xor r10d, r10d",
    "syscall",
    "dec ebx",
    "jnz 2b",
    // exit(0)
    "3:",
    "xor edi, edi",
    "mov eax, 60",
    "syscall",
    "4:",
    "mov edi, 1",
    "mov eax, 60",
    "syscall",
    ".globl sandboxd_floor_end",
    "sandboxd_floor_end:",
);

#[cfg(target_arch = "x86_64")]
fn code() -> &'static [u8] {
    unsafe extern "C" {
        static sandboxd_floor_start: u8;
        static sandboxd_floor_end: u8;
    }
    let (start, end) = (&raw const sandboxd_floor_start, &raw const sandboxd_floor_end);
    // SAFETY: both are labels of the block of assembly above, which is mapped and readable for the whole run.
    unsafe { std::slice::from_raw_parts(start, end.addr() - start.addr()) }
}
