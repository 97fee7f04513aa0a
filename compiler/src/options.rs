//! What a caller may choose about a compilation.

use std::fmt;
use std::str::FromStr;

use cranelift_codegen::isa::{self, OwnedTargetIsa};
use cranelift_codegen::settings::{self, Configurable};
use ipc::layout;
use serde::{Deserialize, Serialize};

use crate::{Caps, Error};

/// How hard the code generator tries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OptLevel {
    /// Fastest compilation, no optimisation.
    None,
    /// Fastest code.
    #[default]
    Speed,
    /// Fast code, with smaller code preferred.
    SpeedAndSize,
}

impl FromStr for OptLevel {
    type Err = UnknownChoice;

    fn from_str(text: &str) -> Result<Self, UnknownChoice> {
        let all = [OptLevel::None, OptLevel::Speed, OptLevel::SpeedAndSize];
        all.into_iter()
            .find(|level| level.setting() == text)
            .ok_or(UnknownChoice("none, speed or speed_and_size"))
    }
}

impl fmt::Display for OptLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.setting())
    }
}

impl FromStr for TargetCpu {
    type Err = UnknownChoice;

    fn from_str(text: &str) -> Result<Self, UnknownChoice> {
        match text {
            "baseline" => Ok(TargetCpu::Baseline),
            "native" => Ok(TargetCpu::Native),
            _ => Err(UnknownChoice("baseline or native")),
        }
    }
}

impl fmt::Display for TargetCpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            TargetCpu::Baseline => "baseline",
            TargetCpu::Native => "native",
        })
    }
}

/// A text that names no choice of an option.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected {0}")]
pub struct UnknownChoice(&'static str);

impl OptLevel {
    fn setting(self) -> &'static str {
        match self {
            OptLevel::None => "none",
            OptLevel::Speed => "speed",
            OptLevel::SpeedAndSize => "speed_and_size",
        }
    }
}

/// Which instructions the code may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TargetCpu {
    /// x86-64-v2 (SSE 4.2, POPCNT): every x86-64 server of the last fifteen years. Without it, rounding a float is a call
    /// to a library that an instance does not have.
    Baseline,
    /// What the machine that compiles has.
    #[default]
    Native,
}

/// Choices of one compilation.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Options {
    /// How hard the code generator tries.
    pub opt_level: OptLevel,
    /// Which instructions the code may use.
    pub target_cpu: TargetCpu,
    /// The code counts what it executes and stops when a job's fuel is used up. Default: no.
    pub fuel: bool,
    /// Every NaN that arithmetic makes is the same one, so that results do not depend on the processor. Default: no.
    pub nan_canonicalization: bool,
    /// What is read behind a mispredicted bounds check of a table is a null entry, and of a 64-bit memory nothing. Default:
    /// no.
    pub spectre_guards: bool,
    /// The module's DWARF is carried over, so that debuggers and reports name source lines. Default: no.
    pub debug_info: bool,
    /// Imports that no host function answers to are provided for each instance by the host side. Default: no; they are errors.
    pub open_imports: bool,
    /// Threads that compile; 0 means one per CPU. The output does not depend on it.
    pub threads: usize,
    /// Limits on the module.
    pub caps: Caps,
}

/// The choices of [`Options`] that change an artifact, as the artifact records them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct CodeOptions {
    /// See [`Options::opt_level`].
    pub opt_level: OptLevel,
    /// See [`Options::target_cpu`].
    pub target_cpu: TargetCpu,
    /// See [`Options::fuel`].
    pub fuel: bool,
    /// See [`Options::nan_canonicalization`].
    pub nan_canonicalization: bool,
    /// See [`Options::spectre_guards`].
    pub spectre_guards: bool,
    /// See [`Options::debug_info`].
    pub debug_info: bool,
    /// See [`Options::open_imports`].
    pub open_imports: bool,
}

impl Options {
    /// What an artifact records of these options.
    pub fn code(&self) -> CodeOptions {
        let Options {
            opt_level,
            target_cpu,
            fuel,
            nan_canonicalization,
            spectre_guards,
            debug_info,
            open_imports,
            ..
        } = *self;
        CodeOptions {
            opt_level,
            target_cpu,
            fuel,
            nan_canonicalization,
            spectre_guards,
            debug_info,
            open_imports,
        }
    }

