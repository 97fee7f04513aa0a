//! Conditions on a system call's arguments, as policies write them: `arg0 >= MEMORY_BASE`.
//!
//! ```text
//! condition = "arg" digit [ "&" [ "~" ] value ] operator value
//! operator  = "==" | ">=" | ">" | "<=" | "<"          (only "==" after a mask)
//! value     = term { "|" term }
//! term      = decimal | hexadecimal | size such as 4GiB | a name of CONSTANTS
//! ```
//!
//! All comparisons are unsigned and over the argument's 64 bits.

use std::fmt;

use ipc::layout;

use crate::error::hint;
use crate::filter::FilterContext;
use crate::units::parse_size;

/// Parts of one value, joined by `|`.
const TERMS_MAX: usize = 16;

/// What a name in a condition stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Meaning {
    Fixed(u64),
    /// The end of the last memory's 8 GiB; depends on how many memories the module has.
    GrowthEnd,
}

const fn fixed(value: u64) -> Meaning {
    Meaning::Fixed(value)
}

/// Names that conditions can use, and what they are, for the reference.
const CONSTANTS: &[(&str, Meaning, &str)] = &[
    ("RING_BASE", fixed(layout::RING_BASE), "start of the shared-memory ring"),
    ("RING_END", fixed(layout::RING_END), "end of the region for the ring"),
    ("MEMORY_BASE", fixed(layout::MEMORY_BASE), "start of linear memory 0"),
    ("GROWTH_END", Meaning::GrowthEnd, "end of the 8 GiB of the module's last linear memory"),
    ("GATE_PAGE", fixed(layout::GATE_PAGE), "the call gate's page"),
    ("PAGE", fixed(layout::PAGE), "4096"),
    ("CONTROL_FD", fixed(ipc::control::CONTROL_FD as u64), "the zygotes' control socket"),
    ("DOORBELL_FD", fixed(layout::DOORBELL_FD as u64), "an instance's doorbell"),
    ("DIRECT_FD", fixed(layout::DIRECT_FD as u64), "an instance's first descriptor of a file"),
    (
        "DIRECT_FD_END",
        fixed(layout::DIRECT_FD as u64 + layout::DIRECT_FDS as u64),
        "the number after its last descriptor of a file",
    ),
    ("PROT_READ", fixed(libc::PROT_READ as u64), "mmap(2), mprotect(2)"),
    ("PROT_WRITE", fixed(libc::PROT_WRITE as u64), "mmap(2), mprotect(2)"),
    ("PROT_EXEC", fixed(libc::PROT_EXEC as u64), "mmap(2), mprotect(2)"),
    ("FUTEX_WAIT", fixed(libc::FUTEX_WAIT as u64), "futex(2)"),
    ("CLONE_PIDFD", fixed(libc::CLONE_PIDFD as u64), "clone(2)"),
    ("CLONE_NEWPID", fixed(libc::CLONE_NEWPID as u64), "clone(2)"),
    ("SIGCHLD", fixed(libc::SIGCHLD as u64), "signal(7)"),
    ("PR_SET_PDEATHSIG", fixed(libc::PR_SET_PDEATHSIG as u64), "prctl(2)"),
    ("PR_GET_SPECULATION_CTRL", fixed(libc::PR_GET_SPECULATION_CTRL as u64), "prctl(2)"),
    ("PR_SET_SPECULATION_CTRL", fixed(libc::PR_SET_SPECULATION_CTRL as u64), "prctl(2)"),
    ("PR_SPEC_FORCE_DISABLE", fixed(libc::PR_SPEC_FORCE_DISABLE as u64), "prctl(2)"),
    ("PR_SCHED_CORE", fixed(libc::PR_SCHED_CORE as u64), "prctl(2)"),
    ("PR_SCHED_CORE_CREATE", fixed(libc::PR_SCHED_CORE_CREATE as u64), "prctl(2)"),
    ("PR_SET_TSC", fixed(libc::PR_SET_TSC as u64), "prctl(2)"),
    ("PR_TSC_SIGSEGV", fixed(libc::PR_TSC_SIGSEGV as u64), "prctl(2)"),
    ("SECCOMP_SET_MODE_FILTER", fixed(libc::SECCOMP_SET_MODE_FILTER as u64), "seccomp(2)"),
];

