//! Matrix products by cuBLAS.

use std::ffi::{c_int, c_longlong};
use std::ptr::{from_ref, with_exposed_provenance, with_exposed_provenance_mut};
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::cuda_backend::cudarc::cublas::{CudaBlas, result, sys};

use crate::array::Kind;
use crate::backend::{Address, BatchProduct, Operand};
use crate::device::DeviceError;

/// What cuBLAS is to have on Hopper by its documentation, and more than it asks for on others.
pub(super) const WORKSPACE_BYTES: usize = 32 << 20;

/// cuBLAS on our stream.
///
/// # Determinism
/// cuBLAS promises the same bits for the same call on the same kind of GPU as long as it works on one stream.
/// It has its own piece of memory here, whose size is among what it chooses an algorithm by; and one product
/// is asked for at a time, since a product may take several kernels that pass sums on in that memory.
#[derive(Debug)]
pub(super) struct Products {
    blas: Mutex<Arc<CudaBlas>>,
}

impl Products {
    /// The workspace is a block of so many bytes that nothing else uses and that lives as long as this.
    pub(super) fn new(blas: Arc<CudaBlas>, workspace: Address) -> Result<Products, DeviceError> {
        let handle = *blas.handle();
        #[expect(unsafe_code, reason = "calls of cuBLAS")]
        // SAFETY: the handle is candle's, which nobody else uses here. The workspace is aligned to 256 bytes,
        // as all blocks of the driver's are, and used on the handle's stream only.
        let status = unsafe {
            let workspace = with_exposed_provenance_mut(workspace as usize);
            sys::cublasSetWorkspace_v2(handle, workspace, WORKSPACE_BYTES).result().and_then(|()| {
                // Without it cuBLAS may cut a sum into parts and round these to bfloat16 before it adds
                // them. Products in single precision stay so too: TF32 is another mode.
                let mode = sys::cublasMath_t::CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION;
                sys::cublasSetMathMode(handle, mode).result()
            })
        };
        status.map_err(|error| {
            DeviceError::Unavailable(format!("cuBLAS cannot be set up: {error}"))
        })?;
        Ok(Products { blas: Mutex::new(blas) })
    }

    /// Asks for products that are not empty. The context is bound to this thread.
    pub(super) fn multiply(&self, product: &BatchProduct) -> Result<(), DeviceError> {
        let call = Call::new(product)?;
        let blas = self.blas.lock().unwrap_or_else(PoisonError::into_inner);
        call.run(*blas.handle()).map_err(|error| {
            DeviceError::Failed(format!("cuBLAS refuses a product: {error}: {product:?}"))
        })
    }
}

/// A call of cuBLAS: `c_b = alpha * op(a_b) * op(b_b) + beta * c_b` of matrices stored by columns, of `m` x `k`,
/// `k` x `n` and `m` x `n` numbers.
///
/// Ours are stored by rows. The same numbers, read by columns, are the transpose, with the step between rows
/// as that between columns. So cuBLAS is asked for
///
/// ```text
/// to^T = right^T left^T      m = columns, n = rows, k = inner, a = right, b = left, c = to
/// ```
///
/// where a factor that lies there as it is is already the transpose that is wanted, and one that is stored
/// transposed has to be transposed by cuBLAS.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Call {
    m: c_int,
    n: c_int,
    k: c_int,
    alpha: f32,
    a: Matrix,
    b: Matrix,
    beta: f32,
    c: Matrix,
    batch: c_int,
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct Matrix {
    at: Address,
    kind: sys::cudaDataType,
    op: sys::cublasOperation_t,
    /// Numbers from one column to the next.
    leading: c_int,
    stride: c_longlong,
}

impl Call {
    fn new(product: &BatchProduct) -> Result<Call, DeviceError> {
        let BatchProduct { to, left, right, rows, columns, inner, .. } = *product;
        let is_known = match (left.kind, to.kind) {
            (Kind::Bf16, Kind::Bf16 | Kind::F32) | (Kind::F32, Kind::F32) => {
                left.kind == right.kind
            }
            _ => false,
        };
        if !is_known || to.is_transposed {
            return Err(DeviceError::Failed(format!("there is no such product: {product:?}")));
        }
        Ok(Call {
            m: small(columns, "columns")?,
            n: small(rows, "rows")?,
            k: small(inner, "columns of the left factor")?,
            alpha: product.scale,
            a: Matrix::new(right, inner, columns)?,
            b: Matrix::new(left, rows, inner)?,
            beta: if product.adds { 1.0 } else { 0.0 },
            c: Matrix::new(to, rows, columns)?,
            batch: small(product.batch, "matrices of a batch")?,
        })
    }

