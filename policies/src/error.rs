//! What can be wrong with a policy, or with another document that is read like one. Every message is one line, and can be shown with
//! its place ([`crate::Report`]).

use std::fmt;
use std::sync::Arc;

use crate::position::Position;

/// What a document is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DocumentKind {
    /// A policy.
    Policy,
    /// A configuration file.
    Configuration,
    /// An interface of host functions.
    Interface,
}

impl fmt::Display for DocumentKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Policy => "policy",
            Self::Configuration => "configuration",
            Self::Interface => "interface",
        })
    }
}

/// The end of a message that offers the nearest valid name, or lists what is valid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hint {
    /// One valid name is close to what was written.
    Nearest(String),
    /// None is close; these are valid.
    OneOf(String),
}

impl fmt::Display for Hint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nearest(name) => write!(f, "did you mean \"{name}\"?"),
            Self::OneOf(names) => write!(f, "valid are {names}"),
        }
    }
}

/// Why a policy cannot be used, or why another document that is read like one cannot.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// No built-in policy has this name.
    UnknownPolicy {
        /// What was asked for.
        name: String,
        /// What there is.
        hint: Hint,
    },
    /// No system call has this name.
    UnknownCall {
        /// What was asked for.
        name: String,
        /// What there is.
        hint: Hint,
    },
    /// A name that is not, or not yet, one of a policy for jobs.
    Reserved {
        /// The name.
        name: String,
        /// Why there is no such policy.
        why: &'static str,
    },
    /// The file could not be read.
    Read {
        /// What it was to be.
        kind: DocumentKind,
        /// The path.
        file: Arc<str>,
        /// The operating system's reason.
        reason: String,
    },
    /// The file is larger than [`crate::FILE_BYTES_MAX`].
    TooLarge {
        /// What it was to be.
        kind: DocumentKind,
        /// The path.
        file: Arc<str>,
        /// Largest size in bytes.
        limit: usize,
    },
    /// The file is not text.
    NotText {
        /// What it was to be.
        kind: DocumentKind,
        /// The path.
        file: Arc<str>,
        /// Offset of the first byte that is not UTF-8.
        offset: usize,
    },
    /// The text is not TOML.
    Syntax {
        /// Where.
        at: Position,
        /// The TOML parser's message.
        message: String,
    },
    /// A key that the schema does not have.
    UnknownKey {
        /// Where.
        at: Position,
        /// The key.
        key: String,
        /// The table it stands in.
        section: String,
        /// What is valid there.
        hint: Hint,
    },
    /// A key that must be there is not.
    MissingKey {
        /// Where the table begins.
        at: Position,
        /// The key.
        key: &'static str,
        /// The table.
        section: String,
        /// What the key is for.
        why: &'static str,
    },
    /// A value of the wrong TOML type.
    WrongType {
        /// Where.
        at: Position,
        /// The key.
        key: String,
        /// What it must be.
        expected: &'static str,
        /// What it is.
        found: &'static str,
    },
    /// A name that is none of the valid ones.
    UnknownValue {
        /// Where.
        at: Position,
        /// The key.
        key: String,
        /// What was written.
        value: String,
        /// What is valid.
        hint: Hint,
    },
    /// A text that is not written as the key demands.
    Malformed {
        /// Where.
        at: Position,
        /// The key.
        key: String,
        /// What was written.
        value: String,
        /// How it must be written.
        expected: &'static str,
    },
    /// A number outside its range.
    OutOfRange {
        /// Where.
        at: Position,
        /// The key.
        key: String,
        /// What was written.
        value: String,
        /// The range.
        range: String,
    },
    /// A rule of interfaces that one breaks.
    Interface {
        /// Where.
        at: Position,
        /// What is wrong.
        problem: String,
        /// What to do about it.
        help: Option<String>,
    },
    /// The schema's version is not one that this program reads.
    Version {
        /// Where.
        at: Position,
        /// What was written.
        found: String,
        /// What is supported.
        supported: i64,
    },
    /// The reason of a rule, or of `allow_dangerous`, is empty.
    EmptyReason {
        /// Where.
        at: Position,
        /// The key.
        key: String,
        /// What must be said.
        what: &'static str,
    },
    /// The reason for widening is given although nothing asks for it.
    ReasonWithoutDanger {
        /// Where.
        at: Position,
    },
    /// A setting gives more than the profile that the policy extends.
    Widens {
        /// Where.
        at: Position,
        /// The key.
        key: String,
        /// What was written.
        value: String,
        /// The profile.
        base: Arc<str>,
        /// What the profile has.
        was: Box<str>,
    },
    /// A condition that is not in the language of conditions.
    Condition {
        /// Where.
        at: Position,
        /// The condition.
        text: String,
        /// What is wrong with it.
        problem: String,
    },
    /// Two rules for the same call, one of which allows all that the other allows.
    OverlappingRules {
        /// Where.
        at: Position,
        /// The system call.
        syscall: String,
        /// Which covers which, and what to do.
        problem: &'static str,
    },
    /// A rule for a system call that the zygotes' base filter refuses anyway.
    BeyondBase {
        /// Where.
        at: Position,
        /// The system call.
        syscall: String,
    },
    /// A rule for a system call that no instance may ever have.
    Forbidden {
        /// Where.
        at: Position,
        /// The system call.
        syscall: String,
        /// What an instance could do with it.
        consequence: &'static str,
    },
    /// A system call that a policy takes away was not allowed.
    NothingToDeny {
        /// Where.
        at: Position,
        /// The system call.
        syscall: String,
        /// The profile.
        base: Arc<str>,
    },
    /// A setting that this version does not put in force. Accepting it would be a silent downgrade.
    NotEnforced {
        /// Where.
        at: Position,
        /// The key.
        key: String,
        /// What was written.
        value: String,
        /// What can be used.
        instead: &'static str,
    },
    /// `require` names a layer that the policy itself switches off.
    RequiresWhatIsOff {
        /// Where.
        at: Position,
        /// The layer.
        layer: String,
    },
    /// The name of a file in a directory of policies cannot be the name of a policy.
    FileName {
        /// The path.
        file: Arc<str>,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// Another user could change a directory of policies or a file in it.
    Exposed {
        /// The path.
        file: Arc<str>,
        /// How.
        problem: String,
    },
    /// A directory has more policies than [`crate::DIRECTORY_FILES_MAX`].
    TooManyFiles {
        /// The directory.
        directory: Arc<str>,
        /// How many it may have.
        limit: usize,
    },
    /// Policies that extend each other.
    Cycle {
        /// Where one of them says so.
        at: Position,
        /// All of them, in order.
        chain: String,
    },
    /// Too many policies that extend each other in a row.
    TooDeep {
        /// Where one of them says so.
        at: Position,
        /// How many there may be.
        limit: usize,
    },
    /// What a policy extends has a mistake itself.
    BrokenBase {
        /// Where it is named.
        at: Position,
        /// Its name.
        base: Arc<str>,
    },
    /// The BPF program could not be built.
    Compile {
        /// The policy.
        policy: String,
        /// The compiler's reason.
        reason: String,
    },
    /// The BPF program is longer than the kernel takes.
    FilterTooLong {
        /// The policy.
        policy: String,
        /// Its length.
        instructions: usize,
        /// `BPF_MAXINSNS`.
        limit: usize,
    },
}

