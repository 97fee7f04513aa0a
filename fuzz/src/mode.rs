//! How a module is compiled on our side, by its seed.

use compiler::{OptLevel, Options, TargetCpu};

/// Fuel that an instance has where it is counted: more than it can use.
pub const FUEL: i64 = 1 << 40;

/// One way to compile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mode {
    /// How hard our code generator tries.
    pub opt_level: OptLevel,
    /// Which instructions our code may use.
    pub target_cpu: TargetCpu,
    /// Both sides count what is executed.
    pub fuel: bool,
    /// Both sides, and not the generator, make every NaN the same one.
    pub nan_canonicalization: bool,
    /// Our side guards bounds checks against speculation.
    pub spectre_guards: bool,
    /// Whether Wasmtime optimises.
    pub peer_optimises: bool,
}

impl Mode {
    /// The mode of a seed: each choice is a digit of the number.
    pub fn of(seed: u64) -> Self {
        let extra = seed / 4 % 4;
        Self {
            opt_level: match seed % 4 {
                1 => OptLevel::None,
                2 => OptLevel::SpeedAndSize,
                _ => OptLevel::Speed,
            },
            fuel: extra == 1,
            nan_canonicalization: extra == 2,
            spectre_guards: extra == 3,
            target_cpu: if (seed / 16).is_multiple_of(4) { TargetCpu::Baseline } else { TargetCpu::Native },
            peer_optimises: (seed / 64).is_multiple_of(2),
        }
    }

    /// The compiler's options.
    pub fn options(self) -> Options {
        Options {
            opt_level: self.opt_level,
            target_cpu: self.target_cpu,
            fuel: self.fuel,
            nan_canonicalization: self.nan_canonicalization,
            spectre_guards: self.spectre_guards,
            threads: 1,
            ..Options::default()
        }
    }
}
