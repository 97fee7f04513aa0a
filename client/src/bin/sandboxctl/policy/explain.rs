//! `sandboxctl policy explain`.

use std::fmt::Write;

use policies::{PathRule, Policy, Rule};
use serde_json::{Map, Value as Json, json};

use super::internal::Internal;
use super::{Known, find, print, print_json};
use crate::error::Error;

/// Explain what a policy means, rule by rule, with the reason of each.
#[derive(Debug, clap::Args)]
pub struct Options {
    #[command(flatten)]
    known: Known,
    /// Print a JSON object.
    #[arg(long)]
    json: bool,
    /// The policy: a name, or a file.
    #[arg(value_name = "POLICY")]
    policy: String,
}

pub fn explain(options: &Options) -> Result<u8, Error> {
    if let Some(internal) = Internal::named(&options.policy) {
        return explain_internal(internal, options.json);
    }
    let policy = find(&options.known.set()?, &options.policy)?;
    if options.json {
        print_json(&policy_json(&policy))?
    } else {
        print(&policy.explain())?
    }
    Ok(0)
}

fn explain_internal(internal: Internal, json: bool) -> Result<u8, Error> {
    let lists = internal.rules()?;
    if json {
        let lists: Vec<Json> = lists
            .iter()
            .map(|(title, rules)| json!({ "title": title, "rules": rules.iter().map(rule_json).collect::<Vec<_>>() }))
            .collect();
        let paths: Vec<Json> = internal.paths()?.iter().map(path_json).collect();
        print_json(&json!({
            "name": internal.name(), "description": internal.description(), "lists": lists, "paths": paths,
        }))?;
        return Ok(0);
    }
    let mut text = format!("{}\n  {}\n", internal.name(), internal.description());
    for (title, rules) in lists {
        // Writing to a string does not fail.
        let _ = writeln!(text, "\n{title}");
        for rule in rules {
            let _ = writeln!(text, "  {rule}\n      {} ({})", rule.why, rule.at);
        }
    }
    let paths = internal.paths()?;
    if !paths.is_empty() {
        text.push_str("\nfiles by name (Landlock)\n");
        for rule in paths {
            // Writing to a string does not fail.
            let _ = writeln!(text, "  {rule}\n      {} ({})", rule.why, rule.at);
        }
    }
    print(&text)?;
    Ok(0)
}

/// A rule for programs.
pub fn rule_json(rule: &Rule) -> Json {
    json!({
        "syscall": rule.syscall.name(),
        "when": rule.when.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "why": rule.why,
        "file": &*rule.at.file,
        "line": rule.at.line,
    })
}

fn path_json(rule: &PathRule) -> Json {
    json!({
        "place": rule.place.name(),
        "access": rule.access_names().collect::<Vec<_>>(),
        "why": rule.why,
        "file": &*rule.at.file,
        "line": rule.at.line,
    })
}

fn policy_json(policy: &Policy) -> Json {
    let mut settings: Map<String, Json> = Map::new();
    for setting in policy.settings() {
        let section = settings.entry(setting.section).or_insert_with(|| json!({}));
        if let Some(section) = section.as_object_mut() {
            // As a policy file writes it.
            section.insert(setting.key.to_owned(), json!(setting.value));
        }
    }
    let dangers: Vec<Json> = policy
        .dangers()
        .iter()
        .map(|danger| {
            let widened: Vec<Json> = danger
                .widened
                .iter()
                .map(|w| json!({ "key": w.key, "value": w.value, "instead_of": w.was }))
                .collect();
            json!({ "policy": &*danger.policy, "reason": danger.reason, "widened": widened })
        })
        .collect();
    json!({
        "name": policy.name(),
        "extends": policy.extends(),
        "description": policy.description(),
        "dangers": dangers,
        "settings": settings,
        "rules": policy.seccomp().allow.iter().map(rule_json).collect::<Vec<_>>(),
    })
}
