//! The report as JSON, for `sandboxctl run --json` and for host apps that pass it on. The form is flat and stable:
//! keys are only ever added.

use ipc::report::{Outcome, Report, Usage, Value, Violation};
use serde_json::{Map, Value as Json, json};

/// The report as a JSON object. `trap`, `violation` and `limit` are null unless they are the outcome.
pub fn report_json(report: &Report) -> Json {
    let (outcome, mut exit_code, mut results) = (outcome_name(&report.outcome), Json::Null, Json::Null);
    let (mut trap, mut violation, mut limit) = (Json::Null, Json::Null, Json::Null);
    match &report.outcome {
        Outcome::Exited { code, results: values } => {
            exit_code = json!(code);
            results = values.iter().map(value_json).collect();
        }
        Outcome::Trapped(t) => trap = json!({ "message": t.message, "backtrace": t.backtrace }),
        Outcome::Violated(v) => violation = violation_json(v),
        Outcome::LimitReached(l) => limit = json!({ "limit": l.limit, "value": l.value }),
        Outcome::Cancelled => {}
    }
    let mut object = Map::new();
    let mut put = |key: &str, value: Json| object.insert(String::from(key), value);
    put("outcome", json!(outcome));
    put("exit_status", json!(report.exit_status()));
    put("exit_code", exit_code);
    put("results", results);
    put("trap", trap);
    put("violation", violation);
    put("limit", limit);
    if let Json::Object(usage) = usage_json(&report.usage) {
        object.extend(usage);
    }
    let mut put = |key: &str, value: Json| object.insert(String::from(key), value);
    put("policy", json!(report.policy));
    put("policy_dangers", json!(*report.dangers));
    put("layers", json!(*report.layers));
    put("missing_layers", json!(*report.missing_layers));
    Json::Object(object)
}

/// What was used as a JSON object, by the same keys as in a report.
pub fn usage_json(usage: &Usage) -> Json {
    json!({
        "wall_ns": usage.wall_ns,
        "cpu_us": usage.cpu_us,
        "peak_memory_bytes": usage.peak_memory_bytes,
        "wasm_memory_bytes": usage.wasm_memory_bytes,
        "refused_grows": usage.refused_grows,
        "host_calls": usage.host_calls,
        "local_host_calls": usage.local_host_calls,
        "output_bytes": usage.output_bytes,
        "fuel": usage.fuel,
    })
}

fn outcome_name(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Exited { .. } => "exited",
        Outcome::Trapped(_) => "trapped",
        Outcome::Violated(_) => "violated",
        Outcome::LimitReached(_) => "limit-reached",
        Outcome::Cancelled => "cancelled",
    }
}

/// Type and text: JSON numbers hold neither 64-bit integers nor NaN for every reader.
pub fn value_json(value: &Value) -> Json {
    let name = match value {
        Value::I32(_) => "i32",
        Value::I64(_) => "i64",
        Value::F32(_) => "f32",
        Value::F64(_) => "f64",
        Value::FuncRef(_) => "funcref",
        Value::ExternRef(_) => "externref",
        Value::ExnRef(_) => "exnref",
        Value::V128(_) => "v128",
    };
    json!({ "type": name, "value": ipc::text::format(value) })
}

fn violation_json(violation: &Violation) -> Json {
    match violation {
        Violation::Syscall { number, name, arch, policy } => {
            json!({ "kind": "syscall", "number": number, "name": name, "arch": arch, "policy": policy })
        }
        Violation::Fault { signal, pc, address } => {
            json!({ "kind": "fault", "signal": signal, "pc": pc, "address": address })
        }
        Violation::Ring { rule } => json!({ "kind": "ring", "rule": rule }),
        Violation::Died { how } => json!({ "kind": "died", "how": how }),
    }
}

#[cfg(test)]
mod tests {
    use ipc::report::{Frame, Limit, LimitReached, Trap, Usage};

    use super::*;

    fn json_of(outcome: Outcome) -> Json {
        let usage = Usage { wall_ns: 5, host_calls: 7, ..Usage::default() };
        let layers = vec![String::from("seccomp")];
        report_json(&Report {
            outcome,
            usage,
            policy: "default".into(),
            dangers: [].into(),
            layers: layers.into(),
            missing_layers: [].into(),
        })
    }

    #[test]
    fn every_outcome_has_its_own_keys_and_nulls_elsewhere() {
        let exited = json_of(Outcome::Exited { code: 7, results: vec![Value::F64(f64::NAN.to_bits())] });
        assert_eq!(exited["outcome"], "exited");
        assert_eq!(exited["exit_code"], 7);
        assert_eq!(exited["results"], json!([{ "type": "f64", "value": "NaN" }]));
        assert_eq!((&exited["trap"], &exited["limit"]), (&Json::Null, &Json::Null));
        assert_eq!(exited["wall_ns"], 5);
        assert_eq!(exited["host_calls"], 7);
        assert_eq!(exited["layers"], json!(["seccomp"]));

        let backtrace = vec![Frame {
            function: 3,
            name: Some("f".into()),
            offset: Some(35),
            file: Some("a.c".into()),
            line: Some(3),
        }];
        let trapped = json_of(Outcome::Trapped(Trap { message: "unreachable".into(), backtrace }));
        assert_eq!(trapped["exit_code"], Json::Null);
        assert_eq!(trapped["exit_status"], 134);
        let frame = json!({ "function": 3, "name": "f", "offset": 35, "file": "a.c", "line": 3 });
        assert_eq!(trapped["trap"], json!({ "message": "unreachable", "backtrace": [frame] }));

        let limit = json_of(Outcome::LimitReached(LimitReached { limit: Limit::WallTime, value: 9 }));
        assert_eq!(limit["limit"], json!({ "limit": "wall-time", "value": 9 }));

        let violated = json_of(Outcome::Violated(Violation::Ring { rule: "r".into() }));
        assert_eq!(violated["violation"], json!({ "kind": "ring", "rule": "r" }));
        assert_eq!(json_of(Outcome::Cancelled)["outcome"], "cancelled");
    }
}
