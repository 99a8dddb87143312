"""Lightning: a `LightningModule`, a `Trainer` and its callbacks."""

import logging
import tempfile
import warnings

import lightning as L
import torch
from _measure import run
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint
from pytorch import MODELS, loaders
from torch import nn

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
warnings.filterwarnings("ignore")


class Classifier(L.LightningModule):
    def __init__(self, name, rate):
        super().__init__()
        self.model, self.rate = MODELS[name](), rate
        self.loss_fn = nn.CrossEntropyLoss()

    def training_step(self, batch, index):
        x, y = batch
        loss = self.loss_fn(self.model(x), y)
        self.log("train/loss", loss, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch, index):
        x, y = batch
        logits = self.model(x)
        self.log("valid/loss", self.loss_fn(logits, y))
        self.log("valid/accuracy", (logits.argmax(1) == y).float().mean())

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), self.rate, weight_decay=1e-4)


class AtEpoch(Callback):
    def __init__(self, call):
        self.call = call

    def on_train_epoch_end(self, trainer, module):
        self.call()


def train(job, data, checkpoints, at_epoch):
    L.seed_everything(0, verbose=False)
    module = Classifier(job["name"], job["rate"])
    callbacks = [EarlyStopping("valid/loss", patience=job["patience"]), AtEpoch(at_epoch)]
    with tempfile.TemporaryDirectory() as folder:
        # Lightning restores the best parameters from a file alone.
        best = ModelCheckpoint(folder, monitor="valid/loss", save_weights_only=True)
        callbacks.append(best)
        if checkpoints:
            callbacks.append(ModelCheckpoint(checkpoints, save_last=True))
        quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
        trainer = L.Trainer(
            accelerator="cpu",
            max_epochs=job["epochs"],
            num_sanity_val_steps=0,
            callbacks=callbacks,
            **quiet,
        )
        trainer.fit(module, *loaders(job, data))
        module.load_state_dict(torch.load(best.best_model_path)["state_dict"])
    module.eval()
    return lambda images: module.model(torch.from_numpy(images)).argmax(1).numpy()


if __name__ == "__main__":
    run(train, "lightning", "torch")