    /// Bytes that differ whenever the same module could give another artifact: compiler version, options and, for
    /// [`TargetCpu::Native`], the features of this machine's CPU. Part of a cache key.
    pub fn fingerprint(&self) -> Result<Vec<u8>, Error> {
        let isa = self.isa()?;
        let key = (crate::version(), self.code(), target_features(&isa), self.caps);
        postcard::to_stdvec(&key).map_err(Error::Metadata)
    }

    /// The code generator for these options.
    pub(crate) fn isa(&self) -> Result<OwnedTargetIsa, Error> {
        let target = |e: &dyn std::fmt::Display| Error::Target(e.to_string());
        let mut flags = settings::builder();
        for (name, value) in [
            ("opt_level", self.opt_level.setting()),
            ("enable_nan_canonicalization", if self.nan_canonicalization { "true" } else { "false" }),
            ("enable_verifier", if cfg!(debug_assertions) { "true" } else { "false" }),
            // Backtraces walk the frame-pointer chain, so no unwind tables are needed.
            ("preserve_frame_pointers", "true"),
            ("unwind_info", "false"),
            // Frames larger than the probe interval touch each page-sized step of it; the guard below the
            // stack (`layout::STACK_GUARD`) is larger than the interval, so smaller frames need no check.
            ("enable_probestack", "true"),
            ("probestack_strategy", "inline"),
            ("probestack_size_log2", "16"),
            // A function type may have more results than registers hold.
            ("enable_multi_ret_implicit_sret", "true"),
            ("is_pic", "false"),
            ("libcall_call_conv", "system_v"),
        ] {
            flags.set(name, value).map_err(|e| target(&e))?;
        }
        let mut builder = isa::lookup_by_name("x86_64-unknown-linux-gnu").map_err(|e| target(&e))?;
        match self.target_cpu {
            TargetCpu::Baseline => builder.enable("x86-64-v2").map_err(|e| target(&e))?,
            TargetCpu::Native => {
                if cfg!(not(target_arch = "x86_64")) {
                    return Err(Error::Target(
                        "target CPU `native` needs an x86-64 machine; choose `baseline`".into(),
                    ));
                }
                cranelift_native::infer_native_flags(&mut builder).map_err(|e| target(&e))?;
            }
        }
        builder.finish(settings::Flags::new(flags)).map_err(|e| target(&e))
    }
}

const _: () =
    assert!(layout::STACK_GUARD > 1 << 16, "a frame below the probe interval could jump over the guard");

/// Names of the CPU features that code for `isa` may use, in a fixed order, such as `sse42`.
pub(crate) fn target_features(isa: &OwnedTargetIsa) -> Vec<String> {
    isa.isa_flags()
        .iter()
        .filter(|flag| flag.as_bool() == Some(true))
        .filter_map(|flag| flag.name.strip_prefix("has_").map(str::to_owned))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn baseline_needs_what_x86_64_v2_has_and_no_more() {
        let options = Options { target_cpu: TargetCpu::Baseline, ..Options::default() };
        let features = target_features(&options.isa().unwrap());
        assert_eq!(features, ["sse3", "ssse3", "cmpxchg16b", "sse41", "sse42", "popcnt"]);
    }

    #[test]
    fn fingerprint_differs_by_option_but_not_by_threads() {
        let base = Options { target_cpu: TargetCpu::Baseline, ..Options::default() };
        let print = |o: Options| o.fingerprint().unwrap();
        assert_eq!(print(base), print(Options { threads: 7, ..base }));
        assert_ne!(print(base), print(Options { opt_level: OptLevel::None, ..base }));
        for other in [
            Options { fuel: true, ..base },
            Options { nan_canonicalization: true, ..base },
            Options { spectre_guards: true, ..base },
            Options { debug_info: true, ..base },
            Options { open_imports: true, ..base },
        ] {
            assert_ne!(print(base), print(other), "{other:?}");
        }
        assert_ne!(print(base), print(Options { caps: Caps { functions: 5, ..base.caps }, ..base }));
    }
}
