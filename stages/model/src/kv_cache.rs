//! Keys and values of tokens that a model has read, so that of what follows them only the new tokens are
//! computed.

pub(crate) use okapi_device::kv_cache::KvLayer as DeviceLayer;

use crate::array::{APART, Array};
use crate::attention::{Heads, Sequences};
use crate::causal_lm::{CausalLm, Keep, ModelError};
use crate::matrix::Matrix;

/// What one sequence's tokens left in every block of a model. It belongs to the weights that it was
/// computed with: after a training step it is worth nothing.
#[derive(Debug)]
pub struct KvCache {
    layers: Vec<KvLayer>,
}

/// Keys and values of one block.
#[derive(Debug)]
pub(crate) enum KvLayer {
    Host(HostLayer),
    Device(DeviceLayer),
}

/// Those in the processor's memory.
pub(crate) fn of_host<'a>(layers: &'a mut [&mut KvLayer]) -> Vec<&'a mut HostLayer> {
    let host = |layer: &'a mut &mut KvLayer| match layer {
        KvLayer::Host(layer) => layer,
        KvLayer::Device(_) => panic!("{APART}"),
    };
    layers.iter_mut().map(host).collect()
}

/// Those on a GPU.
pub(crate) fn of_device<'a>(layers: &'a mut [&mut KvLayer]) -> Vec<&'a mut DeviceLayer> {
    let device = |layer: &'a mut &mut KvLayer| match layer {
        KvLayer::Device(layer) => layer,
        KvLayer::Host(_) => panic!("{APART}"),
    };
    layers.iter_mut().map(device).collect()
}

/// Keys and values of one block: for each head of them, `room` rows of `width` numbers, the first `len` of
/// which hold something. Keys are turned already.
#[derive(Debug)]
pub(crate) struct HostLayer {
    pairs: usize,
    width: usize,
    room: usize,
    len: usize,
    keys: Vec<f32>,
    values: Vec<f32>,
}

impl KvCache {
    /// Tokens that it holds.
    pub fn len(&self) -> usize {
        self.layers.first().map_or(0, KvLayer::len)
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A copy with room for so many tokens, and at least for those that it holds.
    pub fn copy(&self, room: usize) -> KvCache {
        KvCache { layers: self.layers.iter().map(|layer| layer.copy(room)).collect() }
    }

    /// Forgets all but the first tokens.
    pub fn truncate(&mut self, len: usize) {
        for layer in &mut self.layers {
            match layer {
                KvLayer::Host(layer) => layer.len = layer.len.min(len),
                KvLayer::Device(layer) => layer.truncate(len),
            }
        }
    }

    pub(crate) fn layer_mut(&mut self, number: usize) -> &mut KvLayer {
        &mut self.layers[number]
    }
}

impl KvLayer {
    fn len(&self) -> usize {
        match self {
            KvLayer::Host(layer) => layer.len,
            KvLayer::Device(layer) => layer.len(),
        }
    }

    fn copy(&self, room: usize) -> KvLayer {
        match self {
            KvLayer::Host(layer) => KvLayer::Host(layer.copy(room)),
            KvLayer::Device(layer) => KvLayer::Device(layer.copy(room)),
        }
    }
}

impl HostLayer {
    fn new(heads: Heads, room: usize) -> HostLayer {
        let Heads { pairs, width, .. } = heads;
        // Zeroed memory costs nothing until it is used.
        let [keys, values] = [(); 2].map(|()| vec![0.0; pairs * room * width]);
        HostLayer { pairs, width, room, len: 0, keys, values }
    }

    fn fits(&self, heads: Heads) -> bool {
        (self.pairs, self.width) == (heads.pairs, heads.width)
    }

    /// Tokens that it holds.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Keys and values of a head, a row for each token.
    pub(crate) fn head(&self, pair: usize) -> [Matrix<'_>; 2] {
        let first = pair * self.room * self.width;
        [&self.keys, &self.values]
            .map(|all| Matrix::new(&all[first..], self.len, self.width, self.width))
    }

    fn copy(&self, room: usize) -> HostLayer {
        let room = room.max(self.len);
        let (block, used) = (self.room * self.width, self.len * self.width);
        let copy = |from: &[f32]| {
            let mut to = vec![0.0; self.pairs * room * self.width];
            for pair in 0..self.pairs {
                let there = &from[pair * block..][..used];
                to[pair * room * self.width..][..used].copy_from_slice(there);
            }
            to
        };
        HostLayer { room, keys: copy(&self.keys), values: copy(&self.values), ..*self }
    }

