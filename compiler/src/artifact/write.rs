//! Writes an artifact: an ELF image whose loadable segments are everything an instance needs, at its final address.
//!
//! File layout: ELF header and program headers in the first pages; the contents of segments, each from a page boundary, padded with
//! zeros to whole pages; symbol and string tables, our own sections; section headers. Nothing is relocated when
//! it is loaded.

use std::borrow::Cow;

use object::elf;
use object::endian::{LittleEndian, U16, U32, U64};
use object::pod::bytes_of;

use ipc::layout::PAGE;

use crate::Error;
use crate::caps::{self, Cap, Caps, Raise};

const LE: LittleEndian = LittleEndian;

/// Most program headers: enough for the most memories that a module can have.
pub(crate) const SEGMENTS_MAX: usize = 256;

/// Name of the section with the postcard-encoded [`super::Metadata`].
pub(crate) const META_SECTION: &str = ".sandbox.meta";
/// Name of the section with the table of [`crate::sites`].
pub(crate) const SITES_SECTION: &str = ".sandbox.sites";

/// Name of the section with the table of [`crate::debug::section`].
pub(crate) const LINES_SECTION: &str = ".sandbox.lines";

/// Who may do what with a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// Reserved address space.
    None,
    Read,
    ReadWrite,
    ReadExecute,
}

impl Access {
    pub fn flags(self) -> u32 {
        match self {
            Access::None => 0,
            Access::Read => elf::PF_R,
            Access::ReadWrite => elf::PF_R | elf::PF_W,
            Access::ReadExecute => elf::PF_R | elf::PF_X,
        }
    }

    pub fn of_flags(flags: u32) -> Option<Self> {
        [Access::None, Access::Read, Access::ReadWrite, Access::ReadExecute]
            .into_iter()
            .find(|access| access.flags() == flags)
    }
}

/// A loadable segment.
pub(crate) struct Segment<'a> {
    pub address: u64,
    /// Bytes of address space, whole pages.
    pub memory_bytes: u64,
    /// Bytes of it that come from the file, whole pages; the rest is zero.
    pub file_bytes: u64,
    pub access: Access,
    /// What the file holds at which offset of the segment; zeros between.
    pub contents: Vec<(u64, &'a [u8])>,
}

/// A function's name, for debuggers and backtraces.
pub(crate) struct Symbol {
    pub name: String,
    pub address: u64,
    pub size: u64,
}

/// The symbol table and its strings, as the sections hold them. Symbol 0 is the null one.
pub(crate) struct Symbols<'a> {
    pub table: Cow<'a, [u8]>,
    pub strings: Cow<'a, [u8]>,
}

/// Everything that goes into an artifact.
pub(crate) struct Image<'a> {
    /// Mapped in this order.
    pub segments: Vec<Segment<'a>>,
    /// Address and size of the code, for the section that disassemblers look for.
    pub text: (u64, u64),
    /// Address and size of the read-only data.
    pub rodata: (u64, u64),
    pub symbols: Symbols<'a>,
    /// Encoded [`super::Metadata`].
    pub metadata: Vec<u8>,
    /// Encoded [`crate::sites`].
    pub sites: Vec<u8>,
    /// Further sections that are not loaded: about source lines.
    pub debug: Vec<(&'a str, Vec<u8>)>,
}

/// A section that is not loaded.
struct Section<'a> {
    name: &'a str,
    kind: u32,
    bytes: &'a [u8],
    link: u32,
    info: u32,
    entry: u64,
}

/// Indices of section headers.
const TEXT_INDEX: u16 = 1;
const STRTAB_INDEX: u32 = 4;

const SYMBOL_BYTES: usize = size_of::<elf::Sym64<LittleEndian>>();

const FIXED: Raise = Raise::Fixed("it is part of the format of artifacts");

