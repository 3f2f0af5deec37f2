//! A head that reads one number from a state: `w . h`, without a bias.

use crate::array::Array;
use crate::functions::{sum_of, wide};
use crate::parameters::{Gradients, ParameterId, Parameters};

/// Where a head's weight is among the parameters of the model that it stands on.
///
/// It can be copied, so that a loss holds it while a training changes the parameters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScalarHead {
    /// One row of `width` numbers.
    weight: ParameterId,
    width: usize,
}

impl ScalarHead {
    pub(crate) fn new(weight: ParameterId, width: usize) -> ScalarHead {
        ScalarHead { weight, width }
    }

    /// Its weight.
    pub fn weight(&self) -> ParameterId {
        self.weight
    }

    /// The numbers of some rows of states, in double precision.
    ///
    /// # Shapes
    /// `states`: `[T, C]`, as of [`Forward::states`](crate::Forward::states); one number for each of `rows`.
    ///
    /// # Panics
    /// When there is no such row.
    pub fn read(&self, parameters: &Parameters, states: &Array, rows: &[usize]) -> Vec<f64> {
        let weight = parameters.values(self.weight);
        let product = |x, w| f64::from(x) * f64::from(w);
        let read = states.rows(self.width, rows); // [R, C]
        read.chunks_exact(self.width).map(|row| wide!(sum_of(row, weight, product))).collect()
    }

    /// Adds to the gradients of the weight and of the states, given that of each number that was read.
    ///
    /// # Shapes
    /// `states` and their gradient: `[T, C]`; `grades`: a number for each of `rows`.
    ///
    /// # Panics
    /// When there is no such row.
    pub fn backward(
        &self,
        parameters: &Parameters,
        gradients: &mut Gradients,
        (states, d_states): (&Array, &mut Array),
        rows: &[usize],
        grades: &[f64],
    ) {
        let weight = parameters.values(self.weight);
        let mut d_weight = vec![0.0; self.width]; // [C]
        let read = states.rows(self.width, rows); // [R, C]
        for (row, &grade) in read.chunks_exact(self.width).zip(grades) {
            for (d, x) in d_weight.iter_mut().zip(row) {
                *d += grade * f64::from(*x);
            }
        }
        let graded = |grade: &f64| weight.iter().map(|w| (grade * f64::from(*w)) as f32).collect();
        let d_read: Vec<Vec<f32>> = grades.iter().map(graded).collect();
        d_states.add_host_rows(self.width, rows, d_read.concat());
        if let Some(gradient) = gradients.host_mut(self.weight) {
            gradient.iter_mut().zip(&d_weight).for_each(|(to, d)| *to += *d as f32);
        }
    }
}
