//! The attacker: "guest code" that is native code of ours, loaded through the real path.
//!
//! This is what an instance looks like once the first wall is gone: arbitrary machine code runs inside it. Every
//! confinement test starts from here.

use std::sync::Arc;
use std::time::Duration;

use compiler::RawModule;
use compiler::metadata::{Import, ImportItem};
use ipc::job::{COMPLETIONS_OFFSET, EXIT_OFFSET, INDICES_OFFSET, JOB_OFFSET, SUBMISSIONS_OFFSET, exit_kind};
use ipc::layout::{CODE_BASE, GATE_SYSCALL, RING_BASE};
use ipc::report::{Outcome, Report, Value};
use policies::Policy;
use supervisor::{
    CallOutcome, Config, Entry, Error, Imports, Job, JobLimits, Module, ModuleSource, PoolLimits, Preopen,
    Session, Supervisor, ValType,
};

use crate::{ring_program, side_channel};

/// Machine code of one attack, called with up to six integers in rdi, rsi, rdx, rcx, r8, r9; answers in rax.
pub(crate) struct Weapon {
    pub(crate) name: &'static str,
    pub(crate) parameters: usize,
    pub(crate) code: Vec<u8>,
}

/// Address of a word of the ring that is not 0, as what is written to a doorbell must be: that of the job's header.
const NOT_ZERO: u32 = (RING_BASE as usize + JOB_OFFSET) as u32;

fn weapons() -> Vec<Weapon> {
    let mut all = own_weapons();
    all.extend(side_channel::weapons());
    all.push(ring_program::weapon());
    all
}

