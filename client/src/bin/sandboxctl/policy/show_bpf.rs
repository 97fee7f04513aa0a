//! `sandboxctl policy show-bpf`.

use policies::{FilterContext, disassemble};
use serde_json::{Value as Json, json};

use super::internal::Internal;
use super::{Known, find, print, print_json};
use crate::error::Error;

/// Show the seccomp program of a policy, instruction by instruction.
#[derive(Debug, clap::Args)]
pub struct Options {
    #[command(flatten)]
    known: Known,
    /// How many memories the module has.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(0..=64))]
    memories: u32,
    /// Print a JSON array.
    #[arg(long)]
    json: bool,
    /// The policy: a name, or a file. `zygote` is the base filter, `compile` that of compile workers.
    #[arg(value_name = "POLICY")]
    policy: String,
}

pub fn show_bpf(options: &Options) -> Result<u8, Error> {
    let program = match Internal::named(&options.policy) {
        Some(internal) => internal.program()?,
        None => {
            let policy = find(&options.known.set()?, &options.policy)?;
            policy.instance_filter(&FilterContext { memories: options.memories })?
        }
    };
    if options.json {
        let all: Json =
            program.iter().map(|i| json!({ "code": i.code, "jt": i.jt, "jf": i.jf, "k": i.k })).collect();
        print_json(&all)?;
    } else {
        print(&format!("{}\n", disassemble(&program).join("\n")))?;
    }
    Ok(0)
}
