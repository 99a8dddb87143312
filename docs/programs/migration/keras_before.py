"""Keras."""

import keras
import numpy as np

# --8<-- [start:data]
x = np.random.default_rng(0).normal(size=(600, 2)).astype(np.float32)
y = (x[:, 0] * x[:, 1] > 0).astype(np.int32)
# --8<-- [end:data]


# --8<-- [start:program]
model = keras.Sequential([keras.layers.Dense(16, activation="relu"), keras.layers.Dense(2)])
schedule = keras.optimizers.schedules.CosineDecay(1e-2, 160)
model.compile(
    optimizer=keras.optimizers.AdamW(schedule, weight_decay=1e-4, global_clipnorm=1.0),
    loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    metrics=["accuracy"],
)
history = model.fit(
    x[:400],
    y[:400],
    batch_size=50,
    validation_data=(x[400:], y[400:]),
    epochs=20,
    callbacks=[
        keras.callbacks.EarlyStopping("val_loss", patience=5, restore_best_weights=True),
        keras.callbacks.BackupAndRestore("runs/keras"),
        keras.callbacks.ModelCheckpoint(
            "best.weights.h5", "val_loss", save_best_only=True, save_weights_only=True
        ),
        keras.callbacks.CSVLogger("history.csv"),
    ],
)
model.evaluate(x[400:], y[400:])
probabilities = keras.ops.softmax(model.predict(x[400:]))
# --8<-- [end:program]
