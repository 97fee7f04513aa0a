//! Generated text is what compilers take: every type in every place, and descriptions that try to be more than descriptions. Needs
//! clang with wasi-libc and lld, and rustc with the target wasm32-wasip1; without them the tests fail.

use std::path::Path;
use std::process::Command;

use interface::{Field, Function, Imported, Interface, Lowered, Named, Type, TypeDef, TypeKind};
use wasmparser::{Parser, Payload, TypeRef};

const SCALARS: [Type; 11] = [
    Type::Bool,
    Type::S8,
    Type::U8,
    Type::S16,
    Type::U16,
    Type::S32,
    Type::U32,
    Type::S64,
    Type::U64,
    Type::F32,
    Type::F64,
];

fn named(name: &str, doc: &str) -> Named {
    Named { name: name.to_owned(), doc: doc.to_owned() }
}

fn field(name: &str, ty: Type, doc: &str) -> Field {
    Field { name: name.to_owned(), ty, doc: doc.to_owned() }
}

fn own(name: &str) -> Type {
    Type::Named(name.to_owned())
}

/// Every type as a parameter, in a list, in a record, as the only result, and by address; each thing with this description.
fn everything(doc: &str) -> Lowered {
    let flags = |count: usize| (0..count).map(|index| named(&format!("f{index}"), doc)).collect();
    let ty = |name: &str, kind: TypeKind| TypeDef { name: name.to_owned(), doc: doc.to_owned(), kind };
    let cases = || vec![named("red", doc), named("error", doc), named("some_case", doc)];
    let mut values: Vec<Type> = SCALARS.to_vec();
    values.extend(["color", "few", "many", "thing"].map(own));
    let all_fields: Vec<Field> =
        values.iter().enumerate().map(|(index, ty)| field(&format!("v{index}"), ty.clone(), doc)).collect();
    let types = vec![
        // Before the types that it has.
        ty("everything", TypeKind::Record(all_fields)),
        ty("color", TypeKind::Enum(cases())),
        ty("fault", TypeKind::Error(cases())),
        ty("t_prefixed", TypeKind::Error(cases())),
        ty("few", TypeKind::Flags(flags(32))),
        ty("many", TypeKind::Flags(flags(64))),
        ty("thing", TypeKind::Handle),
        ty("odd_record", TypeKind::Record(vec![field("odd__field", Type::U8, doc)])),
        ty("result", TypeKind::Record(vec![field("string", Type::U8, doc), field("option", Type::U64, doc)])),
    ];
    let function = |name: &str, params: Vec<Field>, results: Vec<Field>, error: Option<&str>| Function {
        name: name.to_owned(),
        doc: doc.to_owned(),
        params,
        results,
        error: error.map(str::to_owned),
        overflow: error.map(|_| "some_case".to_owned()),
        deadline: Some(std::time::Duration::from_millis(100)),
        blocking: false,
    };
    let mut functions = Vec::new();
    values.push(own("everything"));
    for (index, ty) in values.iter().enumerate() {
        let list = Type::List(Box::new(ty.clone()));
        let list = if *ty == Type::U8 { Type::Bytes } else { list };
        let params = vec![field("value", ty.clone(), doc), field("all", list.clone(), doc)];
        let out = || field("out", ty.clone(), doc);
        functions.push(function(&format!("only{index}"), params, vec![out()], None));
        functions.push(function(&format!("one{index}"), Vec::new(), vec![out()], Some("fault")));
        let two = vec![out(), field("text", Type::String, doc)];
        functions.push(function(&format!("two{index}"), Vec::new(), two, None));
        functions.push(function(
            &format!("list{index}"),
            Vec::new(),
            vec![field("out", list, doc)],
            Some("fault"),
        ));
    }
    let buffers = || vec![field("text", Type::String, doc), field("data", Type::Bytes, doc)];
    let outs = || vec![field("text_out", Type::String, doc), field("data_out", Type::Bytes, doc)];
    functions.push(function("buffers", buffers(), outs(), Some("t_prefixed")));
    functions.push(function("several", buffers(), outs(), None));
    functions.push(function("bytes_only", buffers(), vec![field("data_out", Type::Bytes, doc)], None));
    functions.push(function("fails", Vec::new(), Vec::new(), Some("fault")));
    // Names of the C library and of Rust's prelude, and parameters that could hide something.
    for name in ["open", "read", "malloc", "memcpy", "exit", "drop", "raw", "checks", "t_prefixed_call"] {
        functions.push(function(name, Vec::new(), Vec::new(), None));
    }
    let hiding =
        ["size_t", "uint32_t", "text", "text_length", "t_color_t", "raw", "checks", "str", "u32", "core"];
    let hiding =
        hiding.map(|name| field(name, if name == "text" { Type::String } else { own("color") }, doc));
    functions.push(function("hiding", hiding.to_vec(), Vec::new(), None));
    // Names that Rust's compiler would call unusual.
    let odd = vec![field("odd__out_", Type::String, doc), field("more", own("odd_record"), doc)];
    functions.push(function("odd__name_", vec![field("odd__param", Type::Bool, doc)], odd, Some("fault")));
    let many = (0..9).map(|index| field(&format!("p{index}"), Type::U32, doc)).collect();
    functions.push(function("lengthy", many, Vec::new(), None));
    let interface = Interface { name: "t".to_owned(), doc: doc.to_owned(), types, functions };
    Lowered::new(interface).expect("a sound interface")
}

