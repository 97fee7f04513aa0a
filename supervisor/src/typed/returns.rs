//! What a function can return.

use interface::{Reply, Type, Value};

use super::{Declaration, HostType};
use crate::imports::HostError;
use crate::service::CallContext;

/// What a function can fail with. An enum gets it by `#[derive(HostType)]` with `#[host(error)]`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no error of a host function",
    note = "an error is an enum that derives `HostType` with `#[host(error)]`, or `HostError`"
)]
pub trait ErrorType: Send + 'static {
    /// The names of its cases, in order.
    const CASES: &'static [&'static str];

    /// Makes it part of an interface; its name.
    fn declare(declaration: &mut Declaration) -> String;

    /// The number of its case, from 1.
    fn number(self) -> u32;
}

/// Results of a function: none, one, or a tuple of them.
#[diagnostic::on_unimplemented(
    message = "`{Self}` are no results of a host function",
    note = "results are `()`, a type that is a `HostType`, or a tuple of such types"
)]
pub trait Results: Send {
    /// How many there are.
    const COUNT: usize;

    /// Their types.
    fn types(declaration: &mut Declaration) -> Vec<Type>;

    /// Their values.
    fn into_values(self, context: &CallContext) -> Result<Vec<Value>, HostError>;
}

impl<T: HostType> Results for T {
    const COUNT: usize = 1;

    fn types(declaration: &mut Declaration) -> Vec<Type> {
        vec![T::declare(declaration)]
    }

    fn into_values(self, context: &CallContext) -> Result<Vec<Value>, HostError> {
        Ok(vec![self.into_value(context)?])
    }
}

impl Results for () {
    const COUNT: usize = 0;

    fn types(_: &mut Declaration) -> Vec<Type> {
        Vec::new()
    }

    fn into_values(self, _: &CallContext) -> Result<Vec<Value>, HostError> {
        Ok(Vec::new())
    }
}

macro_rules! tuples {
    ($($name:ident)*) => {
        impl<$($name: HostType),*> Results for ($($name,)*) {
            const COUNT: usize = [$(stringify!($name)),*].len();

            fn types(declaration: &mut Declaration) -> Vec<Type> {
                vec![$($name::declare(declaration)),*]
            }

            #[expect(non_snake_case, reason = "the variables are called as their types")]
            fn into_values(self, context: &CallContext) -> Result<Vec<Value>, HostError> {
                let ($($name,)*) = self;
                Ok(vec![$($name.into_value(context)?),*])
            }
        }
    };
}

tuples!(A);
tuples!(A B);
tuples!(A B C);
tuples!(A B C D);
tuples!(A B C D E);
tuples!(A B C D E F);
tuples!(A B C D E F G);
tuples!(A B C D E F G H);
tuples!(A B C D E F G H I);
tuples!(A B C D E F G H I J);

/// What a function returns: results, `Result<_, E>` with an error, and `Result<_, HostError>` around either.
#[diagnostic::on_unimplemented(
    message = "a host function cannot return `{Self}`",
    note = "it returns `()`, a type that is a `HostType`, a tuple of such types, or a `Result` of those with an error"
)]
pub trait HostReturn: Send {
    /// The cases of its error, in order.
    const CASES: &'static [&'static str] = &[];
    /// How many results there are.
    const COUNT: usize;

    /// The types of its results.
    fn results(declaration: &mut Declaration) -> Vec<Type>;

    /// The name of its error.
    fn error(declaration: &mut Declaration) -> Option<String>;

    /// As a reply.
    fn into_reply(self, context: &CallContext) -> Result<Reply, HostError>;
}

impl<R: Results> HostReturn for R {
    const COUNT: usize = R::COUNT;

    fn results(declaration: &mut Declaration) -> Vec<Type> {
        R::types(declaration)
    }

    fn error(_: &mut Declaration) -> Option<String> {
        None
    }

    fn into_reply(self, context: &CallContext) -> Result<Reply, HostError> {
        self.into_values(context).map(Reply::Values)
    }
}

impl<R: Results, E: ErrorType> HostReturn for Result<R, E> {
    const CASES: &'static [&'static str] = E::CASES;
    const COUNT: usize = R::COUNT;

    fn results(declaration: &mut Declaration) -> Vec<Type> {
        R::types(declaration)
    }

    fn error(declaration: &mut Declaration) -> Option<String> {
        Some(E::declare(declaration))
    }

    fn into_reply(self, context: &CallContext) -> Result<Reply, HostError> {
        match self {
            Ok(results) => results.into_reply(context),
            Err(error) => Ok(Reply::Error(error.number())),
        }
    }
}

impl<R: HostReturn> HostReturn for Result<R, HostError> {
    const CASES: &'static [&'static str] = R::CASES;
    const COUNT: usize = R::COUNT;

    fn results(declaration: &mut Declaration) -> Vec<Type> {
        R::results(declaration)
    }

    fn error(declaration: &mut Declaration) -> Option<String> {
        R::error(declaration)
    }

    fn into_reply(self, context: &CallContext) -> Result<Reply, HostError> {
        self?.into_reply(context)
    }
}

/// Compiles for what a function can return.
pub fn is_return<R: HostReturn>() {}

/// Whether a function can have as many parameters and results.
pub const fn are_few(params: usize, results: usize) -> bool {
    params + results <= interface::limits::ARGS
}
