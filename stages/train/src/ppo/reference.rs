//! The model that the policy was: it keeps the policy from going too far.

use okapi_model::CausalLm;

/// What is trained of a model, as it was at the start. All else is shared: it never changes.
///
/// A reference model of its own would hold the frozen blocks and the embedding twice. So the trained
/// numbers change places with those of the start while the reference is asked, which copies none.
#[derive(Debug)]
pub(crate) struct Reference {
    /// In the order of the parameters; `None` for what is frozen.
    values: Vec<Option<Vec<f32>>>,
}

impl Reference {
    /// The model as it is.
    pub(crate) fn of(model: &CausalLm) -> Reference {
        let values = model.parameters().iter().map(|it| it.is_trained.then(|| it.values.clone()));
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
                std::mem::swap(&mut parameter.values, values);
            }
        }
    }
}
