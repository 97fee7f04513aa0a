//! A seccomp program for people: one line per instruction.

use syscalls::x86_64::Sysno;

use crate::filter::{AUDIT_ARCH_X86_64, OFFSET_ARCH, OFFSET_ARGS, OFFSET_NUMBER, OFFSET_POINTER};

/// One line per instruction: its index, its fields (`code jt jf k`), what it does. Jumps name the index that they lead to.
pub fn disassemble(program: &[libc::sock_filter]) -> Vec<String> {
    let loaded = loaded(program);
    program
        .iter()
        .zip(loaded)
        .enumerate()
        .map(|(index, (i, loaded))| {
            let text = meaning(i, index, loaded);
            format!("{index:4}: {:#06x} {:3} {:3} {:#010x}  {text}", i.code, i.jt, i.jf, i.k)
        })
        .collect()
}

/// The offset of the word that the accumulator holds before each instruction, where every way there agrees.
fn loaded(program: &[libc::sock_filter]) -> Vec<Option<u32>> {
    // Outside: not reached so far. Jumps go forward only, so one pass sees every way.
    let mut before: Vec<Option<Option<u32>>> = vec![None; program.len()];
    if let Some(first) = before.first_mut() {
        *first = Some(None);
    }
    for (index, i) in program.iter().enumerate() {
        let here = before.get(index).copied().flatten().unwrap_or(None);
        let code = u32::from(i.code);
        let after = if code & 0x07 == libc::BPF_LD { Some(i.k) } else { here };
        let steps = match code & 0x07 {
            libc::BPF_RET => [None, None],
            libc::BPF_JMP if code & 0xf0 == libc::BPF_JA => [Some(i.k as usize), None],
            libc::BPF_JMP => [Some(usize::from(i.jt)), Some(usize::from(i.jf))],
            _ => [Some(0), None],
        };
        for step in steps.into_iter().flatten() {
            if let Some(target) = before.get_mut(index.saturating_add(1).saturating_add(step)) {
                *target = match *target {
                    Some(other) if other != after => Some(None),
                    _ => Some(after),
                };
            }
        }
    }
    before.into_iter().map(|state| state.flatten()).collect()
}

fn meaning(i: &libc::sock_filter, index: usize, loaded: Option<u32>) -> String {
    let code = u32::from(i.code);
    let next = index.saturating_add(1);
    let (yes, no) = (next.saturating_add(usize::from(i.jt)), next.saturating_add(usize::from(i.jf)));
    let compare = |operator: &str| format!("if A {operator} {} goto {yes} else {no}", value(i.k, loaded));
    match code & 0x07 {
        libc::BPF_LD => format!("A = {}", word(i.k)),
        libc::BPF_ALU if code == libc::BPF_ALU | libc::BPF_AND | libc::BPF_K => format!("A &= {:#x}", i.k),
        libc::BPF_JMP => match code & 0xf0 {
            libc::BPF_JA => format!("goto {}", next.saturating_add(i.k as usize)),
            libc::BPF_JEQ => compare("=="),
            libc::BPF_JGT => compare(">"),
            libc::BPF_JGE => compare(">="),
            libc::BPF_JSET => compare("&"),
            _ => "unknown jump".to_owned(),
        },
        libc::BPF_RET => format!("return {}", action(i.k)),
        _ => "unknown instruction".to_owned(),
    }
}

fn word(offset: u32) -> String {
    let half = |offset: u32| if offset.is_multiple_of(8) { "low" } else { "high" };
    match offset {
        OFFSET_NUMBER => "number".to_owned(),
        OFFSET_ARCH => "architecture".to_owned(),
        _ if (OFFSET_POINTER..OFFSET_ARGS).contains(&offset) => {
            format!("instruction pointer, {} half", half(offset))
        }
        _ if (OFFSET_ARGS..OFFSET_ARGS + 48).contains(&offset) => {
            format!("argument {}, {} half", (offset - OFFSET_ARGS) / 8, half(offset))
        }
        _ => format!("word at {offset}"),
    }
}

fn value(k: u32, loaded: Option<u32>) -> String {
    match loaded {
        Some(OFFSET_ARCH) if k == AUDIT_ARCH_X86_64 => "x86-64".to_owned(),
        Some(OFFSET_NUMBER) => {
            Sysno::new(k as usize).map_or_else(|| k.to_string(), |call| call.name().to_owned())
        }
        _ => format!("{k:#x}"),
    }
}

fn action(k: u32) -> String {
    match k & libc::SECCOMP_RET_ACTION_FULL {
        libc::SECCOMP_RET_ALLOW => "allow".to_owned(),
        libc::SECCOMP_RET_TRAP => "trap".to_owned(),
        libc::SECCOMP_RET_KILL_PROCESS => "kill the process".to_owned(),
        libc::SECCOMP_RET_ERRNO => format!("error {}", k & libc::SECCOMP_RET_DATA),
        _ => format!("{k:#x}"),
    }
}

#[cfg(test)]
mod tests {
    use crate::{FilterContext, Policy, compile_filter, disassemble, zygote_base_filter};

    #[test]
    fn every_instruction_has_its_line() {
        let default = Policy::builtin("default").unwrap().instance_filter(&FilterContext::default()).unwrap();
        for program in [&default, &zygote_base_filter().unwrap(), &compile_filter().unwrap()] {
            let lines = disassemble(program);
            assert_eq!(lines.len(), program.len());
            assert!(lines.iter().all(|line| !line.contains("unknown")), "{lines:?}");
        }
        let text = disassemble(&default).join("\n");
        for line in [
            "A = architecture",
            "if A == x86-64 goto 3 else 2",
            "A == mprotect goto",
            "return allow",
            "return trap",
        ] {
            assert!(text.contains(line), "{line}: {text}");
        }
    }
}
