//! Caps: limits on what a module may ask for.
//!
//! One table names each cap, its default, and the largest value that it can be set to; field, key and documentation follow
//! from it. docs/compiler.md has the same table for people, a test compares them.

use ipc::context::TableEntry;
use ipc::layout;
use serde::{Deserialize, Serialize};

use crate::Error;

/// What makes a cap larger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Raise {
    /// The setting with this key: of a configuration file, and as a path of fields of the library's configuration.
    Key(&'static str),
    /// The setting with this key would, but it has its largest value already.
    Exhausted(&'static str),
    /// Nothing does, because of this.
    Fixed(&'static str),
}

impl std::fmt::Display for Raise {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Raise::Key(key) => write!(f, "`{key}` raises it"),
            Raise::Exhausted(key) => write!(f, "`{key}` cannot be any higher"),
            Raise::Fixed(reason) => write!(f, "nothing raises it: {reason}"),
        }
    }
}

/// The space for tables has no more room.
pub(crate) const NO_ROOM: Raise = Raise::Fixed("the address space of an instance has no more room");

/// What a cap counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Things.
    Count,
    /// Bytes.
    Bytes,
}

macro_rules! caps {
    ($($(#[$doc:meta])* $variant:ident $field:ident: $unit:ident, $default:expr, at most $highest:expr;)*) => {
        /// Limits on what a module may ask for. A module beyond one is rejected with an error that names the cap, its value and
        /// the key that raises it. A value above [`Cap::highest`] counts as that one.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
        pub struct Caps {
            $($(#[$doc])* pub $field: u64,)*
        }

        impl Default for Caps {
            fn default() -> Self {
                Caps { $($field: $default,)* }
            }
        }

        /// The name of one of [`Caps`].
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Cap {
            $($(#[$doc])* $variant,)*
        }

        impl Cap {
            /// Every cap.
            pub const ALL: &'static [Cap] = &[$(Cap::$variant,)*];

            /// Its name: the field of [`Caps`].
            pub const fn name(self) -> &'static str {
                match self { $(Cap::$variant => stringify!($field),)* }
            }

            /// Its key, as errors, configuration files and documents have it.
            pub const fn key(self) -> &'static str {
                match self { $(Cap::$variant => concat!("compile.caps.", stringify!($field)),)* }
            }

            /// What it counts.
            pub const fn unit(self) -> Unit {
                match self { $(Cap::$variant => Unit::$unit,)* }
            }

            /// Its largest value: beyond it nothing is promised, or validation refuses the module anyway.
            pub const fn highest(self) -> u64 {
                match self { $(Cap::$variant => $highest,)* }
            }
        }

        impl Caps {
            /// The value of a cap.
            pub const fn get(&self, cap: Cap) -> u64 {
                match cap { $(Cap::$variant => self.$field,)* }
            }

            /// Sets a cap.
            pub const fn set(&mut self, cap: Cap, value: u64) {
                match cap { $(Cap::$variant => self.$field = value,)* }
            }
        }
    };
}

caps! {
    /// Bytes of the module in binary form.
    InputBytes input_bytes: Bytes, 256 << 20, at most 1 << 30;
    /// Bytes of a module in text form. The parser needs many times as much memory.
    TextBytes text_bytes: Bytes, 16 << 20, at most 1 << 30;
    /// Functions, imported ones included. Default and largest value: what engines agree on.
    Functions functions: Count, 1_000_000, at most 1_000_000;
    /// Bytes of one function's body. Default and largest value: what engines agree on. It bounds neither the memory nor the
    /// time that the code generator needs; [`Cap::FunctionValues`] bounds its input.
    FunctionBytes function_bytes: Bytes, 7_654_321, at most 7_654_321;
    /// Values in the intermediate representation of one function; instructions and operands of branches and calls too, each
    /// kind counted for itself; and a sixteenth of the branches to loops times locals.
    FunctionValues function_values: Count, 4_000_000, at most 16_000_000;
    /// Parameters and declared locals of one function. Default and largest value: what engines agree on.
    Locals locals: Count, 50_000, at most 50_000;
    /// Control structures inside each other in one function. The code generator's time grows with the square of it.
    Nesting nesting: Count, 16_384, at most 1_000_000;
    /// Targets of one `br_table`. Default: what the engines of browsers allow.
    BrTableTargets br_table_targets: Count, 65_520, at most 7_654_321;
    /// Targets of all `br_table`s of one function, and handlers of all its calls.
    FunctionBrTableTargets function_br_table_targets: Count, 1_000_000, at most 7_654_321;
    /// Data segments. Default and largest value: what engines agree on.
    DataSegments data_segments: Count, 100_000, at most 100_000;
    /// Bytes of all data segments together.
    DataBytes data_bytes: Bytes, 256 << 20, at most 1 << 30;
    /// Element segments. Default and largest value: what engines agree on.
    ElementSegments element_segments: Count, 100_000, at most 100_000;
    /// Items of all element segments together. Default: what engines agree on for one.
    ElementItems element_items: Count, 10_000_000, at most CODE_ROOM / size_of::<TableEntry>() as u64;
    /// Initial entries of all tables together. Default: what engines agree on for one.
    TableEntries table_entries: Count, 10_000_000, at most TABLE_ROOM / size_of::<TableEntry>() as u64;
    /// Initial pages of 64 KiB of all memories together. Default: the largest 32-bit memory.
    MemoryPages memory_pages: Count, 65_536, at most layout::MEMORIES_MAX * (layout::MEMORY_MAX / layout::WASM_PAGE);
    /// Bytes of machine code. Default and largest value: what the address space has room for.
    CodeBytes code_bytes: Bytes, CODE_ROOM, at most CODE_ROOM;
    /// Bytes of the artifact.
    ImageBytes image_bytes: Bytes, 1 << 30, at most 4 << 30;
}

const CODE_ROOM: u64 = layout::CODE_END - layout::CODE_BASE;
const TABLE_ROOM: u64 = layout::CONTEXT_END - layout::CONTEXT_BASE;

impl Caps {
    /// What is allowed.
    pub(crate) fn limit(&self, cap: Cap) -> u64 {
        self.get(cap).min(cap.highest())
    }

    /// `Err` when `found` exceeds the cap. `what` is counted.
    pub(crate) fn check(&self, cap: Cap, what: &'static str, found: u64) -> Result<(), Error> {
        self.check_times(cap, 1, what, found)
    }

    /// The same for something of which there may be `factor` times as many.
    pub(crate) fn check_times(
        &self,
        cap: Cap,
        factor: u64,
        what: &'static str,
        found: u64,
    ) -> Result<(), Error> {
        let raise =
            if self.get(cap) < cap.highest() { Raise::Key(cap.key()) } else { Raise::Exhausted(cap.key()) };
        check(what, found, self.limit(cap).saturating_mul(factor), raise)
    }
}

/// `Err` when `found` exceeds `cap`, which only `raise` changes.
pub(crate) fn check(what: &'static str, found: u64, cap: u64, raise: Raise) -> Result<(), Error> {
    if found > cap { Err(Error::Cap { what, found, cap, raise }) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_can_be_had_and_names_are_fields() {
        let defaults = Caps::default();
        for &cap in Cap::ALL {
            assert!(defaults.get(cap) <= cap.highest(), "{}", cap.name());
            assert_eq!(cap.key().strip_prefix("compile.caps."), Some(cap.name()));
            let mut caps = defaults;
            caps.set(cap, 1);
            assert_eq!(caps.get(cap), 1);
            assert!(format!("{caps:?}").contains(&format!("{}: 1", cap.name())), "{}", cap.name());
        }
    }
}
