//! Errors in the form that the crate `miette` renders: the piece of text, the place in it, and help.

use std::fmt;

use miette::{
    Diagnostic, LabeledSpan, MietteError, MietteSpanContents, SourceCode, SourceSpan, SpanContents,
};

use crate::error::Error;
use crate::position::{Position, harmless};

/// An error as a [`Diagnostic`]: what [`Error`] says on one line, in pieces.
#[derive(Debug)]
pub struct Report<'e>(pub &'e Error);

/// What is wrong; place and help are shown elsewhere.
impl fmt::Display for Report<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&harmless(&self.0.headline()))
    }
}

impl std::error::Error for Report<'_> {}

impl Diagnostic for Report<'_> {
    fn help(&self) -> Option<Box<dyn fmt::Display + '_>> {
        self.0.help().map(|help| Box::new(harmless(&help)) as Box<dyn fmt::Display>)
    }

    fn source_code(&self) -> Option<&dyn SourceCode> {
        self.0.position().filter(|at| at.excerpt.text.is_some()).map(|at| at as &dyn SourceCode)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        let at = self.0.position()?;
        let label = LabeledSpan::new(Some("here".to_owned()), at.excerpt.span.start, at.excerpt.span.len());
        Some(Box::new(std::iter::once(label)))
    }
}

impl SourceCode for Position {
    fn read_span<'a>(
        &'a self,
        span: &SourceSpan,
        before: usize,
        after: usize,
    ) -> Result<Box<dyn SpanContents<'a> + 'a>, MietteError> {
        let text = self.excerpt.text.as_deref().ok_or(MietteError::OutOfBounds)?;
        let contents = text.read_span(span, before, after)?;
        Ok(Box::new(MietteSpanContents::new_named(
            harmless(&self.file),
            contents.data(),
            *contents.span(),
            contents.line(),
            contents.column(),
            contents.line_count(),
        )))
    }
}
