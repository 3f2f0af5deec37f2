//! Rotary positions (Su et al., 2021).

use crate::array::{DeviceArray, Kind};
use crate::kernel::Kernel;

/// Turns heads of rows by the positions of their tokens: number `i` of a head's first `2 * half` with number `i
/// + half`. A turn `back` is the forward turn's backward pass, for a turn changes no lengths.
///
/// # Shapes
/// `rows`: `[T, row_step]`; `heads`: where each head that is turned begins in a row; `positions`: `[T]`; `table`:
/// `[P, half, 2]` with a sine and a cosine for each position and pair, in single precision. A row whose
/// position is not in the table becomes no numbers.
///
/// # Panics
/// When sizes or kinds do not match.
pub fn turn(
    rows: &mut DeviceArray,
    row_step: usize,
    heads: &DeviceArray,
    positions: &DeviceArray,
    table: &DeviceArray,
    half: usize,
    back: bool,
) {
    if half == 0 {
        return;
    }
    assert_eq!((heads.kind(), positions.kind(), table.kind()), (Kind::U32, Kind::U32, Kind::F32));
    assert_eq!(rows.len(), positions.len() * row_step, "a position for each row");
    assert_eq!(table.len() % (2 * half), 0, "a part of a position");
    let kernel = Kernel::of("turn", &[rows.kind()]).array(rows).size(row_step).array(heads);
    let kernel = kernel.u32(heads.len()).array(positions).array(table);
    let kernel = kernel.u32(table.len() / (2 * half)).u32(half).u32(usize::from(back));
    kernel.blocks(rows.device(), positions.len(), 1);
}
