//! The model that the policy was: it keeps the policy from going too far.

use okapi_device::DeviceArray;
use okapi_model::{CausalLm, Parameter};

/// What is trained of a model, as it was at the start. All else is shared: it never changes.
///
/// A reference model of its own would hold the frozen blocks and the embedding twice. So the trained
/// numbers change places with those of the start while the reference is asked, which copies none.
#[derive(Debug)]
pub(crate) struct Reference {
    /// In the order of the parameters; `None` for what is frozen.
    values: Vec<Option<Start>>,
}

/// A parameter's numbers at the start, where they are computed with.
#[derive(Debug)]
struct Start {
    values: Vec<f32>,
    /// On a GPU. What the optimiser keeps beside them is no concern of the reference.
    weights: Option<DeviceArray>,
}

impl Start {
    fn of(parameter: &Parameter) -> Start {
        let weights = parameter.on_device.as_ref().map(|there| there.weights.copy());
        Start { values: parameter.values.clone(), weights }
    }
}

impl Reference {
    /// The model as it is.
    pub(crate) fn of(model: &CausalLm) -> Reference {
        let values = model.parameters().iter().map(|it| it.is_trained.then(|| Start::of(it)));
        Reference { values: values.collect() }
    }

    /// Asks the model as it was.
    pub(crate) fn ask<T>(
        &mut self,
        model: &mut CausalLm,
        question: impl FnOnce(&CausalLm) -> T,
    ) -> T {
        self.swap(model);
        let answer = question(model);
        self.swap(model);
        answer
    }

    fn swap(&mut self, model: &mut CausalLm) {
        for (parameter, values) in model.parameters_mut().iter_mut().zip(&mut self.values) {
            if let Some(values) = values {
                std::mem::swap(&mut parameter.values, &mut values.values);
                if let (Some(there), Some(start)) = (&mut parameter.on_device, &mut values.weights)
                {
                    std::mem::swap(&mut there.weights, start);
                }
            }
        }
    }
}
