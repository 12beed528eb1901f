"""Trains the two models of the ECG example on `data/train.npz`, then measures them.

    python examples/ecg/train.py [edge|cloud]... [--out DIR]

Writes `edge.keras` and `cloud.keras` (both when none is named) to DIR, next to this script unless
told otherwise.  Both take `beat`, float32 [n, 140, 1]: a beat from `zscore`, no unit.  Both give
`logits`, float32 [n, 5]: no softmax.

Only `train` is learned from.  Shapes and settings were chosen by 5-fold cross-validation inside
`train`; the number of epochs is fixed, so that `validation` stays unseen (a confidence threshold
can be fitted on it) and `test` is only measured.

Two runs on one machine (TensorFlow 2.21 and Keras 3.15 on a CPU) gave the same weights bit for bit;
another processor or release may round differently.  The files differ in the date that Keras stores.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import keras
import numpy as np
import tensorflow as tf
from keras import layers
from numpy.typing import NDArray

HERE = Path(__file__).resolve().parent
PARTS = ("train", "validation", "test")
SAMPLES = 140
CLASSES = 5
SEED = 7
BATCH = 32

Floats: TypeAlias = NDArray[np.float32]
Labels: TypeAlias = NDArray[np.uint8]
Tensor: TypeAlias = Any  # a symbolic Keras tensor: Keras has no public type for it


@dataclass(frozen=True)
class Recipe:
    """How long and how hard a network is trained; `mixup` is Beta's parameter, 0 for none."""

    epochs: int
    rate: float
    mixup: float


EDGE = Recipe(epochs=160, rate=3e-3, mixup=0.0)
CLOUD = Recipe(epochs=60, rate=2e-3, mixup=0.3)


def zscore(beats: NDArray[np.floating[Any]]) -> Floats:
    """Brings each beat [n, 140] to mean 0 and (population) standard deviation 1, float32."""
    values = beats.astype(np.float32)
    centred = values - values.mean(axis=1, keepdims=True)
    scaled: Floats = centred / centred.std(axis=1, keepdims=True)
    return scaled


def load(part: str) -> tuple[Floats, Labels]:
    """The beats of a part, z-scored, float32 [n, 140], and their classes, uint8 [n]."""
    with np.load(HERE / "data" / f"{part}.npz") as arrays:
        return zscore(arrays["X"]), arrays["y"]


def resample(beats: Floats, random: np.random.Generator) -> Floats:
    """Moves each beat in time: up to 3 samples as a whole, and about 1 more here and there."""
    grid = np.arange(SAMPLES)
    knots = np.linspace(0, SAMPLES - 1, 4)
    offsets = random.integers(-3, 4, (len(beats), 1)) + random.normal(0, 1, (len(beats), 4))
    moved = [
        np.interp(grid + np.interp(grid, knots, offset), grid, beat)
        for beat, offset in zip(beats, offsets, strict=True)
    ]
    return np.asarray(moved, dtype=np.float32)


def augment(
    beats: Floats, targets: Floats, mixup: float, random: np.random.Generator
) -> tuple[Floats, Floats]:
    """One epoch's beats [n, 140] and targets [n, 5]: shuffled, moved in time, noisy, mixed."""
    order = random.permutation(len(beats))
    beats, targets = resample(beats[order], random), targets[order]
    beats = beats + random.normal(0, 0.05, beats.shape).astype(np.float32)
    if mixup:
        other = random.permutation(len(beats))
        drawn = random.beta(mixup, mixup, (len(beats), 1)).astype(np.float32)
        share: Floats = np.maximum(drawn, 1 - drawn)
        beats = share * beats + (1 - share) * beats[other]
        targets = share * targets + (1 - share) * targets[other]
    return zscore(beats), targets


def fit(model: keras.Model, recipe: Recipe, seed: int) -> None:
    """Trains `model` on `train`: a short warm-up, then a cosine decay of the learning rate."""
    random = np.random.default_rng(seed)
    beats, labels = load("train")
    targets = np.eye(CLASSES, dtype=np.float32)[labels]
    # All epochs are made beforehand and fitted in one pass: Keras draws nothing at random.
    epochs = [augment(beats, targets, recipe.mixup, random) for _ in range(recipe.epochs)]
    inputs = np.concatenate([epoch[0] for epoch in epochs])[..., np.newaxis]
    outputs = np.concatenate([epoch[1] for epoch in epochs])
    steps = len(inputs) // BATCH
    rate = keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=1e-5,
        decay_steps=steps - steps // 10,
        alpha=0.01,
        warmup_target=recipe.rate,
        warmup_steps=steps // 10,
    )
    model.compile(
        optimizer=keras.optimizers.AdamW(rate, weight_decay=1e-4),
        loss=keras.losses.CategoricalCrossentropy(from_logits=True),
        jit_compile=False,
    )
    model.fit(inputs, outputs, batch_size=BATCH, shuffle=False, verbose=0)


def convolution(x: Tensor, filters: int, width: int, stride: int = 1) -> Tensor:
    """Convolution and batch normalisation, "same" padding."""
    x = layers.Conv1D(filters, width, strides=stride, padding="same", use_bias=False)(x)
    return layers.BatchNormalization(momentum=0.95)(x)


def edge_network(beat: Tensor) -> Tensor:
    """Three strided convolutions; every operation has an INT8 kernel."""
    x = beat
    for filters, width in ((16, 9), (24, 7), (32, 5)):
        x = layers.ReLU()(convolution(x, filters, width, stride=2))
    return layers.Dense(CLASSES, name="logits")(layers.GlobalAveragePooling1D()(x))


