//! From rules to the BPF program that a zygote installs.
//!
//! One program serves the module zygote and its instances. It decides by the instruction pointer which of two
//! allow-lists counts: the gate's for calls made through the call gate ([`layout::GATE_RETURN`]), the
//! instance's for all others.
//!
//! ```text
//!  0  load architecture            5  load instruction pointer, low half
//!  1  x86-64? else 2               6  the gate's? then 8, else 7
//!  2  refuse                       7  jump behind the gate's program
//!  3  load instruction pointer,    8  the gate's program
//!     high half                    …  the instance's program
//!  4  the gate's? else 7
//! ```
//!
//! Where the policy has file data go directly, the instance's program begins by handing one call over to the supervisor
//! ([`ASK`]).
//!
//! Calls of the x32 ABI have the architecture of x86-64 and bit 30 of the number set, so no rule matches them.

use std::collections::BTreeMap;

use ipc::control::FILTER_MAX;
use ipc::layout;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch,
};

use syscalls::x86_64::Sysno;

use crate::condition::{Comparison, Condition};
use crate::error::Error;
use crate::rule::Rule;

/// `AUDIT_ARCH_X86_64`, linux/audit.h: `EM_X86_64 | __AUDIT_ARCH_64BIT | __AUDIT_ARCH_LE`.
pub const AUDIT_ARCH_X86_64: u32 = 62 | 0x8000_0000 | 0x4000_0000;

/// Offsets in `struct seccomp_data`, linux/seccomp.h.
pub(crate) const OFFSET_NUMBER: u32 = 0;
pub(crate) const OFFSET_ARCH: u32 = 4;
pub(crate) const OFFSET_POINTER: u32 = 8;
pub(crate) const OFFSET_ARGS: u32 = 16;
/// `sizeof(struct seccomp_data)`.
pub(crate) const DATA_BYTES: u32 = 64;

/// The call by which an instance asks for a descriptor, under `fs.data = "direct"`: the kernel does not carry it out but tells the
/// supervisor (`SECCOMP_RET_USER_NOTIF`). Carried out, it would do nothing.
pub(crate) const ASK: Sysno = Sysno::sched_yield;

/// What a filter depends on besides its policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FilterContext {
    /// How many memories the module has; growth is confined to their reservations.
    pub memories: u32,
}

impl Default for FilterContext {
    /// The most memories that a module can have.
    fn default() -> Self {
        Self { memories: layout::MEMORIES_MAX as u32 }
    }
}

impl FilterContext {
    /// The end of the last memory's 8 GiB. A growth that starts below it and has at most 8 GiB stays away from
    /// everything but memories.
    pub(crate) fn growth_end(&self) -> u64 {
        match self.memories.min(layout::MEMORIES_MAX as u32).checked_sub(1) {
            Some(last) => layout::memory_base(last) + layout::MEMORY_MAX,
            None => layout::MEMORY_BASE,
        }
    }
}

/// What happens to a call that no rule allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DefaultAction {
    /// `SECCOMP_RET_TRAP`: a forced SIGSYS, whose handler records the call for the report and dies of the next.
    Trap,
    /// `SECCOMP_RET_KILL_PROCESS`: the process dies of SIGSYS; the report cannot name the call.
    Kill,
    /// `SECCOMP_RET_ERRNO`: the call fails with `EPERM`. For the supervisor itself; no policy of jobs can say so.
    Fail,
}

impl DefaultAction {
    fn seccompiler(self) -> SeccompAction {
        match self {
            Self::Trap => SeccompAction::Trap,
            Self::Kill => SeccompAction::KillProcess,
            Self::Fail => SeccompAction::Errno(libc::EPERM as u32),
        }
    }

    fn code(self) -> u32 {
        match self {
            Self::Trap => libc::SECCOMP_RET_TRAP,
            Self::Kill => libc::SECCOMP_RET_KILL_PROCESS,
            Self::Fail => libc::SECCOMP_RET_ERRNO | libc::EPERM as u32,
        }
    }
}

