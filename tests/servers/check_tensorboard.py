"""The scalars of an event file as TensorBoard itself reads them.

    python3 -m venv venv && venv/bin/pip install tensorboard
    venv/bin/python tests/servers/check_tensorboard.py events.out.tfevents.okapi

Prints a JSON line {"tag", "step", "value"} for each, tag by tag, in the order of the file. Exits with 1
if TensorBoard would not find the file, or does not read all of it.
"""

import json
import pathlib
import sys

from tensorboard.backend.event_processing import event_accumulator, io_wrapper
from tensorboard.compat.tensorflow_stub import errors, pywrap_tensorflow


def read_to_the_end(path: pathlib.Path) -> None:
    """The accumulator stops without a word at a record that is damaged or cut; this tells."""
    reader = pywrap_tensorflow.PyRecordReader_New(str(path))
    try:
        while True:
            reader.GetNext()
    except errors.OutOfRangeError:
        pass
    except errors.DataLossError as error:
        sys.exit(error.message)


def main(path: pathlib.Path) -> None:
    if not io_wrapper.IsSummaryEventsFile(str(path)):
        sys.exit(f"{path}: TensorBoard looks only at files with `tfevents` in their names")
    read_to_the_end(path)
    # 0: without leaving any out.
    everything = {event_accumulator.SCALARS: 0}
    run = event_accumulator.EventAccumulator(str(path), size_guidance=everything).Reload()
    assert run.file_version == 2, run.file_version
    for tag in sorted(run.Tags()["scalars"]):
        for event in run.Scalars(tag):
            print(json.dumps({"tag": tag, "step": event.step, "value": event.value}))


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
