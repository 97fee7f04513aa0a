//! The shape of the machine code: what makes it fast is checked here, so that it does not get lost.

use compiler::{Listing, Options, TargetCpu};

/// The machine code of the module's last function, one instruction per line.
fn assembly(wat: &str) -> String {
    assembly_with(wat, Options::default())
}

/// The same with other options, for the baseline processor.
fn assembly_with(wat: &str, options: Options) -> String {
    assembly_as_asked(wat, Options { target_cpu: TargetCpu::Baseline, ..options })
}

/// The same with exactly these options.
fn assembly_as_asked(wat: &str, options: Options) -> String {
    let wasm = compiler::parse_text(wat.as_bytes()).unwrap();
    let listing = compiler::list(&wasm, &options, Listing::Assembly, &|_, _| ()).unwrap();
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
            "movl 0x1031008(%r",
            "cmpl $0x1,",
            "movq 0x1031000(%r",
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
    assert_lines(&growing, &["movl $0x1030000,", "0x108(%r", "shrq $0x10,"]);
}

#[test]
fn an_immutable_global_is_a_constant() {
    let code = assembly("(module (global i32 (i32.const 77)) (func (result i32) global.get 0))");
    assert_lines(&code, &["movl $0x4d, %eax"]);
    let code = assembly("(module (global (mut i32) (i32.const 77)) (func (result i32) global.get 0))");
    assert_lines(&code, &["movl $0x1030000,", "movl 0x100(%r"]);
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

#[test]
fn nothing_is_executed_for_handlers_before_a_throw() {
    let plain = assembly("(module (func (call 0)) (func (call 0)))");
    // Outside of a `try_table` a module that throws has the same code.
    assert_eq!(plain, assembly("(module (tag $e) (func (throw $e)) (func (call 0)))"));
    // Inside, the call has its handler beside it; no check follows it. Functions with handlers save the registers that a
    // handler finds changed.
    let handled =
        assembly("(module (tag $e) (func (throw $e)) (func (block $h (try_table (catch $e $h) (call 0)))))");
    assert_lines(&handled, &["movq %rbx, (%rsp)", "catch [tag0: MachLabel(", "retq"]);
    assert!(!handled.contains("cmp") && !handled.contains("test"), "{handled}");
}

#[test]
fn a_tail_call_is_a_jump() {
    let code = assembly(
        "(module (func $f (param i32 i32) (result i32) i32.const 1) (func (param i32 i32) (result i32) (return_call $f (local.get 0) (local.get 1))))",
    );
    // The listing's name for taking down the frame and jumping.
    assert_lines(&code, &["return_call_known User(userextname0) (0)"]);
    assert!(!code.contains("call  ") && !code.contains("retq"), "{code}");
}

#[test]
fn a_call_through_a_reference_checks_for_null_only_where_the_type_allows_it() {
    let with = |ty: &str| {
        assembly(&format!(
            "(module (type $t (func (param i32))) (func (param i32 ({ty} $t)) (call_ref $t (local.get 0) (local.get 1))))"
        ))
    };
    let nullable = with("ref null");
    assert_lines(&nullable, &["test", "jz #trap", "shlq $0x4,", "movq (%r", "call    *"]);
    let sure = with("ref");
    assert_lines(&sure, &["shlq $0x4,", "movq (%r", "call    *"]);
    assert!(!sure.contains("trap"), "{sure}");
}

#[test]
fn a_typed_table_needs_no_signature_check() {
    let code = assembly(
        "(module (type $t (func (param i32))) (func $f (type $t)) (table 8 8 (ref $t) (ref.func $f)) (func (param i32) (call_indirect (type $t) (i32.const 1) (local.get 0))))",
    );
    assert_lines(&code, &["cmpl $0x8,", "jnb #trap", "shlq $0x4,", "movq 0x1031000(%r", "call    *"]);
    assert_eq!(code.matches("cmp").count(), 1, "{code}");
}

#[test]
fn a_64_bit_index_is_compared_once_with_a_constant() {
    let load = |limits: &str| {
        assembly(&format!(
            "(module (memory i64 {limits}) (func (param i64) (result i32) (i32.load offset=12 (local.get 0))))"
        ))
    };
    let small = load("1 0x7fff");
    assert_lines(&small, &["cmpq $0x7fff0000,", "jnbe #trap", "movl 0x4000000c(%r"]);
    let large = load("1");
    assert_lines(&large, &["cmpq (%rip),", "jnbe #trap", "movl 0x4000000c(%r"]);
    for code in [small, large] {
        // Frame, comparison, load: the memory's size is not read.
        assert!(code.lines().filter(|line| !line.is_empty()).count() <= 12, "{code}");
        assert_eq!(code.matches("cmp").count(), 1, "{code}");
    }
}

#[test]
fn accesses_to_a_further_memory_share_its_base() {
    let code = assembly(
        "(module (memory 1) (memory 1) (func (param i32 i32) (i32.store 1 offset=4 (local.get 0) (local.get 1)) (i32.store 1 offset=8 (local.get 0) (local.get 1))))",
    );
    assert_eq!(code.matches("movabsq").count(), 1, "{code}");
    assert_lines(&code, &["movl %esi, 4(%r", "movl %esi, 8(%r"]);
}

#[test]
fn a_guarded_64_bit_index_selects_the_guard_behind_a_failed_check() {
    let wat =
        "(module (memory i64 1 0x7fff) (func (param i64) (result i32) (i32.load offset=12 (local.get 0))))";
    let guarded = assembly_with(wat, Options { spectre_guards: true, ..Options::default() });
    assert_lines(&guarded, &["jnbe #trap", "cmov", "movl 0x4000000c(%r"]);
}

/// The instructions of the module's last function between prologue and epilogue, exactly. Labels, and jumps to a block that
/// follows, are no instructions.
fn assert_body(wat: &str, expected: &[&str]) {
    let code = assembly(wat);
    let lines: Vec<_> = code
        .lines()
        .filter(|line| !line.is_empty() && !line.ends_with(':') && !line.starts_with("jmp"))
        .collect();
    let body = lines
        .strip_prefix(&["pushq %rbp", "movq %rsp, %rbp"])
        .and_then(|lines| lines.strip_suffix(&["movq %rbp, %rsp", "popq %rbp", "retq"]));
    assert_eq!(body, Some(expected), "{code}");
}

#[test]
fn parameters_begin_in_the_first_register_and_nothing_precedes_the_body() {
    // No context parameter, no stack check: rdi and rsi are the guest's own.
    assert_body(
        "(module (func (param i32 i32) (result i32) (i32.add (local.get 0) (local.get 1))))",
        &["leal (%rdi, %rsi), %eax"],
    );
}

#[test]
fn a_call_passes_nothing_but_its_arguments() {
    assert_body(
        "(module (func (param i32 i32)) (func (param i32) (call 0 (local.get 0) (i32.const 7))))",
        &["movl $0x7, %esi", "call    User(userextname0)"],
    );
}

#[test]
fn accesses_to_fields_share_the_extended_pointer() {
    assert_body(
        "(module (memory 1) (func (param i32) (result i64)
            (i64.add (i64.load offset=8 (local.get 0)) (i64.load offset=16 (local.get 0)))))",
        &["movl %edi, %esi", "movq 0x40000008(%rsi), %rax", "addq 0x40000010(%rsi), %rax"],
    );
}

