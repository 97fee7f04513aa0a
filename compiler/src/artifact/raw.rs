//! Artifacts made of native code, to test what a guest could do that has taken over its process.

use cranelift_codegen::isa::CallConv;
use ipc::context::{COMPILER_BASE, MEMORY_TOTAL_OFFSET, MemoryDescriptor, TableEntry};
use ipc::interface::FUNCTIONS;
use ipc::layout::{CODE_BASE, CONTEXT_BASE, MEMORY_RESERVED, PAGE, WASM_PAGE, memory_base};

use super::metadata::{self, Entry, Export, ExportItem, FORMAT, GlobalValue, Import, Metadata, Reference};
use super::write::{Access, Image, Segment, Symbols};
use crate::build::{code_segments, symbols, writable_bytes, writable_segments};
use crate::codegen::{Code, compile_trampoline};
use crate::initial::Overlay;
use crate::options::target_features;
use crate::types::{FuncType, ValType};
use crate::{Cap, Caps, Error, Options, TargetCpu, link, sites, version};

/// An artifact's worth of machine code that no compiler made.
#[derive(Clone, Debug, Default)]
pub struct RawModule {
    /// Machine code for x86-64; its first byte will be at [`CODE_BASE`].
    pub code: Vec<u8>,
    /// Exports: name, offset in the code, number of parameters, number of results. All are `i64`; the code is called with the
    /// System V convention and can have six parameters and two results in registers.
    pub functions: Vec<(String, usize, usize, usize)>,
    /// Pages of 64 KiB that memory 0 has.
    pub memory_pages: u64,
    /// Pages that it may have.
    pub memory_max_pages: u64,
    /// Entries of a table of functions, all null at first and of a fixed size; with them come a global that holds a function and
    /// one that holds something of the host's. Their places are those of [`RawModule::TABLE`] and the following constants.
    pub table_entries: u64,
    /// Functions of the host side that it may call over the ring, by their position.
    pub imports: Vec<Import>,
}

impl RawModule {
    /// Address of the [`TableDescriptor`](ipc::context::TableDescriptor).
    pub const TABLE: u64 = COMPILER_BASE + 0x40;
    /// Address of the global that holds a function.
    pub const FUNCTION_GLOBAL: u64 = COMPILER_BASE + 0x60;
    /// Address of the global that holds something of the host's.
    pub const HOST_GLOBAL: u64 = COMPILER_BASE + 0x68;
    /// Address of the table's entry 0.
    pub const ENTRIES: u64 = CONTEXT_BASE + 0x800;
    /// Entries that the table can have.
    pub const ENTRIES_MAX: u64 = 128;
}