    fn run(&self, handle: sys::cublasHandle_t) -> Result<(), result::CublasError> {
        let Call { m, n, k, a, b, c, .. } = *self;
        let alpha = from_ref(&self.alpha).cast();
        let beta = from_ref(&self.beta).cast();
        let compute = sys::cublasComputeType_t::CUBLAS_COMPUTE_32F;
        let algorithm = sys::cublasGemmAlgo_t::CUBLAS_GEMM_DEFAULT;
        let [a_at, b_at] = [a.at, b.at].map(|at| with_exposed_provenance(at as usize));
        let c_at = with_exposed_provenance_mut(c.at as usize);
        #[expect(unsafe_code, reason = "a call of cuBLAS")]
        // SAFETY: the scales are read before the calls return, as they lie in the processor's memory, which
        // is the handle's mode; both are f32 for this way of computing. That the matrices are there is the
        // caller's promise.
        unsafe {
            if self.batch == 1 {
                // It knows more algorithms than the one for batches.
                result::gemm_ex(
                    handle, a.op, b.op, m, n, k, alpha, a_at, a.kind, a.leading, b_at, b.kind,
                    b.leading, beta, c_at, c.kind, c.leading, compute, algorithm,
                )
            } else {
                result::gemm_strided_batched_ex(
                    handle, a.op, b.op, m, n, k, alpha, a_at, a.kind, a.leading, a.stride, b_at,
                    b.kind, b.leading, b.stride, beta, c_at, c.kind, c.leading, c.stride,
                    self.batch, compute, algorithm,
                )
            }
        }
    }
}

impl Matrix {
    /// One of so many rows and columns.
    fn new(operand: Operand, rows: usize, columns: usize) -> Result<Matrix, DeviceError> {
        let (stored_rows, stored_columns) =
            if operand.is_transposed { (columns, rows) } else { (rows, columns) };
        // A single row has no step, but cuBLAS wants one that is long enough.
        let step = if stored_rows <= 1 { stored_columns } else { operand.step };
        if step < stored_columns {
            return Err(DeviceError::Failed(format!("rows overlap in {operand:?}")));
        }
        Ok(Matrix {
            at: operand.at,
            kind: match operand.kind {
                Kind::Bf16 => sys::cudaDataType::CUDA_R_16BF,
                Kind::F32 | Kind::U32 | Kind::I16 => sys::cudaDataType::CUDA_R_32F,
            },
            op: match operand.is_transposed {
                true => sys::cublasOperation_t::CUBLAS_OP_T,
                false => sys::cublasOperation_t::CUBLAS_OP_N,
            },
            leading: small(step, "numbers from row to row")?,
            stride: operand.stride as c_longlong,
        })
    }
}

