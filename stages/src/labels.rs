//! Who is what in a report: the language, method, model and seed of what an instance made.
//!
//! An axis of the graph says it, or the node, or the lineage: how a model was tuned is known by the stage that made
//! it. What nobody says is an error, for a number in the wrong row is worse than none.

use std::collections::BTreeMap;

use okapi_engine::graph::parse_instance_name;
use okapi_engine::lineage::{Ancestor, Lineage};
use okapi_engine::stage_context::StageError;
use okapi_engine::suggest;
use okapi_report::Source;
use serde_json::Value;

/// What tells numbers of a report apart, with the axis that says it unless the node names another.
pub(crate) const LABELS: [(&str, &str); 7] = [
    ("language", "lang"),
    ("method", "method"),
    ("model", "model"),
    ("seed", "seed"),
    ("base", "base"),
    ("tuning", "tuning"),
    ("recipe", "recipe"),
];

/// Ports through which a model comes in, or what a model said.
const MODEL_PORTS: [&str; 3] = ["model", "policy", "responses"];

/// Stages that bring in a model, and those that train one with what their models are called.
const ROOTS: [&str; 2] = ["init_model", "import_model"];
const METHODS: [(&str, &str); 5] = [
    ("init_model", "base"),
    ("import_model", "base"),
    ("pretrain", "base"),
    ("sft", "sft"),
    ("ppo", "rlhf"),
];

/// Finds labels.
pub(crate) struct Labels<'a> {
    lineage: &'a Lineage,
    params: &'a Value,
}

/// What of the params contradicts itself.
pub(crate) fn check(params: &Value) -> Result<(), String> {
    for param in ["axes", "labels"] {
        for name in params[param].as_object().into_iter().flat_map(|it| it.keys()) {
            let known = || LABELS.iter().map(|label| label.0);
            if !known().any(|label| label == name) {
                let hint = suggest::nearest(name, known());
                let hint = hint.map_or_else(
                    || format!("it is one of {}", known().collect::<Vec<_>>().join(", ")),
                    |near| format!("did you mean `{near}`?"),
                );
                return Err(format!("`{param}` has no `{name}`: {hint}"));
            }
        }
    }
    let axes = ["language", "method", "seed"].map(|label| (label, axis_of(params, label)));
    for (place, (label, axis)) in axes.iter().enumerate() {
        if let Some((other, _)) = axes[..place].iter().find(|it| it.1 == *axis) {
            return Err(format!("`axes`: `{axis}` cannot say both the {other} and the {label}"));
        }
    }
    match params["labels"].get("seed").and_then(Value::as_str) {
        Some(seed) if seed.parse::<u64>().is_err() => {
            Err(format!("`labels`: the seed `{seed}` is no whole number"))
        }
        _ => Ok(()),
    }
}

fn axis_of<'p>(params: &'p Value, label: &str) -> &'p str {
    let default = LABELS.iter().find(|known| known.0 == label).map_or("", |known| known.1);
    params["axes"].get(label).and_then(Value::as_str).unwrap_or(default)
}