fn own_weapons() -> Vec<Weapon> {
    let shuffle: &[u8] = &[
        0x48, 0x89, 0xf8, // mov rax, rdi
        0x48, 0x89, 0xf7, // mov rdi, rsi
        0x48, 0x89, 0xd6, // mov rsi, rdx
        0x48, 0x89, 0xca, // mov rdx, rcx
        0x4d, 0x89, 0xc2, // mov r10, r8
        0x4d, 0x89, 0xc8, // mov r8, r9
        0x45, 0x31, 0xc9, // xor r9d, r9d
    ];
    let syscall = [shuffle, &[0x0f, 0x05, 0xc3]].concat(); // syscall; ret
    let through_gate = [
        shuffle,
        &[0x41, 0xbb], // mov r11d, GATE_SYSCALL
        &(GATE_SYSCALL as u32).to_le_bytes(),
        &[0x41, 0xff, 0xd3, 0xc3], // call r11; ret
    ]
    .concat();
    let int80 = vec![
        0x89, 0xf8, // mov eax, edi
        0x89, 0xf3, // mov ebx, esi
        0x49, 0x89, 0xca, // mov r10, rcx
        0x89, 0xd1, // mov ecx, edx
        0x44, 0x89, 0xd2, // mov edx, r10d
        0x44, 0x89, 0xc6, // mov esi, r8d
        0x44, 0x89, 0xcf, // mov edi, r9d
        0xcd, 0x80, // int 0x80
        0xc3,
    ];
    // Two words written anywhere, then the doorbell, then silence.
    let forge_submission = [
        &[
            0x48, 0x89, 0x37, // mov [rdi], rsi
            0x48, 0x89, 0x0a, // mov [rdx], rcx
            0xb8, 0x01, 0x00, 0x00, 0x00, // mov eax, 1 (write)
            0xbf, 0x03, 0x00, 0x00, 0x00, // mov edi, 3 (the doorbell)
            0xbe, // mov esi, NOT_ZERO
        ][..],
        &NOT_ZERO.to_le_bytes(),
        &[
            0xba, 0x08, 0x00, 0x00, 0x00, // mov edx, 8
            0x0f, 0x05, // syscall
            0xeb, 0xfe, // jmp $
        ],
    ]
    .concat();
    // The first slot gets function rdi and, at address rsi, argument rdx; one slot is submitted by index rcx.
    let forge_slot = [
        &[0x41, 0xb8][..], // mov r8d, the first slot
        &((RING_BASE as usize + SUBMISSIONS_OFFSET) as u32).to_le_bytes(),
        &[
            0x49, 0x89, 0x38, // mov [r8], rdi
            0x48, 0x89, 0x16, // mov [rsi], rdx
            0x48, 0xc7, 0x01, 0x01, 0x00, 0x00, 0x00, // mov qword [rcx], 1
            0xb8, 0x01, 0x00, 0x00, 0x00, // mov eax, 1 (write)
            0xbf, 0x03, 0x00, 0x00, 0x00, // mov edi, 3 (the doorbell)
            0xbe, // mov esi, NOT_ZERO
        ],
        &NOT_ZERO.to_le_bytes(),
        &[
            0xba, 0x08, 0x00, 0x00, 0x00, // mov edx, 8
            0x0f, 0x05, // syscall
            0xeb, 0xfe, // jmp $
        ],
    ]
    .concat();
    let ring = [
        &[
            0xb8, 0x01, 0x00, 0x00, 0x00, // again: mov eax, 1 (write)
            0xbf, 0x03, 0x00, 0x00, 0x00, // mov edi, 3 (the doorbell)
            0xbe, // mov esi, NOT_ZERO
        ][..],
        &NOT_ZERO.to_le_bytes(),
        &[
            0xba, 0x08, 0x00, 0x00, 0x00, // mov edx, 8
            0x0f, 0x05, // syscall
            0xeb, 0xe8, // jmp again
        ],
    ]
    .concat();
    // Fills every slot with function rdi and its first three arguments, then submits one after the other for ever. With the
    // third one 0 it takes no completion.
    let flood = [
        &[0x49, 0x89, 0xcb, 0x41, 0xb8][..], // mov r11, rcx; mov r8d, the first slot
        &((RING_BASE as usize + SUBMISSIONS_OFFSET) as u32).to_le_bytes(),
        &[
            0x41, 0xbc, 0x40, 0x00, 0x00, 0x00, // mov r12d, 64
            0x49, 0x89, 0x38, // fill: mov [r8], rdi
            0x49, 0x89, 0x70, 0x08, // mov [r8+8], rsi
            0x49, 0x89, 0x50, 0x10, // mov [r8+16], rdx
            0x49, 0x89, 0x48, 0x18, // mov [r8+24], rcx
            0x49, 0x81, 0xc0, 0x80, 0x00, 0x00, 0x00, // add r8, 128
            0x41, 0xff, 0xcc, // dec r12d
            0x75, 0xe5, // jnz fill
            0x4d, 0x89, 0xdd, // mov r13, r11
            0x41, 0xb9, // mov r9d, the indices
        ],
        &((RING_BASE as usize + INDICES_OFFSET) as u32).to_le_bytes(),
        &[
            0x45, 0x31, 0xd2, // xor r10d, r10d
            0x41, 0xff, 0xc2, // next: inc r10d
            0x45, 0x89, 0x11, // mov [r9], r10d
            0xb8, 0x01, 0x00, 0x00, 0x00, // mov eax, 1 (write)
            0xbf, 0x03, 0x00, 0x00, 0x00, // mov edi, 3 (the doorbell)
            0xbe, // mov esi, NOT_ZERO
        ],
        &NOT_ZERO.to_le_bytes(),
        &[
            0xba, 0x08, 0x00, 0x00, 0x00, // mov edx, 8
            0x0f, 0x05, // syscall
            0xf3, 0x90, // wait: pause
            0x41, 0x8b, 0x41, 0x40, // mov eax, [r9+64] (served)
            0x44, 0x39, 0xd0, // cmp eax, r10d
            0x75, 0xf5, // jne wait
            0x4d, 0x85, 0xed, // test r13, r13
            0x74, 0xd4, // jz next
            0x41, 0x8b, 0x81, 0x80, 0x00, 0x00, 0x00, // mov eax, [r9+128] (completed)
            0x41, 0x89, 0x81, 0xc0, 0x00, 0x00, 0x00, // mov [r9+192], eax (taken)
            0xeb, 0xc4, // jmp next
        ],
    ]
    .concat();
    // Looks for 16 bytes in rsi bytes from rdi on, and returns where they are, or 0. What is looked for comes as rdx and rcx under
    // a mask, and is never anywhere but in registers.
    let scan = [
        &[
            0x49, 0x89, 0xd0, // mov r8, rdx
            0x49, 0x89, 0xc9, // mov r9, rcx
            0x48, 0xb8, // mov rax, SCAN_MASK
        ][..],
        &SCAN_MASK.to_le_bytes(),
        &[
            0x49, 0x31, 0xc0, // xor r8, rax
            0x49, 0x31, 0xc1, // xor r9, rax
            0x48, 0x8d, 0x74, 0x37, 0xf1, // lea rsi, [rdi + rsi - 15]
            0x48, 0x39, 0xf7, // again: cmp rdi, rsi
            0x73, 0x10, // jae none
            0x4c, 0x39, 0x07, // cmp [rdi], r8
            0x75, 0x06, // jne next
            0x4c, 0x39, 0x4f, 0x08, // cmp [rdi + 8], r9
            0x74, 0x09, // je found
            0x48, 0xff, 0xc7, // next: inc rdi
            0xeb, 0xeb, // jmp again
            0x31, 0xc0, // none: xor eax, eax
            0xeb, 0x03, // jmp out
            0x48, 0x89, 0xf8, // found: mov rax, rdi
            0x45, 0x31, 0xc0, // out: xor r8d, r8d
            0x45, 0x31, 0xc9, // xor r9d, r9d
            0xc3, // ret
        ],
    ]
    .concat();
    let ring_doorbell = [
        &[
            0xb8, 0x01, 0x00, 0x00, 0x00, // mov eax, 1 (write)
            0xbf, 0x03, 0x00, 0x00, 0x00, // mov edi, 3 (the doorbell)
            0xbe, // mov esi, NOT_ZERO
        ][..],
        &NOT_ZERO.to_le_bytes(),
        &[
            0xba, 0x08, 0x00, 0x00, 0x00, // mov edx, 8
            0x0f, 0x05, // syscall
        ],
    ]
    .concat();
    // Leaves a record of success, submits function rdi, then function rsi, and rings for ever.
    let submit_two = [
        &[0x41, 0xb8][..], // mov r8d, the exit record
        &((RING_BASE as usize + EXIT_OFFSET) as u32).to_le_bytes(),
        &[0x41, 0xc7, 0x00], // mov dword [r8], RETURNED
        &exit_kind::RETURNED.to_le_bytes(),
        &[0x41, 0xb8], // mov r8d, the first slot
        &((RING_BASE as usize + SUBMISSIONS_OFFSET) as u32).to_le_bytes(),
        &[
            0x49, 0x89, 0x38, // mov [r8], rdi
            0x49, 0x89, 0xb0, 0x80, 0x00, 0x00, 0x00, // mov [r8 + 128], rsi
            0x41, 0xb9, // mov r9d, the submission index
        ],
        &((RING_BASE as usize + INDICES_OFFSET) as u32).to_le_bytes(),
        &[0x41, 0xc7, 0x01, 0x01, 0x00, 0x00, 0x00], // mov dword [r9], 1
        &ring_doorbell,
        &[0x41, 0xc7, 0x01, 0x02, 0x00, 0x00, 0x00], // mov dword [r9], 2
        &ring_doorbell,
        &[0xeb, (-2 - ring_doorbell.len() as i8) as u8], // jmp to the doorbell before
    ]
    .concat();
    // Makes the host call whose submission lies at rdi, waits for its completion, puts that there instead, and returns the error
    // number.
    let host_call = host_call_with(&ring_doorbell, &[]);
    // The same; while it waits it inverts four bytes at rsi again and again.
    let race = host_call_with(&ring_doorbell, &[0xf7, 0x16]); // not dword [rsi]
    vec![
        // The first: a test writes over it (`sealed_code_stays_what_it_is`).
        Weapon { name: "scan", parameters: 4, code: scan },
        Weapon { name: "host-call", parameters: 1, code: host_call },
        Weapon { name: "race", parameters: 2, code: race },
        Weapon { name: "submit-two", parameters: 2, code: submit_two },
        Weapon { name: "flood", parameters: 4, code: flood },
        // jmp $
        Weapon { name: "spin", parameters: 0, code: vec![0xeb, 0xfe] },
        // push rax; jmp $-1
        Weapon { name: "push", parameters: 0, code: vec![0x50, 0xeb, 0xfd] },
        // Rings the doorbell for ever, without a submission.
        Weapon { name: "ring", parameters: 0, code: ring },
        Weapon { name: "syscall", parameters: 6, code: syscall },
        Weapon { name: "syscall-through-gate", parameters: 6, code: through_gate },
        Weapon { name: "int80", parameters: 6, code: int80 },
        // Calls rdi with the other three arguments: mov rax, rdi; mov rdi, rsi; mov rsi, rdx; mov rdx, rcx; jmp rax
        Weapon {
            name: "call",
            parameters: 4,
            code: vec![0x48, 0x89, 0xf8, 0x48, 0x89, 0xf7, 0x48, 0x89, 0xd6, 0x48, 0x89, 0xca, 0xff, 0xe0],
        },
        // jmp rdi
        Weapon { name: "jump", parameters: 1, code: vec![0xff, 0xe7] },
        // mov rax, [rdi]; ret
        Weapon { name: "peek", parameters: 1, code: vec![0x48, 0x8b, 0x07, 0xc3] },
        // mov [rdi], rsi; ret
        Weapon { name: "poke", parameters: 2, code: vec![0x48, 0x89, 0x37, 0xc3] },
        Weapon { name: "forge-slot", parameters: 4, code: forge_slot },
        Weapon { name: "forge-submission", parameters: 4, code: forge_submission },
    ]
}

