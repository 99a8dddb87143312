"""The runs that test_kill.py kills: what differs between them, and what is compared."""

import pickle

import jax
import optax

import odyssey_jax as ody
from tests import examples

EPOCHS = 12


class Ready:
    """Says when the training begins."""

    def __init__(self, pipe):
        self.pipe = pipe

    def open(self, run):
        self.pipe.send("ready")

    def write(self, rows, steps_per_second):
        pass

    def close(self):
        pass


def best(**keep):
    stopping = ody.early_stopping("valid/loss", 400, restore_best=True)
    return ody.chain(stopping, ody.checkpoint(monitor="valid/loss", **keep))


# Functions, for the devices belong to the process that asks for them first.
CONFIGURATIONS = {
    "nnx": lambda: {
        "task": examples.nnx_task(),
        "callbacks": best(every_epochs=2, keep_best=1),
        "metrics": {"accuracy": ody.Accuracy()},
    },
    "linen": lambda: {
        "task": examples.linen_task(),
        "callbacks": best(every_epochs=1, keep_last=3, keep_best=2),
    },
    "every epoch": lambda: {
        "callbacks": ody.checkpoint(every_epochs=1),
        "steps_per_epoch": 1,
        "epochs": 2 * EPOCHS,
    },
    "keep all": lambda: {
        "callbacks": ody.checkpoint(every_epochs=3, keep_last=None),
        "optimizer": optax.sgd(0.1, momentum=0.9),
        "learning_rate": None,
        "epochs": 3 * EPOCHS,
    },
    "accumulated": lambda: {
        "train": examples.train_data(batch_size=7, drop_remainder=False),
        "callbacks": ody.checkpoint(every_epochs=1, keep_last=2),
        "accumulate_steps": 4,
        "steps_per_epoch": 5,
        "clip_norm": 1.0,
    },
    "sharded": lambda: {
        "task": examples.nnx_task(),
        "callbacks": best(every_epochs=1, keep_best=1),
        "placement": ody.data_parallel(),
    },
    "adapted": lambda: {
        "task": examples.linen_task(),
        "optimizer": lambda rate: optax.chain(optax.sgd(rate), ody.scale_by_callback()),
        "learning_rate": 0.5,
        "callbacks": ody.chain(
            ody.adapt_rate("valid/loss", ody.reduce_on_plateau(0.5, patience=2)),
            ody.track_best("valid/loss"),
            ody.checkpoint(every_epochs=1),
        ),
    },
    "within epochs": lambda: {
        "task": examples.nnx_task(),
        "callbacks": ody.chain(
            ody.early_stopping("valid/loss", 400, restore_best=True),
            ody.checkpoint(ody.every(steps=3) & ~ody.callbacks.at(steps=9), keep_last=2),
        ),
        "steps_per_epoch": 7,
        "epochs": EPOCHS // 2,
    },
    "with writers": lambda: {
        "callbacks": ody.chain(
            ody.adapt_rate("valid/loss", ody.reduce_on_plateau(0.5, patience=2)),
            ody.checkpoint(every_epochs=1),
        ),
        "optimizer": lambda rate: optax.chain(optax.sgd(rate), ody.scale_by_callback()),
        "learning_rate": 0.5,
        "log_every_n_steps": 2,
        "log_outputs": ("loss", "grad_norm", "learning_rate"),
        "epochs": 4 * EPOCHS,
        "writers": [ody.JsonLines(), ody.CsvFile(), ody.TensorBoard(histograms_every=1)],
    },
    "by the clock": lambda: {
        "callbacks": ody.checkpoint(ody.every(seconds=0.01), keep_best=1, monitor="valid/loss"),
        "steps_per_epoch": 7,
        "epochs": 200 * EPOCHS,
    },
    "stopped": lambda: {
        "learning_rate": 0.5,
        "callbacks": ody.chain(
            ody.early_stopping("valid/loss", 20, restore_best=True),
            ody.checkpoint(every_epochs=2, keep_last=2),
        ),
        "epochs": 100 * EPOCHS,
    },
}


def run(name, directory, cache, pipe):
    """One call of fit, to the end if it is let; then the outcome is in a file."""
    jax.config.update("jax_compilation_cache_dir", str(cache))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    arguments = {
        "task": examples.linear_task(),
        "optimizer": optax.adamw,
        "learning_rate": ody.warmup_cosine(0.02, 10, 5 * EPOCHS),
        "train": examples.train_data(),
        "epochs": EPOCHS,
        "writers": [ody.JsonLines()],
    } | CONFIGURATIONS[name]()
    arguments["writers"] += [Ready(pipe)]
    result = ody.fit(valid=examples.valid_data(), directory=directory, **arguments)
    outcome = (with_key_data(result.carry), result.state, result.best, dict(result.history))
    with open(f"{directory}.outcome", "wb") as file:
        pickle.dump([x.tobytes() for x in jax.device_get(jax.tree.leaves(outcome))], file)


def with_key_data(carry):
    return carry._replace(key=jax.random.key_data(carry.key))
