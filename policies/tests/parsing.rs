//! What policy files say, and what is said about their mistakes.

use std::time::Duration;

use ipc::control::layer;
use ipc::interface::FunctionId;
use policies::{
    AUDIT_ARCH_X86_64, DefaultAction, Error, Filesystem, FilterContext, MemoryExceeded, Origin, Policy,
    SeccompData,
};

fn parse(text: &str) -> Result<Policy, Error> {
    Policy::parse(text, "my.toml")
}

/// The message for a text that must be refused.
fn refused(text: &str) -> String {
    let message = match parse(text) {
        Ok(policy) => panic!("accepted: {policy:?}"),
        Err(error) => error.to_string(),
    };
    assert!(!message.contains('\n'), "{message}");
    message
}

#[test]
fn the_default_profile() {
    let policy = Policy::builtin("default").unwrap();
    assert_eq!((policy.name(), policy.origin(), policy.extends()), ("default", &Origin::Builtin, None));
    let limits = policy.limits();
    assert_eq!(limits.memory, 4 << 30);
    assert_eq!(limits.memory_exceeded, MemoryExceeded::Fail);
    assert_eq!((limits.wall_time, limits.cpu_time, limits.host_calls, limits.fuel), (None, None, None, None));
    assert_eq!((limits.stack, limits.output, limits.open_files), (8 << 20, Some(256 << 20), 256));
    assert_eq!(policy.wasi().filesystem, Filesystem::ReadWrite);
    assert_eq!(policy.seccomp().default_action, DefaultAction::Trap);
    assert!(
        policy.allows_host_call(FunctionId::path_open) && policy.allows_host_call(FunctionId::random_get)
    );
    let all = layer::ALL.iter().fold(0, |all, (bit, _)| all | bit) & !layer::SPECULATION;
    assert_eq!(policy.layers(), all);
    let optional = layer::SEALED_CODE | layer::TIME_NAMESPACE | layer::OWN_KEYRING | layer::TENANT_CGROUP;
    assert_eq!(policy.required(), all & !optional);
}

#[test]
fn the_compute_profile_grants_nothing_but_an_end() {
    let policy = Policy::builtin("compute").unwrap();
    for number in 0..ipc::interface::FUNCTIONS.len() as u32 {
        let function = FunctionId::from_number(number).unwrap();
        assert_eq!(policy.allows_host_call(function), function == FunctionId::proc_exit, "{function:?}");
    }
    assert_eq!(policy.limits().host_calls, Some(0));
    assert_eq!(
        policy.layers() & layer::SPECULATION,
        layer::NO_TIMESTAMP_COUNTER,
        "no clock, for native code either"
    );
    assert_eq!(policy.required(), Policy::builtin("default").unwrap().required());
}

#[test]
fn the_wasi_profile_confines_as_the_default_does() {
    let (wasi, default) = (Policy::builtin("wasi").unwrap(), Policy::builtin("default").unwrap());
    assert_eq!(wasi.extends(), Some("default"));
    assert_eq!(
        (wasi.seccomp(), wasi.limits(), wasi.wasi(), wasi.layers(), wasi.required()),
        (default.seccomp(), default.limits(), default.wasi(), default.layers(), default.required())
    );
}

#[test]
fn a_file_narrows_the_profile_that_it_extends() {
    let policy = parse(
        r#"
        version = 1
        description = """for  the
tests"""
        [seccomp]
        default_action = "kill"
        deny = ["write"]
        [limits]
        memory = "64MiB"
        memory_exceeded = "kill"
        wall_time = "1.5s"
        cpu_time = "1s"
        stack = 65536
        output = 1000
        host_calls = 5
        fuel = 1000000
        open_files = 3
        [wasi]
        filesystem = "read-only"
        random = false
        clock_resolution = "1ms"
        [host_calls]
        deny = ["path_readlink", "wasi_snapshot_preview1.poll_oneoff"]
        "#,
    )
    .unwrap();
    assert_eq!((policy.name(), policy.extends()), ("my.toml", Some("default")));
    assert_eq!(policy.origin(), &Origin::File("my.toml".into()));
    let limits = policy.limits();
    assert_eq!((limits.memory, limits.memory_exceeded), (64 << 20, MemoryExceeded::Kill));
    assert_eq!(limits.wall_time, Some(Duration::from_millis(1500)));
    assert_eq!(
        (limits.stack, limits.output, limits.host_calls, limits.open_files),
        (65536, Some(1000), Some(5), 3)
    );
    assert_eq!(limits.fuel, Some(1_000_000));
    assert_eq!(policy.wasi().clock_resolution, Duration::from_millis(1));
    assert!(policy.wasi().clocks && policy.wasi().stdio);
    for (function, allowed) in [
        (FunctionId::path_open, true),
        (FunctionId::path_readlink, false),
        (FunctionId::path_rename, true),
        (FunctionId::clock_time_get, true),
        (FunctionId::poll_oneoff, false),
        (FunctionId::random_get, false),
        (FunctionId::fd_write, true),
    ] {
        assert_eq!(policy.allows_host_call(function), allowed, "{function:?}");
    }
    assert_eq!(policy.seccomp().allow.len(), 3);
    assert!(policy.instance_filter(&FilterContext::default()).is_ok());
}

