//! A TOML document whose every key and value knows its place, read by hand so that each mistake gets its own error: policies,
//! and the configuration of the programs.

use std::borrow::Cow;
use std::io::Read;
use std::ops::{Range, RangeInclusive};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::error::{DocumentKind, Error, Hint, hint};
use crate::policy::FILE_BYTES_MAX;
use crate::position::Position;
use crate::rule::Place;
use crate::units::{DURATION_FORM, SIZE_FORM, format_size, parse_duration, parse_size};

/// Longest piece of the text that an error quotes, in characters.
const QUOTE_MAX: usize = 60;
/// Longest reason or description, in characters: reports carry them.
const REASON_MAX: usize = 1000;
/// Largest duration: a thousand years, so that additions to a clock never overflow.
const DURATION_MAX: Duration = Duration::from_secs(1000 * 366 * 86_400);

/// The text of a document and its name.
#[derive(Clone, Debug)]
pub struct Source<'t> {
    pub(crate) kind: DocumentKind,
    pub(crate) text: &'t str,
    pub(crate) file: Arc<str>,
}

/// Reads a file that may be a document.
pub fn read_file(path: &Path, kind: DocumentKind) -> Result<String, Error> {
    let file: Arc<str> = Arc::from(quote(&path.to_string_lossy()));
    let failed = |error: std::io::Error| Error::Read { kind, file: file.clone(), reason: error.to_string() };
    read_text(std::fs::File::open(path).map_err(failed)?, kind, &file)
}

/// The text of an open file that may be a document.
pub(crate) fn read_text(opened: std::fs::File, kind: DocumentKind, file: &Arc<str>) -> Result<String, Error> {
    let failed = |error: std::io::Error| Error::Read { kind, file: file.clone(), reason: error.to_string() };
    let mut bytes = Vec::new();
    opened.take(FILE_BYTES_MAX as u64 + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() > FILE_BYTES_MAX {
        return Err(Error::TooLarge { kind, file: file.clone(), limit: FILE_BYTES_MAX });
    }
    String::from_utf8(bytes).map_err(|error| Error::NotText {
        kind,
        file: file.clone(),
        offset: error.utf8_error().valid_up_to(),
    })
}

impl<'t> Source<'t> {
    pub(crate) fn policy(text: &'t str, file: Arc<str>) -> Self {
        Self { kind: DocumentKind::Policy, text, file }
    }

    /// A configuration file's text; messages name it `file_name`.
    pub fn configuration(text: &'t str, file_name: &str) -> Result<Self, Error> {
        Self::of_kind(DocumentKind::Configuration, text, file_name)
    }

    /// The text of an interface of host functions; messages name it `file_name`.
    pub fn interface(text: &'t str, file_name: &str) -> Result<Self, Error> {
        Self::of_kind(DocumentKind::Interface, text, file_name)
    }

    fn of_kind(kind: DocumentKind, text: &'t str, file_name: &str) -> Result<Self, Error> {
        let file = Arc::from(quote(file_name));
        if text.len() > FILE_BYTES_MAX {
            return Err(Error::TooLarge { kind, file, limit: FILE_BYTES_MAX });
        }
        Ok(Self { kind, text, file })
    }

    /// The place of some bytes.
    pub(crate) fn position(&self, span: Range<usize>) -> Position {
        Position::new(self.kind, &self.file, self.text, span)
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

/// What a message offers for a name that is none of `valid`: the nearest of them, or all.
pub fn nearest<'v>(written: &str, valid: impl IntoIterator<Item = &'v str>) -> Hint {
    let valid: Vec<&str> = valid.into_iter().collect();
    match hint(written, valid.iter().copied()) {
        nearest @ Hint::Nearest(_) => nearest,
        Hint::OneOf(_) => Hint::OneOf(valid.join(", ")),
    }
}

/// Parses the text as TOML.
pub fn parse<'t>(source: &Source<'t>) -> Result<Spanned<DeTable<'t>>, Error> {
    DeTable::parse(source.text).map_err(|error| Error::Syntax {
        at: source.position(error.span().unwrap_or(0..0)),
        message: error.message().split_whitespace().collect::<Vec<_>>().join(" "),
    })
}

/// A table of the document.
#[derive(Clone, Debug)]
pub struct Table<'d> {
    source: &'d Source<'d>,
    entries: &'d DeTable<'d>,
    /// How messages name it.
    pub(crate) name: Cow<'static, str>,
    span: Range<usize>,
}

/// A value of the document and the key that it belongs to.
#[derive(Clone, Debug)]
pub struct Value<'d> {
    source: &'d Source<'d>,
    value: &'d DeValue<'d>,
    /// How messages name the key.
    pub(crate) key: String,
    span: Range<usize>,
}