impl<'a> Labels<'a> {
    pub(crate) fn new(lineage: &'a Lineage, params: &'a Value) -> Labels<'a> {
        Labels { lineage, params }
    }

    /// Where what an instance made comes from.
    pub(crate) fn source(&self, instance: &str) -> Result<Source, StageError> {
        let action = self.ancestor(instance)?.action.to_string();
        Ok(Source { node: instance.to_owned(), action })
    }

    pub(crate) fn ancestor(&self, instance: &str) -> Result<&'a Ancestor, StageError> {
        self.lineage.ancestors.get(instance).ok_or_else(|| {
            StageError::failed(format!("`{instance}` is not in the lineage of this node"))
        })
    }

    /// What an axis of the instance says, or else the node's `labels`.
    fn said(&self, instance: &str, label: &str) -> Option<String> {
        let axis = axis_of(self.params, label);
        let (_, axes) = parse_instance_name(instance);
        let value = axes.into_iter().find(|it| it.0 == axis).map(|it| it.1);
        value.or_else(|| Some(self.params["labels"].get(label)?.as_str()?.to_owned()))
    }

    /// A label that only an axis or the node can say.
    pub(crate) fn named(&self, instance: &str, label: &str) -> Result<String, StageError> {
        self.said(instance, label).ok_or_else(|| self.missing(instance, label, None))
    }

    /// The language of what an instance made, where it says that itself.
    pub(crate) fn language(
        &self,
        instance: &str,
        stated: Option<&str>,
    ) -> Result<String, StageError> {
        let axis = axis_of(self.params, "language");
        match (stated, self.language_axis(instance)) {
            (Some(stated), Some(axis_value)) if stated != axis_value => Err(StageError::Failed {
                message: format!(
                    "`{instance}` says its language is `{stated}`, and its axis `{axis}` says `{axis_value}`"
                ),
                hint: Some(format!(
                    "if `{axis}` is another language, such as that of the training, write `axes: {{language: AXIS}}`"
                )),
                transient: false,
            }),
            (Some(stated), _) => Ok(stated.to_owned()),
            (None, _) => self.named(instance, "language"),
        }
    }

    /// The language of an instance that has an axis for it.
    pub(crate) fn language_axis(&self, instance: &str) -> Option<String> {
        let axis = axis_of(self.params, "language");
        let (_, axes) = parse_instance_name(instance);
        axes.into_iter().find(|it| it.0 == axis).map(|it| it.1)
    }

    /// How the model was made that an instance asked.
    pub(crate) fn method(&self, instance: &str) -> Result<String, StageError> {
        let methods = &self.params["methods"];
        let called = |name: &str| methods.get(name).and_then(Value::as_str).map(str::to_owned);
        let node = |instance: &str| called(parse_instance_name(instance).0);
        if let Some(label) = node(instance) {
            return Ok(label);
        }
        if let Some(value) = self.said(instance, "method") {
            return Ok(called(&value).unwrap_or(value));
        }
        let missing = |why| self.missing(instance, "method", Some(why));
        let Some(maker) = self.maker(instance) else {
            return Err(missing("and no stage of its lineage makes models"));
        };
        let stage = self.ancestor(maker)?.stage.as_str();
        let by_stage = || METHODS.iter().find(|known| known.0 == stage).map(|it| it.1.to_owned());
        node(maker)
            .or_else(by_stage)
            .ok_or_else(|| missing("and its model was made by no known method"))
    }

    /// What a model is made of.
    pub(crate) fn model(&self, instance: &str) -> Result<String, StageError> {
        let by_root = || Some(parse_instance_name(self.root(instance)?).0.to_owned());
        let why = "and its lineage has no `import_model` or `init_model`";
        self.said(instance, "model")
            .or_else(by_root)
            .ok_or_else(|| self.missing(instance, "model", Some(why)))
    }

    /// The family that a model is of: that of its name, where nothing else is said.
    pub(crate) fn base(&self, instance: &str) -> Result<String, StageError> {
        if let Some(base) = self.said(instance, "base") {
            return Ok(base);
        }
        let model = self.model(instance)?;
        let family = self.params["families"].get(&model).and_then(Value::as_str);
        Ok(family.map_or(model, str::to_owned))
    }

    /// How many parameters a model has.
    pub(crate) fn parameters(&self, instance: &str) -> Result<u64, StageError> {
        let root = self.root(instance).and_then(|root| self.ancestor(root).ok());
        let count = root.and_then(|root| root.metrics.get("parameters"));
        count.map(|count| *count as u64).ok_or_else(|| {
            StageError::failed(format!(
                "nothing says how many parameters the model has that answered for `{instance}`: its lineage has no \
                 `import_model` or `init_model` that counted them"
            ))
        })
    }

    /// The instance whose answers one looked at.
    pub(crate) fn responses(&self, instance: &str) -> Result<&'a str, StageError> {
        match self.ancestor(instance)?.inputs.get("responses").map(Vec::as_slice) {
            Some([only]) => Ok(only),
            _ => Err(StageError::Failed {
                message: format!(
                    "`{instance}` reads no `responses`, so nothing says whose answers it looked at"
                ),
                hint: Some("feed it by `judge` and `identify_language`".into()),
                transient: false,
            }),
        }
    }

    /// The seed of what was trained; 0 if nothing was.
    pub(crate) fn seed(&self, instance: &str) -> Result<u64, StageError> {
        if let Some(seed) = self.said(instance, "seed") {
            return seed.parse().map_err(|_| {
                let axis = axis_of(self.params, "seed");
                StageError::Failed {
                    message: format!(
                        "`{instance}`: its `{axis}` is `{seed}`, and seeds are whole numbers"
                    ),
                    hint: Some("name the axis with the seed: `axes: {seed: AXIS}`".into()),
                    transient: false,
                }
            });
        }
        let maker = self.maker(instance).and_then(|maker| self.ancestor(maker).ok());
        let seed = maker.and_then(|maker| maker.seed).unwrap_or(0);
        Ok(u64::try_from(seed).unwrap_or(0))
    }

    /// The instance that made the model which an instance asked, or trained.
    fn maker(&self, instance: &str) -> Option<&'a str> {
        self.first(instance, |stage| {
            stage == "reward_model" || METHODS.iter().any(|known| known.0 == stage)
        })
    }

    /// The instance that brought the model in.
    pub(crate) fn root(&self, instance: &str) -> Option<&'a str> {
        self.first(instance, |stage| ROOTS.contains(&stage))
    }

    /// The first instance of such a stage on the way up along models.
    fn first(&self, instance: &str, is_it: impl Fn(&str) -> bool) -> Option<&'a str> {
        let (mut name, mut ancestor) = self.lineage.ancestors.get_key_value(instance)?;
        while !is_it(&ancestor.stage) {
            let above = MODEL_PORTS.iter().find_map(|port| ancestor.inputs.get(*port))?;
            let [only] = &above[..] else { return None };
            (name, ancestor) = self.lineage.ancestors.get_key_value(only)?;
        }
        Some(name)
    }

    fn missing(&self, instance: &str, label: &str, why: Option<&str>) -> StageError {
        let axis = axis_of(self.params, label);
        let (node, axes) = parse_instance_name(instance);
        let why = why.map_or_else(String::new, |why| format!(", {why}"));
        let mut ways = vec![format!("give `{node}` the axis (`for_each: {{{axis}: ...}}`)")];
        let stage = self.lineage.ancestors.get(instance).map(|it| it.stage.as_str());
        if label == "language" && stage == Some("evaluate") {
            ways.insert(0, format!("write `language: CODE` under the params of `{node}`"));
        }
        if !axes.is_empty() {
            let names: Vec<&str> = axes.iter().map(|it| it.0).collect();
            ways.push(format!(
                "name another under this node's params, `axes: {{{label}: AXIS}}` (it has {})",
                names.join(", ")
            ));
        }
        ways.push(match label {
            "method" => format!("say it of the node, `methods: {{{node}: METHOD}}`"),
            _ => format!("say it of all that have no such axis, `labels: {{{label}: ...}}`"),
        });
        StageError::Failed {
            message: format!(
                "nothing says the {label} of `{instance}`: it has no axis `{axis}`{why}"
            ),
            hint: Some(ways.join(", or ")),
            transient: false,
        }
    }
}

