"""What the loop adds as leaves, devices and processes grow, and a model of 1,000 hosts.

``python -m benchmarks.scale_model [--quick] [--json FILE]``

Measured, each row in a process of its own, since the number of simulated devices is JAX's from the
start: the seconds of a step within a call, and what a call of the program, an epoch, a save and a
restore take beside it, for 30 to 3,000 leaves on 1 to 64 devices; a decision of processes, for real
ones and for as many clients of the same key-value service as 256 in threads; and what a file of a
checkpoint takes. From these, and from what is said of the hosts, `Hosts` computes the seconds of a
save and of a restart, and the goodput under preemption: `docs/scale.md` shows both.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks._harness import Ratio, arguments, versions, write_json

ELEMENTS = 1024  # of a leaf; so that a step is dispatch, not arithmetic
LOOPS = ((30, 1), (300, 1), (3000, 1), (30, 8), (300, 8), (30, 64), (300, 64))
FILES = ((10, 1), (100, 1), (1000, 1), (10, 8), (100, 8), (10, 64))
PROCESSES = (2, 4)
CLIENTS = (2, 16, 64, 256)
KEPT: list[Any] = []  # clients and their service, which end a process that lets go of them


@dataclasses.dataclass(frozen=True)
class Hosts:
    """A run of many hosts; seconds, bytes and their ratios.

    Attributes:
        hosts: How many.
        writers: How many of them hold the first copy of the train state, which alone is written.
        state: Bytes of the train state: parameters and moments.
        copy: Bytes per second from a host's devices to its memory.
        bandwidth: Bytes per second that a host writes or reads.
        storage: Bytes per second that the file system gives and takes in all.
        files: Files of a checkpoint: arrays times the devices that each is cut over.
        files_per_second: Files that a host makes in a second.
        fixed: Seconds that a save takes however small it is.
        per_host: Seconds that a decision of all takes for each host.
        start: Seconds from a failure to the first step, without reading the checkpoint.
        mtbf_host: Seconds between two failures of one host.
    """

    hosts: int = 1000
    writers: int = 32
    state: float = 12 * 70e9  # 70e9 parameters in float32 with Adam's two moments
    copy: float = 10e9
    bandwidth: float = 1e9
    storage: float = 200e9
    files: float = 3 * 100 * 256
    files_per_second: float = 500.0
    fixed: float = 0.1
    per_host: float = 0.33e-3
    start: float = 180.0
    mtbf_host: float = 54 * 86_400 * 2048 / 419  # Llama 3: 419 failures of 2,048 hosts in 54 days

    @property
    def decision(self) -> float:
        """Seconds of one decision."""
        return self.hosts * self.per_host

    @property
    def loop(self) -> float:
        """The share of the time that 2 decisions before each call take: see `CallLength`."""
        call = min(max(0.5, 100 * self.decision), 10.0)
        return 2 * self.decision / (call + 2 * self.decision)

    @property
    def blocked(self) -> float:
        """Seconds that a save holds the training up: a copy and 4 decisions."""
        return self.state / self.writers / self.copy + 4 * self.decision

    @property
    def save(self) -> float:
        """Seconds until a save is committed, behind the training: bytes, files and 5 decisions."""
        moved = self.state / min(self.bandwidth * self.writers, self.storage)
        made = self.files / self.writers / self.files_per_second
        return self.fixed + self.blocked + moved + made + 5 * self.decision

    @property
    def restart(self) -> float:
        """Seconds from a failure to the first step: each host reads its part."""
        own = self.state / self.writers
        read = max(own / self.bandwidth, own * self.hosts / self.storage)
        return self.start + read + 10 * self.decision

    @property
    def mtbf(self) -> float:
        """Seconds between two failures of the run."""
        return self.mtbf_host / self.hosts

    @property
    def interval(self) -> float:
        r"""The best interval, $\sqrt{2 C M}$, by Young (1974) and Daly (2006).

        At least the time of a save: one at a time is under way.
        """
        return max(math.sqrt(2 * self.blocked * self.mtbf), self.save)

    def goodput(self, interval: float) -> float:
        """Return the share of the time that is training which stays.

        Args:
            interval: Seconds of training between two saves.
        """
        lost = interval / 2 + self.save + self.restart  # a save that was cut short is none
        kept = interval / (interval + self.blocked) * max(0.0, 1 - lost / self.mtbf)
        return (1 - self.loop) * kept


def timed(function: Callable[[], Any], times: int) -> float:
    """Return the median seconds of a call."""
    found = []
    for _ in range(times):
        begun = time.perf_counter()
        function()
        found.append(time.perf_counter() - begun)
    return statistics.median(found)


def least(function: Callable[[], float], times: int) -> float:
    """Return the least of several measurements: what else runs on the machine only adds."""
    return min(function() for _ in range(times))


def loop(leaves: int, quick: bool) -> dict[str, float]:
    """Measure a run of so many leaves: a step, a call and an epoch of the loop."""
    import jax
    import jax.numpy as jnp
    import numpy as np
    import optax

    import odyssey_jax as ody

    params = {f"w{n}": jnp.ones((32, ELEMENTS // 32)) for n in range(leaves)}
    loss = lambda p, x: sum(((w * x.mean()) ** 2).mean() for w in p.values()) / leaves
    task = ody.pure_task(params, loss)
    data = ody.ArrayDataset(np.ones((64 * 64, 2), np.float32), batch_size=64)
    quick = quick or leaves * jax.device_count() > 1000  # a step takes its time, and compiling
    steps = 128 if quick else 512

    def fit(validate: int, **how: Any) -> float:
        result = ody.fit(
            task, optax.adam, data, steps=steps, validate=ody.every(steps=validate), writers=[],
            learning_rate=1e-3, placement=ody.data_parallel(), **how,
        )  # fmt: skip
        return 1 / result.steps_per_second

    hook = ody.hook(lambda view: None, ody.every(steps=8))
    rounds = 2 if quick else 5
    step = least(lambda: fit(64), rounds)
    epoch = least(lambda: fit(8), rounds)
    call = least(lambda: fit(64, hooks=[hook]), rounds)
    return {"step": step, "epoch": 8 * (epoch - step), "call": 8 * (call - step)}


def files(leaves: int, quick: bool) -> dict[str, float]:
    """Measure saves of so many leaves that are spread over all devices: a file for each part."""
    import jax
    import numpy as np

    import odyssey_jax as ody

    mesh = jax.make_mesh((jax.device_count(),), ("data",))
    rows = jax.NamedSharding(mesh, jax.P("data"))
    make = lambda n: jax.device_put(np.full((64, 256), n, np.float32), rows)  # 64 KiB
    tree = {f"w{n}": make(n) for n in range(leaves)}
    blocked, total, restored = [], [], []
    with tempfile.TemporaryDirectory() as name, ody.Store(name) as store:
        for step in range(2 if quick else 5):
            begun = time.perf_counter()
            store.save(step, tree, {})
            blocked.append(time.perf_counter() - begun)
            store.wait()
            total.append(time.perf_counter() - begun)
            restored.append(timed(lambda: jax.block_until_ready(store.restore(tree).tree), 1))
    # Not the first, for which memory is found.
    return {"blocked": min(blocked[1:]), "save": min(total[1:]), "restore": min(restored[1:])}


def decisions(address: str, processes: int, process: int) -> dict[str, float]:
    """Measure decisions of real processes, and a save of what is spread over them."""
    import jax
    import numpy as np

    import odyssey_jax as ody

    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    ody.parallel.initialize(address, processes, process)
    ody.parallel.decide(0, max, "begin")
    decision = timed(lambda: ody.parallel.decide(0, max, "here"), 200)
    mesh = jax.make_mesh((jax.device_count(),), ("data",))
    rows = jax.NamedSharding(mesh, jax.P("data"))
    array = np.ones((64, 256), np.float32)
    make = lambda: jax.make_array_from_callback(array.shape, rows, lambda index: array[index])
    tree, total = {f"w{n}": make() for n in range(30)}, []
    name = ody.parallel.from_first(tempfile.mkdtemp() if process == 0 else "", "directory")
    with ody.Store(name) as store:
        for step in range(5):
            begun = time.perf_counter()
            store.save(step, tree, {})
            store.wait()
            total.append(time.perf_counter() - begun)
    return {"decision": decision, "save": min(total[1:])}


def clients(count: int) -> float:
    """Measure a decision of as many clients of one service, each in a thread of this process."""
    from jax._src.lib import _jax  # pyright: ignore[reportPrivateImportUsage]

    address = free_address()
    service = _jax.get_distributed_runtime_service(address, count)
    connected: list[Any] = [None] * count
    KEPT.extend((service, connected))

    def connect(n: int) -> None:
        connected[n] = _jax.get_distributed_runtime_client(address, n, shutdown_timeout=1)
        connected[n].connect()

    in_threads(connect, range(count))

    def one(n: int, place: str) -> None:
        client = connected[n]
        if n:
            client.key_value_set(f"{place}/{n}", "0")
            client.blocking_key_value_get(f"{place}/answer", 60_000)
            return
        for other in range(1, count):
            if len(client.key_value_dir_get(f"{place}/")) == count - 1:
                break
            client.blocking_key_value_get(f"{place}/{other}", 60_000)
        client.key_value_set(f"{place}/answer", "0")

    rounds = iter(range(100))

    def decide() -> None:
        place = f"round{next(rounds)}"
        in_threads(lambda n: one(n, place), range(count))

    idle = timed(lambda: in_threads(lambda n: None, range(count)), 5)
    return max(timed(decide, 7) - idle, 0.0)


def in_threads(function: Callable[[int], None], numbers: Sequence[int]) -> None:
    """Call a function of each number, at once."""
    threads = [threading.Thread(target=function, args=(n,)) for n in numbers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def free_address() -> str:
    """Return an address at which nobody listens."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return f"localhost:{free.getsockname()[1]}"


