//! A policy: where it comes from, what it says, what it compiles to.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use ipc::interface::FunctionId;

use crate::document::{self, Source as Text, Table, quote};
use crate::error::{DocumentKind, Error, hint};
use crate::filter::{self, FilterContext};
use crate::imports::Imports;
use crate::interpreter::{SeccompData, interpret};
use crate::position::Position;
use crate::rule::Rule;
use crate::schema::{self, Guard, VERSION};
use crate::sections::{FileData, Fs, Instance, Limits, Seccomp, Sections, Wasi};
use crate::zygote::zygote_rules;

/// Largest policy file, in bytes.
pub const FILE_BYTES_MAX: usize = 256 << 10;

/// The built-in profiles: names and texts. What a profile extends stands before it.
const PROFILES: &[(&str, &str)] = &[
    ("default", include_str!("../profiles/default.toml")),
    ("compute", include_str!("../profiles/compute.toml")),
    ("wasi", include_str!("../profiles/wasi.toml")),
    ("wasi-direct", include_str!("../profiles/wasi-direct.toml")),
];

/// Names that are no job's policy, and why.
const RESERVED: &[(&str, &str)] = &[
    ("compile", "it is the list of the compile workers, not for jobs"),
    ("zygote", "it is the list of the fork servers, not for jobs"),
    ("supervisor", "the supervisor does not confine itself"),
];

/// What policies extend that do not say what they extend.
const DEFAULT_BASE: &str = "default";
/// Policies that may extend each other in a row.
const DEPTH_MAX: usize = 16;

/// Policies by name.
pub(crate) type Named = BTreeMap<Arc<str>, Arc<Policy>>;

/// Where a policy comes from.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Origin {
    /// A profile that is part of this program.
    Builtin,
    /// A file, or text that a client sent, with its name.
    File(Arc<str>),
}

/// A policy that may give more than the one it extends.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Danger {
    /// Its name.
    pub policy: Arc<str>,
    /// Its reason.
    pub reason: String,
    /// What it widens.
    pub widened: Vec<Widening>,
}

/// A setting that gives more than the policy that is extended.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Widening {
    /// The key.
    pub key: String,
    /// What was written.
    pub value: String,
    /// What the extended policy has.
    pub was: String,
}

/// A checked policy. Immutable; equal policies confine equally, so it can be the key of a map.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Policy {
    name: Arc<str>,
    origin: Origin,
    extends: Option<Arc<str>>,
    description: Option<String>,
    dangers: Vec<Danger>,
    may_widen: bool,
    /// How many policies it extends, one by one.
    depth: usize,
    sections: Sections,
}

/// The built-in policies.
pub(crate) fn builtins() -> Result<&'static Named, Error> {
    static BUILTINS: OnceLock<Result<Named, Error>> = OnceLock::new();
    let parse = || {
        let mut named = Named::new();
        for (name, text) in PROFILES {
            let file: Arc<str> = Arc::from(*name);
            let policy =
                Policy::read(&Text::policy(text, file.clone()), file.clone(), Origin::Builtin, &named)?;
            named.insert(file, Arc::new(policy));
        }
        Ok(named)
    };
    BUILTINS.get_or_init(parse).as_ref().map_err(Clone::clone)
}

/// The policy with this name, or an error that says what there is.
pub(crate) fn named<'n>(name: &str, among: &'n Named) -> Result<&'n Arc<Policy>, Error> {
    among.get(name).ok_or_else(|| match RESERVED.iter().find(|(reserved, _)| *reserved == name) {
        Some((_, why)) => Error::Reserved { name: name.to_owned(), why },
        None => Error::UnknownPolicy { name: quote(name), hint: hint(name, among.keys().map(|n| &**n)) },
    })
}

/// Whether a policy file in a directory cannot have this name.
pub(crate) fn is_taken(name: &str) -> bool {
    PROFILES.iter().any(|(taken, _)| *taken == name) || RESERVED.iter().any(|(taken, _)| *taken == name)
}

