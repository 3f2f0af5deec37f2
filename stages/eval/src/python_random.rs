//! Python's `random.Random`, so that the examples that the field's programs draw are drawn here too.
//!
//! # Sources
//! M. Matsumoto and T. Nishimura, "Mersenne Twister", 1998, in its 32-bit form with `init_by_array`; how
//! numbers become choices: CPython 3.11, `Lib/random.py`.

const N: usize = 624;
const M: usize = 397;

/// A Mersenne Twister seeded and used as Python does it.
#[derive(Debug, Clone)]
pub struct PythonRandom {
    state: [u32; N],
    used: usize,
}

impl PythonRandom {
    /// `random.Random(seed)`.
    pub fn new(seed: u64) -> PythonRandom {
        let (low, high) = (seed as u32, (seed >> 32) as u32);
        let key = if high == 0 { vec![low] } else { vec![low, high] };
        let mut state = [0; N];
        state[0] = 19_650_218u32;
        for i in 1..N {
            let previous = state[i - 1];
            state[i] =
                (previous ^ (previous >> 30)).wrapping_mul(1_812_433_253).wrapping_add(i as u32);
        }
        let mut i = 1;
        let mut mix = |round: usize, key: Option<u32>| {
            let previous = state[i - 1] ^ (state[i - 1] >> 30);
            state[i] = match key {
                Some(key) => (state[i] ^ previous.wrapping_mul(1_664_525))
                    .wrapping_add(key)
                    .wrapping_add(round as u32),
                None => (state[i] ^ previous.wrapping_mul(1_566_083_941)).wrapping_sub(i as u32),
            };
            i += 1;
            if i == N {
                state[0] = state[N - 1];
                i = 1;
            }
        };
        for round in 0..N {
            let place = round % key.len();
            mix(place, Some(key[place]));
        }
        for round in 1..N {
            mix(round, None);
        }
        state[0] = 1 << 31;
        PythonRandom { state, used: N }
    }

    fn twist(&mut self) {
        for i in 0..N {
            let y = (self.state[i] & 0x8000_0000) | (self.state[(i + 1) % N] & 0x7fff_ffff);
            let odd = if y & 1 == 1 { 0x9908_b0df } else { 0 };
            self.state[i] = self.state[(i + M) % N] ^ (y >> 1) ^ odd;
        }
        self.used = 0;
    }

    /// The next 32 bits.
    fn next(&mut self) -> u32 {
        if self.used == N {
            self.twist();
        }
        let mut y = self.state[self.used];
        self.used += 1;
        y ^= y >> 11;
        y ^= (y << 7) & 0x9d2c_5680;
        y ^= (y << 15) & 0xefc6_0000;
        y ^ (y >> 18)
    }

    /// A number below `n`, as `randrange(n)` draws it: as many bits as `n` has, again while they are too
    /// many.
    ///
    /// # Panics
    /// When `n` is 0 or has more than 32 bits.
    pub fn below(&mut self, n: usize) -> usize {
        let bits = usize::BITS - n.leading_zeros();
        assert!((1..=32).contains(&bits), "{n} is no bound");
        loop {
            let drawn = (self.next() >> (32 - bits)) as usize;
            if drawn < n {
                return drawn;
            }
        }
    }

    /// `shuffle(items)`.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            let other = self.below(last + 1);
            items.swap(last, other);
        }
    }

    /// The places of `sample(items, count)` among `n` items; `None` when there are fewer than `count`.
    ///
    /// Python takes from a pool that shrinks where the items are few, and draws again what it has already
    /// drawn where they are many: two sequences of draws.
    pub fn sample(&mut self, n: usize, count: usize) -> Option<Vec<usize>> {
        if count > n {
            return None;
        }
        let mut small = 21;
        if count > 5 {
            let mut power = 1;
            while power < 3 * count {
                power *= 4;
            }
            small += power;
        }
        let mut drawn = Vec::with_capacity(count);
        if n <= small {
            let mut pool: Vec<usize> = (0..n).collect();
            for left in (n - count + 1..=n).rev() {
                let place = self.below(left);
                drawn.push(pool[place]);
                pool[place] = pool[left - 1];
            }
        } else {
            let mut is_drawn = vec![false; n];
            while drawn.len() < count {
                let place = self.below(n);
                if !std::mem::replace(&mut is_drawn[place], true) {
                    drawn.push(place);
                }
            }
        }
        Some(drawn)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn places(value: &Value) -> Vec<usize> {
        serde_json::from_value(value.clone()).unwrap()
    }

    #[test]
    fn draws_are_those_of_python() {
        let text = include_str!("../../../tests/fixtures/eval/python.json");
        let facts: Value = serde_json::from_str(text).unwrap();
        let seeds = facts["random"].as_array().unwrap();
        assert_eq!(seeds.len(), 8);
        for expected in seeds {
            let mut random = PythonRandom::new(expected["seed"].as_u64().unwrap());
            let bounds = [1, 2, 3, 10, 1000, 1 << 31, (1 << 32) - 1];
            assert_eq!(bounds.map(|n| random.below(n)).to_vec(), places(&expected["below"]));
            for sample in expected["samples"].as_array().unwrap() {
                let [n, count] = [0, 1].map(|place| sample[place].as_u64().unwrap() as usize);
                assert_eq!(random.sample(n, count), Some(places(&sample[2])), "{count} of {n}");
            }
            for shuffled in expected["shuffled"].as_array().unwrap() {
                let shuffled = places(shuffled);
                let mut items: Vec<usize> = (0..shuffled.len()).collect();
                random.shuffle(&mut items);
                assert_eq!(items, shuffled);
            }
            assert_eq!(random.below(1 << 31) as u64, expected["next"].as_u64().unwrap());
        }
        assert_eq!(PythonRandom::new(1).sample(3, 4), None);
    }
}
