"""The method as the field usually writes it: what `bench.speed.run` measures this project against, in the same run.

One process, fp32, contiguous layout; a cube at a time through a `Dataset` with Python transforms behind a
`DataLoader`; three modules for the three losses, each looking at its input anew; after every epoch the training cubes
once more for the statistics and all test cubes; a crop and a resize a box, frame and flow. Written from the paper and
its protocol; gives the numbers that this project gives (`tests/parity/test_straightforward.py`), only later.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from amsrc.cubes import Boxes, FlowOf, Frame, Moment, moments
from amsrc.store import Cubes, CubeStore

Floats = npt.NDArray[np.float64]
Sample = tuple[Tensor, Tensor, Tensor]  # appearance (12, H, W), motion (8, H, W), target (3, H, W)

BATCH = 128
SKIP = 4  # first frames of a video that get no score


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
        frames, flows = self.frames[video][row], self.flows[video][row]
        pictures = [torch.from_numpy(frame.astype(np.float32) / 255) for frame in frames]
        motions = [torch.from_numpy(flow.astype(np.float32)) for flow in flows]
        return torch.cat(pictures[:-1]), torch.cat(motions), pictures[-1]


class Block(nn.Sequential):
    """Two convolutions with BatchNorm and ReLU."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(
            nn.Conv2d(inputs, outputs, 3, padding=1),
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
            nn.Conv2d(outputs, outputs, 3, padding=1),
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
        )


class Network(nn.Module):
    """U-Net over four frames, a convolutional encoder over their flows, the gate between them (paper figure 2)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        w1, w2, w3, w4 = (width * factor for factor in (1, 2, 4, 8))
        self.down1, self.down2, self.down3, self.down4 = Block(12, w1), Block(w1, w2), Block(w2, w3), Block(w3, w4)
        self.motion = nn.Sequential(
            *self._conv(8, w1, 1), *self._conv(w1, w2, 2), *self._conv(w2, w3, 2), *self._conv(w3, w4, 2)
        )
        self.up1, self.up2, self.up3 = (nn.ConvTranspose2d(2 * w, w, 2, stride=2) for w in (w3, w2, w1))
        self.level1, self.level2, self.level3 = Block(w4, w3), Block(w3, w2), Block(w2, w1)
        self.head = nn.Conv2d(w1, 3, 1)

    @staticmethod
    def _conv(inputs: int, outputs: int, stride: int) -> list[nn.Module]:
        return [nn.Conv2d(inputs, outputs, 3, stride, 1), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]

    def forward(self, appearance: Tensor, motion: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x1 = self.down1(appearance)
        x2 = self.down2(F.max_pool2d(x1, 2))
        x3 = self.down3(F.max_pool2d(x2, 2))
        x4 = self.down4(F.max_pool2d(x3, 2))
        m4 = self.motion(motion)
        x = torch.sigmoid(x4) * m4 + x4
        x = self.level1(torch.cat([x3, self.up1(x)], 1))
        x = self.level2(torch.cat([x2, self.up2(x)], 1))
        x = self.level3(torch.cat([x1, self.up3(x)], 1))
        return torch.sigmoid(self.head(x)), x4, m4


class GradientLoss(nn.Module):
    """Differences of the absolute image gradients, zeros beyond the right and bottom edges."""

    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        found = []
        for image in (prediction, target):
            right = F.pad(image, (0, 1, 0, 0))[..., :, 1:]
            down = F.pad(image, (0, 0, 0, 1))[..., 1:, :]
            found.append((torch.abs(right - image), torch.abs(down - image)))
        (px, py), (tx, ty) = found
        return torch.mean(torch.abs(px - tx) + torch.abs(py - ty))


class ConsistencyLoss(nn.Module):
    """1 - cosine of the flattened features."""

    def forward(self, appearance: Tensor, motion: Tensor) -> Tensor:
        return (1 - F.cosine_similarity(appearance.flatten(1), motion.flatten(1))).mean()


class Trainer:
    """Network, losses and optimiser, as one builds them."""

    def __init__(self, width: int, device: torch.device, learning_rate: float = 2e-4) -> None:
        self.device = device
        self.network = Network(width).to(device)
        self.losses = (nn.MSELoss(), GradientLoss(), ConsistencyLoss())
        self.optimiser = torch.optim.Adam(self.network.parameters(), lr=learning_rate)

    def step(self, sample: Sequence[Tensor]) -> float:
        """One step on a batch; gives its loss."""
        self.network.train()
        appearance, motion, target = (part.to(self.device) for part in sample)
        prediction, feature_a, feature_m = self.network(appearance, motion)
        intensity, gradient, consistency = self.losses
        loss = intensity(prediction, target) + gradient(prediction, target) + consistency(feature_a, feature_m)
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()
        return float(loss.item())

    def scores(self, cubes: Cubes) -> tuple[Floats, Floats]:
        """S_f and S_p of all cubes of a split."""
        self.network.eval()
        s_f, s_p = [], []
        with torch.no_grad():
            for sample in DataLoader(CubeDataset(cubes), BATCH):
                appearance, motion, target = (part.to(self.device) for part in sample)
                prediction, feature_a, feature_m = self.network(appearance, motion)
                s_f.append(1 - F.cosine_similarity(feature_a.flatten(1), feature_m.flatten(1)).cpu().numpy())
                s_p.append(torch.sum((prediction - target) ** 2, dim=(1, 2, 3)).cpu().numpy())
        return np.concatenate(s_f), np.concatenate(s_p)

    def fit(self, store: CubeStore, epochs: int, weights: tuple[float, float] = (1.0, 0.01)) -> list[float]:
        """Train on all training cubes; AUROC after every epoch."""
        from sklearn.metrics import roc_auc_score

        found = []
        labels = np.concatenate([label[SKIP:] for label in store.labels("official").values()])
        loader = DataLoader(CubeDataset(store.train), BATCH, shuffle=True)
        for _ in range(epochs):
            for sample in loader:
                self.step(sample)
            train, test = self.scores(store.train), self.scores(store.test)
            scores = np.concatenate(frame_scores(store.test, train, test, weights))
            found.append(float(roc_auc_score(labels, scores)))
        return found


def frame_scores(
    cubes: Cubes, train: tuple[Floats, Floats], test: tuple[Floats, Floats], weights: tuple[float, float]
) -> list[Floats]:
    """The score of each frame of each test video from its cubes', one after the other."""
    from scipy.ndimage import median_filter

    standard = [(t - s.mean()) / s.std() for s, t in zip(train, test, strict=True)]
    fused = weights[0] * standard[0] + weights[1] * standard[1]
    nothing = sum(-w * s.mean() / s.std() for w, s in zip(weights, train, strict=True))
    found = []
    for number, shard in enumerate(cubes.shards):
        scores = np.full(shard.video_frames, -np.inf)
        for score, frame in zip(fused[cubes.video == number], cubes.frame[cubes.video == number], strict=True):
            scores[frame] = max(scores[frame], score)
        scores[np.isinf(scores)] = nothing
        found.append(median_filter(scores[SKIP:], 17, mode="reflect"))
    return found