/// The program of the module zygote and its instances.
pub(crate) fn gated(
    policy: &str,
    gate: &[Rule],
    instance: &[Rule],
    asks: bool,
    default: DefaultAction,
    context: &FilterContext,
) -> Result<Vec<libc::sock_filter>, Error> {
    let gate = list(policy, gate, default, context)?;
    let instance = list(policy, instance, default, context)?;
    let gate_length = u32::try_from(gate.len())
        .map_err(|error| Error::Compile { policy: policy.to_owned(), reason: error.to_string() })?;
    let mut program = vec![
        load(OFFSET_ARCH),
        jump_if_equal(AUDIT_ARCH_X86_64, 1, 0),
        statement(libc::BPF_RET | libc::BPF_K, default.code()),
        load(OFFSET_POINTER + 4),
        jump_if_equal((layout::GATE_RETURN >> 32) as u32, 0, 2),
        load(OFFSET_POINTER),
        jump_if_equal(layout::GATE_RETURN as u32, 1, 0),
        statement(libc::BPF_JMP | libc::BPF_JA, gate_length),
    ];
    program.extend(gate);
    if asks {
        program.extend([
            load(OFFSET_NUMBER),
            jump_if_equal(ASK.id() as u32, 0, 1),
            statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_USER_NOTIF),
        ]);
    }
    program.extend(instance);
    checked_length(policy, program)
}

/// A program with one allow-list.
pub(crate) fn plain(
    policy: &str,
    rules: &[Rule],
    default: DefaultAction,
) -> Result<Vec<libc::sock_filter>, Error> {
    let mut program = vec![
        load(OFFSET_ARCH),
        jump_if_equal(AUDIT_ARCH_X86_64, 1, 0),
        statement(libc::BPF_RET | libc::BPF_K, default.code()),
    ];
    program.extend(list(policy, rules, default, &FilterContext::default())?);
    checked_length(policy, program)
}

/// A program with one allow-list, and calls that fail with `ENOSYS` whatever their arguments are.
pub(crate) fn with_absent(
    policy: &str,
    rules: &[Rule],
    absent: &[Rule],
    default: DefaultAction,
) -> Result<Vec<libc::sock_filter>, Error> {
    let mut program = vec![
        load(OFFSET_ARCH),
        jump_if_equal(AUDIT_ARCH_X86_64, 1, 0),
        statement(libc::BPF_RET | libc::BPF_K, default.code()),
        load(OFFSET_NUMBER),
    ];
    for rule in absent {
        program.push(jump_if_equal(rule.syscall.id() as u32, 0, 1));
        program.push(statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32));
    }
    program.extend(list(policy, rules, default, &FilterContext::default())?);
    checked_length(policy, program)
}

fn checked_length(policy: &str, program: Vec<libc::sock_filter>) -> Result<Vec<libc::sock_filter>, Error> {
    if program.len() > FILTER_MAX {
        return Err(Error::FilterTooLong {
            policy: policy.to_owned(),
            instructions: program.len(),
            limit: FILTER_MAX,
        });
    }
    Ok(program)
}

fn list(
    policy: &str,
    rules: &[Rule],
    default: DefaultAction,
    context: &FilterContext,
) -> Result<Vec<libc::sock_filter>, Error> {
    let failed = |error: seccompiler::BackendError| Error::Compile {
        policy: policy.to_owned(),
        reason: error.to_string(),
    };
    let mut by_number: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    for rule in rules {
        // An empty list of alternatives is how seccompiler says "any arguments"; the parser has made sure that
        // no other rule for the same call stands beside such a rule.
        let alternatives = by_number.entry(i64::from(rule.syscall.id())).or_default();
        if !rule.when.is_empty() {
            let conditions =
                rule.when.iter().map(|c| condition(c, context)).collect::<Result<_, _>>().map_err(failed)?;
            alternatives.push(SeccompRule::new(conditions).map_err(failed)?);
        }
    }
    let filter =
        SeccompFilter::new(by_number, default.seccompiler(), SeccompAction::Allow, TargetArch::x86_64)
            .map_err(failed)?;
    let program: BpfProgram = filter.try_into().map_err(failed)?;
    Ok(program.into_iter().map(|i| libc::sock_filter { code: i.code, jt: i.jt, jf: i.jf, k: i.k }).collect())
}

