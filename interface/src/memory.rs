//! What a checked interface takes of memory, which is many times what its bytes take on the wire: whoever lets strangers declare
//! interfaces has to count it.

use std::collections::HashSet;
use std::sync::Arc;

use crate::lower::{Element, Lowered, LoweredFunction, Shape, Slot};
use crate::model::{Field, Function, Interface, Named, Type, TypeKind};
use crate::scalar::{Layout, Scalar};

/// What allocators add to an allocation, and what they round it up to.
const OVERHEAD: usize = 8;
const STEP: usize = 16;

impl Lowered {
    /// About the bytes of memory that it takes, rather too many than too few.
    pub fn memory(&self) -> usize {
        let functions = self.functions.iter();
        let mut known = HashSet::new();
        let lowered = functions.map(|function| lowered_function(function, &mut known)).sum::<usize>();
        // Behind an `Arc`, as a rule.
        let itself = allocation(size_of::<Self>() + 2 * size_of::<usize>());
        let vectors =
            array::<LoweredFunction>(self.functions.capacity()) + array::<u16>(self.functions.len());
        itself + vectors + lowered + interface(self.interface())
    }
}

fn allocation(bytes: usize) -> usize {
    match bytes {
        0 => 0,
        bytes => (bytes + OVERHEAD).next_multiple_of(STEP).max(2 * STEP),
    }
}

fn array<T>(capacity: usize) -> usize {
    allocation(capacity * size_of::<T>())
}

fn text(text: &String) -> usize {
    allocation(text.capacity())
}

fn interface(Interface { name, doc, types, functions }: &Interface) -> usize {
    let one_type = |ty: &crate::model::TypeDef| {
        let kind = match &ty.kind {
            TypeKind::Enum(all) | TypeKind::Error(all) | TypeKind::Flags(all) => {
                let texts = all.iter().map(|Named { name, doc }| text(name) + text(doc));
                array::<Named>(all.capacity()) + texts.sum::<usize>()
            }
            TypeKind::Record(all) => fields(all),
            TypeKind::Handle => 0,
        };
        text(&ty.name) + text(&ty.doc) + kind
    };
    let parts = types.iter().map(one_type).sum::<usize>() + functions.iter().map(function).sum::<usize>();
    let vectors = array::<crate::model::TypeDef>(types.capacity()) + array::<Function>(functions.capacity());
    text(name) + text(doc) + vectors + parts
}

fn function(Function { name, doc, params, results, error, overflow, .. }: &Function) -> usize {
    let optional = error.iter().chain(overflow).map(text).sum::<usize>();
    text(name) + text(doc) + fields(params) + fields(results) + optional
}

fn fields(all: &Vec<Field>) -> usize {
    let one = |Field { name, doc, ty }: &Field| text(name) + text(doc) + of_type(ty);
    array::<Field>(all.capacity()) + all.iter().map(one).sum::<usize>()
}

fn of_type(ty: &Type) -> usize {
    match ty {
        Type::Named(name) => text(name),
        // No deeper than this in a checked interface.
        Type::List(element) => {
            let inner = if let Type::Named(name) = &**element { text(name) } else { 0 };
            array::<Type>(1) + inner
        }
        _ => 0,
    }
}

fn lowered_function(lowered: &LoweredFunction, known: &mut HashSet<*const Layout>) -> usize {
    let LoweredFunction { name, wasm_params, wasm_results, params, results, error, declaration, .. } =
        lowered;
    let types = allocation(wasm_params.capacity()) + allocation(wasm_results.capacity());
    let vectors = array::<Slot>(params.capacity()) + array::<Slot>(results.capacity());
    let slots = params.iter().chain(results).map(|slot| text(&slot.name) + shape(&slot.shape, known));
    let error = error.iter().map(|(name, _)| text(name)).sum::<usize>();
    text(name) + types + vectors + slots.sum::<usize>() + error + function(declaration)
}

/// Layouts are shared, and count once.
fn shape(shape: &Shape, known: &mut HashSet<*const Layout>) -> usize {
    match shape {
        Shape::Scalar(one) | Shape::List(Element::Scalar(one)) => scalar(one),
        Shape::Record(layout) | Shape::List(Element::Record(layout)) if known.insert(Arc::as_ptr(layout)) => {
            let fields = layout.fields.iter().map(|(name, _, one)| text(name) + scalar(one)).sum::<usize>();
            allocation(size_of::<Layout>() + 2 * size_of::<usize>())
                + array::<(String, u32, Scalar)>(layout.fields.capacity())
                + fields
        }
        Shape::Record(_) | Shape::List(_) | Shape::String | Shape::Bytes => 0,
    }
}

fn scalar(scalar: &Scalar) -> usize {
    match scalar {
        Scalar::Enum { name, .. } | Scalar::Flags { name, .. } | Scalar::Handle { name, .. } => text(name),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An interface of so many functions with so many parameters of a record that they share.
    fn memory(functions: usize, params: usize) -> usize {
        let field = |name: String, ty: &str| Field { name, doc: String::new(), ty: ty.to_owned().into() };
        let kind = TypeKind::Record((0..64).map(|n| field(format!("f{n}"), "u8")).collect());
        let record = crate::model::TypeDef { name: "r".into(), doc: String::new(), kind };
        let params: Vec<_> = (0..params).map(|n| field(format!("p{n}"), "r")).collect();
        let function = |n| Function { name: format!("f{n}"), params: params.clone(), ..Function::default() };
        let functions = (0..functions).map(function).collect();
        let interface = Interface { name: "i".into(), doc: String::new(), types: vec![record], functions };
        Lowered::new(interface).expect("sound").memory()
    }

    #[test]
    fn everything_counts_and_what_is_shared_counts_once() {
        let (none, one, two) = (memory(1, 0), memory(1, 1), memory(1, 2));
        let layout = 64 * size_of::<(String, u32, Scalar)>();
        assert!(one - none > layout, "the first use of a record has its layout: {none} {one}");
        assert!(two - one < layout, "the second has not: {one} {two}");
        assert!(
            two - one > size_of::<Slot>() + 2 * size_of::<Field>(),
            "but all that is its own: {one} {two}"
        );
        // A function, its declaration once more, and their names.
        let parts = size_of::<Function>() + size_of::<LoweredFunction>();
        assert!(memory(101, 0) - none >= 100 * parts, "{none}");
    }

    #[test]
    fn names_count() {
        let with = |name: &str| {
            let function = Function { name: name.to_owned(), ..Function::default() };
            let interface = Interface { name: "i".into(), functions: vec![function], ..Interface::default() };
            Lowered::new(interface).expect("sound").memory()
        };
        // Three times: the declaration, its copy, and the full name.
        assert!(with(&"n".repeat(64)) >= with("n") + 3 * 32);
    }
}
