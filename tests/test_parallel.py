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
     ({"cpu.max": "150000 100000\n"}, 2), ({"cpu.max": "1000 100000\n"}, 1),
     ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
     ({"cpu/cpu.cfs_quota_us": "300000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 3),
     ({"cpu/cpu.cfs_quota_us": "300000\n"}, None), ({"cpu.max": ""}, None)],
)  # fmt: skip
def test_a_container_says_how_much_time_it_may_take(tmp_path, monkeypatch, files, wanted):
    for name, content in files.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(content)
    monkeypatch.setattr(parallel, "CGROUP", tmp_path)
    assert quota() == wanted


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


def test_threads_work_at_once():
    both = threading.Barrier(2, timeout=20)
    assert list(bounded_map(lambda item: both.wait() >= 0, range(4), workers=2)) == [True] * 4


def test_a_fault_comes_out_and_the_rest_is_not_begun():
    begun = []

    def work(item):
        begun.append(item)
        if item == 2:
            raise ValueError("the second")
        return item

    found = bounded_map(work, range(1000), workers=2, ahead=1)
    with pytest.raises(ValueError, match="the second"):
        list(found)
    assert len(begun) <= 6


def test_whoever_stops_listening_ends_the_work():
    begun = []
    found = bounded_map(begun.append, range(1000), workers=2, ahead=1)
    next(found)
    found.close()
    assert len(begun) <= 6
