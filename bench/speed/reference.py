"""The method a second time: a plain fp32 reference implementation, readable rather than fast.

The parity tests hold `amsrc` against it, and `bench.speed` times it in the same run. Written from the paper and its
protocol the way the field usually writes it: one process, contiguous layout, a cube at a time through a `Dataset` with
Python transforms, one loss after the other, a crop and a resize a box, frame and flow, loops over frames and videos.
Of `amsrc` it takes only how a video is read and a store is laid out, so an error in the method has to be made twice,
independently, to go unnoticed.

Axes: B cubes, T time, C channels, H W pixels.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import chain

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from amsrc.cubes import BoxesOf, Flow, FlowOf, Frame, moments
from amsrc.store import Cubes, CubeStore

Sample = tuple[Tensor, Tensor, Tensor]  # appearance (12, H, W), motion (8, H, W), target (3, H, W)

BATCH = 128
SKIP = 4  # first frames of a video that get no score


# -- cubes -----------------------------------------------------------------------------------------------------


def cubes_of_frame(
    t: int,
    frames: Sequence[Frame],
    flows: Sequence[Flow],
    boxes: Iterable[Sequence[float]],
    length: int = 5,
    size: int = 32,
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float16]]:
    """Cubes of frame t: (boxes, length, C, size, size) and (boxes, length - 1, 2, size, size).

    Args:
        flows: `flows[i]` is the motion from frame i-1 to frame i; `flows[0]` is never looked at.
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
            all_flows.append(crop.transpose(2, 0, 1))
    channels = frames[0].shape[2]
    return (
        np.array(all_frames, np.uint8).reshape(-1, length, channels, size, size),
        np.array(all_flows).astype(np.float16).reshape(-1, length - 1, 2, size, size),
    )


def cut_video(
    name: str, frames: Iterable[Frame], boxes_of: BoxesOf, flow_of: FlowOf
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float16]]:
    """Cubes of a video, all of whose frames and flows are kept in memory."""
    shots = list(moments(name, frames))
    images = [shot.frame for shot in shots]
    flows = [np.zeros((*images[0].shape[:2], 2), np.float32), *map(flow_of, shots[1:])]
    cut = [cubes_of_frame(t, images, flows, boxes_of(shot).tolist()) for t, shot in enumerate(shots)]
    all_frames, all_flows = zip(*cut, strict=True)
    return np.concatenate(all_frames), np.concatenate(all_flows)


# -- the network -----------------------------------------------------------------------------------------------


def inputs(
    frames_TCHW: npt.NDArray[np.uint8],
    flows_TCHW: npt.NDArray[np.float16],
    scale: tuple[float, float] = (1.0, 1.0),
    channels: int = 3,
) -> Sample:
    """A stored cube as appearance and motion, channels image by image, and the target frame."""
    factors = np.array(scale, np.float32)[:, None, None]
    pictures = [torch.from_numpy(frame.astype(np.float32) / 255).expand(channels, -1, -1) for frame in frames_TCHW]
    motions = [torch.from_numpy(flow) for flow in flows_TCHW.astype(np.float32) * factors]
    return torch.cat(pictures[:-1]), torch.cat(motions), pictures[-1]


class CubeDataset(Dataset[Sample]):
    """One cube a call, turned into tensors one image at a time."""

    def __init__(self, cubes: Cubes) -> None:
        self.starts = cubes.starts
        videos = [cubes.folder / shard.video for shard in cubes.shards]
        self.frames, self.flows = ([np.load(v / f"{name}.npy", "r") for v in videos] for name in ("frames", "flows"))

    def __len__(self) -> int:
        return int(self.starts[-1])

    def __getitem__(self, index: int) -> Sample:
        video = int(np.searchsorted(self.starts, index, side="right")) - 1
        row = index - int(self.starts[video])
        return inputs(self.frames[video][row], self.flows[video][row])


