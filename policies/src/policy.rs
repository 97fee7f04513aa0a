//! A policy: where it comes from, what it says, what it compiles to.

use std::path::Path;
use std::sync::Arc;

use ipc::interface::FunctionId;

use crate::document::{self, Source as Text, Table, quote};
use crate::error::{DocumentKind, Error, hint};
use crate::filter::{self, FilterContext};
use crate::interpreter::{SeccompData, interpret};
use crate::rule::Rule;
use crate::schema::{self, Guard, VERSION};
use crate::sections::{Limits, Seccomp, Sections, Speculation, Wasi};
use crate::zygote::zygote_rules;

/// Largest policy file, in bytes.
pub const FILE_BYTES_MAX: usize = 256 << 10;

/// The built-in profiles: names and texts.
const PROFILES: &[(&str, &str)] = &[
    ("default", include_str!("../profiles/default.toml")),
    ("compute", include_str!("../profiles/compute.toml")),
    ("wasi", include_str!("../profiles/wasi.toml")),
];

/// What policies extend that do not say what they extend.
const DEFAULT_BASE: &str = "default";

/// Where a policy comes from.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Origin {
    /// A profile that is part of this program.
    Builtin,
    /// A file, or text that a client sent, with its name.
    File(Arc<str>),
}

/// A checked policy. Immutable; equal policies confine equally, so it can be the key of a map.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Policy {
    name: Arc<str>,
    origin: Origin,
    extends: Option<&'static str>,
    description: Option<String>,
    dangerous_reason: Option<String>,
    sections: Sections,
}

impl Policy {
    /// The names of the built-in policies.
    pub fn names() -> impl Iterator<Item = &'static str> {
        PROFILES.iter().map(|(name, _)| *name)
    }

    /// The built-in policy with this name.
    pub fn builtin(name: &str) -> Result<Self, Error> {
        let Some((name, text)) = PROFILES.iter().find(|(profile, _)| *profile == name) else {
            return Err(Error::UnknownPolicy { name: quote(name), hint: hint(name, Self::names()) });
        };
        Self::read(&Text::policy(text, Arc::from(*name)), Origin::Builtin)
    }

    /// Checks a policy's text. `file_name` is its name in messages and reports.
    pub fn parse(text: &str, file_name: &str) -> Result<Self, Error> {
        let file: Arc<str> = Arc::from(quote(file_name));
        if text.len() > FILE_BYTES_MAX {
            return Err(Error::TooLarge { kind: DocumentKind::Policy, file, limit: FILE_BYTES_MAX });
        }
        Self::read(&Text::policy(text, file.clone()), Origin::File(file))
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

    fn read(source: &Text<'_>, origin: Origin) -> Result<Self, Error> {
        let document = document::parse(source)?;
        let root = Table::root(source, &document);
        root.only(schema::TOP)?;
        version(&root)?;
        let description =
            root.get("description").map(|value| value.reason("what the policy is for")).transpose()?;
        let extends = extends(&root, &origin)?;
        let dangerous_reason = dangerous(&root)?;
        let mut sections = match extends {
            Some(base) => Self::builtin(base)?.sections,
            None => Sections::closed(),
        };
        let guard = Guard { base: extends, may_widen: dangerous_reason.is_some() };
        schema::apply(&root, &guard, &zygote_rules()?.base, &mut sections)?;
        Ok(Self { name: source.file.clone(), origin, extends, description, dangerous_reason, sections })
    }

    /// Its name: the profile's, or the file's as it was given.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where it comes from.
    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    /// The profile that it extends.
    pub fn extends(&self) -> Option<&'static str> {
        self.extends
    }

    /// What it says that it is for.
    pub fn description(&self) -> Option<&str> {
        self.description.as_deref()
    }

    /// Why it gives more than the profile it extends, if it may.
    pub fn dangerous_reason(&self) -> Option<&str> {
        self.dangerous_reason.as_deref()
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

    /// `[speculation]`.
    pub fn speculation(&self) -> &Speculation {
        &self.sections.speculation
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

    /// Whether a module may import functions that the host app provides, beyond those of the interface table.
    pub fn allows_imports(&self) -> bool {
        self.sections.imports
    }

    /// The seccomp program that a module zygote installs and its instances inherit.
    pub fn instance_filter(&self, context: &FilterContext) -> Result<Vec<libc::sock_filter>, Error> {
        let Seccomp { default_action, allow } = &self.sections.seccomp;
        filter::gated(&self.name, &zygote_rules()?.gate, allow, *default_action, context)
    }

    /// What the policy's filter decides about a system call: a `SECCOMP_RET_*` value.
    pub fn decide(&self, data: &SeccompData, context: &FilterContext) -> Result<u32, Error> {
        interpret(&self.instance_filter(context)?, data)
            .map_err(|error| Error::Compile { policy: self.name().to_owned(), reason: error.to_string() })
    }

    /// The rule that allows a call of an instance, if one does: what a report or an operator can be told.
    pub fn rule_for(&self, number: u32, args: &[u64; 6], context: &FilterContext) -> Option<&Rule> {
        self.sections.seccomp.allow.iter().find(|rule| {
            rule.syscall.id() as u32 == number
                && rule.when.iter().all(|condition| {
                    args.get(usize::from(condition.argument))
                        .is_some_and(|arg| condition.holds(*arg, context))
                })
        })
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

fn extends(root: &Table<'_>, origin: &Origin) -> Result<Option<&'static str>, Error> {
    let Some(value) = root.get("extends") else {
        return Ok(match origin {
            // A profile that extends nothing stands alone; it is part of this program and tested.
            Origin::Builtin => None,
            Origin::File(_) => Some(DEFAULT_BASE),
        });
    };
    let choices: Vec<(&'static str, &'static str)> = Policy::names().map(|name| (name, name)).collect();
    value.one_of(&choices).map(Some)
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
