//! Typed functions against an instance that has been taken over: it submits what it likes, and rewrites its table and its arena.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use interface::{Interface, Reply, Value as V};
use ipc::imports::FUNCTIONS;
use ipc::interface::ARGS_MAX;
use ipc::job::{ARENA_BYTES, ARENA_OFFSET, TABLE_OFFSET};
use ipc::layout::{MEMORY_BASE, RING_BASE};
use ipc::report::{Outcome, Value, Violation};
use ipc::ring::{Submission, pack_range};
use ipc::typed::REFUSED;
use supervisor::{CallOutcome, Imports, Service, Session, ValType};
use whole_system_tests::attacker::{Attacker, weapon};
use zerocopy::IntoBytes;

const INTERFACE: &str = r#"
interface = "t"
[[record]]
name = "pair"
fields = [{ name = "a", type = "u32" }, { name = "b", type = "u32" }]
[[handle]]
name = "thing"
[[function]]
name = "f"
params = [
  { name = "words", type = "string" }, { name = "pairs", type = "list<pair>" }, { name = "pair", type = "pair" },
]
results = [{ name = "one", type = "bytes" }, { name = "two", type = "string" }, { name = "three", type = "pair" }]
[[function]]
name = "list"
results = [{ name = "pairs", type = "list<pair>" }]
[[function]]
name = "g"
params = [{ name = "thing", type = "thing" }]
"#;

/// What the host function was called with.
type Seen = Arc<Mutex<Vec<Vec<V>>>>;

async fn attacker(seen: &Seen, calls: &Arc<AtomicUsize>) -> Attacker {
    let interface = Interface::parse(INTERFACE, "t.toml").unwrap();
    let mut service = Service::new(interface);
    let (seen, calls) = (Arc::clone(seen), Arc::clone(calls));
    service
        .function("f", move |_, arguments| {
            calls.fetch_add(1, Ordering::Relaxed);
            seen.lock().unwrap().push(arguments);
            let results =
                vec![V::Bytes(b"12".to_vec()), V::String("3".into()), V::Record(vec![V::U32(4), V::U32(5)])];
            std::future::ready(Ok(Reply::Values(results)))
        })
        .unwrap()
        .function("g", |_, _| std::future::ready(Ok(Reply::Values(Vec::new()))))
        .unwrap()
        .function("list", |_, _| {
            let pair = V::Record(vec![V::U32(1), V::U32(2)]);
            std::future::ready(Ok(Reply::Values(vec![V::List(vec![pair; 2])])))
        })
        .unwrap();
    let mut imports = Imports::default();
    imports.serve(&service).unwrap();
    let functions = [
        ("t", "f", vec![ValType::I32; 12]),
        ("t", "g", vec![ValType::I32]),
        ("t", "list", vec![ValType::I32; 3]),
    ];
    Attacker::importing(&functions, imports).await
}

/// The words of a sound call of `f`.
fn sound() -> [u64; ARGS_MAX] {
    let mut words = [0; ARGS_MAX];
    let ranges = [(0, 3), (16, 16), (32, 8), (64, 16), (96, 16), (128, 8)];
    for (word, (offset, length)) in words.iter_mut().zip(ranges) {
        *word = pack_range(offset, length);
    }
    words
}

/// Makes a call over the ring with these words.
async fn submit(session: &mut Session, function: u32, words: [u64; ARGS_MAX], flags: u64) -> CallOutcome {
    prepare(session, function, words, flags).await;
    weapon(session, "host-call", &[MEMORY_BASE]).await
}

/// Puts a submission where a weapon finds it. That goes through the arena, so what is to be there comes later.
async fn prepare(session: &mut Session, function: u32, words: [u64; ARGS_MAX], flags: u64) {
    let submission =
        Submission { function: FUNCTIONS + function, args: words, flags, ..Submission::default() };
    session.write_memory(0, 0, submission.as_bytes()).await.unwrap();
}

async fn rule(attacker: &Attacker, function: u32, words: [u64; ARGS_MAX], flags: u64) -> String {
    match submit(&mut attacker.session().await, function, words, flags).await {
        CallOutcome::Ended(Outcome::Violated(Violation::Ring { rule })) => rule,
        other => panic!("{words:x?} {flags:#x}: {other:?}"),
    }
}

