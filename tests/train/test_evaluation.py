"""Sets of validation data that are measured in their own way, in both programs."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import odyssey_jax as ody
from odyssey_jax.feed import make_program
from odyssey_jax.train import Evaluation, EvaluationOptions, Inputs, Keys
from tests import examples
from tests.examples import assert_same
from tests.sources import Read

EPOCHS, STEPS = 7, 5
METRICS = {"accuracy": ody.Accuracy(), "table": ody.ConfusionMatrix(examples.CLASSES)}
EVERY = ody.every(epochs=3) | ody.callbacks.at(epochs=2)
DUE = [1, 2, 5]  # the epochs, counted from 0


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Examples:
    """How many examples there were: an integer."""

    count: jax.Array | int = 0

    def empty(self):
        return Examples(jnp.int32(0))

    def from_model_output(self, weight):
        return Examples(jnp.asarray(weight, jnp.int32))

    def merge(self, other):
        return Examples(self.count + other.count)

    def compute(self):
        return self.count


OWN = {**METRICS, "examples": Examples()}


def valid_data(kind):
    return examples.valid_data() if kind == "here" else Read(batch_size=8, examples=22, seed=1)


def program(kind, evaluations=None, sets=("all", "own"), **options):
    return make_program(
        examples.linear_task(),
        optax.adam,
        examples.train_data(),
        {name: valid_data(kind) for name in sets},
        ody.constant(0.05),
        metrics=METRICS,
        capacity=8,
        evaluations=evaluations,
        **options,
    )


def run_on(program, carry, limit):
    while True:
        carry, progress = program.run(carry, limit)
        progress = progress.fetch()
        if progress.step >= limit and not progress.reading.validating:
            return carry, progress


def own(**options):
    return {"own": Evaluation(None, **options).options}


@pytest.mark.parametrize(("kind", "batches"), [("here", 2), ("here", 3), ("read", None)])
def test_it_is_measured_when_it_is_due_and_as_far_as_it_is_to_be(kind, batches):
    """As a set of so many examples is, that is measured in every epoch."""
    each = program(kind, own(batches=batches, metrics=OWN))
    rare = program(kind, own(batches=batches, metrics=OWN, every=EVERY))
    ends = [run_on(p, p.init(jax.random.key(3)), EPOCHS * STEPS)[1] for p in (each, rare)]
    always, seldom = (progress.history() for progress in ends)
    assert always.keys() == seldom.keys() >= {"valid/own/examples", "valid/all/accuracy"}
    assert set(always["valid/own/examples"]) == {22 if batches != 2 else 16}
    for name, column in always.items():
        rows = DUE if name.startswith("valid/own/") else list(range(EPOCHS))
        want = np.full(EPOCHS, np.nan)
        want[rows] = column[rows]
        np.testing.assert_allclose(seldom[name], want, rtol=1e-6)
    assert "valid/own/table" in ends[0].arrays()
    assert set(ends[1].arrays()) == {"valid/all/table"}  # not an empty one of the last epoch
    assert "valid/own/loss" not in ends[1].metrics()
    assert_same(ends[0].latest["train/loss"], ends[1].latest["train/loss"])


@pytest.mark.parametrize("kind", ["here", "read"])
def test_however_a_run_is_cut_it_is_the_same(kind):
    stopping = ody.early_stopping("valid/own/loss", patience=9, restore_best=True)
    made = program(kind, own(every=EVERY), callbacks=stopping)
    whole, _ = run_on(made, made.init(jax.random.key(3)), EPOCHS * STEPS)
    carry = made.init(jax.random.key(3))
    for limit in (0, 5, 7, 15, 16, 30, 35):
        carry, progress = run_on(made, carry, limit)
    assert_same(carry, whole)
    compiled = {f.__name__: jitted for f, jitted in made.loop.programs._jitted.items()}
    if kind == "read":  # one program, whatever is due
        assert compiled["_end_epoch"]._cache_size() == 1
    (found,) = made.finish(carry).bests
    assert int(found.best.epoch) in DUE
    row = int(found.best.epoch)
    assert float(found.best.value) == progress.history()["valid/own/loss"][row]


def test_what_is_not_due_costs_nothing():
    validations = []

    def evaluate(params, model_state, batch):
        jax.debug.callback(lambda: validations.append(1))
        loss, outputs = examples.linear_loss(params, batch)
        return {**outputs, "loss": loss}

    task = examples.linear_task()._replace(evaluate=evaluate)
    loop = ody.train.make_loop(
        task, optax.adam, evaluations={"": EvaluationOptions(every=EVERY, batches=2)}
    )
    inputs = Inputs(examples.train_data(), examples.valid_data(), ody.constant(0.05))
    many = ody.train.population(loop, task, Inputs(None, None, None))
    carry = many.init(jax.random.split(jax.random.key(0), 2), inputs)
    carry = jax.jit(many.run)(carry, inputs, EPOCHS * STEPS)
    jax.effects_barrier()
    assert len(validations) == len(DUE) * 2  # of batches, for both members at once
    source = valid_data("read")
    made = make_program(
        examples.linear_task(), optax.adam, examples.train_data(), source, ody.constant(0.05),
        capacity=8, evaluations={"": EvaluationOptions(every=EVERY, batches=2)},
    )  # fmt: skip
    run_on(made, made.init(jax.random.key(3)), EPOCHS * STEPS)
    assert len(source.readers) == len(DUE)


def test_a_member_of_a_population_is_its_own_run():
    """The conditional on the clock is one that all members share."""
    task, callbacks = examples.linear_task(), ody.early_stopping("valid/loss", 2, min_delta=0.01)
    how = {"": EvaluationOptions(every=ody.every(epochs=2))}
    loop = ody.train.make_loop(task, optax.adam, callbacks=callbacks, capacity=16, evaluations=how)
    rates = jax.vmap(ody.constant)(jnp.array([0.05, 1e-6]))
    inputs = Inputs(examples.train_data(), examples.valid_data(), rates)
    keys = jax.random.split(jax.random.key(0), 2)
    many = ody.train.population(loop, task)
    carry = jax.jit(many.run)(many.init(keys, inputs), inputs, 60)
    epochs = []
    for i, key in enumerate(keys):
        member = inputs._replace(learning_rate=jax.tree.map(lambda x, i=i: x[i], rates))
        alone = loop.init(key, *task.init(Keys.of(key).init), member)
        alone = jax.jit(loop.run)(alone, member, 60)
        epochs.append(int(alone.history.length))
        mine = jax.tree.map(lambda x, i=i: x[i], carry.history)
        assert int(mine.length) == epochs[-1]
        rows = slice(epochs[-1])
        np.testing.assert_allclose(
            mine.metrics["valid/loss"][rows], alone.history.metrics["valid/loss"][rows], rtol=1e-4
        )
    assert epochs[1] < epochs[0]


def test_who_says_nothing_has_the_program_that_there_was():
    def traced(evaluations):
        task = examples.linear_task()
        loop = ody.train.make_loop(
            task, optax.adam, metrics=METRICS, callbacks=ody.early_stopping("valid/loss", 3),
            capacity=8, evaluations=evaluations,
        )  # fmt: skip
        inputs = Inputs(examples.train_data(), examples.valid_data(), ody.constant(0.05))
        carry = loop.init(jax.random.key(0), *task.init(None), inputs)
        run = jax.make_jaxpr(lambda carry, inputs: loop.run(carry, inputs, 20))
        return str(run(carry, inputs)), str(jax.make_jaxpr(loop.finish)(carry))

    assert traced(None) == traced({"": EvaluationOptions()})
    assert traced(None) != traced({"": EvaluationOptions(every=EVERY)})


def test_a_metric_of_ones_own_knows_its_direction():
    how = own(metrics={"top1": ody.Accuracy()})
    made = program("here", how, callbacks=ody.track_best("valid/own/top1"))
    assert ("valid/own/top1", "max") in made.loop.modes


def test_a_set_that_there_is_not_is_named():
    with pytest.raises(
        ValueError, match=r"evaluations are of \['own'\], and the sets .* \['all'\]"
    ):
        program("here", own(batches=2), sets=["all"]).init(jax.random.key(0))


def test_one_that_is_never_due():
    made = program("here", own(every=ody.callbacks.at(epochs=())))
    carry, progress = run_on(made, made.init(jax.random.key(3)), STEPS)
    assert np.isnan(progress.history()["valid/own/loss"]).all()
    assert made.measure(carry, ["own"])["valid/own/loss"] > 0


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"every": 5}, TypeError, "every must be a condition such as every.epochs=5., got 5"),
        (
            {"every": ody.every(steps=9) | ody.every(seconds=1)},
            ValueError,
            r"every=every\(steps=9\) \| .*, where seconds don't count: use epochs= or steps=",
        ),
        ({"batches": 0}, ValueError, "batches must be an integer of at least 1 or None"),
        ({"metrics": [ody.Accuracy()]}, TypeError, "metrics must be a mapping such as"),
        ({"at_start": 1}, ValueError, "at_start must be True or False, got 1"),
    ],
)
def test_what_is_refused(options, error, message):
    with pytest.raises(error, match=message):
        ody.Evaluation(None, **options)
    with pytest.raises(TypeError, match="an Evaluation is of data"):
        ody.Evaluation(ody.Evaluation(None))
