//! The module `spectest` that the suite's host provides.

use compiler::ValType;
use ipc::report::Value;
use supervisor::{Extern, HostFunction, Imports};

/// Everything that the suite may import from its host. What the functions print is not looked at.
pub fn imports() -> Imports {
    use ValType::{F32, F64, I32, I64};
    let mut imports = Imports::default();
    let functions: [(&str, &[ValType]); 7] = [
        ("print", &[]),
        ("print_i32", &[I32]),
        ("print_i64", &[I64]),
        ("print_f32", &[F32]),
        ("print_f64", &[F64]),
        ("print_i32_f32", &[I32, F32]),
        ("print_f64_f64", &[F64, F64]),
    ];
    for (name, params) in functions {
        let function = HostFunction::immediate(params, [], |_| Ok(Vec::new()));
        imports.define("spectest", name, Extern::Function(function));
    }
    for (name, value) in [
        ("global_i32", Value::I32(666)),
        ("global_i64", Value::I64(666)),
        ("global_f32", Value::F32(666.6f32.to_bits())),
        ("global_f64", Value::F64(666.6f64.to_bits())),
    ] {
        imports.define("spectest", name, Extern::Global { value, mutable: false });
    }
    for (name, table64) in [("table", false), ("table64", true)] {
        let table = Extern::Table { ty: ValType::FuncRef, entries: 10, max: Some(20), table64 };
        imports.define("spectest", name, table);
    }
    imports.define("spectest", "memory", Extern::Memory { pages: 1, max: Some(2), memory64: false });
    imports
}
