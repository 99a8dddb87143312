"""transformers' Trainer."""

import numpy as np
from datasets import Dataset
from transformers import (
    AutoModelForSequenceClassification,
    EarlyStoppingCallback,
    Trainer,
    TrainingArguments,
)

# --8<-- [start:data]
x = np.random.default_rng(0).integers(0, 64, size=(600, 8))
y = (x[:, 0] < x[:, 1]).astype(np.int32)
tokenized = Dataset.from_dict({"input_ids": x, "labels": y}).train_test_split(200, seed=0)
# --8<-- [end:data]


# --8<-- [start:program]
def compute_metrics(predictions):
    found = predictions.predictions.argmax(-1)
    return {"accuracy": (found == predictions.label_ids).mean()}


model = AutoModelForSequenceClassification.from_pretrained("a-model", num_labels=2)
trainer = Trainer(
    model=model,
    args=TrainingArguments(
        output_dir="runs/trainer",
        num_train_epochs=20,
        per_device_train_batch_size=50,
        gradient_accumulation_steps=2,
        learning_rate=1e-2,
        weight_decay=0.01,
        max_grad_norm=1.0,
        lr_scheduler_type="cosine",
        warmup_steps=8,
        eval_strategy="epoch",
        save_strategy="epoch",
        save_total_limit=2,
        load_best_model_at_end=True,
        metric_for_best_model="accuracy",
        logging_steps=4,
        bf16=True,
        seed=0,
        report_to=["tensorboard"],
    ),
    train_dataset=tokenized["train"],
    eval_dataset=tokenized["test"],
    compute_metrics=compute_metrics,
    callbacks=[EarlyStoppingCallback(5)],
)
trainer.train(resume_from_checkpoint=True)
# --8<-- [end:program]
