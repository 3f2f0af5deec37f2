//! Requests and answers as OpenAI-compatible servers write them.

use serde_json::{Map, Value, json};

use super::OpenAiConfig;
use crate::request::{Answer, Finish, Request, Usage, estimated_tokens};

/// The body of a request. `json_mode` is off for servers that have shown that they know no
/// `response_format`.
pub(crate) fn body(config: &OpenAiConfig, request: &Request, json_mode: bool) -> Value {
    let sampling = &config.sampling;
    let mut body = Map::new();
    body.insert("model".into(), config.model.clone().into());
    body.insert("messages".into(), json!(request.messages));
    let numbers = [
        ("temperature", sampling.temperature),
        ("top_p", sampling.top_p),
        ("frequency_penalty", sampling.frequency_penalty),
        ("presence_penalty", sampling.presence_penalty),
    ];
    for (name, number) in numbers {
        body.extend(number.map(|number| (name.to_owned(), number.into())));
    }
    if let Some(most) = sampling.max_tokens {
        body.insert(config.max_tokens_name.clone(), most.into());
    }
    if let Some(seed) = sampling.seed {
        body.insert("seed".into(), request.seed(seed).into());
    }
    if !sampling.stop.is_empty() {
        body.insert("stop".into(), json!(sampling.stop));
    }
    if request.json && sampling.json_mode && json_mode {
        body.insert("response_format".into(), json!({ "type": "json_object" }));
    }
    body.extend(sampling.extra.clone());
    Value::Object(body)
}

/// A body with a good status that is not what such a server sends: what is wrong with it. Another try
/// may give something else.
#[derive(Debug, PartialEq)]
pub(crate) struct Broken(pub(crate) String);

/// Reads the body of an answer.
pub(crate) fn answer(
    body: &[u8],
    config: &OpenAiConfig,
    request: &Request,
) -> Result<Answer, Broken> {
    let broken = Broken;
    let body: Value = serde_json::from_slice(body)
        .map_err(|error| broken(format!("its answer is no JSON: {error}")))?;
    if let Some(error) = body.get("error").filter(|error| !error.is_null()) {
        return Err(broken(format!("it answered with an error: {}", message_of(error))));
    }
    let choice = body["choices"].get(0).ok_or_else(|| broken("it has no `choices`".into()))?;
    let message = &choice["message"];
    let refusal = message["refusal"].as_str().filter(|text| !text.is_empty());
    let finish = match choice["finish_reason"].as_str() {
        _ if refusal.is_some() => Finish::Refused,
        Some("stop") => Finish::Stop,
        Some("length") => Finish::Length,
        Some("content_filter") => Finish::ContentFilter,
        _ => Finish::Other,
    };
    let parts = |parts: &Vec<Value>| -> Option<String> {
        parts.iter().map(|part| part["text"].as_str()).collect()
    };
    let text = match (&message["content"], refusal) {
        (_, Some(refusal)) => refusal.to_owned(),
        (Value::String(text), _) => text.clone(),
        (Value::Array(content), _) => {
            parts(content).ok_or_else(|| broken("its answer has a part that is no text".into()))?
        }
        // Some servers send nothing for an empty answer.
        (Value::Null, _) if message.is_object() || finish == Finish::ContentFilter => String::new(),
        _ => return Err(broken("its answer has no text in `message.content`".into())),
    };
    let usage = usage(&body["usage"]).unwrap_or_else(|| Usage {
        prompt_tokens: request.estimated_tokens(),
        completion_tokens: estimated_tokens(&text),
        cached_tokens: 0,
        estimated: true,
    });
    let text_of = |name: &str| body[name].as_str().map(str::to_owned);
    Ok(Answer {
        text,
        finish,
        usage,
        model: text_of("model").filter(|model| *model != config.model),
        fingerprint: text_of("system_fingerprint"),
        stated_usd: body["usage"]["cost"].as_f64(),
    })
}

fn usage(usage: &Value) -> Option<Usage> {
    Some(Usage {
        prompt_tokens: usage["prompt_tokens"].as_u64()?,
        completion_tokens: usage["completion_tokens"].as_u64().unwrap_or(0),
        cached_tokens: usage["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap_or(0),
        estimated: false,
    })
}

/// The text of an `error` member: an object with a message, or a text.
fn message_of(error: &Value) -> String {
    let text = error["message"].as_str().or_else(|| error.as_str());
    text.map_or_else(|| error.to_string(), str::to_owned)
}

/// What the body of a failure says: `code`, `param` and a text for people, however it is written.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct FailureBody {
    pub(crate) code: String,
    pub(crate) param: String,
    pub(crate) message: String,
}