/// The names that conditions can use, and what they stand for.
pub(crate) fn constants() -> impl Iterator<Item = (&'static str, &'static str)> {
    CONSTANTS.iter().map(|(name, _, text)| (*name, *text))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Term {
    name: Option<&'static str>,
    meaning: Meaning,
}

/// A value in a condition: the bitwise or of its terms.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Value {
    complement: bool,
    terms: Vec<Term>,
}

impl Value {
    /// The number it stands for.
    pub fn resolve(&self, context: &FilterContext) -> u64 {
        let value = self.terms.iter().fold(0, |value, term| {
            value
                | match term.meaning {
                    Meaning::Fixed(number) => number,
                    Meaning::GrowthEnd => context.growth_end(),
                }
        });
        if self.complement { !value } else { value }
    }

    /// Parses a value as conditions have it: a number, a size, a constant, or several joined by `|`, perhaps after `~`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let (complement, text) = match text.strip_prefix('~') {
            Some(rest) => (true, rest.trim_start()),
            None => (false, text),
        };
        if text.split('|').count() > TERMS_MAX {
            return Err(format!("a value has at most {TERMS_MAX} parts"));
        }
        let terms: Vec<Term> =
            text.split('|').map(|term| parse_term(term.trim())).collect::<Result<_, _>>()?;
        let value = Self { complement, terms };
        if value.varies() && (complement || value.terms.len() > 1) {
            return Err("GROWTH_END stands alone, without | and ~".to_owned());
        }
        Ok(value)
    }

    /// Whether it depends on how many memories the module has.
    fn varies(&self) -> bool {
        self.terms.iter().any(|term| term.meaning == Meaning::GrowthEnd)
    }
}

fn parse_term(text: &str) -> Result<Term, String> {
    if let Some((name, meaning, _)) = CONSTANTS.iter().find(|(name, ..)| *name == text) {
        return Ok(Term { name: Some(name), meaning: *meaning });
    }
    let number = match text.strip_prefix("0x") {
        // `from_str_radix` would take a sign.
        Some(digits) if digits.bytes().all(|b| b.is_ascii_hexdigit()) => u64::from_str_radix(digits, 16).ok(),
        _ => parse_size(text),
    };
    match number {
        Some(number) => Ok(Term { name: None, meaning: Meaning::Fixed(number) }),
        None if text.is_empty() => Err("a value is missing".to_owned()),
        None if text.starts_with(|c: char| c.is_ascii_digit()) => {
            Err(format!("{text:?} is not a number of 64 bits"))
        }
        None => Err(format!(
            "unknown constant {text:?}; {}",
            hint(text, CONSTANTS.iter().map(|(name, ..)| *name))
        )),
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.complement {
            f.write_str("~")?;
        }
        for (i, term) in self.terms.iter().enumerate() {
            if i > 0 {
                f.write_str("|")?;
            }
            match (term.name, term.meaning) {
                (Some(name), _) => f.write_str(name)?,
                (None, Meaning::Fixed(number)) if number < 0x1000 => write!(f, "{number}")?,
                (None, Meaning::Fixed(number)) => write!(f, "{number:#x}")?,
                (None, Meaning::GrowthEnd) => f.write_str("GROWTH_END")?,
            }
        }
        Ok(())
    }
}

/// How an argument is compared.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Comparison {
    /// Equal.
    Equal,
    /// Greater than or equal.
    AtLeast,
    /// Greater than.
    Above,
    /// Less than or equal.
    AtMost,
    /// Less than.
    Below,
    /// Equal in the bits of the mask.
    MaskedEqual(Value),
}

/// The values that meet a condition.
enum Values {
    /// No value.
    None,
    /// From the first to the second, both included.
    Range(u64, u64),
    /// Those with these bits under the mask.
    Masked { mask: u64, value: u64 },
}

/// A condition on one argument of a system call.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Condition {
    /// Index of the argument, 0 to 5.
    pub argument: u8,
    /// How it is compared.
    pub comparison: Comparison,
    /// With what.
    pub value: Value,
}

