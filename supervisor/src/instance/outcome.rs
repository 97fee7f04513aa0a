//! From what is known of a dead instance to the one outcome of its job.
//!
//! The kernel's wait status and the supervisor's own decisions are facts; the exit record is the instance's own
//! word and only fills in what does not matter for safety: a hostile instance can lie about how *it* ended.

use std::io;

use compiler::TrapKind;
use ipc::control::Step;
use ipc::job::{BACKTRACE_MAX, ExitRecord, exit_kind};
use ipc::layout::{MEMORIES_END, MEMORY_BASE, STACK_REGION_BASE};
use ipc::report::{Frame, Limit, LimitReached, Outcome, Trap, Value, Violation};
use nix::sys::signal::Signal;

use crate::module::Module;
use crate::zygote::module::Death;

/// Why the supervisor ended an instance.
#[derive(Debug)]
pub(crate) enum Ending {
    /// It did not.
    None,
    /// The instance broke a rule of the ring.
    Violation(Violation),
    /// A limit.
    Limit(LimitReached),
    /// The host app asked for it.
    Cancelled,
}

/// What is known.
#[derive(Debug)]
pub(crate) struct Evidence<'e> {
    pub(crate) ending: Ending,
    pub(crate) death: Death,
    pub(crate) record: &'e ExitRecord,
    pub(crate) module: &'e Module,
    pub(crate) policy: &'e str,
    /// Lowest address of the guest's stack.
    pub(crate) stack_bottom: u64,
    /// Limits, for reports of those that the kernel enforces.
    pub(crate) cpu_limit_seconds: u64,
    pub(crate) memory_limit: u64,
    /// The limit of its tenant's memory, if the kernel has killed it for that.
    pub(crate) tenant_memory: Option<u64>,
    /// Whether a refused growth of memory ends the job.
    pub(crate) ends_at_memory_limit: bool,
    /// Why the last call of a function of the host app failed, if it did.
    pub(crate) failure: Option<String>,
    /// Results of the entry point, if it returned.
    pub(crate) results: Vec<Value>,
}

/// The outcome of a job that was ended before it had an instance.
pub(crate) fn not_started(ending: Ending) -> Outcome {
    match ending {
        Ending::Violation(violation) => Outcome::Violated(violation),
        Ending::Limit(limit) => Outcome::LimitReached(limit),
        Ending::None | Ending::Cancelled => Outcome::Cancelled,
    }
}

/// The outcome.
pub(crate) fn outcome(evidence: Evidence<'_>) -> Outcome {
    let record = evidence.record;
    let status = evidence.death.status;
    let exited = libc::WIFEXITED(status).then(|| libc::WEXITSTATUS(status));
    match evidence.ending {
        Ending::Violation(violation) => return Outcome::Violated(violation),
        Ending::Limit(limit) if exited.is_none() || limit.limit != Limit::WallTime => {
            return Outcome::LimitReached(limit);
        }
        Ending::Cancelled if exited.is_none() => return Outcome::Cancelled,
        // The instance ended by itself before the signal reached it.
        Ending::None | Ending::Limit(_) | Ending::Cancelled => {}
    }
    let Some(code) = exited else {
        return killed(&evidence, libc::WTERMSIG(status));
    };
    match record.kind {
        exit_kind::RETURNED if code == 0 => Outcome::Exited { code: 0, results: evidence.results },
        exit_kind::PROC_EXIT if code == (record.code & 0xff) as i32 => {
            Outcome::Exited { code: record.code, results: Vec::new() }
        }
        exit_kind::MEMORY_LIMIT if evidence.ends_at_memory_limit => {
            Outcome::LimitReached(LimitReached { limit: Limit::Memory, value: evidence.memory_limit })
        }
        exit_kind::FAULT => fault(record, evidence.module, evidence.stack_bottom, evidence.failure),
        // By its own word: after the first guest instruction it could be a lie, so it is no error of ours.
        exit_kind::SETUP_FAILED => Outcome::Violated(Violation::Died {
            how: match Step::from_number(record.code) {
                Some(step) => format!(
                    "it says that it could not {}: {}",
                    step.what(),
                    io::Error::from_raw_os_error(record.signal as i32)
                ),
                None => "it says that it could not set itself up".to_owned(),
            },
        }),
        kind => Outcome::Violated(Violation::Died {
            how: format!("it exited with status {code} and left a record of kind {kind} that does not fit"),
        }),
    }
}

