//! Modules from random bytes.

use arbitrary::{Arbitrary, Unstructured};
use wasm_smith::{Config, Module};

/// Loop iterations and calls that one instance may make: small, so that recursion ends before any stack does.
const FUEL: u32 = 1000;

/// Largest memory in bytes.
const MEMORY_MAX: u64 = 4 << 16;

/// `count` bytes that are a pure function of `seed` (SplitMix64).
pub fn bytes(seed: u64, count: usize) -> Vec<u8> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    };
    std::iter::repeat_with(|| next().to_le_bytes()).take(count.div_ceil(8)).flatten().take(count).collect()
}

/// A module whose functions end, whose results do not depend on the host, and that exports everything. Its features
/// are those that the compiler implements.
pub fn terminating(u: &mut Unstructured<'_>) -> arbitrary::Result<Vec<u8>> {
    let mut config = config(u)?;
    config.canonicalize_nans = true;
    config.export_everything = true;
    // Whether growth succeeds must be up to the module.
    config.memory_max_size_required = true;
    config.table_max_size_required = true;
    config.max_memory32_bytes = MEMORY_MAX;
    config.max_memory64_bytes = MEMORY_MAX.into();
    config.max_table_elements = 1000;
    config.max_memories = config.max_memories.min(3);
    config.max_tables = config.max_tables.min(4);
    config.max_globals = config.max_globals.min(20);
    config.max_funcs = config.max_funcs.clamp(1, 20);
    // A relaxed operator may do either of two things.
    config.relaxed_simd_enabled = false;
    config.min_funcs = 1;
    config.max_data_segments = config.max_data_segments.min(10);
    config.max_element_segments = config.max_element_segments.min(10);
    let mut module = Module::new(config, u)?;
    module.ensure_termination(FUEL).map_err(|_| arbitrary::Error::IncorrectFormat)?;
    Ok(module.to_bytes())
}

/// Any valid module of the features that the compiler implements, with whatever limits.
pub fn any(u: &mut Unstructured<'_>) -> arbitrary::Result<Vec<u8>> {
    let config = config(u)?;
    Ok(Module::new(config, u)?.to_bytes())
}

/// A configuration with no more than what the compiler implements. Some instructions, features and limits are
/// missing in each, so that what is left is met more often.
fn config(u: &mut Unstructured<'_>) -> arbitrary::Result<Config> {
    let mut config = Config::arbitrary(u)?;
    config.max_imports = 0;
    config.wide_arithmetic_enabled = u.arbitrary()?;
    config.gc_enabled = false;
    config.threads_enabled = false;
    config.max_tags = config.max_tags.min(10);
    Ok(config)
}
