//! A module for Rust: safe functions over the imports.
//!
//! * `types`: the interface's types; `functions`: its functions. Here: what is around them, and how values are words and bytes.

mod functions;
mod types;

use std::sync::Arc;

use super::NameTaken;
use super::items::{self, Text};
use super::names::{Names, camel};
use super::prose;
use crate::lower::{Element, Lowered, Shape};
use crate::model::{Interface, TypeKind};
use crate::scalar::{Layout, Scalar};

const LANGUAGE: &str = "Rust";

/// Parameters of a function that clippy takes for not too many.
const ARGUMENTS_MAX: usize = 7;

/// Writes the module of one interface.
struct Module<'l> {
    lowered: &'l Lowered,
    /// Names of types.
    names: Names<'l>,
    /// What no compiler is to complain of.
    allow: &'static str,
    text: Text,
}

pub(super) fn module(lowered: &Lowered) -> Result<String, NameTaken> {
    let names = Names::new(&lowered.interface().name, LANGUAGE, ["Self".to_owned()]);
    let mut module = Module { lowered, names, allow: allow(lowered.interface()), text: Text::default() };
    module.write()?;
    Ok(module.text.into_string())
}

/// Not everything is used by every guest. Names with `__`, or `_` at the end, which what is added makes one, are unusual in Rust.
fn allow(interface: &Interface) -> &'static str {
    let functions = interface.functions.iter();
    let names = functions.flat_map(|f| {
        let fields = f.params.iter().chain(&f.results).map(|field| &field.name);
        fields.chain([&f.name])
    });
    let fields = interface.types.iter().filter_map(|ty| match &ty.kind {
        TypeKind::Record(fields) => Some(fields),
        _ => None,
    });
    let names = names.chain(fields.flatten().map(|field| &field.name));
    match names.into_iter().any(|name| name.contains("__") || name.ends_with('_')) {
        true => "#[allow(dead_code, non_snake_case)]",
        false => "#[allow(dead_code)]",
    }
}

/// The type in the public functions and records.
fn public(scalar: &Scalar) -> String {
    match scalar {
        Scalar::Bool => "bool".to_owned(),
        Scalar::Enum { name, .. } | Scalar::Flags { name, .. } | Scalar::Handle { name, .. } => camel(name),
        _ => in_memory(scalar).to_owned(),
    }
}

/// The type in memory that the host writes: one for which all bits are a value.
fn in_memory(scalar: &Scalar) -> &'static str {
    match scalar {
        Scalar::Bool | Scalar::U8 => "u8",
        Scalar::S8 => "i8",
        Scalar::S16 => "i16",
        Scalar::U16 => "u16",
        Scalar::S32 => "i32",
        Scalar::U32 | Scalar::Enum { .. } | Scalar::Handle { .. } => "u32",
        Scalar::S64 => "i64",
        Scalar::U64 => "u64",
        Scalar::F32 => "f32",
        Scalar::F64 => "f64",
        Scalar::Flags { wide, .. } => {
            if *wide {
                "u64"
            } else {
                "u32"
            }
        }
    }
}

/// The type of a WebAssembly parameter or result.
fn word(scalar: &Scalar) -> &'static str {
    match scalar {
        Scalar::S8 | Scalar::S16 => "i32",
        Scalar::Bool | Scalar::U8 | Scalar::U16 => "u32",
        _ => in_memory(scalar),
    }
}

/// A value of the public type as a word.
fn to_word(scalar: &Scalar, value: &str) -> String {
    match scalar {
        Scalar::Bool | Scalar::U8 | Scalar::U16 => format!("u32::from({value})"),
        Scalar::S8 | Scalar::S16 => format!("i32::from({value})"),
        Scalar::Enum { .. } => format!("{value} as u32"),
        Scalar::Flags { .. } | Scalar::Handle { .. } => format!("{value}.0"),
        _ => value.to_owned(),
    }
}

/// The public value of what is in memory, or of a word.
fn from_bits(scalar: &Scalar, bits: &str, what: &str) -> String {
    match scalar {
        Scalar::Bool => format!("{bits} != 0"),
        Scalar::Enum { name, .. } => {
            let name = camel(name);
            format!("checks::case(<{name} as ::core::convert::TryFrom<u32>>::try_from({bits}), \"{what}\")")
        }
        Scalar::Flags { name, .. } | Scalar::Handle { name, .. } => format!("{}({bits})", camel(name)),
        _ => bits.to_owned(),
    }
}

/// The same of a word, which is wider.
fn from_word(scalar: &Scalar, bits: &str, what: &str) -> String {
    match scalar {
        Scalar::S8 | Scalar::U8 | Scalar::S16 | Scalar::U16 => format!("{bits} as {}", in_memory(scalar)),
        _ => from_bits(scalar, bits, what),
    }
}

