//! The list for compiling, from profiles/compile.toml: what the compile zygote and its workers may call.

use std::sync::{Arc, OnceLock};

use crate::document::{self, Source, Table};
use crate::error::Error;
use crate::filter::{self, DefaultAction};
use crate::rule::{self, Rule};

/// The list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CompileRules {
    /// Calls that are allowed.
    pub allow: Vec<Rule>,
    /// Calls that fail with `ENOSYS`. Any other call ends the process.
    pub absent: Vec<Rule>,
}

/// The list for compiling.
pub fn compile_rules() -> Result<&'static CompileRules, Error> {
    static RULES: OnceLock<Result<CompileRules, Error>> = OnceLock::new();
    RULES.get_or_init(parse).as_ref().map_err(Clone::clone)
}

fn parse() -> Result<CompileRules, Error> {
    let source = Source::policy(include_str!("../profiles/compile.toml"), Arc::from("compile"));
    let document = document::parse(&source)?;
    let root = Table::root(&source, &document);
    root.only(&["version", "compile"])?;
    let mut rules = CompileRules { allow: Vec::new(), absent: Vec::new() };
    if let Some(section) = root.section("compile")? {
        section.only(&["allow", "absent"])?;
        rule::rules(&section.need("allow", "it lists the rules")?, &mut rules.allow, |_, _| Ok(()))?;
        rule::rules(&section.need("absent", "it lists what fails")?, &mut rules.absent, |_, _| Ok(()))?;
    }
    Ok(rules)
}

/// The seccomp program of the compile zygote and its workers. Without a handler for SIGSYS, a trap ends the process, and
/// shows what ended it.
pub fn compile_filter() -> Result<Vec<libc::sock_filter>, Error> {
    let CompileRules { allow, absent } = compile_rules()?;
    filter::with_absent("compile", allow, absent, DefaultAction::Trap)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::filter::AUDIT_ARCH_X86_64;
    use crate::interpreter::{SeccompData, interpret};

    fn decide(call: syscalls::x86_64::Sysno, args: [u64; 6]) -> u32 {
        let data =
            SeccompData { number: call.id() as u32, arch: AUDIT_ARCH_X86_64, instruction_pointer: 0, args };
        interpret(&compile_filter().unwrap(), &data).unwrap()
    }

    #[test]
    fn the_filter_for_compiling_decides_as_its_list_says() {
        use syscalls::x86_64::Sysno;
        const ENOSYS: u32 = libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32;
        let exec = (libc::PROT_READ | libc::PROT_EXEC) as u64;
        for (call, args, expected) in [
            (Sysno::clone3, [0; 6], ENOSYS),
            (Sysno::openat, [0; 6], ENOSYS),
            (Sysno::write, [1, 0, 0, 0, 0, 0], libc::SECCOMP_RET_ALLOW),
            (Sysno::mmap, [0, 4096, 3, 0, 0, 0], libc::SECCOMP_RET_ALLOW),
            (Sysno::mmap, [0, 4096, exec, 0, 0, 0], libc::SECCOMP_RET_TRAP),
            (Sysno::mprotect, [0, 4096, exec, 0, 0, 0], libc::SECCOMP_RET_TRAP),
            (Sysno::clone, [0x3d0f00, 0, 0, 0, 0, 0], libc::SECCOMP_RET_ALLOW),
            (Sysno::clone, [libc::SIGCHLD as u64, 0, 0, 0, 0, 0], libc::SECCOMP_RET_TRAP),
            (Sysno::tgkill, [1, 1, 9, 0, 0, 0], libc::SECCOMP_RET_TRAP),
            (Sysno::kill, [1, 9, 0, 0, 0, 0], libc::SECCOMP_RET_TRAP),
            (Sysno::socket, [0; 6], libc::SECCOMP_RET_TRAP),
            (Sysno::ptrace, [0; 6], libc::SECCOMP_RET_TRAP),
            (Sysno::execve, [0; 6], libc::SECCOMP_RET_TRAP),
        ] {
            assert_eq!(decide(call, args), expected, "{call} {args:x?}");
        }
    }
}
