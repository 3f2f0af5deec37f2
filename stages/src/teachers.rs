//! The kinds of teachers, as pipelines name them.

use okapi_cache::canonical_json;
use okapi_engine::stage::{Param, ParamDefault, ParamType, TeacherKind};
use serde_json::{Value, json};

/// The name of the server that an instance asks, if it is one that allows so many requests at once or a minute: an
/// instance has as many on their way as that. A batch takes as many as come, and the offline teacher is this program.
pub(crate) fn limiting_service(declared: &Value, settings: &Value) -> Option<String> {
    let (identity, settings) = (&declared["teacher"], &settings["teacher"]);
    let is_limited = identity["kind"] == "openai" && settings["mode"] != "batch";
    // What has limits of its own is what has a client of its own.
    is_limited.then(|| canonical_json::to_string(&json!([identity, settings])))
}

/// Part of a teacher's identity: it changes what is answered.
const fn identity(name: &'static str, ty: ParamType, help: &'static str) -> Param {
    Param { name, ty, default: ParamDefault::Absent, identity: true, help }
}

/// No part of it: it changes how fast, how often, where and at what price is asked.
const fn setting(name: &'static str, ty: ParamType, help: &'static str) -> Param {
    Param { name, ty, default: ParamDefault::Absent, identity: false, help }
}

const RATE: ParamType = ParamType::Float { min: 0.01, max: 1e9 };
const SECONDS: ParamType = ParamType::Float { min: 0.01, max: 86_400.0 };
const USD: ParamType = ParamType::Float { min: 0.0, max: 1e6 };
const PENALTY: ParamType = ParamType::Float { min: -2.0, max: 2.0 };

/// Any OpenAI-compatible server.
pub(crate) static OPENAI: TeacherKind = TeacherKind {
    name: "openai",
    version: 1,
    summary: "any OpenAI-compatible server: OpenAI, vLLM, llama.cpp, Ollama, OpenRouter, ...",
    documentation: "\
Asks `POST <base_url>/chat/completions`.

    teachers:
      chat: {kind: openai, model: gpt-4o-mini, temperature: 0, input_price: 0.15, output_price: 0.6}
      local: {kind: openai, model: qwen2.5, base_url: 'http://localhost:8000/v1'}

The model, the sampling and `extra` are part of the identity of every node that asks this teacher, and of
every record of an answer. The address is not: the same model elsewhere gives the same records. If what
answers under one name has changed, write another `revision`.

The key comes from the environment variable that `api_key_env` names (`OPENAI_API_KEY` for OpenAI itself)
and goes nowhere else. Failures that pass (no connection, 408, 409, 425, 429, 5xx, answers that are cut or are
no answers) are tried again, after waits that double or as long as the server asks; a server that has had
too much pauses the whole teacher. Other failures end the node; what was answered until then is recorded
and never asked again.

With `mode: batch` the requests go through the batch endpoint, at half the price: collected, uploaded as a
file, answered within a day. Stop okapi in the meantime if you like; the next run finds the batch. The
records are the same as in live mode. A node that waits keeps its processor slot: `-j 26` lets 26 languages
wait at once.",
    params: &[
        Param {
            name: "model",
            ty: ParamType::String,
            default: ParamDefault::Required,
            identity: true,
            help: "the model's name",
        },
        identity("temperature", ParamType::Float { min: 0.0, max: 10.0 }, "how much chance there is in answers"),
        identity("top_p", ParamType::Float { min: 0.0, max: 1.0 }, "the share of probability that is sampled from"),
        identity("max_tokens", ParamType::Int { min: 1, max: 10_000_000 }, "the longest answer, in tokens"),
        identity("frequency_penalty", PENALTY, "against words that were used often"),
        identity("presence_penalty", PENALTY, "against words that were used at all"),
        identity("seed", ParamType::Int { min: 0, max: i32::MAX as i64 }, "the seed of the server's chance, as far as it keeps to one"),
        identity("stop", ParamType::List(&ParamType::String), "texts at which an answer ends"),
        identity("json_mode", ParamType::Bool, "ask for JSON by `response_format`, where JSON is wanted"),
        identity("extra", ParamType::Map(&ParamType::Any), "other members of the request's body"),
        identity("revision", ParamType::String, "a word for the state of the model; another one asks everything anew"),
        setting("base_url", ParamType::String, "the server, up to and with `/v1`; OpenAI's if left out"),
        setting("api_key_env", ParamType::String, "the environment variable that holds the key"),
        setting("key_header", ParamType::Choice(&["authorization", "api-key"]), "the header for the key: a bearer token, or Azure's"),
        setting("max_tokens_name", ParamType::Choice(&["max_tokens", "max_completion_tokens"]), "what the server calls `max_tokens`"),
        setting("concurrency", ParamType::Int { min: 1, max: 10_000 }, "requests on their way at once; 16 if left out"),
        setting("requests_per_minute", RATE, "the most requests a minute"),
        setting("tokens_per_minute", RATE, "the most tokens a minute, read and written"),
        setting("timeout", SECONDS, "how long one try may take, seconds; 600 if left out"),
        setting("connect_timeout", SECONDS, "how long connecting may take, seconds; 10 if left out"),
        setting("tries", ParamType::Int { min: 1, max: 1000 }, "how often a request is tried; 8 if left out"),
        setting("input_price", USD, "US dollars per million tokens read"),
        setting("cached_input_price", USD, "US dollars per million tokens read that the provider had cached"),
        setting("output_price", USD, "US dollars per million tokens written"),
        setting("mode", ParamType::Choice(&["live", "batch"]), "one call per request, or the batch endpoint"),
        setting("batch_price_factor", ParamType::Float { min: 0.0, max: 1.0 }, "what a batch costs of the price; 0.5 if left out"),
    ],
};

