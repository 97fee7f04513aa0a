//! The shape of the machine code: what makes it fast is checked here, so that it does not get lost.

use compiler::{Listing, Options, TargetCpu};

/// The machine code of the module's last function, one instruction per line.
fn assembly(wat: &str) -> String {
    assembly_with(wat, Options::default())
}

/// The same with other options, for the baseline processor.
fn assembly_with(wat: &str, options: Options) -> String {
    let wasm = compiler::parse_text(wat.as_bytes()).unwrap();
    let options = Options { target_cpu: TargetCpu::Baseline, ..options };
    let listing = compiler::list(&wasm, &options, Listing::Assembly).unwrap();
    let (_, last) = listing.rsplit_once("; function").unwrap();
    last.lines().skip(1).map(str::trim).collect::<Vec<_>>().join("\n")
}

fn assert_lines(code: &str, expected: &[&str]) {
    let mut lines = code.lines();
    for wanted in expected {
        assert!(lines.any(|line| line.contains(wanted)), "no `{wanted}` in this order in\n{code}");
    }
}

#[test]
fn a_load_is_one_instruction_with_a_displacement() {
    let code =
        assembly("(module (memory 1) (func (param i32) (result i32) (i32.load offset=12 (local.get 0))))");
    assert_lines(&code, &["movl 0x4000000c(%r"]);
    // Nothing but the frame, the extension of the index, the load.
    assert!(code.lines().filter(|line| !line.is_empty()).count() <= 10, "{code}");
}

#[test]
fn a_store_with_a_computed_index_folds_too() {
    let code = assembly(
        "(module (memory 1) (func (param i32 i64) (i64.store offset=8 (i32.add (local.get 0) (local.get 1) (i32.wrap_i64)) (local.get 1))))",
    );
    assert_lines(&code, &["0x40000008(%r"]);
    assert!(!code.contains("$0x40000000"), "{code}");
}

#[test]
fn there_is_no_stack_check_and_a_large_frame_is_probed() {
    let small = assembly("(module (func (param i32) (result i32) (call 0 (local.get 0))))");
    assert!(!small.contains("cmp") && !small.contains("ud2"), "{small}");
    let loads: String =
        (0..9000).map(|i| format!("(local.set {i} (i64.load offset={} (i32.const 0)))", i * 8)).collect();
    let stores: String =
        (0..9000).map(|i| format!("(i64.store offset={} (i32.const 0) (local.get {i}))", i * 8)).collect();
    let locals = "i64 ".repeat(9000);
    let large = assembly(&format!("(module (memory 2) (func (local {locals}) {loads} (call 0) {stores}))"));
    assert!(
        large.lines().take(12).any(|line| line.contains("probe") || line.contains("0x10000")),
        "{}",
        &large[..600]
    );
}

#[test]
fn a_direct_call_is_relative() {
    let code = assembly("(module (func) (func (call 0)))");
    assert_lines(&code, &["call    User(userextname0)"]);
}

#[test]
fn an_indirect_call_checks_bounds_and_signature_and_no_more() {
    let code = assembly(
        "(module (type $t (func (param i32))) (table 8 8 funcref) (func (param i32) (call_indirect (type $t) (i32.const 1) (local.get 0))))",
    );
    // A fixed table's size and base are constants; the failing paths are behind the return.
    assert_lines(
        &code,
        &[
            "cmpl $0x8,",
            "jnb #trap",
            "shlq $0x4,",
            "movl 0x1001008(%r",
            "cmpl $0x1,",
            "movq 0x1001000(%r",
            "call    *",
            "retq",
            "jz #trap",
            "ud2",
        ],
    );
}

#[test]
fn a_fixed_memory_has_a_constant_size_and_a_growing_one_does_not() {
    let fixed = assembly("(module (memory 2 2) (func (result i32) memory.size))");
    assert_lines(&fixed, &["movl $0x2, %eax"]);
    let growing = assembly("(module (memory 2 3) (func (result i32) memory.size))");
    assert_lines(&growing, &["movl $0x1000000,", "0x108(%r", "shrq $0x10,"]);
}

#[test]
fn an_immutable_global_is_a_constant() {
    let code = assembly("(module (global i32 (i32.const 77)) (func (result i32) global.get 0))");
    assert_lines(&code, &["movl $0x4d, %eax"]);
    let code = assembly("(module (global (mut i32) (i32.const 77)) (func (result i32) global.get 0))");
    assert_lines(&code, &["movl $0x1000000,", "movl 0x100(%r"]);
}

#[test]
fn rounding_a_float_is_an_instruction_on_the_baseline() {
    let code = assembly("(module (func (param f64) (result f64) (f64.floor (local.get 0))))");
    assert_lines(&code, &["roundsd"]);
}

#[test]
fn a_guarded_table_selects_the_null_entry_behind_a_failed_check() {
    let wat = "(module (type $t (func)) (table 8 8 funcref) (func (param i32) (call_indirect (type $t) (local.get 0))))";
    let plain = assembly_with(wat, Options::default());
    let guarded = assembly_with(wat, Options { spectre_guards: true, ..Options::default() });
    assert!(!plain.contains("cmov"), "{plain}");
    assert_lines(&guarded, &["cmpl $0x8,", "cmovaeq", "cmpl"]);
}

#[test]
fn fuel_costs_a_subtraction_and_a_store_and_a_loop_one_check_more() {
    let wat =
        "(module (func (param i32) (loop (br_if 0 (local.tee 0 (i32.sub (local.get 0) (i32.const 1)))))))";
    let plain = assembly_with(wat, Options::default());
    let fueled = assembly_with(wat, Options { fuel: true, ..Options::default() });
    assert!(!plain.contains("0x98(%r"), "{plain}");
    assert!(fueled.matches("0x98(%r").count() <= 6, "{fueled}");
}
