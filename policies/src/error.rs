//! What can be wrong with a policy, or with another document that is read like one. Every message is one line.

use std::fmt;
use std::sync::Arc;

/// What a document is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DocumentKind {
    /// A policy.
    Policy,
    /// A configuration file.
    Configuration,
}

impl fmt::Display for DocumentKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Policy => "policy",
            Self::Configuration => "configuration",
        })
    }
}

/// A place in a document's text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Position {
    /// What the document is.
    pub kind: DocumentKind,
    /// Name of the file, or of the built-in profile.
    pub file: Arc<str>,
    /// Line, from 1.
    pub line: u32,
    /// Column in characters, from 1.
    pub column: u32,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}:{}:{}", self.kind, self.file, self.line, self.column)
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
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No built-in policy has this name.
    #[error(
        "no built-in policy is named {name:?}; {hint} (a policy file is given by a path with '/' or ending in .toml)"
    )]
    UnknownPolicy {
        /// What was asked for.
        name: String,
        /// What there is.
        hint: Hint,
    },
    /// The file could not be read.
    #[error("{kind} {file}: cannot read the file: {reason}")]
    Read {
        /// What it was to be.
        kind: DocumentKind,
        /// The path.
        file: Arc<str>,
        /// The operating system's reason.
        reason: String,
    },
    /// The file is larger than [`crate::FILE_BYTES_MAX`].
    #[error(
        "{kind} {file}: the file is larger than {limit} bytes; a {kind} is a short text, is this the right file?"
    )]
    TooLarge {
        /// What it was to be.
        kind: DocumentKind,
        /// The path.
        file: Arc<str>,
        /// Largest size in bytes.
        limit: usize,
    },
    /// The file is not text.
    #[error("{kind} {file}: the file is not UTF-8 text (byte {offset})")]
    NotText {
        /// What it was to be.
        kind: DocumentKind,
        /// The path.
        file: Arc<str>,
        /// Offset of the first byte that is not UTF-8.
        offset: usize,
    },
    /// The text is not TOML.
    #[error("{at}: not valid TOML: {message}")]
    Syntax {
        /// Where.
        at: Position,
        /// The TOML parser's message.
        message: String,
    },
    /// A key that the schema does not have.
    #[error("{at}: unknown key {key:?} in {section}; {hint}")]
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
    #[error("{at}: {section} lacks the key {key:?}; {why}")]
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
    #[error("{at}: {key} must be {expected}, not {found}")]
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
    #[error("{at}: {key} has the unknown value {value:?}; {hint}")]
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
    #[error("{at}: {key} = {value:?} is not {expected}")]
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
    #[error("{at}: {key} = {value} is out of range; it must be {range}")]
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
    /// The schema's version is not one that this program reads.
    #[error("{at}: version = {found} is not supported; this program reads version {supported}")]
    Version {
        /// Where.
        at: Position,
        /// What was written.
        found: String,
        /// What is supported.
        supported: i64,
    },
    /// The reason of a rule, or of `allow_dangerous`, is empty.
    #[error("{at}: {key} is empty; say in a sentence {what}")]
    EmptyReason {
        /// Where.
        at: Position,
        /// The key.
        key: String,
        /// What must be said.
        what: &'static str,
    },
    /// The reason for widening is given although nothing asks for it.
    #[error("{at}: dangerous_reason is given without allow_dangerous = true; add that, or remove the reason")]
    ReasonWithoutDanger {
        /// Where.
        at: Position,
    },
    /// A setting gives more than the profile that the policy extends.
    #[error(
        "{at}: {key} = {value} widens the profile {base:?}, which has {was}; narrow it, or set allow_dangerous = true and a dangerous_reason"
    )]
    Widens {
        /// Where.
        at: Position,
        /// The key.
        key: String,
        /// What was written.
        value: String,
        /// The profile.
        base: &'static str,
        /// What the profile has.
        was: String,
    },
    /// A condition that is not in the language of conditions.
    #[error("{at}: condition {text:?}: {problem}")]
    Condition {
        /// Where.
        at: Position,
        /// The condition.
        text: String,
        /// What is wrong with it.
        problem: String,
    },
    /// Two rules for the same call, one of which allows all that the other allows.
    #[error("{at}: this rule for {syscall} and another one for it overlap: {problem}")]
    OverlappingRules {
        /// Where.
        at: Position,
        /// The system call.
        syscall: String,
        /// Which covers which, and what to do.
        problem: &'static str,
    },
    /// A rule for a system call that the zygotes' base filter refuses anyway.
    #[error(
        "{at}: {syscall} cannot be allowed: the base filter that every instance inherits refuses it, so the rule would have no effect; remove it"
    )]
    BeyondBase {
        /// Where.
        at: Position,
        /// The system call.
        syscall: String,
    },
    /// A rule for a system call that no instance may ever have.
    #[error(
        "{at}: {syscall} cannot be allowed by any policy: with it an instance could {consequence}; remove the rule"
    )]
    Forbidden {
        /// Where.
        at: Position,
        /// The system call.
        syscall: String,
        /// What an instance could do with it.
        consequence: &'static str,
    },
    /// A system call that a policy takes away was not allowed.
    #[error("{at}: deny names {syscall}, which profile {base:?} does not allow; remove it")]
    NothingToDeny {
        /// Where.
        at: Position,
        /// The system call.
        syscall: String,
        /// The profile.
        base: &'static str,
    },
    /// A setting that this version does not put in force. Accepting it would be a silent downgrade.
    #[error(
        "{at}: {key} = {value} is not enforced by this version, so it is refused rather than ignored; use {instead}"
    )]
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
    #[error(
        "{at}: [require] names the layer {layer:?}, which this policy switches off; remove one of the two"
    )]
    RequiresWhatIsOff {
        /// Where.
        at: Position,
        /// The layer.
        layer: String,
    },
    /// The BPF program could not be built.
    #[error("policy {policy}: cannot compile the seccomp filter: {reason}")]
    Compile {
        /// The policy.
        policy: String,
        /// The compiler's reason.
        reason: String,
    },
    /// The BPF program is longer than the kernel takes.
    #[error(
        "policy {policy}: the seccomp filter has {instructions} instructions, the kernel takes {limit}; use fewer rules or conditions"
    )]
    FilterTooLong {
        /// The policy.
        policy: String,
        /// Its length.
        instructions: usize,
        /// `BPF_MAXINSNS`.
        limit: usize,
    },
}

/// The hint for `written`, given the valid names: the nearest one, or all of them.
pub(crate) fn hint<'a>(written: &str, valid: impl IntoIterator<Item = &'a str>) -> Hint {
    let valid: Vec<&str> = valid.into_iter().collect();
    let wanted = written.to_lowercase();
    let nearest = valid
        .iter()
        .map(|name| (strsim::osa_distance(&wanted, &name.to_lowercase()), *name))
        .filter(|(distance, name)| *distance * 3 <= name.chars().count().max(wanted.chars().count()))
        .min_by_key(|(distance, _)| *distance);
    match nearest {
        Some((_, name)) => Hint::Nearest(name.to_owned()),
        None if valid.len() > 24 => Hint::OneOf(format!("{} names, see docs/policy.md", valid.len())),
        None => Hint::OneOf(valid.join(", ")),
    }
}
