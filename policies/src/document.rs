//! A TOML document whose every key and value knows its place, read by hand so that each mistake gets its own error.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::error::{Error, hint};
use crate::position::Position;
use crate::rule::Place;

/// Longest piece of the policy's text that an error quotes, in characters.
const QUOTE_MAX: usize = 60;
/// Longest reason or description, in characters: reports carry them.
const REASON_MAX: usize = 1000;

/// The text of a policy and its name.
#[derive(Clone, Debug)]
pub(crate) struct Source<'t> {
    pub(crate) text: &'t str,
    pub(crate) file: Arc<str>,
}

impl Source<'_> {
    /// The place of some bytes.
    pub(crate) fn position(&self, span: Range<usize>) -> Position {
        Position::new(&self.file, self.text, span)
    }

    /// The line of a byte offset, from 1.
    fn line(&self, offset: usize) -> u32 {
        self.text.get(..offset).unwrap_or(self.text).matches('\n').count() as u32 + 1
    }
}

/// What was written, short enough for a message and on one line.
pub(crate) fn quote(text: &str) -> String {
    let one_line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match one_line.char_indices().nth(QUOTE_MAX) {
        Some((end, _)) => format!("{}…", one_line.get(..end).unwrap_or_default()),
        None => one_line,
    }
}

/// Parses the text as TOML.
pub(crate) fn parse<'t>(source: &Source<'t>) -> Result<Spanned<DeTable<'t>>, Error> {
    DeTable::parse(source.text).map_err(|error| Error::Syntax {
        at: source.position(error.span().unwrap_or(0..0)),
        message: error.message().split_whitespace().collect::<Vec<_>>().join(" "),
    })
}

/// A table of the document.
#[derive(Clone, Debug)]
pub(crate) struct Table<'d> {
    source: &'d Source<'d>,
    entries: &'d DeTable<'d>,
    /// How messages name it.
    pub(crate) name: Cow<'static, str>,
    span: Range<usize>,
}

/// A value of the document and the key that it belongs to.
#[derive(Clone, Debug)]
pub(crate) struct Value<'d> {
    source: &'d Source<'d>,
    value: &'d DeValue<'d>,
    /// How messages name the key.
    pub(crate) key: String,
    span: Range<usize>,
}

impl<'d> Table<'d> {
    /// The document itself.
    pub(crate) fn root(source: &'d Source<'d>, document: &'d Spanned<DeTable<'d>>) -> Self {
        Self { source, entries: document.get_ref(), name: Cow::Borrowed("the policy"), span: 0..0 }
    }

    /// Where the table begins.
    pub(crate) fn at(&self) -> Position {
        self.source.position(self.span.clone())
    }

    /// File and line where it begins.
    pub(crate) fn place(&self) -> Place {
        Place { file: self.source.file.clone(), line: self.source.line(self.span.start) }
    }

    /// Refuses keys that are not in `valid`.
    pub(crate) fn only(&self, valid: &[&str]) -> Result<(), Error> {
        // The first in the file, not in the alphabet.
        let unknown = self
            .entries
            .keys()
            .filter(|key| !valid.contains(&key.get_ref().as_ref()))
            .min_by_key(|key| key.span().start);
        match unknown {
            None => Ok(()),
            Some(key) => Err(Error::UnknownKey {
                at: self.source.position(key.span()),
                key: quote(key.get_ref()),
                section: self.name.clone().into_owned(),
                hint: hint(key.get_ref(), valid.iter().copied()),
            }),
        }
    }

    /// The value of a key.
    pub(crate) fn get(&self, key: &str) -> Option<Value<'d>> {
        let (_, value) = self.entries.iter().find(|(k, _)| k.get_ref().as_ref() == key)?;
        let name = match self.name.strip_prefix('[').and_then(|n| n.strip_suffix(']')) {
            Some(section) if !section.starts_with('[') => format!("{section}.{key}"),
            _ => key.to_owned(),
        };
        Some(Value { source: self.source, value: value.get_ref(), key: name, span: value.span() })
    }

    /// The value of a key that must be there.
    pub(crate) fn need(&self, key: &'static str, why: &'static str) -> Result<Value<'d>, Error> {
        self.get(key).ok_or_else(|| Error::MissingKey {
            at: self.at(),
            key,
            section: self.name.clone().into_owned(),
            why,
        })
    }

    /// A section: a table below this one.
    pub(crate) fn section(&self, key: &'static str) -> Result<Option<Table<'d>>, Error> {
        self.get(key).map(|value| value.table(format!("[{key}]"))).transpose()
    }
}

