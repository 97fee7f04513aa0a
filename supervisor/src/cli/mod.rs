//! What the command lines of our programs have in common.

mod bar;
mod code;

pub use bar::Bar;
pub use code::CodeArguments;
