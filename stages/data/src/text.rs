//! Running text.

use serde::{Deserialize, Serialize};

use crate::DataError;
use crate::fit::{Fit, SourceFields};

/// A document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Text {
    /// Its text.
    pub text: String,
}

impl Fit for Text {
    const FIELDS: &'static [&'static str] = &["text"];

    fn fit(source: &mut SourceFields<'_>) -> Result<Text, DataError> {
        Ok(Text { text: source.text("text", &["text"])? })
    }
}
