"""Where numbers come from."""

import subprocess

import pytest

from bnrepro.comparison import provenance


@pytest.mark.parametrize(
    ("changed", "counts"),
    [("bnrepro/code.py", True), ("results/new/summary.md", False), ("README.md", False)],
)
def test_uncommitted_changes_are_those_to_code(changed, counts, tmp_path, monkeypatch):
    for path in (tmp_path / "bnrepro/code.py", tmp_path / "README.md"):
        path.parent.mkdir(exist_ok=True)
        path.write_text("as committed")
    for arguments in ("init", "add .", "-c user.name=a -c user.email=a commit --message=all"):
        subprocess.run(["git", *arguments.split()], cwd=tmp_path, check=True, capture_output=True)
    monkeypatch.setattr(provenance, "__file__", str(tmp_path / "bnrepro/code.py"))
    assert not provenance.here_and_now()["uncommitted_changes"]
    (tmp_path / changed).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / changed).write_text("changed")
    assert provenance.here_and_now()["uncommitted_changes"] == counts