/// Reads the body of a failure: JSON of the usual form, other JSON, text, or a page of HTML.
pub(crate) fn failure(body: &[u8], redact: &dyn Fn(&str) -> String) -> FailureBody {
    let shorten = |text: &str| {
        // What is secret is taken out before a cut could hide a part of it.
        let text = redact(text);
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        match text.char_indices().nth(300) {
            Some((at, _)) => format!("{}...", &text[..at]),
            None => text,
        }
    };
    let Ok(json) = serde_json::from_slice::<Value>(body) else {
        let text = String::from_utf8_lossy(body);
        let message = match text.trim_start().starts_with('<') {
            true => "it sent a page of HTML".to_owned(),
            false => shorten(&text),
        };
        return FailureBody { message, ..FailureBody::default() };
    };
    let error = json.get("error").unwrap_or(&json);
    let word = |name: &str| match &error[name] {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        _ => String::new(),
    };
    // Some servers repeat the status as the code, and say what it is in the type.
    let code = format!("{} {}", word("code"), word("type")).trim().to_owned();
    FailureBody { code, param: word("param"), message: shorten(&message_of(error)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::openai::tests::config;

    fn read(body: &Value) -> Result<Answer, Broken> {
        answer(body.to_string().as_bytes(), &config("http://x/v1"), &Request::new("Hi"))
    }

    #[test]
    fn a_body_has_what_was_set_and_nothing_else() {
        let mut config = config("http://x/v1");
        let request = Request { json: true, ..Request::new("Hi") };
        assert_eq!(
            body(&config, &request, true),
            json!({ "model": "tiny", "messages": [{ "role": "user", "content": "Hi" }] })
        );
        config.sampling.temperature = Some(0.5);
        config.sampling.max_tokens = Some(7);
        config.sampling.seed = Some(3);
        config.sampling.json_mode = true;
        config.sampling.stop = vec!["###".into()];
        config.sampling.extra.insert("guided".into(), json!(1));
        let request = Request { attempt: 2, ..request };
        assert_eq!(
            body(&config, &request, true),
            json!({
                "model": "tiny", "messages": [{ "role": "user", "content": "Hi" }],
                "temperature": 0.5, "max_tokens": 7, "seed": 5, "stop": ["###"], "guided": 1,
                "response_format": { "type": "json_object" },
            })
        );
        assert!(body(&config, &request, false).get("response_format").is_none());
    }

    #[test]
    fn answers_are_read_with_their_usage() {
        let choice = json!({ "message": { "content": "Hello" }, "finish_reason": "stop" });
        let read_one = read(&json!({
            "model": "tiny-2", "system_fingerprint": "fp", "choices": [choice],
            "usage": {
                "prompt_tokens": 9, "completion_tokens": 2, "cost": 0.25,
                "prompt_tokens_details": { "cached_tokens": 4 },
            },
        }));
        let answer = read_one.unwrap();
        assert_eq!((answer.text.as_str(), answer.finish), ("Hello", Finish::Stop));
        assert_eq!(answer.usage.cached_tokens, 4);
        assert_eq!(answer.model.as_deref(), Some("tiny-2"));
        assert_eq!(answer.stated_usd, Some(0.25));
        let counted = read(&json!({ "choices": [choice] })).unwrap().usage;
        assert!(counted.estimated && counted.completion_tokens == 2, "{counted:?}");
    }

    #[test]
    fn what_is_no_answer_is_told_from_what_is_refused() {
        for body in [
            json!({}),
            json!({ "choices": [] }),
            json!({ "choices": [{ "message": "text" }] }),
            json!({ "choices": [{ "message": { "content": ["a"] } }] }),
            json!({ "choices": [{ "message": { "content": 3 } }] }),
            json!({ "error": { "message": "overloaded" } }),
            json!([]),
            json!(null),
        ] {
            assert!(read(&body).is_err(), "{body}");
        }
        for (choice, finish) in [
            (
                json!({ "message": { "content": "x" }, "finish_reason": "content_filter" }),
                Finish::ContentFilter,
            ),
            (json!({ "message": { "content": null, "refusal": "no" } }), Finish::Refused),
            (json!({ "message": { "content": [{ "type": "text", "text": "x" }] } }), Finish::Other),
        ] {
            let body = json!({ "choices": [choice] });
            assert_eq!(read(&body).unwrap().finish, finish, "{body}");
        }
    }

    #[test]
    fn failures_may_be_written_in_any_way() {
        let failure = |body: &[u8]| failure(body, &|text| text.to_owned());
        let code = failure(br#"{"error":{"message":"no  such\nmodel","code":"model_not_found"}}"#);
        assert_eq!(
            (code.code.as_str(), code.message.as_str()),
            ("model_not_found", "no such model")
        );
        assert_eq!(failure(br#"{"error":"plain"}"#).message, "plain");
        assert_eq!(failure(br#"{"detail":"x"}"#).message, r#"{"detail":"x"}"#);
        assert_eq!(failure(b"<html><body>Bad gateway").message, "it sent a page of HTML");
        assert_eq!(failure(b"Internal Server Error").message, "Internal Server Error");
        assert_eq!(failure(b"").message, "");
    }
}
