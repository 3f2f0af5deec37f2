//! What work with a model takes of memory, reckoned before any of it is taken.
//!
//! On the processor everything is f32, whatever a folder stores; [`Memory::on`] says what a GPU takes for the same work. What
//! is counted is what grows with the model and with
//! the tokens that are computed at once; the program itself, tokenizers and rows of data are not.

use okapi_device::Kind;

use crate::adapter::LoraOptions;
use crate::causal_lm::Keep;
use crate::config::ModelConfig;

/// Bytes of one number.
const NUMBER: u64 = 4;
/// Bytes of the logits that are computed at once, and of what is computed with them.
const LOGITS: u64 = 64 << 20;
/// The same on a GPU, with the scores of attention.
const ON_DEVICE: u64 = 3 << 30;

/// Bytes, by what they are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Memory {
    /// The model's numbers.
    pub weights: u64,
    /// Those of what learns.
    pub gradients: u64,
    /// AdamW's two numbers for each that learns.
    pub moments: u64,
    /// What the backward pass needs of the forward one, and what both need on their way.
    pub activations: u64,
    /// Keys and values of tokens that were read.
    pub caches: u64,
}

impl Memory {
    /// All of it.
    pub fn total(&self) -> u64 {
        self.weights + self.gradients + self.moments + self.activations + self.caches
    }

    /// The same work on a GPU that stores numbers in this kind. In bfloat16 what learns has its lower halves
    /// beside it, and gradients and moments stay in single precision.
    #[must_use]
    pub fn on(self, kind: Option<Kind>) -> Memory {
        let Some(kind) = kind else { return self };
        let stored = |bytes: u64| bytes / NUMBER * kind.bytes() as u64;
        let lows = if kind == Kind::Bf16 { self.gradients / NUMBER * 2 } else { 0 };
        Memory {
            weights: stored(self.weights) + lows,
            activations: stored(self.activations.saturating_sub(LOGITS)) + ON_DEVICE,
            caches: stored(self.caches),
            ..self
        }
    }

    /// With the memory of another model beside it.
    pub fn and(self, other: Memory) -> Memory {
        Memory {
            weights: self.weights + other.weights,
            gradients: self.gradients + other.gradients,
            moments: self.moments + other.moments,
            activations: self.activations.max(other.activations),
            caches: self.caches + other.caches,
        }
    }
}

/// What learns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Learning {
    /// Numbers that learn.
    pub numbers: u64,
    /// Numbers that stand beside the model's own, and learn too: adapters, a head.
    pub beside: u64,
    /// Blocks that the gradient passes: those from the lowest in which something learns.
    pub blocks: usize,
}

/// Sizes that the memory of a token hangs on.
struct Token {
    blocks: u64,
    hidden: u64,
    /// Queries, keys and values.
    row: u64,
    /// What attention gives.
    attended: u64,
    /// Within the MLP, and whether that is gated.
    inner: u64,
    is_gated: bool,
    /// Whether attention and MLP read the same stream.
    is_parallel: bool,
    /// Keys and values.
    pairs: u64,
}

impl ModelConfig {
    fn token(&self) -> Token {
        let token = |blocks: usize, hidden: usize, inner: usize| Token {
            blocks: blocks as u64,
            hidden: hidden as u64,
            row: 3 * hidden as u64,
            attended: hidden as u64,
            inner: inner as u64,
            is_gated: false,
            is_parallel: false,
            pairs: 2 * hidden as u64,
        };
        match self {
            ModelConfig::Bloom(it) => token(it.layers, it.hidden, 4 * it.hidden),
            ModelConfig::GptNeox(it) => {
                Token { is_parallel: it.parallel, ..token(it.layers, it.hidden, it.intermediate) }
            }
            ModelConfig::Llama(it) => {
                let (queries, pairs) = (it.heads * it.head, it.key_value_heads * it.head);
                Token {
                    row: (queries + 2 * pairs) as u64,
                    attended: queries as u64,
                    is_gated: true,
                    pairs: 2 * pairs as u64,
                    ..token(it.layers, it.hidden, it.intermediate)
                }
            }
        }
    }

    /// What learns where the tensors of these names do.
    pub fn learning(&self, is_trained: impl Fn(&str) -> bool) -> Learning {
        let blocks = self.token().blocks as usize;
        let mut learning = Learning { numbers: 0, beside: 0, blocks: 0 };
        for (name, shape) in self.tensors().iter().filter(|(name, _)| is_trained(name)) {
            learning.numbers += shape.iter().product::<usize>() as u64;
            let passed = match block_of(name) {
                Some(block) => blocks - block,
                None if self.is_below_blocks(name) => blocks,
                None => 0,
            };
            learning.blocks = learning.blocks.max(passed);
        }
        learning
    }

