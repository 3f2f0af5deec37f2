//! Generation: many prompts at once, each continued token by token.
//!
//! So many rows have a place at a time. In every step all of them get a token: those that are under way
//! read their last one, and new prompts, which take the places of rows that ended, are read whole
//! beside them. Nothing is padded. What a row gets depends on its prompt, its number and the options
//! alone: passes over caches give every row the same to the last bit whatever stands beside it, and
//! its random numbers are its own.

use rayon::prelude::*;

use crate::array::Array;
use crate::causal_lm::{CausalLm, ModelError};
use crate::kv_cache::KvCache;
use crate::random::Random;
use crate::row_product::Product;
use crate::sampling::{Drawn, SamplingOptions};

/// Tokens of prompts that are read in one step: no further prompt is begun with then.
const TOKENS: usize = 2048;

/// New tokens that a row's cache has room for at first. Most rows end long before they have to.
const ROOM: usize = 128;

/// What is generated, and how.
#[derive(Debug, Clone, PartialEq)]
pub struct GenerateOptions {
    /// How a token is chosen.
    pub sampling: SamplingOptions,
    /// Continuations of each prompt, at most 65,536. The prompt is read once for all of them.
    pub samples: u32,
    /// A continuation ends with so many tokens.
    pub max_new_tokens: usize,
    /// A continuation ends with any of these.
    pub stop_tokens: Vec<u32>,
    /// Tokens that a prompt and its continuation may have together. Never more than the model was made
    /// for ([`crate::ModelConfig::context`]).
    pub context: Option<usize>,
    /// Rows that are computed together. Changes no result. Each takes its cache
    /// ([`CausalLm::kv_cache`]), and a chunk of them its logits.
    pub rows_at_once: usize,
    /// Where all chance comes from.
    pub seed: u64,
    /// The number of the first prompt, for the chance of each: lists that are generated in parts are
    /// what they would have been in one.
    pub first_row: u32,
}

/// One sample of up to 128 tokens for each prompt, from the model's own distribution.
impl Default for GenerateOptions {
    fn default() -> GenerateOptions {
        GenerateOptions {
            sampling: SamplingOptions::default(),
            samples: 1,
            max_new_tokens: 128,
            stop_tokens: Vec::new(),
            context: None,
            rows_at_once: 64,
            seed: 0,
            first_row: 0,
        }
    }
}

/// Why a continuation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FinishReason {
    /// With a stop token, or where who watches said so.
    Stop,
    /// It has `max_new_tokens`, or, if it has fewer, the context is full.
    #[default]
    Length,
}

/// A continuation of a prompt.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Generated {
    /// What follows the prompt, a stop token among it.
    pub tokens: Vec<u32>,
    /// Of each token, the natural logarithm of its probability in the model's own distribution,
    /// whatever it was sampled from.
    pub log_probabilities: Vec<f64>,
    /// Why no more follows.
    pub finish: FinishReason,
}

/// How far a generation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct GenerateProgress {
    /// Continuations that have ended.
    pub done: usize,
    /// Continuations in all.
    pub total: usize,
    /// Tokens so far.
    pub tokens: u64,
}

/// Who looks on. Nobody does with `&mut ()`.
pub trait GenerateWatch {
    /// Whether a continuation ends here: asked after each of its tokens that is no stop token, with all
    /// of them. `prompt` and `sample` are counted from 0.
    fn stops(&mut self, _prompt: usize, _sample: u32, _tokens: &[u32]) -> bool {
        false
    }

    /// Every row got a token.
    fn step(&mut self, _progress: GenerateProgress) {}

    /// Whether to stop altogether. What was generated is lost.
    fn is_stopped(&self) -> bool {
        false
    }
}

impl GenerateWatch for () {}

