//! What becomes of a generated module before it is run: its segments fit and its memories are not shared, or hardly any module
//! would get as far as a call; calls go through typed references; and relaxed operators get operands of which all
//! implementations make the same.

use std::collections::BTreeSet;
use std::convert::Infallible;

use wasm_encoder::reencode::{Error, Reencode, utils};
use wasm_encoder::{
    BlockType, CodeSection, ConstExpr, DataSection, ElementSection, Elements, Function, HeapType,
    Instruction, MemoryType, RefType, ValType,
};
use wasmparser::{
    Data, DataKind, Element, ElementItems, ElementKind, ExternalKind, FunctionBody, Operator, Parser, Payload,
};

use crate::generate::Random;

/// Bytes of a page.
const PAGE: u64 = 1 << 16;

/// Rewrites a valid module without imports. `None`: it is not one.
pub fn rewrite(wasm: &[u8], random: Random) -> Option<Vec<u8>> {
    let mut rewriter = Rewriter::of(wasm, random).ok()?;
    let mut module = wasm_encoder::Module::new();
    rewriter.parse_core_module(&mut module, Parser::new(0), wasm).ok()?;
    Some(module.finish())
}

struct Rewriter {
    random: Random,
    /// Parameters of each type.
    parameters: Vec<u32>,
    /// The type of each function.
    types: Vec<u32>,
    /// Functions that `ref.func` may name, because an export does.
    declared: BTreeSet<u32>,
    /// Bytes that each memory has at first, and whether its addresses have 64 bits.
    memories: Vec<(u64, bool)>,
    /// Entries that each table has at first, and whether its indices have 64 bits.
    tables: Vec<(u64, bool)>,
    /// Data segments that the code may name.
    data_segments: u32,
    /// Function bodies seen so far.
    bodies: usize,
    /// Whether segments are made to fit.
    fitting: bool,
    /// Whether offsets are multiples of 8, as atomic accesses trap otherwise.
    aligned: bool,
    /// Whether some vector operators become relaxed ones.
    relaxing: bool,
    /// Of how many calls one goes through a reference.
    typed: Option<u64>,
}

impl Rewriter {
    fn of(wasm: &[u8], mut random: Random) -> wasmparser::Result<Self> {
        let fitting = !random.one_in(16);
        let aligned = random.one_in(2);
        let typed = random.one_in(2).then(|| 1 + random.below(3));
        let relaxing = random.one_in(2);
        let mut rewriter = Self {
            random,
            parameters: Vec::new(),
            types: Vec::new(),
            declared: BTreeSet::new(),
            memories: Vec::new(),
            tables: Vec::new(),
            data_segments: 0,
            bodies: 0,
            fitting,
            aligned,
            relaxing,
            typed,
        };
        for payload in Parser::new(0).parse_all(wasm) {
            match payload? {
                Payload::TypeSection(section) => {
                    for ty in section.into_iter_err_on_gc_types() {
                        rewriter.parameters.push(ty?.params().len() as u32);
                    }
                }
                Payload::FunctionSection(section) => {
                    rewriter.types = section.into_iter().collect::<wasmparser::Result<_>>()?;
                }
                Payload::MemorySection(section) => {
                    for memory in section {
                        let memory = memory?;
                        rewriter.memories.push((memory.initial.saturating_mul(PAGE), memory.memory64));
                    }
                }
                Payload::TableSection(section) => {
                    for table in section {
                        let ty = table?.ty;
                        rewriter.tables.push((ty.initial, ty.table64));
                    }
                }
                Payload::DataCountSection { count, .. } => rewriter.data_segments = count,
                Payload::ExportSection(section) => {
                    for export in section {
                        let export = export?;
                        if export.kind == ExternalKind::Func {
                            rewriter.declared.insert(export.index);
                        }
                    }
                }
                _ => {}
            }
        }
        Ok(rewriter)
    }

    /// An offset at which `length` bytes or entries fit into `room`.
    fn offset(&mut self, room: Option<&(u64, bool)>, length: u64) -> Option<ConstExpr> {
        let &(room, is_64) = room?;
        let at = self.random.below(room.checked_sub(length)?.saturating_add(1));
        Some(if is_64 { ConstExpr::i64_const(at as i64) } else { ConstExpr::i32_const(at as u32 as i32) })
    }

    /// Copies a few bytes of a data segment to a memory.
    fn initialise(&mut self, body: &mut Body<'_>) {
        let memory = self.random.below(self.memories.len().max(1) as u64);
        let Some(&(_, is_64)) = self.memories.get(memory as usize) else { return };
        let at = self.random.below(1000) as i32;
        let [data_index, length] =
            [u64::from(self.data_segments), 4].map(|bound| self.random.below(bound) as u32);
        body.code.extend([
            if is_64 { Instruction::I64Const(at.into()) } else { Instruction::I32Const(at) },
            Instruction::I32Const(0),
            Instruction::I32Const(length as i32),
            Instruction::MemoryInit { mem: memory as u32, data_index },
        ]);
    }