/// Descriptions that would end a comment, begin code, or be something else than words for a tool or a reader.
const HOSTILE: &[&str] = &[
    "*/ int evil; /*",
    "/*/",
    "**/ #error",
    "*\\\n/ int evil;",
    "??/\n*??/\n/",
    "ends with \\",
    "a\n*/\n#error out\n/*",
    "// \"quoted\" 'single' \\\" \\0 {} {0} %s %n",
    "`",
    "``a` b``` `fine` ``",
    "```\npanic!()\n```",
    "~~~rust\npanic!()\n~~~",
    "    panic!()",
    "text\n\n    panic!()\n",
    "-     panic!()\n1.      panic!()",
    ">     panic!()",
    "<script>alert(1)</script>",
    "[x](javascript:alert) ![y](z) [z]: q\n\n[z]",
    "<https://example.org> &lt;script&gt; &rlm;&ZeroWidthSpace; &#x202e; a & b",
    "# heading\n## heading\n\na\n===\nb\n---\n- # heading",
    "| a | b |\n| --- | --- |\n| c | d |",
    "\u{202e}evil\u{2066}\u{200b}\u{2028}#define x\u{feff}",
    "//! inner\n/// outer\n#![no_std]",
];

/// Runs a tool in the directory; `Err` is what it says.
fn attempt(directory: &Path, tool: &str, arguments: &[&str]) -> Result<String, String> {
    let output = Command::new(tool)
        .args(arguments)
        .current_dir(directory)
        .output()
        .unwrap_or_else(|error| panic!("{tool}: {error}; the tests need it"));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    match output.status.success() {
        true => Ok(text(&output.stdout)),
        false => Err(format!("{tool} {arguments:?}\n{}{}", text(&output.stdout), text(&output.stderr))),
    }
}

#[track_caller]
fn tool(directory: &Path, tool: &str, arguments: &[&str]) -> String {
    attempt(directory, tool, arguments).unwrap_or_else(|error| panic!("{error}"))
}

const WARNINGS: [&str; 4] = ["-Wall", "-Wextra", "-Wpedantic", "-Werror"];

fn compile_c(directory: &Path) {
    for target in [
        &["--target=wasm32-wasi"][..],
        &["--target=wasm32-unknown-unknown", "-ffreestanding", "-nostdlibinc"],
    ] {
        for language in [&["-std=c11", "-x", "c"], &["-std=c++11", "-x", "c++"]] {
            tool(directory, "clang", &[target, &["-fsyntax-only"], &WARNINGS, language, &["t.h"]].concat());
        }
    }
}

