//! Bytes to the artifact's reader and, when it takes them, to everything that reads on.
#![no_main]

use compiler::Artifact;
use compiler::metadata::ExportItem;
use ipc::layout::CODE_BASE;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(artifact) = Artifact::parse(data) else { return };
    let metadata = artifact.metadata();
    for export in &metadata.exports {
        assert!(artifact.export(&export.name).is_some());
        if let ExportItem::Function { entry, .. } = &export.item {
            let _ = artifact.symbolize(entry.code);
        }
    }
    for pc in (CODE_BASE..CODE_BASE + 4096).chain([0, CODE_BASE - 1, u64::MAX]) {
        let _ = (artifact.symbolize(pc), artifact.symbolize_return(pc), artifact.trap_at(pc));
    }
    for function in (0..metadata.functions.min(256)).chain([metadata.functions, u32::MAX]) {
        let _ = artifact.function_name(function);
    }
    let _ = metadata.missing_cpu_features();
    let _ = metadata.host_functions().count();
    let _ = artifact.summary();
});
