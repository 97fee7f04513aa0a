//! The linker: puts all functions into one text at its final address and fills in the distances between them.

use ipc::layout::{CODE_BASE, PAGE};

use crate::caps::{self, Cap};
use crate::codegen::{Code, Target};
use crate::{Caps, Error};

/// Functions begin on this boundary at least.
pub(crate) const ALIGNMENT: usize = 16;
/// Fills the space between functions: an instruction that traps.
const PADDING: u8 = 0xcc;

/// Code at its final address.
pub(crate) struct Text {
    /// The code, from [`CODE_BASE`] on.
    pub bytes: Vec<u8>,
    /// Offset of each function's code.
    pub offsets: Vec<u32>,
    /// Bytes of each function's code.
    pub sizes: Vec<u32>,
    /// Address of the read-only data.
    pub rodata: u64,
}

impl Text {
    /// The address of the function at this position.
    pub fn address(&self, position: usize) -> Option<u64> {
        self.offsets.get(position).map(|offset| CODE_BASE + u64::from(*offset))
    }
}

/// Links `codes`; position in the slice is what [`Target::Function`] counts. Takes their bytes. `rodata_bytes` is the room
/// that read-only data needs in the same region.
pub(crate) fn link(codes: &mut [Code], rodata_bytes: u64, caps: &Caps) -> Result<Text, Error> {
    let total = codes.iter().fold(0u64, |sum, code| {
        sum.next_multiple_of(u64::from(code.alignment).max(ALIGNMENT as u64)) + code.bytes.len() as u64
    });
    let end = total.max(1).next_multiple_of(PAGE);
    caps.check(Cap::CodeBytes, "bytes of machine code", end)?;
    let both = end.saturating_add(rodata_bytes);
    caps::check("bytes of machine code and read-only data", both, Cap::CodeBytes.highest(), caps::NO_ROOM)?;

    let mut bytes = Vec::with_capacity(total as usize);
    let mut offsets = Vec::with_capacity(codes.len());
    let mut sizes = Vec::with_capacity(codes.len());
    for code in codes.iter_mut() {
        bytes.resize(bytes.len().next_multiple_of((code.alignment as usize).max(ALIGNMENT)), PADDING);
        offsets.push(bytes.len() as u32);
        sizes.push(code.bytes.len() as u32);
        bytes.append(&mut code.bytes);
        code.bytes = Vec::new();
    }
    // An artifact has code, if only to have one shape: a module without functions gets one padding byte.
    bytes.resize(bytes.len().max(1), PADDING);
    let mut text = Text { bytes, offsets, sizes, rodata: CODE_BASE + end };

    for (position, code) in codes.iter().enumerate() {
        let start = text.offsets.get(position).copied().unwrap_or(0);
        for relocation in &code.relocations {
            let error = |message: String| Error::Link { function: position, message };
            let target = match relocation.target {
                Target::Function(index) => text
                    .address(index as usize)
                    .ok_or_else(|| error(format!("there is no function {index}")))?,
                Target::Rodata => text.rodata,
            };
            let place = start as usize + relocation.offset as usize;
            let distance = (target as i64 - CODE_BASE as i64 - place as i64).checked_add(relocation.addend);
            let distance = distance
                .and_then(|distance| i32::try_from(distance).ok())
                .ok_or_else(|| error("a distance does not fit 32 bits".into()))?;
            let field = text.bytes.get_mut(place..).and_then(|bytes| bytes.first_chunk_mut::<4>());
            let field = field.ok_or_else(|| error("a relocation outside of the code".into()))?;
            *field = distance.to_le_bytes();
        }
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codegen::Relocation;

    fn code(bytes: &[u8], relocations: Vec<Relocation>) -> Code {
        Code { bytes: bytes.to_vec(), alignment: 1, relocations, ..Code::default() }
    }

    #[test]
    fn calls_are_relative_and_data_is_behind_the_text() {
        let call = |target| Relocation { offset: 1, target, addend: -4 };
        let mut codes = [
            code(&[0xe8, 0, 0, 0, 0], vec![call(Target::Function(1))]),
            code(&[0xe8, 0, 0, 0, 0], vec![call(Target::Function(0))]),
            code(&[0xe8, 0, 0, 0, 0], vec![call(Target::Rodata)]),
        ];
        let text = link(&mut codes, 0, &Caps::default()).unwrap();
        assert_eq!(text.offsets, [0, 16, 32]);
        assert_eq!(text.rodata, CODE_BASE + PAGE);
        let distance = |at: usize| i32::from_le_bytes(*text.bytes[at + 1..].first_chunk().unwrap());
        assert_eq!(distance(0), 16 - 5);
        assert_eq!(distance(16), -21);
        assert_eq!(i64::from(distance(32)), PAGE as i64 - 37);
        assert_eq!(text.bytes[5..16], [PADDING; 11]);
    }

    #[test]
    fn what_does_not_fit_or_exist_is_an_error() {
        let relocation = Relocation { offset: 1, target: Target::Function(7), addend: 0 };
        let link = |code: Code, caps: &Caps| link(&mut [code], 0, caps).map(|_| ()).unwrap_err().to_string();
        assert!(link(code(&[0; 8], vec![relocation]), &Caps::default()).contains("no function 7"));
        let outside = Relocation { offset: 6, target: Target::Function(0), addend: 0 };
        assert!(link(code(&[0; 8], vec![outside]), &Caps::default()).contains("outside"));
        let caps = Caps { code_bytes: 4096, ..Caps::default() };
        assert!(link(code(&[0; 4097], Vec::new()), &caps).contains("cap of 4096"));
    }
}
