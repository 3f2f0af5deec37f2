//! `okapi schema`.

use crate::exit_code::ExitCode;
use crate::failure::Failure;
use crate::ui::output;

/// Prints the JSON Schema of pipeline files.
pub(crate) fn schema() -> Result<ExitCode, Failure> {
    output::print_json(&okapi_engine::spec::schema::schema(&okapi_stages::registry()))?;
    Ok(ExitCode::Done)
}
