//! The lists that are no job's policy: they can be looked at.

use policies::{
    Answer, PathRule, Question, Rule, Via, compile_filter, compile_rules, supervisor_filter,
    supervisor_rules, zygote_base_filter, zygote_rules,
};

use crate::error::Error;

/// A list that is part of this program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Internal {
    /// The fork servers' own.
    Zygote,
    /// That of the compile workers.
    Compile,
    /// The daemon's own.
    Supervisor,
}

impl Internal {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Zygote, Self::Compile, Self::Supervisor];

    /// By its name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|internal| internal.name() == name)
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Zygote => "zygote",
            Self::Compile => "compile",
            Self::Supervisor => "supervisor",
        }
    }

    /// What it is for.
    pub fn description(self) -> &'static str {
        match self {
            Self::Zygote => {
                "What the fork servers may call: through the call gate, and at all. Not for jobs."
            }
            Self::Compile => "What compile workers and their fork server may call. Not for jobs.",
            Self::Supervisor => {
                "What the daemon keeps for itself once it serves: calls, and names of files. Not for jobs."
            }
        }
    }

    /// Its lists of rules, with their headings.
    pub fn rules(self) -> Result<Vec<(&'static str, &'static [Rule])>, Error> {
        Ok(match self {
            Self::Zygote => {
                let rules = zygote_rules()?;
                vec![
                    ("calls through the call gate", &rules.gate),
                    ("calls of every process below the root zygote (base filter)", &rules.base),
                ]
            }
            Self::Compile => {
                let rules = compile_rules()?;
                vec![("calls that are allowed", &rules.allow), ("calls that fail with ENOSYS", &rules.absent)]
            }
            Self::Supervisor => {
                let rules = supervisor_rules()?;
                vec![
                    ("calls that are allowed; every other fails with EPERM", &rules.allow),
                    ("calls that fail with ENOSYS", &rules.absent),
                ]
            }
        })
    }

    /// Its rules for names of files.
    pub fn paths(self) -> Result<&'static [PathRule], Error> {
        Ok(match self {
            Self::Zygote | Self::Compile => &[],
            Self::Supervisor => &supervisor_rules()?.paths,
        })
    }

    /// Its program: of the zygotes, the base filter; the gate's list is part of every policy's program.
    pub fn program(self) -> Result<Vec<libc::sock_filter>, Error> {
        Ok(match self {
            Self::Zygote => zygote_base_filter()?,
            Self::Compile => compile_filter()?,
            Self::Supervisor => supervisor_filter()?,
        })
    }

    /// What it decides.
    pub fn answer(self, question: &Question) -> Result<Answer, Error> {
        Ok(match self {
            Self::Zygote => {
                policies::Policy::builtin("default")?.answer(&Question { via: Via::Gate, ..*question })?
            }
            Self::Compile => question.of_compile_worker()?,
            Self::Supervisor => question.of_supervisor()?,
        })
    }
}