/// Machine code of a host call whose submission lies at rdi, which does `meanwhile` while it waits, with rsi as it was passed.
fn host_call_with(ring_doorbell: &[u8], meanwhile: &[u8]) -> Vec<u8> {
    let wait = [
        meanwhile,
        &[
            0xf3,
            0x90, // wait: pause
            0x41,
            0x8b,
            0x80,
            0x80,
            0x00,
            0x00,
            0x00, // mov eax, [r8+128] (completed)
            0x41,
            0x8b,
            0x88,
            0xc0,
            0x00,
            0x00,
            0x00, // mov ecx, [r8+192] (taken)
            0x39,
            0xc8, // cmp eax, ecx
            0x74, // je wait
            (-20 - meanwhile.len() as i8) as u8,
        ],
    ]
    .concat();
    [
        &[0x56, 0x41, 0xb8][..], // push rsi; mov r8d, the indices
        &((RING_BASE as usize + INDICES_OFFSET) as u32).to_le_bytes(),
        &[
            0x45, 0x8b, 0x08, // mov r9d, [r8] (submitted)
            0x44, 0x89, 0xc8, // mov eax, r9d
            0x83, 0xe0, 0x3f, // and eax, 63
            0xc1, 0xe0, 0x07, // shl eax, 7
            0x05, // add eax, the slots
        ],
        &((RING_BASE as usize + SUBMISSIONS_OFFSET) as u32).to_le_bytes(),
        &[
            0x49, 0x89, 0xfa, // mov r10, rdi
            0x48, 0x89, 0xfe, // mov rsi, rdi
            0x48, 0x89, 0xc7, // mov rdi, rax
            0xb9, 0x10, 0x00, 0x00, 0x00, // mov ecx, 16
            0xf3, 0x48, 0xa5, // rep movsq
            0x41, 0xff, 0xc1, // inc r9d
            0x45, 0x89, 0x08, // mov [r8], r9d
        ],
        ring_doorbell,
        &[0x5e], // pop rsi
        &wait,
        &[
            0x89, 0xc8, // mov eax, ecx
            0x83, 0xe0, 0x3f, // and eax, 63
            0xc1, 0xe0, 0x06, // shl eax, 6
            0x05, // add eax, the completions
        ],
        &((RING_BASE as usize + COMPLETIONS_OFFSET) as u32).to_le_bytes(),
        &[
            0x48, 0x89, 0xc6, // mov rsi, rax
            0x4c, 0x89, 0xd7, // mov rdi, r10
            0xff, 0xc1, // inc ecx
            0x41, 0x89, 0x88, 0xc0, 0x00, 0x00, 0x00, // mov [r8+192], ecx
            0xb9, 0x08, 0x00, 0x00, 0x00, // mov ecx, 8
            0xf3, 0x48, 0xa5, // rep movsq
            0x41, 0x8b, 0x42, 0x04, // mov eax, [r10+4]
            0xc3, // ret
        ],
    ]
    .concat()
}