/// Why nothing was generated.
#[derive(Debug, thiserror::Error)]
pub enum GenerateError {
    /// What was asked for cannot be.
    #[error("{0}")]
    Options(String),
    /// A prompt that cannot be continued.
    #[error("prompt {prompt} {message}")]
    Prompt {
        /// Its place among the prompts, from 0.
        prompt: usize,
        /// What is wrong with it.
        message: String,
    },
    /// Logits that are no distribution.
    #[error("the logits after {tokens} tokens of prompt {prompt}, sample {sample}, are not finite")]
    NotFinite {
        /// The place of the prompt among the prompts, from 0.
        prompt: usize,
        /// Which of its samples, from 0.
        sample: u32,
        /// Tokens of the prompt and its continuation.
        tokens: usize,
    },
    /// It was asked to stop.
    #[error("stopped with {done} of {total} rows done")]
    Stopped {
        /// Continuations that had ended.
        done: usize,
        /// Continuations in all.
        total: usize,
    },
    /// The model cannot read what it is given.
    #[error(transparent)]
    Model(#[from] ModelError),
}

impl GenerateOptions {
    fn mistake(&self, prompts: usize) -> Option<String> {
        if !(1..=1 << 16).contains(&self.samples) {
            return Some(format!("{} samples a prompt; 1 to 65536 are possible", self.samples));
        }
        for (name, number) in
            [("max new tokens", self.max_new_tokens), ("rows at once", self.rows_at_once)]
        {
            if number == 0 {
                return Some(format!("{name} are 0"));
            }
        }
        let last = u32::try_from(prompts).ok().and_then(|count| self.first_row.checked_add(count));
        if last.is_none() {
            return Some(format!("{prompts} prompts are too many"));
        }
        self.sampling.mistake()
    }
}

impl CausalLm {
    /// Continues prompts. What comes out is in their order: for each, its samples.
    ///
    /// # Determinism
    /// A continuation depends on the model, on its prompt, on the place of the prompt in the list and
    /// of the sample among its samples, and on the options but for `rows_at_once`. It depends neither on
    /// other prompts nor on the number of threads.
    ///
    /// # Errors
    /// Before anything is computed, when the options cannot be, or a prompt is empty, holds a token that
    /// is not the model's, or leaves no room for one more. Later when logits are not finite, or who
    /// watches says so.
    pub fn generate<T: AsRef<[u32]>>(
        &self,
        prompts: &[T],
        options: &GenerateOptions,
        watch: &mut dyn GenerateWatch,
    ) -> Result<Vec<Vec<Generated>>, GenerateError> {
        if let Some(mistake) = options.mistake(prompts.len()) {
            return Err(GenerateError::Options(mistake));
        }
        let context = [self.config().context(), options.context].into_iter().flatten().min();
        let context = context.unwrap_or(usize::MAX);
        let prompts: Vec<&[u32]> = prompts.iter().map(AsRef::as_ref).collect();
        for (number, prompt) in prompts.iter().enumerate() {
            if let Some(message) = self.mistake_of(prompt, context) {
                return Err(GenerateError::Prompt { prompt: number, message });
            }
        }
        let samples = options.samples as usize;
        let total = prompts.len() * samples;
        let mut generation = Generation {
            model: self,
            options,
            context,
            results: vec![vec![Generated::default(); samples]; prompts.len()],
            prompts,
            next: 0,
            begun: None,
            rows: Vec::new(),
            progress: GenerateProgress { done: 0, total, tokens: 0 },
        };
        while generation.progress.done < total {
            if watch.is_stopped() {
                return Err(GenerateError::Stopped { done: generation.progress.done, total });
            }
            let new = generation.begin();
            generation.read(new)?;
            generation.sample(watch)?;
            generation.end();
            watch.step(generation.progress);
        }
        Ok(generation.results)
    }

    fn mistake_of(&self, prompt: &[u32], context: usize) -> Option<String> {
        let vocabulary = self.vocabulary();
        if prompt.is_empty() {
            return Some("is empty".to_owned());
        }
        if let Some(token) = prompt.iter().find(|token| **token as usize >= vocabulary) {
            return Some(format!(
                "holds the token {token}, which is not among the {vocabulary} of the model"
            ));
        }
        let count = prompt.len();
        (count >= context).then(|| {
            format!("has {count} tokens; the context of {context} leaves no room for one more")
        })
    }
}

/// Computes on a thread of the pool. A step is some hundred small pieces of work for all threads, and from
/// outside the pool each would have to wake it and be waited for.
fn in_pool<R: Send>(work: impl FnOnce() -> R + Send) -> R {
    rayon::scope(|_| work())
}

/// A prompt whose samples have not all begun.
struct Prompt {
    number: usize,
    cache: KvCache,
    /// After its last token.
    state: Array,
    /// The sample that begins next.
    sample: u32,
}

/// A continuation under way.
struct Row {
    prompt: usize,
    sample: u32,
    /// The prompt, and what follows.
    tokens: Vec<u32>,
    log_probabilities: Vec<f64>,
    /// Of the tokens that were read: all, or all but the last.
    cache: KvCache,
    /// After the last token that was read.
    state: Array,
    finish: Option<FinishReason>,
}

struct Generation<'a> {
    model: &'a CausalLm,
    prompts: Vec<&'a [u32]>,
    options: &'a GenerateOptions,
    context: usize,
    /// The first prompt that has not been read.
    next: usize,
    /// The last one that has, if not all of its samples have begun.
    begun: Option<Prompt>,
    rows: Vec<Row>,
    results: Vec<Vec<Generated>>,
    progress: GenerateProgress,
}

impl<'a> Generation<'a> {
    /// Gives free places to samples of the prompt that has been read, and says which prompts are to be
    /// read for the others.
    fn begin(&mut self) -> Vec<Prompt> {
        if let Some(prompt) = self.begun.take() {
            self.place(prompt);
        }
        let mut new = Vec::new();
        let mut free = self.options.rows_at_once - self.rows.len();
        let mut tokens = 0;
        while free > 0 && tokens < TOKENS && self.next < self.prompts.len() {
            let (number, count) = (self.next, self.prompts[self.next].len());
            let cache = self.model.kv_cache(self.room(count));
            new.push(Prompt { number, cache, state: Array::default(), sample: 0 });
            free = free.saturating_sub(self.options.samples as usize);
            tokens += count;
            self.next += 1;
        }
        new
    }