impl Policy {
    /// The names of the built-in policies.
    pub fn names() -> impl Iterator<Item = &'static str> {
        PROFILES.iter().map(|(name, _)| *name)
    }

    /// The built-in policy with this name.
    pub fn builtin(name: &str) -> Result<Self, Error> {
        named(name, builtins()?).map(|policy| Self::clone(policy))
    }

    /// Checks a policy's text, which may extend a built-in policy. `file_name` is its name in messages and reports.
    pub fn parse(text: &str, file_name: &str) -> Result<Self, Error> {
        Self::parse_with(text, file_name, builtins()?)
    }

    /// The same for a text that may extend any of `bases`.
    pub(crate) fn parse_with(text: &str, file_name: &str, bases: &Named) -> Result<Self, Error> {
        let file: Arc<str> = Arc::from(quote(file_name));
        if text.len() > FILE_BYTES_MAX {
            return Err(Error::TooLarge { kind: DocumentKind::Policy, file, limit: FILE_BYTES_MAX });
        }
        Self::read(&Text::policy(text, file.clone()), file.clone(), Origin::File(file), bases)
    }

    /// Whether [`Policy::load`] takes this for the path of a file: it contains `/` or ends in `.toml`.
    pub fn is_path(name_or_path: &str) -> bool {
        name_or_path.contains('/') || name_or_path.ends_with(".toml")
    }

    /// The policy that a user names: a built-in one, or a file (see [`Policy::is_path`]).
    pub fn load(name_or_path: &str) -> Result<Self, Error> {
        if !Self::is_path(name_or_path) {
            return Self::builtin(name_or_path);
        }
        Self::parse(&document::read_file(Path::new(name_or_path), DocumentKind::Policy)?, name_or_path)
    }

    pub(crate) fn read(
        source: &Text<'_>,
        name: Arc<str>,
        origin: Origin,
        bases: &Named,
    ) -> Result<Self, Error> {
        let document = document::parse(source)?;
        let root = Table::root(source, &document);
        root.only(&schema::top())?;
        version(&root)?;
        let description =
            root.get("description").map(|value| value.reason("what the policy is for")).transpose()?;
        let base = extends(&root, &origin, bases)?;
        let depth = base.map_or(0, |base| base.depth + 1);
        if depth >= DEPTH_MAX {
            let at = root.get("extends").map_or_else(|| root.at(), |value| value.at());
            return Err(Error::TooDeep { at, limit: DEPTH_MAX });
        }
        let dangerous_reason = dangerous(&root)?;
        let mut sections = base.map_or_else(Sections::closed, |base| base.sections.clone());
        let guard = Guard::new(base.map(|base| base.name.clone()), dangerous_reason.is_some());
        schema::apply(&root, &guard, &zygote_rules()?.base, &mut sections)?;
        let may_widen = dangerous_reason.is_some();
        let mut dangers = base.map_or_else(Vec::new, |base| base.dangers.clone());
        if let Some(reason) = dangerous_reason {
            dangers.push(Danger { policy: name.clone(), reason, widened: guard.widened() });
        }
        let extends = base.map(|base| base.name.clone());
        Ok(Self { name, origin, extends, description, dangers, may_widen, depth, sections })
    }

    /// Its name: the profile's, or the file's as it was given.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where it comes from.
    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    pub(crate) fn shared_name(&self) -> Arc<str> {
        self.name.clone()
    }

    pub(crate) fn sections(&self) -> &Sections {
        &self.sections
    }

    /// The policy that it extends.
    pub fn extends(&self) -> Option<&str> {
        self.extends.as_deref()
    }

    /// What it says that it is for.
    pub fn description(&self) -> Option<&str> {
        self.description.as_deref()
    }

    /// Why it gives more than the policy it extends, if it may.
    pub fn dangerous_reason(&self) -> Option<&str> {
        self.dangers.last().filter(|_| self.may_widen).map(|danger| &*danger.reason)
    }

    /// What gives more than a profile of this program: this policy and those that it extends, the outermost first.
    pub fn dangers(&self) -> &[Danger] {
        &self.dangers
    }

    /// `[seccomp]`.
    pub fn seccomp(&self) -> &Seccomp {
        &self.sections.seccomp
    }

    /// `[limits]`.
    pub fn limits(&self) -> &Limits {
        &self.sections.limits
    }

    /// `[wasi]`.
    pub fn wasi(&self) -> &Wasi {
        &self.sections.wasi
    }

    /// `[fs]`.
    pub fn fs(&self) -> &Fs {
        &self.sections.fs
    }

    /// `[instance]`.
    pub fn instance(&self) -> &Instance {
        &self.sections.instance
    }

    /// Layers to put in force: bits of [`ipc::control::layer`].
    pub fn layers(&self) -> u64 {
        self.sections.layers
    }

    /// Layers without which no job may run: bits of [`ipc::control::layer`], a subset of [`Policy::layers`].
    pub fn required(&self) -> u64 {
        self.sections.required
    }

    /// The same policy without these layers ([`ipc::control::layer`]), whatever a policy file may switch off: what an attack
    /// is tried against, to show which layer stops it.
    #[cfg(feature = "weakened")]
    #[must_use]
    pub fn without_layers(mut self, layers: u64) -> Self {
        self.sections.layers &= !layers;
        self.sections.required &= !layers;
        self
    }

    /// Whether the guest may make this host call: `[host_calls]` lists it and `[wasi]` does not withhold it. A module
    /// that imports another one is refused before it runs.
    pub fn allows_host_call(&self, function: FunctionId) -> bool {
        self.sections.host_calls.contains(&function) && self.sections.wasi.grants(function)
    }

    /// Which functions that the host app provides, beyond those of the interface table, a module may import. One that imports another is
    /// refused before it runs.
    pub fn imports(&self) -> &Imports {
        &self.sections.imports
    }

    /// The seccomp program that a module zygote installs and its instances inherit.
    pub fn instance_filter(&self, context: &FilterContext) -> Result<Vec<libc::sock_filter>, Error> {
        let Seccomp { default_action, allow } = &self.sections.seccomp;
        let asks = self.sections.fs.data == FileData::Direct;
        filter::gated(&self.name, &zygote_rules()?.gate, allow, asks, *default_action, context)
    }

    /// What the policy's filter decides about a system call: a `SECCOMP_RET_*` value.
    pub fn decide(&self, data: &SeccompData, context: &FilterContext) -> Result<u32, Error> {
        interpret(&self.instance_filter(context)?, data)
            .map_err(|error| Error::Compile { policy: self.name().to_owned(), reason: error.to_string() })
    }

    /// The rule that allows a call of an instance, if one does: what a report or an operator can be told.
    pub fn rule_for(&self, number: u32, args: &[u64; 6], context: &FilterContext) -> Option<&Rule> {
        self.sections
            .seccomp
            .allow
            .iter()
            .find(|rule| rule.syscall.id() as u32 == number && rule.unmet(args, context).is_empty())
    }
}