fn compile_rust(directory: &Path) {
    for edition in ["2021", "2024"] {
        let arguments =
            ["--edition", edition, "--target", "wasm32-wasip1", "--crate-type", "lib", "-D", "warnings"];
        tool(directory, "rustc", &[&arguments[..], &["lib.rs", "-o", "lib.rlib"]].concat());
    }
}

/// The imports of a module.
fn imports(wasm: &[u8]) -> Vec<Imported> {
    let (mut types, mut imports) = (Vec::new(), Vec::new());
    for payload in Parser::new(0).parse_all(wasm) {
        match payload.expect("a module") {
            Payload::TypeSection(section) => {
                types.extend(section.into_iter_err_on_gc_types().map(|ty| ty.expect("a function type")));
            }
            Payload::ImportSection(section) => imports.extend(section.into_imports().map(|import| {
                let import = import.expect("an import");
                let TypeRef::Func(ty) = import.ty else { panic!("{import:?}") };
                let names = |types: &[wasmparser::ValType]| types.iter().map(ToString::to_string).collect();
                let ty = &types[ty as usize];
                Imported {
                    module: import.module.to_owned(),
                    name: import.name.to_owned(),
                    params: names(ty.params()),
                    results: names(ty.results()),
                }
            })),
            _ => {}
        }
    }
    imports
}

/// Whether a module imports all functions of the interface, each as it is.
#[track_caller]
fn assert_imports_all(wasm: &Path, lowered: &Lowered) {
    let imports = imports(&std::fs::read(wasm).expect("the module"));
    assert_eq!(lowered.check(&imports), []);
    for function in lowered.functions() {
        let name = &function.declaration().name;
        assert!(
            imports.iter().any(|import| import.module == "t" && import.name == *name),
            "{name} is not imported"
        );
    }
}

#[test]
fn a_c_guest_imports_what_the_interface_has() {
    let directory = tempfile::tempdir().expect("a directory");
    let lowered = everything("");
    std::fs::write(directory.path().join("t.h"), lowered.c_header().expect("a header")).expect("written");
    compile_c(directory.path());
    let names = lowered.functions().iter().map(|function| match function.declaration().name.as_str() {
        prefixed if prefixed.starts_with("t_") => prefixed.to_owned(),
        name => format!("t_{name}"),
    });
    let uses: String = names.map(|name| format!("(void *)&{name}, ")).collect();
    // That the symbols are not those of the C library shows in that both can be used.
    let guest = format!(
        "#include \"t.h\"\n#include <fcntl.h>\n#include <stdlib.h>\nvoid *uses[] = {{ {uses}(void *)&open, (void *)&malloc }};\n\
         int main(void) {{ return t_fault_name(T_FAULT_SOME_CASE)[0] == 's' && uses[0] ? 0 : 1; }}\n"
    );
    std::fs::write(directory.path().join("guest.c"), guest).expect("written");
    for (compiler, standard) in [("clang", "-std=gnu11"), ("clang++", "-std=gnu++11")] {
        let language = if compiler == "clang" { "c" } else { "c++" };
        let arguments =
            ["--target=wasm32-wasi", "-O1", "-Wall", "-Wextra", "-Werror", standard, "-x", language];
        // C++ has no standard library here, and needs none.
        tool(directory.path(), "clang", &[&arguments[..], &["-c", "guest.c", "-o", "guest.o"]].concat());
        tool(directory.path(), "clang", &["--target=wasm32-wasi", "guest.o", "-o", "guest.wasm"]);
        assert_imports_all(&directory.path().join("guest.wasm"), &lowered);
    }
}

