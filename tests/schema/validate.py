"""Validates pipeline files with a JSON Schema validator that okapi's authors did not write.

Usage: validate.py SCHEMA PIPELINE... [--rejects PIPELINE...]

Every PIPELINE must be valid; every one after --rejects must not be. YAML is read by the rules of
YAML 1.2: `no` is a word, `true` and `false` are the only truth values.
"""

import json
import re
import sys

import jsonschema
import yaml


class Loader(yaml.SafeLoader):
    """PyYAML with the truth values and floats of YAML 1.2."""


Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers
            if tag not in ("tag:yaml.org,2002:bool", "tag:yaml.org,2002:float", "tag:yaml.org,2002:timestamp")]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"^(?:true|false)$"), list("tf"))
Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?$"), list("-+.0123456789"))


def main():
    schema_path, *rest = sys.argv[1:]
    split = rest.index("--rejects") if "--rejects" in rest else len(rest)
    with open(schema_path, encoding="utf-8") as file:
        schema = json.load(file)
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    faults = 0
    for position, path in enumerate(rest):
        if path == "--rejects":
            continue
        with open(path, encoding="utf-8") as file:
            errors = list(validator.iter_errors(yaml.load(file, Loader)))
        expected = position > split
        if bool(errors) != expected:
            faults += 1
            print(f"{path}: {'accepted, but must be rejected' if expected else errors[0].message}")
            for error in errors[:3]:
                print(f"    at {error.json_path}: {error.message[:200]}")
    print(f"schema: {len(rest) - faults - ('--rejects' in rest)} files as expected, {faults} not")
    return 1 if faults else 0


sys.exit(main())
