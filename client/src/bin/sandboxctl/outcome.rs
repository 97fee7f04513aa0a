//! Tells the user how a job ended.

use std::fmt::Write as _;
use std::io::{self, Write};
use std::time::Duration;

use ipc::protocol::one_line;
use ipc::report::{Frame, Limit, LimitReached, Outcome, Report, Trap, Violation};
use policies::{format_duration, format_size};

use crate::error::Error;

/// Prints what there is to say about a report, and returns the exit status.
///
/// Results of an invoked export and the report (`json`) go to stdout, after all output of the guest; how a job ended
/// otherwise than by exiting goes to stderr.
/// The cache's problem is in the report alone: the job ran, and stderr is the guest's. Of a daemon's cache nothing is known.
pub fn tell(report: &Report, cache_problem: Option<String>, json: bool) -> Result<u8, Error> {
    let mut out = String::new();
    if json {
        let mut object = client::report_json(report);
        if let Some(keys) = object.as_object_mut() {
            keys.insert(String::from("cache_problem"), cache_problem.into());
        }
        let _ = writeln!(out, "{object}");
    } else if let Outcome::Exited { results, .. } = &report.outcome {
        for value in results {
            let _ = writeln!(out, "{}", ipc::text::format(value));
        }
    }
    if let Some(message) = message(&report.outcome) {
        // Nobody may be reading; the exit status says it too.
        let _ = io::stderr().write_all(message.as_bytes());
    }
    if !out.is_empty() {
        let mut stdout = io::stdout().lock();
        stdout.write_all(out.as_bytes()).and_then(|()| stdout.flush()).map_err(Error::Stdout)?;
    }
    Ok(report.exit_status())
}

/// One line, and the backtrace of a trap below it; nothing for a guest that exited.
fn message(outcome: &Outcome) -> Option<String> {
    match outcome {
        Outcome::Exited { .. } => None,
        outcome => Some(format!("sandboxctl: {}\n", text(outcome))),
    }
}

/// The same without our name and the last line's end, also for a guest that exited.
pub fn text(outcome: &Outcome) -> String {
    let text = match outcome {
        Outcome::Exited { code, .. } => format!("exited with status {code}"),
        Outcome::Trapped(trap) => return trap_text(trap),
        Outcome::Violated(violation) => format!("violation: {}", violation_message(violation)),
        Outcome::LimitReached(limit) => format!("limit: {}", limit_message(limit)),
        Outcome::Cancelled => String::from("cancelled"),
    };
    one_line(&text)
}

/// A trap's message on one line, and its backtrace below.
pub fn trap_text(trap: &Trap) -> String {
    let mut text = format!("trap: {}", one_line(&trap.message));
    for (index, frame) in trap.backtrace.iter().enumerate() {
        let _ = write!(text, "\n{index:>5}: {}", frame_text(frame));
    }
    text
}

fn frame_text(frame: &Frame) -> String {
    let name = match &frame.name {
        Some(name) => one_line(&rustc_demangle::demangle(name).to_string()),
        None => format!("<wasm function {}>", frame.function),
    };
    let offset = frame.offset.map_or_else(|| String::from("?"), |offset| format!("{offset:#x}"));
    let source = match (&frame.file, frame.line) {
        (Some(file), Some(line)) => format!(" at {}:{line}", one_line(file)),
        _ => String::new(),
    };
    format!("{offset:>8} - {name}{source}")
}

fn violation_message(violation: &Violation) -> String {
    match violation {
        Violation::Syscall { number, name, arch, policy } => {
            format!("system call {name} ({arch} {number}) is not allowed by policy {policy}")
        }
        Violation::Fault { signal, pc, address } => {
            format!("{signal} at {pc:#x}, accessing {address:#x}, which no WebAssembly instruction explains")
        }
        Violation::Ring { rule } => format!("the instance broke the rules of the ring: {rule}"),
        Violation::Died { how } => format!("the instance died: {how}"),
    }
}

fn limit_message(reached: &LimitReached) -> String {
    let LimitReached { limit, value } = *reached;
    match limit {
        Limit::WallTime => {
            format!("the job has run for {}, its time limit", format_duration(Duration::from_nanos(value)))
        }
        Limit::CpuTime => {
            format!(
                "the job has used {} of CPU time, its limit",
                format_duration(Duration::from_nanos(value))
            )
        }
        Limit::Memory => format!("the job needs more memory than its limit of {}", format_size(value)),
        Limit::Output => format!("the job has written more output than its limit of {}", format_size(value)),
        Limit::Host => {
            "the job was killed from outside: the host ran out of memory, or somebody killed it".to_owned()
        }
        Limit::TenantMemory => {
            format!(
                "the jobs of the tenant together need more memory than its limit of {}",
                format_size(value)
            )
        }
        Limit::HostCalls => format!("the job has made more host calls than its limit of {value}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trap_is_one_line_and_its_backtrace() {
        let frame = |function, name: Option<&str>, offset| Frame {
            function,
            name: name.map(String::from),
            offset,
            file: (function == 0).then(|| String::from("src/a\n.c")),
            line: (function == 0).then_some(7),
        };
        let trap = Trap {
            message: "wasm `unreachable` instruction executed".into(),
            backtrace: vec![
                frame(0, Some("boom"), Some(0x3d)),
                frame(1, None, Some(0x12345)),
                frame(2, Some("_ZN3foo3barE"), None),
                frame(3, Some("evil\n\x1b[31mname"), Some(1)),
            ],
        };
        assert_eq!(
            message(&Outcome::Trapped(trap)).expect("message"),
            "sandboxctl: trap: wasm `unreachable` instruction executed\n\
             \x20   0:     0x3d - boom at src/a .c:7\n\
             \x20   1:  0x12345 - <wasm function 1>\n\
             \x20   2:        ? - foo::bar\n\
             \x20   3:      0x1 - evil  [31mname\n"
        );
    }

    #[test]
    fn every_other_end_is_exactly_one_line() {
        for outcome in [
            Outcome::Violated(Violation::Died { how: "two\nlines".into() }),
            Outcome::Violated(Violation::Syscall {
                number: 57,
                name: "fork".into(),
                arch: "x86_64".into(),
                policy: "default".into(),
            }),
            Outcome::LimitReached(LimitReached { limit: Limit::WallTime, value: 1_500_000_000 }),
            Outcome::LimitReached(LimitReached { limit: Limit::Memory, value: 64 << 20 }),
            Outcome::Cancelled,
        ] {
            let text = message(&outcome).expect("message");
            assert!(text.starts_with("sandboxctl: ") && text.ends_with('\n'), "{text}");
            assert_eq!(text.lines().count(), 1, "{text}");
        }
        assert_eq!(message(&Outcome::Exited { code: 3, results: vec![] }), None);
    }
}
