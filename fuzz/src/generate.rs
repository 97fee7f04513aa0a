//! Modules from random bytes.

use arbitrary::{Arbitrary, Unstructured};
use wasm_smith::{Config, Module};

use crate::rewrite::rewrite;

/// Loop iterations and calls that one instance may make: small, so that recursion ends before any stack does.
const FUEL: u32 = 1000;

/// Largest memory in bytes.
const MEMORY_MAX: u64 = 4 << 16;

/// Random numbers that are a pure function of the state (SplitMix64).
#[derive(Clone, Debug)]
pub struct Random(pub u64);

impl Random {
    /// The next number.
    pub fn word(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`, which is not 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.word() % bound
    }

    /// Yes, once in `n` times.
    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

/// `count` bytes that are a pure function of `seed`.
pub fn bytes(seed: u64, count: usize) -> Vec<u8> {
    let mut random = Random(seed);
    let words = std::iter::repeat_with(|| random.word().to_le_bytes());
    words.take(count.div_ceil(8)).flatten().take(count).collect()
}

/// A module whose functions end, whose results do not depend on the host, and that exports everything. Its features
/// are those that the compiler implements. `canonical`: every NaN that it computes is the same one.
pub fn terminating(u: &mut Unstructured<'_>, canonical: bool) -> arbitrary::Result<Vec<u8>> {
    let random = Random(u.arbitrary()?);
    let mut config = config(u)?;
    config.max_imports = 0;
    config.canonicalize_nans = canonical;
    config.export_everything = true;
    config.allow_start_export = u.ratio(1, 4)?;
    // Whether growth succeeds must be up to the module.
    config.memory_max_size_required = true;
    config.table_max_size_required = true;
    config.max_memory32_bytes = MEMORY_MAX;
    config.max_memory64_bytes = MEMORY_MAX.into();
    config.max_table_elements = 1000;
    config.max_memories = config.max_memories.min(3);
    config.max_tables = config.max_tables.min(4);
    config.max_globals = config.max_globals.min(20);
    config.max_types = config.max_types.clamp(3, 20);
    config.max_funcs = config.max_funcs.clamp(3, 20);
    // Something to call, and in most modules something that shows what was done.
    (config.min_types, config.min_funcs) = (3, 3);
    config.min_globals = config.max_globals.min(u.int_in_range(0..=2)?);
    config.min_memories = config.max_memories.min(u.int_in_range(0..=2)?) as u32;
    config.min_tables = config.max_tables.min(u.int_in_range(0..=1)?) as u32;
    config.max_data_segments = config.max_data_segments.min(10);
    config.max_element_segments = config.max_element_segments.min(10);
    let mut module = Module::new(config, u)?;
    module.ensure_termination(FUEL).map_err(|_| arbitrary::Error::IncorrectFormat)?;
    rewrite(&module.to_bytes(), random).ok_or(arbitrary::Error::IncorrectFormat)
}

/// Any module with whatever limits: of the features that the compiler implements, and now and then of those that it must
/// refuse, or with functions that are not valid.
pub fn any(u: &mut Unstructured<'_>) -> arbitrary::Result<Vec<u8>> {
    let mut config = config(u)?;
    config.gc_enabled = u.ratio(1, 8)?;
    config.allow_invalid_funcs = u.ratio(1, 8)?;
    config.generate_custom_sections = u.arbitrary()?;
    Ok(Module::new(config, u)?.to_bytes())
}

/// A configuration with what the compiler implements. Some instructions, features and limits are missing in each, so that
/// what is left is met more often.
fn config(u: &mut Unstructured<'_>) -> arbitrary::Result<Config> {
    let mut config = Config::arbitrary(u)?;
    config.wide_arithmetic_enabled = u.arbitrary()?;
    config.gc_enabled = false;
    config.max_imports = config.max_imports.min(20);
    config.max_tags = config.max_tags.min(10);
    Ok(config)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use wasmparser::{Parser, Payload};

    use super::*;

    /// What tells that a module uses a feature: part of an operator's name, or what is counted below.
    const FEATURES: [&str; 18] = [
        "AtomicLoad",
        "AtomicRmw",
        "AtomicWait",
        "Relaxed",
        " CallRef ",
        " ReturnCall ",
        " ReturnCallRef ",
        "BrOnNull",
        "TryTable",
        "ThrowRef",
        "I64Add128",
        "I64MulWide",
        "CallIndirect",
        "MemoryInit",
        "64-bit memory",
        "64-bit table",
        "several memories",
        "several tables",
    ];

    /// The generator's releases and its random configurations may change what is made; no feature may get lost.
    #[test]
    fn generated_modules_use_every_feature() {
        let mut modules: BTreeMap<&str, u32> = FEATURES.into_iter().map(|feature| (feature, 0)).collect();
        for seed in 0..500 {
            let random = bytes(seed, 16 << 10);
            let Ok(wasm) = terminating(&mut Unstructured::new(&random), true) else { continue };
            let used = used(&wasm).expect("a valid module");
            for (feature, count) in &mut modules {
                *count += u32::from(used.contains(feature));
            }
        }
        println!("{modules:?}");
        assert!(modules.values().all(|count| *count >= 5), "{modules:?}");
    }

    fn used(wasm: &[u8]) -> wasmparser::Result<Vec<&'static str>> {
        let (mut operators, mut used) = (String::new(), Vec::new());
        for payload in Parser::new(0).parse_all(wasm) {
            match payload? {
                Payload::MemorySection(section) => {
                    used.extend((section.count() > 1).then_some("several memories"));
                    let mut memories = section.into_iter();
                    used.extend(
                        memories.any(|memory| memory.is_ok_and(|m| m.memory64)).then_some("64-bit memory"),
                    );
                }
                Payload::TableSection(section) => {
                    used.extend((section.count() > 1).then_some("several tables"));
                    let mut tables = section.into_iter();
                    used.extend(
                        tables.any(|table| table.is_ok_and(|t| t.ty.table64)).then_some("64-bit table"),
                    );
                }
                Payload::CodeSectionEntry(body) => {
                    for operator in body.get_operators_reader()? {
                        operators += &format!(" {:?}", operator?);
                    }
                }
                _ => {}
            }
        }
        used.extend(FEATURES.into_iter().filter(|feature| operators.contains(feature)));
        Ok(used)
    }
}
