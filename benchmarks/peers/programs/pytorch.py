"""PyTorch: modules, a `DataLoader`, and the loop of its tutorial."""

import copy

import numpy as np
import torch
from _measure import run
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset


def digits():
    wide = nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU()
    return nn.Sequential(*wide, nn.Linear(64, 10))


class CNN(nn.Module):
    def __init__(self):
        super().__init__()
        conv = lambda i, o: nn.Conv2d(i, o, 3, stride=2, padding=1)
        self.layers = nn.ModuleList([conv(3, 16), conv(16, 32), conv(32, 64)])
        self.head = nn.Linear(64, 10)

    def forward(self, x):
        x = x.permute(0, 3, 1, 2).float() / 255
        for layer in self.layers:
            x = layer(x).relu()
        return self.head(x.mean((2, 3)))


MODELS = {"digits": digits, "cnn": CNN}


class Examples(Dataset):
    def __init__(self, data, part):
        self.x, self.y = data[f"{part}_image"], data[f"{part}_label"]

    def __len__(self):
        return len(self.y)

    def __getitem__(self, index):
        return np.array(self.x[index]), int(self.y[index])


def resident(data, part):
    arrays = np.array(data[f"{part}_image"]), np.array(data[f"{part}_label"], np.int64)
    return TensorDataset(*map(torch.from_numpy, arrays))


def loaders(job, data):
    kind = Examples if job["streamed"] else resident
    train = DataLoader(kind(data, "train"), job["batch"], shuffle=True, drop_last=True)
    return train, DataLoader(kind(data, "valid"), job["valid_batch"])


def train(job, data, checkpoints, at_epoch):
    torch.manual_seed(0)
    model, loss_fn = MODELS[job["name"]](), nn.CrossEntropyLoss()
    optimizer = torch.optim.AdamW(model.parameters(), job["rate"], weight_decay=1e-4)
    train_loader, valid_loader = loaders(job, data)
    best, best_loss, since, history = model.state_dict(), np.inf, 0, []
    for epoch in range(job["epochs"]):
        model.train()
        total = 0.0
        for x, y in train_loader:
            optimizer.zero_grad()
            loss = loss_fn(model(x), y)
            loss.backward()
            optimizer.step()
            total += loss.item()
        model.eval()
        valid, right, seen = 0.0, 0, 0
        with torch.no_grad():
            for x, y in valid_loader:
                logits = model(x)
                valid += loss_fn(logits, y).item() * len(y)
                right, seen = right + (logits.argmax(1) == y).sum().item(), seen + len(y)
        history.append((total / len(train_loader), valid / seen, right / seen))
        at_epoch()
        if valid < best_loss:
            best, best_loss, since = copy.deepcopy(model.state_dict()), valid, 0
        else:
            since += 1
        if checkpoints:
            checkpoints.mkdir(parents=True, exist_ok=True)
            state = {"epoch": epoch, "model": model.state_dict(), "best": best}
            torch.save(state | {"optimizer": optimizer.state_dict()}, checkpoints / "last.pt")
        if since >= job["patience"]:
            break
    model.load_state_dict(best)
    return lambda images: model(torch.from_numpy(images)).argmax(1).numpy()


if __name__ == "__main__":
    run(train, "torch")
