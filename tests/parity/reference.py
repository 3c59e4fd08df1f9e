"""The method a second time, from its description alone: plain loops, readable rather than fast.

Nothing here imports the method's modules, so an error has to be made twice, independently, to go
unnoticed. The tests beside it feed the same weights and arrays to both and compare.

Axes: B cubes, T time, C channels, H W pixels.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import cv2
import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

Array = npt.NDArray[np.float64]
Module = Mapping[str, Tensor]  # the tensors of one layer by their last name: weight, bias, running_mean, running_var


# The network


def inputs(
    frames: npt.NDArray[np.uint8], flows: npt.NDArray[np.float16], channels: int, scale: tuple[float, float]
) -> tuple[Array, Array, Array]:
    """Stored cubes (B, T, C, H, W) as appearance and motion, channels frame by frame, and the target frame."""
    B, T, C, H, W = frames.shape
    appearance = np.zeros((B, (T - 1) * channels, H, W))
    motion = np.zeros((B, (T - 1) * 2, H, W))
    target = np.zeros((B, channels, H, W))
    for b in range(B):
        for t in range(T - 1):
            for c in range(channels):
                appearance[b, t * channels + c] = frames[b, t, c if C > 1 else 0] / 255.0
            for axis in range(2):
                motion[b, 2 * t + axis] = flows[b, t, axis].astype(np.float64) * scale[axis]
        for c in range(channels):
            target[b, c] = frames[b, T - 1, c if C > 1 else 0] / 255.0
    return appearance, motion, target


def forward(
    weights: Mapping[str, Tensor], appearance: Tensor, motion: Tensor, fusion: str, training: bool = False
) -> tuple[Tensor, Tensor, Tensor | None]:
    """The predicted frame and the two features; without a motion stream (`none`) the second is None."""
    layers = modules(weights, "appearance_encoder")
    x = appearance
    skips = []
    for level in range(4):
        if level > 0:
            skips.append(x)
            x = F.max_pool2d(x, 2)
        x = double_conv(x, layers[4 * level : 4 * level + 4], training)
    feature_a = x

    feature_m = None
    if fusion != "none":
        layers = modules(weights, "motion_encoder")
        x = motion
        for level in range(4):
            conv, norm = layers[2 * level : 2 * level + 2]
            x = conv_norm_relu(x, conv, norm, training, stride=1 if level == 0 else 2)
        feature_m = x

    x = fused(weights, feature_a, feature_m, fusion)
    layers = modules(weights, "decoder")
    transposed = [layer for layer in layers if layer["weight"].shape[2:] == (2, 2)]
    others = [layer for layer in layers if layer["weight"].shape[2:] != (2, 2)]
    for level in range(3):
        x = F.conv_transpose2d(x, transposed[level]["weight"], transposed[level]["bias"], stride=2)
        x = torch.cat([skips.pop(), x], dim=1)
        x = double_conv(x, others[4 * level : 4 * level + 4], training)

    (head,) = modules(weights, "head")
    return torch.sigmoid(F.conv2d(x, head["weight"], head["bias"])), feature_a, feature_m


def fused(weights: Mapping[str, Tensor], feature_a: Tensor, feature_m: Tensor | None, fusion: str) -> Tensor:
    """What the decoder sees."""
    if fusion in ("none", "appearance"):
        return feature_a
    assert feature_m is not None
    if fusion == "gate":
        return feature_m / (1 + torch.exp(-feature_a)) + feature_a
    if fusion == "add":
        return feature_a + feature_m
    assert fusion == "concat"
    (mix,) = modules(weights, "mix")
    return F.conv2d(torch.cat([feature_a, feature_m], dim=1), mix["weight"], mix["bias"])


def modules(weights: Mapping[str, Tensor], child: str) -> list[Module]:
    """The layers of a named child in the order in which it registers them."""
    layers: dict[str, dict[str, Tensor]] = {}
    for name, tensor in weights.items():
        layer, _, last = name.rpartition(".")
        if name.split(".")[0] == child:
            layers.setdefault(layer, {})[last] = tensor
    return list(layers.values())


def double_conv(x: Tensor, layers: Sequence[Module], training: bool) -> Tensor:
    conv1, norm1, conv2, norm2 = layers
    x = conv_norm_relu(x, conv1, norm1, training)
    return conv_norm_relu(x, conv2, norm2, training)


def conv_norm_relu(x: Tensor, conv: Module, norm: Module, training: bool, stride: int = 1) -> Tensor:
    x = F.conv2d(x, conv["weight"], conv["bias"], stride=stride, padding=1)
    if training:
        mean = x.mean(dim=(0, 2, 3))
        variance = ((x - mean[None, :, None, None]) ** 2).mean(dim=(0, 2, 3))
    else:
        mean, variance = norm["running_mean"], norm["running_var"]
    scale = norm["weight"] / torch.sqrt(variance + 1e-5)
    x = (x - mean[None, :, None, None]) * scale[None, :, None, None] + norm["bias"][None, :, None, None]
    return x.clamp(min=0)


# The losses


def intensity(prediction: Array, target: Array, form: str) -> float:
    """Squared error: its mean over all values (`released`), or the batch's mean of a cube's sum (`paper`)."""
    total = sum((float(p) - float(t)) ** 2 for p, t in zip(prediction.ravel(), target.ravel(), strict=True))
    return total / (prediction.size if form == "released" else len(prediction))


def gradient(prediction: Array, target: Array, form: str) -> float:
    """Differences of absolute image gradients, down and to the right.

    `released` sees a zero beyond the right and bottom edges; `paper` has no gradient there.
    """
    B, C, H, W = prediction.shape
    total = 0.0
    for b in range(B):
        for c in range(C):
            for h in range(H):
                for w in range(W):
                    for down, right in ((1, 0), (0, 1)):
                        inside = h + down < H and w + right < W
                        if inside or form == "released":
                            steps = []
                            for image in (prediction[b, c], target[b, c]):
                                beyond = image[h + down, w + right] if inside else 0.0
                                steps.append(abs(beyond - image[h, w]))
                            total += abs(steps[0] - steps[1])
    return float(total / (prediction.size if form == "released" else B))


def consistency(appearance: Array, motion: Array) -> float:
    """Mean over the batch of one minus the cosine of the flattened features."""
    return sum(one_minus_cosine(a, m) for a, m in zip(appearance, motion, strict=True)) / len(appearance)


def weight_penalty(weights: Iterable[Array]) -> float:
    """Sum of squares."""
    return sum(float(value) ** 2 for weight in weights for value in weight.ravel())


# The scores of cubes


def scores(
    prediction: Array, target: Array, appearance: Array, motion: Array | None
) -> tuple[list[float], list[float]]:
    """S_f and S_p of each cube; higher is more abnormal. Without a motion feature S_f is NaN."""
    s_f, s_p = [], []
    for b in range(len(prediction)):
        s_f.append(math.nan if motion is None else one_minus_cosine(appearance[b], motion[b]))
        pixels = zip(prediction[b].ravel(), target[b].ravel(), strict=True)
        s_p.append(sum((float(p) - float(t)) ** 2 for p, t in pixels))
    return s_f, s_p


def one_minus_cosine(a: Array, b: Array) -> float:
    """A zero feature points nowhere: its cosine with anything is 0."""
    product = sum(float(x) * float(y) for x, y in zip(a.ravel(), b.ravel(), strict=True))
    norms = math.sqrt(sum(float(x) ** 2 for x in a.ravel())) * math.sqrt(sum(float(y) ** 2 for y in b.ravel()))
    return 1 - product / norms if norms > 0 else 1.0


# The scores of frames


def mean_and_sd(values: Sequence[float]) -> tuple[float, float]:
    """Mean and population standard deviation."""
    mean = math.fsum(values) / len(values)
    return mean, math.sqrt(math.fsum((value - mean) ** 2 for value in values) / len(values))


def frame_scores(
    cubes: Iterable[tuple[int, int, float, float]],
    frames: Sequence[int],
    standard_f: tuple[float, float],
    standard_p: tuple[float, float],
    *,
    weight_f: float,
    weight_p: float,
    skip: int,
    median: int,
    padding: str,
    empty: str,
) -> list[list[float]]:
    """Cubes (video, frame, S_f, S_p) to one list of scores a video; `standard_*` is (mean, deviation) in training."""

    def weighted(s_f: float, s_p: float) -> float:
        score = 0.0
        if weight_f != 0:  # a network without motion stream has no S_f
            score += weight_f * (s_f - standard_f[0]) / standard_f[1]
        if weight_p != 0:
            score += weight_p * (s_p - standard_p[0]) / standard_p[1]
        return score

    nothing = weighted(0.0, 0.0) if empty == "zero-error" else (0.0 - standard_p[0]) / standard_p[1]
    best: dict[tuple[int, int], float] = {}
    for video, frame, s_f, s_p in cubes:
        score = weighted(s_f, s_p)
        best[video, frame] = max(score, best.get((video, frame), score))
    videos = [[best.get((v, f), nothing) for f in range(skip, count)] for v, count in enumerate(frames)]
    return [smoothed(video, median, padding) for video in videos]


def smoothed(values: Sequence[float], width: int, padding: str) -> list[float]:
    """The median of `width` (odd) neighbours; what lies beyond the ends is decided by `padding`."""

    def at(i: int) -> float:
        n = len(values)
        if 0 <= i < n:
            return values[i]
        if padding == "zero":
            return 0.0
        if padding == "nearest":
            return values[0] if i < 0 else values[-1]
        i %= 2 * n  # a mirror at each end: a b c | c b a | a b c ...
        return values[i] if i < n else values[2 * n - 1 - i]

    half = width // 2
    return [sorted(at(i + k) for k in range(-half, half + 1))[half] for i in range(len(values))]


# The cubes


def cubes_of_frame(
    t: int,
    frames: Sequence[npt.NDArray[np.uint8]],
    flows: Sequence[npt.NDArray[np.float32]],
    boxes: Sequence[Sequence[float]],
    length: int = 5,
    size: int = 32,
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float16]]:
    """Cubes of frame t: uint8 (boxes, length, C, size, size) and float16 (boxes, length - 1, 2, size, size).

    `flows[i]` is the motion from frame i-1 to frame i; `flows[0]` is never looked at.
    """
    all_frames, all_flows = [], []
    for box in boxes:
        x0, y0, x1, y1 = (math.ceil(value) for value in box)
        for i in range(t - length + 1, t + 1):
            crop = cv2.resize(frames[max(i, 0)][y0:y1, x0:x1], (size, size), interpolation=cv2.INTER_LINEAR)
            all_frames.append(np.atleast_3d(crop).transpose(2, 0, 1))
        for i in range(t - length + 2, t + 1):
            flow = flows[i] if i > 0 else np.zeros_like(flows[0])
            crop = cv2.resize(flow[y0:y1, x0:x1], (size, size), interpolation=cv2.INTER_LINEAR)
            all_flows.append(crop.transpose(2, 0, 1).astype(np.float16))
    channels = np.atleast_3d(frames[0]).shape[2]
    return (
        np.array(all_frames).reshape(len(boxes), length, channels, size, size),
        np.array(all_flows).reshape(len(boxes), length - 1, 2, size, size),
    )
