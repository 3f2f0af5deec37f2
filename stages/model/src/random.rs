//! Random numbers by counting: Philox4x32-10 (Salmon et al., 2011).
//!
//! A stream is named by a seed, a purpose and two numbers, such as a row and a step; what it gives
//! depends on nothing else. So a row's sample does not depend on the batch that it sits in, nor on
//! how many threads draw, and a run that goes on draws what it would have drawn.

/// What random numbers are drawn for: streams of different purposes never meet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// First weights, by parameter.
    Weights = 1,
    /// The order of examples, by epoch.
    Order = 2,
    /// Dropout, by step and layer.
    Dropout = 3,
    /// Sampling, by row and step, and by sample.
    Sampling = 4,
    /// Which pairs of a ranking are compared, by epoch and row.
    Pairs = 5,
    /// Which examples are held out.
    Split = 6,
    /// The order of rollouts, by iteration and pass.
    Passes = 7,
}

/// A stream of random numbers.
#[derive(Debug, Clone)]
pub struct Random {
    key: [u32; 2],
    counter: [u32; 4],
    drawn: [u32; 4],
    left: usize,
}

impl Random {
    /// The stream of these names, from its beginning.
    pub fn new(seed: u64, purpose: Purpose, one: u32, other: u32) -> Random {
        let key = [seed as u32, (seed >> 32) as u32];
        Random { key, counter: [0, one, other, purpose as u32], drawn: [0; 4], left: 0 }
    }

    /// The stream for the token that a sample of a row gets at a step. The first sample's is the one of
    /// [`Purpose::Sampling`], row and step.
    pub fn for_sample(seed: u64, row: u32, sample: u32, step: u32) -> Random {
        let mut random = Random::new(seed, Purpose::Sampling, row, step);
        // A stream is far shorter than the counter's first number: its upper half is free.
        random.counter[0] = sample << 16;
        random
    }

    /// 32 random bits.
    pub fn bits(&mut self) -> u32 {
        if self.left == 0 {
            self.drawn = philox(self.counter, self.key);
            self.counter[0] = self.counter[0].wrapping_add(1);
            self.left = 4;
        }
        self.left -= 1;
        self.drawn[3 - self.left]
    }

    /// A number from 0 to 1, 1 left out, of 53 random bits.
    pub fn uniform(&mut self) -> f64 {
        let (high, low) = (u64::from(self.bits()), u64::from(self.bits()));
        ((high << 21) ^ (low >> 11)) as f64 / (1u64 << 53) as f64
    }

    /// A whole number below `bound`, each with the same probability.
    ///
    /// # Panics
    /// When `bound` is 0.
    pub fn below(&mut self, bound: u32) -> u32 {
        assert!(bound > 0, "there is no number below 0");
        // Lemire, 2019: what would make some numbers likelier is drawn anew.
        loop {
            let product = u64::from(self.bits()) * u64::from(bound);
            if product as u32 >= bound.wrapping_neg() % bound {
                return (product >> 32) as u32;
            }
        }
    }

    /// A number from the normal distribution with mean 0 and variance 1 (Box and Muller, 1958).
    pub fn normal(&mut self) -> f64 {
        let (radius, angle) = (1.0 - self.uniform(), self.uniform());
        (-2.0 * radius.ln()).sqrt() * (2.0 * std::f64::consts::PI * angle).cos()
    }

    /// The numbers below `count` in a random order (Fisher and Yates).
    pub fn permutation(&mut self, count: u32) -> Vec<u32> {
        let mut order: Vec<u32> = (0..count).collect();
        for last in (1..count).rev() {
            order.swap(last as usize, self.below(last + 1) as usize);
        }
        order
    }
}

/// Ten rounds over a counter.
fn philox(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    let product = |one: u32, other: u32| {
        let product = u64::from(one) * u64::from(other);
        ((product >> 32) as u32, product as u32)
    };
    for _ in 0..10 {
        let (high, low) = product(0xd251_1f53, counter[0]);
        let (other_high, other_low) = product(0xcd9e_8d57, counter[2]);
        counter = [other_high ^ counter[1] ^ key[0], other_low, high ^ counter[3] ^ key[1], low];
        key = [key[0].wrapping_add(0x9e37_79b9), key[1].wrapping_add(0xbb67_ae85)];
    }
    counter
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The known answers that the authors publish with Random123.
    #[test]
    fn known_answers() {
        for (counter, key, expected) in [
            ([0; 4], [0; 2], [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]),
            ([u32::MAX; 4], [u32::MAX; 2], [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]),
            (
                [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
                [0xa409_3822, 0x299f_31d0],
                [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1],
            ),
        ] {
            assert_eq!(philox(counter, key), expected);
        }
    }

    #[test]
    fn streams_are_apart_and_can_be_drawn_again() {
        let draw = |seed, purpose, one, other| {
            let mut random = Random::new(seed, purpose, one, other);
            (0..9).map(|_| random.bits()).collect::<Vec<_>>()
        };
        let first = draw(7, Purpose::Sampling, 3, 4);
        assert_eq!(first, draw(7, Purpose::Sampling, 3, 4));
        for other in [
            draw(8, Purpose::Sampling, 3, 4),
            draw(7 + (1 << 32), Purpose::Sampling, 3, 4),
            draw(7, Purpose::Order, 3, 4),
            draw(7, Purpose::Sampling, 4, 3),
        ] {
            assert!(first.iter().zip(&other).all(|(one, other)| one != other));
        }
    }

    #[test]
    fn distributions_are_what_they_are_called() {
        let mut random = Random::new(1, Purpose::Weights, 0, 0);
        let count = 100_000;
        let normal: Vec<f64> = (0..count).map(|_| random.normal()).collect();
        let mean = normal.iter().sum::<f64>() / f64::from(count);
        let variance = normal.iter().map(|x| x * x).sum::<f64>() / f64::from(count);
        assert!(mean.abs() < 0.02 && (variance - 1.0).abs() < 0.02, "{mean} {variance}");
        let mut seen = [0; 3];
        for _ in 0..30_000 {
            seen[random.below(3) as usize] += 1;
        }
        assert!(seen.iter().all(|times| (9_500..10_500).contains(times)), "{seen:?}");
        let mut order = random.permutation(1000);
        assert_ne!(order[..10], [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
        order.sort_unstable();
        assert_eq!(order, (0..1000).collect::<Vec<_>>());
    }
}
