"""Schedules: build, look, and train with one."""

# --8<-- [start:build]
import odyssey_jax as ody

warmup = ody.linear_warmup(0.1, 500)
schedule = warmup.then(ody.cosine_decay(0.1, 9_500), 500)
print(schedule)
print(float(schedule(0)), round(float(schedule(500)), 6), float(schedule(10_000)))
# --8<-- [end:build]

# --8<-- [start:algebra]
wavy = 0.9 * schedule + ody.schedules.cyclic(0.0, 0.01, 200)
print(wavy == 0.9 * schedule + ody.schedules.cyclic(0.0, 0.01, 200))  # compared by value
# --8<-- [end:algebra]

# --8<-- [start:look]
print(ody.plots.plot_text({"plain": schedule, "wavy": wavy}, 10_000, width=60, height=7))
print(ody.schedules.describe(schedule))
jumps = ody.join([warmup, ody.cosine_decay(0.05, 9_500)], [500])
for finding in ody.schedules.lint(jumps, 10_000):
    print(finding.what)
ody.plot({"plain": schedule, "wavy": wavy}, 10_000, path="schedules.svg")
# --8<-- [end:look]

# --8<-- [start:units]
in_epochs = ody.warmup_cosine(0.1, ody.schedules.epochs(5), ody.schedules.fraction(1))
resolved = in_epochs.resolve(steps_per_epoch=100, total_steps=2_000)  # `fit` does it by itself
print(round(float(resolved(500)), 6))
# --8<-- [end:units]

# --8<-- [start:train]
import jax.numpy as jnp
import optax

task = ody.pure_task(jnp.zeros(3), lambda w, batch: ((w - batch) ** 2).mean())
data = ody.ArrayDataset(jnp.ones((40, 3)), batch_size=4)
result = ody.fit(task, optax.sgd, data, epochs=20, learning_rate=in_epochs)
print(result.history["learning_rate"].round(3)[[0, 4, 19]])
# --8<-- [end:train]

# --8<-- [start:metric]
result = ody.fit(
    task,
    lambda rate: optax.chain(optax.sgd(rate), ody.scale_by_callback()),
    data,
    data,
    epochs=60,
    learning_rate=0.1,
    callbacks=ody.adapt_rate("valid/loss", ody.reduce_on_plateau(0.5, patience=5)),
)
print(result.history["learning_rate"][-1] < 0.1)
# --8<-- [end:metric]

# --8<-- [start:gradient]
import jax

rates = jnp.linspace(0.01, 0.2, 4)
peaks = jax.vmap(lambda peak: ody.warmup_cosine(peak, 10, 100)(10))(rates)
slope = jax.grad(lambda peak: ody.warmup_cosine(peak, 10, 100)(55))(0.1)
print(peaks, round(float(slope), 2))
# --8<-- [end:gradient]