/// What an error says, in pieces.
pub(crate) struct Parts<'e> {
    /// Where.
    pub(crate) at: Option<&'e Position>,
    /// What is wrong.
    pub(crate) headline: String,
    /// What to do about it.
    pub(crate) help: Option<String>,
}

impl Error {
    /// Where the mistake is, if it is in a text.
    pub fn position(&self) -> Option<&Position> {
        self.parts().at
    }

    /// What is wrong, without the place and without help.
    pub fn headline(&self) -> String {
        self.parts().headline
    }

    /// What to do about it, or what is valid.
    pub fn help(&self) -> Option<String> {
        self.parts().help
    }

    pub(crate) fn parts(&self) -> Parts<'_> {
        let (at, headline, help) = match self {
            Self::UnknownPolicy { name, hint } => (
                None,
                format!("no policy is named {name:?}"),
                Some(format!("{hint} (a policy file is given by a path with '/' or ending in .toml)")),
            ),
            Self::UnknownCall { name, hint } => {
                (None, format!("no system call is named {name:?}"), Some(hint.to_string()))
            }
            Self::Reserved { name, why } => {
                (None, format!("this version has no policy {name:?}: {why}"), None)
            }
            Self::Read { kind, file, reason } => {
                (None, format!("{kind} {file}: cannot read the file: {reason}"), None)
            }
            Self::TooLarge { kind, file, limit } => (
                None,
                format!("{kind} {file}: the file is larger than {limit} bytes"),
                Some(format!("a {kind} is a short text, is this the right file?")),
            ),
            Self::NotText { kind, file, offset } => {
                (None, format!("{kind} {file}: the file is not UTF-8 text (byte {offset})"), None)
            }
            Self::Syntax { at, message } => (Some(at), format!("not valid TOML: {message}"), None),
            Self::UnknownKey { at, key, section, hint } => {
                (Some(at), format!("unknown key {key:?} in {section}"), Some(hint.to_string()))
            }
            Self::MissingKey { at, key, section, why } => {
                (Some(at), format!("{section} lacks the key {key:?}"), Some((*why).to_owned()))
            }
            Self::WrongType { at, key, expected, found } => {
                (Some(at), format!("{key} must be {expected}, not {found}"), None)
            }
            Self::UnknownValue { at, key, value, hint } => {
                (Some(at), format!("{key} has the unknown value {value:?}"), Some(hint.to_string()))
            }
            Self::Malformed { at, key, value, expected } => {
                (Some(at), format!("{key} = {value:?} is not {expected}"), None)
            }
            Self::OutOfRange { at, key, value, range } => {
                (Some(at), format!("{key} = {value} is out of range"), Some(format!("it must be {range}")))
            }
            Self::Interface { at, problem, help } => (Some(at), problem.clone(), help.clone()),
            Self::Version { at, found, supported } => (
                Some(at),
                format!("version = {found} is not supported"),
                Some(format!("this program reads version {supported}")),
            ),
            Self::EmptyReason { at, key, what } => {
                (Some(at), format!("{key} is empty"), Some(format!("say in a sentence {what}")))
            }
            Self::ReasonWithoutDanger { at } => (
                Some(at),
                "dangerous_reason is given without allow_dangerous = true".to_owned(),
                Some("add that, or remove the reason".to_owned()),
            ),
            Self::Widens { at, key, value, base, was } => (
                Some(at),
                format!("{key} = {value} widens the policy {base:?}, which has {was}"),
                Some("narrow it, or set allow_dangerous = true and a dangerous_reason".to_owned()),
            ),
            Self::Condition { at, text, problem } => {
                (Some(at), format!("condition {text:?}: {problem}"), None)
            }
            Self::OverlappingRules { at, syscall, problem } => {
                (Some(at), format!("this rule for {syscall} and another one for it overlap: {problem}"), None)
            }
            Self::BeyondBase { at, syscall } => (
                Some(at),
                format!(
                    "{syscall} cannot be allowed: the base filter that every instance inherits refuses it, so the \
                     rule would have no effect"
                ),
                Some("remove it".to_owned()),
            ),
            Self::Forbidden { at, syscall, consequence } => (
                Some(at),
                format!("{syscall} cannot be allowed by any policy: with it an instance could {consequence}"),
                Some("remove the rule".to_owned()),
            ),
            Self::NothingToDeny { at, syscall, base } => (
                Some(at),
                format!("deny names {syscall}, which the policy {base:?} does not allow"),
                Some("remove it".to_owned()),
            ),
            Self::NotEnforced { at, key, value, instead } => (
                Some(at),
                format!(
                    "{key} = {value} is not enforced by this version, so it is refused rather than ignored"
                ),
                Some(format!("use {instead}")),
            ),
            Self::RequiresWhatIsOff { at, layer } => (
                Some(at),
                format!("[require] names the layer {layer:?}, which this policy switches off"),
                Some("remove one of the two".to_owned()),
            ),
            Self::FileName { file, problem } => (
                None,
                format!("policy {file}: the name of the file cannot be that of a policy: {problem}"),
                Some("rename it; a policy is named like its file without .toml".to_owned()),
            ),
            Self::Exposed { file, problem } => (
                None,
                format!("policy {file}: {problem}, so another user could change what jobs may do"),
                Some("let only this user or root own it, and nobody else write it (chmod go-w)".to_owned()),
            ),
            Self::TooManyFiles { directory, limit } => {
                (None, format!("{directory}: there are more than {limit} policies in the directory"), None)
            }
            Self::Cycle { at, chain } => (
                Some(at),
                format!("these policies extend each other: {chain}"),
                Some("let one of them extend a profile".to_owned()),
            ),
            Self::TooDeep { at, limit } => {
                (Some(at), format!("more than {limit} policies extend each other in a row"), None)
            }
            Self::BrokenBase { at, base } => (
                Some(at),
                format!("it extends the policy {base:?}, which has a mistake"),
                Some("correct that one".to_owned()),
            ),
            Self::Compile { policy, reason } => {
                (None, format!("policy {policy}: cannot compile the seccomp filter: {reason}"), None)
            }
            Self::FilterTooLong { policy, instructions, limit } => (
                None,
                format!(
                    "policy {policy}: the seccomp filter has {instructions} instructions, the kernel takes {limit}"
                ),
                Some("use fewer rules or conditions".to_owned()),
            ),
        };
        Parts { at, headline, help }
    }
}

