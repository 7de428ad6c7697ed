import threading
import time

import pytest

from src.overlap import in_order


def test_results_come_in_order_and_few_wait():
    begun = []

    def work(item):
        begun.append(item)
        time.sleep(0.002 * (item % 3))
        return item * item

    for number, result in enumerate(in_order(work, range(40), workers=3, ahead=2)):
        assert result == number * number
        assert len(begun) <= number + 3 + 2
    assert sorted(begun) == list(range(40))


def test_threads_work_at_once():
    both = threading.Barrier(2, timeout=20)
    assert list(in_order(lambda item: both.wait() >= 0, range(4), workers=2)) == [True] * 4


def test_a_fault_comes_out_and_the_rest_is_not_begun():
    begun = []

    def work(item):
        begun.append(item)
        if item == 2:
            raise ValueError("the second")
        return item

    found = in_order(work, range(1000), workers=2, ahead=1)
    with pytest.raises(ValueError, match="the second"):
        list(found)
    assert len(begun) <= 6


def test_whoever_stops_listening_ends_the_work():
    begun = []
    found = in_order(begun.append, range(1000), workers=2, ahead=1)
    next(found)
    found.close()
    assert len(begun) <= 6