/// What the weapon `scan` wants its needle masked with.
pub const SCAN_MASK: u64 = 0x5a5a_a5a5_3c3c_c3c3;

/// Where a weapon's code begins in an instance.
pub fn address_of(weapon: &str) -> u64 {
    let before = weapons().into_iter().take_while(|w| w.name != weapon);
    CODE_BASE + before.map(|w| w.code.len().next_multiple_of(16) as u64).sum::<u64>()
}

/// Uses one weapon inside a session.
pub async fn weapon(session: &mut Session, name: &str, args: &[u64]) -> CallOutcome {
    session.call(name, &arguments(name, args)).await.expect("an outcome")
}

fn arguments(weapon: &str, args: &[u64]) -> Vec<Value> {
    let parameters = weapons().iter().find(|w| w.name == weapon).expect("a known weapon").parameters;
    let mut values: Vec<Value> = args.iter().map(|a| Value::I64(*a as i64)).collect();
    values.resize(parameters, Value::I64(0));
    values
}

/// A supervisor with the attacker loaded.
pub struct Attacker {
    /// The supervisor.
    pub supervisor: Supervisor,
    module: Module,
    policy: Arc<Policy>,
    imports: Imports,
}

impl Attacker {
    /// The attacker under a policy.
    pub async fn under(policy: Policy) -> Self {
        Self::with_pool(policy, PoolLimits::default()).await
    }

