//! The rules of interfaces, and the lowering of what keeps them.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use ipc::typed::Arg;

use crate::lower::{Element, ErrorCases, LoweredFunction, Shape, Slot, WasmType};
use crate::model::{Field, Function, Interface, ModelError, Named, Place, Type, TypeDef, TypeKind, limits};
use crate::scalar::{Layout, Scalar};

/// Names that C, C++ or Rust keeps for itself, or that generated code uses.
const RESERVED: &[&str] = &[
    "abstract",
    "alignas",
    "alignof",
    "alloca",
    "and",
    "and_eq",
    "as",
    "asm",
    "async",
    "auto",
    "await",
    "become",
    "bitand",
    "bitor",
    "bool",
    "box",
    "break",
    "case",
    "catch",
    "char",
    "char16_t",
    "char32_t",
    "char8_t",
    "class",
    "co_await",
    "co_return",
    "co_yield",
    "compl",
    "complex",
    "concept",
    "const",
    "const_cast",
    "consteval",
    "constexpr",
    "constinit",
    "continue",
    "crate",
    "decltype",
    "default",
    "delete",
    "do",
    "double",
    "dyn",
    "dynamic_cast",
    "else",
    "enum",
    "errno",
    "explicit",
    "export",
    "extern",
    "false",
    "final",
    "float",
    "fn",
    "for",
    "friend",
    "gen",
    "goto",
    "if",
    "impl",
    "in",
    "inline",
    "int",
    "let",
    "long",
    "loop",
    "macro",
    "main",
    "match",
    "mod",
    "move",
    "mut",
    "mutable",
    "namespace",
    "new",
    "noexcept",
    "noreturn",
    "not",
    "not_eq",
    "nullptr",
    "ok",
    "operator",
    "or",
    "or_eq",
    "override",
    "priv",
    "private",
    "protected",
    "pub",
    "public",
    "ref",
    "register",
    "reinterpret_cast",
    "requires",
    "restrict",
    "return",
    "self",
    "short",
    "signed",
    "sizeof",
    "static",
    "static_assert",
    "static_cast",
    "struct",
    "super",
    "switch",
    "template",
    "this",
    "thread_local",
    "throw",
    "trait",
    "true",
    "try",
    "type",
    "typedef",
    "typeid",
    "typename",
    "typeof",
    "typeof_unqual",
    "union",
    "unsafe",
    "unsigned",
    "unsized",
    "use",
    "using",
    "virtual",
    "void",
    "volatile",
    "wchar_t",
    "where",
    "while",
    "xor",
    "xor_eq",
    "yield",
];

/// Whether something of an interface can have this name.
pub const fn is_name(name: &str) -> bool {
    has_form(name) && !is_one_of(RESERVED, name)
}

const fn has_form(name: &str) -> bool {
    let [first, rest @ ..] = name.as_bytes() else { return false };
    let mut rest = rest;
    while let [byte, others @ ..] = rest {
        if !(byte.is_ascii_lowercase() || byte.is_ascii_digit() || *byte == b'_') {
            return false;
        }
        rest = others;
    }
    first.is_ascii_lowercase() && name.len() <= limits::NAME
}

/// Whether a name is among others.
pub const fn is_one_of(names: &[&str], name: &str) -> bool {
    let mut rest = names;
    while let [one, others @ ..] = rest {
        if is_same(one, name) {
            return true;
        }
        rest = others;
    }
    false
}

/// `==`, which is none of a `const fn`.
const fn is_same(one: &str, other: &str) -> bool {
    let (mut one, mut other) = (one.as_bytes(), other.as_bytes());
    while let ([a, one_rest @ ..], [b, other_rest @ ..]) = (one, other) {
        if *a != *b {
            return false;
        }
        (one, other) = (one_rest, other_rest);
    }
    one.is_empty() && other.is_empty()
}

/// The rules, applied to one interface.
pub(crate) struct Rules<'i> {
    interface: &'i Interface,
    /// Positions of types.
    types: HashMap<&'i str, usize>,
    /// Of records, by their positions. All that use one share it: what an interface takes must not be a multiple of what it says.
    layouts: RefCell<HashMap<usize, Arc<Layout>>>,
}

impl<'i> Rules<'i> {
    pub(crate) fn new(interface: &'i Interface) -> Self {
        let types = interface.types.iter().enumerate().map(|(index, ty)| (ty.name.as_str(), index)).collect();
        Self { interface, types, layouts: RefCell::default() }
    }

    fn error(&self, place: Place, problem: impl Into<String>) -> ModelError {
        ModelError { interface: self.interface.name.clone(), place, problem: problem.into(), help: None }
    }