impl Condition {
    /// Parses a condition; the error says what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        // Two-character operators first, so that `>=` is not read as `>`.
        let (left, operator, right) = ["==", ">=", "<=", ">", "<"]
            .iter()
            .find_map(|operator| text.split_once(operator).map(|(left, right)| (left, *operator, right)))
            .ok_or("there is no comparison; write for example \"arg0 == 3\" (==, >=, >, <=, <)")?;
        let (argument, mask) = match left.split_once('&') {
            Some((argument, mask)) => (argument, Some(Value::parse(mask)?)),
            None => (left, None),
        };
        let argument = match argument.trim().strip_prefix("arg").map(str::as_bytes) {
            Some([digit @ b'0'..=b'5']) => digit - b'0',
            _ => return Err(format!("{:?} is not an argument; write arg0 to arg5", argument.trim())),
        };
        let value = Value::parse(right)?;
        let comparison = match (mask, operator) {
            (Some(mask), "==") => Comparison::MaskedEqual(mask),
            (Some(_), _) => return Err("a masked argument can only be compared with ==".to_owned()),
            (None, "==") => Comparison::Equal,
            (None, ">=") => Comparison::AtLeast,
            (None, "<=") => Comparison::AtMost,
            (None, ">") => Comparison::Above,
            (None, _) => Comparison::Below,
        };
        Ok(Self { argument, comparison, value })
    }

    /// Whether every argument that meets this condition meets `other` too, however many memories the module has. May be
    /// false where it is so; is never true where it is not.
    pub(crate) fn implies(&self, other: &Self) -> bool {
        // What depends on the number of memories grows with it, and stands alone: a relation between two bounds that holds
        // for the fewest and the most memories holds for all. Of masks that cannot be said.
        let varies = self.varies() || other.varies();
        let contexts = [FilterContext { memories: 0 }, FilterContext::default()];
        self.argument == other.argument
            && contexts.iter().all(|context| match (self.values(context), other.values(context)) {
                (Values::None, _) => true,
                (Values::Range(low, high), Values::Range(from, to)) => from <= low && high <= to,
                (Values::Range(low, high), _) if low == high && !varies => other.holds(low, context),
                (Values::Masked { mask, value }, Values::Masked { mask: less, value: wanted }) if !varies => {
                    less & !mask == 0 && value & less == wanted
                }
                _ => self == other,
            })
    }

    fn varies(&self) -> bool {
        let mask_varies = matches!(&self.comparison, Comparison::MaskedEqual(mask) if mask.varies());
        self.value.varies() || mask_varies
    }

    /// The values that meet the condition.
    fn values(&self, context: &FilterContext) -> Values {
        let value = self.value.resolve(context);
        let range = |low: Option<u64>, high: Option<u64>| match (low, high) {
            (Some(low), Some(high)) => Values::Range(low, high),
            _ => Values::None,
        };
        match &self.comparison {
            Comparison::Equal => Values::Range(value, value),
            Comparison::AtLeast => Values::Range(value, u64::MAX),
            Comparison::Above => range(value.checked_add(1), Some(u64::MAX)),
            Comparison::AtMost => Values::Range(0, value),
            Comparison::Below => range(Some(0), value.checked_sub(1)),
            Comparison::MaskedEqual(mask) => {
                let mask = mask.resolve(context);
                Values::Masked { mask, value: value & mask }
            }
        }
    }

    /// Whether an argument with this value meets the condition.
    pub fn holds(&self, argument: u64, context: &FilterContext) -> bool {
        let value = self.value.resolve(context);
        match &self.comparison {
            Comparison::Equal => argument == value,
            Comparison::AtLeast => argument >= value,
            Comparison::Above => argument > value,
            Comparison::AtMost => argument <= value,
            Comparison::Below => argument < value,
            Comparison::MaskedEqual(mask) => {
                let mask = mask.resolve(context);
                argument & mask == value & mask
            }
        }
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { argument, comparison, value } = self;
        match comparison {
            Comparison::Equal => write!(f, "arg{argument} == {value}"),
            Comparison::AtLeast => write!(f, "arg{argument} >= {value}"),
            Comparison::Above => write!(f, "arg{argument} > {value}"),
            Comparison::AtMost => write!(f, "arg{argument} <= {value}"),
            Comparison::Below => write!(f, "arg{argument} < {value}"),
            Comparison::MaskedEqual(mask) => write!(f, "arg{argument} & {mask} == {value}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_parse_and_hold() {
        let context = FilterContext::default();
        for (text, yes, no) in [
            ("arg0 == 3", 3, 4),
            ("arg5>=0x10", 16, 15),
            ("arg1 > 4", 5, 4),
            ("arg1 <= 4GiB", 1 << 32, (1 << 32) + 1),
            ("arg1 < 4GiB", (1 << 32) - 1, 1 << 32),
            ("arg2 == PROT_READ|PROT_WRITE", 3, 7),
            ("arg2 & PROT_EXEC == 0", 3, 7),
            ("arg0 & ~CLONE_NEWPID == CLONE_PIDFD|SIGCHLD", 0x2000_1011, 0x1000_1011),
        ] {
            let condition = Condition::parse(text).unwrap();
            assert!(condition.holds(yes, &context), "{text} {yes}");
            assert!(!condition.holds(no, &context), "{text} {no}");
            assert_eq!(Condition::parse(&condition.to_string()).unwrap(), condition, "{text}");
        }
    }

    #[test]
    fn implications_hold_for_every_value_and_number_of_memories() {
        let texts = [
            "arg0 == 3",
            "arg0 == DOORBELL_FD",
            "arg0 >= 3",
            "arg0 > 2",
            "arg0 > 3",
            "arg0 <= 3",
            "arg0 < 4",
            "arg0 < 0",
            "arg0 & 1 == 1",
            "arg0 & 3 == 3",
            "arg0 & 0 == 0",
            "arg0 & 1 == 3",
            "arg0 & ~1 == 2",
            "arg0 < GROWTH_END",
            "arg0 <= GROWTH_END",
            "arg0 == GROWTH_END",
            "arg0 >= GROWTH_END",
            "arg0 < MEMORY_BASE",
            "arg0 >= MEMORY_BASE",
            "arg0 & PAGE == GROWTH_END",
            "arg0 & GROWTH_END == 0",
            "arg0 < 0x100000000000",
            "arg0 >= 0",
        ];
        let conditions: Vec<Condition> = texts.iter().map(|text| Condition::parse(text).unwrap()).collect();
        let contexts = [0, 1, 2, 40, 64].map(|memories| FilterContext { memories });
        let mut implied = 0;
        for a in &conditions {
            assert!(a.implies(a), "{a}");
            for b in &conditions {
                for context in &contexts {
                    let values = conditions.iter().map(|c| c.value.resolve(context));
                    for value in values.flat_map(|v| [v, v.wrapping_sub(1), v.wrapping_add(1), v | 1 << 40]) {
                        let broken = a.implies(b) && a.holds(value, context) && !b.holds(value, context);
                        assert!(!broken, "{a} does not imply {b}: {value:#x}");
                    }
                }
                implied += usize::from(a.implies(b));
            }
        }
        assert!(implied > 3 * conditions.len(), "{implied}");
        let implies = |a: &str, b: &str| Condition::parse(a).unwrap().implies(&Condition::parse(b).unwrap());
        assert!(implies("arg0 == 3", "arg0 & 1 == 1") && implies("arg0 < MEMORY_BASE", "arg0 < GROWTH_END"));
        assert!(implies("arg0 & 3 == 3", "arg0 & 1 == 1") && !implies("arg0 & 1 == 1", "arg0 & 3 == 3"));
        assert!(!implies("arg0 < GROWTH_END", "arg0 < MEMORY_BASE") && !implies("arg0 == 3", "arg1 == 3"));
    }

    #[test]
    fn mistakes_in_conditions_are_named() {
        for (text, problem) in [
            ("arg0", "no comparison"),
            ("arg6 == 1", "not an argument"),
            ("arg == 1", "not an argument"),
            ("arg00 == 1", "not an argument"),
            ("fd == 1", "not an argument"),
            ("arg0 != 1", "no comparison"),
            ("arg0 & 7 >= 1", "only be compared with =="),
            ("arg0 ==", "missing"),
            ("arg0 == 1|", "missing"),
            ("arg0 == PROT_REED", "did you mean \"PROT_READ\""),
            ("arg0 == 0xffffffffffffffffff", "not a number of 64 bits"),
            ("arg0 == 0x+1", "not a number"),
            ("arg0 == 99999999999999999999", "not a number of 64 bits"),
            ("arg0 == -1", "unknown constant"),
            ("arg0 == GROWTH_END|1", "stands alone"),
            ("arg0 & ~GROWTH_END == 0", "stands alone"),
            ("arg0 == 1|1|1|1|1|1|1|1|1|1|1|1|1|1|1|1|1", "at most 16 parts"),
        ] {
            let error = Condition::parse(text).unwrap_err();
            assert!(error.contains(problem), "{text}: {error}");
        }
    }
}