#[test]
fn an_almost_empty_file_is_the_default() {
    let policy = parse("version = 1").unwrap();
    let default = Policy::builtin("default").unwrap();
    assert_eq!(
        (policy.limits(), policy.layers(), policy.required()),
        (default.limits(), default.layers(), default.required())
    );
    assert_eq!(policy.dangerous_reason(), None);
}

#[test]
fn mistakes_are_told_with_their_place_on_one_line() {
    for (text, message) in [
        (
            "version = 1\n\n[limits]\n  memry = 1",
            "policy my.toml:4:3: unknown key \"memry\" in [limits]; did you mean \"memory\"?",
        ),
        (
            "version = 1\nlimit = {}",
            "policy my.toml:2:1: unknown key \"limit\" in the policy; did you mean \"limits\"?",
        ),
        (
            "version = 1\n[landlock]\nxyzzy = 1",
            "policy my.toml:3:1: unknown key \"xyzzy\" in [landlock]; valid are enabled",
        ),
        ("", "policy my.toml:1:1: the policy lacks the key \"version\"; write version = 1 at the top"),
        ("version = 2", "policy my.toml:1:11: version = 2 is not supported; this program reads version 1"),
        ("version = \"1\"", "policy my.toml:1:11: version must be an integer, not a string"),
        (
            "version = 1\nextends = \"defualt\"",
            "policy my.toml:2:11: extends has the unknown value \"defualt\"; did you mean \"default\"?",
        ),
        (
            "version = 1\nextends = \"zygote\"",
            "policy my.toml:2:11: extends has the unknown value \"zygote\"; valid are compute, default, wasi, wasi-direct",
        ),
        (
            "version = 1\n[wasi]\nfilesystem = \"readonly\"",
            "policy my.toml:3:14: wasi.filesystem has the unknown value \"readonly\"; did you mean \"read-only\"?",
        ),
        (
            "version = 1\n[wasi]\nrandom = 0",
            "policy my.toml:3:10: wasi.random must be true or false, not an integer",
        ),
        (
            "version = 1\n[limits]\nmemory = \"64MB\"",
            "policy my.toml:3:10: limits.memory = \"64MB\" is not a size such as 65536, \"64MiB\" or \"1.5GiB\" \
             (units B, KiB, MiB, GiB, TiB; K, M, G, T mean the same)",
        ),
        (
            "version = 1\n[limits]\nmemory = -1",
            "policy my.toml:3:10: limits.memory = -1 is out of range; it must be 0 or more",
        ),
        (
            "version = 1\n[limits]\nwall_time = 10",
            "policy my.toml:3:13: limits.wall_time must be a duration such as \"10s\", \"500ms\" or \"1.5h\" \
             (units ns, us, ms, s, m, h), not an integer",
        ),
        (
            "version = 1\n[limits]\nwall_time = \"10\"",
            "policy my.toml:3:13: limits.wall_time = \"10\" is not a duration such as \"10s\", \"500ms\" or \"1.5h\" \
             (units ns, us, ms, s, m, h)",
        ),
        (
            "version = 1\n[limits]\nwall_time = \"0s\"",
            "policy my.toml:3:13: limits.wall_time = \"0s\" is out of range; it must be more than 0, or \"unlimited\"",
        ),
        (
            "version = 1\n[limits]\nstack = 1000",
            "policy my.toml:3:9: limits.stack = 1000 is out of range; it must be a multiple of 4096 from 4096 to 133103616 bytes",
        ),
        (
            "version = 1\n[limits]\nopen_files = 2",
            "policy my.toml:3:14: limits.open_files = 2 is out of range; it must be 3 to 65536",
        ),
        (
            "version = 1\n[host_calls]\nallow = [\"fd_wirte\"]",
            "policy my.toml:3:10: host_calls.allow has the unknown value \"fd_wirte\"; did you mean \"fd_write\"?",
        ),
        (
            "version = 1\n[require]\nlayers = [\"secomp\"]",
            "policy my.toml:3:11: require.layers has the unknown value \"secomp\"; did you mean \"seccomp\"?",
        ),
        (
            "version = 1\n[seccomp]\ndeny = [\"wirte\"]",
            "policy my.toml:3:9: seccomp.deny has the unknown value \"wirte\"; did you mean \"write\"?",
        ),
        (
            "version = 1\n[seccomp]\ndeny = [\"read\"]",
            "policy my.toml:3:9: deny names read, which the policy \"default\" does not allow; remove it",
        ),
        (
            "version = 1\n[speculation]\ncode_sharing = \"none\"",
            "policy my.toml:3:16: speculation.code_sharing = \"none\" is not enforced by this version, so it is refused \
             rather than ignored; use \"tenant\"",
        ),
        (
            "version = 1\ndescription = \" \"",
            "policy my.toml:2:15: description is empty; say in a sentence what the policy is for",
        ),
        ("version = 1\nlimits = 3", "policy my.toml:2:10: limits must be a table, not an integer"),
    ] {
        assert_eq!(refused(text), message);
    }
}