    pub(crate) fn check(&self) -> Result<(), ModelError> {
        let Interface { name, doc, types, functions } = self.interface;
        self.name(Place::Interface, "an interface", name)?;
        if name.starts_with("wasi_") || name == "env" {
            return Err(
                self.error(Place::Interface, format!("{name:?} is a name that others use for their imports"))
            );
        }
        self.doc(Place::Interface, doc)?;
        self.count(Place::Interface, "types", types.len(), 0, limits::TYPES)?;
        self.count(Place::Interface, "functions", functions.len(), 1, limits::FUNCTIONS)?;
        let named = types.iter().enumerate().map(|(index, ty)| (Place::Type(index), ty.name.as_str()));
        self.unique("type", named)?;
        let named = functions.iter().enumerate().map(|(index, f)| (Place::Function(index), f.name.as_str()));
        self.unique("function", named)?;
        types.iter().enumerate().try_for_each(|(index, ty)| self.ty(index, ty))
    }

    fn ty(&self, index: usize, ty: &TypeDef) -> Result<(), ModelError> {
        let place = Place::Type(index);
        if Type::BUILTIN.iter().any(|(name, _)| *name == ty.name) || ty.name == "list" {
            return Err(self.error(place, format!("{:?} is a type already", ty.name)));
        }
        self.doc(place, &ty.doc)?;
        let (what, max) = match &ty.kind {
            TypeKind::Enum(_) | TypeKind::Error(_) => ("cases", limits::CASES),
            TypeKind::Flags(_) => ("flags", limits::FLAGS),
            TypeKind::Record(_) => ("fields", limits::FIELDS),
            TypeKind::Handle => return Ok(()),
        };
        let members: Vec<(&str, &str)> = match &ty.kind {
            TypeKind::Enum(named) | TypeKind::Error(named) | TypeKind::Flags(named) => {
                named.iter().map(|Named { name, doc }| (name.as_str(), doc.as_str())).collect()
            }
            TypeKind::Record(fields) => fields.iter().map(|f| (f.name.as_str(), f.doc.as_str())).collect(),
            TypeKind::Handle => Vec::new(),
        };
        self.count(place, what, members.len(), 1, max)?;
        let place_of = |member| Place::Member(index, member);
        self.unique(
            what.trim_end_matches('s'),
            members.iter().enumerate().map(|(i, (name, _))| (place_of(i), *name)),
        )?;
        members.iter().enumerate().try_for_each(|(i, (_, doc))| self.doc(place_of(i), doc))?;
        if let TypeKind::Record(fields) = &ty.kind {
            self.layout(index, fields)?;
        }
        Ok(())
    }

    fn count(
        &self,
        place: Place,
        what: &str,
        found: usize,
        min: usize,
        max: usize,
    ) -> Result<(), ModelError> {
        match (min..=max).contains(&found) {
            true => Ok(()),
            false => Err(self.error(place, format!("it has {found} {what}; {min} to {max} are possible"))),
        }
    }

    fn unique<'n>(
        &self,
        what: &str,
        names: impl Iterator<Item = (Place, &'n str)>,
    ) -> Result<(), ModelError> {
        let mut known = HashSet::new();
        for (place, name) in names {
            self.name(place, &format!("a {what}"), name)?;
            if !known.insert(name) {
                return Err(self.error(place, format!("there is another {what} {name:?}")));
            }
        }
        Ok(())
    }

    fn name(&self, place: Place, what: &str, name: &str) -> Result<(), ModelError> {
        let shown: String = name.chars().take(limits::NAME).collect();
        if !has_form(name) {
            let mut error = self.error(place, format!("{shown:?} cannot be the name of {what}"));
            error.help = Some(format!(
                "a name is a small letter, then small letters, digits and '_', at most {} in all",
                limits::NAME
            ));
            return Err(error);
        }
        if is_one_of(RESERVED, name) {
            return Err(
                self.error(place, format!("{name:?} cannot be the name of {what}: C or Rust uses it"))
            );
        }
        Ok(())
    }

    fn doc(&self, place: Place, doc: &str) -> Result<(), ModelError> {
        let is_text = !doc.chars().any(|c| c.is_control() && c != '\n');
        match doc.len() <= limits::DOC && is_text {
            true => Ok(()),
            false => Err(self.error(
                place,
                format!("its description is longer than {} bytes, or has control characters", limits::DOC),
            )),
        }
    }

