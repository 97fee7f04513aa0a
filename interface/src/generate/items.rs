//! What every language asks about an interface.

use std::sync::Arc;

use crate::lower::{Element, Lowered, LoweredFunction, Shape, Slot};
use crate::model::{Field, Type};
use crate::rules::Rules;
use crate::scalar::{Layout, Scalar};

/// A parameter or result: what the interface says, and what became of it.
#[derive(Clone, Copy)]
pub(super) struct Item<'l> {
    pub(super) field: &'l Field,
    pub(super) slot: &'l Slot,
}

impl<'l> Item<'l> {
    pub(super) fn name(&self) -> &'l str {
        &self.field.name
    }

    pub(super) fn shape(&self) -> &'l Shape {
        &self.slot.shape
    }

    /// Name of its record type, or of the record type of its elements.
    pub(super) fn record(&self) -> &'l str {
        match &self.field.ty {
            Type::Named(name) => name,
            Type::List(element) => match &**element {
                Type::Named(name) => name,
                _ => "",
            },
            _ => "",
        }
    }

    /// Whether its length is not known before the call.
    pub(super) fn has_length(&self) -> bool {
        self.shape().has_length()
    }

    /// What a number of its elements, or of its bytes, is called.
    pub(super) fn length_word(&self) -> &'static str {
        match self.shape() {
            Shape::List(_) => "count",
            _ => "length",
        }
    }
}

pub(super) fn params(function: &LoweredFunction) -> impl Iterator<Item = Item<'_>> {
    let fields = function.declaration.params.iter().zip(&function.params);
    fields.map(|(field, slot)| Item { field, slot })
}

pub(super) fn results(function: &LoweredFunction) -> impl Iterator<Item = Item<'_>> {
    let fields = function.declaration.results.iter().zip(&function.results);
    fields.map(|(field, slot)| Item { field, slot })
}

/// The results that are written by address.
pub(super) fn outs(function: &LoweredFunction) -> impl Iterator<Item = Item<'_>> {
    results(function).filter(|item| item.slot.arg.is_some())
}

/// The result that is the WebAssembly function's own.
pub(super) fn returned(function: &LoweredFunction) -> Option<&Scalar> {
    results(function).find(|item| item.slot.arg.is_none()).and_then(|item| match item.shape() {
        Shape::Scalar(scalar) => Some(scalar),
        _ => None,
    })
}

/// The layout of a record, which is sound in an interface that was lowered.
pub(super) fn layout(interface: &Lowered, index: usize, fields: &[Field]) -> Arc<Layout> {
    let rules = Rules::new(interface.interface());
    rules.layout(index, fields).unwrap_or_else(|_| Layout::new([]).into())
}

/// Whether some bits are no value of the type.
pub(super) fn has_invalid_bits(scalar: &Scalar) -> bool {
    matches!(scalar, Scalar::Bool | Scalar::Enum { .. })
}

/// The same for the elements of a list.
pub(super) fn element_has_invalid_bits(element: &Element) -> bool {
    match element {
        Element::Scalar(scalar) => has_invalid_bits(scalar),
        Element::Record(layout) => layout.fields.iter().any(|(_, _, scalar)| has_invalid_bits(scalar)),
    }
}

/// Lines of generated text.
#[derive(Default)]
pub(super) struct Text(String);

impl Text {
    pub(super) fn line(&mut self, line: impl AsRef<str>) {
        self.0.push_str(line.as_ref().trim_end());
        self.0.push('\n');
    }

    pub(super) fn into_string(self) -> String {
        self.0
    }
}
