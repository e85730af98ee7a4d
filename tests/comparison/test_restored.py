"""What is known of a network from the run that trained it."""

import pandas as pd
import pytest

from bnrepro.comparison.restored import network_ends
from bnrepro.data.datasets import DatasetError
from bnrepro.records import Run
from bnrepro.training.checkpoints import CheckpointError

RECORDED = {"dataset": "small/1.0.0", "classes": 3, "image_shape": [4, 6, 2]}
CONFIG = {"data_dir": "", "image_size": 0, "digits": 1}


def ends(tmp_path, provenance, **changes):
    run = Run(tmp_path, {}, pd.DataFrame(), provenance)
    example, classes = network_ends(run, CONFIG | changes)
    return example.shape, classes


@pytest.mark.parametrize(
    ("provenance", "changes", "expected"),
    [
        (RECORDED, {}, ((1, 4, 6, 2), 3)),
        (RECORDED, {"digits": 2}, ((1, 4, 12, 2), 9)),
        (RECORDED | {"image_shape": [None, None, 2]}, {"image_size": 5}, ((1, 5, 5, 2), 3)),
        ({"dataset": "mnist/3.0.1"}, {}, ((1, 28, 28, 1), 10)),  # older than the record
    ],
)
def test_input_and_classes_are_those_of_the_data_and_the_config(
    tmp_path, provenance, changes, expected
):
    assert ends(tmp_path, provenance, **changes) == expected


def test_an_older_run_on_data_that_are_not_there_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="does not record the shape of its images") as refused:
        ends(tmp_path, {"dataset": "small/1.0.0"}, data_dir=str(tmp_path))
    assert isinstance(refused.value.__cause__, DatasetError)
