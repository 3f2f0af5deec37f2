//! Adapters of a whole model, and their folders as PEFT writes them: `adapter_config.json` and
//! `adapter_model.safetensors`.

use std::path::Path;

use serde_json::{Value, json};

use crate::block::Block;
use crate::causal_lm::{CausalLm, ModelError};
use crate::checkpoint::CheckpointError;
use crate::layers::add;
use crate::low_rank::LowRank;
use crate::parameters::Parameter;
use crate::random::{Purpose, Random};
use crate::tensor_file::{NumberKind, TensorFile, TensorSource, write_tensors};

/// What PEFT puts before a module's name.
const PREFIX: &str = "base_model.model.";
const CONFIG: &str = "adapter_config.json";
const WEIGHTS: &str = "adapter_model.safetensors";

/// What adapters are made like.
#[derive(Debug, Clone, PartialEq)]
pub struct LoraOptions {
    /// Rows of `A`, columns of `B`.
    pub rank: usize,
    /// `alpha / rank` is what their product is multiplied with.
    pub alpha: f64,
    /// The share of an adapter's input that is left out in training.
    pub dropout: f64,
    /// The modules that get one: the last part of their names, such as `q_proj`, or whole names.
    pub targets: Vec<String>,
}

impl LoraOptions {
    /// Reads `adapter_config.json`.
    ///
    /// # Errors
    /// When it says something that would be computed otherwise.
    fn parse(config: &Value) -> Result<LoraOptions, ModelError> {
        let wrong = |field: &str, message: String| {
            ModelError::Adapter(format!("{CONFIG}, `{field}`: {message}"))
        };
        for (field, known) in [
            ("peft_type", vec![json!("LORA")]),
            ("bias", vec![Value::Null, json!("none")]),
            ("fan_in_fan_out", vec![Value::Null, json!(false)]),
            ("use_dora", vec![Value::Null, json!(false)]),
            ("use_rslora", vec![Value::Null, json!(false)]),
            ("lora_bias", vec![Value::Null, json!(false)]),
            ("modules_to_save", vec![Value::Null, json!([])]),
            ("rank_pattern", vec![Value::Null, json!({})]),
            ("alpha_pattern", vec![Value::Null, json!({})]),
            ("exclude_modules", vec![Value::Null, json!([])]),
            ("trainable_token_indices", vec![Value::Null]),
            ("use_qalora", vec![Value::Null, json!(false)]),
            ("use_bdlora", vec![Value::Null, json!(false)]),
            ("layers_to_transform", vec![Value::Null]),
            ("layer_replication", vec![Value::Null]),
            ("target_parameters", vec![Value::Null, json!([])]),
        ] {
            if !known.contains(&config[field]) {
                let message = format!("it is {}, which is not computed here", config[field]);
                return Err(wrong(field, message));
            }
        }
        let rank = config["r"].as_u64().filter(|rank| *rank > 0);
        let alpha = config["lora_alpha"].as_f64();
        let targets: Vec<String> = match &config["target_modules"] {
            Value::Array(some) => {
                some.iter().filter_map(Value::as_str).map(str::to_owned).collect()
            }
            _ => Vec::new(),
        };
        if targets.is_empty() {
            return Err(wrong("target_modules", "it is no list of modules".to_owned()));
        }
        Ok(LoraOptions {
            rank: rank.ok_or_else(|| wrong("r", "it is no number above 0".to_owned()))? as usize,
            alpha: alpha.ok_or_else(|| wrong("lora_alpha", "it is no number".to_owned()))?,
            dropout: config["lora_dropout"].as_f64().unwrap_or(0.0),
            targets,
        })
    }

    pub(crate) fn takes(&self, module: &str) -> bool {
        let is = |target: &String| {
            module == target || module.strip_suffix(target).is_some_and(|it| it.ends_with('.'))
        };
        self.targets.iter().any(is)
    }
}

impl CausalLm {
    /// Freezes all weights, and gives the layers that `options` names adapters that change nothing yet:
    /// `A` is random as in PEFT, `B` is zero.
    ///
    /// # Errors
    /// When the model has no such layers, or has adapters already.
    pub fn add_adapters(&mut self, options: &LoraOptions, seed: u64) -> Result<(), ModelError> {
        let mut stream = 0;
        self.adapt(options, |name, [rows, columns]| {
            if name.contains(".lora_B.") {
                return Ok(vec![0.0; rows * columns]);
            }
            // Kaiming's uniform distribution with a = sqrt(5): up to 1 / sqrt(columns) either way.
            stream += 1;
            let mut random = Random::new(seed, Purpose::Weights, stream, 1);
            let most = (columns as f64).sqrt().recip();
            let mut number = || ((2.0 * random.uniform() - 1.0) * most) as f32;
            Ok((0..rows * columns).map(|_| number()).collect())
        })
    }

