//! The ELF part of reading an artifact: headers and segments, checked.

use object::elf;
use object::endian::LittleEndian;
use object::pod::{from_bytes, slice_from_bytes};
use std::ops::Range;

use ipc::layout::{
    CODE_BASE, CODE_END, CONTEXT_BASE, CONTEXT_END, MEMORIES_MAX, MEMORY_MAX, MEMORY_RESERVED, MEMORY_STRIDE,
    PAGE, memory_base,
};

use super::error::ArtifactError;
use super::write::{Access, SEGMENTS_MAX};

const LE: LittleEndian = LittleEndian;

/// Bytes of a section's name that are looked at.
const SECTION_NAME_MAX: usize = 64;

type FileHeader = elf::FileHeader64<LittleEndian>;
type ProgramHeader = elf::ProgramHeader64<LittleEndian>;
type SectionHeader = elf::SectionHeader64<LittleEndian>;

/// A loadable segment that was checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Loaded {
    pub address: u64,
    pub memory_bytes: u64,
    pub file_offset: u64,
    pub file_bytes: u64,
    pub access: Access,
}

impl Loaded {
    pub fn end(&self) -> u64 {
        self.address + self.memory_bytes
    }

    pub fn range(&self) -> Range<u64> {
        self.address..self.end()
    }
}

/// The checked headers.
pub(crate) struct Headers<'a> {
    file: &'a [u8],
    header: &'a FileHeader,
    pub segments: Vec<Loaded>,
}

impl<'a> Headers<'a> {
    /// Reads and checks the ELF header and every program header.
    pub fn parse(file: &'a [u8]) -> Result<Self, ArtifactError> {
        let too_short = ArtifactError::TooShort { bytes: file.len() };
        let (header, rest) = from_bytes::<FileHeader>(file).map_err(|()| too_short)?;
        let ident = &header.e_ident;
        if ident.magic != elf::ELFMAG
            || ident.class != elf::ELFCLASS64
            || ident.data != elf::ELFDATA2LSB
            || ident.version != elf::EV_CURRENT
        {
            return Err(ArtifactError::NotElf);
        }
        let (found_type, found_machine) = (header.e_type.get(LE), header.e_machine.get(LE));
        if found_type != elf::ET_EXEC || found_machine != elf::EM_X86_64 {
            return Err(ArtifactError::WrongKind { found_type, found_machine });
        }
        if header.e_phoff.get(LE) != size_of::<FileHeader>() as u64
            || usize::from(header.e_phentsize.get(LE)) != size_of::<ProgramHeader>()
        {
            return Err(ArtifactError::ProgramHeaderPlace);
        }
        let found = usize::from(header.e_phnum.get(LE));
        if found == 0 || found > SEGMENTS_MAX {
            return Err(ArtifactError::ProgramHeaderCount { found, max: SEGMENTS_MAX });
        }
        let (headers, _) = slice_from_bytes::<ProgramHeader>(rest, found)
            .map_err(|()| ArtifactError::HeadersTruncated("program"))?;
        let segments = headers
            .iter()
            .enumerate()
            .map(|(index, header)| segment(index, header, file.len() as u64))
            .collect::<Result<Vec<_>, _>>()?;
        check_places(&segments)?;
        Ok(Headers { file, header, segments })
    }

    /// The contents of the section with this name, as a range of the file.
    pub fn section(&self, name: &'static str) -> Result<Range<usize>, ArtifactError> {
        let (_, range) = self
            .sections()?
            .find(|(found, _)| *found == name.as_bytes())
            .ok_or(ArtifactError::Section(name))?;
        range.ok_or(ArtifactError::Section(name))
    }

    /// The names of all sections, and their contents as ranges of the file where they lie inside.
    pub fn sections(&self) -> Result<impl Iterator<Item = (&'a [u8], Option<Range<usize>>)>, ArtifactError> {
        let file = self.file;
        let truncated = || ArtifactError::HeadersTruncated("section");
        if usize::from(self.header.e_shentsize.get(LE)) != size_of::<SectionHeader>() {
            return Err(truncated());
        }
        let headers = usize::try_from(self.header.e_shoff.get(LE)).ok().and_then(|offset| file.get(offset..));
        let headers = headers.ok_or_else(truncated)?;
        let (headers, _) =
            slice_from_bytes::<SectionHeader>(headers, usize::from(self.header.e_shnum.get(LE)))
                .map_err(|()| truncated())?;
        let contents = move |header: &SectionHeader| {
            let start = usize::try_from(header.sh_offset.get(LE)).ok()?;
            let end = start.checked_add(usize::try_from(header.sh_size.get(LE)).ok()?)?;
            (end <= file.len()).then_some(start..end)
        };
        let names = headers.get(usize::from(self.header.e_shstrndx.get(LE))).and_then(contents);
        let names = names.and_then(|range| file.get(range)).ok_or(ArtifactError::Section(".shstrtab"))?;
        Ok(headers.iter().map(move |header| {
            let rest = names.get(header.sh_name.get(LE) as usize..).unwrap_or_default();
            // Ours are short; a longer one is none of them.
            let rest = rest.get(..SECTION_NAME_MAX).unwrap_or(rest);
            let end = rest.iter().position(|&byte| byte == 0).unwrap_or(rest.len());
            (rest.get(..end).unwrap_or_default(), contents(header))
        }))
    }
}

