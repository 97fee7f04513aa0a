//! What is allowed in an interface, and yet hardly meant.

use std::collections::BTreeSet;

use crate::lower::Lowered;
use crate::model::{Field, Type, TypeKind};

impl Lowered {
    /// What the author should look at, a line each.
    pub fn warnings(&self) -> Vec<String> {
        let interface = self.interface();
        let mut warnings = Vec::new();
        for function in &interface.functions {
            let name = &function.name;
            let has_length = |field: &Field| matches!(field.ty, Type::String | Type::Bytes | Type::List(_));
            if function.overflow.is_none()
                && let Some(result) = function.results.iter().find(|result| has_length(result))
            {
                warnings.push(format!(
                    "function {name}: a guest traps whose room for {} is too small; name a case of an error with \"overflow\"",
                    result.name
                ));
            }
            if function.blocking && function.deadline.is_none() {
                warnings.push(format!("function {name}: it is blocking and has no deadline"));
            }
        }
        let used = self.used();
        for ty in interface.types.iter().filter(|ty| !used.contains(ty.name.as_str())) {
            warnings.push(format!("type {}: no function uses it", ty.name));
        }
        warnings.extend(
            [self.c_header(), self.rust_module()].into_iter().filter_map(Result::err).map(|e| e.to_string()),
        );
        warnings
    }

    /// Names of the types that functions use, in records too.
    fn used(&self) -> BTreeSet<&str> {
        fn name(ty: &Type) -> Option<&str> {
            match ty {
                Type::Named(name) => Some(name),
                Type::List(element) => name(element),
                _ => None,
            }
        }
        let interface = self.interface();
        let functions = interface.functions.iter();
        let mut used: BTreeSet<&str> = functions
            .flat_map(|f| {
                let fields = f.params.iter().chain(&f.results).filter_map(|field| name(&field.ty));
                fields.chain(f.error.as_deref())
            })
            .collect();
        let types = interface.types.iter().filter(|ty| used.contains(ty.name.as_str()));
        // Records hold no records.
        let fields: Vec<&str> = types
            .filter_map(|ty| match &ty.kind {
                TypeKind::Record(fields) => Some(fields.iter().filter_map(|field| name(&field.ty))),
                _ => None,
            })
            .flatten()
            .collect();
        used.extend(fields);
        used
    }
}