impl<'d> Table<'d> {
    /// The document itself.
    pub fn root(source: &'d Source<'d>, document: &'d Spanned<DeTable<'d>>) -> Self {
        let name = match source.kind {
            DocumentKind::Policy => "the policy",
            DocumentKind::Configuration => "the configuration",
            DocumentKind::Interface => "the interface",
        };
        Self { source, entries: document.get_ref(), name: Cow::Borrowed(name), span: 0..0 }
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
    pub fn only(&self, valid: &[&str]) -> Result<(), Error> {
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

    /// How messages name a key of this table.
    fn path(&self, key: &str) -> String {
        match self.name.strip_prefix('[').and_then(|n| n.strip_suffix(']')) {
            Some(section) if !section.starts_with('[') => format!("{section}.{key}"),
            _ => key.to_owned(),
        }
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<Value<'d>> {
        let (_, value) = self.entries.iter().find(|(k, _)| k.get_ref().as_ref() == key)?;
        let key = self.path(key);
        Some(Value { source: self.source, value: value.get_ref(), key, span: value.span() })
    }

    /// The value of a key that must be there.
    pub fn need(&self, key: &'static str, why: &'static str) -> Result<Value<'d>, Error> {
        self.get(key).ok_or_else(|| Error::MissingKey {
            at: self.at(),
            key,
            section: self.name.clone().into_owned(),
            why,
        })
    }

    /// A section: a table below this one.
    pub fn section(&self, key: &'static str) -> Result<Option<Table<'d>>, Error> {
        self.get(key).map(|value| value.table(format!("[{}]", value.key))).transpose()
    }
}

impl<'d> Value<'d> {
    /// Where the value stands.
    pub fn at(&self) -> Position {
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
    pub fn table(&self, name: String) -> Result<Table<'d>, Error> {
        let entries = self.value.as_table().ok_or_else(|| self.wrong_type("a table"))?;
        Ok(Table { source: self.source, entries, name: Cow::Owned(name), span: self.span.clone() })
    }

    /// The value as an array.
    pub fn array(&self) -> Result<Vec<Value<'d>>, Error> {
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
    pub fn boolean(&self) -> Result<bool, Error> {
        self.value.as_bool().ok_or_else(|| self.wrong_type("true or false"))
    }

    /// The value as a string.
    pub fn string(&self) -> Result<&'d str, Error> {
        self.value.as_str().ok_or_else(|| self.wrong_type("a string"))
    }

    /// The value as a string, if it is one.
    pub fn as_string(&self) -> Option<&'d str> {
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

    /// A size in bytes.
    pub fn size(&self) -> Result<u64, Error> {
        match self.as_string() {
            Some(text) => parse_size(text).ok_or_else(|| self.malformed(SIZE_FORM)),
            None => u64::try_from(self.integer_or(SIZE_FORM)?)
                .map_err(|_| self.out_of_range("0 or more".to_owned())),
        }
    }

    /// A size in bytes from a range.
    pub fn size_in(&self, range: RangeInclusive<u64>) -> Result<u64, Error> {
        let size = self.size()?;
        if !range.contains(&size) {
            let (low, high) = (format_size(*range.start()), format_size(*range.end()));
            return Err(self.out_of_range(format!("{low} to {high}")));
        }
        Ok(size)
    }

    /// A duration.
    pub fn duration(&self) -> Result<Duration, Error> {
        let text = self.as_string().ok_or_else(|| self.wrong_type(DURATION_FORM))?;
        let duration = parse_duration(text).ok_or_else(|| self.malformed(DURATION_FORM))?;
        if duration > DURATION_MAX {
            return Err(self.out_of_range("at most 1000 years".to_owned()));
        }
        Ok(duration)
    }

    /// A number.
    pub(crate) fn count(&self) -> Result<u64, Error> {
        u64::try_from(self.integer_or("a number")?).map_err(|_| self.out_of_range("0 or more".to_owned()))
    }

    /// A number from a range.
    pub fn count_in(&self, range: RangeInclusive<u64>) -> Result<u64, Error> {
        let count = self.count()?;
        if !range.contains(&count) {
            return Err(self.out_of_range(format!("{} to {}", range.start(), range.end())));
        }
        Ok(count)
    }

    /// One of several names.
    pub fn one_of<T: Copy>(&self, choices: &[(&'static str, T)]) -> Result<T, Error> {
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
    pub fn unknown<'v>(&self, valid: impl IntoIterator<Item = &'v str>) -> Error {
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
    pub fn out_of_range(&self, range: String) -> Error {
        Error::OutOfRange { at: self.at(), key: self.key.clone(), value: self.written(), range }
    }
}