    /// How much room a row has at first.
    fn room(&self, prompt: usize) -> usize {
        // The last token is never read.
        let most = prompt.saturating_add(self.options.max_new_tokens - 1).min(self.context - 1);
        // The processor's memory costs nothing until it is used, and grows by halves; a GPU's is taken at once.
        match self.model.device() {
            None => most.min(prompt + ROOM),
            Some(_) => most,
        }
    }

    /// Begins with as many samples of a prompt as there are places.
    fn place(&mut self, mut prompt: Prompt) {
        let tokens = self.prompts[prompt.number];
        let room = self.room(tokens.len());
        while self.rows.len() < self.options.rows_at_once {
            let sample = prompt.sample;
            let row = |cache: KvCache, state: Array| Row {
                prompt: prompt.number,
                sample,
                tokens: tokens.to_vec(),
                log_probabilities: Vec::new(),
                cache,
                state,
                finish: None,
            };
            if sample + 1 == self.options.samples {
                let row = row(prompt.cache, prompt.state);
                self.rows.push(row);
                return;
            }
            self.rows.push(row(prompt.cache.copy(room), prompt.state.clone()));
            prompt.sample += 1;
        }
        self.begun = Some(prompt);
    }

    /// Reads new prompts, and the last tokens of rows that have not.
    fn read(&mut self, mut new: Vec<Prompt>) -> Result<(), GenerateError> {
        let mut inputs: Vec<(&[u32], &mut KvCache)> = Vec::new();
        let mut outputs: Vec<&mut Array> = Vec::new();
        for Row { tokens, cache, state, .. } in &mut self.rows {
            if cache.len() < tokens.len() {
                inputs.push((&tokens[cache.len()..], cache));
                outputs.push(state);
            }
        }
        for Prompt { number, cache, state, .. } in &mut new {
            inputs.push((self.prompts[*number], cache));
            outputs.push(state);
        }
        let counts: Vec<usize> = inputs.iter().map(|(tokens, _)| tokens.len()).collect();
        let model = self.model;
        let states = in_pool(|| model.read_on(&mut inputs))?;
        let width = self.model.hidden();
        let mut end = 0;
        for (count, output) in counts.into_iter().zip(outputs) {
            end += count * width;
            *output = states.part(end - width, width);
        }
        new.into_iter().for_each(|prompt| self.place(prompt));
        Ok(())
    }

    /// Gives every row a token.
    fn sample(&mut self, watch: &mut dyn GenerateWatch) -> Result<(), GenerateError> {
        let Generation { model, options, prompts, context, .. } = self;
        let (head, vocabulary) = (&model.layers.head, model.vocabulary());
        let chunk = match self.rows.first() {
            Some(row) => head.chunk_of(&row.state),
            None => return Ok(()),
        };
        for rows in self.rows.chunks_mut(chunk) {
            let states: Vec<&Array> = rows.iter().map(|row| &row.state).collect();
            let states = Array::concat(&states);
            let random = |row: &Row| {
                let number = options.first_row + row.prompt as u32;
                let step = row.log_probabilities.len() as u32;
                Random::for_sample(options.seed, number, row.sample, step)
            };
            let draw = |(logits, row): (&mut [f32], &Row)| {
                options.sampling.draw(logits, &row.tokens, &mut random(row))
            };
            let drawn: Vec<Option<Drawn>> = match &states {
                Array::Device(states) if options.sampling.is_plain() => {
                    let uniforms: Vec<f64> = rows.iter().map(|row| random(row).uniform()).collect();
                    let temperature = options.sampling.temperature;
                    head.draw_there(model.parameters(), states, temperature, &uniforms)
                }
                _ => in_pool(|| {
                    let mut logits = head.logits(model.parameters(), &states, Product::RowByRow);
                    logits.par_chunks_exact_mut(vocabulary).zip(&*rows).map(draw).collect()
                }),
            };
            model.check()?;
            for (row, drawn) in rows.iter_mut().zip(drawn) {
                let (prompt, sample, tokens) = (row.prompt, row.sample, row.tokens.len());
                let wrong = GenerateError::NotFinite { prompt, sample, tokens };
                let Drawn { token, log_probability } = drawn.ok_or(wrong)?;
                row.tokens.push(token);
                row.log_probabilities.push(log_probability);
                let new = &row.tokens[prompts[prompt].len()..];
                let is_full = new.len() == options.max_new_tokens || row.tokens.len() == *context;
                if options.stop_tokens.contains(&token) || watch.stops(prompt, sample, new) {
                    row.finish = Some(FinishReason::Stop);
                } else if is_full {
                    row.finish = Some(FinishReason::Length);
                }
            }
        }
        self.progress.tokens += self.rows.len() as u64;
        Ok(())
    }

    /// Takes the rows out that have ended.
    fn end(&mut self) {
        for row in std::mem::take(&mut self.rows) {
            let Some(finish) = row.finish else {
                self.rows.push(row);
                continue;
            };
            let Row { prompt, sample, mut tokens, log_probabilities, .. } = row;
            tokens.drain(..self.prompts[prompt].len());
            self.results[prompt][sample as usize] = Generated { tokens, log_probabilities, finish };
            self.progress.done += 1;
        }
    }
}
