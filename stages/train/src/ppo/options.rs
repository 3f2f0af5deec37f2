//! What is chosen once for a training with PPO.

use okapi_model::{Keep, SamplingOptions};

use super::kl::KlControl;
use crate::adamw::AdamWOptions;
use crate::learning_rate::Schedule;

/// How long a training lasts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Length {
    /// So many times each prompt is answered. The last iteration may have fewer rollouts.
    Epochs(u64),
    /// So many iterations, however many prompts there are.
    Iterations(u64),
}

/// What is chosen once.
#[derive(Debug, Clone, PartialEq)]
pub struct PpoOptions {
    /// How long it lasts.
    pub length: Length,
    /// Responses of an iteration, one to each of the next prompts. An epoch that ends within an
    /// iteration is followed by the next one.
    pub rollouts: u32,
    /// How often an iteration learns from its rollouts.
    pub passes: u32,
    /// Rollouts that one step of the optimiser learns from.
    pub batch: u32,
    /// Blocks that are trained, from the top; with them the last norm, and a head that is not the embedding.
    pub trained_blocks: usize,
    /// The highest learning rate.
    pub peak: f64,
    /// Steps of the optimiser until it is reached.
    pub warmup: u64,
    /// How the rate falls.
    pub schedule: Schedule,
    /// The optimiser's.
    pub adamw: AdamWOptions,
    /// What the distance from the reference costs.
    pub kl: KlControl,
    /// Scores are brought between its negative and itself before they are learnt from.
    pub score_clip: Option<f64>,
    /// How much a later reward counts, by token.
    pub gamma: f64,
    /// How far advantages trust in rewards rather than in values.
    pub lambda: f64,
    /// How far a probability's ratio may go from 1 in an iteration and still be pushed further.
    pub clip: f64,
    /// How far a value may go from what it was, likewise.
    pub value_clip: f64,
    /// How much the loss of the values counts beside that of the policy.
    pub value_coefficient: f64,
    /// How responses are sampled. With other options than the default, what is learnt from is not the policy's
    /// own distribution, while ratios and divergence are of that.
    pub sampling: SamplingOptions,
    /// A response ends with so many tokens.
    pub max_new_tokens: usize,
    /// A response ends with any of these.
    pub stop_tokens: Vec<u32>,
    /// Tokens that a prompt and its response may have together; never more than the model was made for.
    pub context: Option<usize>,
    /// Where all chance comes from.
    pub seed: u64,
    /// Iterations from one validation to the next; 0 for only the first and the last one.
    pub validate_every: u64,
    /// Rows that are sampled together. Changes no result.
    pub rows_at_once: usize,
    /// At most so many tokens are computed at once; a longer rollout alone. A batch is computed in as
    /// many parts as that needs: its gradients are added up, so the loss is that of the whole.
    pub tokens_at_once: usize,
    /// What the forward pass keeps.
    pub keep: Keep,
}

/// The paper's (Lai et al., 2023, section 3), and what it leaves open as in the released code: rollouts,
/// passes, GAE, clipping of values, scores and gradients, lengths. There is no stop token among them.
impl Default for PpoOptions {
    fn default() -> PpoOptions {
        PpoOptions {
            length: Length::Epochs(5),
            rollouts: 128,
            passes: 4,
            batch: 32,
            trained_blocks: 4,
            peak: 1e-6,
            warmup: 0,
            schedule: Schedule::Constant,
            adamw: AdamWOptions { beta2: 0.95, weight_decay: 0.1, ..AdamWOptions::default() },
            kl: KlControl::Fixed(0.05),
            score_clip: Some(10.0),
            gamma: 1.0,
            lambda: 0.95,
            clip: 0.2,
            value_clip: 0.2,
            value_coefficient: 1.0,
            sampling: SamplingOptions::default(),
            max_new_tokens: 256,
            stop_tokens: Vec::new(),
            context: Some(512),
            seed: 0,
            validate_every: 0,
            rows_at_once: 64,
            tokens_at_once: 4096,
            keep: Keep::All,
        }
    }
}

impl PpoOptions {
    /// Iterations of a training on so many prompts, and the rollouts of them all.
    pub(crate) fn extent(&self, prompts: usize) -> (u64, u64) {
        let each = u64::from(self.rollouts.max(1));
        match self.length {
            Length::Iterations(iterations) => (iterations, iterations.saturating_mul(each)),
            Length::Epochs(epochs) => {
                let rollouts = epochs.saturating_mul(prompts as u64);
                (rollouts.div_ceil(each), rollouts)
            }
        }
    }

    /// Steps of the optimiser that so many rollouts give.
    pub(crate) fn updates(&self, rollouts: u64) -> u64 {
        let each = u64::from(self.rollouts.max(1));
        let batch = u64::from(self.batch.max(1));
        let batches = (rollouts / each).saturating_mul(each.div_ceil(batch));
        let last = (rollouts % each).div_ceil(batch);
        batches.saturating_add(last).saturating_mul(u64::from(self.passes.max(1)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_training_is_as_long_as_its_prompts() {
        let options = PpoOptions { rollouts: 10, batch: 4, passes: 2, ..PpoOptions::default() };
        let of = |length, prompts| {
            let options = PpoOptions { length, ..options.clone() };
            let (iterations, rollouts) = options.extent(prompts);
            (iterations, rollouts, options.updates(rollouts))
        };
        // Of ten rollouts three batches, of the five that are left two; each twice.
        assert_eq!(of(Length::Epochs(5), 7), (4, 35, 22));
        assert_eq!(of(Length::Epochs(2), 10), (2, 20, 12));
        assert_eq!(of(Length::Iterations(3), 7), (3, 30, 18));
        assert_eq!(of(Length::Epochs(0), 7), (0, 0, 0));
        assert_eq!(of(Length::Epochs(5), 0), (0, 0, 0));
    }
}
