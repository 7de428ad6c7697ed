"""Asked to end: one line, the exit code that shells give, nothing lost."""

import signal
import time
from pathlib import Path

import pandas as pd
import pytest

from src.datamodules import photo_datamodule as photo_module
from src.inference.predictor import Predictor
from src.models.classifiers import PhotoClassifier
from src.process import Terminated, exit_code, interruption, sigterm_raises
from tests.made import FAST, run_script


def asked_to_end(*_, **__):
    signal.raise_signal(signal.SIGTERM)
    time.sleep(1)
    raise AssertionError("SIGTERM was not answered")


def test_sigterm_is_an_exception_without_another_handler():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Terminated) as caught, sigterm_raises():
        signal.raise_signal(signal.SIGTERM)
    assert exit_code(caught.value) == 143 and exit_code(KeyboardInterrupt()) == 130
    with sigterm_raises(lambda: True):
        signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is before


def test_training_that_reads_photos_is_ended_in_one_line(photos, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(photo_module.groups, "assign_groups", asked_to_end)
    assert run_script(monkeypatch, "train", f"data.root={photos}", *FAST) == 143
    assert capsys.readouterr().err.splitlines()[-1] == "error: ended by SIGTERM"


@pytest.mark.parametrize("way", ["answered by nobody", "answered by Lightning", "a fault of Lightning's"])
def test_training_that_starts_its_fit_is_ended_in_one_line(photos, tmp_path, monkeypatch, capsys, way):
    monkeypatch.chdir(tmp_path)
    steps = []
    monkeypatch.setattr(PhotoClassifier, "training_step", lambda *_: steps.append(1))

    def stop(*_, **__):
        if way == "answered by Lightning":
            signal.raise_signal(signal.SIGTERM)
            raise RuntimeError("it does not get to a step any more")
        try:
            raise Terminated
        finally:
            if way == "a fault of Lightning's":
                raise RuntimeError("Please call iter(combined_loader) first.")

    setup = way == "answered by Lightning"
    optimizers = "src.models.classifiers.PhotoClassifier.configure_optimizers"
    where = optimizers if setup else "lightning.Trainer.fit"
    monkeypatch.setattr(where, stop)
    assert run_script(monkeypatch, "train", f"data.root={photos}", *FAST) == 143 and steps == []
    said = capsys.readouterr().err
    assert "Interrupted before the first checkpoint: start again" in said and "Traceback" not in said


def test_an_error_that_follows_an_interruption_is_the_interruption():
    def failed(first):
        try:
            try:
                raise first
            finally:
                raise RuntimeError("not open any more")
        except RuntimeError as error:
            return interruption(error)

    assert isinstance(failed(Terminated()), Terminated)
    assert type(failed(KeyboardInterrupt())) is KeyboardInterrupt and failed(ValueError()) is None


def test_predicting_whose_loader_workers_are_ended_with_it_is_ended_in_one_line(
    run, photos, tmp_path, monkeypatch, capsys
):
    def lost(*_):
        raise RuntimeError("DataLoader worker (pid(s) 7) is killed by signal: Terminated. ")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Predictor, "rows", lost)
    call = ("predict", f"ckpt={run}", f"images={photos}", "output=p.csv", "device=cpu")
    assert run_script(monkeypatch, *call) == 143
    assert capsys.readouterr().err.splitlines()[-1] == "error: ended by SIGTERM"


@pytest.mark.parametrize(
    ("where", "signum"),
    [
        ("src.models.classifiers.PhotoClassifier.on_train_batch_start", signal.SIGINT),
        ("src.models.classifiers.PhotoClassifier.test_step", signal.SIGTERM),
        ("src.training.evaluate.write_report", signal.SIGTERM),
    ],
)
def test_a_signal_says_how_to_go_on(photos, monkeypatch, tmp_path, capsys, where, signum):
    monkeypatch.chdir(tmp_path)
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's `&` has it ignored
    with monkeypatch.context() as patched:
        patched.setattr(where, lambda *_, **__: signal.raise_signal(signum))
        code = run_script(patched, "train", f"data.root={photos}", *FAST, "trainer.max_epochs=2")
    signal.signal(signal.SIGINT, handler)
    assert code == 128 + signum
    (last,) = tmp_path.glob("outputs/*/*/checkpoints/last.ckpt")
    run = last.parent.parent
    said = capsys.readouterr().err
    assert f"Continue with: python scripts/train.py resume={run}" in said and "Traceback" not in said
    assert not (run / "report.html").exists()
    assert run_script(monkeypatch, "train", f"resume={run}") == 0 and (run / "report.html").is_file()
    assert len(pd.read_csv(run / "history.csv")) == 2


def test_predictions_go_on_after_it(run, photos, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    call = ("predict", f"ckpt={run}", f"images={photos}", "output=p.csv", "device=cpu", "batch_size=4")
    rows = Predictor.rows

    def some(predictor, photos, *arguments):
        for number, batch in enumerate(rows(predictor, photos, *arguments)):
            yield batch
            if number == 3:
                asked_to_end()

    with monkeypatch.context() as hurried:
        hurried.setattr(Predictor, "rows", some)
        assert run_script(hurried, *call, "num_workers=2") == 143
    assert capsys.readouterr().err.splitlines()[-1] == "error: ended by SIGTERM"
    assert run_script(monkeypatch, *call, "resume=true") == 0
    assert run_script(monkeypatch, *call[:3], "output=whole.csv", *call[4:]) == 0
    assert Path("p.csv").read_bytes() == Path("whole.csv").read_bytes()
