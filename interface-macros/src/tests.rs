//! What is often done wrong: each has its message, at the place that is to be changed.

use proc_macro2::TokenStream;

use crate::{functions, types};

/// The message and the source text at its place.
fn mistake(expanded: syn::Result<TokenStream>) -> (String, String) {
    let error = expanded.expect_err("a mistake");
    (error.to_string(), error.span().source_text().expect("a place"))
}

fn in_trait(attribute: &str, functions: &str) -> (String, String) {
    let item = format!("trait Kv {{ {functions} }}").parse().unwrap();
    mistake(functions::expand(attribute.parse().unwrap(), item))
}

fn in_type(item: &str) -> (String, String) {
    mistake(types::expand(item.parse().unwrap()))
}

#[test]
fn mistakes_in_functions_are_told_at_their_place() {
    for (function, place, part) in [
        ("fn f(&self, a: usize);", "usize", "use u32 or u64"),
        ("fn f(&self, a: Vec<isize>);", "isize", "another size in the guest"),
        ("fn f(&self, a: Option<u32>);", "Option<u32>", "no optional values"),
        ("fn f(&self) -> Result<Option<u32>, E>;", "Option<u32>", "no optional values"),
        ("fn f(&self, a: &Box<u8>);", "Box<u8>", "use the value, or a `Handle`"),
        ("fn f(&self, a: (u8, u8));", "(u8, u8)", "use a record"),
        ("fn f(&self, a: [u8; 4]);", "[u8; 4]", "use a list or a record"),
        ("fn f(&self, a: char);", "char", "use u32"),
        ("fn f(&self, a: i128);", "i128", "64 bits"),
        ("fn f(&self, a: str);", "str", "`&str` or `String`"),
        ("fn f(&self, a: impl Copy);", "impl Copy", "a certain one"),
        ("fn f(&self, a: &dyn Any);", "dyn Any", "a certain one"),
        ("fn f(&self, a: *const u8);", "*const u8", "means nothing to a guest"),
        ("fn f(&self, a: HashMap<String, u8>);", "HashMap<String, u8>", "a list of records"),
        ("fn f(&self, a: Result<u8, E>);", "Result<u8, E>", "only a function's own result"),
        ("fn f(&self, a: &mut Vec<u8>);", "mut", "cannot change its arguments"),
        ("fn f(&self, a: &'static str);", "'static", "use `&` alone"),
        ("fn f(&self, a: &&str);", "&str", "around a parameter only"),
        ("fn f(&self, (a, b): u8);", "(a, b)", "not a pattern"),
        ("fn f(&self) -> &str;", "&str", "owned values"),
        ("fn f(&self) -> Vec<(u8, u8)>;", "(u8, u8)", "use a record"),
        ("fn f(&self) -> KvResult<(u8, Option<u8>)>;", "Option<u8>", "no optional values"),
        ("fn f(&self) -> (u8, &str);", "&str", "around a parameter only"),
        ("fn f(&mut self);", "&mut self", "takes `&self`"),
        ("fn f(self);", "self", "takes `&self`"),
        ("fn f(self: &Self);", "self: &Self", "takes `&self`"),
        ("fn f();", "f", "takes `&self`"),
        ("fn f<T>(&self, a: T);", "T", "cannot be generic"),
        ("fn f<'a>(&self, a: &'a str);", "'a", "cannot be generic"),
        ("fn f(&self) where Self: Clone;", "where Self: Clone", "cannot be generic"),
        ("unsafe fn f(&self);", "unsafe", "safe, ordinary function"),
        ("extern \"C\" fn f(&self);", "extern \"C\"", "safe, ordinary function"),
        ("fn service(&self);", "service", "use another name"),
        ("fn interface(&self);", "interface", "use another name"),
        ("#[cfg(unix)] fn f(&self);", "#[cfg(unix)]", "no `cfg`"),
        ("", "Kv", "a function at least"),
        ("const N: u32;", "const N: u32;", "functions and nothing else"),
        ("type T;", "type T;", "functions and nothing else"),
        ("#[host(blocking)] async fn f(&self);", "blocking", "cannot be async"),
        ("#[host(bloking)] fn f(&self);", "bloking", "here there can be `name`, `blocking`, `deadline`"),
        ("#[host(blocking, blocking)] fn f(&self);", "blocking", "a second time"),
        ("#[host(deadline = \"100\")] fn f(&self);", "\"100\"", "a number and a unit"),
        ("#[host(deadline = \"soon\")] fn f(&self);", "\"soon\"", "a number and a unit"),
        ("#[host(deadline = \"99999999999h\")] fn f(&self);", "\"99999999999h\"", "a number and a unit"),
        ("#[host(deadline = \"0s\")] fn f(&self);", "\"0s\"", "no time to answer"),
        ("#[host(deadline = 5)] fn f(&self);", "5", "expected string literal"),
    ] {
        let (message, at) = in_trait("", function);
        assert!(message.contains(part), "{function}: {message}");
        assert_eq!(at, place, "{function}: {message}");
    }
    let (message, at) = in_trait("nam = \"kv\"", "");
    assert_eq!((message.as_str(), at.as_str()), ("unknown option; here there can be `name`", "nam"));
    // All of them at once.
    let item = "trait Kv { fn f(&self, a: usize); fn g(); }".parse().unwrap();
    let error = functions::expand(TokenStream::new(), item).unwrap_err();
    assert_eq!(error.into_iter().count(), 2);
    let (message, at) = mistake(functions::expand(TokenStream::new(), "trait Kv<T> {}".parse().unwrap()));
    assert_eq!((message.contains("cannot be generic"), at.as_str()), (true, "T"));
}

