//! `sandboxctl policy test`: what the kernel would do about a system call, and why; whether a module may import a function.

use std::fmt::Write;

use policies::{AUDIT_ARCH_X86_64, Answer, DecidedBy, FilterContext, Question, Value, Via, parse_syscall};
use serde_json::{Value as Json, json};

use super::explain::rule_json;
use super::internal::Internal;
use super::{Known, find, print, print_json};
use crate::error::Error;

/// Exit status for a call that is refused.
const REFUSED: u8 = 1;
/// `AUDIT_ARCH_I386`, linux/audit.h.
const AUDIT_ARCH_I386: u32 = 3 | 0x4000_0000;
/// Bit of the number in the x32 ABI.
const X32_BIT: u32 = 0x4000_0000;

/// Tell what the kernel would do about a system call of an instance, and which rule decides: the compiled filters are run.
/// Or, with --import, whether a module may import a function of the host app. Exit status: 0 if it is allowed, 1 if it is refused.
#[derive(Debug, clap::Args)]
pub struct Options {
    #[command(flatten)]
    known: Known,
    /// The policy: a name, or a file.
    #[arg(long, value_name = "POLICY", default_value = "default")]
    policy: String,
    /// Ask about a function that the host app provides instead.
    #[arg(long, value_name = "INTERFACE.FUNCTION", conflicts_with_all = ["gate", "memories", "arch", "syscall"])]
    import: Option<String>,
    /// The call comes from the call gate: from a fork server, or an instance that is still being set up.
    #[arg(long)]
    gate: bool,
    /// How many memories the module has.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(0..=64))]
    memories: u32,
    /// The call's architecture.
    #[arg(long, value_name = "ARCH", default_value = "x86-64", value_parser = ["x86-64", "x32", "i386"])]
    arch: String,
    /// Print a JSON object.
    #[arg(long)]
    json: bool,
    /// The system call, by name or number.
    #[arg(value_name = "SYSCALL", required_unless_present = "import", default_value = "")]
    syscall: String,
    /// Its arguments: numbers, sizes, or the constants that conditions have. Those that are left out are 0.
    #[arg(value_name = "ARGS", num_args = 0..=6, allow_hyphen_values = true)]
    args: Vec<String>,
}

pub fn test(options: &Options) -> Result<u8, Error> {
    if let Some(import) = &options.import {
        return test_import(options, import);
    }
    let context = FilterContext { memories: options.memories };
    let mut args = [0; 6];
    for (index, text) in options.args.iter().enumerate() {
        let value =
            argument(text, &context).map_err(|problem| Error::Argument { text: text.clone(), problem })?;
        if let Some(slot) = args.get_mut(index) {
            *slot = value;
        }
    }
    let number = parse_syscall(&options.syscall)?;
    let (number, arch) = match &*options.arch {
        "x32" => (number | X32_BIT, AUDIT_ARCH_X86_64),
        "i386" => (number, AUDIT_ARCH_I386),
        _ => (number, AUDIT_ARCH_X86_64),
    };
    let via = if options.gate { Via::Gate } else { Via::Instance };
    let question = Question { via, number, arch, args, context };
    let answer = match Internal::named(&options.policy) {
        Some(internal) => internal.answer(&question)?,
        None => find(&options.known.set()?, &options.policy)?.answer(&question)?,
    };
    if options.json {
        print_json(&answer_json(options, &question, &answer))?;
    } else {
        print(&told(options, &question, &answer))?;
    }
    Ok(if answer.is_allowed() { 0 } else { REFUSED })
}

/// Whether a module may import the function.
fn test_import(options: &Options, import: &str) -> Result<u8, Error> {
    let Some((interface, function)) = import.rsplit_once('.') else {
        let problem = "it is not interface.function".to_owned();
        return Err(Error::Argument { text: import.to_owned(), problem });
    };
    let policy = find(&options.known.set()?, &options.policy)?;
    let imports = policy.imports();
    let granted_by = imports.granted_by(interface, function);
    let status = if granted_by.is_some() { 0 } else { REFUSED };
    if options.json {
        print_json(&json!({
            "policy": options.policy,
            "import": import,
            "allowed": granted_by.is_some(),
            "granted_by": granted_by,
            "nearest": if granted_by.is_none() { imports.nearest(import) } else { None },
        }))?;
        return Ok(status);
    }
    let (may, why) = match (granted_by, imports.nearest(import)) {
        (Some(element), _) => ("may", format!("by {element} in host_calls.imports")),
        (None, Some(nearest)) => ("may not", format!("host_calls.imports has {nearest:?}")),
        (None, None) => ("may not", "host_calls.imports does not list it".to_owned()),
    };
    print(&format!("{import} under {}: a module {may} import it\n  {why}\n", options.policy))?;
    Ok(status)
}

/// An argument; a negative number is the one with the same 64 bits.
fn argument(text: &str, context: &FilterContext) -> Result<u64, String> {
    match text.parse::<i64>() {
        Ok(number) if number < 0 => Ok(number as u64),
        _ => Ok(Value::parse(text)?.resolve(context)),
    }
}

fn told(options: &Options, question: &Question, answer: &Answer) -> String {
    let mut text = format!("{} under {}: {}\n", options.syscall, options.policy, answer.action_text());
    // Writing to a string does not fail.
    let _ = match &answer.decided_by {
        DecidedBy::Rule(rule) => writeln!(text, "  rule {}: {rule}\n  why: {}", rule.at, rule.why),
        DecidedBy::NoRule => writeln!(text, "  no rule allows this call with any arguments"),
        DecidedBy::Architecture => writeln!(text, "  it is not a call of x86-64"),
        DecidedBy::BaseFilter => {
            writeln!(
                text,
                "  the base filter that every instance inherits refuses it (see `policy explain zygote`)"
            )
        }
        DecidedBy::NoRuleMet(rules) => rules.iter().try_for_each(|rule| {
            writeln!(text, "  rule {}: {rule}", rule.at)?;
            rule.unmet(&question.args, &question.context).iter().try_for_each(|condition| {
                let value = question.args.get(usize::from(condition.argument)).copied().unwrap_or(0);
                let wanted = condition.value.resolve(&question.context);
                writeln!(text, "    not met: {condition} (it is {value:#x}; the value is {wanted:#x})")
            })
        }),
    };
    text
}

fn answer_json(options: &Options, question: &Question, answer: &Answer) -> Json {
    let (by, rule, near) = match &answer.decided_by {
        DecidedBy::Rule(rule) => ("rule", Some(rule_json(rule)), vec![]),
        DecidedBy::NoRule => ("no-rule", None, vec![]),
        DecidedBy::Architecture => ("architecture", None, vec![]),
        DecidedBy::BaseFilter => ("base-filter", None, vec![]),
        DecidedBy::NoRuleMet(rules) => ("no-rule-met", None, rules.iter().map(rule_json).collect()),
    };
    json!({
        "policy": options.policy,
        "syscall": options.syscall,
        "number": question.number,
        "args": question.args.map(|arg| format!("{arg:#x}")),
        "allowed": answer.is_allowed(),
        "action": answer.action,
        "effect": answer.action_text(),
        "decided_by": by,
        "rule": rule,
        "rules_not_met": near,
    })
}
