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

/// Names that conditions can use.
const CONSTANTS: &[(&str, Meaning)] = &[
    ("RING_BASE", fixed(layout::RING_BASE)),
    ("RING_END", fixed(layout::RING_END)),
    ("MEMORY_BASE", fixed(layout::MEMORY_BASE)),
    ("GROWTH_END", Meaning::GrowthEnd),
    ("GATE_PAGE", fixed(layout::GATE_PAGE)),
    ("PAGE", fixed(layout::PAGE)),
    ("CONTROL_FD", fixed(ipc::control::CONTROL_FD as u64)),
    ("DOORBELL_FD", fixed(layout::DOORBELL_FD as u64)),
    ("PROT_READ", fixed(libc::PROT_READ as u64)),
    ("PROT_WRITE", fixed(libc::PROT_WRITE as u64)),
    ("PROT_EXEC", fixed(libc::PROT_EXEC as u64)),
    ("FUTEX_WAIT", fixed(libc::FUTEX_WAIT as u64)),
    ("CLONE_PIDFD", fixed(libc::CLONE_PIDFD as u64)),
    ("CLONE_NEWPID", fixed(libc::CLONE_NEWPID as u64)),
    ("SIGCHLD", fixed(libc::SIGCHLD as u64)),
    ("PR_SET_PDEATHSIG", fixed(libc::PR_SET_PDEATHSIG as u64)),
    ("SECCOMP_SET_MODE_FILTER", fixed(libc::SECCOMP_SET_MODE_FILTER as u64)),
];

/// The names that conditions can use.
#[cfg(test)]
pub(crate) fn constants() -> impl Iterator<Item = &'static str> {
    CONSTANTS.iter().map(|(name, _)| *name)
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

    fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let (complement, text) = match text.strip_prefix('~') {
            Some(rest) => (true, rest.trim_start()),
            None => (false, text),
        };
        let terms = text.split('|').map(|term| parse_term(term.trim())).collect::<Result<_, _>>()?;
        Ok(Self { complement, terms })
    }
}

fn parse_term(text: &str) -> Result<Term, String> {
    if let Some((name, meaning)) = CONSTANTS.iter().find(|(name, _)| *name == text) {
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
        None => {
            Err(format!("unknown constant {text:?}; {}", hint(text, CONSTANTS.iter().map(|(name, _)| *name))))
        }
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

    /// Whether two conditions mean the same, however their values are written.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        // Names that depend on the context are equal only to themselves, or in both of these.
        [FilterContext::default(), FilterContext { memories: 1 }].iter().all(|context| {
            let comparison = match (&self.comparison, &other.comparison) {
                (Comparison::MaskedEqual(a), Comparison::MaskedEqual(b)) => {
                    a.resolve(context) == b.resolve(context)
                }
                (a, b) => a == b,
            };
            comparison
                && self.argument == other.argument
                && self.value.resolve(context) == other.value.resolve(context)
        })
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
        ] {
            let error = Condition::parse(text).unwrap_err();
            assert!(error.contains(problem), "{text}: {error}");
        }
    }
}
