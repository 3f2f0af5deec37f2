//! From a pipeline file to a finished run. Knows no LLM, no tensor, no terminal.
//!
//! The phases, in order; each is a function from one value to the next and knows nothing of the
//! later ones:
//!
//! | phase | from | to | where |
//! |---|---|---|---|
//! | parse | text | a tree in which everything knows its place | [`load`], [`spec`] |
//! | resolve | profile, overrides, variables, axes | instances | `resolve` |
//! | check | instances and stages | [`graph::Graph`], or every mistake | `check` |
//! | prompts | graph and prompt files | what is wrong with them | [`prompts`] |
//! | select | targets | [`selection::Selection`] | [`selection`] |
//! | evaluate | graph, sources, store | [`evaluate::Evaluation`]: hit or miss | [`evaluate`], [`action`] |
//! | plan | evaluation | [`plan::Plan`] | [`plan`], [`explain`] |
//! | run | evaluation | [`run::RunSummary`] and events | [`run`], [`schedule`], [`executor`] |
//! | record | events, results | the `runs` folder, the work tree | [`run_record`], [`publish`] |

pub mod action;
pub mod action_diff;
pub mod audit;
pub mod bill;
pub mod bundle;
mod check;
pub mod clock;
pub mod command_stage;
pub mod device_choice;
pub mod diagnostic;
pub mod environment;
pub mod estimate;
pub mod evaluate;
pub mod event;
pub mod executor;
pub mod explain;
pub mod graph;
pub mod graph_cache;
pub mod graph_render;
pub mod lineage;
pub mod load;
pub mod lock_file;
pub mod machine;
pub mod manifest;
pub mod placement;
pub mod plan;
pub mod port;
pub mod prompts;
pub mod publish;
pub mod readers;
mod repeats;
mod resolve;
pub mod retry;
pub mod run;
pub mod run_diff;
pub mod run_record;
pub mod run_reports;
pub mod schedule;
pub mod selection;
pub mod service;
pub mod spec;
pub mod spend;
pub mod stage;
pub mod stage_context;
pub mod suggest;