    /// The function's type, if the call is to go through a reference.
    fn through_reference(&mut self, function: u32) -> Option<u32> {
        let one_in = self.typed?;
        let ty = *self.types.get(function as usize)?;
        (self.declared.contains(&function) && self.random.one_in(one_in)).then_some(ty)
    }
}

/// The relaxed operator that may do what this one does.
fn relaxed(operator: &Operator<'_>) -> Option<Instruction<'static>> {
    Some(match operator {
        Operator::I8x16Swizzle => Instruction::I8x16RelaxedSwizzle,
        Operator::V128Bitselect => Instruction::I8x16RelaxedLaneselect,
        Operator::I32x4TruncSatF32x4S => Instruction::I32x4RelaxedTruncF32x4S,
        Operator::I32x4TruncSatF32x4U => Instruction::I32x4RelaxedTruncF32x4U,
        Operator::I32x4TruncSatF64x2SZero => Instruction::I32x4RelaxedTruncF64x2SZero,
        Operator::I32x4TruncSatF64x2UZero => Instruction::I32x4RelaxedTruncF64x2UZero,
        Operator::I16x8Q15MulrSatS => Instruction::I16x8RelaxedQ15mulrS,
        Operator::F32x4PMin => Instruction::F32x4RelaxedMin,
        Operator::F32x4PMax => Instruction::F32x4RelaxedMax,
        Operator::F64x2PMin => Instruction::F64x2RelaxedMin,
        Operator::F64x2PMax => Instruction::F64x2RelaxedMax,
        Operator::I16x8ExtMulLowI8x16S => Instruction::I16x8RelaxedDotI8x16I7x16S,
        _ => return None,
    })
}

/// A function's body as it is written.
struct Body<'a> {
    code: Vec<Instruction<'a>>,
    /// Types of the locals, parameters not counted.
    locals: Vec<ValType>,
    parameters: u32,
}

impl Body<'_> {
    fn local(&mut self, ty: ValType) -> u32 {
        self.locals.push(ty);
        self.parameters + self.locals.len() as u32 - 1
    }

    /// Leaves a reference to a function of type `ty` on the stack, by one of several ways.
    fn reference(&mut self, random: &mut Random, function: u32, ty: u32) {
        let there = RefType { nullable: false, heap_type: HeapType::Concrete(ty) };
        let block = Instruction::Block(BlockType::Result(ValType::Ref(there)));
        let kept = |body: &mut Self| {
            let local = body.local(ValType::Ref(RefType { nullable: true, ..there }));
            body.code.extend([
                Instruction::RefFunc(function),
                Instruction::LocalSet(local),
                Instruction::LocalGet(local),
            ]);
        };
        match random.below(34) {
            0 => self.code.push(Instruction::RefNull(HeapType::Concrete(ty))),
            1 => {
                self.code.extend([Instruction::RefNull(HeapType::Concrete(ty)), Instruction::RefAsNonNull]);
            }
            2..10 => {
                kept(self);
                self.code.push(Instruction::RefAsNonNull);
            }
            10..18 => {
                self.code.push(block);
                kept(self);
                self.code.extend([Instruction::BrOnNonNull(0), Instruction::Unreachable, Instruction::End]);
            }
            18..26 => {
                self.code.extend([block, Instruction::Block(BlockType::Empty)]);
                kept(self);
                self.code.extend([
                    Instruction::BrOnNull(0),
                    Instruction::Br(1),
                    Instruction::End,
                    Instruction::Unreachable,
                    Instruction::End,
                ]);
            }
            _ => self.code.push(Instruction::RefFunc(function)),
        }
    }

    /// Makes every NaN in the vector on top of the stack the same one.
    fn canonical(&mut self, f64x2: bool) {
        const F32X4: i128 = 0x7fc0_0000_7fc0_0000_7fc0_0000_7fc0_0000;
        const F64X2: i128 = 0x7ff8_0000_0000_0000_7ff8_0000_0000_0000;
        let local = self.local(ValType::V128);
        self.code.extend([
            Instruction::LocalTee(local),
            Instruction::V128Const(if f64x2 { F64X2 } else { F32X4 }),
            Instruction::LocalGet(local),
            Instruction::LocalGet(local),
            if f64x2 { Instruction::F64x2Eq } else { Instruction::F32x4Eq },
            Instruction::V128Bitselect,
        ]);
    }
}

impl Reencode for Rewriter {
    type Error = Infallible;

    fn memory_type(&mut self, ty: wasmparser::MemoryType) -> Result<MemoryType, Error> {
        Ok(MemoryType { shared: false, ..utils::memory_type(self, ty) })
    }

    fn mem_arg(&mut self, arg: wasmparser::MemArg) -> Result<wasm_encoder::MemArg, Error> {
        let offset = if self.aligned { arg.offset & !7 } else { arg.offset };
        utils::mem_arg(self, wasmparser::MemArg { offset, ..arg })
    }

