//! The pipelines that `okapi init` can write, with all that they need: whoever has the program has them.

use clap::ValueEnum;

/// A pipeline to begin with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Example {
    /// Two nodes of shell commands, with comments: how a pipeline is written.
    FirstSteps,
    /// The whole way to a model tuned with human feedback, in two languages: under a minute.
    Tiny,
    /// The Okapi system in 26 languages, from seed tasks to the tables of its paper.
    #[value(name = "okapi-26")]
    Okapi26,
    /// The experiments on monolingual and multilingual tuning, in minutes.
    MonoOrMulti,
}

/// A file below the project's root, and what it holds.
pub(crate) type ExampleFile = (&'static str, &'static str);

macro_rules! files {
    ($($path:literal),* $(,)?) => {
        &[$(($path, include_str!(concat!("../../", $path)))),*]
    };
}

const FIRST_STEPS: &[ExampleFile] = &[("okapi.yaml", include_str!("init.yaml"))];

const TINY: &[ExampleFile] = files![
    "pipelines/tiny.yaml",
    "pipelines/okapi/seed_tasks.jsonl",
    "prompts/instruction.j2",
    "prompts/rank.j2",
    "prompts/rank_translate.j2",
    "prompts/self_instruct.j2",
    "prompts/translate.j2",
];

const OKAPI_26: &[ExampleFile] = files![
    "pipelines/okapi-26.yaml",
    "pipelines/okapi/seed_tasks.jsonl",
    "pipelines/okapi/questions/arc_test.jsonl",
    "pipelines/okapi/questions/arc_train.jsonl",
    "pipelines/okapi/questions/facts.jsonl",
    "pipelines/okapi/questions/hellaswag_test.jsonl",
    "pipelines/okapi/questions/mmlu_test.jsonl",
    "pipelines/okapi/questions/mmlu_train.jsonl",
    "prompts/instruction.j2",
    "prompts/question_answer.j2",
    "prompts/rank.j2",
    "prompts/rank_translate.j2",
    "prompts/self_instruct.j2",
    "prompts/translate.j2",
];

const MONO_OR_MULTI: &[ExampleFile] = files![
    "pipelines/mono-or-multi.yaml",
    "pipelines/mono-or-multi/budget.sh",
    "pipelines/mono-or-multi/prompts.jsonl",
    "pipelines/okapi/seed_tasks.jsonl",
    "pipelines/okapi/questions/facts.jsonl",
    "prompts/instruction.j2",
    "prompts/judge.j2",
    "prompts/question_answer.j2",
    "prompts/self_instruct.j2",
    "prompts/translate.j2",
];

impl Example {
    /// Its files, the pipeline first.
    pub(crate) fn files(self) -> &'static [ExampleFile] {
        match self {
            Example::FirstSteps => FIRST_STEPS,
            Example::Tiny => TINY,
            Example::Okapi26 => OKAPI_26,
            Example::MonoOrMulti => MONO_OR_MULTI,
        }
    }
}