#[test]
fn mistakes_in_types_are_told_at_their_place() {
    for (item, place, part) in [
        ("struct R { a: usize }", "usize", "use u32 or u64"),
        ("struct R { a: Option<u8> }", "Option<u8>", "no optional values"),
        ("struct R(u8);", "(u8)", "a struct with named fields"),
        ("struct R;", "R", "a struct with named fields"),
        ("struct R<T> { a: T }", "T", "cannot be generic"),
        ("union R { a: u8 }", "union", "a union is no type"),
        ("enum E { A(u8) }", "(u8)", "a case has no fields"),
        ("enum E { A { a: u8 } }", "{ a: u8 }", "a case has no fields"),
        ("enum E { A = 5 }", "5", "numbered in their order"),
        ("#[host(error)] struct E { a: u8 }", "error", "an error is an enum"),
        ("#[host(flags)] enum E { A }", "flags", "a struct with named fields"),
        ("#[host(flags)] struct F { a: u8 }", "u8", "a flag is a `bool`"),
        ("#[host(flags)] struct F(bool);", "flags", "a struct with named fields"),
        ("#[host(flags, handle)] struct F;", "handle", "not two"),
        (
            "#[host(flag)] struct F { a: bool }",
            "flag",
            "here there can be `name`, `error`, `flags`, `handle`",
        ),
        ("struct R { #[host(error)] a: u8 }", "error", "here there can be `name`"),
    ] {
        let (message, at) = in_type(item);
        assert!(message.contains(part), "{item}: {message}");
        assert_eq!(at, place, "{item}: {message}");
    }
}

#[test]
fn what_is_sound_is_taken() {
    let sound = r#"
        pub(crate) trait Kv: Clone {
            /// Documentation.
            async fn f(&self, a: &str, b: &[u32], c: &Point, r#final: Vec<u8>) -> Result<(u8, String), E>;
            #[host(name = "service", blocking, deadline = "2m", overflow = "x", results("a", "b"))]
            fn g(&self, #[doc = "Which."] _a: u8) -> Result<Result<(u8, u8), E>, HostError>;
            fn h(&self) -> KvResult<()>;
            fn i(&self) -> KvResult<(u8, Vec<u8>)>;
        }
    "#;
    let tokens = functions::expand("name = \"kv\"".parse().unwrap(), sound.parse().unwrap()).unwrap();
    syn::parse2::<syn::File>(tokens).expect("items");
    for item in [
        "struct R { a: u8, #[host(name = \"b\")] c: Color }",
        "enum E { A, B }",
        "#[host(error)] enum E { A }",
        "#[host(flags)] struct F { a: bool }",
        "#[host(handle)] struct H<'a>(&'a u8);",
    ] {
        if item.contains("'a") {
            // Neither is a thing behind handles: it outlives what it borrows.
            assert!(in_type(item).0.contains("cannot be generic"));
            continue;
        }
        syn::parse2::<syn::File>(types::expand(item.parse().unwrap()).unwrap()).expect("items");
    }
}