def residual_network(beat: Tensor) -> Tensor:
    """A ResNet of three blocks."""
    x = beat
    for filters, stride in ((32, 2), (32, 2), (64, 1)):
        shortcut = convolution(x, filters, 1, stride)
        x = layers.ReLU()(convolution(x, filters, 8, stride))
        x = layers.ReLU()(convolution(x, filters, 5))
        x = layers.ReLU()(layers.Add()([convolution(x, filters, 3), shortcut]))
    return layers.Dense(CLASSES)(layers.GlobalAveragePooling1D()(x))


def inception_network(beat: Tensor) -> Tensor:
    """An InceptionTime network of three modules and one shortcut."""
    x = beat
    for stride in (2, 1, 1):
        narrow = x if x is beat else layers.Conv1D(16, 1, use_bias=False)(x)
        paths = [
            layers.Conv1D(16, width, strides=stride, padding="same", use_bias=False)(narrow)
            for width in (39, 19, 9)
        ]
        pooled = layers.MaxPooling1D(3, strides=stride, padding="same")(x)
        paths.append(layers.Conv1D(16, 1, use_bias=False)(pooled))
        x = layers.BatchNormalization(momentum=0.95)(layers.Concatenate()(paths))
        x = layers.ReLU()(x)
    x = layers.ReLU()(layers.Add()([x, convolution(beat, 64, 1, stride=2)]))
    return layers.Dense(CLASSES)(layers.GlobalAveragePooling1D()(x))


def train_edge() -> keras.Model:
    """The edge model, trained and without its optimizer."""
    keras.utils.set_random_seed(SEED)
    beat = keras.Input((SAMPLES, 1), name="beat")
    logits = edge_network(beat)
    fit(keras.Model(beat, logits), EDGE, SEED)
    return keras.Model(beat, logits, name="edge")


def train_cloud() -> keras.Model:
    """The cloud model: two ResNets and three InceptionTimes, each trained alone, averaged."""
    networks = [residual_network] * 2 + [inception_network] * 3
    beat = keras.Input((SAMPLES, 1), name="beat")
    opinions = []
    for seed, network in enumerate(networks, start=SEED):
        keras.utils.set_random_seed(seed)
        logits = network(beat)
        fit(keras.Model(beat, logits), CLOUD, seed)
        opinions.append(logits)
    return keras.Model(beat, layers.Average(name="logits")(opinions), name="cloud")


TRAINERS: dict[str, Callable[[], keras.Model]] = {"edge": train_edge, "cloud": train_cloud}


def predict(model: keras.Model, beats: Floats) -> Floats:
    """The logits of beats [n, 140], float32 [n, 5]."""
    logits: Floats = model.predict(beats[..., np.newaxis], batch_size=500, verbose=0)
    return logits


def confidence(logits: Floats) -> Floats:
    """The largest softmax probability of each row of logits [n, 5], float32 [n]."""
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    highest: Floats = 1 / shifted.sum(axis=1)
    return highest


def accuracy(logits: Floats, labels: Labels) -> str:
    """The share of beats put in their class, as text, with what it was counted on."""
    right = int(np.count_nonzero(logits.argmax(axis=1) == labels))
    return f"{right / len(labels):.2%} ({right} of n={len(labels)})"


def measure(name: str, model: keras.Model) -> None:
    """Prints the accuracy of a model on each part."""
    for part in PARTS:
        beats, labels = load(part)
        print(f"{name}, {part}: {accuracy(predict(model, beats), labels)}")


def measure_unsure(models: dict[str, keras.Model]) -> None:
    """Prints how each model does on the test beats that the edge model is least sure of."""
    beats, labels = load("test")
    logits = {name: predict(model, beats) for name, model in models.items()}
    order = np.argsort(confidence(logits["edge"]), kind="stable")
    for share in (0.10, 0.15):
        chosen = order[: round(share * len(order))]
        for name in models:
            text = accuracy(logits[name][chosen], labels[chosen])
            print(f"{name}, {share:.0%} of test that edge is least sure of: {text}")


def train(name: str, folder: Path) -> keras.Model:
    """Trains, saves and measures one model."""
    keras.backend.clear_session()  # so that layers get the same names in every run
    start = time.perf_counter()
    model = TRAINERS[name]()
    seconds = time.perf_counter() - start
    path = folder / f"{name}.keras"
    model.save(path)
    size = path.stat().st_size
    print(f"{name}: {model.count_params():,} parameters, {size:,} bytes, {seconds:.0f} s")
    measure(name, model)
    return model


def main() -> None:
    """Trains the models named on the command line."""
    parser = argparse.ArgumentParser(description="Train the models of the ECG example.")
    parser.add_argument("models", nargs="*", metavar="edge|cloud", help="default: both")
    parser.add_argument("--out", type=Path, default=HERE, help="folder for the .keras files")
    arguments = parser.parse_args()
    unknown = set(arguments.models) - set(TRAINERS)
    if unknown:
        parser.error(f"no such model: {', '.join(sorted(unknown))} (there are edge and cloud)")
    tf.config.experimental.enable_op_determinism()
    arguments.out.mkdir(parents=True, exist_ok=True)
    names = [name for name in TRAINERS if name in arguments.models or not arguments.models]
    models = {name: train(name, arguments.out) for name in names}
    if len(models) == len(TRAINERS):
        measure_unsure(models)


if __name__ == "__main__":
    main()