    fn parse_data(&mut self, data: &mut DataSection, datum: Data<'_>) -> Result<(), Error> {
        let DataKind::Active { memory_index, .. } = datum.kind else {
            return utils::parse_data(self, data, datum);
        };
        if !self.fitting {
            return utils::parse_data(self, data, datum);
        }
        let room = self.memories.get(memory_index as usize).copied();
        let bytes = datum.data.iter().copied();
        match self.offset(room.as_ref(), datum.data.len() as u64) {
            Some(offset) => data.active(memory_index, &offset, bytes),
            None => data.passive(bytes),
        };
        Ok(())
    }

    fn parse_element(&mut self, elements: &mut ElementSection, element: Element<'_>) -> Result<(), Error> {
        let ElementKind::Active { table_index, .. } = element.kind else {
            return utils::parse_element(self, elements, element);
        };
        if !self.fitting {
            return utils::parse_element(self, elements, element);
        }
        let count = match &element.items {
            ElementItems::Functions(items) => items.count(),
            ElementItems::Expressions(_, items) => items.count(),
        };
        let items: Elements<'_> = self.element_items(element.items)?;
        let room = self.tables.get(table_index.unwrap_or(0) as usize).copied();
        match self.offset(room.as_ref(), count.into()) {
            Some(offset) => elements.active(table_index, &offset, items),
            None => elements.passive(items),
        };
        Ok(())
    }

    fn parse_function_body(&mut self, code: &mut CodeSection, body: FunctionBody<'_>) -> Result<(), Error> {
        let ty = self.types.get(self.bodies).copied().unwrap_or(0);
        self.bodies += 1;
        let parameters = self.parameters.get(ty as usize).copied().unwrap_or(0);
        let mut new = Body { code: Vec::new(), locals: Vec::new(), parameters };
        for local in body.get_locals_reader()? {
            let (count, ty) = local?;
            let ty = self.val_type(ty)?;
            new.locals.extend(std::iter::repeat_n(ty, count as usize));
        }
        if self.data_segments > 0 && self.random.one_in(4) {
            self.initialise(&mut new);
        }
        let mut reader = body.get_operators_reader()?;
        while !reader.eof() {
            let operator = reader.read()?;
            match operator {
                Operator::Call { function_index } => {
                    if let Some(ty) = self.through_reference(function_index) {
                        new.reference(&mut self.random, function_index, ty);
                        new.code.push(Instruction::CallRef(ty));
                        continue;
                    }
                }
                Operator::ReturnCall { function_index } => {
                    if let Some(ty) = self.through_reference(function_index) {
                        new.reference(&mut self.random, function_index, ty);
                        new.code.push(Instruction::ReturnCallRef(ty));
                        continue;
                    }
                }
                // Most addresses are no multiple of anything.
                Operator::I32AtomicLoad { memarg }
                | Operator::I64AtomicLoad { memarg }
                | Operator::I32AtomicLoad16U { memarg }
                | Operator::I64AtomicLoad16U { memarg }
                | Operator::I64AtomicLoad32U { memarg }
                    if self.aligned =>
                {
                    let is_64 = self.memories.get(memarg.memory as usize).is_some_and(|(_, is_64)| *is_64);
                    new.code.extend(if is_64 {
                        [Instruction::I64Const(-8), Instruction::I64And]
                    } else {
                        [Instruction::I32Const(-8), Instruction::I32And]
                    });
                }
                // Of a mask with mixed bits we take each byte's highest, and Wasmtime takes each bit.
                Operator::I16x8RelaxedLaneselect => {
                    new.code.extend([Instruction::I32Const(15), Instruction::I16x8ShrS]);
                }
                _ => {}
            }
            if self.relaxing
                && self.random.one_in(2)
                && let Some(relaxed) = relaxed(&operator)
            {
                new.code.push(relaxed);
                continue;
            }
            let wide = matches!(operator, Operator::I64MulWideS | Operator::I64MulWideU);
            let rounds = match operator {
                Operator::F32x4RelaxedMadd | Operator::F32x4RelaxedNmadd => Some(false),
                Operator::F64x2RelaxedMadd | Operator::F64x2RelaxedNmadd => Some(true),
                _ => None,
            };
            new.code.push(self.instruction(operator)?);
            if let Some(f64x2) = rounds {
                new.canonical(f64x2);
            }
            if wide && self.random.one_in(2) {
                let [low, high] = [self.random.word(), self.random.word()];
                let add = self.random.one_in(2);
                new.code.extend([
                    Instruction::I64Const(low as i64),
                    Instruction::I64Const(high as i64),
                    if add { Instruction::I64Add128 } else { Instruction::I64Sub128 },
                ]);
            }
        }
        let mut function = Function::new(new.locals.iter().map(|ty| (1, *ty)));
        for instruction in &new.code {
            function.instruction(instruction);
        }
        code.function(&function);
        Ok(())
    }
}
