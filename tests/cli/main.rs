//! The binary as its users meet it.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod architecture;
mod artifacts;
mod audit_forgeries;
mod audit_troubles;
mod audits;
mod bills;
mod bundle_exports;
mod bundles;
mod cluster;
mod collection;
mod command_line;
mod commands;
mod crash;
mod data_sets;
mod decontamination;
mod describes;
mod determinism;
mod devices;
mod downloads;
mod evaluations;
mod failures;
mod far_jobs;
mod full_disk;
mod gpus;
mod history;
mod hub;
mod imports;
mod init;
mod mixes;
mod models;
mod mono_or_multi;
#[path = "../../remote/tests/remote/moto.rs"]
mod moto;
mod order;
mod pipeline_comments;
#[path = "../../remote/tests/remote/proxy.rs"]
#[expect(dead_code, reason = "not every fault is tried here")]
mod proxy;
mod quickstart;
mod races;
mod releases;
mod remote_troubles;
mod remotes;
mod reports;
mod sandbox;
mod semantics;
mod slurm;
mod slurm_queue;
mod teachers;
mod training;
