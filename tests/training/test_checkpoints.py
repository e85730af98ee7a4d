"""What is saved comes back; what is damaged is found out."""

import logging
import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bnrepro.training import checkpoints as checkpoints_module
from bnrepro.training.checkpoints import (
    CheckpointError,
    Checkpoints,
    find_damage,
    saved_steps,
)


def states(step):
    return {
        "step": jnp.full(2, step),
        "params": {"kernel": jnp.arange(6.0).reshape(2, 3) + step},
        "empty": {},
        "key": jax.random.split(jax.random.key(step)),
    }


def abstract(*_):
    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), states(0)
    )


def notes(step):
    return {"rows": [["plain", 0, step, "test", "accuracy", 0.1 + step]], "nothing": float("nan")}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Steps 1 to 5 were saved; 2 has the best score."""
    folder = tmp_path_factory.mktemp("checkpoints") / "plain"
    checkpoints = Checkpoints(folder, keep=2)
    assert checkpoints.restore(abstract) is None
    for step, score in enumerate((0.5, 0.9, 0.7, 0.8, 0.6), start=1):
        checkpoints.save(step, states(step), notes(step), score)
    checkpoints.close()
    return folder


@pytest.fixture
def folder(written, tmp_path):
    return shutil.copytree(written, tmp_path / "plain")


def restore(folder):
    return Checkpoints(folder, keep=2).restore(abstract)


def restore_and_save(folder, keep):
    """Restores the newest, and saves one of step 6."""
    checkpoints = Checkpoints(folder, keep=keep)
    _, restored, said = checkpoints.restore(abstract)
    checkpoints.save(6, restored, said, 0.1)
    checkpoints.close()


def test_the_last_two_and_the_best_are_kept_with_their_checksums(written):
    assert sorted(saved_steps(written)) == [2, 4, 5]
    assert sorted(path.name for path in written.glob("*.json")) == ["2.json", "4.json", "5.json"]
    assert all(find_damage(written, step) is None for step in (2, 4, 5))


def test_states_and_notes_come_back_to_the_last_bit(written):
    step, restored, said = restore(written)
    assert step == 5
    expected = states(5)
    keys = (jax.random.key_data(tree.pop("key")) for tree in (restored, expected))
    np.testing.assert_array_equal(*keys)
    jax.tree.map(np.testing.assert_array_equal, restored, expected)
    assert said["rows"] == notes(5)["rows"]
    assert np.isnan(said["nothing"])


def test_saving_continues_after_restoring(folder):
    restore_and_save(folder, keep=2)
    # 2 is still the best, 4 is no longer among the last two.
    assert sorted(saved_steps(folder)) == [2, 5, 6]
    assert restore(folder)[0] == 6


def test_none_is_removed_before_a_newer_one_has_its_checksums(folder, monkeypatch):
    checkpoints = Checkpoints(folder, keep=1)
    _, restored, said = checkpoints.restore(abstract)

    def fail(path):
        raise OSError("the disk is gone")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints_module, "checksums", fail)
        checkpoints.save(6, restored, said, 0.1)
        with pytest.raises(CheckpointError, match="the disk is gone"):
            checkpoints.close()
    assert restore(folder)[0] == 5


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def files(folder, step):
    return sorted(path for path in (folder / str(step)).rglob("*") if path.is_file())


@pytest.mark.parametrize("damage", [flip, Path.unlink])
def test_damage_to_any_file_is_found_and_the_checkpoint_before_is_taken(folder, caplog, damage):
    damaged = max(files(folder, 5), key=lambda path: path.stat().st_size)
    damage(damaged)
    assert damaged.name in find_damage(folder, 5)
    with caplog.at_level(logging.WARNING):
        assert restore(folder)[0] == 4
    assert "is damaged" in caplog.text
    assert "resuming from step 4" in caplog.text
    assert sorted(saved_steps(folder)) == [2, 4]


def test_every_file_of_a_checkpoint_is_watched(folder):
    count = len(files(folder, 5))
    for i in range(count):
        path = files(folder, 5)[i]
        content = path.read_bytes()
        path.write_bytes(content + b" ")
        assert find_damage(folder, 5), path
        path.write_bytes(content)
    assert count > 5
    assert find_damage(folder, 5) is None


def test_where_all_are_damaged_that_is_said_and_nothing_is_removed(folder):
    for step in saved_steps(folder):
        flip(files(folder, step)[0])
    with pytest.raises(
        CheckpointError, match=r"none of the 3 checkpoints .* --overwrite"
    ) as raised:
        restore(folder)
    assert "\n" not in str(raised.value)
    assert sorted(saved_steps(folder)) == [2, 4, 5]


def test_an_older_one_without_a_readable_signature_does_not_stop_saving(folder):
    (folder / "2.json").write_text("{")
    restore_and_save(folder, keep=2)
    # 4 has the best score of those that can be read.
    assert sorted(saved_steps(folder)) == [4, 5, 6]


def test_one_that_was_not_completed_is_passed_over_in_silence(folder, caplog):
    (folder / "5.json").unlink()
    assert restore(folder)[0] == 4
    assert caplog.text == ""
    assert 5 not in saved_steps(folder)


def test_an_unwritable_folder_is_one_sentence(tmp_path):
    (tmp_path / "plain").write_text("in the way")
    checkpoints = Checkpoints(tmp_path / "plain", keep=2)
    with pytest.raises(CheckpointError, match="cannot write a checkpoint to"):
        checkpoints.save(1, states(1), {}, 0.0)
        checkpoints.close()


def test_what_the_disk_has_no_room_for_is_not_begun(folder, monkeypatch):
    checkpoints = Checkpoints(folder, keep=2)
    before = sorted(folder.rglob("*"))
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
        with pytest.raises(CheckpointError, match=r"no space left on the disk \(.* 1,000 are free"):
            checkpoints.save(6, states(6), notes(6), 0.0)
    assert sorted(folder.rglob("*")) == before
    # With room again.
    checkpoints.save(6, states(6), notes(6), 0.0)
    checkpoints.close()
    assert restore(folder)[0] == 6


@pytest.fixture
def disk(tmp_path):
    """A disk of one page, and how to change its size."""
    path = tmp_path / "disk"
    path.mkdir()

    def mount(size, *options):
        options = ",".join([f"size={size}", *options])
        line = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(path)]
        return subprocess.run(line, capture_output=True, check=False)

    if mount(4096).returncode:
        pytest.skip("only root can mount a small disk")
    yield path, lambda size: mount(size, "remount")
    subprocess.run(["umount", str(path)], check=True)


# With many small arrays, most of it is what Orbax writes in addition to the numbers.
@pytest.mark.parametrize(("arrays", "length", "excess"), [(1, 200_000, 1.2), (200, 20, 4)])
def test_the_room_that_a_checkpoint_asks_for_is_enough_and_not_far_off(
    disk, arrays, length, excess
):
    path, resize = disk
    numbers = {str(i): jax.random.normal(jax.random.key(i), (length,)) for i in range(arrays)}
    checkpoints = Checkpoints(path / "plain", keep=2)
    with pytest.raises(CheckpointError, match="no space left on the disk") as raised:
        checkpoints.save(1, numbers, notes(1), 0.0)
    needed = int(re.search(r"([\d,]+) bytes are needed", str(raised.value))[1].replace(",", ""))
    resize(needed)
    checkpoints.save(1, numbers, notes(1), 0.0)
    checkpoints.close()
    assert find_damage(path / "plain", 1) is None
    assert needed < excess * shutil.disk_usage(path).used


# TensorStore's threads still complain that the event loop they report to is closed.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_disk_that_fills_up_while_a_checkpoint_is_written_is_one_sentence(disk, monkeypatch):
    path, resize = disk
    resize(2**19)
    checkpoints = Checkpoints(path, keep=2)
    checkpoints.save(1, states(1), notes(1), 0.0)
    # There is room when it is begun, and then no longer.
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=2**40))
    more = states(2) | {"more": jax.random.normal(jax.random.key(0), (2**18,))}
    with pytest.raises(CheckpointError, match=r"cannot write .*: no space left on the disk$"):
        checkpoints.save(2, more, notes(2), 0.0)
        checkpoints.close()
    assert restore(path)[0] == 1


def test_variants_side_by_side_save_without_mistaking_each_other(tmp_path):
    def save_often(name):
        checkpoints = Checkpoints(tmp_path / name, keep=1)
        for step in range(1, 16):
            checkpoints.save(step, states(step), notes(step), 0.0)
        checkpoints.close()

    with ThreadPoolExecutor() as pool:
        list(pool.map(save_often, "ab", timeout=120))
    for name in "ab":
        step, restored, _ = restore(tmp_path / name)
        assert step == 15
        np.testing.assert_array_equal(restored["step"], states(15)["step"])