def started(devices: int, *given: Any) -> subprocess.Popen[str]:
    """Start a measurement in a process of so many simulated devices."""
    flags = f"--xla_force_host_platform_device_count={devices}"
    return subprocess.Popen(
        [sys.executable, "-m", "benchmarks.scale_model", "--measure", *map(str, given)],
        env=os.environ | {"XLA_FLAGS": flags, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def answer(process: subprocess.Popen[str]) -> Any:
    """Return what a measurement has found."""
    out, errors = process.communicate(timeout=900)
    if process.returncode:
        raise RuntimeError(errors[-2000:])
    return json.loads(out.splitlines()[-1])


def measure(what: str, *given: str) -> None:
    """Print what one measurement finds, for the process that asked."""
    if what == "decisions":
        found: Any = decisions(given[0], int(given[1]), int(given[2]))
    elif what == "clients":
        found = clients(int(given[0]))
    else:
        found = {"loop": loop, "files": files}[what](int(given[0]), given[1] == "True")
    print(f"\n{json.dumps(found)}", flush=True)
    if what == "clients":
        os._exit(0)  # the clients would wait for one another


def show(title: str, rows: Sequence[tuple[str, dict[str, float]]]) -> None:
    """Print rows of milliseconds."""
    print(f"\n{title}; ms")
    for name, found in rows:
        print(f"{name:28}" + "".join(f" {key} {1e3 * x:9.3f}" for key, x in found.items()))


def model(per_host: float) -> dict[str, Ratio]:
    """Show the model for what is measured here and said in `Hosts`."""
    print(f"\nmodelled, for {per_host * 1e3:.2f} ms of a decision for each host")
    ratios = {}
    for hosts in (1, 8, 32, 256, 1000, 4000):
        # Up to 32 hosts the model grows with them; from there on copies of it do.
        writers = min(hosts, 32)
        part = writers / 32
        share = {"writers": writers, "state": Hosts.state * part, "files": Hosts.files * part}
        run = Hosts(hosts=hosts, per_host=per_host, **share)
        goodput = run.goodput(run.interval)
        print(
            f"{hosts:5} hosts: a decision {run.decision:5.2f} s, the loop {run.loop:.3f}, "
            f"blocked {run.blocked:4.1f} s, save {run.save:4.0f} s, restart {run.restart:4.0f} s, "
            f"fails each {run.mtbf / 3600:7.1f} h, saves each {run.interval / 60:5.1f} min, "
            f"goodput {goodput:.3f}; each 10 min {run.goodput(600):.3f}, "
            f"each 60 min {run.goodput(3600):.3f}"
        )
        ratios[f"goodput of {hosts} hosts"] = Ratio([goodput], 0.0, "higher")
    for hours in (8, 4, 2, 1):
        run = Hosts(per_host=per_host, mtbf_host=hours * 3600 * 1000)
        print(
            f"1000 hosts, preempted each {hours} h: saves each {run.interval / 60:.1f} min, "
            f"goodput {run.goodput(run.interval):.3f}"
        )
    return ratios


def main() -> None:
    if "--measure" in sys.argv:
        measure(*sys.argv[sys.argv.index("--measure") + 1 :])
        return
    options = arguments(str(__doc__).splitlines()[0])
    print(time.strftime("%Y-%m-%d"), versions())
    write_json(options.json, model(show_rows(options)))


def show_rows(options: argparse.Namespace) -> float:
    """Measure and print all rows; return what a decision takes for each process."""
    quick = options.quick
    rows = [
        (f"{leaves} leaves, {devices} devices", answer(started(devices, "loop", leaves, quick)))
        for leaves, devices in (LOOPS[:1] + LOOPS[3:4] if quick else LOOPS)
    ]
    show("a step, and what an epoch and a call add", rows)
    rows = [
        (f"{leaves} leaves in {devices} parts", answer(started(devices, "files", leaves, quick)))
        for leaves, devices in (FILES[:1] + FILES[3:4] if quick else FILES)
    ]
    show("a checkpoint", rows)
    rows = []
    for count in PROCESSES[: 1 if quick else None]:
        address = free_address()
        running = [started(2, "decisions", address, count, n) for n in range(count)]
        found = [answer(process) for process in running]
        rows.append((f"{count} processes", found[0]))
    show("a decision, and a save of 30 leaves", rows)
    counts = CLIENTS[: 2 if quick else None]
    rows = [(f"{n} clients", {"decision": answer(started(1, "clients", n))}) for n in counts]
    show("a decision, in threads", rows)
    return rows[-1][1]["decision"] / counts[-1]


if __name__ == "__main__":
    main()
