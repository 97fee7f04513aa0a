//! Seccomp rules: which system call, with which arguments, and why.

use std::fmt;
use std::sync::Arc;

use syscalls::x86_64::Sysno;

use crate::condition::Condition;
use crate::document::{Table, Value, quote};
use crate::error::Error;
use crate::filter::FilterContext;
use crate::keys;

/// Conditions that one rule may have, and rules that one list may have. Together they bound the filter's length.
const CONDITIONS_MAX: usize = 16;
const RULES_MAX: usize = 128;

/// Where a rule stands.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Place {
    /// Name of the file, or of the built-in profile.
    pub file: Arc<str>,
    /// Line, from 1.
    pub line: u32,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

/// One rule of an allow-list: the call is allowed if all conditions hold.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Rule {
    /// The system call.
    pub syscall: Sysno,
    /// Conditions on its arguments; none allows every call.
    pub when: Vec<Condition>,
    /// Why the rule is there.
    pub why: String,
    /// Where it stands: for an inherited rule, in the policy that it is inherited from.
    pub at: Place,
}

impl Rule {
    /// Whether this rule allows every call that `other` allows. May be false where it does; is never true where it does not.
    pub(crate) fn covers(&self, other: &Self) -> bool {
        self.syscall == other.syscall
            && self.when.iter().all(|condition| other.when.iter().any(|its| its.implies(condition)))
    }

    /// The conditions that do not hold for these arguments.
    pub fn unmet(&self, args: &[u64; 6], context: &FilterContext) -> Vec<&Condition> {
        let holds = |condition: &&Condition| {
            args.get(usize::from(condition.argument)).is_some_and(|arg| condition.holds(*arg, context))
        };
        self.when.iter().filter(|condition| !holds(condition)).collect()
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.syscall.name())?;
        for (i, condition) in self.when.iter().enumerate() {
            f.write_str(if i == 0 { " when " } else { " and " })?;
            condition.fmt(f)?;
        }
        Ok(())
    }
}

/// Parses the name of a system call.
pub(crate) fn syscall(value: &Value<'_>) -> Result<Sysno, Error> {
    value.string()?.parse().map_err(|()| value.unknown(Sysno::iter().map(|call| call.name())))
}

/// Parses a list of rules (`[[section.allow]]`) and adds them to `rules`.
pub(crate) fn rules(
    list: &Value<'_>,
    rules: &mut Vec<Rule>,
    check: impl Fn(&Value<'_>, &Rule) -> Result<(), Error>,
) -> Result<(), Error> {
    for element in list.array()? {
        let table = element.table(format!("[[{}]]", list.key))?;
        let (call, rule) = rule(&table)?;
        check(&call, &rule)?;
        for other in rules.iter().filter(|other| other.syscall == rule.syscall) {
            let problem = if rule.covers(other) {
                "this one allows everything that the other allows; remove the other, or list the call in deny to replace its rules"
            } else if other.covers(&rule) {
                "the other allows everything that this one allows; remove this one"
            } else {
                continue;
            };
            return Err(Error::OverlappingRules {
                at: table.at(),
                syscall: rule.syscall.name().to_owned(),
                problem,
            });
        }
        if rules.len() >= RULES_MAX {
            return Err(list.out_of_range(format!("a list of at most {RULES_MAX} rules")));
        }
        rules.push(rule);
    }
    Ok(())
}

fn rule<'d>(table: &Table<'d>) -> Result<(Value<'d>, Rule), Error> {
    table.only(&keys::names(keys::RULE))?;
    let call = table.need("syscall", "it names the system call that the rule allows")?;
    let number = syscall(&call)?;
    let why = table.need("why", "every rule must say why it is there")?.reason("why the rule is there")?;
    let mut when = Vec::new();
    if let Some(conditions) = table.get("when") {
        for value in conditions.array()? {
            let text = value.string()?;
            let condition = Condition::parse(text).map_err(|problem| Error::Condition {
                at: value.at(),
                text: quote(text),
                problem,
            })?;
            if when.len() >= CONDITIONS_MAX {
                return Err(conditions.out_of_range(format!("a list of at most {CONDITIONS_MAX} conditions")));
            }
            when.push(condition);
        }
    }
    Ok((call, Rule { syscall: number, when, why, at: table.place() }))
}
