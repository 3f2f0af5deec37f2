//! What a model on a GPU needs beside its parameters: how attention is told where tokens stand, there.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use okapi_device::attention::HeadLayout;
use okapi_device::{self as device, Device, DeviceArray, DeviceError, Kind};

use crate::array::Array;
use crate::attention::{Heads, Sequences};
use crate::block::Positions;
use crate::kv_cache::DeviceLayer;
use crate::positions::Direction;

/// A model's GPU.
#[derive(Debug)]
pub(crate) struct OnDevice {
    pub(crate) device: Device,
    /// How weights and states are stored.
    pub(crate) kind: Kind,
    layout: HeadLayout,
    /// ALiBi's, one a head.
    slopes: Option<DeviceArray>,
    turns: Option<Turns>,
}

/// For rotary positions.
#[derive(Debug)]
struct Turns {
    /// Where the numbers that are turned begin in a row: those of queries and of keys.
    heads: DeviceArray,
    /// Pairs of numbers that a head turns.
    half: usize,
    /// Sines and cosines of the first positions, as many as have been needed.
    table: Mutex<(usize, Arc<DeviceArray>)>,
}

/// The GPU in one pass.
#[derive(Debug)]
pub(crate) struct DevicePass<'a> {
    of: &'a OnDevice,
    /// Of every token, and the table that has a row for each.
    turns: Option<(DeviceArray, Arc<DeviceArray>)>,
    ranges: Vec<Range<usize>>,
}

impl OnDevice {
    pub(crate) fn new(
        device: &Device,
        kind: Kind,
        heads: Heads,
        positions: &Positions,
    ) -> OnDevice {
        let layout = HeadLayout {
            queries: heads.queries,
            pairs: heads.pairs,
            width: heads.width,
            row: heads.row,
            interleaved: heads.interleaved,
        };
        let mut there =
            OnDevice { device: device.clone(), kind, layout, slopes: None, turns: None };
        match positions {
            Positions::Alibi(slopes) => {
                there.slopes = Some(DeviceArray::new(device, Kind::F32, slopes));
            }
            Positions::Rotary(rotation) => {
                let begins = (0..heads.queries).flat_map(|head| {
                    let [queries, keys, _] = heads.places(head);
                    [queries as u32, keys as u32]
                });
                let begins: BTreeSet<u32> = begins.collect();
                let begins: Vec<u32> = begins.into_iter().collect();
                let none = Arc::new(DeviceArray::zeros(device, Kind::F32, 0));
                there.turns = Some(Turns {
                    heads: DeviceArray::of_u32(device, &begins),
                    half: rotation.pairs(),
                    table: Mutex::new((0, none)),
                });
            }
        }
        there
    }

    /// A pass over tokens at these places of their sequences.
    pub(crate) fn pass(
        &self,
        positions: &Positions,
        sequences: &Sequences,
        places: &[usize],
    ) -> DevicePass<'_> {
        let turns = match (positions, &self.turns) {
            (Positions::Rotary(rotation), Some(turns)) => {
                let needed = places.iter().max().map_or(0, |last| last + 1);
                let mut table = turns.table.lock().unwrap_or_else(PoisonError::into_inner);
                if table.0 < needed {
                    // Longer than needed, as generation needs one more at every step.
                    let count = needed.next_power_of_two();
                    let numbers = rotation.table(count);
                    let there = DeviceArray::new(&self.device, Kind::F32, &numbers);
                    *table = (count, Arc::new(there));
                }
                let places: Vec<u32> = places.iter().map(|place| *place as u32).collect();
                Some((DeviceArray::of_u32(&self.device, &places), Arc::clone(&table.1)))
            }
            _ => None,
        };
        DevicePass { of: self, turns, ranges: sequences.ranges().collect() }
    }
}

impl DevicePass<'_> {
    /// Turns queries and keys by their positions.
    pub(crate) fn turn(&self, rows: &mut Array, direction: Direction) {
        if let (Some((positions, table)), Some(turns)) = (&self.turns, &self.of.turns) {
            let is_back = direction == Direction::Back;
            let (rows, half) = (rows.device_mut(), turns.half);
            let step = self.of.layout.row;
            device::rotary::turn(rows, step, &turns.heads, positions, table, half, is_back);
        }
    }

    /// What every token gets from those before it.
    pub(crate) fn attend(&self, rows: &Array, caches: Option<&[&DeviceLayer]>) -> Array {
        let (layout, slopes) = (self.of.layout, self.of.slopes.as_ref());
        Array::Device(match caches {
            None => device::attention::attention(rows.device(), layout, &self.ranges, slopes),
            Some(caches) => device::kv_cache::attention_with_caches(
                rows.device(),
                layout,
                &self.ranges,
                caches,
                slopes,
            ),
        })
    }

    /// The gradient of the rows, given that of what tokens got.
    pub(crate) fn attend_backward(&self, rows: &Array, d_out: &Array) -> Array {
        let (layout, slopes) = (self.of.layout, self.of.slopes.as_ref());
        let (rows, d_out) = (rows.device(), d_out.device());
        Array::Device(device::attention::attention_backward(
            rows,
            layout,
            &self.ranges,
            slopes,
            d_out,
        ))
    }

    /// Adds keys and values of each sequence's tokens to its cache.
    pub(crate) fn append(&self, rows: &Array, caches: &mut [&mut DeviceLayer]) {
        device::kv_cache::append_to_caches(rows.device(), self.of.layout, &self.ranges, caches);
    }
}

impl OnDevice {
    /// A cache of one block.
    pub(crate) fn layer(&self, room: usize) -> DeviceLayer {
        DeviceLayer::new(&self.device, self.kind, self.layout, room)
    }

    /// Whether a cache of one block is one of this model.
    pub(crate) fn fits(&self, layer: &DeviceLayer) -> bool {
        layer.fits(self.layout)
    }

    /// Whether all that was asked so far could be begun.
    pub(crate) fn check(&self) -> Result<(), DeviceError> {
        self.device.check()
    }
}