class Block(nn.Sequential):
    """Two convolutions with BatchNorm and ReLU."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(*_conv(inputs, outputs), *_conv(outputs, outputs))


def _conv(inputs: int, outputs: int, stride: int = 1) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, 3, stride, 1), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]


class Network(nn.Module):
    """U-Net over four frames, a convolutional encoder over their flows, the gate between them (paper figure 2).

    Its layers are registered in the figure's order.

    Args:
        fusion: what takes the gate's place, in the words of `ModelConfig.fusion`.
    """

    def __init__(self, width: int, fusion: str = "gate") -> None:
        super().__init__()
        self.fusion = fusion
        w1, w2, w3, w4 = (width * factor for factor in (1, 2, 4, 8))
        self.down1, self.down2, self.down3, self.down4 = Block(12, w1), Block(w1, w2), Block(w2, w3), Block(w3, w4)
        if fusion != "none":
            self.motion = nn.Sequential(*_conv(8, w1), *_conv(w1, w2, 2), *_conv(w2, w3, 2), *_conv(w3, w4, 2))
        if fusion == "concat":
            self.mix = nn.Conv2d(2 * w4, w4, 1)
        self.up1, self.up2, self.up3 = (nn.ConvTranspose2d(2 * w, w, 2, stride=2) for w in (w3, w2, w1))
        self.level1, self.level2, self.level3 = Block(w4, w3), Block(w3, w2), Block(w2, w1)
        self.head = nn.Conv2d(w1, 3, 1)

    def forward(self, appearance: Tensor, motion: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """The predicted frame and the two features; without a motion stream (`none`) the second is None."""
        x1 = self.down1(appearance)
        x2 = self.down2(F.max_pool2d(x1, 2))
        x3 = self.down3(F.max_pool2d(x2, 2))
        x4 = self.down4(F.max_pool2d(x3, 2))
        m4 = None if self.fusion == "none" else self.motion(motion)
        x = self.level1(torch.cat([x3, self.up1(self.fused(x4, m4))], 1))
        x = self.level2(torch.cat([x2, self.up2(x)], 1))
        x = self.level3(torch.cat([x1, self.up3(x)], 1))
        return torch.sigmoid(self.head(x)), x4, m4

    def fused(self, appearance: Tensor, motion: Tensor | None) -> Tensor:
        """What the decoder sees."""
        if motion is None or self.fusion == "appearance":
            return appearance
        if self.fusion == "add":
            return appearance + motion
        if self.fusion == "concat":
            return self.mix(torch.cat([appearance, motion], 1))  # type: ignore[no-any-return]
        return motion / (1 + torch.exp(-appearance)) + appearance


# -- losses and the scores of cubes ----------------------------------------------------------------------------


def intensity(prediction: Tensor, target: Tensor, form: str = "released") -> Tensor:
    """Squared error: its mean over all values (`released`), or the batch's mean of a cube's sum (`paper`)."""
    total = torch.sum((prediction - target) ** 2)
    return total / (prediction.numel() if form == "released" else len(prediction))


def gradient(prediction: Tensor, target: Tensor, form: str = "released") -> Tensor:
    """Differences of absolute image gradients, down and to the right."""
    (px, py), (tx, ty) = image_gradients(prediction, form), image_gradients(target, form)
    total = torch.sum(torch.abs(px - tx)) + torch.sum(torch.abs(py - ty))
    return total / (prediction.numel() if form == "released" else len(prediction))


def image_gradients(image: Tensor, form: str) -> tuple[Tensor, Tensor]:
    """Absolute steps to the right and down. `released` sees zeros beyond the edges; `paper` has no gradient there."""
    right, down = image, image
    if form == "released":
        right, down = F.pad(image, (0, 1, 0, 0)), F.pad(image, (0, 0, 0, 1))
    return torch.abs(right[..., 1:] - right[..., :-1]), torch.abs(down[..., 1:, :] - down[..., :-1, :])


def consistency(appearance: Tensor, motion: Tensor) -> Tensor:
    """One minus the cosine of the features, mean over the batch."""
    return one_minus_cosine(appearance, motion).mean()


def weight_penalty(network: nn.Module) -> Tensor:
    """Sum of squares of all parameters."""
    return torch.stack([torch.sum(weight**2) for weight in network.parameters()]).sum()


def one_minus_cosine(appearance: Tensor, motion: Tensor) -> Tensor:
    """S_f, (B,): of the flattened features. A zero feature's cosine with anything is 0."""
    a, m = appearance.flatten(1), motion.flatten(1)
    norms: Tensor = torch.linalg.vector_norm(a, dim=1) * torch.linalg.vector_norm(m, dim=1)
    return 1 - torch.sum(a * m, 1) / norms.clamp(min=1e-12)


def squared_error(prediction: Tensor, target: Tensor) -> Tensor:
    """S_p, (B,): summed over channels and pixels."""
    return torch.sum((prediction - target) ** 2, dim=(1, 2, 3))


# -- the scores of frames --------------------------------------------------------------------------------------


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
    weight_f: float = 1.0,
    weight_p: float = 0.01,
    skip: int = SKIP,
    median: int = 17,
    padding: str = "reflect",
    empty: str = "zero-error",
) -> list[list[float]]:
    """Cubes (video, frame, S_f, S_p) to one list of scores a video.

    Args:
        frames: number of frames of each video.
        standard_f, standard_p: mean and deviation over the training cubes.
    """

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
    """The median of `width` (odd) neighbours; what is beyond the ends is decided by `padding`."""

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


# -- training --------------------------------------------------------------------------------------------------


class Trainer:
    """Network, losses and optimiser, as one builds them."""

    def __init__(self, width: int, device: torch.device) -> None:
        self.device = device
        self.network = Network(width).to(device)
        self.optimiser = torch.optim.Adam(self.network.parameters(), lr=2e-4)

    def step(self, sample: Sequence[Tensor]) -> float:
        """One step on a batch; gives its loss."""
        self.network.train()
        appearance, motion, target = (part.to(self.device) for part in sample)
        prediction, feature_a, feature_m = self.network(appearance, motion)
        loss = intensity(prediction, target) + gradient(prediction, target) + consistency(feature_a, feature_m)
        self.optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimiser.step()
        return float(loss.item())

    def scores(self, cubes: Cubes) -> tuple[list[float], list[float]]:
        """S_f and S_p of all cubes of a split."""
        self.network.eval()
        all_f: list[float] = []
        all_p: list[float] = []
        with torch.no_grad():
            for sample in DataLoader(CubeDataset(cubes), BATCH):
                appearance, motion, target = (part.to(self.device) for part in sample)
                prediction, feature_a, feature_m = self.network(appearance, motion)
                all_f += one_minus_cosine(feature_a, feature_m).tolist()
                all_p += squared_error(prediction, target).tolist()
        return all_f, all_p

    def fit(self, store: CubeStore, epochs: int) -> list[float]:
        """Train on all training cubes; AUROC after every epoch."""
        from sklearn.metrics import roc_auc_score

        found = []
        labels = np.concatenate([label[SKIP:] for label in store.labels("official").values()])
        frames = [shard.video_frames for shard in store.test.shards]
        loader = DataLoader(CubeDataset(store.train), BATCH, shuffle=True)
        for _ in range(epochs):
            for sample in loader:
                self.step(sample)
            standard = map(mean_and_sd, self.scores(store.train))
            cubes = zip(store.test.video.tolist(), store.test.frame.tolist(), *self.scores(store.test), strict=True)
            scores = chain.from_iterable(frame_scores(cubes, frames, *standard))
            found.append(float(roc_auc_score(labels, list(scores))))
        return found