/// One line: the place, what is wrong, what to do.
impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Parts { at, headline, help } = self.parts();
        if let Some(at) = at {
            write!(f, "{at}: ")?;
        }
        f.write_str(&headline)?;
        match help {
            Some(help) => write!(f, "; {help}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Error {}

/// Longest name for which a near one is looked for, in bytes.
const NAME_BYTES_MAX: usize = 128;

/// The hint for `written`, given the valid names: the nearest one, or all of them.
pub(crate) fn hint<'a>(written: &str, valid: impl IntoIterator<Item = &'a str>) -> Hint {
    let valid: Vec<&str> = valid.into_iter().collect();
    // What is much longer than every name is near none, and comparing takes time.
    let comparable = written.len() <= NAME_BYTES_MAX;
    let wanted = if comparable { written.to_lowercase() } else { String::new() };
    let nearest = valid
        .iter()
        .filter(|_| comparable)
        .map(|name| (strsim::osa_distance(&wanted, &name.to_lowercase()), *name))
        .filter(|(distance, name)| *distance * 3 <= name.chars().count().max(wanted.chars().count()))
        .min_by_key(|(distance, _)| *distance);
    match nearest {
        Some((_, name)) => Hint::Nearest(name.to_owned()),
        None if valid.len() > 24 => Hint::OneOf(format!("{} names, see docs/policy.md", valid.len())),
        None => Hint::OneOf(valid.join(", ")),
    }
}