/// A number as cuBLAS takes it.
fn small(number: usize, what: &str) -> Result<c_int, DeviceError> {
    c_int::try_from(number).map_err(|_| {
        DeviceError::Failed(format!(
            "a product has {number} {what}, but cuBLAS takes {}",
            c_int::MAX
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What cuBLAS does by its documentation, number by number, on matrices by columns. Addresses are places
    /// in the memory.
    fn as_documented(call: &Call, memory: &mut [f32]) {
        let at = |matrix: &Matrix, batch: c_int, row: c_int, column: c_int| {
            assert!(matrix.leading > 0 && row < matrix.leading, "{matrix:?}");
            let place = c_longlong::from(column) * c_longlong::from(matrix.leading)
                + c_longlong::from(row)
                + c_longlong::from(batch) * matrix.stride;
            (matrix.at as i64 + place) as usize
        };
        let factor = |matrix: &Matrix, batch, row, column| match matrix.op {
            sys::cublasOperation_t::CUBLAS_OP_T => at(matrix, batch, column, row),
            _ => at(matrix, batch, row, column),
        };
        for batch in 0..call.batch {
            for row in 0..call.m {
                for column in 0..call.n {
                    let sum: f32 = (0..call.k)
                        .map(|inner| {
                            memory[factor(&call.a, batch, row, inner)]
                                * memory[factor(&call.b, batch, inner, column)]
                        })
                        .sum();
                    let to = at(&call.c, batch, row, column);
                    memory[to] = call.alpha * sum + call.beta * memory[to];
                }
            }
        }
    }

    fn operand(at: usize, step: usize, is_transposed: bool, stride: usize) -> Operand {
        Operand { at: at as Address, kind: Kind::F32, step, is_transposed, stride }
    }

    /// `rows` x `columns`, as [`BatchProduct`] describes them.
    fn place(operand: &Operand, batch: usize, row: usize, column: usize) -> usize {
        let (row, column) = if operand.is_transposed { (column, row) } else { (row, column) };
        operand.at as usize + batch * operand.stride + row * operand.step + column
    }

    #[test]
    fn products_by_rows_become_products_by_columns() {
        let (rows, columns, inner, batch) = (3, 5, 4, 2);
        for (is_left_transposed, is_right_transposed) in
            [(false, false), (false, true), (true, false), (true, true)]
        {
            let left_step = if is_left_transposed { rows } else { inner } + 2;
            let right_step = if is_right_transposed { inner } else { columns } + 1;
            let product = BatchProduct {
                to: operand(200, columns + 3, false, 40),
                left: operand(0, left_step, is_left_transposed, 30),
                right: operand(100, right_step, is_right_transposed, 35),
                rows,
                columns,
                inner,
                scale: 0.5,
                adds: is_left_transposed,
                batch,
            };
            let memory: Vec<f32> = (0..300).map(|number| (number * 37 % 101) as f32).collect();
            let mut wanted = memory.clone();
            for b in 0..batch {
                for row in 0..rows {
                    for column in 0..columns {
                        let sum: f32 = (0..inner)
                            .map(|i| {
                                memory[place(&product.left, b, row, i)]
                                    * memory[place(&product.right, b, i, column)]
                            })
                            .sum();
                        let to = place(&product.to, b, row, column);
                        let old = if product.adds { memory[to] } else { 0.0 };
                        wanted[to] = product.scale * sum + old;
                    }
                }
            }
            let mut found = memory;
            as_documented(&Call::new(&product).expect("a product"), &mut found);
            assert_eq!(found, wanted, "{product:?}");
        }
    }

    #[test]
    fn single_rows_have_steps_that_are_long_enough() {
        let product = BatchProduct {
            to: operand(0, 1, false, 0),
            left: operand(10, 1, false, 0),
            right: operand(20, 7, true, 0),
            rows: 1,
            columns: 6,
            inner: 7,
            scale: 1.0,
            adds: false,
            batch: 1,
        };
        let call = Call::new(&product).expect("a product");
        assert_eq!([call.a.leading, call.b.leading, call.c.leading], [7, 7, 6]);
    }

    #[test]
    fn what_cublas_cannot_take_is_refused() {
        let matrix = operand(0, 8, false, 0);
        let good = BatchProduct {
            to: matrix,
            left: matrix,
            right: matrix,
            rows: 8,
            columns: 8,
            inner: 8,
            scale: 1.0,
            adds: false,
            batch: 1,
        };
        assert!(Call::new(&good).is_ok());
        let message = |product: BatchProduct| match Call::new(&product) {
            Err(DeviceError::Failed(message)) => message,
            other => panic!("{other:?}"),
        };
        let long = Operand { step: 1 << 31, ..matrix };
        assert_eq!(
            message(BatchProduct { left: long, ..good }),
            "a product has 2147483648 numbers from row to row, but cuBLAS takes 2147483647"
        );
        assert!(message(BatchProduct { columns: 9, ..good }).starts_with("rows overlap"));
        let bf16 = Operand { kind: Kind::Bf16, ..matrix };
        assert!(Call::new(&BatchProduct { left: bf16, right: bf16, ..good }).is_ok());
        let mixed = BatchProduct { left: bf16, ..good };
        assert!(message(mixed).starts_with("there is no such product"));
    }
}
