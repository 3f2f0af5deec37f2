//! The built-in stages beyond the engine's own `command`: adapters from ports and params to
//! library calls. [`registry`] is the list.

mod asking;
mod card;
mod chat_template;
mod corpus;
mod croissant;
mod dataset;
mod decontaminate;
mod describe;
mod download;
mod evaluate;
mod generate;
mod gpu;
mod hub;
mod identify_language;
mod import;
mod import_model;
mod init_model;
mod judge;
mod kept_rows;
mod labels;
mod lengths;
mod mix;
mod model_card;
mod model_files;
mod model_folder;
mod model_memory;
mod model_source;
mod pin;
mod ppo;
mod pretrain;
mod rank;
mod release;
mod report;
mod report_rows;
mod report_sets;
mod reward_model;
mod row_members;
mod self_instruct;
pub mod selftest;
mod sft;
mod speed;
mod teachers;
mod tensor_difference;
mod texts;
mod training;
mod translate;

use std::sync::Arc;

use okapi_engine::stage::StageRegistry;
use okapi_teacher::Teachers;

pub use tensor_difference::difference_of_tensors;

/// Whether it is known what a teacher costs: it has a price, or is free.
pub fn has_price(identity: &serde_json::Value, settings: &serde_json::Value) -> bool {
    identity["kind"] == "offline" || okapi_teacher::price(settings).is_some()
}

/// Whether a metric counts what teachers were asked for a result, and says nothing of what came out.
pub fn counts_requests(metric: &str) -> bool {
    [asking::REQUESTS, asking::PROMPT_TOKENS, asking::COMPLETION_TOKENS].contains(&metric)
}

/// Whether models can compute on NVIDIA GPUs.
pub fn has_cuda() -> bool {
    gpu::HAS_CUDA
}

/// Every stage and every kind of teacher that okapi has.
pub fn registry() -> StageRegistry {
    registry_with_budget(None)
}

/// The same; the teachers may cost so many US dollars in all.
pub fn registry_with_budget(budget_usd: Option<f64>) -> StageRegistry {
    registry_asking(Arc::new(Teachers::new(budget_usd)))
}

/// The same; no teacher is asked, and those requests are answered that have been answered before. So many of them are kept
/// by the teachers that come with it, to be asked anew.
pub fn registry_of_records(sample: usize, seed: u32) -> (StageRegistry, Arc<Teachers>) {
    let teachers = Arc::new(Teachers::of_records(sample, seed));
    (registry_asking(Arc::clone(&teachers)), teachers)
}

fn registry_asking(asked: Arc<Teachers>) -> StageRegistry {
    let mut registry = StageRegistry::with_builtin();
    registry.add(Box::new(dataset::Dataset));
    registry.add(Box::new(release::Release));
    registry.add(Box::new(decontaminate::Decontaminate));
    registry.add(Box::new(describe::Describe));
    registry.add(Box::new(evaluate::Evaluate));
    registry.add(Box::new(generate::ANSWER));
    registry.add(Box::new(generate::GENERATE));
    registry.add(Box::new(identify_language::IdentifyLanguage));
    registry.add(Box::new(import::Import));
    registry.add(Box::new(import_model::ImportModel));
    registry.add(Box::new(init_model::InitModel));
    registry.add(Box::new(judge::Judge(Arc::clone(&asked))));
    registry.add(Box::new(mix::Mix));
    registry.add(Box::new(ppo::Ppo));
    registry.add(Box::new(pretrain::Pretrain));
    registry.add(Box::new(rank::Rank(Arc::clone(&asked))));
    registry.add(Box::new(report::MakeReport));
    registry.add(Box::new(reward_model::RewardModel));
    registry.add(Box::new(self_instruct::SelfInstruct(Arc::clone(&asked))));
    registry.add(Box::new(sft::Sft));
    registry.add(Box::new(translate::Translate(asked)));
    registry.add_teacher(&teachers::OFFLINE);
    registry.add_teacher(&teachers::OPENAI);
    registry
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    #[test]
    fn no_stage_has_two_params_of_one_name() {
        for stage in super::registry().iter() {
            let descriptor = stage.descriptor();
            let names: BTreeSet<&str> = descriptor.params.iter().map(|param| param.name).collect();
            assert_eq!(names.len(), descriptor.params.len(), "{}", descriptor.name);
        }
    }
}
