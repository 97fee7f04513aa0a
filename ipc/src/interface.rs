//! The host-call interface: one table that declares every host function.
//!
//! From it come the signature check of a module's imports (compiler), the marshalling with a bounds check on
//! every guest pointer (shim), the re-validation of what arrives on the ring (supervisor), and documentation.
//! A function is declared by its WebAssembly signature and by what its parameters mean.

use crate::context::asked;
use crate::nospec;

/// A WebAssembly value type as it occurs in host-function signatures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ValueType {
    /// 32-bit integer.
    I32,
    /// 64-bit integer.
    I64,
}

/// What one or two parameters of a host function mean. The numbers are indices of WebAssembly parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arg {
    /// The parameter itself.
    Value(u8),
    /// Guest memory that the host reads: `ptr` names the first byte, `len` counts elements of `stride` bytes.
    In {
        /// Parameter with the address.
        ptr: u8,
        /// Parameter with the number of elements.
        len: u8,
        /// Bytes in one element.
        stride: u32,
    },
    /// Guest memory that the host writes, at most `len` elements of `stride` bytes.
    Out {
        /// Parameter with the address.
        ptr: u8,
        /// Parameter with the number of elements.
        len: u8,
        /// Bytes in one element.
        stride: u32,
    },
    /// Exactly `bytes` bytes at `ptr` that the host writes when the call succeeds.
    Result {
        /// Parameter with the address.
        ptr: u8,
        /// Bytes written.
        bytes: u32,
    },
    /// An array of `len` (address, length) pairs of 32 bits each whose bytes the host reads in order.
    GatherIn {
        /// Parameter with the address of the array.
        ptr: u8,
        /// Parameter with the number of pairs.
        len: u8,
    },
    /// An array of `len` (address, length) pairs of 32 bits each that the host fills in order.
    ScatterOut {
        /// Parameter with the address of the array.
        ptr: u8,
        /// Parameter with the number of pairs.
        len: u8,
    },
}

/// Who answers a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The shim, inside the instance, without leaving it.
    Instance,
    /// The supervisor, over the ring.
    Supervisor,
}

/// One host function.
#[derive(Clone, Copy, Debug)]
pub struct HostFunction {
    /// Module name of the import.
    pub module: &'static str,
    /// Field name of the import.
    pub name: &'static str,
    /// WebAssembly parameter types.
    pub params: &'static [ValueType],
    /// WebAssembly result types: none, or one `i32` error number.
    pub results: &'static [ValueType],
    /// What the parameters mean, in the order in which they travel over the ring.
    pub args: &'static [Arg],
    /// Who answers.
    pub place: Place,
}

/// Largest number of [`Arg`]s of one function; the ring's slots have that many words.
pub const ARGS_MAX: usize = 10;
/// Largest number of parameters or results of one function.
pub const PARAMS_MAX: usize = 16;

macro_rules! value_type {
    (i32) => {
        ValueType::I32
    };
    (i64) => {
        ValueType::I64
    };
}

macro_rules! host_functions {
    ($($module:literal { $($name:ident ($($param:ident),*) -> ($($result:ident)?) $place:ident [$($arg:expr),*];)* })*) => {
        /// The number of a host function: its index in [`FUNCTIONS`].
        #[allow(non_camel_case_types, missing_docs)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u32)]
        pub enum FunctionId { $($($name,)*)* }

        /// Every host function, indexed by [`FunctionId`].
        pub static FUNCTIONS: &[HostFunction] = &[$($(HostFunction {
            module: $module,
            name: stringify!($name),
            params: &[$(value_type!($param)),*],
            results: &[$(value_type!($result))?],
            args: &[$($arg),*],
            place: Place::$place,
        },)*)*];

        const IDS: &[FunctionId] = &[$($(FunctionId::$name,)*)*];
    };
}

use Arg::{GatherIn, In, Out, Result as Res, ScatterOut, Value as V};

const fn bytes_in(ptr: u8) -> Arg {
    In { ptr, len: ptr + 1, stride: 1 }
}
const fn bytes_out(ptr: u8) -> Arg {
    Out { ptr, len: ptr + 1, stride: 1 }
}
const fn res(ptr: u8, bytes: u32) -> Arg {
    Res { ptr, bytes }
}

