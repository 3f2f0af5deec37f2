//! A model's numbers: every parameter by the name that it has in a checkpoint, and its gradient.
//!
//! Layers hold ids, not numbers. So one model can be read by many threads while it is run, changed in
//! place by an optimiser, and written back under the names that it was read by.

use std::borrow::Cow;

use okapi_device::random::fill_normal;
use okapi_device::{Device, DeviceArray, Kind};

use crate::array::{APART, Array};
use crate::causal_lm::INITIAL_DEVIATION;
use crate::checkpoint::{Checkpoint, CheckpointError};

/// One parameter of a model.
#[derive(Debug, Clone)]
pub struct Parameter {
    /// As in the checkpoint: `transformer.h.0.mlp.dense_h_to_4h.weight`.
    pub name: String,
    /// Sizes, the last of them contiguous.
    pub shape: Vec<usize>,
    /// The numbers. While they are on a GPU, those that are frozen and will come back stay here too, as a GPU may
    /// round them; the others are not.
    pub values: Vec<f32>,
    /// The numbers, while they are on a GPU.
    pub on_device: Option<DeviceValues>,
    /// Whether training changes it. What is not trained gets no gradient, and costs none.
    pub is_trained: bool,
}

/// A parameter's numbers in a GPU's memory.
#[derive(Debug, Clone)]
pub struct DeviceValues {
    /// What is computed with.
    pub weights: DeviceArray,
    /// Where that is in half precision and is trained: what it lacks to single precision, which is what an
    /// optimiser moves.
    pub lows: Option<DeviceArray>,
}

impl Parameter {
    /// One that is trained, in the processor's memory.
    pub fn new(name: String, shape: Vec<usize>, values: Vec<f32>) -> Parameter {
        Parameter { name, shape, values, on_device: None, is_trained: true }
    }

    /// How many numbers.
    pub fn count(&self) -> usize {
        self.shape.iter().product()
    }

    /// The numbers, brought to the processor if they are not there.
    pub fn read(&self) -> Cow<'_, [f32]> {
        match &self.on_device {
            None => Cow::Borrowed(&self.values),
            Some(_) if !self.values.is_empty() => Cow::Borrowed(&self.values),
            Some(DeviceValues { weights, lows: None }) => Cow::Owned(weights.read()),
            Some(DeviceValues { weights, lows: Some(lows) }) => {
                Cow::Owned(okapi_device::adamw::joined(weights, lows))
            }
        }
    }

    /// Other numbers, wherever they are.
    pub fn write(&mut self, values: Vec<f32>) {
        // Those that are there go first: both together may be too much for a GPU.
        let Some(DeviceValues { weights, lows }) = self.on_device.take() else {
            self.values = values;
            return;
        };
        let (device, kind, has_lows) = (weights.device().clone(), weights.kind(), lows.is_some());
        drop((weights, lows));
        self.on_device = Some(DeviceValues::new(&device, kind, &values, has_lows));
        if !self.values.is_empty() {
            self.values = values;
        }
    }
}

impl Parameter {
    /// Numbers in single precision, brought to where this one's are: what an optimiser keeps.
    pub fn beside(&self, numbers: Vec<f32>) -> Array {
        match &self.on_device {
            None => Array::Host(numbers),
            Some(there) => {
                Array::Device(DeviceArray::new(there.weights.device(), Kind::F32, &numbers))
            }
        }
    }

    /// As many zeros in single precision, in the same memory: a gradient, or what an optimiser keeps.
    pub fn zeros(&self) -> Array {
        match &self.on_device {
            None => Array::Host(vec![0.0; self.values.len()]),
            Some(there) => {
                let device = there.weights.device();
                Array::Device(DeviceArray::zeros(device, Kind::F32, there.weights.len()))
            }
        }
    }
}

impl DeviceValues {
    fn new(device: &Device, kind: Kind, values: &[f32], keeps_lows: bool) -> DeviceValues {
        if keeps_lows && kind == Kind::Bf16 {
            let (weights, lows) = okapi_device::adamw::split(device, values);
            return DeviceValues { weights, lows: Some(lows) };
        }
        DeviceValues { weights: DeviceArray::new(device, kind, values), lows: None }
    }
}

