//! What the daemon keeps for itself once it serves, from profiles/supervisor.toml: system calls, and names of files.

use std::fmt;
use std::sync::{Arc, OnceLock};

use crate::document::{self, Source, Table};
use crate::error::Error;
use crate::filter::{self, DefaultAction};
use crate::rule::{self, Place, Rule};

/// The lists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SupervisorRules {
    /// Calls that are allowed. Any other fails with `EPERM`.
    pub allow: Vec<Rule>,
    /// Calls that fail with `ENOSYS`.
    pub absent: Vec<Rule>,
    /// What may be done with files by their names: at most one rule for each place.
    pub paths: Vec<PathRule>,
}

/// What a rule for names of files is about: the directory that the place stands for, and everything below it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathRulePlace {
    /// The state directory.
    State,
    /// The directory of policies.
    Policies,
    /// The directory that the socket is in.
    Socket,
    /// `/proc`.
    Proc,
    /// Directories that clients may bring: `daemon.directories` of the configuration.
    Directories,
}

impl PathRulePlace {
    const ALL: [(&'static str, Self); 5] = [
        ("state", Self::State),
        ("policies", Self::Policies),
        ("socket", Self::Socket),
        ("proc", Self::Proc),
        ("directories", Self::Directories),
    ];

    /// Its name in the list.
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, place)| *place == self).map_or("", |(name, _)| name)
    }
}

/// `LANDLOCK_ACCESS_FS_*` (linux/landlock.h), by their names there.
const ACCESS: [(&str, u64); 16] = [
    ("execute", 1 << 0),
    ("write-file", 1 << 1),
    ("read-file", 1 << 2),
    ("read-dir", 1 << 3),
    ("remove-dir", 1 << 4),
    ("remove-file", 1 << 5),
    ("make-char", 1 << 6),
    ("make-dir", 1 << 7),
    ("make-reg", 1 << 8),
    ("make-sock", 1 << 9),
    ("make-fifo", 1 << 10),
    ("make-block", 1 << 11),
    ("make-sym", 1 << 12),
    ("refer", 1 << 13),
    ("truncate", 1 << 14),
    ("ioctl-dev", 1 << 15),
];

/// What may be done with the files of a place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathRule {
    /// Where.
    pub place: PathRulePlace,
    /// `LANDLOCK_ACCESS_FS_*`.
    pub access: u64,
    /// Why.
    pub why: String,
    /// Where the rule stands.
    pub at: Place,
}

impl PathRule {
    /// The names of what may be done.
    pub fn access_names(&self) -> impl Iterator<Item = &'static str> {
        ACCESS.into_iter().filter(|(_, bit)| self.access & bit != 0).map(|(name, _)| name)
    }
}

impl fmt::Display for PathRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place.name(), self.access_names().collect::<Vec<_>>().join(", "))
    }
}

impl SupervisorRules {
    /// The rule for a place.
    pub fn path(&self, place: PathRulePlace) -> Option<&PathRule> {
        self.paths.iter().find(|rule| rule.place == place)
    }
}

/// The daemon's lists.
pub fn supervisor_rules() -> Result<&'static SupervisorRules, Error> {
    static RULES: OnceLock<Result<SupervisorRules, Error>> = OnceLock::new();
    RULES.get_or_init(parse).as_ref().map_err(Clone::clone)
}

fn parse() -> Result<SupervisorRules, Error> {
    let source = Source::policy(include_str!("../profiles/supervisor.toml"), Arc::from("supervisor"));
    let document = document::parse(&source)?;
    let root = Table::root(&source, &document);
    root.only(&["version", "supervisor"])?;
    let mut rules = SupervisorRules { allow: Vec::new(), absent: Vec::new(), paths: Vec::new() };
    if let Some(section) = root.section("supervisor")? {
        section.only(&["allow", "absent", "path"])?;
        rule::rules(&section.need("allow", "it lists the rules")?, &mut rules.allow, |_, _| Ok(()))?;
        rule::rules(&section.need("absent", "it lists what fails")?, &mut rules.absent, |_, _| Ok(()))?;
        for element in section.need("path", "it lists files")?.array()? {
            let table = element.table("[[supervisor.path]]".to_owned())?;
            table.only(&["place", "access", "why"])?;
            let place = table.need("place", "it says where")?;
            let of = place.one_of(&PathRulePlace::ALL)?;
            if rules.path(of).is_some() {
                return Err(place.out_of_range("a place without a rule so far".to_owned()));
            }
            let mut access = 0;
            for value in table.need("access", "it says what may be done")?.array()? {
                access |= value.one_of(&ACCESS)?;
            }
            let why =
                table.need("why", "every rule must say why it is there")?.reason("why the rule is there")?;
            rules.paths.push(PathRule { place: of, access, why, at: table.place() });
        }
    }
    Ok(rules)
}

/// The seccomp program of a confined daemon.
pub fn supervisor_filter() -> Result<Vec<libc::sock_filter>, Error> {
    let SupervisorRules { allow, absent, .. } = supervisor_rules()?;
    filter::with_absent("supervisor", allow, absent, DefaultAction::Fail)
}

#[cfg(test)]
mod tests {
    use syscalls::x86_64::Sysno;

    use super::*;
    use crate::filter::AUDIT_ARCH_X86_64;
    use crate::interpreter::{SeccompData, interpret};

    const EPERM: u32 = libc::SECCOMP_RET_ERRNO | libc::EPERM as u32;
    const ENOSYS: u32 = libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32;

