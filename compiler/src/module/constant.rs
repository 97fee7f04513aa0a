//! Constant expressions: initial values of globals, offsets and items of segments.
//!
//! What does not depend on an imported global is known when the module is compiled: it is evaluated here and leaves no code
//! behind. The rest is kept as the operators that it consists of, for the function that instantiates the module.

use wasmparser::{ConstExpr, Operator};

use crate::Error;

/// The value of a constant expression. Floats and vectors are their bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Constant {
    I32(u32),
    I64(u64),
    F32(u32),
    F64(u64),
    V128(u128),
    /// The null reference of any type.
    Null,
    /// A reference to the function with this index.
    Function(u32),
}

/// Operators that leave one value on the stack: constants of integers, arithmetic on them, reads of globals.
pub(crate) type Expression = Vec<Operator<'static>>;

/// What a constant expression is.
#[derive(Clone, Debug)]
pub(crate) enum Evaluated {
    Constant(Constant),
    /// To be evaluated when the module is instantiated.
    Deferred(Expression),
}

/// Evaluates an expression that the validator has accepted. `globals` are the values of the globals before it, where they are
/// known.
pub(crate) fn evaluate(expression: &ConstExpr<'_>, globals: &[Option<Constant>]) -> Result<Evaluated, Error> {
    let mut kept = Expression::new();
    let mut is_deferred = false;
    let mut reader = expression.get_operators_reader();
    while !reader.eof() {
        let operator = reader.read().map_err(|e| Error::invalid(&e))?;
        if let Operator::GlobalGet { global_index } = operator {
            is_deferred |= globals.get(global_index as usize).is_some_and(Option::is_none);
        }
        kept.extend(keep(&operator));
    }
    if is_deferred {
        Ok(Evaluated::Deferred(kept))
    } else {
        value(expression, globals).map(Evaluated::Constant)
    }
}

/// The operator on its own, if an expression that depends on a global can have it.
fn keep(operator: &Operator<'_>) -> Option<Operator<'static>> {
    Some(match *operator {
        Operator::I32Const { value } => Operator::I32Const { value },
        Operator::I64Const { value } => Operator::I64Const { value },
        Operator::GlobalGet { global_index } => Operator::GlobalGet { global_index },
        Operator::I32Add => Operator::I32Add,
        Operator::I32Sub => Operator::I32Sub,
        Operator::I32Mul => Operator::I32Mul,
        Operator::I64Add => Operator::I64Add,
        Operator::I64Sub => Operator::I64Sub,
        Operator::I64Mul => Operator::I64Mul,
        _ => return None,
    })
}

/// The value of an expression that reads no other globals than known ones.
fn value(expression: &ConstExpr<'_>, globals: &[Option<Constant>]) -> Result<Constant, Error> {
    let mut stack: Vec<Constant> = Vec::with_capacity(2);
    let mut reader = expression.get_operators_reader();
    loop {
        let offset = reader.original_position();
        let operator = reader.read().map_err(|e| Error::invalid(&e))?;
        let value = match operator {
            Operator::I32Const { value } => Constant::I32(value as u32),
            Operator::I64Const { value } => Constant::I64(value as u64),
            Operator::F32Const { value } => Constant::F32(value.bits()),
            Operator::F64Const { value } => Constant::F64(value.bits()),
            Operator::V128Const { value } => Constant::V128(u128::from_le_bytes(*value.bytes())),
            Operator::RefNull { .. } => Constant::Null,
            Operator::RefFunc { function_index } => Constant::Function(function_index),
            Operator::GlobalGet { global_index } => match globals.get(global_index as usize) {
                Some(Some(value)) => *value,
                _ => return Err(unsupported(offset)),
            },
            Operator::End => break,
            ref arithmetic => {
                let (right, left) = (stack.pop(), stack.pop());
                match left.zip(right).and_then(|(l, r)| apply(arithmetic, l, r)) {
                    Some(value) => value,
                    None => return Err(unsupported(offset)),
                }
            }
        };
        stack.push(value);
    }
    stack.pop().ok_or_else(|| unsupported(expression.get_binary_reader().original_position()))
}

/// The extended constant expressions: wrapping addition, subtraction and multiplication.
fn apply(operator: &Operator<'_>, left: Constant, right: Constant) -> Option<Constant> {
    use Constant::{I32, I64};
    Some(match (operator, left, right) {
        (Operator::I32Add, I32(a), I32(b)) => I32(a.wrapping_add(b)),
        (Operator::I32Sub, I32(a), I32(b)) => I32(a.wrapping_sub(b)),
        (Operator::I32Mul, I32(a), I32(b)) => I32(a.wrapping_mul(b)),
        (Operator::I64Add, I64(a), I64(b)) => I64(a.wrapping_add(b)),
        (Operator::I64Sub, I64(a), I64(b)) => I64(a.wrapping_sub(b)),
        (Operator::I64Mul, I64(a), I64(b)) => I64(a.wrapping_mul(b)),
        _ => return None,
    })
}

fn unsupported(offset: usize) -> Error {
    Error::Invalid { message: "constant expression with an operator that is not constant".into(), offset }
}
