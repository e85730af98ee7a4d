"""Networks of few blocks, for what does not depend on their number."""

import pytest

from bnrepro.models import inception, resnet


@pytest.fixture
def shallow(monkeypatch):
    """Networks that are traced and compiled sooner.

    ResNets have one bottleneck, conv2_1; Inceptions have both blocks that halve the grid, and the
    one that the auxiliary head follows.
    """
    blocks = {name: inception.BLOCKS[name] for name in ("mixed_3", "mixed_7", "mixed_8")}
    monkeypatch.setattr(inception, "BLOCKS", blocks)
    monkeypatch.setattr(resnet, "BLOCKS", (1,))