impl Module<'_> {
    fn write(&mut self) -> Result<(), NameTaken> {
        let interface = self.lowered.interface();
        let mut head = vec![format!("The interface \"{}\" for guests in Rust.", interface.name)];
        if !interface.doc.is_empty() {
            head.push(String::new());
            head.extend(prose::lines(&interface.doc));
        }
        head.push(String::new());
        head.push("Made by `sandboxctl interface rust`: change the interface instead.".to_owned());
        for line in head {
            self.text.line(format!("// {line}"));
        }
        self.text.line("");
        self.text.line("const _: () = ::core::assert!(::core::mem::size_of::<usize>() == 4, \"the interface is for 32-bit WebAssembly\");");
        for (index, ty) in interface.types.iter().enumerate() {
            self.ty(index, ty)?;
        }
        for function in self.lowered.functions() {
            self.function(function)?;
        }
        self.raw();
        self.checks();
        Ok(())
    }

    /// A description, at this depth. Something must be there: crates can demand it.
    fn doc(&mut self, indent: &str, doc: &str, otherwise: &str) {
        if doc.trim().is_empty() {
            self.text.line(format!("{indent}/// {otherwise}"));
        }
        for line in prose::lines(doc) {
            self.text.line(format!("{indent}/// {}", prose::markdown(&line)));
        }
    }

    fn lines(&mut self, lines: &[&str]) {
        for line in lines {
            self.text.line(line);
        }
    }

    /// Records that are results, each with its layout.
    fn result_records(&self) -> Vec<(String, Arc<Layout>)> {
        let results = self.lowered.functions().iter().flat_map(items::results);
        let used: Vec<&str> = results
            .filter(|item| matches!(item.shape(), Shape::Record(_) | Shape::List(Element::Record(_))))
            .map(|item| item.record())
            .collect();
        let types = self.lowered.interface().types.iter().enumerate();
        types
            .filter(|(_, ty)| used.contains(&ty.name.as_str()))
            .filter_map(|(index, ty)| match &ty.kind {
                TypeKind::Record(fields) => {
                    Some((ty.name.clone(), items::layout(self.lowered, index, fields)))
                }
                _ => None,
            })
            .collect()
    }

    /// The imports, and records as the host writes them.
    fn raw(&mut self) {
        self.text.line("");
        self.text.line(self.allow);
        self.text.line("mod raw {");
        for (name, layout) in self.result_records() {
            self.lines(&["    #[derive(Clone, Copy, Default)]", "    #[repr(C)]"]);
            self.text.line(format!("    pub struct {} {{", camel(&name)));
            for (field, _, scalar) in &layout.fields {
                self.text.line(format!("        pub {field}: {},", in_memory(scalar)));
            }
            self.lines(&["    }", ""]);
        }
        self.text.line(format!("    #[link(wasm_import_module = \"{}\")]", self.lowered.interface().name));
        self.text.line("    unsafe extern \"C\" {");
        for function in self.lowered.functions() {
            let mut types = Vec::new();
            for item in items::params(function) {
                match item.shape() {
                    Shape::Scalar(scalar) => types.push(word(scalar).to_owned()),
                    Shape::Record(_) => types.push(format!("*const super::{}", camel(item.record()))),
                    Shape::String | Shape::Bytes => {
                        types.extend(["*const u8".to_owned(), "usize".to_owned()])
                    }
                    Shape::List(Element::Scalar(scalar)) => {
                        types.extend([format!("*const {}", in_memory(scalar)), "usize".to_owned()]);
                    }
                    Shape::List(Element::Record(_)) => {
                        types.extend([format!("*const super::{}", camel(item.record())), "usize".to_owned()]);
                    }
                }
            }
            for item in items::outs(function) {
                types.push(match item.shape() {
                    Shape::Scalar(scalar) | Shape::List(Element::Scalar(scalar)) => {
                        format!("*mut {}", in_memory(scalar))
                    }
                    Shape::Record(_) | Shape::List(Element::Record(_)) => {
                        format!("*mut {}", camel(item.record()))
                    }
                    Shape::String | Shape::Bytes => "*mut u8".to_owned(),
                });
                if item.has_length() {
                    types.extend(["usize".to_owned(), "*mut usize".to_owned()]);
                }
            }
            let params: Vec<String> =
                types.iter().enumerate().map(|(index, ty)| format!("p{index}: {ty}")).collect();
            let result = match (items::returned(function), &function.error) {
                (Some(scalar), _) => format!(" -> {}", word(scalar)),
                (None, Some(_)) => " -> u32".to_owned(),
                (None, None) => String::new(),
            };
            let name = &function.declaration.name;
            if params.len() > ARGUMENTS_MAX {
                self.text.line("        #[allow(clippy::too_many_arguments)]");
            }
            self.text.line(format!("        #[link_name = \"{name}\"]"));
            self.text.line(format!("        pub fn {name}({}){result};", params.join(", ")));
        }
        self.lines(&["    }", "}"]);
    }

    /// What holds of everything that comes from the host. It does hold; a guest that is not sure of it would have no safe functions.
    fn checks(&mut self) {
        self.text.line("");
        self.lines(&[
            "#[allow(dead_code)]",
            "mod checks {",
            "    #[cold]",
            "    pub fn broken(what: &str) -> ! {",
        ]);
        self.text.line(format!(
            "        ::core::panic!(\"the host breaks the interface {}: {{}}\", what)",
            self.lowered.interface().name
        ));
        self.lines(&[
            "    }",
            "",
            "    pub fn case<T>(case: ::core::result::Result<T, u32>, what: &str) -> T {",
            "        match case {",
            "            ::core::result::Result::Ok(case) => case,",
            "            ::core::result::Result::Err(_) => broken(what),",
            "        }",
            "    }",
            "",
            "    pub fn written<'o, T>(room: &'o [T], length: usize, what: &str) -> &'o [T] {",
            "        match room.get(..length) {",
            "            ::core::option::Option::Some(written) => written,",
            "            ::core::option::Option::None => broken(what),",
            "        }",
            "    }",
            "",
            "    pub fn text<'o>(bytes: &'o [u8], what: &str) -> &'o str {",
            "        match ::core::str::from_utf8(bytes) {",
            "            ::core::result::Result::Ok(text) => text,",
            "            ::core::result::Result::Err(_) => broken(what),",
            "        }",
            "    }",
            "}",
        ]);
    }
}
