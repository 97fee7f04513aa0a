//! The zygotes' own allow-lists, from profiles/zygote.toml: what may be called through the call gate, and the
//! base filter under which the root zygote puts itself and everything that it forks.

use std::sync::{Arc, OnceLock};

use crate::document::{self, Source, Table};
use crate::error::Error;
use crate::filter::{self, DefaultAction};
use crate::rule::{self, Rule};

/// The two lists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ZygoteRules {
    /// Calls through the gate.
    pub gate: Vec<Rule>,
    /// Calls of any process below the root zygote, instances included.
    pub base: Vec<Rule>,
}

/// The zygotes' lists.
pub fn zygote_rules() -> Result<&'static ZygoteRules, Error> {
    static RULES: OnceLock<Result<ZygoteRules, Error>> = OnceLock::new();
    RULES.get_or_init(parse).as_ref().map_err(Clone::clone)
}

fn parse() -> Result<ZygoteRules, Error> {
    let source = Source::policy(include_str!("../profiles/zygote.toml"), Arc::from("zygote"));
    let document = document::parse(&source)?;
    let root = Table::root(&source, &document);
    root.only(&["version", "gate", "base"])?;
    let list = |key: &'static str| {
        let mut rules = Vec::new();
        if let Some(section) = root.section(key)? {
            section.only(&["allow"])?;
            rule::rules(&section.need("allow", "it lists the rules")?, &mut rules, |_, _| Ok(()))?;
        }
        Ok(rules)
    };
    Ok(ZygoteRules { gate: list("gate")?, base: list("base")? })
}

/// The base filter. What it refuses it traps rather than kills: the strongest action of all filters wins, and
/// only a trap lets an instance's signal handler record which call it was. Without a handler a trap kills too.
pub(crate) fn base_filter() -> Result<Vec<libc::sock_filter>, Error> {
    filter::plain("zygote", &zygote_rules()?.base, DefaultAction::Trap)
}
