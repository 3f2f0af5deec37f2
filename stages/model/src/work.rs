//! What work with a model takes of operations, reckoned before any of it is done.
//!
//! A token that is read costs two operations, a product and a sum, for each number of a matrix that it meets: those of the
//! blocks and of the head, not the embedding, which is looked up. Going back costs as many again for the gradients of the
//! states, and as many for those of the weights that learn: six in all where everything learns. Attention's own products, softmax and
//! norms are left out: with rows of some hundred tokens they are below one in a hundred.

use crate::causal_lm::Keep;
use crate::config::ModelConfig;
use crate::memory::{Learning, block_of};

/// Numbers of matrices that a token meets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Met {
    /// In all blocks.
    blocks: u64,
    /// In one.
    block: u64,
    /// In the head, which gives every token of the vocabulary a score.
    head: u64,
}

impl ModelConfig {
    fn met(&self) -> Met {
        let tensors = self.tensors();
        let in_blocks = tensors.iter().filter_map(|(name, shape)| {
            let size = shape.iter().map(|it| *it as u64).product::<u64>();
            Some((block_of(name)?, size))
        });
        let (mut blocks, mut count) = (0, 0);
        for (block, size) in in_blocks {
            blocks += size;
            count = count.max(block as u64 + 1);
        }
        let head = (self.vocabulary() * self.hidden()) as u64;
        Met { blocks, block: blocks / count.max(1), head }
    }

    /// Operations for a token that is read, or sampled; without a head, as in a reward model.
    pub fn reading_operations(&self, has_head: bool) -> f64 {
        let Met { blocks, head, .. } = self.met();
        2.0 * (blocks + if has_head { head } else { 0 }) as f64
    }

    /// Operations for a token that is read by so many blocks at the top, and by the head.
    pub fn top_operations(&self, blocks: usize) -> f64 {
        let met = self.met();
        2.0 * ((blocks as u64 * met.block).min(met.blocks) + met.head) as f64
    }

    /// Operations for going back from a token: what learns, the blocks that the gradient passes, and what of the forward
    /// pass is computed again.
    pub fn backward_operations(&self, learning: Learning, has_head: bool, keep: Keep) -> f64 {
        let met = self.met();
        let head = if has_head { met.head } else { 0 };
        let passed = (learning.blocks as u64 * met.block).min(met.blocks);
        // An embedding that is no head is looked up.
        let learns = learning.numbers.min(met.blocks + head) + learning.beside;
        let again = if keep == Keep::All { 0 } else { passed };
        2.0 * (passed + head + learns + again) as f64
    }

    /// Operations for a token that is learnt from.
    pub fn training_operations(&self, learning: Learning, has_head: bool, keep: Keep) -> f64 {
        self.reading_operations(has_head) + self.backward_operations(learning, has_head, keep)
    }
}

#[cfg(test)]
mod tests {
    use crate::adapter::LoraOptions;
    use crate::sizes::{SpecialTokens, new_config, published};

    use super::*;

    fn model(name: &str) -> ModelConfig {
        let (family, sizes, rows) = published(name).unwrap();
        let special = SpecialTokens { bos: 1, eos: 2, pad: 3 };
        ModelConfig::parse(&new_config(family, &sizes, rows, special).unwrap()).unwrap()
    }

    /// By hand, of BLOOM-7B1: a block has 12 * 4096^2 numbers in matrices and 13 * 4096 in biases and norms,
    /// 201,379,840; there are 30, and the head is the embedding, 250,880 * 4096.
    const BLOCK: f64 = 201_379_840.0;
    const HEAD: f64 = 1_027_604_480.0;

    #[test]
    fn everything_learns_with_six_operations_a_number() {
        let bloom = model("bloom-7b1");
        assert_eq!(bloom.parameters(), 7_069_016_064);
        let numbers = 30.0 * BLOCK + HEAD;
        assert_eq!(bloom.reading_operations(true), 2.0 * numbers);
        let all = bloom.learning(|_| true);
        assert_eq!(bloom.training_operations(all, true, Keep::All), 6.0 * numbers);
        let again = bloom.training_operations(all, true, Keep::Inputs);
        assert_eq!(again, 6.0 * numbers + 2.0 * 30.0 * BLOCK);
        // Norms apart, 6 * parameters * tokens.
        let rule = 6.0 * bloom.parameters() as f64;
        assert!((6.0 * numbers / rule - 1.0).abs() < 1e-5);
        // LLaMA's embedding is looked up and its head is another: 6,738,415,616 - 32,000 * 4096 - 4096 numbers.
        let llama = model("llama-7b");
        let all = llama.learning(|_| true);
        assert_eq!(llama.training_operations(all, true, Keep::All), 6.0 * 6_607_339_520.0);
    }

    #[test]
    fn what_is_frozen_saves_what_it_does_not_need() {
        let bloom = model("bloom-7b1");
        // The top four learn: the norm after them has 2 * 4096 numbers, and `beside` is as wide as a state.
        let top = bloom.top(4, false);
        assert_eq!(
            bloom.backward_operations(top, true, Keep::All),
            2.0 * (4.0 * BLOCK + HEAD + 4.0 * BLOCK + 8192.0 + 4096.0)
        );
        assert_eq!(bloom.top_operations(4), 2.0 * (4.0 * BLOCK + HEAD));
        assert_eq!(bloom.reading_operations(false), 60.0 * BLOCK);
        // Adapters of rank 8 beside 30 matrices of 4096 * 12,288.
        let options = LoraOptions {
            rank: 8,
            alpha: 16.0,
            dropout: 0.0,
            targets: vec!["query_key_value".to_owned()],
        };
        let adapters = bloom.adapters(&options);
        assert_eq!(
            bloom.training_operations(adapters, true, Keep::All),
            4.0 * (30.0 * BLOCK + HEAD) + 2.0 * 30.0 * 8.0 * (4096.0 + 12_288.0)
        );
    }
}