fn killed(evidence: &Evidence<'_>, signal: i32) -> Outcome {
    let name = || Signal::try_from(signal).map_or_else(|_| format!("signal {signal}"), |s| s.to_string());
    match signal {
        libc::SIGSYS => Outcome::Violated(syscall(evidence)),
        // Only the kernel sends it, at RLIMIT_CPU, whose count of ticks may differ from the exact time in the usage.
        libc::SIGXCPU if evidence.cpu_limit_seconds > 0 => {
            let value = evidence.cpu_limit_seconds.saturating_mul(1_000_000_000);
            Outcome::LimitReached(LimitReached { limit: Limit::CpuTime, value })
        }
        // An instance can send no signal, so this came from the host.
        libc::SIGKILL => Outcome::LimitReached(match evidence.tenant_memory {
            Some(value) => LimitReached { limit: Limit::TenantMemory, value },
            None => LimitReached { limit: Limit::Host, value: 0 },
        }),
        _ => Outcome::Violated(Violation::Died { how: format!("it was killed by {}", name()) }),
    }
}

/// `AUDIT_ARCH_*` values (linux/audit.h).
const ARCH_X86_64: u32 = 0xC000_003E;
const ARCH_I386: u32 = 0x4000_0003;
/// Marks x32 system call numbers (arch/x86/include/uapi/asm/unistd.h).
const X32_BIT: u64 = 0x4000_0000;

fn syscall(evidence: &Evidence<'_>) -> Violation {
    let record = evidence.record;
    let recorded = record.kind == exit_kind::SYSCALL;
    let number = if recorded { record.syscall } else { 0 };
    let known = |sysno: Option<String>| sysno.unwrap_or_else(|| "unknown".to_owned());
    let (arch, name) = match (record.kind, record.arch) {
        (exit_kind::SYSCALL, ARCH_X86_64) if number & X32_BIT != 0 => {
            let sysno = syscalls::x86_64::Sysno::new((number & !X32_BIT) as usize);
            ("x32", known(sysno.map(|s| s.name().to_owned())))
        }
        (exit_kind::SYSCALL, ARCH_X86_64) => {
            ("x86_64", known(syscalls::x86_64::Sysno::new(number as usize).map(|s| s.name().to_owned())))
        }
        (exit_kind::SYSCALL, ARCH_I386) => {
            ("i386", known(syscalls::x86::Sysno::new(number as usize).map(|s| s.name().to_owned())))
        }
        // The kernel says that a call was refused; the record that should say which was not written.
        _ => ("unknown", "unknown".to_owned()),
    };
    Violation::Syscall { number, name, arch: arch.to_owned(), policy: evidence.policy.to_owned() }
}

/// What a fault means that the instance describes: a trap, or a violation. `failure` is why a function of the host app failed, for
/// the trap that follows.
pub(crate) fn fault(
    record: &ExitRecord,
    module: &Module,
    stack_bottom: u64,
    failure: Option<String>,
) -> Outcome {
    let in_guard = (STACK_REGION_BASE..stack_bottom).contains(&record.address);
    let trap = module.artifact().trap_at(record.pc).filter(|kind| explains(*kind, record));
    let message = match trap {
        _ if record.signal == libc::SIGSEGV as u32 && in_guard => "call stack exhausted".to_owned(),
        Some(TrapKind::HostFunction) => failure.unwrap_or_else(|| TrapKind::HostFunction.to_string()),
        Some(kind) => kind.to_string(),
        None => {
            let signal = Signal::try_from(record.signal as i32).map_or("unknown", |s| s.as_str());
            return Outcome::Violated(Violation::Fault {
                signal: signal.to_owned(),
                pc: record.pc,
                address: record.address,
            });
        }
    };
    Outcome::Trapped(Trap { message, backtrace: backtrace(record, module) })
}

/// Whether a trap of this kind is what such a fault means. A trap site alone does not say so: an access that went
/// where no access of that instruction can go is a broken first wall, not a trap.
fn explains(kind: TrapKind, record: &ExitRecord) -> bool {
    match record.signal as i32 {
        // Checks that compiled code makes itself end in an undefined instruction.
        libc::SIGILL => true,
        libc::SIGFPE => matches!(kind, TrapKind::IntegerDivideByZero | TrapKind::IntegerOverflow),
        libc::SIGSEGV | libc::SIGBUS => {
            kind == TrapKind::MemoryOutOfBounds && (MEMORY_BASE..MEMORIES_END).contains(&record.address)
        }
        _ => false,
    }
}

/// WebAssembly frames of the recorded program counters. Addresses that are no function's are left out: the record is
/// the instance's word.
fn backtrace(record: &ExitRecord, module: &Module) -> Vec<Frame> {
    let length = usize::try_from(record.backtrace_len).unwrap_or(BACKTRACE_MAX).min(BACKTRACE_MAX);
    let artifact = module.artifact();
    let callers = record.backtrace.iter().take(length).map(|address| artifact.symbolize_return(*address));
    std::iter::once(artifact.symbolize(record.pc))
        .chain(callers)
        .flatten()
        .map(|frame| {
            let (file, line) = frame.source.unzip();
            let (name, offset) = (Some(frame.name), Some(frame.wasm_offset));
            Frame { function: frame.function, name, offset, file, line }
        })
        .collect()
}
