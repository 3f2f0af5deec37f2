"""Reads data sets that okapi has made by their croissant.json, with a program that okapi's authors did not write.

    pip install mlcroissant==1.1.1
    okapi run tests/croissant/kinds.yaml
    python3 tests/croissant/check.py results/kinds/*

Of each folder: `mlcroissant validate` accepts the description; every record that is loaded with it is the row of the
file, member for member, and no member is left out; a file with one bit flipped is refused. What the validator misses
is said and is no fault: nobody but an author knows it.

mlcroissant reads JSON lines with pandas, which takes a column of nothing but numerals for numbers, so that a text
"01" comes out as "1". No description prevents that; rows for this check have other ids.
"""

import json
import pathlib
import shutil
import subprocess
import sys
import tempfile

import mlcroissant

# The same program, whatever else is on the path.
COMMAND = pathlib.Path(sys.executable).parent / "mlcroissant"


def plain(value):
    """A loaded value as JSON has it; what is absent is None."""
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, list):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        inner = {key.rsplit("/", 1)[1]: plain(item) for key, item in value.items()}
        return inner if any(item is not None for item in inner.values()) else None
    return value


def check(folder: pathlib.Path) -> None:
    description = folder / "croissant.json"
    said = subprocess.run([COMMAND, "validate", "--jsonld", description], capture_output=True, text=True)
    assert said.returncode == 0, f"{folder}: {said.stderr}"
    missed = [line.split('"')[1] for line in said.stderr.splitlines() if "is recommended" in line]

    whole = json.loads(description.read_text())
    names = [record_set["name"] for record_set in whole["recordSet"]]
    dataset = mlcroissant.Dataset(description)
    count = 0
    for name in names:
        file = folder / "data" / f"{name}.jsonl"
        rows = [json.loads(line) for line in file.read_text().split("\n") if line.strip()]
        records = list(dataset.records(name))
        assert len(records) == len(rows), f"{file}: {len(records)} records of {len(rows)} rows"
        for row, record in zip(rows, records):
            found = {key.split("/", 1)[1]: plain(value) for key, value in record.items()}
            wanted = {key: row.get(key) for key in found | row}
            assert found == wanted, f"{file}:\n{found}\n{wanted}"
            count += 1
    empty = [file.stem for file in folder.glob("data/*.jsonl") if not file.read_text().strip()]
    files = {file.stem for file in folder.glob("data/*.jsonl")}
    assert set(names) | set(empty) == files, f"{folder}: {names} of {sorted(files)}"

    with tempfile.TemporaryDirectory() as scratch:
        copy = pathlib.Path(scratch) / "copy"
        shutil.copytree(folder, copy, copy_function=shutil.copyfile)
        damaged = copy / "data" / f"{names[0]}.jsonl"
        content = bytearray(damaged.read_bytes())
        # A letter of the last text: the rows are still JSON, and as many.
        content[content.rindex(b'"') - 1] ^= 1
        damaged.write_bytes(content)
        try:
            list(mlcroissant.Dataset(copy / "croissant.json").records(names[0]))
        except Exception as error:
            assert "is not identical" in f"{error} {error.__cause__}", repr(error)
        else:
            raise AssertionError(f"{folder}: a damaged file was loaded")
    print(f"{folder}: {len(names)} record sets, {count} records; not given: {', '.join(missed) or 'nothing'}")


for argument in sys.argv[1:]:
    check(pathlib.Path(argument))
