"""What may take time takes none from answers."""

from __future__ import annotations

import gc
import os
import threading

from edgeclin.priority import give_way, short_collections


def test_a_thread_gives_way_and_so_does_what_it_starts_and_nothing_else() -> None:
    found: list[int] = []

    def nice() -> None:
        found.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))

    def work() -> None:
        give_way()
        nice()
        started = threading.Thread(target=nice)
        started.start()
        started.join()

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    nice()
    assert found == [10, 10, os.getpriority(os.PRIO_PROCESS, 0)]
    assert found[-1] < 10


def test_who_gives_way_already_is_not_raised() -> None:
    found: list[int] = []

    def work() -> None:
        thread = threading.get_native_id()
        os.setpriority(os.PRIO_PROCESS, thread, 15)
        give_way()
        found.append(os.getpriority(os.PRIO_PROCESS, thread))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [15]


def test_what_was_loaded_before_is_in_no_collection_and_what_comes_is() -> None:
    loaded = [[number] for number in range(1000)]
    with short_collections():
        assert len(gc.get_objects()) < 1000
        assert not any(one is loaded for one in gc.get_objects())
        cycle: list[object] = []
        cycle.append(cycle)
        del cycle
        assert gc.collect() >= 1
    assert any(one is loaded for one in gc.get_objects())
