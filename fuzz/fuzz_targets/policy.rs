//! Text to the parser of policies: no panic and no hang; what it takes compiles, decides as its rules say, survives the way to text
//! and back; and what does not say that it is dangerous narrows what it extends.
#![no_main]

use libfuzzer_sys::fuzz_target;
use policies::{Direction, Error, FilterContext, Functions, Imports, Limits, Policy, Question, Rule, Via};

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let policy = match Policy::parse(text, "fuzz.toml") {
        Ok(policy) => policy,
        Err(error) => {
            let line = error.to_string();
            assert!(!line.contains('\n') && line.len() < 2000, "{line}");
            assert!(error.position().is_none_or(|at| at.line > 0 && at.column > 0));
            return;
        }
    };
    let base = Policy::builtin(policy.extends().expect("a file extends something")).expect("built in");
    assert!(!policy.explain().is_empty());
    let context = FilterContext { memories: 1 };
    match policy.instance_filter(&context) {
        Ok(program) => assert_eq!(policies::disassemble(&program).len(), program.len()),
        // Too many rules and conditions are told when the filter is made.
        Err(Error::FilterTooLong { .. } | Error::Compile { .. }) => return,
        Err(error) => panic!("{error}"),
    }
    let dangerous = policy.dangerous_reason().is_some();
    for question in questions(&policy.seccomp().allow, context) {
        let answer = policy.answer(&question).expect("program and rules agree");
        if answer.is_allowed() && !dangerous {
            assert!(base.answer(&question).expect("answer").is_allowed(), "{question:?}");
        }
    }
    if dangerous {
        return;
    }
    narrows(&policy, &base);
    for difference in base.differences(&policy).expect("differences") {
        assert_eq!(difference.direction, Direction::Narrower, "{difference:?}");
    }
    let again = Policy::parse(&policy.to_toml(&base), "again.toml").expect("its own text");
    assert_eq!(policy.settings(), again.settings());
    assert!(policy.differences(&again).expect("differences").is_empty());
});

/// Calls at and around the values of the rules' conditions, and some that no rule has.
fn questions(rules: &[Rule], context: FilterContext) -> Vec<Question> {
    let mut all = vec![Question::new(57, [0; 6]), Question { via: Via::Gate, ..Question::new(231, [0; 6]) }];
    for rule in rules.iter().take(8) {
        let number = rule.syscall.id() as u32;
        let mut met = [0; 6];
        for condition in &rule.when {
            if let Some(arg) = met.get_mut(usize::from(condition.argument)) {
                *arg = condition.value.resolve(&context);
            }
        }
        all.push(Question { context, ..Question::new(number, met) });
        for condition in rule.when.iter().take(8) {
            let value = condition.value.resolve(&context);
            for near in [value.wrapping_sub(1), value.wrapping_add(1), 0, u64::MAX, value | 1 << 32] {
                let mut args = met;
                if let Some(arg) = args.get_mut(usize::from(condition.argument)) {
                    *arg = near;
                }
                all.push(Question { context, ..Question::new(number, args) });
            }
        }
    }
    all
}

/// The same as the parser's own check, said another way.
fn narrows(policy: &Policy, base: &Policy) {
    let fits = |new: Option<u64>, old: Option<u64>| old.is_none_or(|old| new.is_some_and(|new| new <= old));
    let nanos = |time: Option<std::time::Duration>| time.map(|time| time.as_nanos() as u64);
    let (new, old): (&Limits, &Limits) = (policy.limits(), base.limits());
    assert!(new.memory <= old.memory && new.stack <= old.stack && new.open_files <= old.open_files);
    assert!(fits(new.output, old.output) && fits(new.host_calls, old.host_calls) && fits(new.fuel, old.fuel));
    assert!(
        fits(nanos(new.wall_time), nanos(old.wall_time)) && fits(nanos(new.cpu_time), nanos(old.cpu_time))
    );
    let (new, old) = (policy.wasi(), base.wasi());
    assert!(new.filesystem <= old.filesystem && new.clock_resolution >= old.clock_resolution);
    assert!(new.clocks <= old.clocks && new.random <= old.random && new.stdio <= old.stdio);
    assert!(new.args <= old.args && new.env <= old.env);
    narrows_imports(policy.imports(), base.imports());
    assert_eq!(base.layers() & !policy.layers(), 0);
    assert_eq!(base.required() & !policy.required(), 0);
    for number in 0..ipc::interface::FUNCTIONS.len() as u32 {
        if let Some(function) = ipc::interface::FunctionId::from_number(number) {
            assert!(policy.allows_host_call(function) <= base.allows_host_call(function));
        }
    }
}

fn narrows_imports(new: &Imports, old: &Imports) {
    let (new, old) = match (new, old) {
        (_, Imports::All) => return,
        (Imports::All, Imports::Of(_)) => panic!("all, instead of some"),
        (Imports::Of(new), Imports::Of(old)) => (new, old),
    };
    for (interface, functions) in new {
        match (functions, old.get(interface)) {
            (_, Some(Functions::All)) => {}
            (Functions::Named(new), Some(Functions::Named(old))) => assert!(new.is_subset(old)),
            _ => panic!("{interface:?} is not granted"),
        }
    }
}