    fn named(&self, place: Place, name: &str) -> Result<(usize, &TypeDef), ModelError> {
        let types = &self.interface.types;
        let found = self.types.get(name).and_then(|index| Some((*index, types.get(*index)?)));
        found.ok_or_else(|| {
            let valid =
                Type::BUILTIN.iter().map(|(name, _)| *name).chain(types.iter().map(|ty| ty.name.as_str()));
            let shown: String = name.chars().take(limits::NAME).collect();
            let mut error = self.error(place, format!("there is no type {shown:?}"));
            error.help = Some(policies::document::nearest(&shown, valid).to_string());
            error
        })
    }

    fn scalar(&self, place: Place, ty: &Type) -> Result<Option<Scalar>, ModelError> {
        Ok(Some(match ty {
            Type::Bool => Scalar::Bool,
            Type::S8 => Scalar::S8,
            Type::U8 => Scalar::U8,
            Type::S16 => Scalar::S16,
            Type::U16 => Scalar::U16,
            Type::S32 => Scalar::S32,
            Type::U32 => Scalar::U32,
            Type::S64 => Scalar::S64,
            Type::U64 => Scalar::U64,
            Type::F32 => Scalar::F32,
            Type::F64 => Scalar::F64,
            Type::String | Type::Bytes | Type::List(_) => return Ok(None),
            Type::Named(name) => {
                let (kind, ty) = self.named(place, name)?;
                let name = name.clone();
                match &ty.kind {
                    TypeKind::Enum(cases) => Scalar::Enum { name, cases: cases.len() as u32 },
                    TypeKind::Flags(flags) => {
                        let mask = u64::MAX.checked_shr(64 - flags.len() as u32).unwrap_or(0);
                        Scalar::Flags { name, mask, wide: flags.len() > 32 }
                    }
                    TypeKind::Handle => Scalar::Handle { name, kind },
                    TypeKind::Record(_) => return Ok(None),
                    TypeKind::Error(_) => {
                        let mut error = self.error(place, format!("{name:?} is an error"));
                        error.help = Some("a function names it by its key \"error\"".to_owned());
                        return Err(error);
                    }
                }
            }
        }))
    }

    pub(crate) fn layout(&self, index: usize, fields: &[Field]) -> Result<Arc<Layout>, ModelError> {
        if let Some(known) = self.layouts.borrow().get(&index) {
            return Ok(Arc::clone(known));
        }
        let scalars = fields.iter().enumerate().map(|(member, field)| {
            let place = Place::Member(index, member);
            let scalar = self.scalar(place, &field.ty)?;
            let scalar = scalar.ok_or_else(|| {
                self.error(
                    place,
                    format!(
                        "a field cannot be of type {}: its size is not fixed, or it is a record",
                        field.ty
                    ),
                )
            })?;
            Ok((field.name.clone(), scalar))
        });
        let layout = Arc::new(Layout::new(scalars.collect::<Result<Vec<_>, _>>()?));
        self.layouts.borrow_mut().insert(index, Arc::clone(&layout));
        Ok(layout)
    }

    /// The layout of a record; `None` for other types.
    fn record(&self, place: Place, ty: &Type) -> Result<Option<Arc<Layout>>, ModelError> {
        let Type::Named(name) = ty else { return Ok(None) };
        let (index, ty) = self.named(place, name)?;
        match &ty.kind {
            TypeKind::Record(fields) => self.layout(index, fields).map(Some),
            _ => Ok(None),
        }
    }

    fn element(&self, place: Place, ty: &Type) -> Result<Option<Element>, ModelError> {
        Ok(match self.scalar(place, ty)? {
            Some(scalar) => Some(Element::Scalar(scalar)),
            None => self.record(place, ty)?.map(Element::Record),
        })
    }

    pub(crate) fn shape(&self, place: Place, ty: &Type) -> Result<Shape, ModelError> {
        Ok(match ty {
            Type::String => Shape::String,
            Type::Bytes => Shape::Bytes,
            Type::List(element) if **element == Type::U8 => {
                return Err(self.error(place, "a list of u8 is bytes, which is another type"));
            }
            Type::List(element) => Shape::List(self.element(place, element)?.ok_or_else(|| {
                self.error(
                    place,
                    format!("a list cannot have elements of type {element}: their size is not fixed"),
                )
            })?),
            other => match self.element(place, other)? {
                Some(Element::Scalar(scalar)) => Shape::Scalar(scalar),
                Some(Element::Record(layout)) => Shape::Record(layout),
                None => return Err(self.error(place, format!("{other} is no type of a value"))),
            },
        })
    }