/// Checks one program header by itself.
fn segment(index: usize, header: &ProgramHeader, file_size: u64) -> Result<Loaded, ArtifactError> {
    let found = header.p_type.get(LE);
    if found != elf::PT_LOAD {
        return Err(ArtifactError::SegmentType { index, found });
    }
    let flags = header.p_flags.get(LE);
    let access = Access::of_flags(flags).ok_or(ArtifactError::SegmentFlags { index, flags })?;
    let loaded = Loaded {
        address: header.p_vaddr.get(LE),
        memory_bytes: header.p_memsz.get(LE),
        file_offset: header.p_offset.get(LE),
        file_bytes: header.p_filesz.get(LE),
        access,
    };
    let Loaded { address, memory_bytes: memory, file_offset, file_bytes: file, .. } = loaded;
    if [address, memory, file_offset, file].iter().any(|value| value % PAGE != 0) {
        return Err(ArtifactError::SegmentAlignment { index });
    }
    if memory == 0 || file > memory {
        return Err(ArtifactError::SegmentSize { index, file, memory });
    }
    if file_offset.checked_add(file).is_none_or(|end| end > file_size) {
        return Err(ArtifactError::SegmentFileRange { index });
    }
    let in_region = address.checked_add(memory).is_some_and(|end| {
        let inside = |start: u64, limit: u64| address >= start && end <= limit;
        match access {
            Access::None => memory_of(address).is_some(),
            Access::Read | Access::ReadExecute => inside(CODE_BASE, CODE_END),
            Access::ReadWrite => {
                inside(CONTEXT_BASE, CONTEXT_END)
                    || memory_of(address).is_some_and(|n| inside(memory_base(n), memory_base(n) + MEMORY_MAX))
            }
        }
    });
    if !in_region {
        return Err(ArtifactError::SegmentRegion { index, address });
    }
    Ok(loaded)
}

/// The memory in whose range an address lies.
pub(crate) fn memory_of(address: u64) -> Option<u32> {
    let number = address.checked_sub(memory_base(0))? / MEMORY_STRIDE;
    (number < MEMORIES_MAX).then_some(number as u32)
}

/// Checks what segments must be to each other.
fn check_places(segments: &[Loaded]) -> Result<(), ArtifactError> {
    let mut reserved: Vec<u32> = Vec::new();
    for (index, segment) in segments.iter().enumerate() {
        match (segment.access, memory_of(segment.address)) {
            (Access::None, memory) => {
                let memory = memory.filter(|&memory| {
                    segment.address == memory_base(memory)
                        && segment.memory_bytes == MEMORY_RESERVED
                        && segment.file_bytes == 0
                        && !reserved.contains(&memory)
                });
                reserved.push(memory.ok_or(ArtifactError::Reservation { index })?);
            }
            (_, Some(memory)) if !reserved.contains(&memory) => {
                return Err(ArtifactError::ReservationOrder { index });
            }
            _ => {}
        }
    }
    let mut mapped: Vec<(usize, &Loaded)> =
        segments.iter().enumerate().filter(|(_, segment)| segment.access != Access::None).collect();
    mapped.sort_by_key(|(_, segment)| segment.address);
    for pair in mapped.windows(2) {
        if let [(_, before), (index, segment)] = pair
            && before.end() > segment.address
        {
            return Err(ArtifactError::SegmentOverlap { index: *index, address: segment.address });
        }
    }
    let mut code = segments.iter().filter(|segment| segment.access == Access::ReadExecute);
    let first = code.next().filter(|code| code.address == CODE_BASE && code.file_bytes == code.memory_bytes);
    if first.is_none() || code.next().is_some() {
        return Err(ArtifactError::Code { expected: CODE_BASE });
    }
    let mut next = CONTEXT_BASE;
    for (_, segment) in mapped.iter().filter(|(_, segment)| segment.range().start < CONTEXT_END) {
        if segment.address != next {
            return Err(ArtifactError::Context { expected: CONTEXT_BASE });
        }
        next = segment.end();
    }
    if next == CONTEXT_BASE {
        return Err(ArtifactError::Context { expected: CONTEXT_BASE });
    }
    Ok(())
}