fn condition(
    condition: &Condition,
    context: &FilterContext,
) -> Result<SeccompCondition, seccompiler::BackendError> {
    let operator = match &condition.comparison {
        Comparison::Equal => SeccompCmpOp::Eq,
        Comparison::AtLeast => SeccompCmpOp::Ge,
        Comparison::Above => SeccompCmpOp::Gt,
        Comparison::AtMost => SeccompCmpOp::Le,
        Comparison::Below => SeccompCmpOp::Lt,
        Comparison::MaskedEqual(mask) => SeccompCmpOp::MaskedEq(mask.resolve(context)),
    };
    let value = condition.value.resolve(context);
    SeccompCondition::new(condition.argument, SeccompCmpArgLen::Qword, operator, value)
}

fn statement(code: u32, k: u32) -> libc::sock_filter {
    libc::sock_filter { code: code as u16, jt: 0, jf: 0, k }
}

fn load(offset: u32) -> libc::sock_filter {
    statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, offset)
}

fn jump_if_equal(k: u32, jt: u8, jf: u8) -> libc::sock_filter {
    libc::sock_filter { code: (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16, jt, jf, k }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::condition::Condition;
    use crate::interpreter::{SeccompData, interpret};
    use crate::policy::Policy;
    use crate::zygote::zygote_rules;

    const CONTEXT: FilterContext = FilterContext { memories: 1 };

    fn allowed(rules: &[Rule], number: i32, args: [u64; 6]) -> bool {
        let program = list("test", rules, DefaultAction::Trap, &CONTEXT).unwrap();
        let data =
            SeccompData { number: number as u32, arch: AUDIT_ARCH_X86_64, instruction_pointer: 0, args };
        interpret(&program, &data).unwrap() == libc::SECCOMP_RET_ALLOW
    }

    /// Values at and around every value of the conditions, so that each condition is met by one and missed by another.
    fn candidates(conditions: &[&Condition]) -> Vec<u64> {
        let mut values = vec![0, 1, u64::MAX];
        for condition in conditions {
            let value = condition.value.resolve(&CONTEXT);
            values.extend([value, value.wrapping_sub(1), value.wrapping_add(1)]);
            if let Comparison::MaskedEqual(mask) = &condition.comparison {
                let mask = mask.resolve(&CONTEXT);
                values.extend([value | (!mask & !(!mask - 1)), value ^ (mask & mask.wrapping_neg())]);
            }
        }
        values
    }

    /// Arguments for which `with` allows the call and `without` does not: what is between the two.
    fn difference(syscall: i32, with: &[Rule], without: &[Rule]) -> Option<[u64; 6]> {
        let conditions: Vec<&Condition> =
            with.iter().chain(without).filter(|r| r.syscall.id() == syscall).flat_map(|r| &r.when).collect();
        let values: Vec<Vec<u64>> = (0..6u8)
            .map(|argument| {
                candidates(&conditions.iter().copied().filter(|c| c.argument == argument).collect::<Vec<_>>())
            })
            .collect();
        let used: Vec<usize> =
            (0..6).filter(|i| conditions.iter().any(|c| usize::from(c.argument) == *i)).collect();
        // All combinations over the arguments that some condition looks at.
        let mut stack = vec![([0u64; 6], 0)];
        let matches = |rules: &[Rule], args: &[u64; 6]| {
            rules.iter().any(|r| {
                r.syscall.id() == syscall
                    && r.when.iter().all(|c| c.holds(args[usize::from(c.argument)], &CONTEXT))
            })
        };
        while let Some((args, depth)) = stack.pop() {
            let Some(argument) = used.get(depth) else {
                if matches(with, &args) && !matches(without, &args) {
                    return Some(args);
                }
                continue;
            };
            for value in &values[*argument] {
                let mut next = args;
                next[*argument] = *value;
                stack.push((next, depth + 1));
            }
        }
        None
    }

    fn lists() -> Vec<(String, Vec<Rule>)> {
        let zygote = zygote_rules().unwrap();
        let mut lists =
            vec![("gate".to_owned(), zygote.gate.clone()), ("base".to_owned(), zygote.base.clone())];
        lists.push(("compile".to_owned(), crate::compile_rules().unwrap().allow.clone()));
        lists.push(("supervisor".to_owned(), crate::supervisor_rules().unwrap().allow.clone()));
        for name in Policy::names() {
            lists.push((name.to_owned(), Policy::builtin(name).unwrap().seccomp().allow.clone()));
        }
        lists
    }

    #[test]
    fn no_rule_is_redundant_and_each_says_why() {
        for (name, rules) in lists() {
            assert!(!rules.is_empty(), "{name}");
            for (index, rule) in rules.iter().enumerate() {
                assert!(rule.why.split(' ').count() >= 3, "{name}: {rule} has no real reason");
                let mut without = rules.clone();
                without.remove(index);
                let args = difference(rule.syscall.id(), &rules, &without).unwrap_or_else(|| {
                    panic!("{name}: {rule} allows nothing that another rule does not allow")
                });
                // What the conditions say is what the compiled program does.
                assert!(allowed(&rules, rule.syscall.id(), args), "{name}: {rule} {args:x?}");
                assert!(!allowed(&without, rule.syscall.id(), args), "{name}: {rule} {args:x?}");
            }
        }
    }

    /// The test above would find what it looks for, also a rule that only others together make redundant.
    #[test]
    fn a_planted_redundant_rule_is_found() {
        let rule = |when: &[&str]| Rule {
            syscall: syscalls::x86_64::Sysno::write,
            when: when.iter().map(|text| Condition::parse(text).unwrap()).collect(),
            why: "It is a planted rule.".into(),
            at: crate::rule::Place { file: "planted".into(), line: 1 },
        };
        let redundant = [rule(&["arg0 >= 4"]), rule(&["arg0 <= 8"]), rule(&["arg0 == 6"])];
        assert_eq!(difference(libc::SYS_write as i32, &redundant, &redundant[..2]), None);
        assert!(difference(libc::SYS_write as i32, &redundant, &redundant[1..]).is_some());
        let text = "version = 1\n[seccomp]\ndeny = [\"write\"]\n[[seccomp.allow]]\nsyscall = \"write\"\n\
            when = [\"arg0 == DOORBELL_FD\", \"arg2 == 8\"]\n";
        let error = Policy::parse(text, "planted.toml").unwrap_err().to_string();
        assert!(error.contains("lacks the key \"why\""), "{error}");
    }

    #[test]
    fn no_condition_is_redundant() {
        for (name, rules) in lists() {
            for (index, rule) in rules.iter().enumerate() {
                for condition in 0..rule.when.len() {
                    let mut looser = rules.clone();
                    let dropped = looser[index].when.remove(condition);
                    let args = difference(rule.syscall.id(), &looser, &rules)
                        .unwrap_or_else(|| panic!("{name}: {rule}: {dropped} refuses nothing"));
                    assert!(!allowed(&rules, rule.syscall.id(), args), "{name}: {rule} {args:x?}");
                }
            }
        }
    }

    #[test]
    fn the_kernel_would_take_the_programs() {
        for name in Policy::names() {
            let program = Policy::builtin(name).unwrap().instance_filter(&FilterContext::default()).unwrap();
            assert!(program.len() < 400, "{name}: {} instructions", program.len());
            // As bpf_check_classic of the kernel: jumps stay inside, the last instruction returns.
            for (index, instruction) in program.iter().enumerate() {
                let jumps = match instruction.code & 7 {
                    5 if instruction.code & 0xF0 == 0 => vec![instruction.k as usize],
                    5 => vec![usize::from(instruction.jt), usize::from(instruction.jf)],
                    _ => vec![],
                };
                assert!(
                    jumps.iter().all(|jump| index + 1 + jump < program.len()),
                    "{name}: instruction {index}"
                );
            }
            assert_eq!(program.last().unwrap().code & 7, 6);
        }
    }

    #[test]
    fn a_filter_that_is_too_long_is_refused() {
        let conditions = |n: u64| {
            (0..16).map(|i| Condition::parse(&format!("arg{} == {}", i % 6, n + i)).unwrap()).collect()
        };
        let rules: Vec<Rule> = (0..128)
            .map(|n| Rule {
                syscall: syscalls::x86_64::Sysno::write,
                when: conditions(n),
                why: String::new(),
                at: crate::rule::Place { file: "long".into(), line: 1 },
            })
            .collect();
        let error = gated("long", &[], &rules, false, DefaultAction::Trap, &CONTEXT).unwrap_err();
        assert!(matches!(&error, Error::FilterTooLong { .. } | Error::Compile { .. }), "{error}");
        assert!(error.to_string().contains("4096"), "{error}");
    }
}