    pub(crate) fn lower(&self, index: usize, function: &Function) -> Result<LoweredFunction, ModelError> {
        let place = Place::Function(index);
        self.doc(place, &function.doc)?;
        if function.deadline.is_some_and(|deadline| deadline.is_zero()) {
            return Err(self.error(place, "a deadline of no time leaves no time to answer"));
        }
        let all = function.params.iter().enumerate().map(|(i, field)| (Place::Param(index, i), field));
        let all =
            all.chain(function.results.iter().enumerate().map(|(i, field)| (Place::Result(index, i), field)));
        self.count(
            place,
            "parameters and results",
            function.params.len() + function.results.len(),
            0,
            limits::ARGS,
        )?;
        self.unique("parameter or result", all.clone().map(|(place, field)| (place, field.name.as_str())))?;
        all.clone().try_for_each(|(place, field)| self.doc(place, &field.doc))?;

        let mut wasm_params = Vec::new();
        let mut params = Vec::new();
        for (i, field) in function.params.iter().enumerate() {
            let shape = self.shape(Place::Param(index, i), &field.ty)?;
            let ptr = wasm_params.len() as u8;
            let (types, arg) = match &shape {
                Shape::Scalar(scalar) => (vec![wasm_type(scalar)], Arg::Value { index: ptr }),
                Shape::Record(layout) => (vec![WasmType::I32], Arg::InFixed { ptr, bytes: layout.size }),
                Shape::String | Shape::Bytes => {
                    (vec![WasmType::I32; 2], Arg::In { ptr, len: ptr + 1, stride: 1 })
                }
                Shape::List(element) => {
                    (vec![WasmType::I32; 2], Arg::In { ptr, len: ptr + 1, stride: element.size() })
                }
            };
            wasm_params.extend(types);
            params.push(Slot { name: field.name.clone(), shape, arg: Some(arg) });
        }
        let mut wasm_results = Vec::new();
        let mut results = Vec::new();
        for (i, field) in function.results.iter().enumerate() {
            let shape = self.shape(Place::Result(index, i), &field.ty)?;
            let ptr = wasm_params.len() as u8;
            let returned = function.error.is_none() && function.results.len() == 1;
            let arg = match &shape {
                Shape::Scalar(scalar) if returned => {
                    wasm_results.push(wasm_type(scalar));
                    None
                }
                Shape::Scalar(scalar) => Some((1, Arg::OutFixed { ptr, bytes: scalar.size() })),
                Shape::Record(layout) => Some((1, Arg::OutFixed { ptr, bytes: layout.size })),
                Shape::String | Shape::Bytes => {
                    Some((3, Arg::Out { ptr, capacity: ptr + 1, written: ptr + 2, stride: 1 }))
                }
                Shape::List(element) => {
                    let stride = element.size();
                    Some((3, Arg::Out { ptr, capacity: ptr + 1, written: ptr + 2, stride }))
                }
            };
            if let Some((count, _)) = arg {
                wasm_params.extend(vec![WasmType::I32; count]);
            }
            results.push(Slot { name: field.name.clone(), shape, arg: arg.map(|(_, arg)| arg) });
        }
        let (error, overflow) = self.failure(place, function)?;
        if error.is_some() {
            wasm_results.push(WasmType::I32);
        }
        let name = format!("{}.{}", self.interface.name, function.name);
        let declaration = function.clone();
        Ok(LoweredFunction { name, wasm_params, wasm_results, params, results, error, overflow, declaration })
    }

    /// Name and cases of a function's error, and the number of its case for results that are too long.
    fn failure(
        &self,
        place: Place,
        function: &Function,
    ) -> Result<(Option<ErrorCases>, Option<u32>), ModelError> {
        let Some(name) = &function.error else {
            return match function.overflow {
                None => Ok((None, None)),
                Some(_) => {
                    Err(self
                        .error(place, "\"overflow\" names a case of the function's error, and it has none"))
                }
            };
        };
        let (_, ty) = self.named(place, name)?;
        let TypeKind::Error(cases) = &ty.kind else {
            return Err(self.error(place, format!("{name:?} is no error")));
        };
        let overflow = match &function.overflow {
            None => None,
            Some(case) => Some(cases.iter().position(|named| named.name == *case).ok_or_else(|| {
                let shown: String = case.chars().take(limits::NAME).collect();
                let mut error = self.error(place, format!("{name:?} has no case {shown:?}"));
                let valid = cases.iter().map(|named| named.name.as_str());
                error.help = Some(policies::document::nearest(&shown, valid).to_string());
                error
            })?),
        };
        Ok((Some((name.clone(), cases.len() as u32)), overflow.map(|index| index as u32 + 1)))
    }
}

fn wasm_type(scalar: &Scalar) -> WasmType {
    match scalar {
        Scalar::F32 => WasmType::F32,
        Scalar::F64 => WasmType::F64,
        Scalar::S64 | Scalar::U64 | Scalar::Flags { wide: true, .. } => WasmType::I64,
        _ => WasmType::I32,
    }
}
