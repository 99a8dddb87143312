"""Keras on JAX: `compile`, `fit` and its callbacks."""

import os

os.environ["KERAS_BACKEND"] = "jax"

import keras
import numpy as np
from _measure import run


def digits():
    layers = keras.layers
    dense = [layers.Dense(128, activation="relu"), layers.Dense(64, activation="relu")]
    return keras.Sequential([layers.Input((64,)), *dense, layers.Dense(10)])


def cnn():
    layers = keras.layers
    conv = lambda width: layers.Conv2D(width, 3, strides=2, padding="same", activation="relu")
    image = [layers.Input((64, 64, 3)), layers.Rescaling(1 / 255)]
    head = [layers.GlobalAveragePooling2D(), layers.Dense(10)]
    return keras.Sequential([*image, conv(16), conv(32), conv(64), *head])


class Batches(keras.utils.PyDataset):
    def __init__(self, data, part, size):
        super().__init__()
        self.x, self.y, self.size = data[f"{part}_image"], data[f"{part}_label"], size
        self.order = np.random.default_rng(0).permutation(len(self.y))

    def __len__(self):
        return len(self.y) // self.size

    def __getitem__(self, index):
        rows = self.order[index * self.size : (index + 1) * self.size]
        return self.x[rows], self.y[rows]

    def on_epoch_end(self):
        np.random.default_rng().shuffle(self.order)


def train(job, data, checkpoints, at_epoch):
    keras.utils.set_random_seed(0)
    model = {"digits": digits, "cnn": cnn}[job["name"]]()
    model.compile(
        keras.optimizers.AdamW(job["rate"], weight_decay=1e-4),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        steps_per_execution=job["steps_per_execution"],
    )
    callbacks = [
        keras.callbacks.EarlyStopping(patience=job["patience"], restore_best_weights=True),
        keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: at_epoch()),
    ]
    if checkpoints:
        checkpoints.mkdir(parents=True, exist_ok=True)
        callbacks.append(keras.callbacks.ModelCheckpoint(checkpoints / "last.keras"))
    if job["streamed"]:
        given = {"x": Batches(data, "train", job["batch"])}
        valid = Batches(data, "valid", job["valid_batch"])
    else:
        count = len(data["train_label"]) // job["batch"] * job["batch"]
        given = {"x": np.asarray(data["train_image"])[:count], "batch_size": job["batch"]}
        given["y"] = np.asarray(data["train_label"])[:count]
        valid = np.asarray(data["valid_image"]), np.asarray(data["valid_label"])
    model.fit(**given, epochs=job["epochs"], validation_data=valid, callbacks=callbacks, verbose=0)
    return lambda images: np.argmax(model.predict(images, verbose=0), -1)


if __name__ == "__main__":
    run(train, "keras", "jax")
