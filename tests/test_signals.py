"""Asked to end: one line, the exit code that shells give, nothing lost."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from src import signals
from src.callbacks import results
from src.datamodules import base as photo_module
from src.inference import Predictor
from src.models import PhotoClassifier
from src.ranks import wait_for_first
from src.signals import Terminated, beginning, ending_on_sigterm, exit_code
from tests.made import FAST, REPOSITORY, make_folders, only_run, run_script

LOOK = """
import sys, time
from src import ranks
ranks.end_with_first()
print("up", flush=True)
time.sleep(int(sys.argv[1]))
print("outlived it", flush=True)
"""
PARENT = f"""
import subprocess, sys, time
import os
os.environ["CORBEL_FIRST_PROCESS"] = str(os.getpid())
print(subprocess.Popen([sys.executable, "-c", {LOOK!r}, "20"], cwd={str(REPOSITORY)!r}).pid, flush=True)
time.sleep(60)
"""


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
    with pytest.raises(Terminated) as caught, ending_on_sigterm():
        signal.raise_signal(signal.SIGTERM)
    assert exit_code(caught.value) == 143 and exit_code(KeyboardInterrupt()) == 130
    with ending_on_sigterm(lambda: True):
        signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is before


def test_in_a_thread_nothing_changes():
    def work():
        with ending_on_sigterm():
            found.append(signal.getsignal(signal.SIGTERM))

    before, found = signal.getsignal(signal.SIGTERM), []
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [before]


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


def test_a_second_one_does_not_disturb_what_ends(monkeypatch):
    cleaned = []
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Terminated), ending_on_sigterm(), ending_on_sigterm():
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            signal.raise_signal(signal.SIGTERM)
            cleaned.append(1)
    assert cleaned and signal.getsignal(signal.SIGTERM) is before


def test_one_that_comes_later_counts_where_the_first_was_lost(monkeypatch):
    monkeypatch.setattr(signals, "PATIENCE", 0.0)
    with pytest.raises(Terminated), ending_on_sigterm():
        with contextlib.suppress(Terminated):
            signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)


def test_what_fails_after_an_interruption_is_the_interruption():
    def failed(*, first):
        try:
            try:
                raise first
            finally:
                raise RuntimeError("not open any more")
        except RuntimeError as error:
            return beginning(error)

    assert isinstance(failed(first=Terminated()), Terminated)
    assert type(failed(first=KeyboardInterrupt())) is KeyboardInterrupt
    assert type(failed(first=ValueError())) is RuntimeError
    ring = RuntimeError("one"), RuntimeError("other")
    ring[0].__cause__, ring[1].__cause__ = ring[::-1]
    assert beginning(ring[0]) is ring[0]
    lost = RuntimeError("DataLoader worker (pid 7) is killed by signal: Terminated.")
    assert isinstance(beginning(lost), Terminated)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_program_that_waits_in_c_ends(tmp_path, number):
    """As a process that waits for another one that never comes."""
    waits = """
import datetime, signal, torch
from src import signals
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have it ignored
signals.BLOCKED = 0.5
with signals.ending_on_sigterm(), signals.ending_though_blocked():
    print("up", flush=True)
    limit = datetime.timedelta(seconds=100)
    torch.distributed.TCPStore("127.0.0.1", 0, 2, True, timeout=limit, wait_for_workers=True)
"""
    with subprocess.Popen([sys.executable, "-c", waits], cwd=REPOSITORY, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"up\n"
        time.sleep(1)
        process.send_signal(number)
        assert process.wait(timeout=60) == 128 + number


def test_predicting_whose_loader_workers_are_ended_with_it_is_ended_in_one_line(trained, monkeypatch, capsys):
    run, data = trained

    def lost(*_):
        raise RuntimeError("DataLoader worker (pid(s) 7) is killed by signal: Terminated. ")

    monkeypatch.setattr(Predictor, "rows", lost)
    call = ("predict", f"ckpt={run}", f"images={data}", "output=p.csv", "device=cpu")
    assert run_script(monkeypatch, *call) == 143
    assert capsys.readouterr().err.splitlines()[-1] == "error: ended by SIGTERM"


def test_a_program_that_was_started_to_ignore_it_does():
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with ending_on_sigterm():
        signal.raise_signal(signal.SIGTERM)
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
    signal.signal(signal.SIGTERM, before)


def test_a_run_that_writes_its_report_says_how_to_go_on(tmp_path, monkeypatch, capsys):
    data = make_folders(tmp_path / "photos", each=4)
    monkeypatch.chdir(tmp_path)
    with monkeypatch.context() as hurried:
        hurried.setattr(results, "write_report", asked_to_end)
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


@pytest.fixture
def as_second(monkeypatch):
    """Let what is started take itself for the second process of this machine."""
    for name in ("RANK", "WORLD_SIZE", "NODE_RANK", "SLURM_PROCID", "CORBEL_FIRST_PROCESS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LOCAL_RANK", "1")


def test_a_further_process_ends_where_the_first_was_killed_before_it_looked(as_second, monkeypatch):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    monkeypatch.setenv("CORBEL_FIRST_PROCESS", str(gone.pid))
    assert subprocess.run([sys.executable, "-c", LOOK, "60"], cwd=REPOSITORY, timeout=30).returncode == 143


@pytest.mark.parametrize(("name", "value"), [("LOCAL_RANK", "0"), ("WORLD_SIZE", "2")])
def test_a_first_process_and_a_launchers_outlive_what_started_them(as_second, monkeypatch, name, value):
    if name == "WORLD_SIZE":
        monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv(name, value)
    monkeypatch.setenv("CORBEL_FIRST_PROCESS", "1")
    assert subprocess.run([sys.executable, "-c", LOOK, "2"], cwd=REPOSITORY, timeout=30).returncode == 0


def test_a_further_process_that_is_interrupted_before_they_join_ends_after_the_first(as_second, monkeypatch):
    first = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    monkeypatch.setenv("CORBEL_FIRST_PROCESS", str(first.pid))
    begun = time.monotonic()
    wait_for_first(0.5)
    assert 0.5 <= time.monotonic() - begun < 30
    killer = threading.Timer(0.5, lambda: (first.kill(), first.wait()))
    killer.start()
    wait_for_first(60)
    assert time.monotonic() - begun < 30
    killer.join()  # it has reaped the first one by now, and may not have noted it yet
    assert first.returncode == -9
    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.setenv("CORBEL_FIRST_PROCESS", str(os.getpid()))
    wait_for_first(60)  # of one that nobody is before
    assert time.monotonic() - begun < 50


def test_a_further_process_ends_when_the_first_is_killed(as_second):
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout.readline().strip().isdecimal() and parent.stdout.readline() == "up\n"
        parent.kill()
        assert parent.stdout.read() == ""  # all it says until it has ended, and closed its end of the pipe
