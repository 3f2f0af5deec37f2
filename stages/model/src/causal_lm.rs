//! A language model with its weights: tokens in, states and scores out, and gradients back. One forward
//! for all uses.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use okapi_device::{Device, DeviceError, Kind};
use serde_json::Value;

use crate::array::Array;
use crate::attention::Sequences;
use crate::block::{self, Block, Context};
use crate::checkpoint::{Checkpoint, CheckpointError};
use crate::config::{ConfigError, ModelConfig};
use crate::families::Layers;
use crate::head::{Place, TokenScore};
use crate::kv_cache::{KvCache, KvLayer};
use crate::layers::{Linear, Pass};
use crate::low_rank::Dropout;
use crate::on_device::{DevicePass, OnDevice};
use crate::parameters::{Gradients, ParameterId, Parameters};
use crate::random::{Purpose, Random};
use crate::reward_model;
use crate::row_product::Product;
use crate::tensor_file::NumberKind;
use crate::value_head;

/// The deviation of weights that have learnt nothing.
pub(crate) const INITIAL_DEVIATION: f64 = 0.02;

/// A model that cannot be made of a folder.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// Its sizes.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Its weights.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// A token that it has no row for.
    #[error("the token {token} is not among the {vocabulary} of the model")]
    Token {
        /// The token.
        token: u32,
        /// How many there are.
        vocabulary: usize,
    },
    /// The GPU that it is on.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// Adapters that do not belong to it.
    #[error("{0}")]
    Adapter(String),
    /// A reward model where a language model is expected.
    #[error(
        "{} is a reward model, which has no probabilities of tokens; give the folder of a language model, such as \
         the one that it was made of", .0.display()
    )]
    NoLanguageModel(PathBuf),
    /// A language model where a reward model is expected.
    #[error(
        "{} is a language model and no reward model: it has no tensor `score.weight`; train a reward model from it \
         on rankings, and give that one's folder", .0.display()
    )]
    NoRewardModel(PathBuf),
    /// A text whose reward is asked for, of no tokens.
    #[error("text {0} of the batch has no tokens, and so none to read its reward at")]
    NoTokens(usize),
    /// A cache that holds keys and values of other sizes than its own.
    #[error("the cache belongs to a model of other sizes")]
    Cache,
    /// States to go on from that are not those of the tokens.
    #[error("{found} numbers are no states of {tokens} tokens, {hidden} each")]
    States {
        /// Numbers.
        found: usize,
        /// Tokens.
        tokens: usize,
        /// Numbers of a state.
        hidden: usize,
    },
}

/// A language model of any family.
#[derive(Debug, Clone)]
pub struct CausalLm {
    config: ModelConfig,
    json: Value,
    kind: NumberKind,
    parameters: Parameters,
    pub(crate) layers: Layers,
    /// The GPU that its numbers are on, if they are.
    there: Option<Arc<OnDevice>>,
}

/// What a forward pass keeps for the backward one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// Nothing: there will be none.
    Nothing,
    /// What goes into each block. The rest is computed again: a third more time, a tenth of the memory.
    Inputs,
    /// All that would be dear to compute again.
    All,
}

/// What went into a block, and what its backward pass needs beside it.
type Kept = (Array, Option<block::Trace>);

/// A forward pass: its states, and what its backward pass needs.
#[derive(Debug, Clone)]
pub struct Forward {
    sequences: Sequences,
    places: Vec<usize>,
    dropout: Option<Dropout>,
    /// What went into each block that is passed through backward, the lowest first.
    kept: Vec<Kept>,
    /// What went into the last norm.
    last: Array,
    states: Array,
}

impl Forward {
    /// The normed states after the last block, `hidden` numbers a token.
    pub fn states(&self) -> &Array {
        &self.states
    }

    pub(crate) fn into_states(self) -> Array {
        self.states
    }
}

impl CausalLm {
    /// Reads a model's folder.
    ///
    /// # Errors
    /// When its sizes or its weights are not those of a language model.
    pub fn open(folder: &Path) -> Result<CausalLm, ModelError> {
        let (config, json) = ModelConfig::read_with_json(folder)?;
        if reward_model::is_of_reward_model(&json) {
            return Err(ModelError::NoLanguageModel(folder.to_owned()));
        }
        let tensors = config.tensors();
        CausalLm::read(folder, (config, json), tensors)
    }

