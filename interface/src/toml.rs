//! An interface as TOML, which [`Interface::parse`] reads.

use std::fmt::Write;

use crate::model::{Field, Function, Interface, Named, TypeDef, TypeKind};

impl Interface {
    /// The interface as TOML. What [`parse`](Self::parse) makes of it is the same, types sorted by what they are, if the interface is
    /// sound.
    pub fn to_toml(&self) -> String {
        let mut text = String::new();
        entry(&mut text, "interface", &quoted(&self.name));
        doc(&mut text, &self.doc);
        for kind in ["enum", "error", "flags", "handle", "record"] {
            for ty in self.types.iter().filter(|ty| key(&ty.kind) == kind) {
                named_type(&mut text, ty);
            }
        }
        for each in &self.functions {
            function(&mut text, each);
        }
        text
    }
}

fn key(kind: &TypeKind) -> &'static str {
    match kind {
        TypeKind::Enum(_) => "enum",
        TypeKind::Error(_) => "error",
        TypeKind::Flags(_) => "flags",
        TypeKind::Handle => "handle",
        TypeKind::Record(_) => "record",
    }
}

fn named_type(text: &mut String, ty: &TypeDef) {
    table(text, key(&ty.kind));
    entry(text, "name", &quoted(&ty.name));
    doc(text, &ty.doc);
    match &ty.kind {
        TypeKind::Enum(cases) | TypeKind::Error(cases) => {
            entry(text, "cases", &array(cases.iter().map(named)))
        }
        TypeKind::Flags(flags) => entry(text, "flags", &array(flags.iter().map(named))),
        TypeKind::Handle => {}
        TypeKind::Record(all) => fields(text, "fields", all),
    }
}

fn function(text: &mut String, function: &Function) {
    let Function { name, doc: description, params, results, error, overflow, deadline, blocking } = function;
    table(text, "function");
    entry(text, "name", &quoted(name));
    doc(text, description);
    fields(text, "params", params);
    fields(text, "results", results);
    for (key, value) in [("error", error), ("overflow", overflow)] {
        if let Some(value) = value {
            entry(text, key, &quoted(value));
        }
    }
    if let Some(deadline) = deadline {
        entry(text, "deadline", &quoted(&policies::format_duration(*deadline)));
    }
    if *blocking {
        entry(text, "blocking", "true");
    }
}

fn table(text: &mut String, key: &str) {
    // Writing to a string cannot fail.
    let _ = writeln!(text, "\n[[{key}]]");
}

fn entry(text: &mut String, key: &str, value: &str) {
    let _ = writeln!(text, "{key} = {value}");
}

fn doc(text: &mut String, doc: &str) {
    if !doc.is_empty() {
        entry(text, "doc", &quoted(doc));
    }
}

fn named(Named { name, doc }: &Named) -> String {
    match doc.as_str() {
        "" => quoted(name),
        doc => format!("{{ name = {}, doc = {} }}", quoted(name), quoted(doc)),
    }
}

fn fields(text: &mut String, key: &str, fields: &[Field]) {
    let field = |Field { name, doc, ty }: &Field| {
        let doc = if doc.is_empty() { String::new() } else { format!(", doc = {}", quoted(doc)) };
        format!("{{ name = {}, type = {}{doc} }}", quoted(name), quoted(&ty.to_string()))
    };
    if !fields.is_empty() {
        entry(text, key, &array(fields.iter().map(field)));
    }
}

/// On one line if that is short.
fn array(elements: impl Iterator<Item = String>) -> String {
    const LINE: usize = 100;
    let elements: Vec<_> = elements.collect();
    match elements.iter().map(String::len).sum::<usize>() <= LINE {
        true => format!("[{}]", elements.join(", ")),
        false => format!("[\n  {},\n]", elements.join(",\n  ")),
    }
}

fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            c if c.is_control() => {
                let _ = write!(quoted, "\\u{:04X}", u32::from(c));
            }
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}