    /// What learns where so many blocks at the top do, and the norm after them; with `embeddings` those too.
    /// As [`crate::CausalLm::train_top`], without a head.
    pub fn top(&self, blocks: usize, embeddings: bool) -> Learning {
        let lowest = (self.token().blocks as usize).saturating_sub(blocks);
        let mut learning = self.learning(|name| match block_of(name) {
            Some(block) => block >= lowest,
            None => embeddings || !self.is_below_blocks(name),
        });
        learning.beside = self.token().hidden;
        learning
    }

    /// What learns where adapters stand beside weights that do not.
    pub fn adapters(&self, options: &LoraOptions) -> Learning {
        let mut learning = Learning { numbers: 0, beside: 0, blocks: 0 };
        for (name, shape) in self.tensors() {
            let module = name.strip_suffix(".weight").filter(|module| options.takes(module));
            if let (Some(_), [to, from]) = (module, &shape[..]) {
                learning.beside += (options.rank * (to + from)) as u64;
                let blocks = self.token().blocks as usize;
                let passed = block_of(&name).map_or(blocks, |block| blocks - block);
                learning.blocks = learning.blocks.max(passed);
            }
        }
        learning
    }

    fn is_below_blocks(&self, name: &str) -> bool {
        let rest = name.strip_prefix(self.base_prefix()).unwrap_or(name);
        rest.starts_with("word_embeddings") || rest.starts_with("embed_")
    }

    /// What a step of training takes that computes so many tokens at once.
    pub fn training_memory(&self, learning: Learning, tokens: usize, keep: Keep) -> Memory {
        let Token { hidden, row, attended, inner, is_gated, is_parallel, .. } = self.token();
        let trace = row
            + attended
            + if is_parallel { 0 } else { hidden }
            + if is_gated { 2 * inner } else { inner };
        let passed = learning.blocks as u64;
        let kept = match keep {
            Keep::Nothing => 0,
            Keep::Inputs => passed * hidden + trace,
            Keep::All => passed * (hidden + trace),
        };
        // Around the last norm: what went into it, what came out, and its gradient. Then what one block needs
        // to go back: within the MLP, or around attention.
        let back = (2 * inner + 3 * hidden).max(5 * hidden + attended + row);
        let on_the_way = 3 * hidden + if passed > 0 { back } else { trace + 2 * hidden };
        let numbers = learning.numbers + learning.beside;
        Memory {
            weights: NUMBER * (self.parameters() + learning.beside),
            gradients: NUMBER * numbers,
            moments: 2 * NUMBER * numbers,
            activations: NUMBER * tokens as u64 * (kept + on_the_way) + LOGITS,
            caches: 0,
        }
    }

    /// What generation takes: so many rows at once, of so many tokens each, of which at most `new` are read
    /// in one pass.
    pub fn generation_memory(&self, rows: usize, tokens: usize, read_at_once: usize) -> Memory {
        let Token { blocks, hidden, row, attended, inner, pairs, .. } = self.token();
        let on_the_way = 4 * hidden + row + attended + 3 * inner;
        Memory {
            weights: NUMBER * self.parameters(),
            activations: NUMBER * read_at_once as u64 * on_the_way + LOGITS,
            caches: NUMBER * blocks * pairs * rows as u64 * tokens as u64,
            ..Memory::default()
        }
    }
}

/// The block that a tensor is in, by its name.
pub(crate) fn block_of(name: &str) -> Option<usize> {
    name.split('.').find_map(|part| part.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sizes::{SpecialTokens, new_config, published};

    /// The largest BLOOM that is trained in full on one GPU, as `nvidia-smi` counts the memory of one of 141 GB.
    #[test]
    fn seven_billion_numbers_learn_on_one_gpu() {
        let (family, sizes, vocabulary) = published("bloom-7b1").unwrap();
        let special = SpecialTokens { bos: 1, eos: 2, pad: 3 };
        let config = new_config(family, &sizes, vocabulary, special).unwrap();
        let config = ModelConfig::parse(&config).unwrap();
        let learning = config.learning(|_| true);
        let of = |keep| config.training_memory(learning, 8192, keep).on(Some(Kind::Bf16));
        let memory = of(Keep::Inputs);
        assert_eq!(memory.weights + memory.gradients + memory.moments, 16 * 7_069_016_064);
        let has = 143_771 << 20;
        assert!(memory.total() < has - (20 << 30), "{}", memory.total());
        // Without recomputation blocks keep more than there is.
        assert!(of(Keep::All).total() > memory.total() + (15 << 30));
        // In single precision nothing is kept beside the weights.
        let single = config.training_memory(learning, 8192, Keep::Inputs).on(Some(Kind::F32));
        assert_eq!(single.weights, 4 * 7_069_016_064);
    }
}
