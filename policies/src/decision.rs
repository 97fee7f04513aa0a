//! What the kernel would decide about one system call, and which rule makes it so.

use ipc::layout;
use syscalls::x86_64::Sysno;

use crate::compile::{compile_filter, compile_rules};
use crate::error::Error;
use crate::filter::{AUDIT_ARCH_X86_64, FilterContext};
use crate::interpreter::{SeccompData, interpret};
use crate::policy::{Policy, zygote_base_filter};
use crate::rule::Rule;
use crate::supervisor::{supervisor_filter, supervisor_rules};
use crate::zygote::zygote_rules;

/// From where a call is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Via {
    /// From guest code, the shim, or whatever runs in an instance after its set-up.
    Instance,
    /// From the call gate: the module zygote, and an instance until it has dropped the gate.
    Gate,
}

/// A system call to ask about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Question {
    /// From where.
    pub via: Via,
    /// Number.
    pub number: u32,
    /// `AUDIT_ARCH_*`.
    pub arch: u32,
    /// Arguments.
    pub args: [u64; 6],
    /// How many memories the module has.
    pub context: FilterContext,
}

impl Question {
    /// A call of an instance with one memory.
    pub fn new(number: u32, args: [u64; 6]) -> Self {
        let context = FilterContext { memories: 1 };
        Self { via: Via::Instance, number, arch: AUDIT_ARCH_X86_64, args, context }
    }

    fn data(&self) -> SeccompData {
        let instruction_pointer = match self.via {
            Via::Gate => layout::GATE_RETURN,
            Via::Instance => 0,
        };
        SeccompData { number: self.number, arch: self.arch, instruction_pointer, args: self.args }
    }
}

/// What decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DecidedBy {
    /// The call is allowed by this rule.
    Rule(Rule),
    /// It is refused: these are the rules for this call, none of which is met.
    NoRuleMet(Vec<Rule>),
    /// It is refused: the list has no rule for this call.
    NoRule,
    /// It is refused: the call is not one of x86-64.
    Architecture,
    /// The policy's filter allows it, but the base filter that every instance inherits refuses it.
    BaseFilter,
}

/// What the kernel would do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// A `SECCOMP_RET_*` value: the strictest of all filters that are in force.
    pub action: u32,
    /// Why.
    pub decided_by: DecidedBy,
}

impl Answer {
    /// Whether the call is allowed.
    pub fn is_allowed(&self) -> bool {
        is_allowed(self.action)
    }

    /// What happens, in words.
    pub fn action_text(&self) -> String {
        match self.action & libc::SECCOMP_RET_ACTION_FULL {
            libc::SECCOMP_RET_ALLOW => "allowed".to_owned(),
            libc::SECCOMP_RET_USER_NOTIF => "answered by the supervisor in the kernel's place".to_owned(),
            libc::SECCOMP_RET_TRAP => "refused: SIGSYS ends the process".to_owned(),
            libc::SECCOMP_RET_KILL_PROCESS => "refused: the process is killed".to_owned(),
            libc::SECCOMP_RET_ERRNO => {
                let errno = self.action & libc::SECCOMP_RET_DATA;
                format!("refused: the call fails with error {errno}")
            }
            other => format!("action {other:#x}"),
        }
    }
}

/// Whether a call with this action does not end the process.
fn is_allowed(action: u32) -> bool {
    [libc::SECCOMP_RET_ALLOW, libc::SECCOMP_RET_USER_NOTIF].contains(&action)
}

/// A system call by its name or number.
pub fn parse_syscall(text: &str) -> Result<u32, Error> {
    if let Ok(call) = text.parse::<Sysno>() {
        return Ok(call.id() as u32);
    }
    let number = match text.strip_prefix("0x") {
        Some(digits) if digits.bytes().all(|b| b.is_ascii_hexdigit()) => u32::from_str_radix(digits, 16).ok(),
        _ => text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok()).flatten(),
    };
    number.ok_or_else(|| Error::UnknownCall {
        name: crate::document::quote(text),
        hint: crate::error::hint(text, Sysno::iter().map(|call| call.name())),
    })
}

impl Policy {
    /// What the kernel would do about a call under this policy: the compiled programs are run, and the rule that they come from is
    /// looked up.
    pub fn answer(&self, question: &Question) -> Result<Answer, Error> {
        let list = match question.via {
            Via::Instance => &self.seccomp().allow,
            Via::Gate => &zygote_rules()?.gate,
        };
        let own = self.instance_filter(&question.context)?;
        answer(self.name(), list, &[own, zygote_base_filter()?], question)
    }
}

impl Question {
    /// What the kernel would do about the call in a compile worker.
    pub fn of_compile_worker(&self) -> Result<Answer, Error> {
        answer("compile", &compile_rules()?.allow, &[compile_filter()?], self)
    }

    /// What the kernel would do about the call in a confined daemon.
    pub fn of_supervisor(&self) -> Result<Answer, Error> {
        answer("supervisor", &supervisor_rules()?.allow, &[supervisor_filter()?], self)
    }
}