    /// Adds the keys and values that `rows` hold, a row for each token.
    pub(crate) fn append(&mut self, rows: &[f32], heads: Heads) {
        let len = self.len + rows.len() / heads.row;
        if len > self.room {
            *self = self.copy(len.max(2 * self.room));
        }
        let width = self.width;
        let each = heads.queries / heads.pairs;
        for pair in 0..self.pairs {
            let [_, keys, values] = heads.places(pair * each);
            for (row, place) in rows.chunks_exact(heads.row).zip(self.len..) {
                let at = (pair * self.room + place) * width;
                self.keys[at..at + width].copy_from_slice(&row[keys..keys + width]);
                self.values[at..at + width].copy_from_slice(&row[values..values + width]);
            }
        }
        self.len = len;
    }
}

impl CausalLm {
    /// A cache that holds nothing, with room for so many tokens; it grows when it needs more. A token
    /// takes 8 bytes for each number of a key, in every head of keys and every block.
    pub fn kv_cache(&self, room: usize) -> KvCache {
        let layer = |_| match self.on_device() {
            None => KvLayer::Host(HostLayer::new(self.layers.heads, room)),
            Some(there) => KvLayer::Device(there.layer(room)),
        };
        KvCache { layers: (0..self.blocks()).map(layer).collect() }
    }

    /// Reads on: computes the states after tokens that follow those in a cache, for several sequences at
    /// once, and adds them to their caches. The states, `hidden` numbers each, are in the order of the
    /// sequences and in these in that of the tokens.
    ///
    /// # Determinism
    /// What a sequence gets is the same to the last bit, whatever stands beside it and however many
    /// threads there are. It is what a pass over the whole sequence gives but for rounding.
    ///
    /// # Errors
    /// When a token is not the model's or a cache is another's. The caches are then as they were.
    pub fn read_on(&self, rows: &mut [(&[u32], &mut KvCache)]) -> Result<Array, ModelError> {
        let fits = |cache: &KvCache| {
            let all = cache.layers.iter().all(|layer| match (layer, self.on_device()) {
                (KvLayer::Host(layer), None) => layer.fits(self.layers.heads),
                (KvLayer::Device(layer), Some(there)) => there.fits(layer),
                _ => false,
            });
            all && cache.layers.len() == self.blocks()
        };
        if !rows.iter().all(|(_, cache)| fits(cache)) {
            return Err(ModelError::Cache);
        }
        let tokens: Vec<&[u32]> = rows.iter().map(|(tokens, _)| *tokens).collect();
        let sequences = Sequences::new(&tokens);
        let mut caches: Vec<&mut KvCache> =
            rows.iter_mut().map(|(_, cache)| &mut **cache).collect();
        let forward = self.pass(sequences, Keep::Nothing, None, Some(&mut caches), None)?;
        Ok(forward.into_states())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADS: Heads = Heads { queries: 4, pairs: 2, width: 3, row: 24, interleaved: false };

    fn rows(count: usize, first: usize) -> Vec<f32> {
        (0..count * 24).map(|n| (first * 24 + n) as f32).collect()
    }

    fn host(cache: &mut KvCache) -> &mut HostLayer {
        match &mut cache.layers[0] {
            KvLayer::Host(layer) => layer,
            KvLayer::Device(_) => panic!("not here"),
        }
    }

    #[test]
    fn a_layer_keeps_what_it_is_given_however_it_grows() {
        let mut whole = HostLayer::new(HEADS, 9);
        whole.append(&rows(7, 0), HEADS);
        let mut grown = HostLayer::new(HEADS, 0);
        for (count, first) in [(2, 0), (1, 2), (0, 3), (4, 3)] {
            grown.append(&rows(count, first), HEADS);
        }
        assert_eq!((whole.room, grown.len()), (9, 7));
        for layer in [&whole, &grown, &grown.copy(0), &whole.copy(20)] {
            for pair in 0..2 {
                let [keys, values] = layer.head(pair);
                assert_eq!((keys.count(), keys.columns()), (7, 3));
                for token in 0..7 {
                    let at = (token * 24 + 12 + pair * 3) as f32;
                    assert_eq!(keys.row(token), [at, at + 1.0, at + 2.0]);
                    assert_eq!(values.row(token), [at + 6.0, at + 7.0, at + 8.0]);
                }
            }
        }
    }

    #[test]
    fn what_is_forgotten_is_written_over() {
        let mut cache = KvCache { layers: vec![KvLayer::Host(HostLayer::new(HEADS, 4))] };
        host(&mut cache).append(&rows(3, 0), HEADS);
        cache.truncate(9);
        assert_eq!(cache.len(), 3);
        cache.truncate(1);
        host(&mut cache).append(&rows(1, 5), HEADS);
        assert!(cache.len() == 2 && !cache.is_empty());
        assert_eq!(host(&mut cache).head(0)[0].row(1), [132.0, 133.0, 134.0]);
    }
}
