"""A config trained as it is, without its variants."""

from bnrepro.comparison import run as run_module
from bnrepro.comparison.config import with_settings
from bnrepro.records import read_run
from configs import small_batch
from experiments import single
from tests.small_dataset import small_dataset


def test_a_config_is_trained_alone_with_its_common_settings(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(run_module, "load_dataset", lambda name, data_dir: small_dataset())
    config = small_batch.get_config().to_dict()
    config |= {"seeds": 2, "steps": 20, "eval_every": 10, "batch_size": 12, "microbatch_size": 6}
    config = with_settings(config, {"model.hidden": (4,), "normalizer.name": "batch_renorm"})
    single.main(single.alone(config), tmp_path, False, [])
    run = read_run(tmp_path)
    assert run.variants == ["single"]
    assert run.settings("single")["normalizer.name"] == "batch_renorm"
    assert (tmp_path / "figures" / "accuracy.png").exists()
    shown = capsys.readouterr().out
    assert "final, %" in shown
    assert "final − single" not in shown
