"""Asked to end: one line, the exit code that shells give, nothing lost."""

import signal
import time
from pathlib import Path

import pytest

from src.datamodules import photo_datamodule as photo_module
from src.inference import Predictor
from src.models import PhotoClassifier
from src.process import Terminated, exit_code, interruption, sigterm_raises
from src.training import evaluate
from tests.made import FAST, make_folders, only_run, run_script


@pytest.fixture
def trained(tmp_path, monkeypatch):
    data = make_folders(tmp_path / "photos", each=4)
    monkeypatch.chdir(tmp_path)
    assert run_script(monkeypatch, "train", f"data.root={data}", *FAST, "trainer.max_epochs=1") == 0
    return only_run(tmp_path), data


def asked_to_end(*_, **__):
    signal.raise_signal(signal.SIGTERM)
    time.sleep(1)
    raise AssertionError("SIGTERM was not answered")


def test_it_is_an_exception_where_nobody_answers_it():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Terminated) as caught, sigterm_raises():
        signal.raise_signal(signal.SIGTERM)
    assert exit_code(caught.value) == 143 and exit_code(KeyboardInterrupt()) == 130
    with sigterm_raises(lambda: True):
        signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is before


def test_training_that_reads_photos_is_ended_in_one_line(tmp_path, monkeypatch, capsys):
    data = make_folders(tmp_path / "photos", each=4)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(photo_module, "assign_groups", asked_to_end)
    assert run_script(monkeypatch, "train", f"data.root={data}", *FAST) == 143
    assert capsys.readouterr().err.splitlines()[-1] == "error: ended by SIGTERM"


@pytest.mark.parametrize("way", ["answered by nobody", "answered by Lightning", "a fault of Lightning's"])
def test_training_that_starts_its_fit_is_ended_in_one_line(tmp_path, monkeypatch, capsys, way):
    data = make_folders(tmp_path / "photos", each=4)
    monkeypatch.chdir(tmp_path)
    steps = []
    monkeypatch.setattr(PhotoClassifier, "training_step", lambda *_: steps.append(1))

    def stop(trainer, *_, **__):
        if way == "answered by Lightning":
            signal.raise_signal(signal.SIGTERM)
            raise RuntimeError("it does not get to a step any more")
        try:
            raise Terminated
        finally:
            if way == "a fault of Lightning's":
                raise RuntimeError("Please call iter(combined_loader) first.")

    where = "setup" if way == "answered by Lightning" else "fit"
    if where == "setup":
        monkeypatch.setattr(PhotoClassifier, "configure_optimizers", stop)
    else:
        monkeypatch.setattr("lightning.Trainer.fit", stop)
    assert run_script(monkeypatch, "train", f"data.root={data}", *FAST) == 143 and steps == []
    said = capsys.readouterr().err
    assert "Interrupted before the first checkpoint: start again" in said and "Traceback" not in said


def test_what_fails_after_an_interruption_is_the_interruption():
    def failed(*, first):
        try:
            try:
                raise first
            finally:
                raise RuntimeError("not open any more")
        except RuntimeError as error:
            return interruption(error)

    assert isinstance(failed(first=Terminated()), Terminated)
    assert type(failed(first=KeyboardInterrupt())) is KeyboardInterrupt
    assert failed(first=ValueError()) is None
    ring = RuntimeError("one"), RuntimeError("other")
    ring[0].__cause__, ring[1].__cause__ = ring[::-1]
    assert interruption(ring[0]) is None
    lost = RuntimeError("DataLoader worker (pid 7) is killed by signal: Terminated.")
    assert isinstance(interruption(lost), Terminated)


def test_predicting_whose_loader_workers_are_ended_with_it_is_ended_in_one_line(trained, monkeypatch, capsys):
    run, data = trained

    def lost(*_):
        raise RuntimeError("DataLoader worker (pid(s) 7) is killed by signal: Terminated. ")

    monkeypatch.setattr(Predictor, "rows", lost)
    call = ("predict", f"ckpt={run}", f"images={data}", "output=p.csv", "device=cpu")
    assert run_script(monkeypatch, *call) == 143
    assert capsys.readouterr().err.splitlines()[-1] == "error: ended by SIGTERM"


def test_a_run_that_writes_its_report_says_how_to_go_on(tmp_path, monkeypatch, capsys):
    data = make_folders(tmp_path / "photos", each=4)
    monkeypatch.chdir(tmp_path)
    with monkeypatch.context() as hurried:
        hurried.setattr(evaluate, "write_report", asked_to_end)
        assert run_script(hurried, "train", f"data.root={data}", *FAST, "trainer.max_epochs=1") == 143
    said = capsys.readouterr().err
    run = only_run(tmp_path)
    assert f"Continue with: python scripts/train.py resume={run}" in said and "Traceback" not in said
    assert run_script(monkeypatch, "train", f"resume={run}") == 0 and (run / "report.html").is_file()


def test_predictions_go_on_after_it(trained, monkeypatch, capsys):
    run, data = trained
    call = ("predict", f"ckpt={run}", f"images={data}", "output=p.csv", "device=cpu", "batch_size=4")
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
