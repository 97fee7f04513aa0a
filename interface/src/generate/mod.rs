//! What authors of guests get from an interface: a header for C and C++, a module for Rust, a reference.
//!
//! The text is a pure function of the interface. Names in it are the interface's, which hold no character that means anything to a
//! language; descriptions are anybody's text, and [`prose`] keeps them inside of their comments.
//!
//! * `c`, `rust`, `markdown`: one language each.
//! * `items`: what all of them ask about parameters, results and types.
//! * `names`: one name for one thing.
//! * `prose`: descriptions.

mod c;
mod items;
mod markdown;
mod names;
mod prose;
mod rust;

#[cfg(test)]
mod tests;

use crate::lower::Lowered;

/// Why there is no generated text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "interface \"{interface}\": in {language}, {second} would have the name `{name}` of {first}; rename one of them"
)]
pub struct NameTaken {
    /// The interface's name.
    pub interface: String,
    /// The language that text was to be generated in.
    pub language: &'static str,
    /// The name that two things would have.
    pub name: String,
    /// What has it.
    pub first: String,
    /// What would have it too.
    pub second: String,
}

impl Lowered {
    /// A header for guests in C11 or C++11, compiled by clang for 32-bit WebAssembly.
    pub fn c_header(&self) -> Result<String, NameTaken> {
        c::header(self)
    }

    /// A module for guests in Rust, with or without the standard library.
    pub fn rust_module(&self) -> Result<String, NameTaken> {
        rust::module(self)
    }

    /// A reference for authors of guests, in Markdown.
    pub fn reference(&self) -> String {
        markdown::reference(self)
    }
}