    /// Reads the tensors of a folder, which must be exactly these: those that the sizes give, and perhaps
    /// more behind them.
    pub(crate) fn read(
        folder: &Path,
        (config, json): (ModelConfig, Value),
        tensors: Vec<(String, Vec<usize>)>,
    ) -> Result<CausalLm, ModelError> {
        let checkpoint = Checkpoint::open_tensors(folder, &config, &tensors)?;
        let first = tensors.first().map(|(name, _)| checkpoint.kind(name)).transpose()?;
        let kind = first.unwrap_or(NumberKind::F32);
        let parameters = Parameters::read(&checkpoint, tensors)?;
        let layers = Layers::new(&config, &parameters)?;
        Ok(CausalLm { config, json, kind, parameters, layers, there: None })
    }

    /// A model of this `config.json` that has learnt nothing: norms that change nothing, biases of zero, and all other weights
    /// from the normal distribution with mean 0 and deviation 0.02, as `transformers` begins. Each weight
    /// has a stream of its own.
    ///
    /// # Errors
    /// When the sizes are not those of a model.
    pub fn new(json: Value, seed: u64) -> Result<CausalLm, ModelError> {
        let config = ModelConfig::parse(&json)?;
        let mut stream = 0;
        let parameters = Parameters::new(config.tensors(), |name, shape| {
            let count = shape.iter().product();
            match shape.len() {
                1 if name.ends_with(".bias") => return vec![0.0; count],
                1 => return vec![1.0; count],
                _ => stream += 1,
            }
            let mut random = Random::new(seed, Purpose::Weights, stream, 0);
            (0..count).map(|_| (INITIAL_DEVIATION * random.normal()) as f32).collect()
        });
        let layers = Layers::new(&config, &parameters)?;
        Ok(CausalLm { config, json, kind: NumberKind::F32, parameters, layers, there: None })
    }

    /// The same on a GPU, drawn there: weights from another stream, and none of them ever in the processor's
    /// memory. With `is_trained` what half precision lacks is there too.
    ///
    /// # Errors
    /// When the sizes are not those of a model, or it does not fit.
    pub fn new_on_device(
        json: Value,
        seed: u64,
        device: &Device,
        kind: Kind,
        is_trained: bool,
    ) -> Result<CausalLm, ModelError> {
        let config = ModelConfig::parse(&json)?;
        let parameters =
            Parameters::new_on_device(config.tensors(), device, kind, is_trained, seed);
        let layers = Layers::new(&config, &parameters)?;
        let there = OnDevice::new(device, kind, layers.heads, &layers.positions);
        let there = Some(Arc::new(there));
        let model = CausalLm { config, json, kind: NumberKind::F32, parameters, layers, there };
        model.check()?;
        Ok(model)
    }

    /// The family and the sizes.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// `config.json` as it came.
    pub fn config_json(&self) -> &Value {
        &self.json
    }

    pub(crate) fn config_json_mut(&mut self) -> &mut Value {
        &mut self.json
    }

    /// How its numbers were stored.
    pub fn number_kind(&self) -> NumberKind {
        self.kind
    }

    /// Its numbers.
    pub fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    /// Its numbers, to be changed.
    pub fn parameters_mut(&mut self) -> &mut Parameters {
        &mut self.parameters
    }

    /// Tokens that it has logits for.
    pub fn vocabulary(&self) -> usize {
        self.layers.head.vocabulary
    }

    /// Its blocks.
    pub fn blocks(&self) -> usize {
        self.layers.blocks.len()
    }

    /// Numbers of a state.
    pub fn hidden(&self) -> usize {
        self.layers.head.width
    }

    /// The logits after every token: `vocabulary` numbers each, in the order of the tokens.
    ///
    /// # Errors
    /// At the first token that the model has no row for.
    pub fn logits(&self, sequences: &Sequences) -> Result<Vec<f32>, ModelError> {
        let forward = self.forward(sequences.clone(), Keep::Nothing)?;
        let logits = self.layers.head.logits(&self.parameters, &forward.states, Product::InBlocks);
        self.check()?;
        Ok(logits)
    }

    /// Computes the states after every token.
    ///
    /// # Errors
    /// At the first token that the model has no row for.
    pub fn forward(&self, sequences: Sequences, keep: Keep) -> Result<Forward, ModelError> {
        self.pass(sequences, keep, None, None, None)
    }

    /// Computes the states after every token in training, where adapters may leave something out.
    ///
    /// # Errors
    /// At the first token that the model has no row for.
    pub fn forward_in_training(
        &self,
        sequences: Sequences,
        keep: Keep,
        dropout: Dropout,
    ) -> Result<Forward, ModelError> {
        self.pass(sequences, keep, Some(dropout), None, None)
    }