    /// Reads the adapters of a folder. All weights of the model itself are frozen.
    ///
    /// # Errors
    /// When they are not adapters of this model.
    pub fn open_adapters(&mut self, folder: &Path) -> Result<LoraOptions, ModelError> {
        let path = folder.join(CONFIG);
        let config = read_json(&path)?;
        let options = LoraOptions::parse(&config)?;
        let file = TensorFile::open(&folder.join(WEIGHTS))?;
        let mut read = 0;
        self.adapt(&options, |name, shape| {
            if file.shape(name)? != shape {
                return Err(CheckpointError::Shape {
                    path: file.path().to_owned(),
                    name: name.to_owned(),
                    found: file.shape(name)?.to_vec(),
                    expected: shape.to_vec(),
                });
            }
            read += 1;
            file.read(name)
        })?;
        if file.names().count() > read {
            let known = |name: &&str| self.parameters().id(name).is_err();
            let extra = file.names().filter(known).map(str::to_owned).collect();
            return Err(CheckpointError::Extra(extra).into());
        }
        Ok(options)
    }

    fn adapt(
        &mut self,
        options: &LoraOptions,
        mut values: impl FnMut(&str, [usize; 2]) -> Result<Vec<f32>, CheckpointError>,
    ) -> Result<(), ModelError> {
        let (parameters, linears) = self.parts_mut();
        for parameter in parameters.iter_mut() {
            parameter.is_trained = false;
        }
        let mut count = 0;
        for linear in linears {
            let weight = parameters.get(linear.weight).name.clone();
            let module = weight.strip_suffix(".weight").unwrap_or(&weight);
            if !options.takes(module) {
                continue;
            }
            if linear.adapter.is_some() {
                return Err(ModelError::Adapter("the model has adapters already".to_owned()));
            }
            let rank = options.rank;
            let mut push = |part: &str, shape: [usize; 2]| {
                let name = format!("{PREFIX}{module}.lora_{part}.weight");
                let values = values(&name, shape)?;
                let shape = shape.to_vec();
                Ok::<_, CheckpointError>(parameters.push(Parameter::new(name, shape, values)))
            };
            linear.adapter = Some(LowRank {
                down: push("A", [rank, linear.from])?,
                up: push("B", [linear.to, rank])?,
                rank,
                from: linear.from,
                to: linear.to,
                scale: (options.alpha / rank as f64) as f32,
                dropout: options.dropout,
            });
            count += 1;
        }
        if count == 0 {
            let mut known: Vec<&str> = Vec::new();
            for linear in self.layers.blocks.iter().flat_map(Block::linears) {
                let name = &self.parameters().get(linear.weight).name;
                let last = name.rsplit('.').nth(1).unwrap_or(name);
                if !known.contains(&last) {
                    known.push(last);
                }
            }
            let (targets, known) = (options.targets.join(", "), known.join(", "));
            let message = format!("the model has no layer called {targets}; it has {known}");
            return Err(ModelError::Adapter(message));
        }
        Ok(())
    }

    /// Adds every adapter to the weight that it stands beside, and takes it away.
    pub fn merge_adapters(&mut self) {
        let (parameters, linears) = self.parts_mut();
        for linear in linears {
            let Some(adapter) = linear.adapter.take() else { continue };
            let product = adapter.product(parameters);
            add(parameters.values_mut(linear.weight), &product);
        }
        parameters.pop_while(|parameter| parameter.name.starts_with(PREFIX));
    }

    /// Writes the adapters as PEFT does. `base` is what it is told that they belong to.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn save_adapters(
        &self,
        folder: &Path,
        options: &LoraOptions,
        base: &str,
    ) -> Result<(), ModelError> {
        let mut targets = options.targets.clone();
        targets.sort();
        let config = json!({
            "base_model_name_or_path": base,
            "bias": "none",
            "fan_in_fan_out": false,
            "inference_mode": true,
            "lora_alpha": options.alpha,
            "lora_dropout": options.dropout,
            "peft_type": "LORA",
            "r": options.rank,
            "target_modules": targets,
            "task_type": "CAUSAL_LM",
        });
        let path = folder.join(CONFIG);
        let text = format!("{config:#}\n");
        let wrong = |error: std::io::Error| CheckpointError::File {
            path: path.clone(),
            message: error.to_string(),
        };
        std::fs::create_dir_all(folder)
            .and_then(|()| std::fs::write(&path, text))
            .map_err(wrong)?;
        let adapters = self.parameters().iter().filter(|it| it.name.starts_with(PREFIX));
        let tensors = adapters.map(|parameter| TensorSource {
            name: &parameter.name,
            shape: &parameter.shape,
            values: parameter.into(),
            kind: NumberKind::F32,
        });
        Ok(write_tensors(&folder.join(WEIGHTS), "pt", tensors)?)
    }
}

fn read_json(path: &Path) -> Result<Value, CheckpointError> {
    let wrong = |message: String| CheckpointError::File { path: path.to_owned(), message };
    let text = std::fs::read(path).map_err(|error| wrong(error.to_string()))?;
    serde_json::from_slice(&text).map_err(|error| wrong(error.to_string()))
}