#[test]
fn reading_changing_and_writing_a_field_is_one_instruction() {
    assert_body(
        "(module (memory 1) (func (param i32)
            (i32.store offset=4 (local.get 0) (i32.add (i32.load offset=4 (local.get 0)) (i32.const 1)))))",
        &["movl %edi, %edx", "addl $0x1, 0x40000004(%rdx)"],
    );
}

#[test]
fn narrow_and_float_accesses_fold_too() {
    assert_body(
        "(module (memory 1) (func (param i32) (result i32) (i32.load8_s (local.get 0))))",
        &["movl %edi, %esi", "movsbq 0x40000000(%rsi), %rax"],
    );
    assert_body(
        "(module (memory 1) (func (param i32 f64) (f64.store offset=24 (local.get 0) (local.get 1))))",
        &["movl %edi, %esi", "movsd %xmm0, 0x40000018(%rsi)"],
    );
}

#[test]
fn an_offset_beyond_the_displacement_is_one_constant() {
    assert_body(
        "(module (memory 1) (func (param i32) (result i32) (i32.load offset=0xf0000000 (local.get 0))))",
        &["movl %edi, %esi", "movabsq $0x130000000, %rdi", "movl (%rsi, %rdi), %eax"],
    );
}

#[test]
fn a_mutable_global_is_at_a_constant_address() {
    assert_body(
        "(module (global (mut f64) (f64.const 1)) (func (param f64) (global.set 0 (local.get 0))))",
        &["movl $0x1030000, %edx", "movsd %xmm0, 0x100(%rdx)"],
    );
}

