//! An interface from TOML. Every mistake has its place, those against the rules of interfaces too ([`Lowered::new`] finds them).

use std::path::Path;

use policies::document::{self, Source, Table, Value};
use policies::{DocumentKind, Error, Position};

use crate::lower::Lowered;
use crate::model::{Field, Function, Interface, Named, Place, Type, TypeDef, TypeKind};

const TOP: &[&str] = &["interface", "doc", "enum", "error", "flags", "handle", "record", "function"];
const FUNCTION: &[&str] = &["name", "doc", "params", "results", "error", "overflow", "deadline", "blocking"];

/// Where a function stands, its parameters and its results.
type FunctionPlaces = (Position, [Vec<Position>; 2]);

/// Where the parts of an interface stand, in the order of the model.
struct Places {
    interface: Position,
    /// Each with its members.
    types: Vec<(Position, Vec<Position>)>,
    functions: Vec<FunctionPlaces>,
}

impl Places {
    fn of(&self, place: Place) -> &Position {
        let found = match place {
            Place::Interface => None,
            Place::Type(ty) => self.types.get(ty).map(|(at, _)| at),
            Place::Member(ty, member) => self.types.get(ty).and_then(|(_, members)| members.get(member)),
            Place::Function(function) => self.functions.get(function).map(|(at, _)| at),
            Place::Param(function, param) => {
                self.functions.get(function).and_then(|(_, [all, _])| all.get(param))
            }
            Place::Result(function, result) => {
                self.functions.get(function).and_then(|(_, [_, all])| all.get(result))
            }
        };
        found.unwrap_or(&self.interface)
    }
}

impl Interface {
    /// Reads and checks an interface; messages name it `file_name`.
    pub fn parse(text: &str, file_name: &str) -> Result<Lowered, Error> {
        let source = Source::interface(text, file_name)?;
        let document = document::parse(&source)?;
        let root = Table::root(&source, &document);
        root.only(TOP)?;
        let name = root.need("interface", "the module name of its imports")?;
        let mut places = Places { interface: name.at(), types: Vec::new(), functions: Vec::new() };
        let mut interface = Self { name: name.string()?.to_owned(), doc: doc(&root)?, ..Self::default() };
        for kind in ["enum", "error", "flags", "handle", "record"] {
            for table in tables(&root, kind)? {
                let (ty, at) = named_type(&table, kind)?;
                interface.types.push(ty);
                places.types.push(at);
            }
        }
        for table in tables(&root, "function")? {
            let (function, at) = function(&table)?;
            interface.functions.push(function);
            places.functions.push(at);
        }
        Lowered::new(interface).map_err(|error| Error::Interface {
            at: places.of(error.place).clone(),
            problem: error.problem,
            help: error.help,
        })
    }

    /// The same for a file.
    pub fn read(path: &Path) -> Result<Lowered, Error> {
        let text = document::read_file(path, DocumentKind::Interface)?;
        Self::parse(&text, &path.to_string_lossy())
    }
}

/// The tables of an array of tables; none if it is not there.
fn tables<'d>(root: &Table<'d>, key: &str) -> Result<Vec<Table<'d>>, Error> {
    let Some(value) = root.get(key) else { return Ok(Vec::new()) };
    value.array()?.iter().map(|element| element.table(format!("[[{key}]]"))).collect()
}

fn doc(table: &Table<'_>) -> Result<String, Error> {
    table.get("doc").map_or(Ok(String::new()), |doc| Ok(doc.string()?.trim().to_owned()))
}

fn name(table: &Table<'_>) -> Result<(String, Position), Error> {
    let name = table.need("name", "how it is called")?;
    Ok((name.string()?.to_owned(), name.at()))
}

fn named_type(table: &Table<'_>, kind: &'static str) -> Result<(TypeDef, (Position, Vec<Position>)), Error> {
    let members = match kind {
        "enum" | "error" => Some("cases"),
        "flags" => Some("flags"),
        "record" => Some("fields"),
        _ => None,
    };
    let keys: Vec<&str> = ["name", "doc"].into_iter().chain(members).collect();
    table.only(&keys)?;
    let (name, at) = name(table)?;
    let elements = match members {
        Some(key) => table.need(key, "what it consists of")?.array()?,
        None => Vec::new(),
    };
    let places = elements.iter().map(Value::at).collect();
    let kind = match kind {
        "enum" => TypeKind::Enum(elements.iter().map(named).collect::<Result<_, _>>()?),
        "error" => TypeKind::Error(elements.iter().map(named).collect::<Result<_, _>>()?),
        "flags" => TypeKind::Flags(elements.iter().map(named).collect::<Result<_, _>>()?),
        "record" => TypeKind::Record(elements.iter().map(field).collect::<Result<_, _>>()?),
        _ => TypeKind::Handle,
    };
    Ok((TypeDef { name, doc: doc(table)?, kind }, (at, places)))
}

/// A name, or a table of name and description.
fn named(value: &Value<'_>) -> Result<Named, Error> {
    if let Some(name) = value.as_string() {
        return Ok(Named { name: name.to_owned(), doc: String::new() });
    }
    let table = value.table("a case or flag".to_owned())?;
    table.only(&["name", "doc"])?;
    Ok(Named { name: name(&table)?.0, doc: doc(&table)? })
}

fn field(value: &Value<'_>) -> Result<Field, Error> {
    let table = value.table("a parameter, result or field".to_owned())?;
    table.only(&["name", "type", "doc"])?;
    let ty = table.need("type", "what it is")?;
    Ok(Field { name: name(&table)?.0, doc: doc(&table)?, ty: named_or_builtin(ty.string()?) })
}

/// A type as it is written. That a name is one of the interface's is checked later.
impl From<String> for Type {
    fn from(written: String) -> Self {
        named_or_builtin(&written)
    }
}

fn named_or_builtin(written: &str) -> Type {
    if let Some(element) = written.strip_prefix("list<").and_then(|rest| rest.strip_suffix('>')) {
        let element = match element.starts_with("list<") {
            // No type is called that, which is said then; nesting would be without bounds.
            true => Type::Named(element.to_owned()),
            false => named_or_builtin(element),
        };
        return Type::List(Box::new(element));
    }
    let builtin = Type::BUILTIN.iter().find(|(name, _)| *name == written);
    builtin.map_or_else(|| Type::Named(written.to_owned()), |(_, ty)| ty.clone())
}

fn function(table: &Table<'_>) -> Result<(Function, FunctionPlaces), Error> {
    table.only(FUNCTION)?;
    let (name, at) = name(table)?;
    let fields = |key: &str| -> Result<(Vec<Field>, Vec<Position>), Error> {
        let Some(value) = table.get(key) else { return Ok((Vec::new(), Vec::new())) };
        let elements = value.array()?;
        let fields = elements.iter().map(field).collect::<Result<_, _>>()?;
        Ok((fields, elements.iter().map(Value::at).collect()))
    };
    let text = |key: &str| table.get(key).map(|value| value.string().map(str::to_owned)).transpose();
    let ((params, param_places), (results, result_places)) = (fields("params")?, fields("results")?);
    let function = Function {
        name,
        doc: doc(table)?,
        params,
        results,
        error: text("error")?,
        overflow: text("overflow")?,
        deadline: table.get("deadline").map(|value| value.duration()).transpose()?,
        blocking: table.get("blocking").map_or(Ok(false), |value| value.boolean())?,
    };
    Ok((function, (at, [param_places, result_places])))
}
