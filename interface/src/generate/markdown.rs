//! A reference for authors of guests.

use super::items::{self, Item, Text};
use super::names::Locals;
use super::prose;
use crate::lower::{Lowered, LoweredFunction, Shape};
use crate::model::{Named, TypeDef, TypeKind};

pub(super) fn reference(lowered: &Lowered) -> String {
    let interface = lowered.interface();
    let mut text = Text::default();
    text.line(format!("# Interface `{}`", interface.name));
    paragraph(&mut text, &interface.doc);
    text.line("");
    text.line("Made by `sandboxctl interface docs`: change the interface instead.");
    text.line("");
    text.line("## Functions");
    for function in lowered.functions() {
        self::function(&mut text, function);
    }
    if !interface.types.is_empty() {
        text.line("");
        text.line("## Types");
    }
    for (index, ty) in interface.types.iter().enumerate() {
        self::ty(&mut text, lowered, index, ty);
    }
    text.into_string()
}

fn paragraph(text: &mut Text, doc: &str) {
    if !doc.is_empty() {
        text.line("");
    }
    for line in prose::lines(doc) {
        text.line(prose::markdown(&line));
    }
}

/// A description in a cell of a table.
fn cell(doc: &str) -> String {
    prose::markdown(&prose::line(doc))
}

fn function(text: &mut Text, function: &LoweredFunction) {
    let declared = &function.declaration;
    text.line("");
    text.line(format!("### `{}`", declared.name));
    paragraph(text, &declared.doc);
    for (title, fields) in [("parameter", &declared.params), ("result", &declared.results)] {
        if fields.is_empty() {
            continue;
        }
        text.line("");
        text.line(format!("| {title} | type | meaning |"));
        text.line("| --- | --- | --- |");
        for field in fields {
            text.line(format!("| `{}` | `{}` | {} |", field.name, field.ty, cell(&field.doc)));
        }
    }
    text.line("");
    match (&declared.error, &declared.overflow) {
        (Some(error), Some(case)) => text.line(format!(
            "Fails with `{error}`; with `{case}` if a result is longer than its room, and then the lengths and counts are those that there must be \
             room for."
        )),
        (Some(error), None) => text.line(format!("Fails with `{error}`.")),
        (None, _) => text.line("Does not fail."),
    }
    if let Some(deadline) = declared.deadline {
        text.line(format!(
            "The guest traps when it takes longer than {}.",
            policies::format_duration(deadline)
        ));
    }
    text.line("");
    text.line("```wat");
    text.line(signature(function));
    text.line("```");
}

/// The import as WebAssembly text has it, with a name for each parameter.
fn signature(function: &LoweredFunction) -> String {
    let mut names = Vec::new();
    for item in items::params(function) {
        names.push(item.name().to_owned());
        names.extend(length_name(&item));
    }
    for item in items::outs(function) {
        names.push(item.name().to_owned());
        if let Some(length) = length_name(&item) {
            names.extend([format!("{}_room", item.name()), length]);
        }
    }
    let mut locals = Locals::default();
    let names = names.iter().map(|name| locals.name(name));
    let params: String =
        names.zip(function.params()).map(|(name, ty)| format!(" (param ${name} {ty})")).collect();
    let results: String = function.results().iter().map(|ty| format!(" (result {ty})")).collect();
    let (interface, name) = function.name.split_once('.').unwrap_or_default();
    format!("(import \"{interface}\" \"{name}\" (func ${name}{params}{results}))")
}

fn length_name(item: &Item<'_>) -> Option<String> {
    let unit = match item.shape() {
        Shape::List(_) => "count",
        Shape::String | Shape::Bytes => "length",
        Shape::Scalar(_) | Shape::Record(_) => return None,
    };
    Some(format!("{}_{unit}", item.name()))
}

fn ty(text: &mut Text, lowered: &Lowered, index: usize, ty: &TypeDef) {
    let kind = match ty.kind {
        TypeKind::Enum(_) => "enum",
        TypeKind::Error(_) => "error",
        TypeKind::Flags(_) => "flags",
        TypeKind::Handle => "handle",
        TypeKind::Record(_) => "record",
    };
    text.line("");
    text.line(format!("### `{}`: {kind}", ty.name));
    paragraph(text, &ty.doc);
    match &ty.kind {
        TypeKind::Enum(cases) => named(text, "number", cases, |index| index.to_string()),
        TypeKind::Error(cases) => named(text, "number", cases, |index| (index + 1).to_string()),
        TypeKind::Flags(flags) => named(text, "bit", flags, |index| index.to_string()),
        TypeKind::Handle => {}
        TypeKind::Record(fields) => {
            let layout = items::layout(lowered, index, fields);
            text.line("");
            text.line(format!("{} bytes.", layout.size));
            text.line("");
            text.line("| offset | field | type | meaning |");
            text.line("| --- | --- | --- | --- |");
            for (field, (_, offset, _)) in fields.iter().zip(&layout.fields) {
                text.line(format!("| {offset} | `{}` | `{}` | {} |", field.name, field.ty, cell(&field.doc)));
            }
        }
    }
}

fn named(text: &mut Text, number: &str, all: &[Named], of: impl Fn(usize) -> String) {
    text.line("");
    text.line(format!("| {number} | name | meaning |"));
    text.line("| --- | --- | --- |");
    for (index, Named { name, doc }) in all.iter().enumerate() {
        text.line(format!("| {} | `{name}` | {} |", of(index), cell(doc)));
    }
}