#[test]
fn a_br_table_is_one_clamped_jump_through_a_table() {
    let code = assembly(
        "(module (func (param i32) (result i32)
            (block (block (block (block (br_table 0 1 2 3 (local.get 0)))
                (return (i32.const 10))) (return (i32.const 20))) (return (i32.const 30))) (i32.const 40)))",
    );
    // The selection keeps a mispredicted check from reading beyond the table; the last instruction loads a distance and jumps.
    assert_lines(&code, &["movl $0x3, %r8d", "cmpl %r8d, %r9d", "cmovbl %r9d, %r8d", "br_table %r8,"]);
    assert_eq!(code.matches("cmp").count(), 1, "{code}");
}

#[test]
fn a_table_that_may_grow_has_its_size_in_the_context() {
    let code = assembly(
        "(module (type $t (func)) (table 8 20 funcref) (func (result i32) (table.grow 0 (ref.null func) (i32.const 1)))
            (func (param i32) (call_indirect (type $t) (local.get 0))))",
    );
    assert_lines(
        &code,
        &["movl $0x1030000,", "cmpq 0x108(%r", "jnb #trap", "shlq $0x4,", "cmpl $", "call    *%r"],
    );
}

/// How many instructions use vector registers.
fn vector_instructions(code: &str) -> usize {
    code.lines().filter(|line| line.contains("%xmm")).count()
}

#[test]
fn a_vector_is_loaded_and_stored_by_one_instruction_each() {
    let code = assembly(
        "(module (memory 1) (func (param i32) (v128.store offset=32 (local.get 0) (v128.load offset=16 (local.get 0)))))",
    );
    assert_lines(&code, &["movdqu 0x40000010(%r", "movdqu %xmm3, 0x40000020(%r"]);
    assert_eq!(vector_instructions(&code), 2, "{code}");
}

#[test]
fn lanes_of_another_kind_cost_no_instruction() {
    let binary = |operator: &str| {
        assembly(&format!(
            "(module (func (param v128 v128) (result v128) ({operator} (local.get 0) (local.get 1))))"
        ))
    };
    for (operator, instruction) in [
        ("i32x4.add", "paddd %xmm1, %xmm0"),
        ("f32x4.mul", "mulps %xmm1, %xmm0"),
        ("f64x2.pmin", "minpd %xmm"),
        ("i16x8.relaxed_q15mulr_s", "pmulhrsw %xmm1, %xmm0"),
    ] {
        assert_lines(&binary(operator), &[instruction]);
    }
    assert_eq!(vector_instructions(&binary("i32x4.add")), 1);
    let code = assembly(
        "(module (func (param v128 v128 v128) (result v128) (f32x4.add (i32x4.mul (local.get 0) (local.get 1)) (local.get 2))))",
    );
    assert_lines(&code, &["pmulld %xmm1, %xmm0", "addps %xmm2, %xmm0"]);
    assert_eq!(vector_instructions(&code), 2, "{code}");
}

#[test]
fn a_vector_operation_takes_its_operand_from_memory_where_avx_allows_it() {
    let code = assembly_as_asked(
        "(module (memory 1) (func (param i32 v128) (result v128) (f32x4.mul (local.get 1) (v128.load offset=16 (local.get 0)))))",
        Options { target_cpu: TargetCpu::Native, ..Options::default() },
    );
    let wanted = if is_x86_feature_detected!("avx") { "vmulps 0x40000010(%r" } else { "mulps %xmm" };
    assert_lines(&code, &[wanted]);
}

#[test]
fn wide_arithmetic_uses_the_carry_and_both_halves_of_a_product() {
    let code = assembly(
        "(module (func (param i64 i64 i64 i64) (result i64 i64) (i64.add128 (local.get 0) (local.get 1) (local.get 2) (local.get 3))))",
    );
    assert_lines(&code, &["addq", "adcq"]);
    let code = assembly(
        "(module (func (param i64 i64 i64 i64) (result i64 i64) (i64.sub128 (local.get 0) (local.get 1) (local.get 2) (local.get 3))))",
    );
    assert_lines(&code, &["subq", "sbbq"]);
    for (operator, instruction) in [("i64.mul_wide_u", "mulq"), ("i64.mul_wide_s", "imulq")] {
        let code = assembly(&format!(
            "(module (func (param i64 i64) (result i64 i64) ({operator} (local.get 0) (local.get 1))))"
        ));
        assert_eq!(code.matches("mulq").count(), 1, "{code}");
        assert_lines(&code, &[instruction]);
    }
}

#[test]
fn an_atomic_operator_on_a_memory_of_ones_own_locks_nothing() {
    let code = assembly(
        "(module (memory 1) (func (param i32 i32) (drop (i32.atomic.rmw.or offset=4 (local.get 0) (local.get 1)))))",
    );
    assert_lines(&code, &["testl $0x3,", "jnz #trap", "orl %esi, 0x40000004(%r"]);
    assert!(!code.contains("lock "), "{code}");
}
