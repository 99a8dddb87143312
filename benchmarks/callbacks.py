"""What callbacks and writers add to the bare program, on the digits.

``python -m benchmarks.callbacks [--quick] [--json FILE]``

The problem, and the bare program that an expert would write for it, are those of
`benchmarks.loop`: AdamW on a 64-128-64-10 MLP, 39 steps and a validation pass an epoch.

- Each callback by itself in ``run_compiled``, and all of them together, over the bare program.
  Also an average of the parameters, and outputs sampled every tenth step. In many short turns:
  on a shared machine a few long ones differ by more than what is measured.
- ``fit`` with all of them and a line on a terminal, JSON lines and TensorBoard, over the bare
  program of as many epochs: from the moment that the writers are open until the run is over, with
  a checkpoint at its end and whenever the default cadence has one. Compilation is in no time.
- What each callback adds to the carry of a model of 10M parameters, exactly.
- Whether early stopping saves time: the digits, and a model that overfits them, with it and for
  the whole of their epochs; seconds are of the training, without validation and compilation.
"""

from __future__ import annotations

import io
import statistics
import tempfile
import time
from typing import Any

import jax
import optax
from flax import nnx
from rich.console import Console

import odyssey_jax as ody
from benchmarks import memory
from benchmarks._harness import (
    Ratio,
    arguments,
    interleave,
    ratio,
    show_ratios,
    show_times,
    write_json,
)
from benchmarks.loop import (
    NEVER,
    ROOT,
    SCHEDULE,
    STEPS,
    TASK,
    TRAIN,
    VALID,
    adamw,
    bare,
    timed,
)
from odyssey_jax._digits import MLP, load_digits, loss_fn
from odyssey_jax.train import StepOptions, fresh_copy, init_compiled

LOSS = "valid/loss"


def with_scale(rate: Any) -> optax.GradientTransformation:
    """The optimizer of the callbacks that lower the rate."""
    return optax.chain(adamw(rate), ody.scale_by_callback())


CALLBACKS: dict[str, ody.Callback] = {
    "log": ody.callbacks.log(1_024),
    "early_stopping": ody.early_stopping(LOSS, NEVER),
    "early_stopping, all options": ody.early_stopping(
        LOSS, NEVER, min_delta=1e-6, rtol=1e-6, baseline=10.0, stopping_threshold=0.0,
        divergence_threshold=1e9, smoothing=0.1, cooldown=1, start_from_epoch=1, min_epochs=1,
    ),
    "early_stopping, restore_best": ody.early_stopping(LOSS, NEVER, restore_best=True),
    "any_of two": ody.any_of(
        ody.early_stopping(LOSS, NEVER), ody.early_stopping("train/loss", NEVER)
    ),
    "track_best": ody.track_best(LOSS),
    "checkpoint": ody.checkpoint(every_epochs=NEVER),
    "terminate_on_nan": ody.terminate_on_nan(),
    "max_steps": ody.max_steps(2**30),
    "roll_back": ody.roll_back(),
    "adapt_rate": ody.adapt_rate(LOSS, ody.reduce_on_plateau(patience=NEVER)),
}  # fmt: skip
# All that --quick compares by itself: each takes seconds to compile.
QUICK = ("early_stopping, all options", "roll_back")
COPIES = {"early_stopping, restore_best": 1, "track_best": 1, "roll_back": 3, "average": 1}
EXTRAS = {
    "average": StepOptions(average=ody.exponential_average(0.999)),
    "samples": StepOptions(log_every_n_steps=10, log_outputs=["loss", "learning_rate"]),
    "samples with norms": StepOptions(log_every_n_steps=10, log_outputs=["loss", "grad_norm"]),
}


WIDER = (768, 512, 256)  # hidden layers at which a step takes about 1 ms

# At the digits' step of 80 us, each callback's kernels are as large as the model's.
ALL, FIT = 1.15, 1.25