    /// The same with other limits of parked instances.
    pub async fn with_pool(policy: Policy, pool: PoolLimits) -> Self {
        Self::with_config(policy, Config { pool, ..Config::default() }).await
    }

    /// The same in a supervisor that is set up like this.
    pub async fn with_config(policy: Policy, config: Config) -> Self {
        Self::new(policy, config, &[], Imports::default()).await
    }

    /// The same whose module imports these functions of the host side: module, name and parameters, without results.
    pub async fn importing(functions: &[(&str, &str, Vec<ValType>)], imports: Imports) -> Self {
        let policy = Policy::builtin("default").expect("the default profile");
        Self::new(policy, Config::default(), functions, imports).await
    }

    async fn new(
        policy: Policy,
        config: Config,
        imported: &[(&str, &str, Vec<ValType>)],
        imports: Imports,
    ) -> Self {
        let mut code = Vec::new();
        let mut functions = Vec::new();
        for weapon in weapons() {
            functions.push((weapon.name.to_owned(), code.len(), weapon.parameters, 1));
            code.extend_from_slice(&weapon.code);
            code.resize(code.len().next_multiple_of(16), 0xcc);
        }
        let imported = imported.iter().map(|(module, name, params)| Import {
            module: (*module).to_owned(),
            name: (*name).to_owned(),
            item: ImportItem::Function { params: params.clone(), results: Vec::new() },
        });
        let module = RawModule {
            code,
            functions,
            memory_pages: 1,
            memory_max_pages: 2,
            imports: imported.collect(),
            ..RawModule::default()
        };
        let artifact = module.build().expect("the attacker's artifact");
        let supervisor = Supervisor::start(config).expect("a supervisor");
        let module = supervisor.load(ModuleSource::Artifact(artifact)).await.expect("the attacker loads");
        Self { supervisor, module, policy: Arc::new(policy), imports }
    }