impl RawModule {
    /// The artifact. It may call every host function.
    pub fn build(&self) -> Result<Vec<u8>, Error> {
        let options = Options { target_cpu: TargetCpu::Baseline, ..Options::default() };
        let isa = options.isa()?;
        // The whole code is one function as far as the linker is concerned; trampolines follow.
        let mut codes = vec![Code { bytes: self.code.clone(), alignment: PAGE as u32, ..Code::default() }];
        for (i, (_, _, params, results)) in self.functions.iter().enumerate() {
            let ty = FuncType { params: vec![ValType::I64; *params], results: vec![ValType::I64; *results] };
            codes.push(compile_trampoline(&*isa, i as u32 + 1, &ty, CallConv::SystemV)?);
        }
        let rodata = [0u8; size_of::<TableEntry>()];
        let text = link::link(&mut codes, rodata.len() as u64, &Caps::default())?;

        let memory_bytes = self.memory_pages.saturating_mul(WASM_PAGE);
        let memory_max = self.memory_max_pages.max(self.memory_pages).saturating_mul(WASM_PAGE);
        Caps::default().check(Cap::MemoryPages, "memory pages", memory_max / WASM_PAGE)?;
        let mut context = vec![0u8; PAGE as usize];
        let descriptor = COMPILER_BASE;
        for (i, word) in [memory_base(0), memory_bytes, memory_max, 0].iter().enumerate() {
            let at = (descriptor - CONTEXT_BASE) as usize + 8 * i;
            context[at..at + 8].copy_from_slice(&word.to_le_bytes());
        }
        let entries = self.table_entries.min(Self::ENTRIES_MAX);
        for (i, word) in [Self::ENTRIES, entries, entries, 0].iter().enumerate() {
            let at = (Self::TABLE - CONTEXT_BASE) as usize + 8 * i;
            context[at..at + 8].copy_from_slice(&word.to_le_bytes());
        }
        let total = MEMORY_TOTAL_OFFSET as usize;
        context[total..total + 8].copy_from_slice(&memory_bytes.to_le_bytes());
        let mut state = Overlay::default();
        state.write(CONTEXT_BASE, &context);

        let mut segments = vec![Segment {
            address: memory_base(0),
            memory_bytes: MEMORY_RESERVED,
            file_bytes: 0,
            access: Access::None,
            contents: Vec::new(),
        }];
        writable_segments(
            &mut segments,
            memory_base(0)..memory_base(0) + memory_bytes,
            &Overlay::default(),
            1,
        );
        writable_segments(&mut segments, CONTEXT_BASE..CONTEXT_BASE + PAGE, &state, 1);
        let data_bytes = writable_bytes(&segments);
        code_segments(&mut segments, &text, &rodata);

        let exports = self.functions.iter().enumerate().filter_map(|(i, (name, offset, params, results))| {
            let entry =
                Entry { function: 0, code: CODE_BASE + *offset as u64, trampoline: text.address(i + 1)? };
            let (params, results) = (vec![ValType::I64; *params], vec![ValType::I64; *results]);
            Some(Export { name: name.clone(), item: ExportItem::Function { entry, params, results } })
        });
        let table = metadata::Table {
            ty: ValType::FuncRef,
            reference: Reference::ANY,
            size: entries,
            max: entries,
            table64: false,
            base: Self::ENTRIES,
            descriptor: Self::TABLE,
        };
        let globals = [(ValType::FuncRef, Self::FUNCTION_GLOBAL), (ValType::ExternRef, Self::HOST_GLOBAL)]
            .map(|(ty, address)| metadata::Global {
                ty,
                reference: Reference::ANY,
                mutable: true,
                value: GlobalValue::Address(address),
            });
        let metadata = Metadata {
            format: FORMAT,
            compiler: version(),
            cpu_features: target_features(&isa),
            options: options.code(),
            wasm_hash: [0; 32],
            functions: 1,
            imports: self.imports.clone(),
            exports: exports.collect(),
            start: None,
            start_trap: None,
            memories: vec![metadata::Memory {
                min_pages: self.memory_pages,
                max_pages: memory_max / WASM_PAGE,
                memory64: false,
                descriptor,
            }],
            tables: if entries > 0 { vec![table] } else { Vec::new() },
            globals: if entries > 0 { globals.to_vec() } else { Vec::new() },
            tags: Vec::new(),
            handlers: None,
            host_functions: (0..FUNCTIONS.len() as u32).collect(),
            segments: Vec::new(),
            descriptors: text.rodata,
            descriptor_count: 1,
            data_bytes,
            snapshot: None,
        };
        let mut site_table = sites::Builder::new();
        site_table.function(0, 0, &[]);
        let image = Image {
            segments,
            text: (CODE_BASE, text.bytes.len() as u64),
            rodata: (text.rodata, rodata.len() as u64),
            symbols: Symbols::new(&symbols(&text, std::iter::once("native code".to_owned()))),
            metadata: metadata::encode(&metadata)?,
            sites: site_table.finish(self.code.len() as u32),
            debug: Vec::new(),
        };
        image.write(&Caps::default())
    }
}

const _: () = assert!(RawModule::ENTRIES + 16 * RawModule::ENTRIES_MAX <= CONTEXT_BASE + PAGE);
const _: () = assert!(COMPILER_BASE + size_of::<MemoryDescriptor>() as u64 <= RawModule::TABLE);
const _: () = assert!(COMPILER_BASE + size_of::<MemoryDescriptor>() as u64 <= CONTEXT_BASE + PAGE);