fn answer(
    name: &str,
    list: &[Rule],
    programs: &[Vec<libc::sock_filter>],
    question: &Question,
) -> Result<Answer, Error> {
    let failed = |reason: String| Error::Compile { policy: name.to_owned(), reason };
    let mut actions = Vec::new();
    for program in programs {
        actions.push(interpret(program, &question.data()).map_err(|error| failed(error.to_string()))?);
    }
    // As seccomp_run_filters of the kernel: the smallest as a signed number counts, the first of several.
    let rank = |action: &u32| (action & libc::SECCOMP_RET_ACTION_FULL) as i32;
    let action = actions.iter().copied().min_by_key(rank).unwrap_or(libc::SECCOMP_RET_KILL_PROCESS);
    let same = |rule: &&Rule| rule.syscall.id() as u32 == question.number;
    let met = |rule: &&Rule| rule.unmet(&question.args, &question.context).is_empty();
    let rules: Vec<&Rule> = list.iter().filter(same).collect();
    let matching = rules.iter().copied().find(|rule| met(rule));
    let own_allows = actions.first().is_some_and(|action| is_allowed(*action));
    let decided_by = match (own_allows, matching) {
        _ if question.arch != AUDIT_ARCH_X86_64 => DecidedBy::Architecture,
        (true, Some(rule)) if is_allowed(action) => DecidedBy::Rule(rule.clone()),
        (true, Some(_)) => DecidedBy::BaseFilter,
        (false, None) if rules.is_empty() => DecidedBy::NoRule,
        (false, None) => DecidedBy::NoRuleMet(rules.into_iter().cloned().collect()),
        // Never seen; the fuzz target for policies looks for it.
        (true, None) | (false, Some(_)) => {
            return Err(failed("the program does not decide as its rules say; this is a bug".to_owned()));
        }
    };
    Ok(Answer { action, decided_by })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(policy: &str, question: Question) -> Answer {
        Policy::builtin(policy).unwrap().answer(&question).unwrap()
    }

    #[test]
    fn an_answer_names_the_rule_that_decided() {
        let write = |args| Question::new(libc::SYS_write as u32, args);
        let allowed = ask("default", write([layout::DOORBELL_FD as u64, 0, 8, 0, 0, 0]));
        assert!(allowed.is_allowed());
        let DecidedBy::Rule(rule) = &allowed.decided_by else { panic!("{allowed:?}") };
        assert_eq!((rule.syscall, &*rule.at.file), (Sysno::write, "default"));
        assert!(rule.at.line > 1 && !rule.why.is_empty());

        let refused = ask("default", write([1, 0, 8, 0, 0, 0]));
        assert_eq!(refused.action, libc::SECCOMP_RET_TRAP);
        let DecidedBy::NoRuleMet(rules) = &refused.decided_by else { panic!("{refused:?}") };
        let unmet = rules[0].unmet(&[1, 0, 8, 0, 0, 0], &FilterContext { memories: 1 });
        assert_eq!(unmet.len(), 1);
        assert_eq!(unmet[0].to_string(), "arg0 == DOORBELL_FD");

        // The rule of an inherited policy keeps its place; what compute takes away is gone.
        let exit = Question::new(libc::SYS_exit_group as u32, [0; 6]);
        assert!(matches!(ask("compute", exit).decided_by, DecidedBy::Rule(r) if &*r.at.file == "default"));
        assert_eq!(ask("compute", write([3, 0, 8, 0, 0, 0])).decided_by, DecidedBy::NoRule);

        let other = Question { arch: 0x4000_0003, ..write([3, 0, 8, 0, 0, 0]) };
        assert_eq!(ask("default", other).decided_by, DecidedBy::Architecture);
        let clone = Question::new(libc::SYS_clone as u32, [0x1011, 0, 0, 0, 0, 0]);
        assert_eq!(ask("default", clone).decided_by, DecidedBy::NoRule);
        let gate = ask("default", Question { via: Via::Gate, ..clone });
        assert!(matches!(gate.decided_by, DecidedBy::Rule(rule) if &*rule.at.file == "zygote"));
        let compiling = Question::new(libc::SYS_openat as u32, [0; 6]).of_compile_worker().unwrap();
        assert_eq!(compiling.action_text(), "refused: the call fails with error 38");
    }

    /// Every call of every built-in policy has an answer: rules and program never disagree.
    #[test]
    fn rules_and_programs_agree() {
        for name in Policy::names() {
            for number in 0..=600 {
                for first in [0, 3, 0x1011, layout::RING_BASE, layout::MEMORY_BASE] {
                    for via in [Via::Instance, Via::Gate] {
                        let args = [first, 4096, 3, 0, 0, 0];
                        ask(name, Question { via, ..Question::new(number, args) });
                    }
                }
            }
        }
    }

    #[test]
    fn calls_are_named_or_numbered() {
        assert_eq!(parse_syscall("write").unwrap(), 1);
        assert_eq!(parse_syscall("1000").unwrap(), 1000);
        assert_eq!(parse_syscall("0x40000001").unwrap(), 0x4000_0001);
        for text in ["wirte", "-1", "+1", "99999999999", ""] {
            assert!(matches!(parse_syscall(text), Err(Error::UnknownCall { .. })), "{text}");
        }
    }
}