    /// The same attacker under another policy.
    pub fn with_policy(&self, policy: Policy) -> Self {
        Self {
            supervisor: self.supervisor.clone(),
            module: self.module.clone(),
            policy: Arc::new(policy),
            imports: self.imports.clone(),
        }
    }

    /// A job that runs one weapon.
    pub fn job(&self, weapon: &str, args: &[u64]) -> Job {
        let mut job = Job::command(self.module.clone(), Arc::clone(&self.policy));
        job.entry = Entry::Export { name: weapon.to_owned(), args: arguments(weapon, args) };
        job.imports = self.imports.clone();
        job
    }

    /// Runs one weapon in an instance of its own.
    pub async fn attack(&self, weapon: &str, args: &[u64]) -> Report {
        self.try_attack(weapon, args).await.expect("a report")
    }

    /// The same, for attacks that do not get as far as an instance.
    pub async fn try_attack(&self, weapon: &str, args: &[u64]) -> Result<Report, Error> {
        self.supervisor.run(self.job(weapon, args)).await
    }

    /// The same, for weapons that do not end by themselves.
    pub async fn attack_for(&self, weapon: &str, args: &[u64], wall_time: Duration) -> Report {
        let mut job = self.job(weapon, args);
        job.limits.wall_time = Some(wall_time);
        self.supervisor.run(job).await.expect("a report")
    }

    /// A started session with the weapons, to be called by [`weapon`].
    pub async fn session(&self) -> Session {
        self.session_within(JobLimits::default()).await
    }

    /// The same with limits.
    pub async fn session_within(&self, limits: JobLimits) -> Session {
        let mut job = Job::command(self.module.clone(), Arc::clone(&self.policy));
        job.limits = limits;
        job.imports = self.imports.clone();
        let mut session = self.supervisor.session(job).await.expect("a session");
        assert_eq!(session.start().await.expect("starts"), CallOutcome::Returned(Vec::new()));
        session
    }

    /// A started session with a directory as descriptor 3.
    pub async fn session_with(&self, directory: std::os::fd::OwnedFd) -> Session {
        let mut job = Job::command(self.module.clone(), Arc::clone(&self.policy));
        job.preopens.push(Preopen { directory, guest_path: String::from("/"), read_only: false });
        let mut session = self.supervisor.session(job).await.expect("a session");
        assert_eq!(session.start().await.expect("starts"), CallOutcome::Returned(Vec::new()));
        session
    }

    /// A started session of a tenant.
    pub async fn session_of(&self, tenant: &str) -> Session {
        let mut job = Job::command(self.module.clone(), Arc::clone(&self.policy));
        job.tenant = tenant.to_owned();
        let mut session = self.supervisor.session(job).await.expect("a session");
        assert_eq!(session.start().await.expect("starts"), CallOutcome::Returned(Vec::new()));
        session
    }

    /// What a weapon answered, if it came back.
    pub async fn answer(&self, weapon: &str, args: &[u64]) -> Option<i64> {
        match self.attack(weapon, args).await.outcome {
            Outcome::Exited { results, .. } => match results.first() {
                Some(Value::I64(answer)) => Some(*answer),
                _ => None,
            },
            _ => None,
        }
    }
}