# -- preparing -----------------------------------------------------------------------------------------------


def cut_video(
    name: str, frames: Iterable[Frame], boxes_of: Any, flow_of: FlowOf, length: int = 5, size: int = 32
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float16]]:
    """Cubes of a video, all of its frames and flows kept, a crop and a resize for each box, frame and flow."""
    shots: list[Moment] = list(moments(name, frames))
    still = np.zeros((*shots[0].frame.shape[:2], 2), np.float32)
    flows = [still, *map(flow_of, shots[1:])]
    all_frames, all_flows = [], []
    for t, shot in enumerate(shots):
        boxes: Boxes = boxes_of(shot)
        for box in boxes:
            x0, y0, x1, y1 = np.ceil(box).astype(int)
            for i in range(t - length + 1, t + 1):
                crop = cv2.resize(shots[max(i, 0)].frame[y0:y1, x0:x1], (size, size))
                all_frames.append(np.atleast_3d(crop).transpose(2, 0, 1))
            for i in range(t - length + 2, t + 1):
                crop = cv2.resize(flows[max(i, 0)][y0:y1, x0:x1], (size, size))
                all_flows.append(crop.transpose(2, 0, 1))
    channels = shots[0].frame.shape[2]
    return (
        np.array(all_frames, np.uint8).reshape(-1, length, channels, size, size),
        np.array(all_flows).astype(np.float16).reshape(-1, length - 1, 2, size, size),
    )
