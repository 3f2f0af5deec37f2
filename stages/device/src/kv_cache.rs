//! Keys and values of tokens that a model has read, so that of what follows them only the new tokens are
//! computed.

use std::ops::Range;

use crate::array::{DeviceArray, Kind};
use crate::attention::{HeadLayout, Sequence, Sources, check_ranges, check_slopes};
use crate::device::Device;
use crate::elementwise::{Columns, copy_columns};
use crate::kernel::{Kernel, THREADS};

/// Keys and values of one sequence in one block of a model: for each head of them, `room` rows of `width`
/// numbers, the first `len` of which hold something. Keys are turned already.
#[derive(Debug)]
pub struct KvLayer {
    pairs: usize,
    width: usize,
    room: usize,
    len: usize,
    keys: DeviceArray,
    values: DeviceArray,
}

/// The widest head that the kernel for single tokens can take.
const WIDEST: usize = 256;

impl KvLayer {
    /// One that holds nothing, with room for so many tokens. It grows when it needs more.
    pub fn new(device: &Device, kind: Kind, layout: HeadLayout, room: usize) -> KvLayer {
        let HeadLayout { pairs, width, .. } = layout;
        let [keys, values] =
            [(); 2].map(|()| DeviceArray::uninitialized(device, kind, pairs * room * width));
        KvLayer { pairs, width, room, len: 0, keys, values }
    }

    /// Tokens that it holds.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Tokens that it has room for.
    pub fn room(&self) -> usize {
        self.room
    }

    /// A copy with room for so many tokens, and at least for those that it holds.
    #[must_use]
    pub fn copy(&self, room: usize) -> KvLayer {
        let room = room.max(self.len);
        let copy = |from: &DeviceArray| {
            let count = self.pairs * room * self.width;
            let mut to = DeviceArray::uninitialized(from.device(), from.kind(), count);
            if self.len > 0 {
                let columns = |room| Columns {
                    first: 0,
                    count: self.len * self.width,
                    step: room * self.width,
                };
                copy_columns(&mut to, columns(room), from, columns(self.room));
            }
            to
        };
        KvLayer { room, keys: copy(&self.keys), values: copy(&self.values), ..*self }
    }

    /// Forgets all but the first tokens.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// Adds the keys and values of `count` rows, a row for each token.
    ///
    /// # Panics
    /// When there are no such rows, or the cache is one for other heads.
    pub fn append(
        &mut self,
        rows: &DeviceArray,
        first_row: usize,
        count: usize,
        layout: HeadLayout,
    ) {
        let range = first_row..first_row + count;
        append_to_caches(rows, layout, std::slice::from_ref(&range), &mut [self]);
    }

    /// Makes room for so many tokens more: at least twice what there was, so that it seldom happens.
    fn grow(&mut self, count: usize) {
        let len = self.len + count;
        if len > self.room {
            *self = self.copy(len.max(2 * self.room));
        }
    }

    fn check(&self, rows: &DeviceArray, layout: HeadLayout) {
        assert_eq!((self.pairs, self.width), (layout.pairs, layout.width), "another model's cache");
        assert!(self.keys.kind() == rows.kind() && self.keys.device().is_same(rows.device()));
    }

    /// What kernels are told of it and of its rows, as `Cache` in kv_cache.cu.
    fn entry(&self, rows: &Range<usize>) -> [u64; 6] {
        let [keys, values] = [self.keys.at(0), self.values.at(0)];
        let sizes = [self.room, self.len, rows.start, rows.len()].map(|size| size as u64);
        [keys, values, sizes[0], sizes[1], sizes[2], sizes[3]]
    }
}

/// Entries on the device, as they lie in its memory.
fn upload(device: &Device, entries: &[[u64; 6]]) -> DeviceArray {
    let halves = |number: &u64| [*number as u32, (number >> 32) as u32];
    let numbers: Vec<u32> = entries.iter().flatten().flat_map(halves).collect();
    DeviceArray::of_u32(device, &numbers)
}