impl Image<'_> {
    /// The bytes of the artifact. Fails when they would exceed the cap, before they are allocated.
    pub fn write(&self, caps: &Caps) -> Result<Vec<u8>, Error> {
        caps::check("segments", self.segments.len() as u64, SEGMENTS_MAX as u64, FIXED)?;
        let headers = size_of::<elf::FileHeader64<LittleEndian>>()
            + self.segments.len() * size_of::<elf::ProgramHeader64<LittleEndian>>();
        let mut offset = (headers as u64).next_multiple_of(PAGE);
        let mut offsets = Vec::with_capacity(self.segments.len());
        for segment in &self.segments {
            offsets.push(offset);
            offset = offset.saturating_add(segment.file_bytes);
        }
        let Symbols { table: symbols, strings } = &self.symbols;
        let mut section_names = vec![0u8];
        let mut sections = vec![
            Section {
                name: ".symtab",
                kind: elf::SHT_SYMTAB,
                bytes: symbols,
                link: STRTAB_INDEX,
                // All of them are local.
                info: (symbols.len() / SYMBOL_BYTES) as u32,
                entry: SYMBOL_BYTES as u64,
            },
            Section { name: ".strtab", kind: elf::SHT_STRTAB, bytes: strings, link: 0, info: 0, entry: 0 },
            Section {
                name: META_SECTION,
                kind: elf::SHT_PROGBITS,
                bytes: &self.metadata,
                link: 0,
                info: 0,
                entry: 0,
            },
            Section {
                name: SITES_SECTION,
                kind: elf::SHT_PROGBITS,
                bytes: &self.sites,
                link: 0,
                info: 0,
                entry: 0,
            },
        ];
        sections.extend(self.debug.iter().map(|(name, bytes)| Section {
            name,
            kind: elf::SHT_PROGBITS,
            bytes,
            link: 0,
            info: 0,
            entry: 0,
        }));
        let mut name_offset = |name: &str| {
            let offset = section_names.len() as u32;
            section_names.extend_from_slice(name.as_bytes());
            section_names.push(0);
            offset
        };
        let loaded_names = [name_offset(".text"), name_offset(".rodata")];
        let mut names: Vec<u32> = sections.iter().map(|section| name_offset(section.name)).collect();
        names.push(name_offset(".shstrtab"));
        sections.push(Section {
            name: ".shstrtab",
            kind: elf::SHT_STRTAB,
            bytes: &section_names,
            link: 0,
            info: 0,
            entry: 0,
        });
        let mut section_offsets = Vec::with_capacity(sections.len());
        for section in &sections {
            offset = offset.next_multiple_of(8);
            section_offsets.push(offset);
            offset = offset.saturating_add(section.bytes.len() as u64);
        }
        let headers_offset = offset.next_multiple_of(8);
        let header_count = 3 + sections.len() as u64;
        let header_size = size_of::<elf::SectionHeader64<LittleEndian>>() as u64;
        let total = headers_offset.saturating_add(header_count * header_size);
        caps.check(Cap::ImageBytes, "bytes of artifact", total)?;

        let mut out = Vec::with_capacity(total as usize);
        out.extend_from_slice(bytes_of(&file_header(
            self.segments.len() as u16,
            headers_offset,
            header_count as u16,
        )));
        for (segment, &offset) in self.segments.iter().zip(&offsets) {
            out.extend_from_slice(bytes_of(&program_header(segment, offset)));
        }
        for (segment, &offset) in self.segments.iter().zip(&offsets) {
            for (at, bytes) in &segment.contents {
                out.resize((offset + at) as usize, 0);
                out.extend_from_slice(bytes);
            }
            out.resize((offset + segment.file_bytes) as usize, 0);
        }
        for (section, &offset) in sections.iter().zip(&section_offsets) {
            out.resize(offset as usize, 0);
            out.extend_from_slice(section.bytes);
        }
        out.resize(headers_offset as usize, 0);
        out.resize(out.len() + header_size as usize, 0);
        for (name, (address, size), flags) in [
            (loaded_names[0], self.text, elf::SHF_ALLOC | elf::SHF_EXECINSTR),
            (loaded_names[1], self.rodata, elf::SHF_ALLOC),
        ] {
            let file = self.segments.iter().zip(&offsets).find(|(segment, _)| segment.address == address);
            out.extend_from_slice(bytes_of(&elf::SectionHeader64 {
                sh_name: U32::new(LE, name),
                sh_type: U32::new(LE, elf::SHT_PROGBITS),
                sh_flags: U64::new(LE, flags.into()),
                sh_addr: U64::new(LE, address),
                sh_offset: U64::new(LE, file.map_or(0, |(_, offset)| *offset)),
                sh_size: U64::new(LE, size),
                sh_link: U32::new(LE, 0),
                sh_info: U32::new(LE, 0),
                sh_addralign: U64::new(LE, 16),
                sh_entsize: U64::new(LE, 0),
            }));
        }
        for ((section, &offset), &name) in sections.iter().zip(&section_offsets).zip(&names) {
            out.extend_from_slice(bytes_of(&elf::SectionHeader64 {
                sh_name: U32::new(LE, name),
                sh_type: U32::new(LE, section.kind),
                sh_flags: U64::new(LE, 0),
                sh_addr: U64::new(LE, 0),
                sh_offset: U64::new(LE, offset),
                sh_size: U64::new(LE, section.bytes.len() as u64),
                sh_link: U32::new(LE, section.link),
                sh_info: U32::new(LE, section.info),
                sh_addralign: U64::new(LE, 8),
                sh_entsize: U64::new(LE, section.entry),
            }));
        }
        Ok(out)
    }
}