def compiled(
    callbacks: Any,
    epochs: int,
    options: StepOptions | None = None,
    task: ody.Task = TASK,
) -> Any:
    """Seconds of a run through the public core."""
    params, model_state = task.init(ROOT)
    how: dict[str, Any] = {"callbacks": callbacks, "options": options, "sample_capacity": 4_096}
    loop = ody.train.make_loop(task, with_scale, **how)
    inputs = ody.train.Inputs(TRAIN, VALID, SCHEDULE)

    def run() -> float:
        carry = fresh_copy(init_compiled(loop, ROOT, params, model_state, inputs))
        jax.block_until_ready(carry)
        return timed(ody.train.run_compiled, loop, carry, inputs, epochs * STEPS)[0]

    return run


def measure_each(epochs: int, rounds: int, *, quick: bool) -> dict[str, Ratio]:
    """Every callback alone, and all of them, over the bare program and over none."""
    alone, extras = CALLBACKS, EXTRAS
    if quick:
        alone, extras = {name: CALLBACKS[name] for name in QUICK}, {}
    versions = {
        "bare": lambda: bare(epochs)[0],
        "none": compiled(None, epochs),
        **{name: compiled(each, epochs) for name, each in alone.items()},
        **{name: compiled(None, epochs, options) for name, options in extras.items()},
        "all": compiled(ody.chain(*CALLBACKS.values()), epochs),
    }
    times = interleave(versions, rounds, warmup=1)
    show_times(f"compiled, {epochs} epochs of {STEPS} steps", times)
    return {
        f"{name} / bare": ratio(times, name, "bare", ALL)
        for name in versions
        if name not in ("bare", *extras)
    } | {f"{name} / none": ratio(times, name, "none", ALL) for name in extras}


def measure_at_1_ms(rounds: int) -> dict[str, Ratio]:
    """All callbacks over none, on the digits with a model whose step takes about 1 ms."""
    task = ody.nnx_task(MLP(WIDER, 0.0, rngs=nnx.Rngs(0)), loss_fn)
    versions = {
        name: compiled(callbacks, 20, task=task)
        for name, callbacks in {"none": None, "all": ody.chain(*CALLBACKS.values())}.items()
    }
    times = interleave(versions, rounds, warmup=1)
    show_times(f"a wider model, 20 epochs of {STEPS} steps", times)
    step = statistics.median(times["none"]) / 20 / STEPS
    print(f"a step takes {1e3 * step:.2f} ms")
    return {"all / none, at a step of 1 ms": ratio(times, "all", "none", 1.02)}


class Stopwatch:
    """The last of the writers: times from when all are open until the run is over."""

    reads_state = False

    def open(self, run: ody.writers.RunInfo) -> None:
        """Is opened last, because `fit` opens in order, and it comes last."""
        del run
        self.begun = time.perf_counter()

    def write(self, rows: Any, live: ody.writers.Live) -> None:
        """Writes nothing."""

    def close(self) -> None:
        """Is closed first, as things are that were opened last."""
        self.seconds = time.perf_counter() - self.begun


def fitted(epochs: int) -> float:
    """Seconds of `fit` with everything, once it is compiled."""
    watch = Stopwatch()
    console = Console(file=io.StringIO(), force_terminal=True, width=120)
    with tempfile.TemporaryDirectory() as folder:
        writers = [ody.ProgressLine(console), ody.JsonLines(), ody.TensorBoard(), watch]
        ody.fit(
            TASK,
            with_scale,
            TRAIN,
            VALID,
            epochs=epochs,
            learning_rate=SCHEDULE,
            callbacks=ody.chain(
                *(each for name, each in CALLBACKS.items() if name not in ("log", "checkpoint"))
            ),
            directory=folder,
            writers=writers,
        )
    return watch.seconds


def measure_fit(epochs: int, rounds: int) -> dict[str, Ratio]:
    """Everything, through `fit`, over the bare program."""
    versions = {"bare": lambda: bare(epochs)[0], "fit": lambda: fitted(epochs)}
    times = interleave(versions, rounds, warmup=1)
    show_times(f"fit with everything, {epochs} epochs of {STEPS} steps", times)
    return {"fit with everything / bare": ratio(times, "fit", "bare", FIT)}


