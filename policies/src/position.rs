//! Places in a document's text.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use crate::error::DocumentKind;

/// Longest line that is shown with an error, in bytes.
const LINE_MAX: usize = 500;

/// A place in a document's text.
#[derive(Clone, PartialEq, Eq)]
pub struct Position {
    /// Name of the file, or of the built-in profile.
    pub file: Arc<str>,
    /// Line, from 1.
    pub line: u32,
    /// Column in characters, from 1.
    pub column: u32,
    /// Shared, because errors are better small.
    pub(crate) excerpt: Arc<Excerpt>,
}

/// What can be shown of a place.
#[derive(PartialEq, Eq)]
pub(crate) struct Excerpt {
    kind: DocumentKind,
    /// Bytes of the text that are meant; they do not leave the line.
    pub(crate) span: Range<usize>,
    /// The text, as far as it can be shown: without control characters, and only if the lines around are not too long.
    pub(crate) text: Option<String>,
}

impl Position {
    /// The place of `span` in `text`. Line and column fit: a document has at most [`crate::FILE_BYTES_MAX`] bytes.
    pub(crate) fn new(kind: DocumentKind, file: &Arc<str>, text: &str, span: Range<usize>) -> Self {
        let before = text.get(..span.start).unwrap_or(text);
        let start = before.rfind('\n').map_or(0, |newline| newline + 1);
        let line = before.matches('\n').count();
        let rest = text.get(before.len()..).unwrap_or_default();
        let line_rest = rest.split('\n').next().unwrap_or_default().trim_end();
        let length = span.len().min(line_rest.len());
        let shown = text.split('\n').skip(line.saturating_sub(1)).take(3).all(|line| line.len() <= LINE_MAX);
        Self {
            file: file.clone(),
            line: line as u32 + 1,
            column: before.get(start..).map_or(0, |line| line.chars().count()) as u32 + 1,
            excerpt: Arc::new(Excerpt {
                kind,
                span: before.len()..before.len() + length,
                text: shown.then(|| harmless(text)),
            }),
        }
    }

    /// What stands there.
    pub fn offending_text(&self) -> Option<&str> {
        self.excerpt.text.as_deref()?.get(self.excerpt.span.clone())
    }
}

/// The text with a blank in place of every byte of a character that a terminal could obey. Offsets stay.
pub(crate) fn harmless(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        let bidirectional =
            matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        if c == '\n' || c == '\t' || !(c.is_control() || bidirectional) {
            out.push(c);
        } else {
            (0..c.len_utf8()).for_each(|_| out.push(' '));
        }
    }
    out
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}:{}:{}", self.excerpt.kind, self.file, self.line, self.column)
    }
}

/// Without the text.
impl fmt::Debug for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.file, self.line, self.column)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: DocumentKind = DocumentKind::Policy;

    #[test]
    fn a_place_is_on_one_line_and_its_text_is_harmless() {
        let text = "a = 1\nb = \u{1b}[31m\u{202e}é # x\nc";
        let place = Position::new(POLICY, &"f".into(), text, 10..text.len());
        assert_eq!((place.line, place.column), (2, 5));
        assert_eq!(place.offending_text(), Some(" [31m   é # x"));
        // At the end, beyond it, and inside a character.
        for span in [text.len()..text.len(), 900..901, text.len() - 7..text.len()] {
            let place = Position::new(POLICY, &"f".into(), text, span);
            assert!(place.offending_text().is_some(), "{place:?}");
        }
        let long = format!("{}\nx = 1\n", "y".repeat(LINE_MAX + 1));
        assert_eq!(
            Position::new(POLICY, &"f".into(), &long, LINE_MAX + 2..LINE_MAX + 3).offending_text(),
            None
        );
        assert!(
            Position::new(POLICY, &"f".into(), &format!("{long}\n\n\n"), long.len() + 2..long.len() + 2)
                .excerpt
                .text
                .is_some()
        );
    }
}
