"""Every number of the method, each with its source. Imports nothing heavy.

"Paper" is arXiv 2204.04151; "released" a fact read off the authors' code, which the paper leaves out.
Each class is a frozen value; `bench.experiment.config.Experiment` puts them together and gives them a fingerprint.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

BoxProvider = Literal["motion", "onnx", "torchvision", "file"]
FlowProvider = Literal["dis", "farneback", "raft", "file"]
Fusion = Literal["gate", "add", "concat", "appearance", "none"]


@dataclass(frozen=True, kw_only=True)
class BoxConfig:
    """Foreground boxes of a frame: a detector's, plus the moving regions it missed (released)."""

    provider: BoxProvider = "motion"
    """`motion`: moving regions alone; `onnx`, `torchvision`: a COCO detector and the moving regions
    it missed; `file`: boxes that are already final."""
    confidence: float = 0.5
    """Detections at or below it are dropped. Paper line: 0.5 / 0.25 / 0.5 by data set."""
    min_side_px: float = 10.0
    """A box smaller than the square of this side is dropped: 10 / 40 / 40 (released)."""
    overlap: float = 0.6
    """Going up in area, a box is dropped when a larger one covers more than this part of it (released)."""
    motion_threshold: int = 18
    """Grey levels by which blurred neighbouring frames differ where something moves: 18 / 18 / 15 (released)."""
    max_aspect: float = 10.0
    """Moving regions whose longer side is this many times the shorter one, or more, are dropped (released)."""
    grow_px: int = 2
    """Pixels by which moving regions, and detector boxes before they are erased, grow on each side (released)."""


@dataclass(frozen=True, kw_only=True)
class FlowConfig:
    """Dense optical flow from frame i-1 to frame i, stored in native pixels per frame."""

    provider: FlowProvider = "dis"
    """Deviation 1: the paper uses FlowNet2, which is not available as a maintained package."""
    preset: Literal["ultrafast", "fast", "medium"] = "medium"
    """Quality of DIS; the other providers ignore it."""


@dataclass(frozen=True, kw_only=True)
class CubeConfig:
    """A spatial-temporal cube: the same box cut from `frames` frames and from the flows between them."""

    frames: int = 5
    """Frames t-4 ... t; the last is the one to predict (paper: t = 4 previous frames)."""
    size: int = 32
    """Height and width in pixels after resizing, aspect not kept (paper)."""
    boxes: BoxConfig = field(default_factory=BoxConfig)
    """Where a cube is cut."""
    flow: FlowConfig = field(default_factory=FlowConfig)
    """Motion between its frames."""


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The two-stream network and how its two features are joined."""

    fusion: Fusion = "gate"
    """`gate`: sigmoid(appearance) * motion + appearance (paper). Table 2's ablations: `add`, `concat`
    (with a 1x1 convolution), `appearance` (the decoder sees that feature alone), `none` (no motion
    stream at all: the baseline)."""
    width: int = 64
    """Channels of the first level, doubled three times: 64 gives the paper's network."""
    channels: int = 3
    """Channels of a frame as the network sees it; grey cubes are repeated to three (the paper's network)."""
    flow_scale: tuple[float, float] = (1.0, 1.0)
    """Factors (x, y) from native pixels to the pixels of the flow network's input. Released: FlowNet2 ran
    at 1024x768 for ped2 (native 360x240), 512x384 for avenue (640x360), 1024x640 for shanghaitech (856x480)."""


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """Weights and form of the training loss (paper equations 1 to 4)."""

    form: Literal["released", "paper"] = "released"
    """`released`: mean of the squared error and of the gradient differences over all values; `paper`:
    their sums over a cube, averaged over the batch."""
    intensity: float = 1.0
    """Weight of the squared error of the predicted frame."""
    gradient: float = 1.0
    """Weight of the error of its gradients."""
    consistency: float = 1.0
    """Weight of the distance between appearance and motion feature. Paper: 1 / 1 / 10 by data set; released: 1
    everywhere."""
    weight_penalty: float = 0.0
    """Times the sum of squared weights. Paper: 1; released: its function returns before its loop, so 0."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Optimiser, budget and arithmetic."""

    epochs: int = 60
    """Passes over the training cubes."""
    batch: int = 128
    """Cubes per step over all workers together."""
    learning_rate: float = 2e-4
    """Of Adam, in the first epoch."""
    decay: float = 0.8
    """The learning rate is multiplied by this every `decay_epochs` epochs (paper)."""
    decay_epochs: int = 10
    """Epochs between two such steps."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """`auto`: bf16 autocast on a GPU, or a CPU, that multiplies it (AVX512-BF16, AMX), else fp32."""
    score_every: int = 1
    """Test cubes are scored every so many epochs, for the per-epoch curves; 0: after the last epoch only."""
    held_out: float = 0.1
    """Part of the training videos that is not trained on and serves the rule `label-free`. Deviation 16: the
    paper trains on all; 0 does so."""


@dataclass(frozen=True, kw_only=True)
class AmsrcConfig:
    """Settings of the method `amsrc`."""

    model: ModelConfig = field(default_factory=ModelConfig)
    """The network."""
    loss: LossConfig = field(default_factory=LossConfig)
    """What it is trained to minimise."""

    @property
    def parts(self) -> tuple[str, ...]:
        """Its scores: S_f (`consistency`), which needs a motion stream, and S_p (`prediction`)."""
        return ("prediction",) if self.model.fusion == "none" else ("consistency", "prediction")


@dataclass(frozen=True, kw_only=True)
class ScoreConfig:
    """From the scores of cubes to the scores of frames (paper equation 5 and released facts)."""

    weights: tuple[float, ...] = (1.0,)
    """Weight of each part of the score, in the order of the method's parts. Paper, consistency and prediction: 1 and
    0.01 / 0.2 and 0.8 / 0.4 and 0.6 by data set; released ped2: 1 and 0."""
    standardise: Literal["z-score", "min-max", "min-p99.9"] = "z-score"
    """How a part is made comparable, by its values on all training cubes: subtract the mean and divide by the standard
    deviation, or subtract the minimum and divide by the distance to the maximum or to the 99.9th percentile."""
    skip_frames: int = 4
    """First frames of each video that get no score (released)."""
    median_frames: int = 17
    """Width of the median filter over a video's frame scores; 1 turns it off (released)."""
    median_padding: Literal["zero", "reflect", "nearest"] = "reflect"
    """What the filter sees beyond a video's ends."""
    empty_frame: Literal["zero-error", "released", "lowest"] = "zero-error"
    """Score of a frame without cubes: that of zero in every part under the given weights; as released, that of zero in
    the last part alone whatever the weights; or the lowest that a training cube has in every part."""
