//! `sandboxctl policy diff`.

use std::fmt::Write;

use policies::{Difference, Direction};
use serde_json::{Value as Json, json};

use super::{Known, find, print, print_json};
use crate::error::Error;

/// Exit status for policies that differ.
const DIFFERENT: u8 = 1;

/// Tell what the second policy does otherwise than the first. Exit status: 0 if nothing, 1 if something.
#[derive(Debug, clap::Args)]
pub struct Options {
    #[command(flatten)]
    known: Known,
    /// Print a JSON array.
    #[arg(long)]
    json: bool,
    /// The first policy: a name, or a file.
    #[arg(value_name = "A")]
    first: String,
    /// The second policy.
    #[arg(value_name = "B")]
    second: String,
}

pub fn diff(options: &Options) -> Result<u8, Error> {
    let known = options.known.set()?;
    let (first, second) = (find(&known, &options.first)?, find(&known, &options.second)?);
    let differences = first.differences(&second)?;
    if options.json {
        let all: Json = differences
            .iter()
            .map(|d| json!({ "key": d.key, "from": d.from, "to": d.to, "direction": direction(d) }))
            .collect();
        print_json(&all)?;
    } else {
        let mut text = String::new();
        for difference in &differences {
            // Writing to a string does not fail.
            let _ = match (&difference.from, &difference.to) {
                (Some(from), Some(to)) => {
                    writeln!(text, "{}: {from} -> {to} ({})", difference.key, direction(difference))
                }
                (Some(from), None) => {
                    writeln!(text, "{}: - {from} ({})", difference.key, direction(difference))
                }
                (_, to) => {
                    let to = to.as_deref().unwrap_or_default();
                    writeln!(text, "{}: + {to} ({})", difference.key, direction(difference))
                }
            };
        }
        print(&text)?;
    }
    Ok(if differences.is_empty() { 0 } else { DIFFERENT })
}

fn direction(difference: &Difference) -> &'static str {
    match difference.direction {
        Direction::Narrower => "narrower",
        Direction::Wider => "wider",
    }
}
