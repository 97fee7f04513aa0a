//! `host_calls.imports`: which functions of the host app a module may import.

use std::collections::BTreeSet;
use std::collections::btree_map::{BTreeMap, Entry};
use std::fmt;

use crate::document::Value;
use crate::error::{Error, Hint, hint};
use crate::settings::{list, quoted};

/// How an element of the list is written.
const FORM: &str = "\"interface.function\", or \"interface.*\" for all functions of an interface";
/// Elements that a message shows.
const SHOWN: usize = 8;
/// Elements that are looked through for one that was meant, and how many bytes they have at most.
const COMPARED: usize = 256;
const COMPARED_BYTES: usize = 128;

/// The functions of the host app, beyond those of the interface table, that a module may import.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Imports {
    /// Every one.
    All,
    /// Those of these interfaces (the module names of imports).
    Of(BTreeMap<String, Functions>),
}

/// Functions of one interface.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Functions {
    /// Every one.
    All,
    /// Those with these names.
    Named(BTreeSet<String>),
}

/// One element of the list.
struct Granted<'t> {
    interface: &'t str,
    /// `None` for all.
    function: Option<&'t str>,
}

impl Imports {
    /// None at all.
    pub(crate) fn none() -> Self {
        Self::Of(BTreeMap::new())
    }

    /// Whether no function may be imported.
    pub fn is_none(&self) -> bool {
        matches!(self, Self::Of(interfaces) if interfaces.is_empty())
    }

    /// Whether this function may be imported.
    pub fn allow(&self, interface: &str, function: &str) -> bool {
        self.covers(&Granted { interface, function: Some(function) })
    }

    /// The element that grants this function, as a policy file writes it.
    pub fn granted_by(&self, interface: &str, function: &str) -> Option<String> {
        if !self.allow(interface, function) {
            return None;
        }
        Some(match self {
            Self::All => "true".to_owned(),
            Self::Of(interfaces) => match interfaces.get(interface) {
                Some(Functions::All) => quoted(&format!("{interface}.*")),
                _ => quoted(&format!("{interface}.{function}")),
            },
        })
    }

    /// The element that is close to this one, if there is one.
    pub fn nearest(&self, written: &str) -> Option<String> {
        let comparable = self.elements().filter(|element| element.len() <= COMPARED_BYTES);
        let elements: Vec<String> = comparable.take(COMPARED).collect();
        match hint(written, elements.iter().map(String::as_str)) {
            Hint::Nearest(name) => Some(name),
            Hint::OneOf(_) => None,
        }
    }

    fn covers(&self, granted: &Granted<'_>) -> bool {
        let Self::Of(interfaces) = self else { return true };
        match (interfaces.get(granted.interface), granted.function) {
            (Some(Functions::All), _) => true,
            (Some(Functions::Named(names)), Some(function)) => names.contains(function),
            (Some(Functions::Named(_)), None) | (None, _) => false,
        }
    }

    fn grant(&mut self, Granted { interface, function }: Granted<'_>) {
        let Self::Of(interfaces) = self else { return };
        let entry = interfaces.entry(interface.to_owned());
        match (entry, function) {
            (Entry::Vacant(entry), None) => drop(entry.insert(Functions::All)),
            (Entry::Occupied(mut entry), None) => drop(entry.insert(Functions::All)),
            (entry, Some(function)) => {
                if let Functions::Named(names) = entry.or_insert_with(|| Functions::Named(BTreeSet::new())) {
                    names.insert(function.to_owned());
                }
            }
        }
    }

    /// `interface.function` and `interface.*`, sorted.
    fn elements(&self) -> impl Iterator<Item = String> {
        let interfaces = match self {
            Self::All => None,
            Self::Of(interfaces) => Some(interfaces),
        };
        interfaces.into_iter().flatten().flat_map(|(interface, functions)| {
            let (all, named) = match functions {
                Functions::All => (Some("*"), None),
                Functions::Named(names) => (None, Some(names)),
            };
            let names = all.into_iter().chain(named.into_iter().flatten().map(String::as_str));
            names.map(move |name| format!("{interface}.{name}"))
        })
    }

    /// Reads the key's value. `check` decides whether a part of it may give more than this, which the policy that is extended has.
    pub(crate) fn read(
        &self,
        value: &Value<'_>,
        check: impl Fn(&Value<'_>, bool, &dyn Fn() -> String) -> Result<(), Error>,
    ) -> Result<Self, Error> {
        let Ok(elements) = value.array() else {
            let all = value.boolean().map_err(|_| value.wrong_type("true, false or an array"))?;
            check(value, all && *self != Self::All, &|| self.shown())?;
            return Ok(if all { Self::All } else { Self::none() });
        };
        let mut imports = Self::none();
        for element in &elements {
            let granted = Granted::parse(element)?;
            check(element, !self.covers(&granted), &|| self.instead_of(&granted.to_string()))?;
            imports.grant(granted);
        }
        Ok(imports)
    }

    /// What there is, for a message about an element that is none of it.
    fn instead_of(&self, written: &str) -> String {
        match self.nearest(written) {
            Some(nearest) => format!("{} instead; did you mean that?", quoted(&nearest)),
            None => self.shown(),
        }
    }

    /// The value for a message: not longer than a line.
    fn shown(&self) -> String {
        let count = self.elements().count();
        if count <= SHOWN {
            return self.to_string();
        }
        let first: Vec<String> = self.elements().take(SHOWN).collect();
        format!("{} and {} more", first.join(", "), count - SHOWN)
    }
}

/// As a policy file writes it.
impl fmt::Display for Imports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("true"),
            none if none.is_none() => f.write_str("false"),
            some => {
                let elements: Vec<String> = some.elements().collect();
                f.write_str(&list(elements.iter().map(String::as_str)))
            }
        }
    }
}

impl<'t> Granted<'t> {
    fn parse(value: &Value<'t>) -> Result<Self, Error> {
        let written = value.string()?;
        let parts = written.rsplit_once('.').filter(|(interface, function)| {
            !interface.is_empty()
                && !function.is_empty()
                && !interface.contains('*')
                && (*function == "*" || !function.contains('*'))
                && !written.chars().any(|c| c.is_control() || c.is_whitespace())
        });
        let (interface, function) = parts.ok_or_else(|| value.malformed(FORM))?;
        Ok(Self { interface, function: Some(function).filter(|name| *name != "*") })
    }
}

impl fmt::Display for Granted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.interface, self.function.unwrap_or("*"))
    }
}