fn answer(outcome: CallOutcome) -> i64 {
    match outcome {
        CallOutcome::Returned(results) => match results[..] {
            [Value::I64(errno)] => errno,
            _ => panic!("{results:?}"),
        },
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn forged_typed_submissions_are_violations_that_say_what_was_wrong() {
    let calls = Arc::new(AtomicUsize::new(0));
    let attacker = attacker(&Seen::default(), &calls).await;
    let mut session = attacker.session().await;
    assert_eq!(answer(submit(&mut session, 0, sound(), 0).await), 0, "a sound one is served");
    let arena = ARENA_BYTES as u32;
    for (position, offset, length, parameter) in [
        (0, arena, 1, "words"),
        (0, arena - 1, 2, "words"),
        (0, u32::MAX, u32::MAX, "words"),
        (0, 0, u32::MAX, "words"),
        (1, 16, 15, "pairs"),
        (1, arena - 8, 16, "pairs"),
        (2, 32, 7, "pair"),
        (2, 32, 9, "pair"),
        (2, arena - 4, 8, "pair"),
        (3, 64, 7, "one"),
        (3, arena - 8, 9, "one"),
        (4, 96, 0, "two"),
        (5, 128, 4, "three"),
        (5, u32::MAX - 3, 8, "three"),
    ] {
        let mut words = sound();
        words[position] = pack_range(offset, length);
        let rule = rule(&attacker, 0, words, 0).await;
        assert!(
            rule.starts_with(&format!("t.f: {parameter}: bytes {offset}+{length} are not a valid range")),
            "{rule}"
        );
    }
    for (position, offset, length, parameter) in
        [(4, 64, 16, "two"), (4, 79, 16, "two"), (5, 100, 8, "three"), (5, 64, 8, "three")]
    {
        let mut words = sound();
        words[position] = pack_range(offset, length);
        let rule = rule(&attacker, 0, words, 0).await;
        assert_eq!(
            rule,
            format!("t.f: {parameter}: bytes {offset}+{length} of the arena overlap another result's")
        );
    }
    for (offset, length) in [(0, 7), (0, 9), (0, 15), (arena - 15, 16), (8, u32::MAX), (u32::MAX, 24)] {
        let mut words = [0; ARGS_MAX];
        words[0] = pack_range(offset, length);
        let rule = rule(&attacker, 2, words, 0).await;
        let expected = format!("t.list: pairs: bytes {offset}+{length} are not a valid range");
        assert!(rule.starts_with(&expected), "{rule}");
    }
    let mut words = [0; ARGS_MAX];
    words[0] = pack_range(arena - 24, 24);
    assert_eq!(answer(submit(&mut session, 2, words, 0).await), 0, "the last bytes there are");
    for flags in [1, 2, REFUSED << 1, REFUSED | 1, u64::MAX] {
        let rule = rule(&attacker, 0, sound(), flags).await;
        assert!(rule.contains("unknown flags"), "{rule}");
    }
    for (index, why) in [(6, 1), (u64::MAX, 1), (0, 0), (0, 4)] {
        let mut words = [0; ARGS_MAX];
        (words[0], words[1]) = (index, why);
        let rule = rule(&attacker, 0, words, REFUSED).await;
        assert!(rule.contains("t.f: refused for"), "{rule}");
    }
    assert_eq!(calls.load(Ordering::Relaxed), 1);
    // None of this cost anybody else anything.
    assert_eq!(answer(submit(&mut session, 0, sound(), 0).await), 0);
}

#[tokio::test]
async fn values_of_a_taken_over_instance_are_checked_by_the_supervisor() {
    let calls = Arc::new(AtomicUsize::new(0));
    let attacker = attacker(&Seen::default(), &calls).await;
    let mut session = attacker.session().await;
    // No shim of ours checks UTF-8 or handles.
    prepare(&mut session, 0, sound(), 0).await;
    weapon(&mut session, "poke", &[RING_BASE + ARENA_OFFSET as u64, 0xffff_ffff]).await;
    assert_eq!(answer(weapon(&mut session, "host-call", &[MEMORY_BASE]).await), 1);
    for thing in [0, 1, 0x1_0000, 0x1_0000_0000, u64::MAX] {
        let mut words = [0; ARGS_MAX];
        words[0] = thing;
        assert_eq!(answer(submit(&mut session, 1, words, 0).await), 1, "{thing:#x}");
    }
    assert_eq!(calls.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn the_supervisor_does_not_go_by_the_table_that_an_instance_can_rewrite() {
    let (seen, calls) = (Seen::default(), Arc::new(AtomicUsize::new(0)));
    let attacker = attacker(&seen, &calls).await;
    let mut session = attacker.session().await;
    for word in 0..16 {
        weapon(&mut session, "poke", &[RING_BASE + TABLE_OFFSET as u64 + 8 * word, u64::MAX]).await;
    }
    assert_eq!(answer(submit(&mut session, 0, sound(), 0).await), 0);
    let rule = rule(&attacker, 0, [u64::MAX; ARGS_MAX], 0).await;
    assert!(rule.starts_with("t.f: words: "), "{rule}");
    assert_eq!(seen.lock().unwrap()[0].len(), 3);
}

/// While the supervisor reads, the instance changes what it reads, over and over. What arrives was checked all the same.
#[tokio::test]
async fn an_arena_that_changes_under_the_supervisor_is_copied_before_it_is_checked() {
    let (seen, calls) = (Seen::default(), Arc::new(AtomicUsize::new(0)));
    let attacker = attacker(&seen, &calls).await;
    let mut session = attacker.session().await;
    let words = RING_BASE + ARENA_OFFSET as u64;
    for _ in 0..300 {
        // Text first; the weapon makes it something else and text again.
        prepare(&mut session, 0, sound(), 0).await;
        weapon(&mut session, "poke", &[words, u64::from(u32::from_le_bytes(*b"abcd"))]).await;
        let errno = answer(weapon(&mut session, "race", &[MEMORY_BASE, words]).await);
        assert!(errno == 0 || errno == 1, "{errno}");
    }
    let seen = seen.lock().unwrap();
    assert_eq!(seen.len(), calls.load(Ordering::Relaxed));
    for arguments in &*seen {
        // Half-way changed it is no text, or all of it is.
        assert_eq!(arguments[0], V::String("abc".into()));
    }
}
