"""Dense optical flow of a video: DIS, Farneback, RAFT, or computed elsewhere and read from files.

Every provider is one plain function from a `Moment` to the flow into its frame: float32 (H, W, 2), x then
y, native pixels per frame, positive to the right and down. The vector at a pixel says how far what was
there in the frame *before* has moved since (so the flow of frame i is the motion from i-1 to i). The first
frame of a video has zero flow. Reads frames, or the files that `from_file` describes; writes nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from amsrc.config import FlowConfig
from amsrc.cubes import Flow, FlowOf, Frame, Moment
from amsrc.errors import ConfigError, DataError, RunError, why

DIS_PRESETS = {
    "ultrafast": cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST,
    "fast": cv2.DISOPTICAL_FLOW_PRESET_FAST,
    "medium": cv2.DISOPTICAL_FLOW_PRESET_MEDIUM,
}
RAFT_MIN_SIDE_PX = 128  # its coarsest of four correlation levels would be empty below this


def provider(config: FlowConfig, *, source: Path | None, split: str) -> FlowOf:
    """The flow that the configuration names.

    Args:
        source: folder of flow files; needed by `file` alone.
        split: `train` or `test`, a folder inside `source`.

    Raises:
        ConfigError: `file` without a folder, or a provider whose package is not installed.
        DataError: the folder does not exist.
    """
    match config.provider:
        case "dis":
            return dis(config)
        case "farneback":
            return farneback()
        case "raft":
            return raft()
        case "file":
            if source is None:
                raise ConfigError("flow from files needs their folder; pass --flow file:DIR")
            return from_file(source, split)


def dis(config: FlowConfig) -> FlowOf:
    """Dense Inverse Search; about 7 ms for a 360x240 pair at the preset `medium`, 1 ms at `ultrafast`."""
    return _opencv(cv2.DISOpticalFlow.create(DIS_PRESETS[config.preset]))


def farneback() -> FlowOf:
    """Farneback's polynomial expansion, with the parameters of OpenCV's own tutorial."""
    return _opencv(
        cv2.FarnebackOpticalFlow.create(numLevels=3, pyrScale=0.5, winSize=15, numIters=3, polyN=5, polySigma=1.2)
    )


def _opencv(algorithm: cv2.DenseOpticalFlow) -> FlowOf:
    # OpenCV's type stubs leave out that a call may begin without a first guess.
    return _between(lambda before, frame: algorithm.calc(_grey(before), _grey(frame), None))  # type: ignore[call-overload]


def raft() -> FlowOf:
    """RAFT (large, trained on Things, Sintel, KITTI and HD1K), on a GPU where there is one.

    Raises:
        ConfigError: torchvision is not installed, or not for this torch.
        RunError: its weights cannot be downloaded.
    """
    try:
        import torch
        from torchvision.models.optical_flow import Raft_Large_Weights, raft_large
    except (ImportError, RuntimeError) as error:  # RuntimeError: torchvision was built for another torch
        raise ConfigError(
            f"flow provider raft needs a torchvision made for this torch ({error}); "
            "run: pip install 'amsrc-bench[raft]', or use --flow dis, farneback or file:DIR"
        ) from error
    device = "cuda" if torch.cuda.is_available() else "cpu"
    weights = Raft_Large_Weights.DEFAULT
    try:
        model = raft_large(weights=weights).eval().to(device)
    except OSError as error:
        raise RunError(f"RAFT's weights could not be fetched from {weights.url}: {error}") from error

    def calc(before: Frame, frame: Frame) -> Flow:
        height, width = frame.shape[:2]
        pair = torch.from_numpy(np.stack([_raft_input(before), _raft_input(frame)])).to(device)
        with torch.inference_mode():
            flow = model(pair[:1], pair[1:])[-1][0, :, :height, :width]
        return np.ascontiguousarray(flow.permute(1, 2, 0).cpu().numpy())

    return _between(calc)


def _raft_input(frame: Frame) -> npt.NDArray[np.float32]:
    """RGB in [-1, 1], (3, H, W), edges repeated on the right and below up to a multiple of 8."""
    height, width = (max(RAFT_MIN_SIDE_PX, -(-side // 8) * 8) - side for side in frame.shape[:2])
    rgb = cv2.cvtColor(frame, cv2.COLOR_GRAY2RGB if frame.shape[2] == 1 else cv2.COLOR_BGR2RGB)
    padded = cv2.copyMakeBorder(rgb, 0, height, 0, width, cv2.BORDER_REPLICATE)
    return (padded.astype(np.float32) / 127.5 - 1).transpose(2, 0, 1)


def from_file(folder: Path, split: str) -> FlowOf:
    """Flow computed elsewhere: one file a video, `<folder>/<split>/<video>.npy`.

    A file holds float16 or float32 (F, H, W, 2) for the F frames of its video: x then y, native pixels per
    frame; entry i is the flow from frame i-1 to frame i and entry 0 is not used. It is memory-mapped.

    Raises:
        DataError: no such folder; then, per frame, a file that is missing, not an array of that form, made
            for other frames, or not finite.
    """
    if not (folder / split).is_dir():
        raise DataError(f"{folder / split}: no such folder. Flow of a video is read from {folder}/{split}/<video>.npy")

    @cache
    def flows_of(video: str) -> npt.NDArray[Any]:
        return _open(folder / split / f"{video}.npy")

    def flow_of(moment: Moment) -> Flow:
        flows = flows_of(moment.video)
        _check(flows, moment, f"{folder / split / moment.video}.npy")
        if moment.before is None:
            return _zero(moment.frame)
        flow = np.asarray(flows[moment.index], np.float32)
        if not np.isfinite(flow).all():
            raise DataError(f"{folder / split / moment.video}.npy: frame {moment.index} has values that are not finite")
        return flow

    return flow_of


def _open(path: Path) -> npt.NDArray[Any]:
    try:
        flows = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file. Every video of the split needs one.") from None
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path}: not a plain .npy array ({why(error)})") from error
    if not isinstance(flows, np.ndarray) or flows.dtype not in (np.float16, np.float32) or flows.shape[3:] != (2,):
        kind = f"{flows.dtype} {flows.shape}" if isinstance(flows, np.ndarray) else "an archive"
        raise DataError(f"{path}: is {kind}; expected float16 or float32 (frames, height, width, 2)")
    return flows


def _check(flows: npt.NDArray[Any], moment: Moment, path: str) -> None:
    """Refuse flows of another frame size or for another number of frames."""
    if flows.shape[1:3] != moment.frame.shape[:2]:
        height, width = moment.frame.shape[:2]
        raise DataError(f"{path}: flow is {flows.shape[2]}x{flows.shape[1]}, the frames are {width}x{height}")
    if moment.index >= len(flows) or (moment.after is None and moment.index + 1 != len(flows)):
        seen = f"{moment.index + 1}{'' if moment.after is None else ' or more'}"
        raise DataError(f"{path}: flow for another number of frames: it holds {len(flows)}, the video has {seen}")


def _between(calc: Callable[[Frame, Frame], Any]) -> FlowOf:
    """A provider from a function of two frames."""

    def flow_of(moment: Moment) -> Flow:
        if moment.before is None:
            return _zero(moment.frame)
        flow: Flow = calc(moment.before, moment.frame)
        return flow

    return flow_of


def _zero(frame: Frame) -> Flow:
    return np.zeros((*frame.shape[:2], 2), np.float32)


def _grey(frame: Frame) -> npt.NDArray[np.uint8]:
    """(H, W, C) -> (H, W), contiguous, as DIS insists."""
    grey = frame[..., 0] if frame.shape[2] == 1 else cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY)
    return np.ascontiguousarray(grey)
