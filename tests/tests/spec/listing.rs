//! The list of directives that are not run, with reasons.
//!
//! One line each, `SUITE/FILE LINES REASON`: `LINES` are the lines where directives begin, separated by commas; `A-B` stands for
//! all directives from the one on line A to the one on line B. Lines that begin with `#` are for people.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::path::PathBuf;

use crate::directives::{Count, Verdict};

pub struct Listing {
    /// File → ranges of lines with their reasons.
    listed: HashMap<String, Vec<(usize, usize)>>,
    comments: String,
    /// What the list should say.
    found: String,
    problems: Vec<String>,
    /// Directives that are not run, by reason.
    reasons: BTreeMap<String, usize>,
}

fn path() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/spec/not-run.txt")
}

impl Listing {
    pub fn read() -> Self {
        let text = include_str!("not-run.txt");
        let mut listing = Listing {
            listed: HashMap::new(),
            comments: String::new(),
            found: String::new(),
            problems: Vec::new(),
            reasons: BTreeMap::new(),
        };
        for line in text.lines() {
            if line.starts_with('#') || line.is_empty() {
                listing.comments.push_str(line);
                listing.comments.push('\n');
                continue;
            }
            let mut words = line.splitn(3, ' ');
            let (Some(file), Some(lines), Some(_)) = (words.next(), words.next(), words.next()) else {
                panic!("not-run.txt: `{line}` is not `FILE LINES REASON`");
            };
            let ranges = lines.split(',').map(|range| {
                let (first, last) = range.split_once('-').unwrap_or((range, range));
                let number = |text: &str| text.parse().unwrap_or_else(|_| panic!("not-run.txt: `{line}`"));
                (number(first), number(last))
            });
            listing.listed.entry(file.to_owned()).or_default().extend(ranges);
        }
        listing
    }

    /// Compares what became of a file's directives with the list.
    pub fn compare(&mut self, file: &str, verdicts: &[(usize, Verdict)]) -> Count {
        let empty = Vec::new();
        let listed = self.listed.get(file).unwrap_or(&empty);
        let mut count = Count::default();
        // Runs of directives that are not run for the same reason.
        let mut runs: Vec<(&str, Vec<(usize, usize)>)> = Vec::new();
        let mut before: Option<&str> = None;
        for (line, verdict) in verdicts {
            let is_listed = listed.iter().any(|(first, last)| (*first..=*last).contains(line));
            count.run += 1;
            let mut reason = None;
            match verdict {
                Verdict::Passed => {
                    count.passed += 1;
                    if is_listed {
                        self.problems.push(format!("{file}:{line}: passes, but is listed as not run"));
                    }
                }
                Verdict::NotRun(why) => {
                    count.run -= 1;
                    count.listed += 1;
                    *self.reasons.entry(why.clone()).or_default() += 1;
                    reason = Some(why.as_str());
                    if !is_listed {
                        self.problems.push(format!("{file}:{line}: not run, and not listed: {why}"));
                    }
                }
                Verdict::Failed(why) => self.problems.push(format!("{file}:{line}: {why}")),
            }
            if let Some(reason) = reason {
                let ranges = match runs.iter_mut().find(|(other, _)| *other == reason) {
                    Some((_, ranges)) => ranges,
                    None => {
                        runs.push((reason, Vec::new()));
                        &mut runs.last_mut().expect("just pushed").1
                    }
                };
                match ranges.last_mut() {
                    Some(last) if before == Some(reason) => last.1 = *line,
                    _ => ranges.push((*line, *line)),
                }
            }
            before = reason;
        }
        for (reason, ranges) in runs {
            let text: Vec<String> = ranges
                .iter()
                .map(
                    |(first, last)| if first == last { first.to_string() } else { format!("{first}-{last}") },
                )
                .collect();
            let _ = writeln!(self.found, "{file} {} {reason}", text.join(","));
        }
        count
    }

    /// Fails on any difference, or writes the list anew where that was asked for.
    #[track_caller]
    pub fn finish(self) {
        for (reason, count) in &self.reasons {
            println!("{count:>6} {reason}");
        }
        if std::env::var_os("SPEC_NOT_RUN").is_some_and(|value| value == "write") {
            std::fs::write(path(), self.comments + &self.found).expect("write not-run.txt");
            let failed: Vec<&String> = self.problems.iter().filter(|p| !p.contains("listed")).collect();
            assert!(failed.is_empty(), "{} failures:\n{failed:#?}", failed.len());
            return;
        }
        assert!(self.problems.is_empty(), "{} problems:\n{}", self.problems.len(), self.problems.join("\n"));
    }
}