    /// The one forward pass: of whole sequences, or of what follows in those that caches belong to, one
    /// for each; from the tokens on, or from the states that enter a block.
    pub(crate) fn pass(
        &self,
        sequences: Sequences,
        keep: Keep,
        dropout: Option<Dropout>,
        caches: Option<&mut [&mut KvCache]>,
        entering: Option<(usize, Array)>,
    ) -> Result<Forward, ModelError> {
        let places = match &caches {
            None => sequences.positions(),
            Some(caches) => sequences.positions_after(caches.iter().map(|cache| cache.len())),
        };
        let there = self.pass_there(&sequences, &places);
        let mut context = self.context(&sequences, &places, dropout, there.as_ref());
        if caches.is_some() {
            context.pass.product = Product::RowByRow;
        }
        let (first, x) = match entering {
            None => (0, self.embed(&context)?),
            Some((block, x)) => (block.min(self.blocks()), x),
        };
        let (x, kept) = self.through(&context, first..self.blocks(), x, keep, caches);
        let states = self.layers.norm.forward(&context.pass, &x);
        let last = if keep == Keep::Nothing { Array::default() } else { x };
        drop(there);
        self.check()?;
        Ok(Forward { sequences, places, dropout, kept, last, states })
    }

    /// The states that enter a block, or the last norm if there is no such block.
    ///
    /// What is below the first block that a training changes has to be computed only once for each text, however
    /// often that is read: [`CausalLm::forward_from`] goes on from here.
    ///
    /// # Shapes
    /// `[T, C]`: `hidden` numbers a token.
    ///
    /// # Errors
    /// At the first token that the model has no row for.
    pub fn states_entering(
        &self,
        block: usize,
        sequences: &Sequences,
    ) -> Result<Array, ModelError> {
        let places = sequences.positions();
        let there = self.pass_there(sequences, &places);
        let context = self.context(sequences, &places, None, there.as_ref());
        let x = self.embed(&context)?;
        let blocks = 0..block.min(self.blocks());
        let (x, _) = self.through(&context, blocks, x, Keep::Nothing, None);
        self.check()?;
        Ok(x)
    }

    /// Computes the states after every token from those that enter a block, to the last bit as
    /// [`CausalLm::forward`] does. What is below that block gets no gradient.
    ///
    /// # Shapes
    /// `x`: `[T, C]`, as of [`CausalLm::states_entering`].
    ///
    /// # Errors
    /// When there are not `hidden` numbers for every token.
    pub fn forward_from(
        &self,
        block: usize,
        x: Array,
        sequences: Sequences,
        keep: Keep,
    ) -> Result<Forward, ModelError> {
        let (found, tokens) = (x.len(), sequences.tokens().len());
        if found != tokens * self.hidden() {
            return Err(ModelError::States { found, tokens, hidden: self.hidden() });
        }
        self.pass(sequences, keep, None, None, Some((block, x)))
    }

    /// What enters the first block.
    fn embed(&self, context: &Context<'_>) -> Result<Array, ModelError> {
        let vocabulary = self.layers.embedding_rows(&self.parameters);
        let tokens = context.sequences.tokens();
        if let Some(&token) = tokens.iter().find(|token| **token as usize >= vocabulary) {
            return Err(ModelError::Token { token, vocabulary });
        }
        let x = self.layers.embedding.forward(&context.pass, tokens);
        Ok(match &self.layers.embedding_norm {
            Some(norm) => norm.forward(&context.pass, &x),
            None => x,
        })
    }

    /// Passes through some blocks. Beside what comes out: what is kept for the backward pass.
    fn through(
        &self,
        context: &Context<'_>,
        blocks: Range<usize>,
        mut x: Array,
        keep: Keep,
        mut caches: Option<&mut [&mut KvCache]>,
    ) -> (Array, Vec<Kept>) {
        let mut kept = Vec::new();
        for number in blocks {
            let mut layers: Option<Vec<&mut KvLayer>> = caches
                .as_mut()
                .map(|caches| caches.iter_mut().map(|cache| cache.layer_mut(number)).collect());
            let block = &self.layers.blocks[number];
            let (y, trace) = block.forward(context, &x, layers.as_deref_mut());
            let x = std::mem::replace(&mut x, y);
            match keep {
                _ if number < self.frozen_blocks() => {}
                Keep::Nothing => {}
                Keep::Inputs => kept.push((x, None)),
                Keep::All => kept.push((x, Some(trace))),
            }
        }
        (x, kept)
    }