/// Refuses a second of those that can be told apart by nothing.
#[derive(Default)]
pub(crate) struct Unique {
    seen: BTreeMap<Vec<String>, String>,
}

impl Unique {
    /// Notes what an instance made.
    ///
    /// # Errors
    /// When another has made the same.
    pub(crate) fn add(
        &mut self,
        what: &str,
        labels: Vec<String>,
        instance: &str,
    ) -> Result<(), StageError> {
        let said = labels.join(", ");
        match self.seen.insert(labels, instance.to_owned()) {
            None => Ok(()),
            Some(first) => Err(StageError::Failed {
                message: format!("`{first}` and `{instance}` both give {what} ({said})"),
                hint: Some(
                    "leave one out, or tell them apart by `axes`, `labels` or `methods`: see `okapi stages report`"
                        .into(),
                ),
                transient: false,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// An instance with its stage, its seed, and what it reads.
    type Made<'a> = (&'a str, &'a str, Option<i64>, &'a [(&'a str, &'a str)]);

    fn lineage(instances: &[Made<'_>]) -> Lineage {
        let ancestor = |(name, stage, seed, inputs): &Made<'_>| {
            let inputs: BTreeMap<_, _> =
                inputs.iter().map(|(port, from)| (*port, [*from])).collect();
            let ancestor = json!({
                "stage": stage, "stage_version": 1, "action": "0".repeat(64), "seed": seed, "inputs": inputs,
            });
            ((*name).to_owned(), ancestor)
        };
        let ancestors: serde_json::Map<_, _> = instances.iter().map(ancestor).collect();
        serde_json::from_value(json!({ "lineage": 1, "inputs": {}, "ancestors": ancestors }))
            .unwrap()
    }

    fn pipeline() -> Lineage {
        lineage(&[
            ("bloom", "import_model", None, &[]),
            ("sft[lang=de]", "sft", Some(7), &[("model", "bloom")]),
            ("ppo[lang=de]", "ppo", Some(8), &[("policy", "sft[lang=de]")]),
            ("evaluate_base[lang=de]", "evaluate", None, &[("model", "bloom")]),
            ("evaluate[lang=de,tuned=ppo]", "evaluate", None, &[("model", "ppo[lang=de]")]),
            ("answer[lang=de]", "answer", None, &[("model", "sft[lang=de]")]),
            ("judge[lang=de]", "judge", None, &[("responses", "answer[lang=de]")]),
            ("other", "evaluate", None, &[("model", "made")]),
            ("made", "command", None, &[]),
        ])
    }

    fn message<T: std::fmt::Debug>(result: Result<T, StageError>) -> String {
        match result.unwrap_err() {
            StageError::Failed { message, hint, .. } => {
                format!("{message}; {}", hint.unwrap_or_default())
            }
            other => panic!("{other}"),
        }
    }

    #[test]
    fn the_lineage_says_what_no_axis_says() {
        let (lineage, params) = (pipeline(), json!({}));
        let labels = Labels::new(&lineage, &params);
        let all = |instance: &str| {
            let texts = [labels.method(instance), labels.model(instance)].map(Result::unwrap);
            (texts[0].clone(), texts[1].clone(), labels.seed(instance).unwrap())
        };
        let expected = |method: &str, seed| (method.to_owned(), "bloom".to_owned(), seed);
        assert_eq!(all("evaluate_base[lang=de]"), expected("base", 0));
        assert_eq!(all("evaluate[lang=de,tuned=ppo]"), expected("rlhf", 8));
        assert_eq!(all("judge[lang=de]"), expected("sft", 7));
        assert_eq!(labels.language("judge[lang=de]", None).unwrap(), "de");
        assert_eq!(labels.language_axis("bloom"), None);
        let families = json!({ "families": { "bloom": "BLOOM", "pythia": "Pythia" } });
        let labels = Labels::new(&lineage, &families);
        assert_eq!(labels.base("judge[lang=de]").unwrap(), "BLOOM");
    }

    #[test]
    fn axes_and_nodes_say_it_first() {
        let lineage = pipeline();
        let params = json!({
            "axes": { "method": "tuned" },
            "methods": { "ppo": "RL", "evaluate_base": "before" },
            "labels": { "model": "BLOOM", "language": "en" },
        });
        let labels = Labels::new(&lineage, &params);
        assert_eq!(labels.method("evaluate[lang=de,tuned=ppo]").unwrap(), "RL");
        assert_eq!(labels.method("evaluate_base[lang=de]").unwrap(), "before");
        assert_eq!(labels.method("judge[lang=de]").unwrap(), "sft");
        assert_eq!(labels.model("other").unwrap(), "BLOOM");
        assert_eq!(labels.language("other", None).unwrap(), "en");
        assert_eq!(labels.base("judge[lang=de]").unwrap(), "BLOOM");
        // What says its language itself is not overruled by what holds for the rest.
        assert_eq!(labels.language("other", Some("fr")).unwrap(), "fr");
    }

    #[test]
    fn what_nobody_says_is_an_error_that_says_what_to_write() {
        let (lineage, params) = (pipeline(), json!({ "axes": { "seed": "tuned" } }));
        let labels = Labels::new(&lineage, &params);
        let checks = [
            (message(labels.method("other")), "methods: {other: METHOD}"),
            (message(labels.model("other")), "no `import_model` or `init_model`"),
            (
                message(labels.language("other", None)),
                "write `language: CODE` under the params of `other`, or give `other` the axis (`for_each: {lang: ...}`)",
            ),
            (
                message(labels.named("evaluate[lang=de,tuned=ppo]", "recipe")),
                "`axes: {recipe: AXIS}` (it has lang, tuned)",
            ),
            (message(labels.language("judge[lang=de]", Some("en"))), "its axis `lang` says `de`"),
            (message(labels.seed("evaluate[lang=de,tuned=ppo]")), "seeds are whole numbers"),
        ];
        for (said, expected) in checks {
            assert!(said.contains(expected), "{said}");
        }
    }

    #[test]
    fn params_that_contradict_themselves_are_refused() {
        let refused = |params: Value| check(&params).unwrap_err();
        assert!(refused(json!({ "axes": { "langage": "l" } })).contains("did you mean `language`"));
        assert!(refused(json!({ "labels": { "seed": "x" } })).contains("no whole number"));
        let both = json!({ "axes": { "method": "lang" } });
        assert_eq!(refused(both), "`axes`: `lang` cannot say both the language and the method");
        assert_eq!(check(&json!({ "axes": { "method": "tuned", "base": "lang" } })), Ok(()));
    }
}