/// Adds the keys and values of rows to the caches of their sequences, all at once. Caches grow where they have
/// to.
///
/// # Shapes
/// `rows`: `[T, layout.row]`; `ranges`: for each cache, its rows.
///
/// # Panics
/// When there are no such rows, or a cache is one for other heads.
pub fn append_to_caches(
    rows: &DeviceArray,
    layout: HeadLayout,
    ranges: &[Range<usize>],
    caches: &mut [&mut KvLayer],
) {
    let tokens = layout.tokens(rows);
    assert_eq!(ranges.len(), caches.len(), "a cache for each sequence");
    let mut entries = Vec::with_capacity(caches.len());
    for (range, cache) in ranges.iter().zip(caches.iter_mut()) {
        assert!(range.end <= tokens, "no such rows");
        cache.check(rows, layout);
        if !range.is_empty() {
            cache.grow(range.len());
            entries.push(cache.entry(range));
        }
    }
    let most = ranges.iter().map(Range::len).max().unwrap_or(0);
    let table = upload(rows.device(), &entries);
    let [_, keys, values] = layout.places(0);
    let kernel = Kernel::of("cache_append", &[rows.kind()]).array(&table).array(rows);
    let kernel = kernel.size(layout.row).u32(layout.pairs).u32(layout.width);
    let kernel = kernel.size(keys).size(values).size(layout.head_step());
    let blocks = (layout.pairs * most * layout.width).div_ceil(THREADS as usize).min(1 << 12);
    kernel.blocks(rows.device(), blocks, entries.len());
    for (range, cache) in ranges.iter().zip(caches) {
        cache.len += range.len();
    }
}

/// Attention of every token to those that its sequence's cache holds, of which its own and those behind it in
/// `rows` are the last. With slopes, one a head, a score falls with the distance (ALiBi).
///
/// # Shapes
/// `rows`: `[T, layout.row]`; `ranges`: the sequences, one after the other, each with a cache; what comes out:
/// `[T, queries * width]`.
///
/// # Determinism
/// What a sequence gets does not depend on what stands beside it.
///
/// # Panics
/// When sizes or kinds do not match, or a cache holds fewer tokens than its sequence has.
#[must_use]
pub fn attention_with_caches(
    rows: &DeviceArray,
    layout: HeadLayout,
    ranges: &[Range<usize>],
    caches: &[&KvLayer],
    slopes: Option<&DeviceArray>,
) -> DeviceArray {
    let tokens = layout.tokens(rows);
    check_ranges(ranges, tokens);
    check_slopes(slopes, layout);
    assert_eq!(ranges.len(), caches.len(), "a cache for each sequence");
    let HeadLayout { queries, width, row, .. } = layout;
    let mut out = DeviceArray::uninitialized(rows.device(), rows.kind(), tokens * layout.wide());
    let mut singles = Vec::new();
    for (range, cache) in ranges.iter().zip(caches) {
        cache.check(rows, layout);
        assert!(range.len() <= cache.len, "a cache without the tokens that attend");
        if range.len() == 1 && width <= WIDEST {
            singles.push(cache.entry(range));
        } else if !range.is_empty() {
            let sources = Sources {
                keys: &cache.keys,
                values: &cache.values,
                first: [0, 0],
                step: width,
                head_step: cache.room * width,
                count: cache.len,
            };
            Sequence { layout, rows, range: range.clone(), sources, slopes }.forward(&mut out);
        }
    }
    // A product of matrices would have more to prepare than to compute.
    if !singles.is_empty() {
        let table = upload(rows.device(), &singles);
        let kernel = Kernel::of("attend_once", &[rows.kind()]).array(&out).array(&table);
        let kernel = kernel.array(rows).size(row).size(layout.head_step()).maybe(slopes);
        let kernel = kernel.u32(layout.each()).u32(width).f32(layout.scale());
        kernel.blocks(rows.device(), queries, singles.len());
    }
    out
}
