"""Which folder an export may take, and that it is whole or not there."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from exports import contents

from gorp import ContinualLearner, checkpoint, files
from gorp.backbones import load_backbone
from gorp.checksums import verify_folder
from gorp.errors import BusyError, GorpError, InputError
from gorp.export import export_run
from gorp.export_folder import MARKER, new_export
from gorp.run_config import RunConfig


class Disk:
    """Refuses the last file that is made durable."""

    def __call__(self, path: Path) -> None:
        raise OSError(28, "No space left on device", str(path))


def test_a_full_disk_leaves_what_was_there(run, tmp_path, monkeypatch):
    out, folder = tmp_path / "out", run("causal")
    monkeypatch.setattr(checkpoint, "sync", Disk())
    with pytest.raises(GorpError, match="No space left on device"):
        export_run(folder, out)
    assert not list(tmp_path.iterdir())
    monkeypatch.undo()
    export_run(folder, out)
    before = contents(out)
    monkeypatch.setattr(checkpoint, "sync", Disk())
    with pytest.raises(GorpError, match="No space left on device"):
        export_run(folder, out, to="colour")
    assert list(tmp_path.iterdir()) == [out]
    assert contents(out) == before


def test_what_stood_there_is_whole_until_it_is_replaced(run, tmp_path, monkeypatch):
    """Whether or not the kernel can exchange two names: an export that is ended as it removes the old one is whole."""
    out, folder = tmp_path / "out", run("causal")
    for kernel in ("exchanges", "does not"):
        shutil.rmtree(out, ignore_errors=True)
        export_run(folder, out, to="colour")
        with monkeypatch.context() as patch:
            if kernel == "does not":
                patch.setattr(files, "_exchange", lambda *_: False)
            patch.setattr(files, "sync", lambda *_: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                export_run(folder, out)
        assert "animal" in json.loads((out / MARKER).read_text())["learnt"]
        verify_folder(out)
        assert list(tmp_path.iterdir()) == [out]


def test_two_exports_to_one_place_do_not_meet(run, tmp_path):
    out, folder = tmp_path / "out", run("causal")
    with new_export(out, {}) as unfinished:
        (unfinished / "kept").write_text("kept")
        with pytest.raises(BusyError, match=r"process .* writes an export; wait for it"):
            export_run(folder, out)
    assert (out / "kept").read_text() == "kept"


def test_an_export_takes_the_place_of_one_of_the_same_run_alone(run, tmp_path):
    out = tmp_path / "out"
    export_run(run("causal"), out, to="colour")
    export_run(run("causal"), out)
    assert "animal" in json.loads((out / MARKER).read_text())["learnt"]
    with pytest.raises(InputError, match="is the export of another run; give another folder, or --overwrite"):
        export_run(run("causal", "seq-lora"), out)
    export_run(run("causal", "seq-lora"), out, overwrite=True)
    assert not (out / "space").exists()
    card = (out / "README.md").read_text()
    (out / "README.md").write_text(f"{card}\nMy licence.\n")
    with pytest.raises(InputError, match=r"README\.md was changed since this was exported, and would go; move it"):
        export_run(run("causal", "seq-lora"), out)
    (out / "README.md").write_text(card)
    (out / "quantised").mkdir()
    (out / "quantised" / "model.gguf").write_text("converted")
    with pytest.raises(InputError, match=r"quantised/model\.gguf was added since this was exported, and would go"):
        export_run(run("causal", "seq-lora"), out)
    export_run(run("causal", "seq-lora"), out, overwrite=True)
    assert not (out / "quantised").exists()
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.tex").write_text("years of work")
    for overwrite in (False, True):
        with pytest.raises(InputError, match="holds files that are no export"):
            export_run(run("causal"), other, overwrite=overwrite)
    with pytest.raises(InputError, match="is a file"):
        export_run(run("causal"), other / "thesis.tex")


def test_nothing_learnt_and_unknown_dtypes_are_refused(run, tmp_path):
    with pytest.raises(InputError, match=r"--dtype bfloat6: unknown \(did you mean 'bfloat16'\?\); accepted: float32"):
        export_run(run("causal"), tmp_path / "out", dtype="bfloat6")
    with pytest.raises(InputError, match="no run here"):
        export_run(tmp_path, tmp_path / "out")
    new = tmp_path / "new"
    config = RunConfig.from_yaml(run("causal") / "config.yaml")
    backbone = load_backbone(config.model)
    ContinualLearner(backbone.model, backbone.tokenizer, run_dir=new, config=config)
    with pytest.raises(InputError, match="no task is learnt yet"):
        export_run(new, tmp_path / "out")
