//! From logits to the probabilities of the tokens that follow.

use crate::array::{DeviceArray, Kind};
use crate::kernel::Kernel;

/// What rows of logits say of the tokens that follow them.
#[derive(Debug)]
pub struct TokenScores {
    /// The natural logarithm of each one's probability.
    pub log_probability: Vec<f64>,
    /// Entropy of the distribution that each is from, in nats.
    pub entropy: Vec<f64>,
    /// Whether no other token is more probable.
    pub is_top: Vec<bool>,
    /// As `Score` in head.cu: what the gradient needs.
    kept: DeviceArray,
}

/// Doubles of a row that are kept.
const KEPT: usize = 5;

/// Columns of a row of logits that a block is given.
const COLUMNS: usize = 1 << 12;

/// Scores of the tokens `next`, one for each row of logits. Waits for them. Sums over tokens are taken in double
/// precision. A token that is not in the vocabulary has no numbers.
///
/// # Shapes
/// `logits`: `[R, vocabulary]` in single precision; `next`: `[R]`.
///
/// # Panics
/// When sizes or kinds do not match.
#[must_use]
pub fn token_scores(logits: &DeviceArray, vocabulary: usize, next: &DeviceArray) -> TokenScores {
    check(logits, vocabulary, next);
    let kept = DeviceArray::for_doubles(logits.device(), next.len() * KEPT);
    let kernel = Kernel::new("token_scores").array(&kept).array(logits).array(next);
    kernel.u32(vocabulary).blocks(logits.device(), next.len(), 1);
    let numbers = kept.read_doubles();
    let column = |place: usize| numbers.chunks_exact(KEPT).map(move |row| row[place]);
    TokenScores {
        log_probability: column(0).collect(),
        entropy: column(1).collect(),
        is_top: column(2).map(|flag| flag == 1.0).collect(),
        kept,
    }
}

/// The token with the largest logit of each row, and of several the first. Where a logit is no number it may be
/// any token, or the vocabulary's size; [`token_scores`] then has no numbers for it.
///
/// # Shapes
/// `logits`: `[R, vocabulary]` in single precision; what comes out: `[R]`.
///
/// # Panics
/// When the last row is not whole, or there is no vocabulary.
#[must_use]
pub fn top_tokens(logits: &DeviceArray, vocabulary: usize) -> DeviceArray {
    assert!(vocabulary > 0 && logits.len().is_multiple_of(vocabulary), "a part of a row");
    assert_eq!(logits.kind(), Kind::F32, "kinds");
    let rows = logits.len() / vocabulary;
    let tops = DeviceArray::uninitialized(logits.device(), Kind::U32, rows);
    let kernel = Kernel::new("top_tokens").array(&tops).array(logits).u32(vocabulary);
    kernel.blocks(logits.device(), rows, 1);
    tops
}

/// The largest vocabulary that [`draw_tokens`] can draw from.
const LARGEST: usize = 1 << 20;

/// A token for each row, drawn from `softmax(logits / temperature)`: the one at which the running sum of
/// probabilities, in the order of the tokens, comes to exceed the row's number of `uniforms`, from 0 to 1. That is
/// how the processor draws; but for rounding it is the same token. Where a logit is no number it is any token;
/// [`token_scores`] then has no numbers for it.
///
/// # Shapes
/// `logits`: `[R, vocabulary]` in single precision; `uniforms`, what comes out: `[R]`.
///
/// # Panics
/// When sizes do not match, the vocabulary is too large, or the temperature is below 0.000001.
#[must_use]
pub fn draw_tokens(
    logits: &DeviceArray,
    vocabulary: usize,
    temperature: f64,
    uniforms: &[f64],
) -> DeviceArray {
    let (rows, device) = (uniforms.len(), logits.device());
    assert!((1..=LARGEST).contains(&vocabulary) && temperature >= 1e-6, "nothing to draw from");
    assert_eq!((logits.kind(), logits.len()), (Kind::F32, rows * vocabulary), "a number a row");
    let tokens = DeviceArray::uninitialized(device, Kind::U32, rows);
    let uniforms = DeviceArray::of_doubles(device, uniforms);
    let kernel = Kernel::new("draw_tokens").array(&tokens).array(logits).array(&uniforms);
    let kernel = kernel.u32(vocabulary).f32(temperature.recip() as f32);
    kernel.blocks(device, rows, 1);
    tokens
}

/// The gradient of the logits for a loss, given its derivative by each row's log-probability: `grade * (onehot -
/// softmax)`, in the kind that the products after it are taken in.
///
/// # Shapes
/// As of [`token_scores`]; `grades`: `[R]`; what comes out: `[R, vocabulary]`.
///
/// # Panics
/// When sizes or kinds do not match.
#[must_use]
pub fn logits_backward(
    logits: &DeviceArray,
    scores: &TokenScores,
    next: &DeviceArray,
    grades: &[f32],
    kind: Kind,
) -> DeviceArray {
    let (rows, device) = (next.len(), logits.device());
    assert_eq!([grades.len(), scores.log_probability.len()], [rows; 2], "a grade for each row");
    let vocabulary = logits.len() / rows.max(1);
    check(logits, vocabulary, next);
    let d = DeviceArray::uninitialized(device, kind, logits.len());
    let grades = DeviceArray::new(device, Kind::F32, grades);
    let kernel = Kernel::of("logits_backward", &[kind]).array(&d).array(logits);
    let kernel = kernel.array(&scores.kept).array(next).array(&grades).u32(vocabulary);
    kernel.blocks(device, rows, vocabulary.div_ceil(COLUMNS));
    d
}

fn check(logits: &DeviceArray, vocabulary: usize, next: &DeviceArray) {
    assert_eq!((logits.kind(), next.kind()), (Kind::F32, Kind::U32), "kinds");
    assert_eq!(logits.len(), next.len() * vocabulary, "a token for each row of logits");
}
