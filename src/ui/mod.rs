//! How okapi talks to people.

pub(crate) mod audit;
pub(crate) mod bill;
pub(crate) mod change;
pub(crate) mod color;
pub(crate) mod format;
pub(crate) mod indent_json;
pub(crate) mod logging;
pub(crate) mod output;
pub(crate) mod progress;
pub(crate) mod run_diff;
pub(crate) mod table;
pub(crate) mod terminal;
