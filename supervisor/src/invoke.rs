//! An export and its arguments as a command line gives them: names and texts.

use compiler::ValType;
use ipc::report::Value;
use ipc::text::{self, NumberType, ParseValueError};

use crate::error::Error;
use crate::job::Entry;
use crate::module::Module;

/// Why texts are not the arguments of an export.
#[derive(Debug, thiserror::Error)]
pub enum InvokeError {
    /// There is no such function.
    #[error(transparent)]
    Export(#[from] Error),
    /// Too few or too many.
    #[error("export \"{name}\" takes {expected} arguments, but {given} were given")]
    Count {
        /// The export.
        name: String,
        /// Its parameters.
        expected: usize,
        /// How many there are.
        given: usize,
    },
    /// A parameter that has no text form.
    #[error("parameter {position} of export \"{name}\" is {kind}, which cannot be written on a command line")]
    NoText {
        /// The export.
        name: String,
        /// Which, from 1.
        position: usize,
        /// Its type.
        kind: ValType,
    },
    /// A text of the wrong form.
    #[error("argument {position} of export \"{name}\": {source}")]
    Argument {
        /// The export.
        name: String,
        /// Which, from 1.
        position: usize,
        /// What is wrong.
        source: ParseValueError,
    },
}

/// The entry that runs export `name` with these arguments, read as the types of its parameters.
pub fn entry(module: &Module, name: &str, args: &[String]) -> Result<Entry, InvokeError> {
    let (params, _) = module.function_type(name)?;
    Ok(Entry::Export { name: name.to_owned(), args: values(name, params, args)? })
}

fn values(name: &str, params: &[ValType], args: &[String]) -> Result<Vec<Value>, InvokeError> {
    if params.len() != args.len() {
        return Err(InvokeError::Count { name: name.to_owned(), expected: params.len(), given: args.len() });
    }
    let value = |(index, (param, arg)): (usize, (&ValType, &String))| {
        let (name, position) = (name.to_owned(), index + 1);
        let number = match param {
            ValType::I32 => NumberType::I32,
            ValType::I64 => NumberType::I64,
            ValType::F32 => NumberType::F32,
            ValType::F64 => NumberType::F64,
            kind => return Err(InvokeError::NoText { name, position, kind: *kind }),
        };
        text::parse(arg, number).map_err(|source| InvokeError::Argument { name, position, source })
    };
    params.iter().zip(args).enumerate().map(value).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_mistake_is_named_with_its_position() {
        let error = |params: &[ValType], args: &[&str]| {
            let args: Vec<String> = args.iter().map(ToString::to_string).collect();
            values("f", params, &args).expect_err("must be refused").to_string()
        };
        assert_eq!(error(&[ValType::I32], &[]), r#"export "f" takes 1 arguments, but 0 were given"#);
        assert_eq!(
            error(&[ValType::I32, ValType::F64], &["1", "x"]),
            r#"argument 2 of export "f": `x` is not an f64: it must be a number, inf or nan"#
        );
        assert_eq!(
            error(&[ValType::ExternRef], &["0"]),
            r#"parameter 1 of export "f" is externref, which cannot be written on a command line"#
        );
    }

    #[test]
    fn texts_become_values_of_the_parameters_types() {
        let args = ["-1", "0x10", "1.5", "nan"].map(String::from);
        let params = [ValType::I32, ValType::I64, ValType::F32, ValType::F64];
        let values = values("f", &params, &args).expect("values");
        assert_eq!(
            values,
            [Value::I32(-1), Value::I64(16), Value::F32(1.5f32.to_bits()), Value::F64(f64::NAN.to_bits())]
        );
    }
}
