//! What stands in `#[host(…)]`, and documentation.

use std::time::Duration;

use heck::ToSnakeCase;
use proc_macro2::{Span, TokenStream};
use quote::{ToTokens, quote_spanned};
use syn::ext::IdentExt;
use syn::meta::ParseNestedMeta;
use syn::parse::Parser;
use syn::punctuated::Punctuated;
use syn::{Attribute, Error, Expr, ExprLit, Ident, Lit, LitStr, Meta, Result, Token, parenthesized};

/// All that can be said, as far as it may be where it stands.
#[derive(Default)]
pub(crate) struct Options {
    pub(crate) name: Option<LitStr>,
    pub(crate) overflow: Option<LitStr>,
    pub(crate) deadline: Option<Duration>,
    pub(crate) results: Vec<LitStr>,
    /// Words without a value.
    words: Vec<Ident>,
    known: Vec<String>,
}

impl Options {
    /// Of an item: takes its `#[host(…)]`s away.
    pub(crate) fn take(attributes: &mut Vec<Attribute>, allowed: &[&str]) -> Result<Self> {
        let mut options = Self::default();
        for attribute in attributes.extract_if(.., |attribute| attribute.path().is_ident("host")) {
            attribute.parse_nested_meta(|meta| options.add(&meta, allowed))?;
        }
        Ok(options)
    }

    /// Of the attribute itself.
    pub(crate) fn parse(tokens: TokenStream, allowed: &[&str]) -> Result<Self> {
        let mut options = Self::default();
        syn::meta::parser(|meta| options.add(&meta, allowed)).parse2(tokens)?;
        Ok(options)
    }

    fn add(&mut self, meta: &ParseNestedMeta<'_>, allowed: &[&str]) -> Result<()> {
        let key = meta.path.get_ident().map(Ident::to_string).unwrap_or_default();
        if !allowed.contains(&key.as_str()) {
            let valid = allowed.iter().map(|key| format!("`{key}`")).collect::<Vec<_>>().join(", ");
            return Err(meta.error(format!("unknown option; here there can be {valid}")));
        }
        if self.known.contains(&key) {
            return Err(meta.error(format!("`{key}` stands here a second time")));
        }
        match key.as_str() {
            "name" => self.name = Some(meta.value()?.parse()?),
            "overflow" => self.overflow = Some(meta.value()?.parse()?),
            "deadline" => self.deadline = Some(duration(&meta.value()?.parse()?)?),
            "results" => {
                let content;
                parenthesized!(content in meta.input);
                let names = Punctuated::<LitStr, Token![,]>::parse_terminated(&content)?;
                self.results = names.into_iter().collect();
            }
            _ => self.words.extend(meta.path.get_ident().cloned()),
        }
        self.known.push(key);
        Ok(())
    }

    /// A word, if it stands there.
    pub(crate) fn word(&self, word: &str) -> Option<&Ident> {
        self.words.iter().find(|known| *known == word)
    }

    /// The words that stand there.
    pub(crate) fn words(&self) -> &[Ident] {
        &self.words
    }

    /// The name that something has: as it says, or as in Rust, in snake case.
    pub(crate) fn name_of(&self, ident: &Ident) -> LitStr {
        let in_rust = || LitStr::new(&ident.unraw().to_string().to_snake_case(), ident.span());
        self.name.clone().unwrap_or_else(in_rust)
    }
}

/// The text of doc comments.
pub(crate) fn documentation(attributes: &[Attribute]) -> String {
    let lines =
        attributes.iter().filter(|attribute| attribute.path().is_ident("doc")).filter_map(|attribute| {
            match &attribute.meta {
                Meta::NameValue(meta) => match &meta.value {
                    Expr::Lit(ExprLit { lit: Lit::Str(text), .. }) => Some(text.value()),
                    _ => None,
                },
                _ => None,
            }
        });
    let lines: Vec<_> =
        lines.map(|line| line.strip_prefix(' ').unwrap_or(&line).replace('\t', " ")).collect();
    lines.join("\n").trim().to_owned()
}

fn duration(text: &LitStr) -> Result<Duration> {
    const UNITS: [(&str, u64); 6] = [
        ("ns", 1),
        ("us", 1_000),
        ("ms", 1_000_000),
        ("s", 1_000_000_000),
        ("m", 60_000_000_000),
        ("h", 3_600_000_000_000),
    ];
    let value = text.value();
    let (number, unit) = value.split_at(value.find(|c: char| !c.is_ascii_digit()).unwrap_or(value.len()));
    let factor = UNITS.iter().find(|(name, _)| *name == unit).map(|(_, factor)| *factor);
    let nanoseconds = number.parse::<u64>().ok().zip(factor).and_then(|(n, factor)| n.checked_mul(factor));
    match nanoseconds {
        Some(0) => Err(Error::new(text.span(), "a deadline of no time leaves no time to answer")),
        Some(nanoseconds) => Ok(Duration::from_nanos(nanoseconds)),
        None => {
            Err(Error::new(text.span(), "a deadline is a number and a unit, such as \"100ms\" or \"2s\""))
        }
    }
}

/// What does not compile if the name cannot be one, with the compiler's message at the name.
pub(crate) fn check_name(what: &str, name: &LitStr) -> TokenStream {
    let message = format!(
        "{:?} cannot be the name of {what}: a name is a small letter, then small letters, digits and '_', and no word of C or Rust",
        name.value()
    );
    check(name.span(), quote_spanned!(name.span()=> ::supervisor::interface::is_name(#name)), &message)
}

/// What does not compile if the condition does not hold.
pub(crate) fn check(span: Span, condition: impl ToTokens, message: &str) -> TokenStream {
    // A literal brace would begin a place for a value.
    quote_spanned!(span=> const _: () = ::core::assert!(#condition, "{}", #message);)
}