def measure_memory() -> dict[str, Ratio]:
    """Bytes that each adds to the carry of a model of 10M parameters with AdamW."""
    task = ody.nnx_task(lambda rngs: memory.Wide(memory.SIZES, rngs=rngs), memory.loss_fn)
    inputs = ody.train.Inputs(memory.dataset(128), memory.dataset(64), SCHEDULE)
    key = jax.random.key(0)

    def size(callbacks: Any, options: StepOptions | None = None) -> int:
        loop = ody.train.make_loop(task, with_scale, callbacks=callbacks, options=options)
        return memory.size_of(
            jax.eval_shape(lambda: init_compiled(loop, key, *task.init(key), inputs))
        )

    none, copy = size(None), memory.size_of(jax.eval_shape(task.init, key))
    extra = {name: size(each) - none for name, each in CALLBACKS.items()}
    extra["average"] = size(None, StepOptions(average=ody.exponential_average())) - none
    print(f"\nparameters and model state: {copy / 1e6:.1f} MB; added to the carry by")
    for name, added in extra.items():
        print(f"  {name:30} {added / 1e6:10.4f} MB")
    small = sum(added for name, added in extra.items() if name not in COPIES)
    ratios = {"all but averages and copies, MB": Ratio([small / 1e6], 100.0)}
    for name, copies in COPIES.items():
        ratios[f"{name}, copies"] = Ratio([extra[name] / copy], copies + 0.01)
    return ratios


def trained(hidden: tuple[int, ...], rate: float, patience: int, epochs: int) -> dict[str, Any]:
    """One run on the digits, with restore_best: epochs, seconds, accuracy on the test data."""
    task = ody.nnx_task(MLP(hidden, 0.0, rngs=nnx.Rngs(0)), loss_fn)
    result = ody.fit(
        task, adamw, TRAIN, VALID, epochs=epochs, learning_rate=rate, writers=[],
        callbacks=ody.early_stopping(LOSS, patience, restore_best=True),
    )  # fmt: skip
    seconds = result.steps / result.steps_per_second
    _, _, test = load_digits(TRAIN.batch_size)
    tested = ody.evaluate(task, result.state, test, {"accuracy": ody.Accuracy()})
    found = {"epochs": result.epochs, "seconds": seconds}
    return found | {"best epoch": result.best_epoch, "accuracy": float(tested["accuracy"])}


def measure_stopping(epochs: int, *, quick: bool) -> dict[str, Ratio]:
    """What early stopping saves, and what it costs in accuracy; compilation is in no time."""
    ratios = {}
    cases = {"digits": ((128, 64), 3e-3), "overfitting": ((512, 512), 3e-3)}
    if quick:  # the digits save less, and take as long to compile
        del cases["digits"]
    for name, (hidden, rate) in cases.items():
        stopped = trained(hidden, rate, 15, epochs)
        whole = trained(hidden, rate, NEVER, epochs)
        print(f"\n{name}, at most {epochs} epochs, patience 15 and none:")
        for key in stopped:
            print(f"  {key:12} {stopped[key]:10.4g} {whole[key]:10.4g}")
        lost = whole["accuracy"] - stopped["accuracy"]
        ratios |= {
            f"{name}: epochs, stopped / whole": Ratio([stopped["epochs"] / whole["epochs"]], 0.9),
            f"{name}: seconds, stopped / whole": Ratio(
                [stopped["seconds"] / whole["seconds"]], 0.9
            ),
            f"{name}: accuracy lost": Ratio([lost], 0.01),
        }
    return ratios


def main() -> None:
    """Measures, prints, and writes what was asked for."""
    options = arguments(str(__doc__).splitlines()[0])
    ratios = measure_each(20, 20 if options.quick else 150, quick=options.quick)
    ratios |= measure_at_1_ms(5 if options.quick else 31)
    ratios |= measure_fit(*((300, 2) if options.quick else (2_000, 9)))
    ratios |= measure_memory()
    ratios |= measure_stopping(60 if options.quick else 300, quick=options.quick)
    show_ratios(ratios)
    write_json(options.json, ratios)


if __name__ == "__main__":
    main()