/// The same numbers, wherever they are.
impl PartialEq for Parameter {
    fn eq(&self, other: &Parameter) -> bool {
        let is_same = (&self.name, &self.shape, self.is_trained)
            == (&other.name, &other.shape, other.is_trained);
        is_same && self.read() == other.read()
    }
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
            Ok(Parameter::new(name, shape, values))
        };
        Ok(Parameters(tensors.into_iter().map(read).collect::<Result<_, CheckpointError>>()?))
    }

    /// Those of a model that has not been trained: `values` gives the numbers of each by its name
    /// and its shape.
    pub(crate) fn new(
        tensors: Vec<(String, Vec<usize>)>,
        mut values: impl FnMut(&str, &[usize]) -> Vec<f32>,
    ) -> Parameters {
        let parameter = |(name, shape): (String, Vec<usize>)| {
            let values = values(&name, &shape);
            Parameter::new(name, shape, values)
        };
        Parameters(tensors.into_iter().map(parameter).collect())
    }

    /// The same on a GPU, drawn there.
    pub(crate) fn new_on_device(
        tensors: Vec<(String, Vec<usize>)>,
        device: &Device,
        kind: Kind,
        is_trained: bool,
        seed: u64,
    ) -> Parameters {
        let parameter = |(number, (name, shape)): (usize, (String, Vec<usize>))| {
            let count = shape.iter().product();
            let mut weights = match shape.len() {
                1 if name.ends_with(".bias") => DeviceArray::zeros(device, kind, count),
                1 => DeviceArray::new(device, kind, &vec![1.0; count]),
                _ => DeviceArray::zeros(device, kind, count),
            };
            if shape.len() > 1 {
                let seed = seed ^ (number as u64) << 32;
                fill_normal(&mut weights, INITIAL_DEVIATION as f32, seed);
            }
            let has_lows = is_trained && kind == Kind::Bf16;
            let lows = has_lows.then(|| DeviceArray::zeros(device, Kind::I16, count));
            let on_device = Some(DeviceValues { weights, lows });
            Parameter { on_device, is_trained, ..Parameter::new(name, shape, Vec::new()) }
        };
        Parameters(tensors.into_iter().enumerate().map(parameter).collect())
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

    /// Its numbers, where the processor computes.
    pub(crate) fn values(&self, id: ParameterId) -> &[f32] {
        &self.0[id.0].values
    }

    /// Its numbers, where a GPU computes.
    pub(crate) fn on_device(&self, id: ParameterId) -> &DeviceArray {
        &self.0[id.0].on_device.as_ref().expect(APART).weights
    }

    /// Brings numbers to a GPU. In half precision what is trained has beside it what that lacks; what is frozen
    /// stays here too if it is to come back.
    pub(crate) fn move_to_device(
        &mut self,
        device: &Device,
        kind: Kind,
        comes_back: bool,
        is_there: impl Fn(&str) -> bool,
    ) {
        for parameter in self.0.iter_mut().filter(|it| it.on_device.is_none() && is_there(&it.name))
        {
            let is_trained = parameter.is_trained;
            let there = DeviceValues::new(device, kind, &parameter.values, is_trained);
            parameter.on_device = Some(there);
            if is_trained || !comes_back || kind == Kind::F32 {
                parameter.values = Vec::new();
            }
        }
    }

    /// Brings all numbers back to the processor.
    pub(crate) fn move_to_host(&mut self) {
        for parameter in &mut self.0 {
            if parameter.values.is_empty() {
                parameter.values = parameter.read().into_owned();
            }
            parameter.on_device = None;
        }
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
        self.0.iter().map(Parameter::count).sum()
    }
}

/// The gradient of a loss: as many numbers as each trained parameter has, and none for the others.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Gradients(Vec<Option<Array>>);

impl Gradients {
    /// Zero for all that is trained.
    pub fn zeros(parameters: &Parameters) -> Gradients {
        let zeros = |it: &Parameter| it.is_trained.then(|| it.zeros());
        Gradients(parameters.iter().map(zeros).collect())
    }

    /// Back to zero.
    pub fn clear(&mut self) {
        self.0.iter_mut().flatten().for_each(Array::clear);
    }

    /// The gradient of a parameter, if it is trained.
    pub fn get(&self, id: ParameterId) -> Option<&Array> {
        self.0[id.0].as_ref()
    }

    pub(crate) fn get_mut(&mut self, id: ParameterId) -> Option<&mut Array> {
        self.0[id.0].as_mut()
    }

    /// That of one that the processor holds, to be added to.
    pub(crate) fn host_mut(&mut self, id: ParameterId) -> Option<&mut [f32]> {
        self.get_mut(id).map(Array::host_mut)
    }

    /// That of one that a GPU holds, to be added to.
    pub(crate) fn device_mut(&mut self, id: ParameterId) -> Option<&mut DeviceArray> {
        self.get_mut(id).map(Array::device_mut)
    }

    /// Those of two different ones that a GPU holds.
    pub(crate) fn two_device_mut(
        &mut self,
        ids: [Option<ParameterId>; 2],
    ) -> [Option<&mut DeviceArray>; 2] {
        let mut found = [None, None];
        for (place, gradient) in self.0.iter_mut().enumerate() {
            let which = ids.iter().position(|id| id.is_some_and(|id| id.0 == place));
            if let (Some(which), Some(gradient)) = (which, gradient.as_mut()) {
                found[which] = Some(gradient.device_mut());
            }
        }
        found
    }

    pub(crate) fn has(&self, id: ParameterId) -> bool {
        self.0[id.0].is_some()
    }

    /// In the order of the parameters.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Option<&Array>> {
        self.0.iter().map(Option::as_ref)
    }

    /// In the order of the parameters, to be changed.
    pub fn iter_mut(&mut self) -> impl ExactSizeIterator<Item = Option<&mut Array>> {
        self.0.iter_mut().map(Option::as_mut)
    }
}