impl<'d> Value<'d> {
    /// Where the value stands.
    pub(crate) fn at(&self) -> Position {
        self.source.position(self.span.clone())
    }

    /// The value as it was written.
    pub(crate) fn written(&self) -> String {
        quote(self.source.text.get(self.span.clone()).unwrap_or_default())
    }

    /// The error for a value of another type.
    pub(crate) fn wrong_type(&self, expected: &'static str) -> Error {
        let found = match self.value {
            DeValue::String(_) => "a string",
            DeValue::Integer(_) => "an integer",
            DeValue::Float(_) => "a float",
            DeValue::Boolean(_) => "a boolean",
            DeValue::Datetime(_) => "a date",
            DeValue::Array(_) => "an array",
            DeValue::Table(_) => "a table",
        };
        Error::WrongType { at: self.at(), key: self.key.clone(), expected, found }
    }

    /// The value as a table.
    pub(crate) fn table(&self, name: String) -> Result<Table<'d>, Error> {
        let entries = self.value.as_table().ok_or_else(|| self.wrong_type("a table"))?;
        Ok(Table { source: self.source, entries, name: Cow::Owned(name), span: self.span.clone() })
    }

    /// The value as an array.
    pub(crate) fn array(&self) -> Result<Vec<Value<'d>>, Error> {
        let elements = self.value.as_array().ok_or_else(|| self.wrong_type("an array"))?;
        Ok(elements
            .iter()
            .map(|element| Value {
                source: self.source,
                value: element.get_ref(),
                key: self.key.clone(),
                span: element.span(),
            })
            .collect())
    }

    /// The value as a boolean.
    pub(crate) fn boolean(&self) -> Result<bool, Error> {
        self.value.as_bool().ok_or_else(|| self.wrong_type("true or false"))
    }

    /// The value as a string.
    pub(crate) fn string(&self) -> Result<&'d str, Error> {
        self.value.as_str().ok_or_else(|| self.wrong_type("a string"))
    }

    /// The value as a string, if it is one.
    pub(crate) fn as_string(&self) -> Option<&'d str> {
        self.value.as_str()
    }

    /// The value as an integer.
    pub(crate) fn integer(&self) -> Result<i64, Error> {
        self.integer_or("an integer")
    }

    /// The value as an integer; a message for other types says that `expected` would have been right.
    pub(crate) fn integer_or(&self, expected: &'static str) -> Result<i64, Error> {
        let integer = self.value.as_integer().ok_or_else(|| self.wrong_type(expected))?;
        i64::from_str_radix(integer.as_str(), integer.radix())
            .map_err(|_| self.out_of_range("an integer of 64 bits".to_owned()))
    }

    /// One of several names.
    pub(crate) fn one_of<T: Copy>(&self, choices: &[(&'static str, T)]) -> Result<T, Error> {
        let written = self.string()?;
        choices
            .iter()
            .find(|(name, _)| *name == written)
            .map(|(_, choice)| *choice)
            .ok_or_else(|| self.unknown(choices.iter().map(|(name, _)| *name)))
    }

    /// A sentence that must say something.
    pub(crate) fn reason(&self, what: &'static str) -> Result<String, Error> {
        let reason = self.string()?.split_whitespace().collect::<Vec<_>>().join(" ");
        if reason.is_empty() {
            return Err(Error::EmptyReason { at: self.at(), key: self.key.clone(), what });
        }
        if reason.chars().count() > REASON_MAX {
            return Err(self.out_of_range(format!("a text of at most {REASON_MAX} characters")));
        }
        Ok(reason)
    }

    /// The error for a string that is none of `valid`.
    pub(crate) fn unknown<'v>(&self, valid: impl IntoIterator<Item = &'v str>) -> Error {
        let written = self.as_string().map_or_else(|| self.written(), quote);
        Error::UnknownValue {
            at: self.at(),
            key: self.key.clone(),
            hint: hint(&written, valid),
            value: written,
        }
    }

    /// The error for a string that does not follow its form.
    pub(crate) fn malformed(&self, expected: &'static str) -> Error {
        let value = self.as_string().map_or_else(|| self.written(), quote);
        Error::Malformed { at: self.at(), key: self.key.clone(), value, expected }
    }

    /// The error for a number outside its range.
    pub(crate) fn out_of_range(&self, range: String) -> Error {
        Error::OutOfRange { at: self.at(), key: self.key.clone(), value: self.written(), range }
    }
}