#[test]
fn a_rust_guest_imports_what_the_interface_has() {
    let directory = tempfile::tempdir().expect("a directory");
    let lowered = everything("");
    std::fs::write(directory.path().join("t.rs"), lowered.rust_module().expect("a module")).expect("written");
    std::fs::write(
        directory.path().join("lib.rs"),
        "#![no_std]\n#![deny(missing_docs)]\n//! A guest.\n#[path = \"t.rs\"]\n/// It.\npub mod t;\n",
    )
    .expect("written");
    compile_rust(directory.path());
    let arguments =
        ["--edition", "2024", "--target", "wasm32-wasip1", "--crate-type", "lib", "-D", "warnings"];
    tool(
        directory.path(),
        "clippy-driver",
        &[&arguments[..], &["-D", "clippy::all", "lib.rs", "-o", "lib.rmeta", "--emit=metadata"]].concat(),
    );
    // Private, so that what is not used would be a warning.
    let uses: String =
        lowered.functions().iter().map(|f| format!("t::{} as *const (), ", f.declaration().name)).collect();
    let guest =
        format!("mod t {{ include!(\"t.rs\"); }}\nfn main() {{ core::hint::black_box([{uses}]); }}\n");
    std::fs::write(directory.path().join("main.rs"), guest).expect("written");
    let arguments = [
        "--edition",
        "2024",
        "--target",
        "wasm32-wasip1",
        "-O",
        "-D",
        "warnings",
        "main.rs",
        "-o",
        "guest.wasm",
    ];
    tool(directory.path(), "rustc", &arguments);
    assert_imports_all(&directory.path().join("guest.wasm"), &lowered);
}

#[test]
fn descriptions_stay_in_their_comments() {
    let directory = tempfile::tempdir().expect("a directory");
    let write = |name: &str, text: &str| std::fs::write(directory.path().join(name), text).expect("written");
    let code_of_c = |lowered: &Lowered| {
        write("t.h", &lowered.c_header().expect("a header"));
        compile_c(directory.path());
        let shown = ["--target=wasm32-wasi", "-std=c11", "-E", "-dD", "-P", "t.h"];
        tool(directory.path(), "clang", &shown)
    };
    let code_of_rust = |lowered: &Lowered| {
        let text = lowered.rust_module().expect("a module");
        write("t.rs", &text);
        let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
        code.collect::<Vec<_>>().join("\n")
    };
    write("lib.rs", "#![no_std]\n#[path = \"t.rs\"]\n/// It.\npub mod t;\n");
    let plain = everything("");
    let (c, rust) = (code_of_c(&plain), code_of_rust(&plain));
    for doc in HOSTILE {
        let hostile = everything(doc);
        assert_eq!(code_of_c(&hostile), c, "{doc:?}");
        assert_eq!(code_of_rust(&hostile), rust, "{doc:?}");
        compile_rust(directory.path());
        let arguments =
            ["--test", "--edition", "2024", "--target", "wasm32-wasip1", "--test-args=--list", "lib.rs"];
        let listed = tool(directory.path(), "rustdoc", &arguments);
        assert!(listed.contains("0 tests"), "{doc:?}: {listed}");
    }
}

#[test]
fn descriptions_are_words_in_markdown() {
    use pulldown_cmark::{CodeBlockKind, Event, Options, Parser, Tag};
    let plain = everything("");
    let count = |lowered: &Lowered, what: &dyn Fn(&Event<'_>) -> bool| {
        let text = lowered.reference();
        Parser::new_ext(&text, Options::all()).filter(|event| what(event)).count()
    };
    let is_code = |event: &Event<'_>| matches!(event, Event::Start(Tag::CodeBlock(CodeBlockKind::Fenced(kind))) if **kind == *"wat");
    let is_other_code =
        |event: &Event<'_>| matches!(event, Event::Start(Tag::CodeBlock(_))) && !is_code(event);
    let is_active = |event: &Event<'_>| {
        matches!(
            event,
            Event::Html(_) | Event::InlineHtml(_) | Event::Start(Tag::Link { .. } | Tag::Image { .. })
        )
    };
    let is_heading = |event: &Event<'_>| matches!(event, Event::Start(Tag::Heading { .. }));
    let is_cell = |event: &Event<'_>| matches!(event, Event::Start(Tag::TableCell));
    let functions = plain.functions().len();
    for doc in HOSTILE {
        let hostile = everything(doc);
        assert_eq!(count(&hostile, &is_code), functions, "{doc:?}");
        assert_eq!(count(&hostile, &is_other_code) + count(&hostile, &is_active), 0, "{doc:?}");
        for what in [&is_heading as &dyn Fn(&Event<'_>) -> bool, &is_cell] {
            assert_eq!(count(&hostile, what), count(&plain, what), "{doc:?}");
        }
        let text = hostile.reference();
        let shown = Parser::new_ext(&text, Options::all()).filter_map(|event| match event {
            Event::Text(shown) => Some(shown),
            _ => None,
        });
        let is_invisible = |c: char| matches!(c, '\u{202e}' | '\u{200b}' | '\u{200f}' | '\u{2028}');
        assert!(shown.chain([text.as_str().into()]).all(|text| !text.contains(is_invisible)), "{doc:?}");
    }
}

