use okapi_device::head::{draw_tokens, logits_backward, token_scores, top_tokens};
use okapi_device::{DeviceArray, Kind};

use crate::support::{KINDS, array, assert_array, device, wave};

#[test]
fn scores_and_gradients_are_those_of_a_softmax() {
    let device = device();
    for (rows, vocabulary) in [(1, 1), (3, 2), (5, 31), (4, 257), (2, 10_007), (0, 9)] {
        let numbers: Vec<f32> = wave(rows * vocabulary, 0.7).iter().map(|x| 20.0 * x).collect();
        let (logits, logits_of) = array(&device, Kind::F32, &numbers);
        let next: Vec<u32> = (0..rows).map(|row| (row * 7 % vocabulary) as u32).collect();
        let next_there = DeviceArray::of_u32(&device, &next);
        let scores = token_scores(&logits, vocabulary, &next_there);
        let grades = wave(rows, 1.9);
        let mut d_of = Vec::new();
        for row in 0..rows {
            let logits = &logits_of[row * vocabulary..][..vocabulary];
            let most = logits.iter().copied().fold(f64::MIN, f64::max);
            let sum: f64 = logits.iter().map(|x| (x - most).exp()).sum();
            let probability: Vec<f64> = logits.iter().map(|x| (x - most).exp() / sum).collect();
            let chosen = next[row] as usize;
            let log_probability = logits[chosen] - most - sum.ln();
            assert!((scores.log_probability[row] - log_probability).abs() < 1e-5);
            let entropy: f64 = probability.iter().filter(|p| **p > 0.0).map(|p| -p * p.ln()).sum();
            assert!((scores.entropy[row] - entropy).abs() < 1e-5);
            assert_eq!(scores.is_top[row], logits[chosen] == most);
            let grade = f64::from(grades[row]);
            let hit = |token: usize| f64::from(u8::from(token == chosen));
            d_of.extend((0..vocabulary).map(|token| grade * (hit(token) - probability[token])));
        }
        for kind in KINDS {
            let d = logits_backward(&logits, &scores, &next_there, &grades, kind);
            assert_eq!(d.kind(), kind);
            assert_array(&d, &d_of);
        }
    }
}

#[test]
fn the_top_may_be_shared_and_some_tokens_impossible() {
    let device = device();
    let lowest = f32::NEG_INFINITY;
    let logits =
        DeviceArray::new(&device, Kind::F32, &[1.0, 3.0, 3.0, lowest, 1.0, 3.0, 3.0, lowest]);
    let scores = token_scores(&logits, 4, &DeviceArray::of_u32(&device, &[2, 3]));
    assert_eq!(scores.is_top, [true, false]);
    assert_eq!(scores.log_probability[1], f64::NEG_INFINITY);
    assert!((scores.entropy[0] - scores.entropy[1]).abs() < 1e-12 && scores.entropy[0] > 0.6);
    let none = token_scores(&logits, 4, &DeviceArray::of_u32(&device, &[4, u32::MAX]));
    assert!(none.log_probability.iter().all(|x| x.is_nan()) && none.is_top == [false, false]);
}

#[test]
fn the_first_of_the_largest_is_the_top() {
    let device = device();
    for vocabulary in [1usize, 31, 257, 1030] {
        let numbers: Vec<f32> =
            wave(6 * vocabulary, 0.7).iter().map(|x| (8.0 * x).round()).collect();
        let first = |row: &[f32]| {
            let most = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            row.iter().position(|x| *x == most).expect("a largest") as u32
        };
        let expected: Vec<u32> = numbers.chunks_exact(vocabulary).map(first).collect();
        let logits = DeviceArray::new(&device, Kind::F32, &numbers);
        let tops = top_tokens(&logits, vocabulary);
        assert_eq!(tops.read_u32(), expected);
        assert!(token_scores(&logits, vocabulary, &tops).is_top.iter().all(|top| *top));
    }
    let lowest = [f32::NEG_INFINITY; 300];
    assert_eq!(top_tokens(&DeviceArray::new(&device, Kind::F32, &lowest), 300).read_u32(), [0]);
    let logits = DeviceArray::new(&device, Kind::F32, &[1.0, f32::NAN, 0.5]);
    let tops = top_tokens(&logits, 3);
    assert!(token_scores(&logits, 3, &tops).log_probability[0].is_nan());
}

#[test]
fn tokens_are_drawn_by_their_probabilities() {
    let device = device();
    for (vocabulary, temperature) in [(1usize, 1.0), (5, 0.7), (256, 1.0), (1000, 2.0), (5003, 0.5)]
    {
        let mut numbers: Vec<f32> = wave(vocabulary, 0.7).iter().map(|x| 5.0 * x).collect();
        // Whole parts, and some tokens between, cannot come.
        if vocabulary > 600 {
            numbers[..300].fill(f32::NEG_INFINITY);
            numbers[vocabulary - 300..].fill(f32::NEG_INFINITY);
        }
        let mut uniforms: Vec<f64> = (0..50).map(|n| f64::from(n) / 50.0).collect();
        uniforms.extend([1.0 - f64::EPSILON / 2.0, 1e-12]);
        let rows = numbers.repeat(uniforms.len());
        let logits = DeviceArray::new(&device, Kind::F32, &rows);
        let drawn = draw_tokens(&logits, vocabulary, temperature, &uniforms).read_u32();
        let weights: Vec<f64> =
            numbers.iter().map(|x| ((f64::from(*x) - 5.0) / temperature).exp()).collect();
        let sum: f64 = weights.iter().sum();
        for (token, uniform) in drawn.iter().zip(&uniforms) {
            let before: f64 = weights[..*token as usize].iter().sum::<f64>() / sum;
            let own = weights[*token as usize] / sum;
            assert!(own > 0.0, "{vocabulary}: a token that cannot come");
            let fits = before - 1e-5 <= *uniform && *uniform <= before + own + 1e-5;
            assert!(
                fits,
                "{vocabulary}: {token} is from {before} to {}, not {uniform}",
                before + own
            );
        }
    }
}
