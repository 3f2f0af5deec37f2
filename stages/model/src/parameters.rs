//! A model's numbers: every parameter by the name that it has in a checkpoint, and its gradient.
//!
//! Layers hold ids, not numbers. So one model can be read by many threads while it is run, changed in
//! place by an optimiser, and written back under the names that it was read by.

use crate::checkpoint::{Checkpoint, CheckpointError};

/// One parameter of a model.
#[derive(Debug, Clone, PartialEq)]
pub struct Parameter {
    /// As in the checkpoint: `transformer.h.0.mlp.dense_h_to_4h.weight`.
    pub name: String,
    /// Sizes, the last of them contiguous.
    pub shape: Vec<usize>,
    /// The numbers.
    pub values: Vec<f32>,
    /// Whether training changes it. What is not trained gets no gradient, and costs none.
    pub is_trained: bool,
}

/// Which parameter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ParameterId(usize);

impl ParameterId {
    /// Its place in the order of the parameters.
    pub(crate) fn number(self) -> usize {
        self.0
    }
}

/// All parameters of a model, in the order of its layers.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Parameters(Vec<Parameter>);

impl Parameters {
    /// Reads every tensor of a checkpoint that the model has, in the order of `tensors`.
    pub(crate) fn read(
        checkpoint: &Checkpoint,
        tensors: Vec<(String, Vec<usize>)>,
    ) -> Result<Parameters, CheckpointError> {
        let read = |(name, shape): (String, Vec<usize>)| {
            let values = checkpoint.read(&name)?;
            Ok(Parameter { name, shape, values, is_trained: true })
        };
        Ok(Parameters(tensors.into_iter().map(read).collect::<Result<_, CheckpointError>>()?))
    }

    /// Those of a model that has not been trained: `values` gives the numbers of each by its name
    /// and its shape.
    pub(crate) fn new(
        tensors: Vec<(String, Vec<usize>)>,
        mut values: impl FnMut(&str, &[usize]) -> Vec<f32>,
    ) -> Parameters {
        let parameter = |(name, shape): (String, Vec<usize>)| Parameter {
            values: values(&name, &shape),
            name,
            shape,
            is_trained: true,
        };
        Parameters(tensors.into_iter().map(parameter).collect())
    }

    /// Adds one at the end.
    pub(crate) fn push(&mut self, parameter: Parameter) -> ParameterId {
        self.0.push(parameter);
        ParameterId(self.0.len() - 1)
    }

    /// The one of a name.
    ///
    /// # Errors
    /// When there is none.
    pub fn id(&self, name: &str) -> Result<ParameterId, CheckpointError> {
        let place = self.0.iter().position(|parameter| parameter.name == name);
        place.map(ParameterId).ok_or_else(|| CheckpointError::Unknown(name.to_owned()))
    }

    /// One of them.
    pub fn get(&self, id: ParameterId) -> &Parameter {
        &self.0[id.0]
    }

    /// One of them, to be changed.
    pub(crate) fn get_mut(&mut self, id: ParameterId) -> &mut Parameter {
        &mut self.0[id.0]
    }

    /// Its numbers.
    pub(crate) fn values(&self, id: ParameterId) -> &[f32] {
        &self.0[id.0].values
    }

    pub(crate) fn values_mut(&mut self, id: ParameterId) -> &mut [f32] {
        &mut self.0[id.0].values
    }

    /// Takes the last ones away, as long as they are such.
    pub(crate) fn pop_while(&mut self, is_such: impl Fn(&Parameter) -> bool) {
        while self.0.last().is_some_and(&is_such) {
            self.0.pop();
        }
    }

    /// All of them.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Parameter> {
        self.0.iter()
    }

    /// All of them, to be changed.
    pub fn iter_mut(&mut self) -> impl ExactSizeIterator<Item = &mut Parameter> {
        self.0.iter_mut()
    }

    /// How many numbers they are.
    pub fn count(&self) -> usize {
        self.0.iter().map(|parameter| parameter.values.len()).sum()
    }
}

/// The gradient of a loss: as many numbers as each trained parameter has, and none for the others.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Gradients(Vec<Option<Vec<f32>>>);

impl Gradients {
    /// Zero for all that is trained.
    pub fn zeros(parameters: &Parameters) -> Gradients {
        let zeros =
            |parameter: &Parameter| parameter.is_trained.then(|| vec![0.0; parameter.values.len()]);
        Gradients(parameters.iter().map(zeros).collect())
    }

    /// Back to zero.
    pub fn clear(&mut self) {
        self.0.iter_mut().flatten().for_each(|gradient| gradient.fill(0.0));
    }

    /// The gradient of a parameter, if it is trained.
    pub fn get(&self, id: ParameterId) -> Option<&[f32]> {
        self.0[id.0].as_deref()
    }

    pub(crate) fn get_mut(&mut self, id: ParameterId) -> Option<&mut [f32]> {
        self.0[id.0].as_deref_mut()
    }

    pub(crate) fn has(&self, id: ParameterId) -> bool {
        self.0[id.0].is_some()
    }

    /// In the order of the parameters.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Option<&[f32]>> {
        self.0.iter().map(Option::as_deref)
    }

    /// In the order of the parameters, to be changed.
    pub fn iter_mut(&mut self) -> impl ExactSizeIterator<Item = Option<&mut [f32]>> {
        self.0.iter_mut().map(Option::as_deref_mut)
    }
}