#[test]
fn broken_toml_is_told_with_its_place() {
    for (text, place) in [
        ("version = ", "my.toml:1:1"),
        ("version = 1\nversion = 1", "my.toml:2:1:"),
        ("version = 1\n[limits]\n[limits]", "my.toml:3:"),
        ("version = 1\n[limits\n", "my.toml:2:"),
        ("a = \"\u{0}\"", "my.toml:1:"),
        ("\"é\" = 1\n\"ä\" = ", "my.toml:2:"),
    ] {
        let message = refused(text);
        assert!(message.contains(place) && message.contains("not valid TOML: "), "{message}");
    }
}

#[test]
fn columns_count_characters_and_long_quotes_are_cut() {
    assert!(
        refused("version = 1\nwasi = { \"ä\" = 1 }").starts_with("policy my.toml:2:10: unknown key \"ä\"")
    );
    let long = format!("version = 1\nextends = \"{}\\n\"", "x".repeat(10_000));
    assert!(refused(&long).len() < 300);
}

#[test]
fn widening_needs_a_reason() {
    for (line, key) in [
        ("[limits]\nmemory = \"5GiB\"", "limits.memory = \"5GiB\""),
        ("[limits]\nstack = \"16MiB\"", "limits.stack"),
        ("[limits]\noutput = \"unlimited\"", "limits.output"),
        ("[limits]\nopen_files = 257", "limits.open_files"),
        ("[namespaces]\nnet = false", "namespaces.net"),
        ("[namespaces]\nempty_root = false", "namespaces.empty_root"),
        ("[landlock]\nenabled = false", "landlock.enabled"),
        ("[require]\nlayers = [\"seccomp\"]", "require.layers"),
        (
            "[[seccomp.allow]]\nsyscall = \"pread64\"\nwhy = \"for a test of widening\"",
            "syscall = \"pread64\"",
        ),
    ] {
        let message = refused(&format!("version = 1\n{line}\n"));
        assert!(message.contains(key) && message.contains("widens the policy \"default\""), "{message}");
        assert!(message.starts_with("policy my.toml:3:"), "{message}");
        let dangerous = format!(
            "version = 1\nallow_dangerous = true\ndangerous_reason = \"the test wants it\"\n{line}\n"
        );
        assert_eq!(parse(&dangerous).unwrap().dangerous_reason(), Some("the test wants it"), "{line}");
    }
    for (line, key) in [
        ("[limits]\nhost_calls = 1", "limits.host_calls"),
        ("[wasi]\nfilesystem = \"read-only\"", "wasi.filesystem"),
        ("[wasi]\nclocks = true", "wasi.clocks"),
        ("[host_calls]\nallow = \"all\"", "host_calls.allow"),
        ("[host_calls]\nallow = [\"proc_exit\", \"fd_write\"]", "host_calls.allow = \"fd_write\""),
    ] {
        let message = refused(&format!("version = 1\nextends = \"compute\"\n{line}\n"));
        assert!(message.contains(key) && message.contains("widens the policy \"compute\""), "{message}");
    }
    // What is as narrow as the profile is no widening.
    parse(
        "version = 1\n[limits]\nmemory = \"4GiB\"\n[namespaces]\nnet = true\n[host_calls]\nallow = \"all\"",
    )
    .unwrap();

    assert_eq!(
        refused("version = 1\nallow_dangerous = true"),
        "policy my.toml:1:1: the policy lacks the key \"dangerous_reason\"; allow_dangerous = true needs a sentence that \
         says why the policy must widen"
    );
    assert!(
        refused("version = 1\nallow_dangerous = true\ndangerous_reason = \"\"")
            .contains("dangerous_reason is empty")
    );
    assert!(refused("version = 1\ndangerous_reason = \"x\"").contains("without allow_dangerous = true"));
}