// WASI preview 1, as its witx description declares it
// (https://github.com/WebAssembly/WASI/blob/wasi-0.1/preview1/witx/wasi_snapshot_preview1.witx).
host_functions! {
    "wasi_snapshot_preview1" {
        args_get(i32, i32) -> (i32) Instance [V(0), V(1)];
        args_sizes_get(i32, i32) -> (i32) Instance [V(0), V(1)];
        environ_get(i32, i32) -> (i32) Instance [V(0), V(1)];
        environ_sizes_get(i32, i32) -> (i32) Instance [V(0), V(1)];
        clock_res_get(i32, i32) -> (i32) Instance [V(0), res(1, 8)];
        // Over the ring where the instance may not read the time-stamp counter.
        clock_time_get(i32, i64, i32) -> (i32) Instance [V(0), V(1), res(2, 8)];
        fd_advise(i32, i64, i64, i32) -> (i32) Supervisor [V(0), V(1), V(2), V(3)];
        fd_allocate(i32, i64, i64) -> (i32) Supervisor [V(0), V(1), V(2)];
        fd_close(i32) -> (i32) Supervisor [V(0)];
        fd_datasync(i32) -> (i32) Supervisor [V(0)];
        fd_fdstat_get(i32, i32) -> (i32) Supervisor [V(0), res(1, 24)];
        fd_fdstat_set_flags(i32, i32) -> (i32) Supervisor [V(0), V(1)];
        fd_fdstat_set_rights(i32, i64, i64) -> (i32) Supervisor [V(0), V(1), V(2)];
        fd_filestat_get(i32, i32) -> (i32) Supervisor [V(0), res(1, 64)];
        fd_filestat_set_size(i32, i64) -> (i32) Supervisor [V(0), V(1)];
        fd_filestat_set_times(i32, i64, i64, i32) -> (i32) Supervisor [V(0), V(1), V(2), V(3)];
        fd_pread(i32, i32, i32, i64, i32) -> (i32) Supervisor [V(0), ScatterOut { ptr: 1, len: 2 }, V(3), res(4, 4)];
        fd_prestat_get(i32, i32) -> (i32) Supervisor [V(0), res(1, 8)];
        fd_prestat_dir_name(i32, i32, i32) -> (i32) Supervisor [V(0), bytes_out(1)];
        fd_pwrite(i32, i32, i32, i64, i32) -> (i32) Supervisor [V(0), GatherIn { ptr: 1, len: 2 }, V(3), res(4, 4)];
        fd_read(i32, i32, i32, i32) -> (i32) Supervisor [V(0), ScatterOut { ptr: 1, len: 2 }, res(3, 4)];
        fd_readdir(i32, i32, i32, i64, i32) -> (i32) Supervisor [V(0), bytes_out(1), V(3), res(4, 4)];
        fd_renumber(i32, i32) -> (i32) Supervisor [V(0), V(1)];
        fd_seek(i32, i64, i32, i32) -> (i32) Supervisor [V(0), V(1), V(2), res(3, 8)];
        fd_sync(i32) -> (i32) Supervisor [V(0)];
        fd_tell(i32, i32) -> (i32) Supervisor [V(0), res(1, 8)];
        fd_write(i32, i32, i32, i32) -> (i32) Supervisor [V(0), GatherIn { ptr: 1, len: 2 }, res(3, 4)];
        path_create_directory(i32, i32, i32) -> (i32) Supervisor [V(0), bytes_in(1)];
        path_filestat_get(i32, i32, i32, i32, i32) -> (i32) Supervisor [V(0), V(1), bytes_in(2), res(4, 64)];
        path_filestat_set_times(i32, i32, i32, i32, i64, i64, i32) -> (i32) Supervisor
            [V(0), V(1), bytes_in(2), V(4), V(5), V(6)];
        path_link(i32, i32, i32, i32, i32, i32, i32) -> (i32) Supervisor
            [V(0), V(1), bytes_in(2), V(4), bytes_in(5)];
        path_open(i32, i32, i32, i32, i32, i64, i64, i32, i32) -> (i32) Supervisor
            [V(0), V(1), bytes_in(2), V(4), V(5), V(6), V(7), res(8, 4)];
        path_readlink(i32, i32, i32, i32, i32, i32) -> (i32) Supervisor
            [V(0), bytes_in(1), bytes_out(3), res(5, 4)];
        path_remove_directory(i32, i32, i32) -> (i32) Supervisor [V(0), bytes_in(1)];
        path_rename(i32, i32, i32, i32, i32, i32) -> (i32) Supervisor
            [V(0), bytes_in(1), V(3), bytes_in(4)];
        path_symlink(i32, i32, i32, i32, i32) -> (i32) Supervisor [bytes_in(0), V(2), bytes_in(3)];
        path_unlink_file(i32, i32, i32) -> (i32) Supervisor [V(0), bytes_in(1)];
        poll_oneoff(i32, i32, i32, i32) -> (i32) Supervisor
            [In { ptr: 0, len: 2, stride: 48 }, Out { ptr: 1, len: 2, stride: 32 }, V(2), res(3, 4)];
        proc_exit(i32) -> () Instance [V(0)];
        proc_raise(i32) -> (i32) Supervisor [V(0)];
        random_get(i32, i32) -> (i32) Instance [bytes_out(0)];
        sched_yield() -> (i32) Instance [];
        sock_accept(i32, i32, i32) -> (i32) Supervisor [V(0), V(1), res(2, 4)];
        sock_recv(i32, i32, i32, i32, i32, i32) -> (i32) Supervisor
            [V(0), ScatterOut { ptr: 1, len: 2 }, V(3), res(4, 4), res(5, 2)];
        sock_send(i32, i32, i32, i32, i32) -> (i32) Supervisor
            [V(0), GatherIn { ptr: 1, len: 2 }, V(3), res(4, 4)];
        sock_shutdown(i32, i32) -> (i32) Supervisor [V(0), V(1)];
    }
}

