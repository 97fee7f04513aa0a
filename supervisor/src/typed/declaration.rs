//! From Rust types to an interface.

use std::any::TypeId;
use std::collections::HashSet;

use interface::{Field, Function, Interface, Lowered, ModelError, Named, Type, TypeDef, TypeKind};

use super::HostReturn;

/// An interface in the making.
#[derive(Debug)]
pub struct Declaration {
    interface: Interface,
    known: HashSet<TypeId>,
}

/// Name and documentation.
type Described<'d> = (&'d str, &'d str);

/// Name, documentation and type.
type Typed<'d> = (&'d str, &'d str, Type);

impl Declaration {
    /// An interface without types and functions.
    pub fn new(name: &str, doc: &str) -> Self {
        let interface = Interface { name: name.to_owned(), doc: doc.to_owned(), ..Interface::default() };
        Self { interface, known: HashSet::new() }
    }

    /// The named type that the Rust type `T` is, declared the first time. Another `T` of the same name is a second type, which no interface
    /// can have.
    pub fn named<T: 'static>(
        &mut self,
        name: &str,
        doc: &str,
        kind: impl FnOnce(&mut Self) -> TypeKind,
    ) -> Type {
        if self.known.insert(TypeId::of::<T>()) {
            let kind = kind(self);
            self.interface.types.push(TypeDef { name: name.to_owned(), doc: doc.to_owned(), kind });
        }
        Type::Named(name.to_owned())
    }

    /// The same for an error; its name.
    pub fn error<T: 'static>(&mut self, name: &str, doc: &str, cases: &[Described<'_>]) -> String {
        self.named::<T>(name, doc, |_| TypeKind::Error(named(cases)));
        name.to_owned()
    }

    /// Adds a function that returns an `R`, with these parameters. Without names for all results they are called `result`, or `result1` and so
    /// on.
    pub fn function<R: HostReturn>(&mut self, mut function: Function, params: &[Typed<'_>], names: &[&str]) {
        function.params = fields(params);
        let types = R::results(self);
        let name = |index: usize| match names.get(index) {
            Some(name) => (*name).to_owned(),
            None if types.len() == 1 => "result".to_owned(),
            None => format!("result{}", index + 1),
        };
        function.results = (types.iter().enumerate())
            .map(|(index, ty)| Field { name: name(index), doc: String::new(), ty: ty.clone() })
            .collect();
        function.error = R::error(self);
        self.interface.functions.push(function);
    }

    /// The interface, checked.
    ///
    /// # Errors
    /// A rule of interfaces that it breaks.
    pub fn finish(mut self) -> Result<Lowered, ModelError> {
        // As it would be read from TOML.
        self.interface.types.sort_by_key(|ty| match ty.kind {
            TypeKind::Enum(_) => 0,
            TypeKind::Error(_) => 1,
            TypeKind::Flags(_) => 2,
            TypeKind::Handle => 3,
            TypeKind::Record(_) => 4,
        });
        Lowered::new(self.interface)
    }
}

fn named(members: &[Described<'_>]) -> Vec<Named> {
    members.iter().map(|(name, doc)| Named { name: (*name).to_owned(), doc: (*doc).to_owned() }).collect()
}

fn fields(members: &[Typed<'_>]) -> Vec<Field> {
    let field = |(name, doc, ty): &Typed<'_>| Field {
        name: (*name).to_owned(),
        doc: (*doc).to_owned(),
        ty: ty.clone(),
    };
    members.iter().map(field).collect()
}

/// An enum with these cases.
pub fn enumeration(cases: &[Described<'_>]) -> TypeKind {
    TypeKind::Enum(named(cases))
}

/// Flags with these names.
pub fn flags(all: &[Described<'_>]) -> TypeKind {
    TypeKind::Flags(named(all))
}

/// A record with these fields.
pub fn record(all: &[Typed<'_>]) -> TypeKind {
    TypeKind::Record(fields(all))
}
