"""Lightning."""

import lightning
import numpy as np
import torch
from lightning.pytorch.callbacks import EarlyStopping, LearningRateMonitor, ModelCheckpoint
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

# --8<-- [start:data]
x = np.random.default_rng(0).normal(size=(600, 2)).astype(np.float32)
y = (x[:, 0] * x[:, 1] > 0).astype(np.int32)
# --8<-- [end:data]


# --8<-- [start:program]
class Classifier(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, 2))

    def shared(self, batch, name):
        x, y = batch
        logits = self.net(x)
        loss = nn.functional.cross_entropy(logits, y)
        self.log(f"{name}/loss", loss)
        self.log(f"{name}/accuracy", (logits.argmax(-1) == y).float().mean())
        return loss

    def training_step(self, batch, _):
        return self.shared(batch, "train")

    def validation_step(self, batch, _):
        self.shared(batch, "valid")

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters(), lr=1e-2)
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 80)
        return [optimizer], [{"scheduler": scheduler, "interval": "step"}]


data = TensorDataset(torch.from_numpy(x), torch.from_numpy(y).long())
train, valid = torch.utils.data.random_split(data, [400, 200])
trainer = lightning.Trainer(
    max_epochs=20,
    gradient_clip_val=1.0,
    accumulate_grad_batches=2,
    log_every_n_steps=4,
    callbacks=[
        EarlyStopping("valid/loss", patience=5),
        ModelCheckpoint(monitor="valid/loss", save_top_k=1, save_last=True),
        LearningRateMonitor("step"),
    ],
)
trainer.fit(
    Classifier(),
    DataLoader(train, 50, shuffle=True),
    DataLoader(valid, 50),
    ckpt_path="last",
)
# --8<-- [end:program]
