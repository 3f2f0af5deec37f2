//! Every diagnostic code, with one line on what it means. Codes are stable: scripts match on them.

/// Code and meaning, sorted by code.
pub const CODES: &[(&str, &str)] = &[
    ("alias", "a YAML alias that is unknown, refers to itself, or is expanded too often"),
    ("ambiguous-port", "a node with several outputs is read without saying which"),
    ("bad-name", "a name with characters that names cannot have"),
    ("bad-override", "a `--set` that cannot be read or that names nothing"),
    ("bad-prompt", "a prompt file that its stage cannot use"),
    ("bad-reference", "a `${...}` or an input reference that cannot be read"),
    ("bad-value", "a value of the right type that is out of bounds or has no meaning"),
    ("cycle", "nodes that need each other"),
    ("duplicate-instance", "two instances of a node would have the same name"),
    ("duplicate-key", "a key that stands twice in one mapping"),
    ("empty", "a pipeline file without content"),
    ("empty-for-each", "an axis without values"),
    ("gathers", "a port that takes one artifact is fed by several instances"),
    ("kind-mismatch", "an output feeds a port that does not take its kind"),
    ("missing-file", "a tracked file or folder that is not there"),
    ("missing-input", "a required input port that nothing feeds"),
    ("missing-key", "a key that must be given"),
    ("missing-param", "a param that must be given"),
    ("missing-prompt", "a prompt that must be given"),
    ("not-utf8", "bytes that are not UTF-8"),
    ("number-trap", "text that looks like a number of another YAML version"),
    ("outside-project", "a path that leaves the project"),
    ("publish-conflict", "a publish destination that clashes with something"),
    ("several-documents", "more than one YAML document in a pipeline file"),
    ("stage", "what a stage itself has to say about its node"),
    ("syntax", "text that is not YAML"),
    ("tab", "a tab used for indentation"),
    ("tag", "a YAML tag that means nothing here"),
    ("too-large", "a file or expansion beyond the limits"),
    ("undeclared-read", "a script that names the project's folder by its absolute path"),
    ("unknown-axis", "an axis that a node does not have"),
    ("unknown-instance", "an axis value that a node does not have"),
    ("unknown-key", "a key that has no meaning in its place"),
    ("unknown-node", "a node that does not exist"),
    ("unknown-param", "a param that the stage or teacher does not have"),
    ("unknown-port", "a port that a node does not have"),
    ("unknown-profile", "a profile that does not exist"),
    ("unknown-prompt", "a prompt that the stage does not have"),
    ("unknown-stage", "a stage that does not exist"),
    ("unknown-teacher", "a teacher, or a kind of teacher, that does not exist"),
    ("unknown-variable", "a variable that does not exist"),
    ("unreadable", "a pipeline file that is missing or cannot be read"),
    ("unused-field", "a node field that the stage does not take"),
    ("variable-cycle", "variables that refer to each other in a circle"),
    ("version", "a format version that this okapi does not read"),
    ("wrong-type", "a value of another type than wanted"),
];

/// What a code means.
pub fn meaning(code: &str) -> Option<&'static str> {
    let position = CODES.binary_search_by_key(&code, |(code, _)| code).ok()?;
    Some(CODES[position].1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sorted_and_unique() {
        assert!(CODES.is_sorted_by(|one, next| one.0 < next.0));
        assert_eq!(meaning("cycle"), Some("nodes that need each other"));
        assert_eq!(meaning("nonsense"), None);
    }
}