impl Symbols<'static> {
    /// The symbol table. Symbol `i + 1` is `symbols[i]`.
    pub fn new(symbols: &[Symbol]) -> Self {
        let mut strings = vec![0u8];
        let mut table = vec![0u8; SYMBOL_BYTES];
        table.reserve_exact(symbols.len() * SYMBOL_BYTES);
        for symbol in symbols {
            table.extend_from_slice(bytes_of(&elf::Sym64 {
                st_name: U32::new(LE, strings.len() as u32),
                st_info: (elf::STB_LOCAL << 4) + elf::STT_FUNC,
                st_other: 0,
                st_shndx: U16::new(LE, TEXT_INDEX),
                st_value: U64::new(LE, symbol.address),
                st_size: U64::new(LE, symbol.size),
            }));
            // A zero would end the name.
            strings.extend(symbol.name.bytes().map(|byte| if byte == 0 { b'?' } else { byte }));
            strings.push(0);
        }
        Symbols { table: table.into(), strings: strings.into() }
    }
}

/// The header; the names of the sections are in the last one.
fn file_header(segments: u16, headers_offset: u64, headers: u16) -> elf::FileHeader64<LittleEndian> {
    elf::FileHeader64 {
        e_ident: elf::Ident {
            magic: elf::ELFMAG,
            class: elf::ELFCLASS64,
            data: elf::ELFDATA2LSB,
            version: elf::EV_CURRENT,
            os_abi: elf::ELFOSABI_NONE,
            abi_version: 0,
            padding: [0; 7],
        },
        e_type: U16::new(LE, elf::ET_EXEC),
        e_machine: U16::new(LE, elf::EM_X86_64),
        e_version: U32::new(LE, elf::EV_CURRENT.into()),
        e_entry: U64::new(LE, 0),
        e_phoff: U64::new(LE, size_of::<elf::FileHeader64<LittleEndian>>() as u64),
        e_shoff: U64::new(LE, headers_offset),
        e_flags: U32::new(LE, 0),
        e_ehsize: U16::new(LE, size_of::<elf::FileHeader64<LittleEndian>>() as u16),
        e_phentsize: U16::new(LE, size_of::<elf::ProgramHeader64<LittleEndian>>() as u16),
        e_phnum: U16::new(LE, segments),
        e_shentsize: U16::new(LE, size_of::<elf::SectionHeader64<LittleEndian>>() as u16),
        e_shnum: U16::new(LE, headers),
        e_shstrndx: U16::new(LE, headers.saturating_sub(1)),
    }
}

fn program_header(segment: &Segment<'_>, offset: u64) -> elf::ProgramHeader64<LittleEndian> {
    elf::ProgramHeader64 {
        p_type: U32::new(LE, elf::PT_LOAD),
        p_flags: U32::new(LE, segment.access.flags()),
        p_offset: U64::new(LE, offset),
        p_vaddr: U64::new(LE, segment.address),
        p_paddr: U64::new(LE, segment.address),
        p_filesz: U64::new(LE, segment.file_bytes),
        p_memsz: U64::new(LE, segment.memory_bytes),
        p_align: U64::new(LE, PAGE),
    }
}
