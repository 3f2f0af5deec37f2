//! The learning rate at each step, as `transformers` computes it.

/// How the rate falls after the warm-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Schedule {
    /// Half a cosine, down to zero.
    Cosine,
    /// In a line, down to zero.
    Linear,
    /// Not at all.
    Constant,
}

/// A learning rate that rises in a line to its peak, and falls from there.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LearningRate {
    /// The highest.
    pub peak: f64,
    /// Steps until it is reached.
    pub warmup: u64,
    /// Steps in all.
    pub total: u64,
    /// What comes after.
    pub schedule: Schedule,
}

impl LearningRate {
    /// The rate of a step, from 0. The first is 0 if there is a warm-up.
    pub fn at(&self, step: u64) -> f64 {
        if step < self.warmup {
            return self.peak * step as f64 / self.warmup as f64;
        }
        let length = self.total.saturating_sub(self.warmup).max(1) as f64;
        let progress = (step - self.warmup) as f64 / length;
        let factor = match self.schedule {
            Schedule::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * progress).cos()),
            Schedule::Linear => 1.0 - progress,
            Schedule::Constant => 1.0,
        };
        self.peak * factor.max(0.0)
    }
}
