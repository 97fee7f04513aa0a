//! `sandboxc inspect`: what is in an artifact.

use std::fmt::Write;
use std::path::Path;

use compiler::metadata::GlobalValue;
use compiler::{Artifact, Summary};

use crate::diagnostics::Problem;

/// Prints an artifact's summary.
pub fn tell<B: AsRef<[u8]>>(artifact: &Artifact<B>, path: &Path, json: bool) -> Result<(), Problem> {
    let summary = artifact.summary().map_err(|error| Problem::of_artifact(path, &error))?;
    let text = if json {
        let failed = |error: serde_json::Error| {
            Problem::io("write", Path::new("standard output"), &std::io::Error::other(error))
        };
        serde_json::to_string(&summary).map_err(failed)? + "\n"
    } else {
        describe(&summary)
    };
    crate::print(&text)
}

fn describe(summary: &Summary) -> String {
    let mut out = String::new();
    // Writing to a string cannot fail.
    let _ = write_all(&mut out, summary);
    out
}

fn write_all(out: &mut String, summary: &Summary) -> std::fmt::Result {
    let options = &summary.options;
    writeln!(out, "compiler    {}", summary.compiler.escape_debug())?;
    write!(out, "options     opt level {}, {} processor", options.opt_level, options.target_cpu)?;
    for (set, name) in [
        (options.fuel, "fuel"),
        (options.nan_canonicalization, "NaN canonicalisation"),
        (options.spectre_guards, "Spectre guards"),
        (options.debug_info, "debugging information"),
    ] {
        if set {
            write!(out, ", {name}")?;
        }
    }
    writeln!(out, "\ncpu         {}", summary.cpu_features.join(" ").escape_debug())?;
    if !summary.missing_cpu_features.is_empty() {
        let missing = summary.missing_cpu_features.join(" ");
        writeln!(out, "not here    this machine's CPU lacks {}", missing.escape_debug())?;
    }
    writeln!(out, "artifact    {}", summary.hash)?;
    writeln!(out, "module      {}", summary.wasm_hash)?;
    if let Some(snapshot) = &summary.snapshot {
        let inits: Vec<String> = snapshot.inits.iter().map(|init| format!("{init:?}")).collect();
        write!(
            out,
            "snapshot    after {}, {}",
            inits.join(", "),
            if snapshot.pure { "pure" } else { "not pure" }
        )?;
        let asked: Vec<String> = snapshot.asked.iter().map(ToString::to_string).collect();
        if asked.is_empty() {
            writeln!(out)?;
        } else {
            writeln!(out, ": asked for {}", asked.join(", "))?;
        }
    }
    let sizes = &summary.sizes;
    writeln!(
        out,
        "bytes       {} in the file: {} code, {} read-only data, {} writable data, {} not mapped",
        sizes.file, sizes.code, sizes.rodata, sizes.data_in_file, sizes.unmapped
    )?;
    writeln!(out, "writable    {} bytes from the start", sizes.data)?;
    for segment in &summary.segments {
        writeln!(
            out,
            "segment     {:#014x} {} {:>11} bytes, {} from the file",
            segment.address, segment.access, segment.bytes, segment.file_bytes
        )?;
    }
    if let Some(trap) = summary.start_trap {
        writeln!(out, "start trap  {trap}")?;
    }
    if let Some(start) = summary.start {
        writeln!(out, "start       function {start}")?;
    }
    for (index, memory) in summary.memories.iter().enumerate() {
        writeln!(out, "memory {index:<4} {} to {} pages", memory.min_pages, memory.max_pages)?;
    }
    for (index, table) in summary.tables.iter().enumerate() {
        writeln!(out, "table {index:<5} {} to {} of {}", table.size, table.max, table.ty)?;
    }
    for (index, global) in summary.globals.iter().enumerate() {
        let place = match global.value {
            GlobalValue::Constant(bits) => format!("constant {bits:#x}"),
            GlobalValue::Address(address) => format!("at {address:#x}"),
        };
        writeln!(out, "global {index:<4} {} {place}", global.ty)?;
    }
    for import in &summary.imports {
        writeln!(out, "import      {} {} {}", import.module, import.name, import.signature)?;
    }
    for import in &summary.open_imports {
        writeln!(out, "open import {} {:?} {:?} {}", import.kind, import.module, import.name, import.ty)?;
    }
    for export in &summary.exports {
        write!(out, "export      {:?} {} {}", export.name, export.kind, export.index)?;
        if let (Some(signature), Some(address)) = (&export.signature, export.address) {
            write!(out, " {signature} at {address:#x}")?;
        }
        writeln!(out)?;
    }
    writeln!(out, "calls       {} return addresses", summary.call_sites)?;
    for (trap, count) in &summary.trap_sites {
        writeln!(out, "traps       {count:>8} {trap}")?;
    }
    for (index, function) in summary.functions.iter().enumerate() {
        let name = function.name.escape_debug();
        writeln!(out, "function    {index:>6} {:#x} {:>8} bytes {name}", function.address, function.bytes)?;
    }
    Ok(())
}
