//! The tables of docs/policy.md, from what the parser reads. A test compares; `UPDATE_REFERENCE=1 cargo test -p
//! sandboxd-policies reference` writes them.

use std::fmt::Write;

use crate::condition::constants;
use crate::error::Error;
use crate::keys::{self, Key};
use crate::policy::Policy;

/// The tables there are: `policy` for the keys before the first section, `rule`, `constants`, `calls`, and one for each section.
#[cfg(test)]
pub(crate) fn tables() -> Vec<&'static str> {
    let mut names = vec!["policy", "rule", "constants", "calls"];
    names.extend(keys::SECTIONS.iter().map(|section| section.name));
    names
}

/// One table of the reference, in Markdown: `None` for a name that there is not.
pub fn section(name: &str) -> Result<Option<String>, Error> {
    let mut out = String::new();
    let default = Policy::builtin("default")?;
    // Writing to a string does not fail.
    let _ = match name {
        "policy" => plain(&mut out, keys::TOP),
        "rule" => plain(&mut out, keys::RULE),
        "constants" => write_constants(&mut out),
        "calls" => write_calls(&mut out, &default),
        _ => match keys::SECTIONS.iter().find(|section| section.name == name) {
            None => return Ok(None),
            Some(section) => with_defaults(&mut out, section.name, section.keys, &default),
        },
    };
    Ok(Some(out))
}

fn plain(out: &mut String, keys: &[Key]) -> std::fmt::Result {
    writeln!(out, "| key | value | meaning |\n| --- | --- | --- |")?;
    for Key { name, takes, meaning } in keys {
        writeln!(out, "| `{name}` | {takes} | {meaning} |")?;
    }
    Ok(())
}

fn with_defaults(out: &mut String, section: &str, keys: &[Key], default: &Policy) -> std::fmt::Result {
    writeln!(out, "| key | value | in `default` | meaning |\n| --- | --- | --- | --- |")?;
    let settings = default.settings();
    for Key { name, takes, meaning } in keys {
        let setting = settings.iter().find(|setting| setting.section == section && setting.key == *name);
        // A list is told in words where it is long, and rules have a table of their own.
        let value = match setting {
            Some(setting) if setting.value.starts_with('[') && setting.value != "[]" => {
                "see below".to_owned()
            }
            Some(setting) => format!("`{}`", setting.value),
            None if (section, *name) == ("seccomp", "allow") => "see below".to_owned(),
            None => String::new(),
        };
        writeln!(out, "| `{name}` | {takes} | {value} | {meaning} |")?;
    }
    Ok(())
}

fn write_constants(out: &mut String) -> std::fmt::Result {
    writeln!(out, "| constant | value |\n| --- | --- |")?;
    for (name, text) in constants() {
        writeln!(out, "| `{name}` | {text} |")?;
    }
    Ok(())
}

fn write_calls(out: &mut String, policy: &Policy) -> std::fmt::Result {
    writeln!(out, "| call | with | why |\n| --- | --- | --- |")?;
    for rule in &policy.seccomp().allow {
        let when: Vec<String> = rule.when.iter().map(|condition| format!("`{condition}`")).collect();
        writeln!(
            out,
            "| `{}` | {} | {} |",
            rule.syscall.name(),
            when.join(", ").replace('|', "\\|"),
            rule.why
        )?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reference_is_what_the_parser_reads() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/policy.md");
        let written = std::fs::read_to_string(path).unwrap();
        let mut text = written.clone();
        for name in tables() {
            let (begin, end) = (format!("<!-- table {name} -->\n"), "<!-- end -->");
            let at =
                text.find(&begin).unwrap_or_else(|| panic!("docs/policy.md lacks {begin}")) + begin.len();
            let length = text[at..].find(end).unwrap_or_else(|| panic!("table {name} has no end"));
            text.replace_range(at..at + length, &section(name).unwrap().unwrap());
        }
        if std::env::var_os("UPDATE_REFERENCE").is_some() {
            std::fs::write(path, &text).unwrap();
        } else {
            assert!(
                text == written,
                "docs/policy.md is not what the parser reads; run this with UPDATE_REFERENCE=1"
            );
        }
        for (_, name) in ipc::control::layer::ALL {
            assert!(written.contains(&format!("`{name}`")), "{name}");
        }
        for name in Policy::names() {
            assert!(written.contains(&format!("| `{name}` |")), "{name}");
        }
    }
}
