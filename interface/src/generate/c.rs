//! A header for C and C++.

use super::NameTaken;
use super::items::{self, Item, Text};
use super::names::{Locals, Names};
use super::prose;
use crate::lower::{Element, Lowered, LoweredFunction, Shape};
use crate::model::{Named, TypeDef, TypeKind};
use crate::scalar::Scalar;

const LANGUAGE: &str = "C";

/// Names that C, C++ or the headers that are included define and that could be made of an interface's name and another, with a `_`; and
/// macros of the C library, which a guest can include before.
const TAKEN: &[&str] = &[
    "and_eq",
    "char16_t",
    "char32_t",
    "char8_t",
    "co_await",
    "co_return",
    "co_yield",
    "const_cast",
    "d_fileno",
    "dynamic_cast",
    "math_errhandling",
    "max_align_t",
    "not_eq",
    "nullptr_t",
    "or_eq",
    "ptrdiff_t",
    "reinterpret_cast",
    "size_t",
    "st_atime",
    "st_ctime",
    "st_mtime",
    "static_assert",
    "static_cast",
    "stderr",
    "stdin",
    "stdout",
    "thread_local",
    "typeof_unqual",
    "wchar_t",
    "xor_eq",
];

/// The same, and all names of `stdint.h`.
fn taken() -> impl Iterator<Item = String> {
    let sizes = ["8", "16", "32", "64"];
    let kinds =
        ["", "_least", "_fast"].iter().flat_map(move |kind| sizes.map(|size| format!("{kind}{size}")));
    let kinds = kinds.chain(["max".to_owned(), "ptr".to_owned()]);
    let integers = kinds.flat_map(|kind| [format!("int{kind}"), format!("uint{kind}")]);
    let integers = integers.chain(["ptrdiff", "size", "wchar", "wint", "sig_atomic"].map(String::from));
    let stdint = integers.flat_map(|name| {
        let upper = name.to_ascii_uppercase();
        [
            format!("{name}_t"),
            format!("{upper}_MIN"),
            format!("{upper}_MAX"),
            format!("{upper}_C"),
            format!("{upper}_WIDTH"),
        ]
    });
    let all = TAKEN.iter().map(|name| (*name).to_owned()).chain(stdint);
    all.collect::<std::collections::BTreeSet<_>>().into_iter()
}

/// Writes the header of one interface.
struct Header<'l> {
    lowered: &'l Lowered,
    names: Names<'l>,
    text: Text,
}

pub(super) fn header(lowered: &Lowered) -> Result<String, NameTaken> {
    let interface = lowered.interface();
    let names = Names::new(&interface.name, LANGUAGE, taken());
    let mut header = Header { lowered, names, text: Text::default() };
    header.write()?;
    Ok(header.text.into_string())
}