/// The seccomp program of the root zygote: what any zygote or instance may ever call.
pub fn zygote_base_filter() -> Result<Vec<libc::sock_filter>, Error> {
    crate::zygote::base_filter()
}

fn version(root: &Table<'_>) -> Result<(), Error> {
    let value = root.need("version", "write version = 1 at the top")?;
    if value.integer()? != VERSION {
        return Err(Error::Version { at: value.at(), found: value.written(), supported: VERSION });
    }
    Ok(())
}

fn extends<'n>(root: &Table<'_>, origin: &Origin, bases: &'n Named) -> Result<Option<&'n Policy>, Error> {
    let Some(value) = root.get("extends") else {
        return match origin {
            // A profile that extends nothing stands alone; it is part of this program and tested.
            Origin::Builtin => Ok(None),
            Origin::File(_) => named(DEFAULT_BASE, bases).map(|base| Some(&**base)),
        };
    };
    match bases.get(value.string()?) {
        Some(base) => Ok(Some(base)),
        None => Err(value.unknown(bases.keys().map(|name| &**name))),
    }
}

/// What a text says that it extends, if it can be read at all; mistakes are told by [`Policy::read`].
pub(crate) fn says_extends(source: &Text<'_>) -> Option<(String, Position)> {
    let document = document::parse(source).ok()?;
    let value = Table::root(source, &document).get("extends")?;
    Some((value.as_string()?.to_owned(), value.at()))
}

fn dangerous(root: &Table<'_>) -> Result<Option<String>, Error> {
    let allowed = match root.get("allow_dangerous") {
        Some(value) => value.boolean()?,
        None => false,
    };
    if allowed {
        return root
            .need(
                "dangerous_reason",
                "allow_dangerous = true needs a sentence that says why the policy must widen",
            )?
            .reason("why the policy must widen the profile")
            .map(Some);
    }
    match root.get("dangerous_reason") {
        None => Ok(None),
        Some(reason) => Err(Error::ReasonWithoutDanger { at: reason.at() }),
    }
}
