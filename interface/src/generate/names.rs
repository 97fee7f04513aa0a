//! One name for one thing: names of an interface that differ can become the same name in a language.

use std::collections::{BTreeMap, BTreeSet};

use super::NameTaken;

/// The names of one scope, each with what has it.
pub(super) struct Names<'i> {
    interface: &'i str,
    language: &'static str,
    taken: BTreeMap<String, String>,
}

impl<'i> Names<'i> {
    /// With the names that the language itself needs.
    pub(super) fn new(
        interface: &'i str,
        language: &'static str,
        reserved: impl IntoIterator<Item = String>,
    ) -> Self {
        let taken = reserved.into_iter().map(|name| (name, "the language itself".to_owned())).collect();
        Self { interface, language, taken }
    }

    /// Gives a name to a thing.
    pub(super) fn claim(&mut self, name: String, thing: impl Into<String>) -> Result<(), NameTaken> {
        let thing = thing.into();
        match self.taken.get(&name) {
            Some(first) => Err(NameTaken {
                interface: self.interface.to_owned(),
                language: self.language,
                first: first.clone(),
                second: thing,
                name,
            }),
            None => {
                self.taken.insert(name, thing);
                Ok(())
            }
        }
    }
}

/// Names that nobody outside of one declaration uses, such as those of parameters: they can be changed to differ.
#[derive(Default)]
pub(super) struct Locals(BTreeSet<String>);

impl Locals {
    pub(super) fn new(reserved: impl IntoIterator<Item = String>) -> Self {
        Self(reserved.into_iter().collect())
    }

    /// This name, with as many `_` behind it as it takes to be a new one.
    pub(super) fn name(&mut self, name: &str) -> String {
        let mut name = name.to_owned();
        while !self.0.insert(name.clone()) {
            name.push('_');
        }
        name
    }
}

/// `kv_error` as `KvError`.
pub(super) fn camel(name: &str) -> String {
    let part = |part: &str| {
        let mut letters = part.chars();
        letters
            .next()
            .map_or(String::new(), |first| first.to_ascii_uppercase().to_string() + letters.as_str())
    };
    name.split('_').map(part).collect()
}
