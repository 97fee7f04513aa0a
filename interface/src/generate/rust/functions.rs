//! Functions of an interface in Rust.

use super::{ARGUMENTS_MAX, Module, from_bits, from_word, in_memory, public, to_word};
use crate::generate::items::{self, Item};
use crate::generate::names::camel;
use crate::generate::{NameTaken, prose};
use crate::lower::{Element, LoweredFunction, Shape};
use crate::scalar::Scalar;

/// The parts of a function that come from its parameters and results, in order.
#[derive(Default)]
struct Parts {
    /// Its parameters.
    params: Vec<String>,
    /// Statements before the call. Names with `_` in front are no names of an interface.
    before: Vec<String>,
    /// Arguments of the import.
    arguments: Vec<String>,
    /// Statements that check lists behind the call.
    checks: Vec<String>,
    /// Values of the results.
    values: Vec<String>,
}

impl Module<'_> {
    fn element(&self, item: &Item<'_>, element: &Element) -> String {
        match element {
            Element::Scalar(scalar) => public(scalar),
            Element::Record(_) => camel(item.record()),
        }
    }

    /// The public type of a result.
    fn result_type(&self, item: &Item<'_>) -> String {
        match item.shape() {
            Shape::Scalar(scalar) => public(scalar),
            Shape::Record(_) => camel(item.record()),
            Shape::String => "&'o str".to_owned(),
            Shape::Bytes => "&'o [u8]".to_owned(),
            Shape::List(element) => format!("&'o [{}]", self.element(item, element)),
        }
    }

    pub(super) fn function(&mut self, function: &LoweredFunction) -> Result<(), NameTaken> {
        let declared = &function.declaration;
        let results: Vec<Item<'_>> = items::results(function).collect();
        let stem = camel(&declared.name);
        let has_lengths = results.iter().any(Item::has_length);
        let lifetime = if has_lengths { "<'o>" } else { "" };
        let several = format!("{stem}Results");
        let value_type = match results.as_slice() {
            [] => "()".to_owned(),
            [one] => self.result_type(one),
            _ => {
                self.results(function, &several, lifetime, &results)?;
                format!("{several}{lifetime}")
            }
        };
        let failure = match (&function.error, &declared.overflow) {
            (Some((error, _)), Some(case)) if has_lengths => {
                let name = format!("{stem}Failure");
                self.failure(function, &name, (error, case), &results)?;
                Some(name)
            }
            _ => None,
        };
        let error_type =
            function.error.as_ref().map(|(error, _)| failure.clone().unwrap_or_else(|| camel(error)));
        let mut parts = Parts::default();
        items::params(function).for_each(|item| self.param(&item, &mut parts));
        for (index, item) in results.iter().enumerate() {
            self.result(item, index, &declared.name, &mut parts);
        }

        self.text.line("");
        self.function_doc(function, failure.as_deref());
        self.text.line(self.allow);
        if parts.params.len() > ARGUMENTS_MAX {
            self.text.line("#[allow(clippy::too_many_arguments)]");
        }
        self.text.line("#[allow(clippy::let_and_return, clippy::needless_lifetimes)]");
        let returns = match (&error_type, value_type.as_str()) {
            (None, "()") => String::new(),
            (None, value) => format!(" -> {value}"),
            (Some(error), value) => format!(" -> ::core::result::Result<{value}, {error}>"),
        };
        self.text.line(format!(
            "pub fn {}{lifetime}({}){returns} {{",
            declared.name,
            parts.params.join(", ")
        ));
        for line in &parts.before {
            self.text.line(format!("    {line}"));
        }
        let call = format!("unsafe {{ raw::{}({}) }}", declared.name, parts.arguments.join(", "));
        self.text.line("    // SAFETY: each address is that of as many values as are said, and what is written there belongs to this call.");
        let has_word = items::returned(function).is_some() || function.error.is_some();
        self.text.line(if has_word {
            format!("    let _returned = {call};")
        } else {
            format!("    {call};")
        });
        if let Some((error, _)) = &function.error {
            self.fails(error, failure.as_deref(), &declared.name, &results);
        }
        for line in &parts.checks {
            self.text.line(format!("    {line}"));
        }
        let value = match results.as_slice() {
            [] => "()".to_owned(),
            [_] => parts.values.concat(),
            all => {
                let fields = all.iter().zip(&parts.values);
                let fields = fields.map(|(item, value)| format!("{}: {value}", item.name()));
                format!("{several} {{ {} }}", fields.collect::<Vec<_>>().join(", "))
            }
        };
        match (&function.error, value.as_str()) {
            (None, "()") => {}
            (None, value) => self.text.line(format!("    {value}")),
            (Some(_), value) => self.text.line(format!("    ::core::result::Result::Ok({value})")),
        }
        self.text.line("}");
        Ok(())
    }

    /// A parameter of the interface's.
    fn param(&self, item: &Item<'_>, parts: &mut Parts) {
        let name = item.name();
        let (ty, arguments) = match item.shape() {
            Shape::Scalar(scalar) => (public(scalar), vec![to_word(scalar, name)]),
            Shape::Record(_) => (format!("&{}", camel(item.record())), vec![name.to_owned()]),
            Shape::String => ("&str".to_owned(), vec![format!("{name}.as_ptr()"), format!("{name}.len()")]),
            Shape::Bytes => ("&[u8]".to_owned(), vec![format!("{name}.as_ptr()"), format!("{name}.len()")]),
            Shape::List(element) => (
                format!("&[{}]", self.element(item, element)),
                vec![format!("{name}.as_ptr().cast()"), format!("{name}.len()")],
            ),
        };
        parts.params.push(format!("{name}: {ty}"));
        parts.arguments.extend(arguments);
    }

    /// A result, which is this one of the function's.
    fn result(&self, item: &Item<'_>, index: usize, function: &str, parts: &mut Parts) {
        let what = format!("{function}: {}", item.name());
        let out = format!("_out{index}");
        match item.shape() {
            Shape::Scalar(scalar) if item.slot.arg.is_none() => {
                parts.values.push(from_word(scalar, "_returned", &what));
            }
            Shape::Scalar(scalar) => {
                let ty = in_memory(scalar);
                let zero = if ty.starts_with('f') { "0.0" } else { "0" };
                parts.before.push(format!("let mut {out}: {ty} = {zero};"));
                parts.arguments.push(format!("&raw mut {out}"));
                parts.values.push(from_bits(scalar, &out, &what));
            }
            Shape::Record(layout) => {
                let record = camel(item.record());
                parts
                    .before
                    .push(format!("let mut {out} = <raw::{record} as ::core::default::Default>::default();"));
                parts.arguments.push(format!("&raw mut {out}"));
                let fields = layout.fields.iter().map(|(field, _, scalar)| {
                    let bits = format!("{out}.{field}");
                    format!("{field}: {}", from_bits(scalar, &bits, &format!("{what}.{field}")))
                });
                parts.values.push(format!("{record} {{ {} }}", fields.collect::<Vec<_>>().join(", ")));
            }
            Shape::String | Shape::Bytes | Shape::List(_) => {
                let (name, length) = (item.name(), format!("_length{index}"));
                let (ty, cast) = match item.shape() {
                    Shape::List(element) => (self.element(item, element), ".cast()"),
                    _ => ("u8".to_owned(), ""),
                };
                parts.params.push(format!("{name}: &'o mut [{ty}]"));
                parts.before.push(format!("let mut {length}: usize = 0;"));
                parts.arguments.extend([
                    format!("{name}.as_mut_ptr(){cast}"),
                    format!("{name}.len()"),
                    format!("&raw mut {length}"),
                ]);
                parts.checks.extend(self.check_list(item, index, function));
                let written = format!("checks::written({name}, {length}, \"{what}\")");
                parts.values.push(match item.shape() {
                    Shape::String => format!("checks::text({written}, \"{what}\")"),
                    _ => written,
                });
            }
        }
    }

    /// What becomes of an error.
    fn fails(&mut self, error: &str, failure: Option<&str>, function: &str, results: &[Item<'_>]) {
        let error = Scalar::Enum { name: error.to_owned(), cases: 0 };
        let error = from_bits(&error, "_returned", &format!("{function}: error"));
        self.text.line("    if _returned != 0 {");
        match failure {
            None => self.text.line(format!("        return ::core::result::Result::Err({error});")),
            Some(failure) => {
                self.text.line(format!("        return ::core::result::Result::Err({failure} {{"));
                self.text.line(format!("            error: {error},"));
                for (index, item) in results.iter().enumerate().filter(|(_, item)| item.has_length()) {
                    let field = format!("{}_{}", item.name(), item.length_word());
                    self.text.line(format!("            {field}: _length{index},"));
                }
                self.text.line("        });");
            }
        }
        self.text.line("    }");
    }

    /// Several results as one value.
    fn results(
        &mut self,
        function: &LoweredFunction,
        name: &str,
        lifetime: &str,
        results: &[Item<'_>],
    ) -> Result<(), NameTaken> {
        let declared = &function.declaration;
        self.names.claim(name.to_owned(), format!("the results of {}", declared.name))?;
        self.text.line("");
        self.text.line(format!("/// What [`{}`] returns.", declared.name));
        self.text.line(self.allow);
        self.text.line("#[derive(Clone, Copy, Debug, PartialEq)]");
        self.text.line(format!("pub struct {name}{lifetime} {{"));
        for item in results {
            self.doc("    ", &item.field.doc, &format!("`{}`", item.name()));
            self.text.line(format!("    pub {}: {},", item.name(), self.result_type(item)));
        }
        self.text.line("}");
        Ok(())
    }

    /// What a function fails with whose results can be too long.
    fn failure(
        &mut self,
        function: &LoweredFunction,
        name: &str,
        (error, overflow): (&str, &str),
        results: &[Item<'_>],
    ) -> Result<(), NameTaken> {
        let declared = &function.declaration;
        self.names.claim(name.to_owned(), format!("the failure of {}", declared.name))?;
        let (error, overflow) = (camel(error), camel(overflow));
        self.text.line("");
        self.text.line(format!("/// Why [`{}`] failed.", declared.name));
        self.text.line(self.allow);
        self.text.line("#[derive(Clone, Copy, Debug, PartialEq, Eq)]");
        self.text.line(format!("pub struct {name} {{"));
        self.text.line("    /// The error.");
        self.text.line(format!("    pub error: {error},"));
        for item in results.iter().filter(|item| item.has_length()) {
            let (result, word) = (item.name(), item.length_word());
            self.text.line(format!(
                "    /// With [`{error}::{overflow}`], the {word} that there must be room for in `{result}`; else 0."
            ));
            self.text.line(format!("    pub {result}_{word}: usize,"));
        }
        self.lines(&["}", ""]);
        self.text.line(format!("impl ::core::convert::From<{name}> for {error} {{"));
        self.text.line(format!("    fn from(failure: {name}) -> Self {{"));
        self.lines(&["        failure.error", "    }", "}", ""]);
        self.text.line(format!("impl ::core::fmt::Display for {name} {{"));
        self.text.line("    fn fmt(&self, f: &mut ::core::fmt::Formatter<'_>) -> ::core::fmt::Result {");
        self.lines(&["        ::core::fmt::Display::fmt(&self.error, f)", "    }", "}", ""]);
        self.text.line(format!("impl ::core::error::Error for {name} {{}}"));
        Ok(())
    }

    fn function_doc(&mut self, function: &LoweredFunction, failure: Option<&str>) {
        let declared = &function.declaration;
        self.doc("", &declared.doc, &format!("The function `{}`.", declared.name));
        let room = items::results(function).filter(Item::has_length).map(|item| (item, true));
        let all = items::params(function).map(|item| (item, false)).chain(room);
        let described: Vec<String> = all
            .filter_map(|(item, is_room)| {
                let doc = prose::markdown(&prose::line(&item.field.doc));
                let text = match (is_room, doc.is_empty()) {
                    (false, true) => return None,
                    (false, false) => doc,
                    (true, true) => "Room for the result.".to_owned(),
                    (true, false) => format!("{doc} Room for the result."),
                };
                Some(format!("/// * `{}`: {text}", item.name()))
            })
            .collect();
        let mut sections = vec![described];
        let returned: Vec<Item<'_>> = items::results(function).collect();
        if let [one] = returned.as_slice()
            && !one.field.doc.is_empty()
        {
            sections.push(vec![format!("/// Returns: {}", prose::markdown(&prose::line(&one.field.doc)))]);
        }
        if let Some((error, _)) = &function.error {
            let error = failure.map_or_else(|| camel(error), str::to_owned);
            sections.push(vec!["/// # Errors".to_owned(), format!("/// As [`{error}`] says.")]);
        }
        if let Some(deadline) = declared.deadline {
            let deadline = policies::format_duration(deadline);
            sections.push(vec![format!("/// The guest traps when it takes longer than {deadline}.")]);
        }
        for section in sections.iter().filter(|section| !section.is_empty()) {
            self.text.line("///");
            section.iter().for_each(|line| self.text.line(line));
        }
    }

    /// Statements that look at the elements of a list before they are seen as values.
    fn check_list(&self, item: &Item<'_>, index: usize, function: &str) -> Vec<String> {
        let Shape::List(element) = item.shape() else { return Vec::new() };
        if !items::element_has_invalid_bits(element) {
            return Vec::new();
        }
        let invalid = |scalar: &Scalar, bits: String| match scalar {
            Scalar::Bool => Some(format!("{bits} > 1")),
            Scalar::Enum { name, .. } => {
                let name = camel(name);
                Some(format!("<{name} as ::core::convert::TryFrom<u32>>::try_from({bits}).is_err()"))
            }
            _ => None,
        };
        let (ty, is_invalid) = match element {
            Element::Scalar(scalar) => {
                (in_memory(scalar).to_owned(), invalid(scalar, "_element".to_owned()).unwrap_or_default())
            }
            Element::Record(layout) => {
                let fields = layout.fields.iter();
                let all =
                    fields.filter_map(|(field, _, scalar)| invalid(scalar, format!("_element.{field}")));
                (format!("raw::{}", camel(item.record())), all.collect::<Vec<_>>().join(" || "))
            }
        };
        let name = item.name();
        [
            format!("for _index in 0.._length{index}.min({name}.len()) {{"),
            "    // SAFETY: the element lies in the slice, and all bits are a value of this type.".to_owned(),
            format!("    let _element = unsafe {{ {name}.as_ptr().cast::<{ty}>().add(_index).read() }};"),
            format!("    if {is_invalid} {{"),
            "        // SAFETY: the slice is there, and zeros are a value of its type.".to_owned(),
            format!("        unsafe {{ {name}.as_mut_ptr().write_bytes(0, {name}.len()) }};"),
            format!("        checks::broken(\"{function}: {name}\");"),
            "    }".to_owned(),
            "}".to_owned(),
        ]
        .to_vec()
    }
}
