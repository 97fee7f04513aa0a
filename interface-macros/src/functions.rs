//! A trait as an interface.

use proc_macro2::{Span, TokenStream};
use quote::{format_ident, quote, quote_spanned};
use syn::spanned::Spanned;
use syn::{
    Error, FnArg, GenericArgument, Generics, Ident, ItemTrait, LitStr, Pat, PathArguments, Result,
    ReturnType, Signature, TraitItem, TraitItemFn, Type, parse_quote, parse_quote_spanned,
};

use crate::options::{Options, check, check_name, documentation};

/// What the trait gets besides its own functions.
const OWN: [&str; 2] = ["service", "interface"];

pub(crate) fn expand(attribute: TokenStream, item: TokenStream) -> Result<TokenStream> {
    let options = Options::parse(attribute, &["name"])?;
    let mut item: ItemTrait = syn::parse2(item)?;
    no_generics(&item.generics, "an interface")?;
    if let Some(unsafety) = &item.unsafety {
        return Err(Error::new(unsafety.span(), "an interface is no unsafe trait"));
    }
    let name = options.name_of(&item.ident);
    let doc = documentation(&item.attrs);
    let mut checks = check_name("an interface", &name);
    let (mut declared, mut served) = (TokenStream::new(), TokenStream::new());
    let mut errors: Option<Error> = None;
    for item in &mut item.items {
        let function = match item {
            TraitItem::Fn(function) => Function::new(function),
            other => Err(Error::new(other.span(), "an interface has functions and nothing else")),
        };
        match function {
            Ok(function) => {
                checks.extend(function.checks());
                declared.extend(function.declared());
                served.extend(function.served());
            }
            // All of them at once.
            Err(error) => match &mut errors {
                Some(errors) => errors.combine(error),
                None => errors = Some(error),
            },
        }
    }
    if let Some(errors) = errors {
        return Err(errors);
    }
    if item.items.is_empty() {
        return Err(Error::new(item.ident.span(), "an interface has a function at least"));
    }
    let bounds: [syn::TypeParamBound; 3] =
        [parse_quote!(::core::marker::Send), parse_quote!(::core::marker::Sync), parse_quote!('static)];
    item.supertraits.extend(bounds);
    item.colon_token.get_or_insert_default();
    item.items.push(parse_quote! {
        /// The interface that this trait declares.
        ///
        /// # Errors
        /// A rule of interfaces that the compiler cannot check.
        fn interface() -> ::core::result::Result<::supervisor::interface::Lowered, ::supervisor::interface::ModelError>
        where
            Self: ::core::marker::Sized,
        {
            let mut declaration = ::supervisor::typed::Declaration::new(#name, #doc);
            #declared
            declaration.finish()
        }
    });
    item.items.push(parse_quote! {
        /// A service of the interface, whose functions are those of this implementation.
        ///
        /// # Errors
        /// Those of [`interface`](Self::interface).
        fn service(self) -> ::core::result::Result<::supervisor::Service, ::supervisor::Error>
        where
            Self: ::core::marker::Sized,
        {
            let mut service = ::supervisor::typed::ServiceOf::new(self, Self::interface()?);
            #served
            ::core::result::Result::Ok(service.finish())
        }
    });
    Ok(quote! {
        #item
        #checks
    })
}

fn no_generics(generics: &Generics, what: &str) -> Result<()> {
    let clause = generics.where_clause.as_ref().map(Spanned::span);
    match (generics.params.first().map(Spanned::span)).or(clause) {
        Some(span) => {
            Err(Error::new(span, format!("{what} cannot be generic: guests have one signature of it")))
        }
        None => Ok(()),
    }
}

struct Function {
    ident: Ident,
    name: LitStr,
    doc: String,
    params: Vec<Parameter>,
    returns: Type,
    options: Options,
    is_async: bool,
}

struct Parameter {
    name: LitStr,
    doc: String,
    /// The type that is converted to.
    owned: Type,
    is_borrowed: bool,
    span: Span,
}

impl Function {
    /// Checks a function and leaves of it what compiles.
    fn new(function: &mut TraitItemFn) -> Result<Self> {
        let options =
            Options::take(&mut function.attrs, &["name", "blocking", "deadline", "overflow", "results"])?;
        if let Some(cfg) = function.attrs.iter().find(|attribute| attribute.path().is_ident("cfg")) {
            return Err(Error::new(cfg.span(), "an interface has the same functions everywhere: no `cfg`"));
        }
        let signature = &mut function.sig;
        let ident = signature.ident.clone();
        if OWN.iter().any(|own| ident == own) {
            return Err(Error::new(
                ident.span(),
                format!(
                    "the trait has a function `{ident}` already, of the interface itself: use another name, and `#[host(name = \"{ident}\")]`"
                ),
            ));
        }
        plain(signature)?;
        if let (Some(word), Some(_)) = (options.word("blocking"), signature.asyncness) {
            return Err(Error::new(
                word.span(),
                "a blocking function has a thread of its own, and cannot be async: remove one of the two",
            ));
        }
        let mut params = Vec::new();
        for input in signature.inputs.iter_mut() {
            if let FnArg::Typed(typed) = input {
                params.push(Parameter::new(typed)?);
            }
        }
        let returns: Type = match &signature.output {
            ReturnType::Default => parse_quote!(()),
            ReturnType::Type(_, ty) => (**ty).clone(),
        };
        results(&returns)?;
        let this = Self {
            name: options.name_of(&ident),
            ident,
            doc: documentation(&function.attrs),
            params,
            returns,
            is_async: signature.asyncness.is_some(),
            options,
        };
        this.make_send(function);
        Ok(this)
    }

    /// The future of an `async fn` goes where the guest's shard is.
    fn make_send(&self, function: &mut TraitItemFn) {
        if !self.is_async {
            return;
        }
        let returns = &self.returns;
        function.sig.asyncness = None;
        function.sig.output = parse_quote! {
            -> impl ::core::future::Future<Output = #returns> + ::core::marker::Send
        };
        if let Some(body) = &mut function.default {
            *body = parse_quote!({ async move #body });
        }
    }

    fn checks(&self) -> TokenStream {
        let mut checks = check_name("a function", &self.name);
        for Parameter { name, owned, span, .. } in &self.params {
            checks.extend(check_name("a parameter", name));
            checks.extend(quote_spanned!(*span=> const _: fn() = ::supervisor::typed::is_type::<#owned>;));
        }
        for name in &self.options.results {
            checks.extend(check_name("a result", name));
        }
        let returns = &self.returns;
        let span = returns.span();
        checks.extend(quote_spanned!(span=> const _: fn() = ::supervisor::typed::is_return::<#returns>;));
        let count = quote!(<#returns as ::supervisor::typed::HostReturn>::COUNT);
        let params = self.params.len();
        let fits = quote!(::supervisor::typed::are_few(#params, #count));
        let message = format!(
            "`{}` has more than 10 parameters and results together: put some into a record",
            self.ident
        );
        checks.extend(check(self.ident.span(), fits, &message));
        if let Some(first) = self.options.results.first() {
            let names = self.options.results.len();
            let message =
                format!("`{}` does not have {names} results, but {names} names of results", self.ident);
            checks.extend(check(first.span(), quote!(#count == #names), &message));
        }
        if let Some(case) = &self.options.overflow {
            let has_case = quote! {
                ::supervisor::interface::is_one_of(<#returns as ::supervisor::typed::HostReturn>::CASES, #case)
            };
            let message = format!("the error of `{}` has no case {:?}", self.ident, case.value());
            checks.extend(check(case.span(), has_case, &message));
        }
        checks
    }

    fn declared(&self) -> TokenStream {
        let Self { name, doc, returns, options, .. } = self;
        let params = self.params.iter().map(|Parameter { name, doc, owned, .. }| {
            quote!((#name, #doc, <#owned as ::supervisor::typed::HostType>::declare(&mut declaration)))
        });
        let option = |value: Option<TokenStream>| match value {
            Some(value) => quote!(::core::option::Option::Some(#value)),
            None => quote!(::core::option::Option::None),
        };
        let overflow =
            option(options.overflow.as_ref().map(|case| quote!(::std::string::String::from(#case))));
        let deadline = option(options.deadline.map(|deadline| {
            let (seconds, nanoseconds) = (deadline.as_secs(), deadline.subsec_nanos());
            quote!(::core::time::Duration::new(#seconds, #nanoseconds))
        }));
        let is_blocking = options.word("blocking").is_some();
        let results = &options.results;
        quote! {
            let params = [#(#params),*];
            let function = ::supervisor::interface::Function {
                name: ::std::string::String::from(#name),
                doc: ::std::string::String::from(#doc),
                overflow: #overflow,
                deadline: #deadline,
                blocking: #is_blocking,
                ..::core::default::Default::default()
            };
            declaration.function::<#returns>(function, &params, &[#(#results),*]);
        }
    }

    fn served(&self) -> TokenStream {
        let Self { ident, name, .. } = self;
        let variables: Vec<_> =
            (0..self.params.len()).map(|index| format_ident!("argument_{index}")).collect();
        let taken = self.params.iter().zip(&variables).map(|(Parameter { name, owned, .. }, variable)| {
            quote!(let #variable: #owned = arguments.next(#name)?;)
        });
        let passed =
            self.params.iter().zip(&variables).map(|(parameter, variable)| match parameter.is_borrowed {
                true => quote!(&#variable),
                false => quote!(#variable),
            });
        let call = quote!(Self::#ident(&this, #(#passed),*));
        let (how, call) = match (self.is_async, self.options.word("blocking")) {
            (true, _) => {
                (quote!(asynchronous), quote!(async move { #(#taken)* arguments.answer(#call.await) }))
            }
            (false, None) => (quote!(immediate), quote!({ #(#taken)* arguments.answer(#call) })),
            (false, Some(_)) => (quote!(blocking), quote!({ #(#taken)* arguments.answer(#call) })),
        };
        quote! {
            service.#how(
                #name,
                |this: ::std::sync::Arc<Self>, #[allow(unused_mut)] mut arguments: ::supervisor::typed::Arguments| #call,
            )?;
        }
    }
}

impl Parameter {
    fn new(typed: &mut syn::PatType) -> Result<Self> {
        let doc = documentation(&typed.attrs);
        typed.attrs.retain(|attribute| !attribute.path().is_ident("doc"));
        let Pat::Ident(pattern) = &*typed.pat else {
            return Err(Error::new(
                typed.pat.span(),
                "a parameter of a host function is a name, not a pattern",
            ));
        };
        let (owned, is_borrowed) = match &*typed.ty {
            Type::Reference(reference) => {
                if let Some(mutability) = &reference.mutability {
                    return Err(Error::new(
                        mutability.span(),
                        "a host function cannot change its arguments: the guest gets results",
                    ));
                }
                if let Some(lifetime) = &reference.lifetime {
                    return Err(Error::new(
                        lifetime.span(),
                        "an argument lives as long as its call: use `&` alone",
                    ));
                }
                (owned(&reference.elem), true)
            }
            ty => (ty.clone(), false),
        };
        value(&owned)?;
        let name = Options::default().name_of(&pattern.ident);
        Ok(Self { name, doc, owned, is_borrowed, span: typed.ty.span() })
    }
}

/// What is behind a reference, owned.
fn owned(ty: &Type) -> Type {
    match ty {
        Type::Slice(slice) => {
            let element = &slice.elem;
            parse_quote_spanned!(ty.span()=> ::std::vec::Vec<#element>)
        }
        Type::Path(path) if path.path.is_ident("str") => {
            parse_quote_spanned!(ty.span()=> ::std::string::String)
        }
        other => other.clone(),
    }
}

/// A function that a guest can call.
fn plain(signature: &Signature) -> Result<()> {
    no_generics(&signature.generics, "a host function")?;
    if let Some(odd) = (signature.unsafety.as_ref().map(Spanned::span))
        .or_else(|| signature.constness.as_ref().map(Spanned::span))
        .or_else(|| signature.abi.as_ref().map(Spanned::span))
    {
        return Err(Error::new(odd, "a host function is a safe, ordinary function"));
    }
    const RECEIVER: &str = "a host function takes `&self`, because several guests call it at the same time";
    match signature.receiver() {
        None => Err(Error::new(signature.ident.span(), RECEIVER)),
        Some(receiver)
            if receiver.reference.is_none()
                || receiver.mutability.is_some()
                || receiver.colon_token.is_some() =>
        {
            Err(Error::new(receiver.span(), RECEIVER))
        }
        Some(_) => Ok(()),
    }
}

/// What is often written as the return type and can never be one, as of a [`value`].
fn results(ty: &Type) -> Result<()> {
    match ty {
        Type::Tuple(tuple) => tuple.elems.iter().try_for_each(value),
        Type::Path(path) => match path.path.segments.last() {
            Some(segment) if segment.ident == "Result" => {
                first_argument(&segment.arguments).map_or(Ok(()), results)
            }
            Some(segment) if segment.ident != "Vec" && segment.ident != "Option" => {
                match first_argument(&segment.arguments) {
                    // An alias of `Result` can have any name.
                    Some(tuple @ Type::Tuple(_)) => results(tuple),
                    _ => value(ty),
                }
            }
            _ => value(ty),
        },
        Type::Reference(_) => Err(Error::new(ty.span(), "a host function returns owned values")),
        Type::Paren(inner) => results(&inner.elem),
        _ => value(ty),
    }
}

fn first_argument(arguments: &PathArguments) -> Option<&Type> {
    let PathArguments::AngleBracketed(arguments) = arguments else { return None };
    arguments.args.iter().find_map(|argument| match argument {
        GenericArgument::Type(ty) => Some(ty),
        _ => None,
    })
}

/// What is often written and can never be the type of a value. Of everything else, the compiler knows whether it is one.
pub(crate) fn value(ty: &Type) -> Result<()> {
    let why = match ty {
        Type::Path(path) => {
            let Some(segment) = path.path.segments.last() else { return Ok(()) };
            match segment.ident.to_string().as_str() {
                "usize" | "isize" => "it has another size in the guest: use u32 or u64, i32 or i64",
                "u128" | "i128" => "no number has more than 64 bits: use a record of two",
                "char" => "use u32, or a string",
                "str" => "it has no size: use `&str` or `String`",
                "Option" => "there are no optional values: use a case of the error, or a flag",
                "Box" | "Arc" | "Rc" => "a pointer means nothing to a guest: use the value, or a `Handle`",
                "Result" => "only a function's own result can be one",
                "HashMap" | "BTreeMap" => "use a list of records",
                // A thing behind a handle can be anything that derives `HostType`.
                _ => return first_argument(&segment.arguments).map_or(Ok(()), value),
            }
        }
        Type::Paren(inner) => return value(&inner.elem),
        Type::Group(inner) => return value(&inner.elem),
        Type::Reference(_) => "a reference is possible around a parameter only",
        Type::Array(_) => "use a list or a record",
        Type::Tuple(_) => "use a record",
        Type::Slice(_) => "it has no size: use `&[T]` or `Vec<T>`",
        Type::Ptr(_) | Type::BareFn(_) => "a pointer means nothing to a guest: use a `Handle`",
        Type::ImplTrait(_) | Type::TraitObject(_) => "the type must be a certain one",
        _ => return Ok(()),
    };
    Err(Error::new(ty.span(), format!("this is no type of a host function: {why}")))
}