impl FunctionId {
    /// The function with this number, if there is one.
    pub fn from_number(number: u32) -> Option<Self> {
        let number = number as usize;
        if number >= IDS.len() {
            return None;
        }
        IDS.get(nospec::below(number, IDS.len())).copied()
    }

    /// The function's number, as compiled code and the ring carry it.
    pub const fn number(self) -> u32 {
        self as u32
    }

    /// The function that an import names.
    pub fn by_name(module: &str, name: &str) -> Option<Self> {
        FUNCTIONS.iter().position(|f| f.module == module && f.name == name).and_then(|i| IDS.get(i).copied())
    }

    /// What a call of it asks for that the guest's module, arguments and environment do not decide: bits of
    /// [`asked`].
    pub const fn asks(self) -> u64 {
        match self {
            Self::clock_time_get | Self::poll_oneoff => asked::TIME,
            Self::random_get => asked::RANDOM,
            Self::fd_fdstat_get
            | Self::fd_filestat_get
            | Self::fd_pread
            | Self::fd_read
            | Self::fd_readdir
            | Self::fd_seek
            | Self::fd_tell
            | Self::path_filestat_get
            | Self::path_open
            | Self::path_readlink
            | Self::sock_accept
            | Self::sock_recv => asked::FILES,
            _ => 0,
        }
    }

    /// The function's declaration.
    pub fn declaration(self) -> &'static HostFunction {
        &FUNCTIONS[self as usize]
    }
}

/// What an attack on [`FunctionId::from_number`] starts from. For tests only.
#[cfg(feature = "weakened")]
pub mod weakened {
    /// The table that a function's number is an index of.
    pub fn numbers() -> &'static [super::FunctionId] {
        super::IDS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parameters_of(arg: &Arg) -> ([Option<u8>; 2], bool) {
        match *arg {
            Arg::Value(i) => ([Some(i), None], false),
            Arg::Result { ptr, .. } => ([Some(ptr), None], true),
            Arg::In { ptr, len, .. }
            | Arg::Out { ptr, len, .. }
            | Arg::GatherIn { ptr, len }
            | Arg::ScatterOut { ptr, len } => ([Some(ptr), Some(len)], true),
        }
    }

    #[test]
    fn preview_1_has_46_functions_and_each_has_its_own_name() {
        assert_eq!(FUNCTIONS.len(), 46);
        for (i, f) in FUNCTIONS.iter().enumerate() {
            assert_eq!(FunctionId::by_name(f.module, f.name).unwrap().number() as usize, i, "{}", f.name);
            assert_eq!(FunctionId::from_number(i as u32).unwrap() as usize, i);
        }
        assert_eq!(FunctionId::from_number(FUNCTIONS.len() as u32), None);
        assert_eq!(FunctionId::by_name("wasi_snapshot_preview1", "fd_rea"), None);
        assert_eq!(FunctionId::by_name("wasi_unstable", "fd_read"), None);
    }

    #[test]
    fn every_parameter_is_described_and_pointers_are_32_bits() {
        for f in FUNCTIONS {
            assert!(f.args.len() <= ARGS_MAX && f.params.len() <= PARAMS_MAX, "{}", f.name);
            let mut seen = [false; PARAMS_MAX];
            for arg in f.args {
                let (parameters, is_pointer) = parameters_of(arg);
                for p in parameters.into_iter().flatten() {
                    if is_pointer {
                        assert_eq!(f.params[p as usize], ValueType::I32, "{} parameter {p}", f.name);
                    }
                    seen[p as usize] = true;
                }
            }
            for (i, _) in f.params.iter().enumerate() {
                assert!(seen[i], "{}: parameter {i} has no meaning", f.name);
            }
        }
    }
}