/// The teacher without a model.
pub(crate) static OFFLINE: TeacherKind = TeacherKind {
    name: "offline",
    version: okapi_teacher::offline::VERSION,
    summary: "rules over a small closed world, in 31 languages: no key, no network, no GPU",
    documentation: "\
Writes tasks, translates, answers, ranks and judges by rules, about some 300 things (numbers, animals,
countries, colours, opposites, ...) in 44 kinds of tasks. What its phrase books do not cover, the
seed tasks included, it leaves as it is: it translates what it has written itself. It is no language model; it is there so that a pipeline can run and be tested before anything is
paid for, and so that a small model has something to learn.

    teachers:
      chat: {kind: offline}
      careless: {kind: offline, skill: 0.5}

The same request always gets the same answer. `okapi teacher serve` offers it over HTTP, as any other
server would.",
    params: &[
        Param {
            name: "skill",
            ty: ParamType::Float { min: 0.0, max: 1.0 },
            default: ParamDefault::Value("1"),
            identity: true,
            help: "the share of what it does that it does well; the rest has mistakes",
        },
        Param {
            name: "seed",
            ty: ParamType::Int { min: i64::MIN, max: i64::MAX },
            default: ParamDefault::Value("0"),
            identity: true,
            help: "the seed of its chance",
        },
        Param {
            name: "kinds",
            ty: ParamType::List(&ParamType::Choice(&okapi_teacher::offline::KINDS)),
            default: ParamDefault::Absent,
            identity: true,
            help: "the kinds of tasks that it writes; all if left out",
        },
        Param {
            name: "small_talk",
            ty: ParamType::Float { min: 0.0, max: 1.0 },
            default: ParamDefault::Value("0.8"),
            identity: true,
            help: "the share of the tasks that it writes that begin by saying who asks or why",
        },
    ],
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_live_server_limits_and_nothing_else() {
        let name = |identity: Value, settings: Value| {
            limiting_service(&json!({"teacher": identity}), &json!({"teacher": settings}))
        };
        let live = json!({"kind": "openai", "model": "m"});
        assert!(name(live.clone(), json!({"concurrency": 8})).is_some());
        assert_eq!(name(live.clone(), json!({})), name(live.clone(), json!({})));
        assert_ne!(name(live.clone(), json!({})), name(live.clone(), json!({"base_url": "b"})));
        assert_eq!(name(live, json!({"mode": "batch"})), None);
        assert_eq!(name(json!({"kind": "offline"}), json!({})), None);
        assert_eq!(limiting_service(&json!({}), &json!({})), None);
    }
}
