"""What is known of a network from the run that trained it."""

import pandas as pd
import pytest

from bnrepro.comparison.restored import network_ends
from bnrepro.records import Run
from bnrepro.training.checkpoints import CheckpointError


def ends(workdir, config=(), **recorded):
    run = Run(workdir, {}, pd.DataFrame(), {"classes": 3, **recorded})
    example, classes = network_ends(run, {"image_size": 0, "digits": 1, **dict(config)})
    return example.shape, classes


@pytest.mark.parametrize(
    ("config", "image_shape", "expected"),
    [
        ({}, [4, 6, 2], ((1, 4, 6, 2), 3)),
        ({"digits": 2}, [4, 6, 2], ((1, 4, 12, 2), 9)),
        ({"image_size": 5}, [None, None, 2], ((1, 5, 5, 2), 3)),
    ],
)
def test_input_and_classes_are_those_of_the_data_and_the_config(
    tmp_path, config, image_shape, expected
):
    assert ends(tmp_path, config, image_shape=image_shape) == expected


def test_a_run_that_is_older_than_the_record_of_them_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="before the shape of images was recorded"):
        ends(tmp_path)
