"""Checkpoints: what a run leaves, how it is read, and a store of one's own."""

# --8<-- [start:run]
import jax.numpy as jnp
import numpy as np
import optax

import odyssey_jax as ody

task = ody.pure_task({"w": jnp.zeros(3)}, lambda p, batch: ((p["w"] - batch) ** 2).mean())
data = ody.ArrayDataset(jnp.ones((40, 3)), batch_size=4)
ody.fit(
    task,
    optax.sgd,
    data,
    data,
    epochs=10,
    learning_rate=0.1,
    callbacks=ody.checkpoint(every_epochs=2, keep_last=2, keep_best=1, monitor="valid/loss"),
    directory="runs/kept",
)
# --8<-- [end:run]

# --8<-- [start:read]
params = ody.load_params("runs/kept", step="best")  # nested dicts of NumPy arrays
print(params["w"].shape)

reader = ody.store.Reader("runs/kept/checkpoints")
print(reader.steps())
print([leaf.name for leaf in reader.leaves(reader.latest()) if "state/params" in leaf.name])
# --8<-- [end:read]

# --8<-- [start:store]
with ody.Store("runs/mine", keep_last=3, keep_every=1_000, monitor="loss") as store:
    store.save(100, {"params": params, "epoch": 7}, {"metrics": {"loss": 0.5}})
    store.wait()  # saves are written in the background
    restored = store.restore({"params": params, "epoch": 0})
print(restored.step, restored.tree["epoch"], restored.report)
# --8<-- [end:store]

# --8<-- [start:mismatch]
with ody.Store("runs/mine", monitor="loss") as store:
    try:
        store.restore({"params": {"w": np.zeros(4, np.float32)}, "epoch": 0})
    except ody.errors.CheckpointMismatchError as error:
        print(error.shape)
# --8<-- [end:mismatch]

# --8<-- [start:transfer]
with ody.Store("runs/mine", monitor="loss") as store:
    target = {"weights": np.zeros(3, np.float32), "bias": np.zeros(1, np.float32)}
    transfer = ody.Transfer(
        rename={"^params/w$": "weights"}, initialize=["^bias$"], ignore=["^epoch$"]
    )
    print(store.restore(target, transfer=transfer).report)
# --8<-- [end:transfer]
