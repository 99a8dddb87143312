"""What several processes agree on, and how they hear of one another's failures."""

import re

import pytest

from odyssey_jax.parallel._agree import Meeting, from_first, greatest, is_first
from tests.processes import run

AGREE = """
import threading, time
import odyssey_jax.parallel._agree as p

me = jax.process_index()
assert p.is_first() == (me == 0)
for n in range(20):
    assert p.greatest(n * me, -me, what="a") == (n * (jax.process_count() - 1), 0)
    assert p.from_first({"n": [n, me, float("inf")]}, "f") == {"n": [n, 0, float("inf")]}

# A thread meets while the main one does, each in its own order.
beside = p.Meeting("beside")
found = []
thread = threading.Thread(
    target=lambda: [found.append(beside.decide(i + me, list, "b")) for i in range(20)]
)
thread.start()
last = jax.process_count() - 1
assert [p.greatest(me - n, what="a")[0] for n in range(20)] == [last - n for n in range(20)]
thread.join()
assert found == [[i + j for j in range(jax.process_count())] for i in range(20)]

# Who comes late is waited for.
time.sleep(1.2 * (me == 1))
p.greatest(0, what="a")

# Whoever fails, all hear of it, once, and go on together.
for culprit in range(jax.process_count()):
    try:
        with p.together():
            if me == culprit:
                raise OSError(28, "No space left on device")
            p.greatest(1, what="a")
    except p.ProcessFailedError as error:
        assert str(error) == f"process {culprit}: [Errno 28] No space left on device", error
        assert error.errno == 28
        assert me != culprit
    except OSError:
        assert me == culprit
    assert p.greatest(me, what="a")[0] == jax.process_count() - 1

def refuse(values):
    raise ValueError(f"not {values}")

try:
    p.Meeting("chooser").decide(me, refuse, "c")
except (ValueError, p.ProcessFailedError) as error:
    assert f"not {list(range(jax.process_count()))}" in str(error)

# Only the last rounds stay, those that process 0 failed, and what others began since.
if me == 0:
    left = p.distributed.global_state.client.key_value_dir_get("odyssey_jax/")
    rounds = {key.rpartition("/")[0] for key, _ in left}
    assert len(rounds) <= 5, rounds
begun = time.perf_counter()
for n in range(100):
    p.greatest(0, what="a")
assert time.perf_counter() - begun < 10  # each far below the half second between two exits

# One that never comes is given up.
if me == 0:
    p._PATIENCE = 0.5
    try:
        p.greatest(1, what="a")
    except TimeoutError as error:
        print(error)
"""


@pytest.mark.slow
def test_what_all_agree_on():
    first, *_ = run(AGREE, processes=4, devices=1)
    assert re.fullmatch(
        r"the other processes did not come to 'odyssey_jax/main/0/\d+/1' within 0 minutes: all "
        "must call the same functions of odyssey_jax in the same order.",
        first,
    )


def test_one_process_agrees_with_itself():
    assert (greatest(True, what="a"), from_first([1], "f"), is_first()) == ((1,), [1], True)
    assert Meeting("alone").decide(2, list, "d") == [2]
    with pytest.raises(ZeroDivisionError), Meeting("alone").together():
        raise ZeroDivisionError
