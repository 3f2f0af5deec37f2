//! Times a store of many results, each step a process of its own:
//!
//! ```text
//! results fill FOLDER COUNT      adds so many results to a new store, each with three outputs and a document of 1.4 KB
//! results look FOLDER COUNT      opens it, looks 100,000 of them up, and learns 100 that another handle adds
//! results collect FOLDER COUNT   collects, with nine results of ten to keep
//! ```
//!
//! Ten results share three objects, so that there are as many files as a file system holds with ease.

#![expect(clippy::print_stdout, reason = "a program")]

use std::collections::BTreeMap;
use std::error::Error;
use std::path::Path;
use std::time::Instant;

use okapi_cache::gc::{GcRequest, gc};
use okapi_cache::{
    Access, ActionDigest, Artifact, Commit, Digest, Durability, ResultInfo, Store, StoreError,
};

/// Results that share their outputs.
const SHARING: u64 = 10;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [step, folder, count] = &arguments[..] else {
        return Err("usage: results fill|look|collect FOLDER COUNT".into());
    };
    let (folder, count) = (Path::new(folder), count.parse()?);
    match step.as_str() {
        "fill" => fill(folder, count)?,
        "look" => look(folder, count)?,
        "collect" => collect(folder, count)?,
        other => return Err(format!("no step is named {other}").into()),
    }
    println!("peak of memory: {} MiB", peak_mebibytes().unwrap_or(0));
    Ok(())
}

fn open(folder: &Path) -> Result<Store, StoreError> {
    Store::open(folder, Access::ReadWrite, Durability::None)
}

fn fill(folder: &Path, count: u64) -> Result<(), Box<dyn Error>> {
    let store = open(folder)?;
    let began = Instant::now();
    add(&store, 0..count)?;
    println!("adding: {:.1} us a result", began.elapsed().as_secs_f64() * 1e6 / count as f64);
    for log in ["actions.log", "documents.log"] {
        let size = std::fs::metadata(store.root().join(log))?.len();
        println!("{log}: {} MiB", size >> 20);
    }
    Ok(())
}

fn look(folder: &Path, count: u64) -> Result<(), Box<dyn Error>> {
    let (began, worked) = (Instant::now(), processor_seconds());
    let store = open(folder)?;
    let worked = processor_seconds() - worked;
    println!(
        "opening: {:.0} ms, {:.0} ms of a processor",
        began.elapsed().as_secs_f64() * 1e3,
        worked * 1e3
    );
    println!(
        "memory: {} MiB, {} MiB at most",
        memory_mebibytes("VmRSS:").unwrap_or(0),
        peak_mebibytes().unwrap_or(0)
    );
    for (what, from) in [("hits", 0), ("misses", count)] {
        // A stride that shares no factor with the usual counts.
        let actions: Vec<_> = (0..100_000).map(|step| action(from + step * 7919 % count)).collect();
        let began = Instant::now();
        for action in &actions {
            assert_eq!(store.lookup(action).is_some(), from == 0);
        }
        println!("{what}: {:.2} us a look-up", began.elapsed().as_secs_f64() * 1e6 / 1e5);
    }
    let began = Instant::now();
    store.refresh()?;
    println!("refreshing with nothing new: {:.0} us", began.elapsed().as_secs_f64() * 1e6);
    let other = open(folder)?;
    add(&other, 2 * count..2 * count + 100)?;
    drop(other);
    let began = Instant::now();
    store.refresh()?;
    println!("refreshing with 100 more: {:.0} us", began.elapsed().as_secs_f64() * 1e6);
    assert!(store.lookup(&action(2 * count + 99)).is_some());
    Ok(())
}

fn collect(folder: &Path, count: u64) -> Result<(), Box<dyn Error>> {
    let store = open(folder)?;
    let alone = store.alone()?;
    let keep = (0..count).filter(|number| number % 10 > 0).map(action).collect();
    let (began, worked) = (Instant::now(), processor_seconds());
    let report = gc(&store, &GcRequest { keep, max_size: None }, Some(&alone))?;
    let worked = processor_seconds() - worked;
    println!("collecting: {:.1} s, {worked:.1} s of a processor", began.elapsed().as_secs_f64());
    println!("kept: {} results, {} objects", report.kept_actions, report.kept_objects);
    Ok(())
}

fn action(number: u64) -> ActionDigest {
    ActionDigest(Digest::of(document(number).as_bytes()))
}

fn document(number: u64) -> String {
    format!("{{\"action\":1,\"declared\":{{\"run\":\"{}\"}},\"n\":{number}}}", "x".repeat(900))
}

fn add(store: &Store, numbers: std::ops::Range<u64>) -> Result<(), StoreError> {
    let mut outputs: Vec<Artifact> = Vec::new();
    for number in numbers {
        if outputs.is_empty() || number % SHARING == 0 {
            let bytes = |port: u64| [number.to_le_bytes(), port.to_le_bytes()].concat();
            outputs = (0..3).map(|port| store.put_bytes(&bytes(port))).collect::<Result<_, _>>()?;
        }
        store.commit(Commit {
            action: action(number),
            document: document(number),
            outputs: outputs.clone(),
            info: info(number),
            lease: None,
        })?;
        if number % 10_000 == 0 {
            // What waits for the disk is kept in memory.
            store.flush()?;
        }
    }
    store.flush()
}

fn info(number: u64) -> ResultInfo {
    let metrics = ["loss", "steps", "tokens"].map(|name| (name.to_owned(), number as f64));
    let environment =
        [("host", "a"), ("okapi", "0.1.0"), ("os", "Linux 6.1"), ("processor", "some processor")];
    ResultInfo {
        metrics: BTreeMap::from(metrics),
        duration_ms: number,
        finished_unix_ms: 1_700_000_000_000,
        determinism: "repeatable".to_owned(),
        environment: environment.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
        log: None,
        cost_micro_usd: None,
        keeps: Vec::new(),
    }
}

fn processor_seconds() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

fn peak_mebibytes() -> Option<u64> {
    memory_mebibytes("VmHWM:")
}

/// A line of what Linux says of this process.
fn memory_mebibytes(name: &str) -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse::<u64>().ok().map(|kibibytes| kibibytes >> 10)
}
