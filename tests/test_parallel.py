import os
import threading
import time

import pytest

from src import config, parallel
from src.parallel import bounded_map, quota
from tests.made import run_script


def test_results_come_in_order_and_few_wait():
    begun = []

    def work(item):
        begun.append(item)
        time.sleep(0.002 * (item % 3))
        return item * item

    for number, result in enumerate(bounded_map(work, range(40), workers=3, ahead=2)):
        assert result == number * number
        assert len(begun) <= number + 3 + 2
    assert sorted(begun) == list(range(40))


@pytest.mark.parametrize(
    ("files", "wanted"),
    [({}, None), ({"cpu.max": "max 100000\n"}, None), ({"cpu.max": "400000 100000\n"}, 4),
     ({"cpu.max": "250000 100000\n"}, 3), ({"cpu.max": "1000 100000\n"}, 1)],
)  # fmt: skip
def test_a_container_says_how_much_time_it_may_take(tmp_path, monkeypatch, files, wanted):
    for name, content in files.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(content)
    monkeypatch.setattr(parallel, "CGROUP", tmp_path)
    assert quota() == wanted


def test_cores_are_those_that_the_process_may_use(monkeypatch):
    monkeypatch.setattr(parallel, "quota", lambda: None)
    for allowed, wanted in ((3, 3), (64, 16)):
        monkeypatch.setattr(
            parallel.os, "sched_getaffinity", lambda _, n=allowed: set(range(n)), raising=False
        )
        assert parallel.cores() == wanted
    monkeypatch.setattr(parallel, "quota", lambda: 5)
    assert parallel.cores() == 5


@pytest.mark.parametrize(
    ("paid", "given", "wanted"), [(1, None, "1"), (1000, None, str(parallel.allowed_cores())), (1, "3", "3"),
                                  (None, None, None)]
)  # fmt: skip
def test_libraries_take_no_more_threads_than_a_container_pays(monkeypatch, paid, given, wanted):
    monkeypatch.setenv("OMP_NUM_THREADS", given or "")
    if not given:
        monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr(config, "quota", lambda: paid)
    assert run_script(monkeypatch, "predict") == 2
    assert os.environ.get("OMP_NUM_THREADS") == wanted


def test_a_fault_comes_out_and_the_rest_is_not_begun():
    begun, both = [], threading.Barrier(2, timeout=20)

    def work(item):
        begun.append(item)
        if item < 2:
            both.wait()  # two threads work at once
        if item == 2:
            raise ValueError("the second")
        return item

    with pytest.raises(ValueError, match="the second"):
        list(bounded_map(work, range(1000), workers=2, ahead=1))
    assert len(begun) <= 6
    found = bounded_map(begun.append, range(1000), workers=2, ahead=1)
    next(found)
    found.close()  # nobody listens any more
    assert len(begun) <= 12