#[test]
fn imports_are_granted_by_name() {
    let imports = |value: &str| parse(&format!("version = 1\n[host_calls]\nimports = {value}")).unwrap();
    for (value, settings, allowed, refused) in [
        ("true", "true", &[("kv", "get"), ("", "")][..], &[][..]),
        ("false", "false", &[], &[("kv", "get")]),
        ("[]", "false", &[], &[("kv", "get")]),
        (
            r#"["log.write", "kv.get", "kv.*", "kv.put", "a.b.c"]"#,
            r#"["a.b.c", "kv.*", "log.write"]"#,
            &[("kv", "get"), ("kv", "*"), ("log", "write"), ("a.b", "c")],
            &[("log", "read"), ("log", "write2"), ("k", "get"), ("kv.", "get"), ("a", "b.c"), ("a.b", "*")],
        ),
    ] {
        let policy = imports(value);
        let setting = policy.settings().into_iter().find(|setting| setting.key == "imports").unwrap();
        assert_eq!(setting.value, settings);
        for (module, name) in allowed {
            assert!(policy.imports().allow(module, name), "{value} {module:?} {name:?}");
        }
        for (module, name) in refused {
            assert!(!policy.imports().allow(module, name), "{value} {module:?} {name:?}");
            assert_eq!(policy.imports().granted_by(module, name), None);
        }
        let again =
            Policy::parse(&policy.to_toml(&Policy::builtin("default").unwrap()), "again.toml").unwrap();
        assert_eq!(again.imports(), policy.imports());
    }
    let some = imports(r#"["kv.*", "log.write"]"#);
    assert_eq!(some.imports().granted_by("kv", "get").as_deref(), Some("\"kv.*\""));
    assert_eq!(some.imports().granted_by("log", "write").as_deref(), Some("\"log.write\""));
    assert_eq!(imports("true").imports().granted_by("kv", "get").as_deref(), Some("true"));
    assert!(some.explain().contains("    kv: all\n    log: write\n"), "{}", some.explain());
    for (value, message) in [
        ("3", "host_calls.imports must be true, false or an array, not an integer"),
        ("[3]", "host_calls.imports must be a string, not an integer"),
        ("\"kv.get\"", "host_calls.imports must be true, false or an array, not a string"),
        ("[\"kv\"]", "\"kv\""),
        ("[\"*\"]", "\"*\""),
        ("[\"*.*\"]", "\"*.*\""),
        ("[\"kv.\"]", "\"kv.\""),
        ("[\".get\"]", "\".get\""),
        ("[\"kv.g*\"]", "\"kv.g*\""),
        ("[\"k*.get\"]", "\"k*.get\""),
        ("[\"kv. get\"]", "\"kv. get\""),
        ("[\"kv.get\\n\"]", "interface.function"),
    ] {
        let error = refused(&format!("version = 1\n[host_calls]\nimports = {value}"));
        assert!(error.starts_with("policy my.toml:3:") && error.contains(message), "{value}: {error}");
    }
}

#[test]
fn imports_are_only_narrowed() {
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(directory.path().join(name), text).unwrap();
    let file = |extends: &str, head: &str, value: &str| {
        format!("version = 1\nextends = \"{extends}\"\n{head}[host_calls]\nimports = {value}\n")
    };
    write("some.toml", &file("default", "", r#"["kv.*", "log.write"]"#));
    write("none.toml", &file("default", "", "false"));
    let set = policies::PolicySet::load(directory.path()).unwrap();
    let parse = |text: &str| set.parse(text, "my.toml").map(|policy| policy.imports().clone());
    for value in [r#"["kv.*", "log.write"]"#, r#"["kv.get"]"#, r#"["log.write", "kv.put"]"#, "[]", "false"] {
        assert!(parse(&file("some", "", value)).is_ok(), "{value}");
    }
    assert!(!parse("version = 1\nextends = \"some\"\n").unwrap().allow("log", "read"), "it is inherited");
    let dangerous = "allow_dangerous = true\ndangerous_reason = \"the test wants it\"\n";
    for (base, value, message) in [
        ("some", "true", "imports = true widens the policy \"some\", which has [\"kv.*\", \"log.write\"]"),
        (
            "some",
            r#"["log.*"]"#,
            "imports = \"log.*\" widens the policy \"some\", which has [\"kv.*\", \"log.write\"]",
        ),
        (
            "some",
            r#"["kv.get", "log.wirte"]"#,
            "\"log.wirte\" widens the policy \"some\", which has \"log.write\" instead; did you mean that?",
        ),
        ("some", r#"["other.thing"]"#, "\"other.thing\" widens the policy \"some\""),
        ("none", r#"["kv.get"]"#, "\"kv.get\" widens the policy \"none\", which has false"),
        ("none", "true", "imports = true widens the policy \"none\", which has false"),
    ] {
        let error = parse(&file(base, "", value)).unwrap_err().to_string();
        assert!(error.contains(message), "{message:?} expected in: {error}");
        assert!(parse(&file(base, dangerous, value)).is_ok(), "{value}");
    }
    // A message does not grow with the list.
    let long: Vec<String> = (0..1000).map(|n| format!("\"interface{n}.function\"")).collect();
    write("long.toml", &file("default", "", &format!("[{}]", long.join(", "))));
    let set = policies::PolicySet::load(directory.path()).unwrap();
    let error = set.parse(&file("long", "", "true"), "my.toml").unwrap_err().to_string();
    assert!(error.contains("and 992 more") && error.len() < 500, "{error}");
    let (some, none) = (set.get("some").unwrap(), set.get("none").unwrap());
    let differences = |from: &Policy, to: &Policy| {
        let all = from.differences(to).unwrap();
        all.into_iter().map(|difference| (difference.key, difference.direction)).collect::<Vec<_>>()
    };
    let key = "host_calls.imports".to_owned();
    assert_eq!(differences(some, none), [(key.clone(), policies::Direction::Narrower)]);
    assert_eq!(differences(none, some), [(key, policies::Direction::Wider)]);
}

#[test]
fn the_pid_namespace_cannot_be_switched_off() {
    let message = refused(&format!("{DANGEROUS}[namespaces]\npid = false"));
    assert!(message.starts_with("policy my.toml:5:"), "{message}");
    assert!(message.contains("namespaces.pid") && message.contains("outlives its zygote"), "{message}");
}

#[test]
fn a_layer_that_is_off_cannot_be_required() {
    let head = "version = 1\nallow_dangerous = true\ndangerous_reason = \"the test wants it\"\n[namespaces]\nnet = false\n";
    let policy = parse(head).unwrap();
    assert_eq!(policy.layers() & layer::NET_NAMESPACE, 0);
    assert_eq!(policy.required() & layer::NET_NAMESPACE, 0);
    let message = refused(&format!("{head}[require]\nlayers = [\"net-namespace\"]"));
    assert_eq!(
        message,
        "policy my.toml:7:11: [require] names the layer \"net-namespace\", which this policy switches off; remove one of the two"
    );
}

const DANGEROUS: &str = "version = 1\nallow_dangerous = true\ndangerous_reason = \"the test wants it\"\n";

#[test]
fn rules_say_what_and_why() {
    let rule = |body: &str| refused(&format!("{DANGEROUS}[[seccomp.allow]]\n{body}"));
    for (body, message) in [
        (
            "syscall = \"pread64\"",
            "policy my.toml:4:1: [[seccomp.allow]] lacks the key \"why\"; every rule must say why it is there",
        ),
        (
            "syscall = \"pread64\"\nwhy = \"\\t\"",
            "policy my.toml:6:7: why is empty; say in a sentence why the rule is there",
        ),
        (
            "why = \"x\"",
            "policy my.toml:4:1: [[seccomp.allow]] lacks the key \"syscall\"; it names the system call that the rule allows",
        ),
        (
            "syscall = \"pread\"\nwhy = \"x\"",
            "policy my.toml:5:11: syscall has the unknown value \"pread\"; did you mean \"read\"?",
        ),
        (
            "syscall = \"pread64\"\nwen = []\nwhy = \"x\"",
            "policy my.toml:6:1: unknown key \"wen\" in [[seccomp.allow]]; did you mean \"when\"?",
        ),
        (
            "syscall = \"pread64\"\nwhen = [\"arg0 == DOORBEL_FD\"]\nwhy = \"x\"",
            "policy my.toml:6:9: condition \"arg0 == DOORBEL_FD\": unknown constant \"DOORBEL_FD\"; did you mean \"DOORBELL_FD\"?",
        ),
        (
            "syscall = \"write\"\nwhy = \"x\"",
            "policy my.toml:4:1: this rule for write and another one for it overlap: this one allows everything that the \
             other allows; remove the other, or list the call in deny to replace its rules",
        ),
        (
            "syscall = \"exit_group\"\nwhen = [\"arg0 == 0\"]\nwhy = \"x\"",
            "policy my.toml:4:1: this rule for exit_group and another one for it overlap: the other allows \
             everything that this one allows; remove this one",
        ),
        (
            "syscall = \"write\"\nwhen = [\"arg1 == 0\", \"arg2 == 0x8\", \"arg0 == 3\"]\nwhy = \"x\"",
            "policy my.toml:4:1: this rule for write and another one for it overlap: the other allows everything that this \
             one allows; remove this one",
        ),
    ] {
        assert_eq!(rule(body), message);
    }
    // Replaced by denying first; or another rule beside it.
    let replaced = "[seccomp]\ndeny = [\"write\"]\n[[seccomp.allow]]\nsyscall = \"write\"\nwhy = \"x\"";
    assert_eq!(parse(&format!("{DANGEROUS}{replaced}")).unwrap().seccomp().allow.len(), 4);
    let beside =
        "[[seccomp.allow]]\nsyscall = \"write\"\nwhen = [\"arg0 == 3\", \"arg2 == 16\"]\nwhy = \"x\"";
    assert_eq!(parse(&format!("{DANGEROUS}{beside}")).unwrap().seccomp().allow.len(), 5);
    let conditions = vec!["\"arg0 == 1\""; 17].join(", ");
    let long = rule(&format!("syscall = \"pread64\"\nwhen = [{conditions}]\nwhy = \"x\""));
    assert!(long.contains("at most 16 conditions"), "{long}");
}

/// A rule that allows nothing more than an inherited one narrows, in whatever form it says so.
#[test]
fn rules_can_be_narrowed() {
    let write = |when: &str| {
        let rule = format!("[[seccomp.allow]]\nsyscall = \"write\"\nwhen = [{when}]\nwhy = \"x\"");
        parse(&format!("version = 1\n[seccomp]\ndeny = [\"write\"]\n{rule}"))
    };
    for narrower in [
        "'arg0 == DOORBELL_FD', 'arg2 == 8'",
        "'arg2 == 8', 'arg0 == 3', 'arg1 >= RING_BASE'",
        "'arg0 == 3', 'arg2 == 8', 'arg1 & ~0xfff == 0'",
    ] {
        let policy = write(narrower).unwrap();
        assert_eq!(policy.seccomp().allow.len(), 4);
        assert!(policy.dangers().is_empty());
    }
    for wider in [
        "",
        "'arg0 == 3'",
        "'arg0 >= 3', 'arg2 == 8'",
        "'arg0 & 3 == 3', 'arg2 == 8'",
        "'arg0 == 3', 'arg2 <= 8'",
    ] {
        let error = write(wider).unwrap_err().to_string();
        assert!(
            error.contains("widens the policy \"default\", which has no rule that allows as much of write"),
            "{error}"
        );
    }
    // Also a call that no policy could add: this one has it.
    let grow = "'arg0 >= MEMORY_BASE', 'arg0 < GROWTH_END', 'arg0 < 0x40010000', 'arg1 <= 1MiB', 'arg2 == PROT_READ|PROT_WRITE'";
    let text = format!(
        "version = 1\n[seccomp]\ndeny = [\"mprotect\"]\n[[seccomp.allow]]\nsyscall = \"mprotect\"\nwhen = [{grow}]\nwhy = \"x\""
    );
    assert!(parse(&text).is_ok());
}

#[test]
fn what_is_widened_is_remembered() {
    let policy =
        parse(&format!("{DANGEROUS}[limits]\nmemory = \"5GiB\"\noutput = 5\n[namespaces]\nnet = false"))
            .unwrap();
    let [danger] = policy.dangers() else { panic!("{:?}", policy.dangers()) };
    assert_eq!((&*danger.policy, &*danger.reason), ("my.toml", "the test wants it"));
    let widened: Vec<_> = danger.widened.iter().map(|w| (&*w.key, &*w.value, &*w.was)).collect();
    assert_eq!(widened, [("namespaces.net", "false", "true"), ("limits.memory", "\"5GiB\"", "4GiB")]);
    let text = policy.explain();
    for line in [
        "MAY WIDEN what it extends (my.toml): the test wants it",
        "limits.memory = \"5GiB\", instead of 4GiB",
    ] {
        assert!(text.contains(line), "{text}");
    }
    assert!(parse(DANGEROUS).unwrap().explain().contains("it widens nothing"));
    assert!(
        refused(&format!("version = 1\ndescription = \"{}\"", "x".repeat(1001)))
            .contains("at most 1000 characters")
    );
}

#[test]
fn a_policy_survives_the_way_to_text_and_back() {
    let default = Policy::builtin("default").unwrap();
    let compute = Policy::builtin("compute").unwrap();
    let begun =
        parse("version = 1\n[instance]\ninit = \"start\"\nargs = [\"a\\nb\", \"'\"]\nenv = [\"A=\\\"\"]")
            .unwrap();
    for (policy, base) in
        [(&compute, &default), (&default, &default), (&compute, &compute), (&begun, &default)]
    {
        let again = parse(&policy.to_toml(base)).unwrap();
        assert_eq!(again.settings(), policy.settings());
        assert_eq!(policy.differences(&again).unwrap(), []);
    }
    assert_eq!(default.to_toml(&default).lines().count(), 3);
    assert!(default.to_toml(&begun).contains("[instance]\ninit = \"\"\nargs = []\nenv = []\n"));
    // It gives nothing more: the initialisation runs under the policy that names it.
    for (from, to) in [(&default, &begun), (&begun, &default)] {
        let told: Vec<_> = from.differences(to).unwrap().into_iter().map(|d| (d.key, d.direction)).collect();
        let keys = ["instance.init", "instance.args", "instance.env"];
        assert_eq!(told, keys.map(|key| (key.to_owned(), policies::Direction::Narrower)));
    }
}

#[test]
fn differences_say_what_is_narrower() {
    let narrow = parse("version = 1\n[limits]\nmemory = \"1MiB\"\n[seccomp]\ndeny = [\"futex\"]").unwrap();
    let default = Policy::builtin("default").unwrap();
    let told = |a: &Policy, b: &Policy| -> Vec<_> {
        let all = a.differences(b).unwrap().into_iter();
        all.map(|d| (d.key, d.from.is_some(), d.to.is_some(), d.direction)).collect()
    };
    use policies::Direction::{Narrower, Wider};
    assert_eq!(
        told(&default, &narrow),
        [("limits.memory".into(), true, true, Narrower), ("seccomp.allow".into(), true, false, Narrower)]
    );
    assert_eq!(
        told(&narrow, &default),
        [("limits.memory".into(), true, true, Wider), ("seccomp.allow".into(), false, true, Wider)]
    );
}

#[test]
fn a_mistake_carries_its_text_and_its_help() {
    let error = parse("version = 1\n[limits]\nmemroy = \"1MiB\"\n").unwrap_err();
    let at = error.position().unwrap();
    assert_eq!((at.line, at.column, at.offending_text()), (3, 1, Some("memroy")));
    assert_eq!(error.headline(), "unknown key \"memroy\" in [limits]");
    assert_eq!(error.help().unwrap(), "did you mean \"memory\"?");
    assert_eq!(
        Policy::builtin("supervisor").unwrap_err().to_string().split(':').next().unwrap(),
        "this version has no policy \"supervisor\""
    );
}

#[test]
fn direct_file_data_widens_and_needs_its_calls() {
    let refused = |text: &str| parse(&format!("version = 1\n{text}")).unwrap_err().to_string();
    assert!(refused("[fs]\ndata = \"direct\"").contains("fs.data = \"direct\""));
    let dangerous = "allow_dangerous = true\ndangerous_reason = \"the test wants it\"\n";
    let without = refused(&format!("{dangerous}[fs]\ndata = \"direct\""));
    assert!(without.contains("rules for pread64, pwrite64 and sched_yield"), "{without}");
    for call in ["pread64", "pwrite64", "sched_yield"] {
        let denied = refused(&format!("extends = \"wasi-direct\"\n[seccomp]\ndeny = [\"{call}\"]"));
        assert!(denied.contains("as in wasi-direct"), "{denied}");
    }
    let direct = Policy::builtin("wasi-direct").unwrap();
    assert_eq!(direct.fs().data, policies::FileData::Direct);
    let widened: Vec<_> = direct.dangers()[0].widened.iter().map(|w| &*w.key).collect();
    assert!(widened.contains(&"fs.data"), "{widened:?}");
    let narrowed = parse(
        "version = 1\nextends = \"wasi-direct\"\n[fs]\ndata = \"supervisor\"\n[seccomp]\n\
         deny = [\"pread64\", \"pwrite64\", \"sched_yield\"]",
    );
    assert_eq!(narrowed.unwrap().seccomp(), Policy::builtin("default").unwrap().seccomp());
}

#[test]
fn no_reason_makes_some_rules_acceptable() {
    for call in
        ["mmap", "mprotect", "clone", "execve", "seccomp", "rt_sigaction", "recvmsg", "kill", "ptrace"]
    {
        let message = refused(&format!("{DANGEROUS}[[seccomp.allow]]\nsyscall = \"{call}\"\nwhy = \"x\""));
        assert!(message.contains("cannot be allowed by any policy"), "{message}");
    }
    for call in ["openat", "socket", "io_uring_setup"] {
        let message = refused(&format!("{DANGEROUS}[[seccomp.allow]]\nsyscall = \"{call}\"\nwhy = \"x\""));
        assert!(message.contains("the base filter that every instance inherits refuses it"), "{message}");
    }
}

#[test]
fn policies_are_loaded_by_name_or_path() {
    let directory = std::env::temp_dir().join(format!("policies-test-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let path = |name: &str, bytes: &[u8]| {
        let path = directory.join(name);
        std::fs::write(&path, bytes).unwrap();
        path.to_str().unwrap().to_owned()
    };

    assert_eq!(Policy::load("compute").unwrap(), Policy::builtin("compute").unwrap());
    assert_eq!(
        Policy::load("defaul").unwrap_err().to_string(),
        "no policy is named \"defaul\"; did you mean \"default\"? (a policy file is given by a path with '/' or ending in .toml)"
    );
    let good = path("good", b"version = 1\n[limits]\nmemory = 65536");
    assert_eq!(Policy::load(&good).unwrap().limits().memory, 65536);
    let missing = Policy::load("does-not-exist.toml").unwrap_err().to_string();
    assert!(
        missing.starts_with("policy does-not-exist.toml: cannot read the file: No such file"),
        "{missing}"
    );
    assert!(matches!(Policy::load(directory.to_str().unwrap()), Err(Error::Read { .. })));
    assert!(matches!(Policy::load(&path("bytes", b"version\xff")), Err(Error::NotText { offset: 7, .. })));
    assert!(matches!(Policy::load(&path("large", &vec![b'#'; 300 << 10])), Err(Error::TooLarge { .. })));
    assert!(matches!(Policy::parse(&"#".repeat(300 << 10), "x"), Err(Error::TooLarge { .. })));
    std::fs::remove_dir_all(&directory).unwrap();
}

/// Whatever the text, there is an answer on one line: never a panic.
#[test]
fn no_text_breaks_the_parser() {
    let texts: Vec<String> = ["default", "compute"]
        .iter()
        .map(|name| {
            std::fs::read_to_string(format!("{}/profiles/{name}.toml", env!("CARGO_MANIFEST_DIR"))).unwrap()
        })
        .collect();
    let (mut accepted, mut refused) = (0, 0);
    let mut check = |text: &str| match Policy::parse(text, "mutated.toml") {
        Ok(_) => accepted += 1,
        Err(error) => {
            let message = error.to_string();
            assert!(!message.contains('\n') && message.len() < 1000, "{message}");
            refused += 1;
        }
    };
    // A generator with a fixed seed: the same mutations on every run.
    let mut state = 0x9E37_79B9_7F4A_7C15u64;
    let mut random = |below: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below
    };
    for text in &texts {
        for end in (0..text.len()).step_by(17).filter(|end| text.is_char_boundary(*end)) {
            check(&text[..end]);
        }
        let characters: Vec<char> = text.chars().collect();
        let alphabet: Vec<char> = "[]{}=\"'\\.,|&~<>-+#\n\t 0x9aé\u{0}\u{202e}".chars().collect();
        for _ in 0..400 {
            let mut mutated = characters.clone();
            for _ in 0..=random(3) {
                let at = random(mutated.len());
                match random(3) {
                    0 => mutated[at] = alphabet[random(alphabet.len())],
                    1 => mutated.insert(at, alphabet[random(alphabet.len())]),
                    _ => drop(mutated.remove(at)),
                }
            }
            check(&mutated.into_iter().collect::<String>());
        }
    }
    assert!(accepted > 0 && refused > 100, "{accepted} {refused}");
    // Nesting that would overflow a recursive parser's stack.
    for open in ["[", "{a=", "[[", "a.".repeat(4).as_str()] {
        let _ = Policy::parse(&format!("version = 1\nx = {}", open.repeat(60_000)), "deep.toml").unwrap_err();
    }
}

#[test]
fn decisions_and_rules_agree() {
    let context = FilterContext { memories: 1 };
    let policy = Policy::builtin("default").unwrap();
    for (number, args) in [
        (1, [3, 0, 8, 0, 0, 0]),
        (1, [4, 0, 8, 0, 0, 0]),
        (231, [0; 6]),
        (0, [0; 6]),
        (10, [1 << 30, 4096, 3, 0, 0, 0]),
    ] {
        let data = SeccompData { number, arch: AUDIT_ARCH_X86_64, instruction_pointer: 0, args };
        let allowed = policy.decide(&data, &context).unwrap() == libc::SECCOMP_RET_ALLOW;
        assert_eq!(policy.rule_for(number, &args, &context).is_some(), allowed, "{number} {args:?}");
    }
    let killing = parse("version = 1\n[seccomp]\ndefault_action = \"kill\"").unwrap();
    for arch in [AUDIT_ARCH_X86_64, 0] {
        let data = SeccompData { number: 0, arch, ..SeccompData::default() };
        assert_eq!(killing.decide(&data, &context), Ok(libc::SECCOMP_RET_KILL_PROCESS));
        assert_eq!(policy.decide(&data, &context), Ok(libc::SECCOMP_RET_TRAP));
    }
}

#[test]
fn controls_of_speculation_are_layers() {
    let parse = |text: &str| Policy::parse(&format!("version = 1\n[speculation]\n{text}\n"), "my.toml");
    let default = Policy::builtin("default").unwrap();
    assert_eq!(default.layers() & layer::SPECULATION, 0);
    for (text, bit) in [
        ("indirect_branch = \"disable\"", layer::INDIRECT_BRANCH),
        ("store_bypass = \"disable\"", layer::STORE_BYPASS),
        ("core_scheduling = true", layer::CORE_SCHEDULING),
        ("timestamp_counter = false", layer::NO_TIMESTAMP_COUNTER),
    ] {
        let policy = parse(text).unwrap();
        assert_eq!(policy.layers(), default.layers() | bit, "{text}");
        // Asked for, and in force where the host has it; required only where that is written.
        assert_eq!(policy.required(), default.required(), "{text}");
        let name = layer::ALL.iter().find(|(b, _)| *b == bit).unwrap().1;
        let explained = policy.explain();
        let line = explained.lines().find(|line| line.contains(name)).unwrap();
        assert!(line.ends_with("on where the host has it"), "{line}");
        let required = parse(&format!("{text}\n[require]\nlayers = [\"{name}\"]\n"));
        assert!(
            required.unwrap_err().to_string().contains("also user-namespace"),
            "the others stay required"
        );
        let off = Policy::parse(&format!("version = 1\n[require]\nlayers = [\"{name}\"]\n"), "my.toml");
        assert!(off.unwrap_err().to_string().contains(name), "what is off cannot be required");
        // It comes back from its own text, and switching it off again widens.
        assert_eq!(Policy::parse(&policy.to_toml(&default), "my.toml").unwrap().layers(), policy.layers());
    }
}

#[test]
fn explanations_name_every_rule_with_its_reason() {
    for name in Policy::names() {
        let policy = Policy::builtin(name).unwrap();
        let text = policy.explain();
        assert!(text.starts_with(&format!("policy {name} (built in")), "{text}");
        for rule in &policy.seccomp().allow {
            assert!(text.contains(&rule.to_string()) && text.contains(&rule.why), "{rule}");
        }
        for (_, layer) in layer::ALL {
            assert!(text.contains(layer), "{layer}");
        }
    }
}