    /// Adds to the gradients of the parameters, given that of the states.
    ///
    /// # Panics
    /// When the forward pass has kept nothing.
    pub fn backward(&self, forward: Forward, d_states: &Array, gradients: &mut Gradients) {
        assert!(forward.last.len() == d_states.len(), "the forward pass kept nothing");
        let Forward { sequences, places, dropout, mut kept, last, .. } = forward;
        let there = self.pass_there(&sequences, &places);
        let context = self.context(&sequences, &places, dropout, there.as_ref());
        let pass = &context.pass;
        let mut d = d_states.zeros();
        self.layers.norm.backward(pass, gradients, &last, d_states, &mut d);
        drop(last);
        let first = self.frozen_blocks();
        for (number, block) in self.layers.blocks.iter().enumerate().skip(first).rev() {
            let Some((x, trace)) = kept.pop() else { return };
            let trace = trace.unwrap_or_else(|| block.trace(&context, &x));
            let is_needed = number > first || self.is_trained_below();
            d = block.backward(&context, gradients, &x, &trace, (d, is_needed));
        }
        let Layers { embedding, embedding_norm, .. } = &self.layers;
        if !self.is_trained_below() {
            return;
        }
        if let Some(norm) = embedding_norm {
            let rows = embedding.forward(pass, sequences.tokens());
            let mut d_rows = d.zeros();
            norm.backward(pass, gradients, &rows, &d, &mut d_rows);
            d = d_rows;
        }
        embedding.backward(gradients, sequences.tokens(), &d);
    }

    /// What the model says of tokens that follow.
    ///
    /// # Errors
    /// At the first of them that it has no logit for.
    pub fn scores(&self, states: &Array, places: &[Place]) -> Result<Vec<TokenScore>, ModelError> {
        self.known(places)?;
        let scores = self.layers.head.scores(&self.parameters, states, places, Product::InBlocks);
        self.check()?;
        Ok(scores)
    }

    /// The same but for rounding, which hangs on no other place here: with states of [`CausalLm::read_on`], what is
    /// said of a text is the same to the last bit in any company. On a GPU it is [`CausalLm::scores`].
    ///
    /// # Errors
    /// At the first of them that it has no logit for.
    pub fn scores_apart(
        &self,
        states: &Array,
        places: &[Place],
    ) -> Result<Vec<TokenScore>, ModelError> {
        self.known(places)?;
        let scores = self.layers.head.scores(&self.parameters, states, places, Product::RowByRow);
        self.check()?;
        Ok(scores)
    }

    /// What the model says of tokens that follow, and the gradients of a loss: `grade` gives, for the
    /// number of a place and its score, the loss's derivative by its log-probability. Adds to the gradients
    /// of the states, and of the head's weight.
    ///
    /// # Errors
    /// At the first of the tokens that it has no logit for.
    pub fn scores_backward(
        &self,
        (states, d_states): (&Array, &mut Array),
        places: &[Place],
        gradients: &mut Gradients,
        grade: impl Fn(usize, &TokenScore) -> f64 + Sync,
    ) -> Result<Vec<TokenScore>, ModelError> {
        self.known(places)?;
        let of = (states, d_states);
        let scores = self.layers.head.backward(&self.parameters, gradients, of, places, grade);
        self.check()?;
        Ok(scores)
    }

    fn known(&self, places: &[Place]) -> Result<(), ModelError> {
        let vocabulary = self.vocabulary();
        match places.iter().find(|place| place.next as usize >= vocabulary) {
            Some(place) => Err(ModelError::Token { token: place.next, vocabulary }),
            None => Ok(()),
        }
    }

    /// The model without a head of its own, under another `config.json`: its states stay what they were, and
    /// the embedding stands where the head was.
    pub(crate) fn into_trunk(mut self, json: Value) -> CausalLm {
        let Layers { embedding, head, .. } = &mut self.layers;
        if head.weight != embedding.table {
            let name = self.parameters.get(head.weight).name.clone();
            self.parameters.pop_while(|parameter| parameter.name == name);
            head.weight = embedding.table;
        }
        CausalLm { config: self.config.with_tied_head(), json, ..self }
    }

    /// Trains only the last `blocks` blocks, or all if there are fewer, and what comes after them: the last
    /// norm, and a head of its own. With `embeddings` also what comes before the blocks; a backward pass
    /// then goes through those that are frozen.
    pub fn train_top(&mut self, blocks: usize, embeddings: bool) {
        let first = self.blocks().saturating_sub(blocks);
        for parameter in self.parameters.iter_mut() {
            parameter.is_trained = true;
        }
        let lower = self.layers.blocks[..first].iter().flat_map(Block::parameters);
        let below = if embeddings { Vec::new() } else { self.below() };
        for id in lower.chain(below) {
            self.parameters.get_mut(id).is_trained = false;
        }
    }

