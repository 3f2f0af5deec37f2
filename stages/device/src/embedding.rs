//! Rows of a table by their numbers, and the sums that their gradients are.

use crate::array::{DeviceArray, Kind};
use crate::kernel::Kernel;

/// Rows of a table. One that it lacks becomes no numbers.
///
/// # Shapes
/// `table`: `[V, width]`; `rows`: `[T]`; what comes out: `[T, width]`.
///
/// # Panics
/// When the table's last row is not whole.
#[must_use]
pub fn gather(table: &DeviceArray, width: usize, rows: &DeviceArray) -> DeviceArray {
    assert_eq!((rows.kind(), table.len() % width), (Kind::U32, 0), "rows of a table");
    let to = DeviceArray::uninitialized(table.device(), table.kind(), rows.len() * width);
    let kernel = Kernel::of("gather", &[table.kind()]).array(&to).array(table);
    let kernel = kernel.size(table.len() / width).u32(width).array(rows);
    kernel.blocks(table.device(), rows.len(), 1);
    to
}

/// Adds row `i` of `d` to row `rows[i]` of `to`, for one row of `to` after the other in the order of `i`: the sum
/// is the same every time. `to` has the kind of `d`, or single precision.
///
/// # Shapes
/// `to`: `[V, width]`; `d`: `[T, width]`.
///
/// # Panics
/// When `to` has no such row, or sizes do not match.
pub fn scatter_add(to: &mut DeviceArray, width: usize, rows: &[u32], d: &DeviceArray) {
    assert_eq!((to.len() % width, d.len()), (0, rows.len() * width), "rows to be added");
    let mut sorted: Vec<(u32, u32)> = rows.iter().copied().zip(0..).collect();
    sorted.sort_unstable();
    assert!(sorted.last().is_none_or(|(row, _)| (*row as usize) < to.len() / width), "no such row");
    let (mut targets, mut ends) = (Vec::new(), Vec::new());
    for chunk in sorted.chunk_by(|one, other| one.0 == other.0) {
        targets.push(chunk[0].0);
        ends.push(ends.last().copied().unwrap_or(0) + chunk.len() as u32);
    }
    let sources: Vec<u32> = sorted.iter().map(|(_, source)| *source).collect();
    // One upload instead of three, each of which takes longer than the bytes.
    let count = targets.len();
    let lists = DeviceArray::of_u32(to.device(), &[targets, ends, sources].concat());
    let kernel = Kernel::of("scatter_add", &[to.kind(), d.kind()]).array(to).u32(width);
    let kernel = kernel.part(&lists, 0).part(&lists, count).part(&lists, 2 * count);
    kernel.array(d).blocks(to.device(), count, 1);
}
