"""Where a number came from: the commit, the machine, the versions."""

import subprocess
import sys

import pytest

from bench.records import provenance


def commit(root):
    for arguments in (["add", "-A"], ["-c", "user.name=t", "-c", "user.email=t@t", "commit", "-qm", "x"]):
        subprocess.run(["git", *arguments], cwd=root, check=True)


@pytest.fixture
def checkout(tmp_path):
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    (tmp_path / "code.py").write_text("x = 1\n")
    (tmp_path / ".gitignore").write_text("*.log\n")
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "old.json").write_text("{}")
    commit(tmp_path)
    return tmp_path


def test_a_clean_checkout_and_its_commit(checkout):
    found = provenance.git(checkout)
    assert found["dirty"] is False
    assert len(found["sha"]) == 40


def test_results_and_ignored_files_leave_it_clean_but_code_does_not(checkout):
    (checkout / "results" / "old.json").write_text("{1}")
    (checkout / "results" / "new.json").write_text("{}")
    (checkout / "run.log").write_text("")
    assert provenance.git(checkout)["dirty"] is False
    (checkout / "code.py").write_text("x = 2\n")
    assert provenance.git(checkout)["dirty"] is True
    commit(checkout)
    (checkout / "more.py").write_text("")
    assert provenance.git(checkout)["dirty"] is True


def test_outside_a_checkout_of_its_own_there_is_no_commit(checkout, tmp_path_factory, monkeypatch):
    nothing = {"sha": None, "dirty": None}
    assert provenance.git(tmp_path_factory.mktemp("plain")) == nothing
    (checkout / "site-packages").mkdir()  # installed inside somebody else's repository
    assert provenance.git(checkout / "site-packages") == nothing
    monkeypatch.setenv("PATH", "")
    assert provenance.git(checkout) == nothing


def test_hardware_and_versions_without_importing_torch(monkeypatch):
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    found = provenance.hardware()
    assert found["cores"] >= 1
    assert found["memory_gib"] > 0
    assert found["gpus"] == []
    assert "torch" not in sys.modules
    monkeypatch.setattr(provenance, "PACKAGES", ("numpy", "no-such-package"))
    versions = provenance.versions()
    assert versions["numpy"][0].isdigit()
    assert versions["no-such-package"] is None
    assert versions["python"].startswith("3.")
