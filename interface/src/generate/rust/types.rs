//! Types of an interface in Rust.

use super::{LANGUAGE, Module, public};
use crate::generate::names::{Names, camel};
use crate::generate::{NameTaken, items};
use crate::model::{Field, Named, TypeDef, TypeKind};
use crate::scalar::Layout;

impl Module<'_> {
    pub(super) fn ty(&mut self, index: usize, ty: &TypeDef) -> Result<(), NameTaken> {
        let name = camel(&ty.name);
        self.names.claim(name.clone(), format!("type {}", ty.name))?;
        self.text.line("");
        let kind = match ty.kind {
            TypeKind::Enum(_) => "enum",
            TypeKind::Error(_) => "error",
            TypeKind::Flags(_) => "flags",
            TypeKind::Handle => "handle",
            TypeKind::Record(_) => "record",
        };
        self.doc("", &ty.doc, &format!("The {kind} `{}`.", ty.name));
        self.text.line(self.allow);
        match &ty.kind {
            TypeKind::Enum(cases) => {
                self.text.line("#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]");
                self.cases(&name, ty, cases, 0)?;
            }
            TypeKind::Error(cases) => {
                self.text.line("#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]");
                self.cases(&name, ty, cases, 1)?;
                self.error(&name, cases);
            }
            TypeKind::Flags(flags) => self.flags(&name, flags),
            TypeKind::Handle => self.handle(&name),
            TypeKind::Record(fields) => {
                let layout = items::layout(self.lowered, index, fields);
                self.record(&name, fields, &layout);
            }
        }
        Ok(())
    }

    fn cases(&mut self, name: &str, ty: &TypeDef, cases: &[Named], first: usize) -> Result<(), NameTaken> {
        let mut variants = Names::new(&self.lowered.interface().name, LANGUAGE, ["Self".to_owned()]);
        self.text.line("#[repr(u32)]");
        self.text.line(format!("pub enum {name} {{"));
        for (index, case) in cases.iter().enumerate() {
            let variant = camel(&case.name);
            variants.claim(variant.clone(), format!("{} of {}", case.name, ty.name))?;
            self.doc("    ", &case.doc, &format!("`{}`", case.name));
            if index == 0 && first == 0 {
                self.text.line("    #[default]");
            }
            self.text.line(format!("    {variant} = {},", index + first));
        }
        self.text.line("}");
        self.text.line("");
        self.text.line(format!("impl ::core::convert::TryFrom<u32> for {name} {{"));
        self.lines(&["    /// The number, which no case has.", "    type Error = u32;", ""]);
        self.text.line("    fn try_from(number: u32) -> ::core::result::Result<Self, u32> {");
        self.text.line("        ::core::result::Result::Ok(match number {");
        for (index, case) in cases.iter().enumerate() {
            self.text.line(format!("            {} => Self::{},", index + first, camel(&case.name)));
        }
        self.lines(&[
            "            _ => return ::core::result::Result::Err(number),",
            "        })",
            "    }",
            "}",
        ]);
        Ok(())
    }

    /// What errors have besides their cases.
    fn error(&mut self, name: &str, cases: &[Named]) {
        self.text.line("");
        self.text.line(format!("impl ::core::fmt::Display for {name} {{"));
        self.text.line("    fn fmt(&self, f: &mut ::core::fmt::Formatter<'_>) -> ::core::fmt::Result {");
        self.text.line("        f.write_str(match self {");
        for case in cases {
            self.text.line(format!("            Self::{} => \"{}\",", camel(&case.name), case.name));
        }
        self.lines(&["        })", "    }", "}", ""]);
        self.text.line(format!("impl ::core::error::Error for {name} {{}}"));
    }

    fn flags(&mut self, name: &str, flags: &[Named]) {
        let bits = if flags.len() > 32 { "u64" } else { "u32" };
        let all = flags.iter().enumerate().fold(0u64, |all, (index, _)| all | 1 << index);
        self.text.line("#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]");
        self.text.line("#[repr(transparent)]");
        self.text.line(format!("pub struct {name}({bits});"));
        self.text.line("");
        self.text.line(self.allow);
        self.text.line(format!("impl {name} {{"));
        for (index, flag) in flags.iter().enumerate() {
            self.doc("    ", &flag.doc, &format!("`{}`", flag.name));
            self.text.line(format!(
                "    pub const {}: Self = Self({:#x});",
                flag.name.to_ascii_uppercase(),
                1u64 << index
            ));
        }
        self.text.line("");
        self.lines(&[
            "    /// No flag.",
            "    pub const fn empty() -> Self {",
            "        Self(0)",
            "    }",
            "",
        ]);
        self.lines(&["    /// Every flag.", "    pub const fn all() -> Self {"]);
        self.text.line(format!("        Self({all:#x})"));
        self.lines(&["    }", "", "    /// The flags as bits."]);
        self.text.line(format!("    pub const fn bits(self) -> {bits} {{"));
        self.lines(&[
            "        self.0",
            "    }",
            "",
            "    /// The flags of these bits; `None` if one of them is no flag.",
        ]);
        self.text
            .line(format!("    pub const fn from_bits(bits: {bits}) -> ::core::option::Option<Self> {{"));
        self.lines(&[
            "        if bits & Self::all().bits() == bits {",
            "            ::core::option::Option::Some(Self(bits))",
            "        } else {",
            "            ::core::option::Option::None",
            "        }",
            "    }",
            "",
            "    /// Whether all of these flags are among them.",
            "    pub const fn contains(self, flags: Self) -> bool {",
            "        self.0 & flags.0 == flags.0",
            "    }",
            "}",
            "",
        ]);
        self.text.line(format!("impl ::core::ops::BitOr for {name} {{"));
        self.lines(&["    type Output = Self;", "", "    fn bitor(self, flags: Self) -> Self {"]);
        self.lines(&["        Self(self.0 | flags.0)", "    }", "}"]);
    }

    fn handle(&mut self, name: &str) {
        self.lines(&["#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]", "#[repr(transparent)]"]);
        self.text.line(format!("pub struct {name}(u32);"));
        self.text.line("");
        self.text.line(self.allow);
        self.text.line(format!("impl {name} {{"));
        self.lines(&[
            "    /// The handle with this number, which the host checks when it is used. 0 is never one.",
            "    pub const fn from_number(number: u32) -> Self {",
            "        Self(number)",
            "    }",
            "",
            "    /// Its number.",
            "    pub const fn number(self) -> u32 {",
            "        self.0",
            "    }",
            "}",
        ]);
    }

    fn record(&mut self, name: &str, fields: &[Field], layout: &Layout) {
        self.lines(&["#[derive(Clone, Copy, Debug, Default, PartialEq)]", "#[repr(C)]"]);
        self.text.line(format!("pub struct {name} {{"));
        for (field, (_, _, scalar)) in fields.iter().zip(&layout.fields) {
            self.doc("    ", &field.doc, &format!("`{}`", field.name));
            self.text.line(format!("    pub {}: {},", field.name, public(scalar)));
        }
        self.lines(&["}", "", "const _: () = {"]);
        self.text.line(format!("    ::core::assert!(::core::mem::size_of::<{name}>() == {});", layout.size));
        for (field, offset, _) in &layout.fields {
            self.text
                .line(format!("    ::core::assert!(::core::mem::offset_of!({name}, {field}) == {offset});"));
        }
        self.text.line("};");
    }
}