    /// Trains nothing: for a model that is only asked.
    pub(crate) fn freeze(&mut self) {
        self.parameters.iter_mut().for_each(|parameter| parameter.is_trained = false);
    }

    /// Its numbers and its linear layers, to be given adapters.
    pub(crate) fn parts_mut(&mut self) -> (&mut Parameters, Vec<&mut Linear>) {
        let linears = self.layers.blocks.iter_mut().flat_map(Block::linears_mut);
        (&mut self.parameters, linears.collect())
    }

    /// Brings its numbers to a GPU, stored in this kind, but for what stands on its states: heads of values and
    /// rewards. What is to be trained has to be decided before, as of that nothing is rounded away.
    ///
    /// # Errors
    /// When they do not fit.
    pub fn move_to_device(&mut self, device: &Device, kind: Kind) -> Result<(), ModelError> {
        self.bring(device, kind, true)
    }

    /// The same for a model that is only asked and does not come back: it is frozen, and nothing of it stays in
    /// the processor's memory.
    ///
    /// # Errors
    /// When it does not fit.
    pub fn move_to_device_to_ask(&mut self, device: &Device, kind: Kind) -> Result<(), ModelError> {
        self.freeze();
        self.bring(device, kind, false)
    }

    fn bring(&mut self, device: &Device, kind: Kind, comes_back: bool) -> Result<(), ModelError> {
        let beside =
            |name: &str| name == reward_model::SCORE || name.starts_with(value_head::PREFIX);
        self.parameters.move_to_device(device, kind, comes_back, |name| !beside(name));
        let (heads, positions) = (self.layers.heads, &self.layers.positions);
        self.there = Some(Arc::new(OnDevice::new(device, kind, heads, positions)));
        self.check()
    }

    /// Brings parameters that were added since to the GPU that the others are on, in single precision: those of a
    /// head whose numbers are not to be rounded.
    pub(crate) fn bring_head(&mut self, prefix: &str) {
        if let Some(there) = &self.there {
            let is_head = |name: &str| name.starts_with(prefix);
            self.parameters.move_to_device(&there.device, Kind::F32, true, is_head);
        }
    }

    /// Brings its numbers back to the processor.
    ///
    /// # Errors
    /// When the GPU has failed.
    pub fn move_to_host(&mut self) -> Result<(), ModelError> {
        self.parameters.move_to_host();
        self.check()?;
        self.there = None;
        Ok(())
    }

    /// The GPU that its numbers are on, and how they are stored there.
    pub fn device(&self) -> Option<(&Device, Kind)> {
        self.there.as_ref().map(|there| (&there.device, there.kind))
    }

    pub(crate) fn on_device(&self) -> Option<&OnDevice> {
        self.there.as_deref()
    }

    /// Whether its GPU, if it is on one, has done all that it was asked so far.
    ///
    /// # Errors
    /// The GPU's first failure.
    pub fn check(&self) -> Result<(), ModelError> {
        self.on_device().map_or(Ok(()), |there| Ok(there.check()?))
    }

    fn pass_there(&self, sequences: &Sequences, places: &[usize]) -> Option<DevicePass<'_>> {
        let there = self.on_device()?;
        Some(there.pass(&self.layers.positions, sequences, places))
    }

    fn context<'a>(
        &'a self,
        sequences: &'a Sequences,
        places: &'a [usize],
        dropout: Option<Dropout>,
        device: Option<&'a DevicePass<'a>>,
    ) -> Context<'a> {
        Context {
            pass: Pass { parameters: &self.parameters, dropout, product: Product::InBlocks },
            heads: self.layers.heads,
            positions: &self.layers.positions,
            sequences,
            places,
            device,
        }
    }

    fn is_trained(&self, id: ParameterId) -> bool {
        self.parameters.get(id).is_trained
    }

    /// What comes before the blocks.
    fn below(&self) -> Vec<ParameterId> {
        let norm = self.layers.embedding_norm.iter();
        let norm = norm.flat_map(|norm| [Some(norm.weight), norm.bias]).flatten();
        norm.chain([self.layers.embedding.table]).collect()
    }

    /// Whether something before the blocks is trained.
    fn is_trained_below(&self) -> bool {
        self.below().into_iter().any(|id| self.is_trained(id))
    }

    /// Blocks at the bottom that no backward pass goes through, as neither they nor what comes before them is
    /// trained.
    pub fn frozen_blocks(&self) -> usize {
        if self.is_trained_below() {
            return 0;
        }
        let has_trained =
            |block: &Block| block.parameters().into_iter().any(|id| self.is_trained(id));
        let blocks = &self.layers.blocks;
        blocks.iter().position(has_trained).unwrap_or(blocks.len())
    }
}
