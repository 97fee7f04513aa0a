//! Enums, flags, records, errors and handles.

use proc_macro2::TokenStream;
use quote::{ToTokens, quote, quote_spanned};
use syn::spanned::Spanned;
use syn::{Data, DeriveInput, Error, Field, Fields, FieldsNamed, Ident, LitStr, Result, Type, Variant};

use crate::functions::value;
use crate::options::{Options, check, check_name, documentation};

pub(crate) fn expand(item: TokenStream) -> Result<TokenStream> {
    let mut item: DeriveInput = syn::parse2(item)?;
    let options = Options::take(&mut item.attrs, &["name", "error", "flags", "handle"])?;
    let kind = match options.words() {
        [] => None,
        [kind] => Some(kind),
        [_, second, ..] => return Err(Error::new(second.span(), "a type is one of these, not two")),
    };
    if let Some(parameter) = item.generics.params.first() {
        return Err(Error::new(
            parameter.span(),
            "a type of an interface cannot be generic: guests have one form of it",
        ));
    }
    let named =
        NamedType { name: options.name_of(&item.ident), doc: documentation(&item.attrs), ident: item.ident };
    let is = |word: &str| kind.is_some_and(|kind| kind == word);
    let generated = match item.data {
        _ if is("handle") => named.handle(),
        Data::Enum(data) if is("error") => named.error(&cases(data.variants)?),
        Data::Enum(data) if kind.is_none() => named.enumeration(&cases(data.variants)?),
        Data::Struct(data) => match data.fields {
            Fields::Named(fields) if is("flags") => named.flags(&flags(fields)?),
            Fields::Named(fields) if kind.is_none() => named.record(&members(fields)?),
            fields => return Err(named.no_such(kind, &fields, "a struct with named fields")),
        },
        Data::Enum(_) => return Err(named.no_such(kind, &kind, "an enum")),
        Data::Union(data) => return Err(named.no_such(kind, &data.union_token, "a union")),
    };
    let checks = check_name("a type", &named.name);
    Ok(quote!(#generated #checks))
}

struct NamedType {
    ident: Ident,
    name: LitStr,
    doc: String,
}

/// A case, a flag or a field.
struct Member {
    ident: Ident,
    name: LitStr,
    doc: String,
    /// Of a field.
    ty: Option<Type>,
}

impl Member {
    fn new(ident: &Ident, mut attributes: Vec<syn::Attribute>, ty: Option<Type>) -> Result<Self> {
        let options = Options::take(&mut attributes, &["name"])?;
        let (name, doc) = (options.name_of(ident), documentation(&attributes));
        Ok(Self { ident: ident.clone(), name, doc, ty })
    }
}

fn cases(variants: impl IntoIterator<Item = Variant>) -> Result<Vec<Member>> {
    let case = |variant: Variant| {
        if !matches!(variant.fields, Fields::Unit) {
            return Err(Error::new(
                variant.fields.span(),
                "a case has no fields: a guest gets its number and nothing else",
            ));
        }
        if let Some((_, number)) = &variant.discriminant {
            return Err(Error::new(
                number.span(),
                "cases are numbered in their order, and have no numbers of their own",
            ));
        }
        Member::new(&variant.ident, variant.attrs, None)
    };
    variants.into_iter().map(case).collect()
}

fn members(fields: FieldsNamed) -> Result<Vec<Member>> {
    let member = |field: Field| {
        let ident = field.ident.as_ref().ok_or_else(|| Error::new(field.span(), "a field has a name"))?;
        value(&field.ty)?;
        Member::new(ident, field.attrs, Some(field.ty))
    };
    fields.named.into_iter().map(member).collect()
}

fn flags(fields: FieldsNamed) -> Result<Vec<Member>> {
    let flags = members(fields)?;
    for ty in flags.iter().filter_map(|flag| flag.ty.as_ref()) {
        if !matches!(ty, Type::Path(path) if path.path.is_ident("bool")) {
            return Err(Error::new(ty.span(), "a flag is a `bool`"));
        }
    }
    Ok(flags)
}

fn named(members: &[Member]) -> impl Iterator<Item = TokenStream> {
    members.iter().map(|Member { name, doc, .. }| quote!((#name, #doc)))
}

fn checks(what: &str, most: &str, members: &[Member]) -> TokenStream {
    let mut checks = TokenStream::new();
    for member in members {
        checks.extend(check_name(what, &member.name));
    }
    let most = Ident::new(most, proc_macro2::Span::mixed_site());
    let count = members.len();
    if let Some(last) = members.last() {
        let fits = quote!(#count <= ::supervisor::interface::limits::#most);
        checks.extend(check(
            last.ident.span(),
            fits,
            "an interface cannot have as many of these in one type",
        ));
    }
    checks
}

impl NamedType {
    fn no_such(&self, kind: Option<&Ident>, at: &impl ToTokens, what: &str) -> Error {
        let message = match kind {
            Some(kind) if kind == "error" => "an error is an enum without fields".to_owned(),
            Some(kind) if kind == "flags" => "flags are a struct with named fields, each a `bool`".to_owned(),
            _ if what == "a union" => "a union is no type of an interface".to_owned(),
            _ => "a record is a struct with named fields; `#[host(handle)]` makes any type a thing behind handles"
                .to_owned(),
        };
        match kind {
            Some(kind) => Error::new(kind.span(), message),
            None if at.to_token_stream().is_empty() => Error::new(self.ident.span(), message),
            None => Error::new(at.span(), message),
        }
    }

    /// A type of values, by how it is declared and converted.
    fn value(&self, kind: TokenStream, from: TokenStream, into: TokenStream) -> TokenStream {
        let Self { ident, name, doc } = self;
        quote! {
            impl ::supervisor::typed::HostType for #ident {
                fn declare(declaration: &mut ::supervisor::typed::Declaration) -> ::supervisor::interface::Type {
                    declaration.named::<Self>(#name, #doc, |declaration| #kind)
                }

                fn from_value(
                    value: ::supervisor::interface::Value,
                    context: &::supervisor::CallContext,
                ) -> ::core::result::Result<Self, ::supervisor::HostError> {
                    #from
                }

                fn into_value(
                    self,
                    context: &::supervisor::CallContext,
                ) -> ::core::result::Result<::supervisor::interface::Value, ::supervisor::HostError> {
                    #into
                }
            }

            impl ::supervisor::typed::Element for #ident {}
        }
    }

    fn enumeration(&self, cases: &[Member]) -> TokenStream {
        let Self { ident, name, .. } = self;
        let all = named(cases);
        let (numbers, idents): (Vec<u32>, Vec<_>) = (0..).zip(cases.iter().map(|case| &case.ident)).unzip();
        let value = self.value(
            quote!({ let _ = declaration; ::supervisor::typed::enumeration(&[#(#all),*]) }),
            quote! {
                let _ = context;
                match value {
                    #(::supervisor::interface::Value::Enum(#numbers) => ::core::result::Result::Ok(Self::#idents),)*
                    other => ::core::result::Result::Err(::supervisor::typed::mismatch(&other, #name)),
                }
            },
            quote! {
                let _ = context;
                ::core::result::Result::Ok(::supervisor::interface::Value::Enum(match self {
                    #(Self::#idents => #numbers,)*
                }))
            },
        );
        let checks = checks("a case", "CASES", cases);
        quote! {
            #value
            impl ::supervisor::typed::FixedSize for #ident {}
            #checks
        }
    }

    fn flags(&self, flags: &[Member]) -> TokenStream {
        let Self { ident, name, .. } = self;
        let all = named(flags);
        let idents: Vec<_> = flags.iter().map(|flag| &flag.ident).collect();
        // What has more than 64 of them does not compile, see the checks.
        let bits: Vec<u64> = (0..flags.len()).map(|bit| 1u64.checked_shl(bit as u32).unwrap_or(0)).collect();
        let value = self.value(
            quote!({ let _ = declaration; ::supervisor::typed::flags(&[#(#all),*]) }),
            quote! {
                let _ = context;
                match value {
                    ::supervisor::interface::Value::Flags(bits) if bits & !(0 #(| #bits)*) == 0 => {
                        ::core::result::Result::Ok(Self { #(#idents: bits & #bits != 0),* })
                    }
                    other => ::core::result::Result::Err(::supervisor::typed::mismatch(&other, #name)),
                }
            },
            quote! {
                let _ = context;
                let bits = 0 #(| if self.#idents { #bits } else { 0 })*;
                ::core::result::Result::Ok(::supervisor::interface::Value::Flags(bits))
            },
        );
        let checks = checks("a flag", "FLAGS", flags);
        quote! {
            #value
            impl ::supervisor::typed::FixedSize for #ident {}
            #checks
        }
    }

    fn record(&self, fields: &[Member]) -> TokenStream {
        let Self { name: record, .. } = self;
        let types: Vec<_> = fields.iter().filter_map(|field| field.ty.as_ref()).collect();
        let idents: Vec<_> = fields.iter().map(|field| &field.ident).collect();
        let names: Vec<_> = fields.iter().map(|field| &field.name).collect();
        let docs = fields.iter().map(|field| &field.doc);
        let value = self.value(
            quote! {{
                let fields = [#((#names, #docs, <#types as ::supervisor::typed::HostType>::declare(declaration))),*];
                ::supervisor::typed::record(&fields)
            }},
            quote! {
                let mut fields = ::supervisor::typed::Fields::new(value, #record)?;
                ::core::result::Result::Ok(Self { #(#idents: fields.next(#names, context)?),* })
            },
            quote! {
                ::core::result::Result::Ok(::supervisor::interface::Value::Record(::std::vec![
                    #(::supervisor::typed::HostType::into_value(self.#idents, context)?),*
                ]))
            },
        );
        let mut checks = checks("a field", "FIELDS", fields);
        for ty in types {
            checks.extend(
                quote_spanned!(ty.span()=> const _: fn() = ::supervisor::typed::is_fixed_size::<#ty>;),
            );
        }
        quote!(#value #checks)
    }

    fn error(&self, cases: &[Member]) -> TokenStream {
        let Self { ident, name, doc } = self;
        let all = named(cases);
        let names = cases.iter().map(|case| &case.name);
        // 0 is success.
        let (numbers, idents): (Vec<u32>, Vec<_>) = (1..).zip(cases.iter().map(|case| &case.ident)).unzip();
        let checks = checks("a case", "CASES", cases);
        let count = cases.len();
        quote! {
            // No case is dead code: it is the supervisor that answers with the one of `overflow`.
            const _: fn() -> [#ident; #count] = || [#(#ident::#idents),*];

            impl ::supervisor::typed::ErrorType for #ident {
                const CASES: &'static [&'static str] = &[#(#names),*];

                fn declare(declaration: &mut ::supervisor::typed::Declaration) -> ::std::string::String {
                    declaration.error::<Self>(#name, #doc, &[#(#all),*])
                }

                fn number(self) -> u32 {
                    match self { #(Self::#idents => #numbers),* }
                }
            }
            #checks
        }
    }

    fn handle(&self) -> TokenStream {
        let Self { ident, name, doc } = self;
        quote! {
            impl ::supervisor::typed::HandleType for #ident {
                const NAME: &'static str = #name;
                const DOC: &'static str = #doc;
            }
        }
    }
}
