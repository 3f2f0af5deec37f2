//! Model folders as `transformers` writes them (`tests/fixtures/models/make.py`).

use std::path::Path;

use okapi_model::{Checkpoint, ModelConfig};
use serde_json::Value;

#[test]
fn every_tensor_of_a_folder_is_read_to_the_last_bit() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/models");
    let text = std::fs::read(fixtures.join("expected.json")).unwrap();
    let expected: Value = serde_json::from_slice(&text).unwrap();
    let models = expected["models"].as_object().unwrap();
    assert_eq!(models.len(), 4);
    for (name, model) in models {
        let folder = fixtures.join(name);
        let config = ModelConfig::read(&folder).unwrap();
        let checkpoint = Checkpoint::open(&folder, &config).unwrap();
        let sums = model["sums"].as_object().unwrap();
        assert_eq!(config.tensors().len(), sums.len(), "{name}");
        for (tensor, shape) in config.tensors() {
            let numbers = checkpoint.read(&tensor).unwrap();
            assert_eq!(numbers.len(), shape.iter().product::<usize>(), "{name}: {tensor}");
            let sum: f64 = numbers.iter().map(|number| f64::from(*number)).sum();
            let there = sums[&tensor].as_f64().unwrap();
            // The same numbers added in another order.
            assert!((sum - there).abs() < 1e-9 * there.abs().max(1.0), "{name}: {tensor}");
        }
    }
}