    fn decide(call: Sysno, args: [u64; 6]) -> u32 {
        let data =
            SeccompData { number: call.id() as u32, arch: AUDIT_ARCH_X86_64, instruction_pointer: 0, args };
        interpret(&supervisor_filter().unwrap(), &data).unwrap()
    }

    #[test]
    fn the_daemons_filter_decides_as_its_list_says() {
        let exec = (libc::PROT_READ | libc::PROT_EXEC) as u64;
        for (call, args, expected) in [
            (Sysno::clone3, [0; 6], ENOSYS),
            (Sysno::openat2, [0; 6], libc::SECCOMP_RET_ALLOW),
            (Sysno::clone, [0x3d0f00, 0, 0, 0, 0, 0], libc::SECCOMP_RET_ALLOW),
            (Sysno::clone, [libc::SIGCHLD as u64, 0, 0, 0, 0, 0], EPERM),
            (Sysno::clone, [0x3d0f00 | libc::CLONE_NEWUSER as u64, 0, 0, 0, 0, 0], EPERM),
            (Sysno::mmap, [0, 4096, 3, 2, 0, 0], libc::SECCOMP_RET_ALLOW),
            (Sysno::mmap, [0, 4096, exec, 2, 0, 0], EPERM),
            (Sysno::mprotect, [0, 4096, exec, 0, 0, 0], EPERM),
            (Sysno::pidfd_send_signal, [9, libc::SIGKILL as u64, 0, 0, 0, 0], libc::SECCOMP_RET_ALLOW),
            (Sysno::pidfd_send_signal, [9, libc::SIGSTOP as u64, 0, 0, 0, 0], EPERM),
            (Sysno::socketpair, [1, 0x80005, 0, 0, 0, 0], libc::SECCOMP_RET_ALLOW),
            (Sysno::socketpair, [1, 2, 0, 0, 0, 0], EPERM),
            (Sysno::sendto, [1, 2, 3, 0, 0, 0], libc::SECCOMP_RET_ALLOW),
            (Sysno::sendto, [1, 2, 3, 0, 4096, 110], EPERM),
        ] {
            assert_eq!(decide(call, args), expected, "{call} {args:x?}");
        }
    }

    /// What takes over a host, or another process, whatever the arguments are.
    #[test]
    fn what_serving_never_needs_fails() {
        for call in [
            Sysno::execve,
            Sysno::execveat,
            Sysno::fork,
            Sysno::vfork,
            Sysno::ptrace,
            Sysno::process_vm_readv,
            Sysno::process_vm_writev,
            Sysno::pidfd_open,
            Sysno::pidfd_getfd,
            Sysno::kill,
            Sysno::tkill,
            Sysno::rt_sigqueueinfo,
            Sysno::socket,
            Sysno::connect,
            Sysno::bind,
            Sysno::listen,
            Sysno::mount,
            Sysno::umount2,
            Sysno::move_mount,
            Sysno::open_tree,
            Sysno::fsopen,
            Sysno::fsmount,
            Sysno::pivot_root,
            Sysno::chroot,
            Sysno::unshare,
            Sysno::setns,
            Sysno::bpf,
            Sysno::perf_event_open,
            Sysno::userfaultfd,
            Sysno::io_uring_setup,
            Sysno::keyctl,
            Sysno::add_key,
            Sysno::request_key,
            Sysno::init_module,
            Sysno::finit_module,
            Sysno::delete_module,
            Sysno::kexec_load,
            Sysno::kexec_file_load,
            Sysno::reboot,
            Sysno::swapon,
            Sysno::setuid,
            Sysno::setresuid,
            Sysno::setgid,
            Sysno::setgroups,
            Sysno::capset,
            Sysno::mknod,
            Sysno::mknodat,
            Sysno::chmod,
            Sysno::fchmodat,
            Sysno::chown,
            Sysno::fchownat,
            Sysno::setxattr,
            Sysno::open_by_handle_at,
            Sysno::name_to_handle_at,
            Sysno::personality,
            Sysno::modify_ldt,
            Sysno::iopl,
            Sysno::settimeofday,
            Sysno::clock_settime,
            Sysno::sethostname,
            Sysno::seccomp,
            Sysno::acct,
            Sysno::quotactl,
            Sysno::shmget,
            Sysno::msgget,
            Sysno::semget,
            Sysno::fanotify_init,
            Sysno::inotify_init1,
        ] {
            let rules = supervisor_rules().unwrap();
            assert!(rules.allow.iter().all(|rule| rule.syscall != call), "{call}");
            assert_eq!(decide(call, [0; 6]), EPERM, "{call}");
            assert_eq!(decide(call, [u64::MAX; 6]), EPERM, "{call}");
        }
    }

    #[test]
    fn every_place_has_a_rule_with_a_reason_and_devices_are_never_made() {
        let rules = supervisor_rules().unwrap();
        for (name, place) in PathRulePlace::ALL {
            let rule = rules.path(place).unwrap_or_else(|| panic!("{name}"));
            assert!(rule.why.split(' ').count() >= 3 && rule.access != 0, "{name}");
            assert_eq!(place.name(), name);
        }
        let some = rules.paths.iter().fold(0, |some, rule| some | rule.access);
        let never: Vec<&str> =
            ACCESS.iter().filter(|(_, bit)| some & bit == 0).map(|(name, _)| *name).collect();
        assert_eq!(never, ["execute", "make-char", "make-sock", "make-fifo", "make-block", "ioctl-dev"]);
        let text = format!("{}", rules.path(PathRulePlace::Policies).unwrap());
        assert_eq!(text, "policies: read-file, read-dir");
    }
}
