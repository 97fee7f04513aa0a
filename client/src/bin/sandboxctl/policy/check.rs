//! `sandboxctl policy check`.

use policies::{FilterContext, Policy};
use serde_json::json;

use super::{Known, error_json, find, print, print_json, show};
use crate::error::Error;

/// Exit status for a policy with a mistake.
const MISTAKE: u8 = 1;

/// Check policies: that they parse, narrow what they extend, and compile. Exit status: 0 if all do, 1 if one does not.
#[derive(Debug, clap::Args)]
pub struct Options {
    #[command(flatten)]
    known: Known,
    /// Print a JSON array of mistakes.
    #[arg(long)]
    json: bool,
    /// Policies: names, or files (their names contain '/' or end in .toml). Without any, all of --policy-dir.
    #[arg(value_name = "POLICY", required_unless_present = "policy_dir")]
    policies: Vec<String>,
}

pub fn check(options: &Options) -> Result<u8, Error> {
    let (mut errors, mut text) = (Vec::new(), String::new());
    let known = match options.known.set() {
        Ok(known) => Some(known),
        Err(Error::Policies(all)) => {
            errors.extend(all);
            None
        }
        Err(error) => return Err(error),
    };
    if let Some(known) = &known {
        let mut checked = Vec::new();
        for name in &options.policies {
            match find(known, name) {
                Ok(policy) => checked.push(policy),
                Err(Error::Policy(error)) => errors.push(error),
                Err(error) => return Err(error),
            }
        }
        if options.policies.is_empty() {
            checked.extend(known.iter().map(|policy| Policy::clone(policy)));
        }
        for policy in checked {
            match policy.instance_filter(&FilterContext::default()) {
                Ok(program) => text.push_str(&said(&policy, program.len())),
                Err(error) => errors.push(error),
            }
        }
    }
    if options.json {
        print_json(
            &json!({ "ok": errors.is_empty(), "errors": errors.iter().map(error_json).collect::<Vec<_>>() }),
        )?;
    } else {
        print(&text)?;
        show(&errors);
    }
    Ok(if errors.is_empty() { 0 } else { MISTAKE })
}

/// What is to be said about a policy without a mistake.
fn said(policy: &Policy, instructions: usize) -> String {
    let calls = policy.seccomp().allow.len();
    let mut text = format!("{}: ok ({calls} rules, {instructions} instructions)\n", policy.name());
    for danger in policy.dangers() {
        let what = match danger.widened.len() {
            0 => "but widens nothing: remove allow_dangerous and dangerous_reason".to_owned(),
            n => format!("and does in {n} places, see `policy explain`"),
        };
        text.push_str(&format!("{}: {} may widen what it extends, {what}\n", policy.name(), danger.policy));
    }
    text
}