impl Header<'_> {
    fn write(&mut self) -> Result<(), NameTaken> {
        let interface = self.lowered.interface();
        let upper = interface.name.to_ascii_uppercase();
        let (guard, check) = (format!("{upper}_INTERFACE_H"), format!("{upper}_STATIC_ASSERT"));
        self.names.claim(guard.clone(), "the header itself")?;
        self.names.claim(check.clone(), "the header itself")?;
        let mut head = vec![format!("The interface \"{}\" for guests in C and C++.", interface.name)];
        if !interface.doc.is_empty() {
            head.push(String::new());
            head.extend(prose::lines(&interface.doc));
        }
        head.push(String::new());
        head.push("Made by `sandboxctl interface header`: change the interface instead.".to_owned());
        self.comment(head);
        for line in [&format!("#ifndef {guard}"), &format!("#define {guard}"), ""] {
            self.text.line(line);
        }
        for line in
            ["#include <stdbool.h>", "#include <stddef.h>", "#include <stdint.h>", "", "#ifdef __cplusplus"]
        {
            self.text.line(line);
        }
        self.text.line("extern \"C\" {");
        self.text.line(format!("#define {check} static_assert"));
        self.text.line("#else");
        self.text.line(format!("#define {check} _Static_assert"));
        self.text.line("#endif");
        self.text.line("");
        self.text.line(format!("{check}(sizeof(void *) == 4, \"the interface is for 32-bit WebAssembly\");"));
        // A record names types that may be declared behind it.
        let is_record = |ty: &TypeDef| matches!(ty.kind, TypeKind::Record(_));
        for record in [false, true] {
            for (index, ty) in interface.types.iter().enumerate().filter(|(_, ty)| is_record(ty) == record) {
                self.ty(index, ty, &check)?;
            }
        }
        for function in self.lowered.functions() {
            self.function(function)?;
        }
        for line in ["", &format!("#undef {check}"), "#ifdef __cplusplus", "}", "#endif", "", "#endif"] {
            self.text.line(line);
        }
        Ok(())
    }

    /// What a thing of the interface is called, before what its kind adds.
    fn base(&self, name: &str) -> String {
        let prefix = format!("{}_", self.lowered.interface().name);
        if name.starts_with(&prefix) { name.to_owned() } else { prefix + name }
    }

    fn type_name(&self, name: &str) -> String {
        self.base(name) + "_t"
    }

    fn comment(&mut self, lines: impl IntoIterator<Item = String>) {
        let mut lines: Vec<String> = lines.into_iter().map(|line| prose::in_block_comment(&line)).collect();
        match lines.as_mut_slice() {
            [] => {}
            [line] => {
                let line = format!("/* {line} */");
                self.text.line(line);
            }
            lines => {
                for (index, line) in lines.iter().enumerate() {
                    self.text.line(format!("{} {line}", if index == 0 { "/*" } else { " *" }));
                }
                self.text.line(" */");
            }
        }
    }

    fn described(&mut self, doc: &str) {
        self.comment(prose::lines(doc).collect::<Vec<_>>());
    }

    fn ty(&mut self, index: usize, ty: &TypeDef, check: &str) -> Result<(), NameTaken> {
        let name = self.type_name(&ty.name);
        self.names.claim(name.clone(), format!("type {}", ty.name))?;
        self.text.line("");
        self.described(&ty.doc);
        match &ty.kind {
            TypeKind::Enum(cases) => {
                self.text.line(format!("typedef uint32_t {name};"));
                self.constants(ty, cases, |index| index.to_string())?;
            }
            TypeKind::Error(cases) => {
                self.text.line(format!("typedef uint32_t {name};"));
                let ok = Named { name: "ok".to_owned(), doc: "Success.".to_owned() };
                let all: Vec<Named> = std::iter::once(ok).chain(cases.iter().cloned()).collect();
                self.constants(ty, &all, |index| index.to_string())?;
                self.error_name(ty, &all)?;
            }
            TypeKind::Flags(flags) => {
                self.text.line(format!(
                    "typedef {} {name};",
                    if flags.len() > 32 { "uint64_t" } else { "uint32_t" }
                ));
                self.constants(ty, flags, |index| {
                    format!("{:#x}", 1u64.checked_shl(index as u32).unwrap_or(0))
                })?;
            }
            TypeKind::Handle => {
                self.text.line(format!("typedef struct {name} {{"));
                self.text.line("    uint32_t number; /* never 0 */");
                self.text.line(format!("}} {name};"));
            }
            TypeKind::Record(fields) => {
                let layout = items::layout(self.lowered, index, fields);
                self.text.line(format!("typedef struct {name} {{"));
                // In C++, a member hides a type of its name.
                let mut members = Names::new(&self.lowered.interface().name, LANGUAGE, taken());
                for ty in &self.lowered.interface().types {
                    members.claim(self.type_name(&ty.name), format!("type {}", ty.name))?;
                }
                for (field, (_, _, scalar)) in fields.iter().zip(&layout.fields) {
                    members.claim(field.name.clone(), format!("field {} of {}", field.name, ty.name))?;
                    let doc = prose::in_block_comment(&prose::line(&field.doc));
                    let doc = if doc.is_empty() { doc } else { format!(" /* {doc} */") };
                    self.text.line(format!("    {} {};{doc}", self.scalar(scalar), field.name));
                }
                self.text.line(format!("}} {name};"));
                self.text.line(format!("{check}(sizeof({name}) == {}, \"size of {name}\");", layout.size));
                for (field, offset, _) in &layout.fields {
                    self.text.line(format!(
                        "{check}(offsetof({name}, {field}) == {offset}, \"offset of {field} in {name}\");"
                    ));
                }
            }
        }
        Ok(())
    }

    fn constants(
        &mut self,
        ty: &TypeDef,
        all: &[Named],
        number: impl Fn(usize) -> String,
    ) -> Result<(), NameTaken> {
        let name = self.type_name(&ty.name);
        for (index, Named { name: case, doc }) in all.iter().enumerate() {
            let constant = self.constant(ty, case);
            self.names.claim(constant.clone(), format!("{case} of {}", ty.name))?;
            let doc = prose::in_block_comment(&prose::line(doc));
            let doc = if doc.is_empty() { doc } else { format!(" /* {doc} */") };
            self.text.line(format!("#define {constant} (({name}){}){doc}", number(index)));
        }
        Ok(())
    }

    fn constant(&self, ty: &TypeDef, case: &str) -> String {
        format!("{}_{case}", self.base(&ty.name)).to_ascii_uppercase()
    }

    /// A function from an error's number to its name in the interface.
    fn error_name(&mut self, ty: &TypeDef, cases: &[Named]) -> Result<(), NameTaken> {
        let name = self.base(&ty.name) + "_name";
        self.names.claim(name.clone(), format!("the function that names cases of {}", ty.name))?;
        self.text.line("");
        self.comment([format!("The name of a case of {}.", ty.name)]);
        self.text.line(format!(
            "__attribute__((unused)) static inline const char *{name}({} error)",
            self.type_name(&ty.name)
        ));
        self.text.line("{");
        self.text.line("    switch (error) {");
        for Named { name: case, .. } in cases {
            self.text.line(format!("    case {}: return \"{case}\";", self.constant(ty, case)));
        }
        self.text.line("    default: return \"unknown\";");
        self.text.line("    }");
        self.text.line("}");
        Ok(())
    }

    fn scalar(&self, scalar: &Scalar) -> String {
        match scalar {
            Scalar::Bool => "bool",
            Scalar::S8 => "int8_t",
            Scalar::U8 => "uint8_t",
            Scalar::S16 => "int16_t",
            Scalar::U16 => "uint16_t",
            Scalar::S32 => "int32_t",
            Scalar::U32 => "uint32_t",
            Scalar::S64 => "int64_t",
            Scalar::U64 => "uint64_t",
            Scalar::F32 => "float",
            Scalar::F64 => "double",
            Scalar::Enum { name, .. } | Scalar::Flags { name, .. } | Scalar::Handle { name, .. } => {
                return self.type_name(name);
            }
        }
        .to_owned()
    }

    fn element(&self, item: &Item<'_>, element: &Element) -> String {
        match element {
            Element::Scalar(scalar) => self.scalar(scalar),
            Element::Record(_) => self.type_name(item.record()),
        }
    }

    fn function(&mut self, function: &LoweredFunction) -> Result<(), NameTaken> {
        let declared = &function.declaration;
        let name = self.base(&declared.name);
        self.names.claim(name.clone(), format!("function {}", declared.name))?;
        let types = self.lowered.interface().types.iter().map(|ty| self.type_name(&ty.name));
        let mut locals = Locals::new(taken().chain(types));
        let mut params = Vec::new();
        let mut doc: Vec<String> = prose::lines(&declared.doc).collect();
        let mut about = |name: &str, what: &str, text: &str| {
            let text = [what.to_owned(), prose::line(text)];
            let text: Vec<&str> = text.iter().map(String::as_str).filter(|text| !text.is_empty()).collect();
            if !text.is_empty() {
                doc.push(format!("  {name}: {}", text.join(" ")));
            }
        };
        for item in items::params(function) {
            let name = locals.name(item.name());
            about(&name, "", &item.field.doc);
            let length = |locals: &mut Locals, what: &str| {
                format!("size_t {}", locals.name(&format!("{name}_{what}")))
            };
            match item.shape() {
                Shape::Scalar(scalar) => params.push(format!("{} {name}", self.scalar(scalar))),
                Shape::Record(_) => params.push(format!("const {} *{name}", self.type_name(item.record()))),
                Shape::String => {
                    params.extend([format!("const char *{name}"), length(&mut locals, "length")])
                }
                Shape::Bytes => params.extend([format!("const void *{name}"), length(&mut locals, "length")]),
                Shape::List(element) => params.extend([
                    format!("const {} *{name}", self.element(&item, element)),
                    length(&mut locals, "count"),
                ]),
            }
        }
        for item in items::outs(function) {
            let name = locals.name(item.name());
            let pointer = match item.shape() {
                Shape::Scalar(scalar) => format!("{} *{name}", self.scalar(scalar)),
                Shape::Record(_) => format!("{} *{name}", self.type_name(item.record())),
                Shape::String => format!("char *{name}"),
                Shape::Bytes => format!("void *{name}"),
                Shape::List(element) => format!("{} *{name}", self.element(&item, element)),
            };
            params.push(pointer);
            if item.has_length() {
                let (unit, of) = match item.shape() {
                    Shape::List(_) => ("count", "elements"),
                    _ => ("length", "bytes"),
                };
                let room = locals.name(&format!("{name}_room"));
                let length = locals.name(&format!("{name}_{unit}"));
                about(
                    &name,
                    &format!("result, at most `{room}` {of}; their number is written to `{length}`."),
                    &item.field.doc,
                );
                params.extend([format!("size_t {room}"), format!("size_t *{length}")]);
            } else {
                about(&name, "result.", &item.field.doc);
            }
        }
        let result = match (items::returned(function), &function.error) {
            (Some(scalar), _) => {
                let text =
                    items::results(function).map(|item| prose::line(&item.field.doc)).collect::<String>();
                about("returns", "", &text);
                self.scalar(scalar)
            }
            (None, Some((error, _))) => {
                let overflow = self.lowered.interface().types.iter().find(|ty| ty.name == *error);
                let overflow = overflow.zip(declared.overflow.as_deref());
                let overflow = overflow.map(|(ty, case)| {
                    let case = self.constant(ty, case);
                    format!(" With {case}, the lengths and counts are those that there must be room for.")
                });
                let ok = format!("{}_OK", self.base(error)).to_ascii_uppercase();
                let text = format!("{ok}, or why there are no results.{}", overflow.unwrap_or_default());
                about("returns", &text, "");
                self.type_name(error)
            }
            (None, None) => "void".to_owned(),
        };
        if let Some(deadline) = declared.deadline {
            doc.push(format!(
                "The guest traps when it takes longer than {}.",
                policies::format_duration(deadline)
            ));
        }
        self.text.line("");
        self.comment(doc);
        self.text.line(format!(
            "__attribute__((import_module(\"{}\"), import_name(\"{}\")))",
            self.lowered.interface().name,
            declared.name
        ));
        let params = if params.is_empty() { "void".to_owned() } else { params.join(", ") };
        self.text.line(format!("{result} {name}({params});"));
        Ok(())
    }
}
