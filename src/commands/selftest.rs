//! `okapi selftest`.

use std::time::{Duration, Instant};

use okapi_stages::selftest::{Selftest, SelftestError, SelftestOptions, name_of, selftest as test};
use serde_json::{Value, json};

use crate::cli::{DeviceChoice, SelftestArgs};
use crate::exit_code::ExitCode;
use crate::failure::Failure;
use crate::project;
use crate::ui::{format, output, table};

/// Tests a device, and prints a table.
pub(crate) fn selftest(arguments: &SelftestArgs) -> Result<ExitCode, Failure> {
    let machine = project::machine(None);
    let uses_gpu = match arguments.device {
        DeviceChoice::Auto => okapi_stages::has_cuda() && !machine.gpus.is_empty(),
        DeviceChoice::Cpu => false,
        DeviceChoice::Cuda => true,
    };
    let options = SelftestOptions {
        gpu: uses_gpu.then_some(0),
        compares: !arguments.no_compare,
        model: arguments.model.clone(),
        time: (arguments.seconds > 0).then(|| Duration::from_secs(arguments.seconds)),
        length: arguments.length as usize,
        tokens_at_once: arguments.tokens.unwrap_or(if uses_gpu { 8192 } else { 1024 }),
        rows: arguments.rows.max(1),
    };
    let folder = tempfile::tempdir()
        .map_err(|error| Failure::failed(format!("there is no temporary folder: {error}")))?;
    let began = Instant::now();
    let mut said =
        |what: &str| output::note(&format!("{:7.1} s  {what}", began.elapsed().as_secs_f64()));
    let found = test(&options, folder.path(), &mut said).map_err(|error| match error {
        SelftestError::Size(_) => Failure::usage(error.to_string()),
        error => Failure::failed(error.to_string()),
    })?;
    match arguments.json {
        true => output::print_json(&to_json(&found))?,
        false => output::print(&to_text(&found))?,
    }
    let is_fine = found.twins.iter().all(|twin| twin.agrees());
    Ok(if is_fine { ExitCode::Done } else { ExitCode::Failed })
}

fn to_text(found: &Selftest) -> String {
    let mut text = format!("{}\n\n", found.device);
    let mut rows = Vec::new();
    for twin in &found.twins {
        rows.push(vec![
            if twin.agrees() { "agrees" } else { "DIFFERS" }.to_owned(),
            name_of(twin.kind).to_owned(),
            twin.name.clone(),
            format!("{:.1e}", twin.difference),
            format!("may be {:.0e}", twin.bound),
        ]);
    }
    text.push_str(&table::render(&rows));
    if !rows.is_empty() {
        let apart = found.twins.iter().filter(|twin| !twin.agrees()).count();
        text.push_str(&format!("{} compared, {apart} differ\n", rows.len()));
    }
    if let Some((size, speed)) = &found.throughput {
        let rate = |tokens: f64| format!("{} tokens/s", format::thousands(tokens as u64));
        let mut rows = vec![
            vec![size.clone(), format!("{} numbers", format::thousands(speed.parameters))],
            vec!["trained in full".to_owned(), rate(speed.trained)],
            vec![String::new(), per_second(speed.flops)],
            vec!["scored".to_owned(), rate(speed.scored)],
            vec!["sampled".to_owned(), rate(speed.sampled)],
        ];
        if let (Some(first), Some(last)) = (speed.losses.first(), speed.losses.last()) {
            let steps = speed.losses.len();
            rows.push(vec!["loss".to_owned(), format!("{first:.3} to {last:.3} in {steps} steps")]);
        }
        if let Some(bytes) = speed.memory {
            rows.push(vec!["GPU memory".to_owned(), format::size(bytes)]);
        }
        text.push('\n');
        text.push_str(&table::render(&rows));
    }
    text
}

fn per_second(flops: f64) -> String {
    match flops >= 1e12 {
        true => format!("{:.1} TFLOP/s", flops / 1e12),
        false => format!("{:.1} GFLOP/s", flops / 1e9),
    }
}

fn to_json(found: &Selftest) -> Value {
    let twins: Vec<Value> = found
        .twins
        .iter()
        .map(|twin| {
            json!({
                "name": twin.name,
                "dtype": name_of(twin.kind),
                "difference": twin.difference,
                "bound": twin.bound,
                "agrees": twin.agrees(),
            })
        })
        .collect();
    let throughput = found.throughput.as_ref().map(|(size, speed)| {
        json!({
            "model": size,
            "parameters": speed.parameters,
            "trained_tokens_per_second": speed.trained,
            "scored_tokens_per_second": speed.scored,
            "sampled_tokens_per_second": speed.sampled,
            "flops": speed.flops,
            "losses": speed.losses,
            "memory": speed.memory,
        })
    });
    json!({ "device": found.device, "twins": twins, "throughput": throughput })
}