#[test]
fn the_same_interface_gives_the_same_text() {
    let (one, other) = (everything("Words."), everything("Words."));
    assert_eq!(one.c_header(), other.c_header());
    assert_eq!(one.rust_module(), other.rust_module());
    assert_eq!(one.reference(), other.reference());
}

#[test]
fn names_that_become_one_are_refused() {
    let interface = |name: &str, types: Vec<TypeDef>, functions: &[&str]| {
        let function = |name: &&str| Function { name: (*name).to_owned(), ..Function::default() };
        let functions = functions.iter().map(function).collect();
        Lowered::new(Interface { name: name.to_owned(), doc: String::new(), types, functions })
            .expect("sound")
    };
    let ty = |name: &str, kind: TypeKind| TypeDef { name: name.to_owned(), doc: String::new(), kind };
    let cases = |names: &[&str]| TypeKind::Enum(names.iter().map(|name| named(name, "")).collect());
    let c = |lowered: Lowered| lowered.c_header().expect_err("refused").to_string();
    let rust = |lowered: Lowered| lowered.rust_module().expect_err("refused").to_string();

    let error = c(interface("k", vec![ty("a_b", cases(&["c"])), ty("a", cases(&["b_c"]))], &["f"]));
    assert_eq!(
        error,
        "interface \"k\": in C, b_c of a would have the name `K_A_B_C` of c of a_b; rename one of them"
    );
    assert!(
        c(interface("k", vec![ty("a", TypeKind::Handle), ty("k_a", TypeKind::Handle)], &["f"]))
            .contains("`k_a_t`")
    );
    assert!(c(interface("k", vec![ty("a", TypeKind::Handle)], &["a_t"])).contains("`k_a_t`"));
    assert!(c(interface("thread", vec![], &["local"])).contains("`thread_local` of the language itself"));
    assert!(c(interface("uint32", vec![], &["t"])).contains("`uint32_t`"));
    let fields = |name: &str| TypeKind::Record(vec![field(name, Type::U8, "")]);
    assert!(c(interface("k", vec![ty("r", fields("stdin"))], &["f"])).contains("`stdin`"));
    assert!(c(interface("uint", vec![ty("least8", cases(&["max"]))], &["f"])).contains("`uint_least8_t`"));
    let own_macro = ty("static", cases(&["x"]));
    assert!(
        Lowered::new(Interface { name: "k".into(), types: vec![own_macro], ..Interface::default() }).is_err()
    );

    assert!(
        rust(interface("k", vec![ty("a_b", TypeKind::Handle), ty("a__b", TypeKind::Handle)], &["f"]))
            .contains("`AB`")
    );
    assert!(rust(interface("k", vec![ty("a", cases(&["x_y", "x__y"]))], &["f"])).contains("`XY`"));
    assert!(rust(interface("k", vec![ty("self_", TypeKind::Handle)], &["f"])).contains("`Self`"));
    assert!(rust(interface("k", vec![ty("a", cases(&["self_"]))], &["f"])).contains("`Self`"));
}
