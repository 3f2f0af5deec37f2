//! Which examples each step sees.

use okapi_model::random::{Purpose, Random};

/// Examples over and over: every epoch sees each of them once, in an order of its own that only the seed
/// and the epoch decide.
#[derive(Debug, Clone)]
pub(crate) struct Orders {
    examples: u32,
    seed: u64,
    /// The order of the epoch that was asked for last.
    order: Option<(u64, Vec<u32>)>,
}

impl Orders {
    pub(crate) fn new(examples: u32, seed: u64) -> Orders {
        Orders { examples, seed, order: None }
    }

    /// The examples of an epoch, from 0.
    pub(crate) fn of(&mut self, epoch: u64) -> &[u32] {
        if self.order.as_ref().is_none_or(|(of, _)| *of != epoch) {
            let mut random = Random::new(self.seed, Purpose::Order, epoch as u32, 0);
            self.order = Some((epoch, random.permutation(self.examples)));
        }
        self.order.as_ref().map_or(&[], |(_, order)| order)
    }

    /// The example at a place, from 0, where the epochs follow each other.
    ///
    /// # Panics
    /// When there are no examples.
    pub(crate) fn at(&mut self, place: u64) -> u32 {
        let examples = u64::from(self.examples);
        self.of(place / examples)[(place % examples) as usize]
    }
}

/// Examples in batches. A batch never holds examples of two epochs.
#[derive(Debug, Clone)]
pub struct Batches {
    examples: u32,
    batch: u32,
    drops_last: bool,
    orders: Orders,
}

impl Batches {
    /// So many examples, so many a step. A last batch that is not full is dropped if asked for, unless
    /// it is the only one.
    pub fn new(examples: u32, batch: u32, drops_last: bool, seed: u64) -> Batches {
        Batches { examples, batch: batch.max(1), drops_last, orders: Orders::new(examples, seed) }
    }

    /// Steps of an epoch.
    pub fn steps(&self) -> u64 {
        let (full, rest) = (self.examples / self.batch, self.examples % self.batch);
        let has_last = rest > 0 && (!self.drops_last || full == 0);
        u64::from(full) + u64::from(has_last)
    }

    /// The epoch of a step, both from 0.
    pub fn epoch(&self, step: u64) -> u64 {
        step / self.steps().max(1)
    }

    /// The examples of a step, from 0.
    pub fn at(&mut self, step: u64) -> Vec<u32> {
        let epoch = self.epoch(step);
        let first = (step - epoch * self.steps()) as usize * self.batch as usize;
        let order = self.orders.of(epoch);
        let last = (first + self.batch as usize).min(order.len());
        order[first..last].to_vec()
    }
}

/// What is learnt together, in parts that are computed at once: each of at most `most` tokens, or one item
/// that is larger. `size` gives an item's tokens.
pub(crate) fn parts<T>(
    items: impl IntoIterator<Item = T>,
    most: usize,
    size: impl Fn(&T) -> usize,
) -> Vec<Vec<T>> {
    let mut parts: Vec<Vec<T>> = Vec::new();
    let mut tokens = 0;
    for item in items {
        tokens += size(&item);
        match parts.last_mut() {
            Some(part) if tokens <= most => part.push(item),
            _ => {
                tokens = size(&item);
                parts.push(vec![item]);
            }
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn an_epoch_sees_every_example_once(examples in 1u32..50, batch in 1u32..20, seed: u64) {
            let mut batches = Batches::new(examples, batch, false, seed);
            let steps = batches.steps();
            let epoch = |batches: &mut Batches, epoch: u64| -> Vec<u32> {
                (epoch * steps..(epoch + 1) * steps).flat_map(|step| batches.at(step)).collect()
            };
            let mut first = epoch(&mut batches, 0);
            let second = epoch(&mut batches, 1);
            let first_order = first.clone();
            prop_assert_eq!(epoch(&mut batches, 1), &second[..]);
            prop_assert!(examples < 10 || first != second);
            first.sort_unstable();
            prop_assert_eq!(first, (0..examples).collect::<Vec<_>>());
            // The same one by one, from epoch to epoch.
            let mut orders = Orders::new(examples, seed);
            let places = (0..u64::from(examples)).map(|place| orders.at(place));
            prop_assert_eq!(places.collect::<Vec<_>>(), first_order);
            let places = (0..u64::from(examples)).map(|place| orders.at(u64::from(examples) + place));
            prop_assert_eq!(places.collect::<Vec<_>>(), &second[..]);
            // Whole batches only, if asked for.
            let mut whole = Batches::new(examples, batch, true, seed);
            let size = batch.min(examples) as usize;
            for step in 0..2 * whole.steps() {
                prop_assert_eq!(whole.at(step).len(), size);
            }
        }
    }
}
