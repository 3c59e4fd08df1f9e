"""Foreground boxes of a frame: moving regions, a detector's boxes merged with them, or boxes from a file.

Every provider is one plain function from a `Moment` to float32 (M, 4): x0 y0 x1 y1 in native pixels, x1
and y1 exclusive, inside the frame, in no particular order. Detector boxes go through confidence, smallest
area and the overlap rule; moving regions then cover what the detector missed.
Reads frames, a detector file or a boxes file; writes nothing.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, reduce
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from amsrc.config import BoxConfig
from amsrc.cubes import Boxes, BoxesOf, Frame, Moment, once_a_frame
from amsrc.errors import ConfigError, DataError, RunError, why

Detect = Callable[[Frame], Boxes]  # a frame's boxes above the confidence, not yet filtered

COCO_CLASSES = 80
NANODET_MEAN = np.array([103.53, 116.28, 123.675], np.float32)  # BGR; with the next line, NanoDet's own
NANODET_STD = np.array([57.375, 57.12, 58.395], np.float32)
NANODET_STRIDES = (8, 16, 32, 64)  # a file has some of them
SAME_THING_IOU = 0.5  # of two detections that overlap more, whatever their classes, the surer one is left
BLUR_PX = 5  # side of the Gaussian kernel that steadies the differences of frames
NO_BOXES: Boxes = np.zeros((0, 4), np.float32)


def provider(config: BoxConfig, *, source: Path | None, first_frames: Mapping[str, int], frames: int | None) -> BoxesOf:
    """The boxes that the configuration names.

    Args:
        source: detector file (`onnx`) or boxes file (`file`).
        first_frames, frames: see `from_file`, which alone needs them.

    Raises:
        ConfigError: the file is not given, is not a detector, or needs a package that is not installed.
        DataError: the boxes file is missing, damaged or for other frames.
    """
    match config.provider:
        case "motion":
            return moving(config)
        case "torchvision":
            return torchvision(config)
        case "onnx":
            if source is None:
                raise ConfigError("boxes from a detector need its file; pass --boxes onnx:FILE")
            return onnx(source, config)
        case "file":
            if source is None:
                raise ConfigError("boxes from a file need its path; pass --boxes file:DIR/boxes_{split}.npz")
            return from_file(source, first_frames, frames)


def moving(config: BoxConfig) -> BoxesOf:
    """Moving regions alone."""
    regions = _moving_regions(config)
    return lambda moment: regions(moment, NO_BOXES)


def detected(detect: Detect, config: BoxConfig) -> BoxesOf:
    """A detector's boxes, filtered, and the moving regions they miss."""
    regions = _moving_regions(config)

    def boxes_of(moment: Moment) -> Boxes:
        boxes = _inside(detect(moment.frame), moment.frame)
        boxes = drop_covered(drop_small(boxes, config.min_side_px), config.overlap)
        return np.concatenate([boxes, regions(moment, boxes)])

    return boxes_of


def onnx(path: Path, config: BoxConfig) -> BoxesOf:
    """A detector of the NanoDet family in an ONNX file, all COCO classes, and the moving regions it misses.

    Such a file has one image input 1x3xHxW and, for each stride, class scores (1, rows, 80) and box
    distributions (1, rows, 4 x bins), rows = the stride's cells. It runs on one thread, in onnxruntime,
    which tells the sizes of a file's inputs and outputs where cv2.dnn, as fast, does not.

    Raises:
        ConfigError: onnxruntime is not installed, or the file is missing, unreadable or of another family.
    """
    detector = _nanodet(path)
    return detected(lambda frame: _run(detector, frame, config.confidence), config)


@dataclass(frozen=True)
class _Nanodet:
    """An open detector with its input and outputs, as read from its file."""

    session: Any
    input: str
    height: int
    width: int
    heads: tuple[tuple[int, str, str], ...]
    """By stride in pixels: the names of its class scores and its box distributions."""


@cache  # a session costs 0.1 s to build, so the tasks of one process share it
def _nanodet(path: Path) -> _Nanodet:
    try:
        import onnxruntime
        from onnxruntime.capi.onnxruntime_pybind11_state import Fail, InvalidArgument, InvalidGraph, InvalidProtobuf
    except ImportError as error:
        raise ConfigError(
            "boxes provider onnx needs onnxruntime; run: pip install 'amsrc-bench[onnx]', or use --boxes motion"
        ) from error
    if not path.is_file():
        raise ConfigError(f"{path}: no such detector file. Pass --boxes onnx:FILE")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except (Fail, InvalidArgument, InvalidGraph, InvalidProtobuf) as error:
        raise ConfigError(f"{path}: not an ONNX model that onnxruntime can open ({error})") from error
    shapes = [{port.name: port.shape for port in ports} for ports in (session.get_inputs(), session.get_outputs())]
    return _Nanodet(session, *_layout(path, *shapes))


def _layout(
    path: Path, inputs: dict[str, list[Any]], outputs: dict[str, list[Any]]
) -> tuple[str, int, int, tuple[tuple[int, str, str], ...]]:
    """Input name, height, width and heads, from the shapes of a NanoDet's inputs and outputs."""
    match list(inputs.items()):
        case [(name, [1, 3, int(height), int(width)])]:
            heads = []
            for stride in NANODET_STRIDES:
                rows = (height // stride) * (width // stride)
                of_stride = {output: shape[2] for output, shape in outputs.items() if shape[:-1] == [1, rows]}
                scores = [output for output, values in of_stride.items() if values == COCO_CLASSES]
                sides = [output for output, values in of_stride.items() if values != COCO_CLASSES and values % 4 == 0]
                heads += [(stride, *pair) for pair in zip(scores, sides, strict=False)]
            if heads and len(outputs) == 2 * len(heads):
                return name, height, width, tuple(heads)
    raise ConfigError(
        f"{path}: not a detector of the NanoDet family. Expected one input [1, 3, height, width] and, for each stride, "
        f"scores [1, rows, {COCO_CLASSES}] and box distributions [1, rows, 4 x bins]; the file has inputs {inputs} "
        f"and outputs {outputs}. Convert its boxes to a file and pass --boxes file:DIR/boxes_{{split}}.npz"
    )


def _run(detector: _Nanodet, frame: Frame, confidence: float) -> Boxes:
    """Detections of any class above the confidence, one for each thing."""
    # Stretched, not letterboxed: on Ped2 at confidence 0.5 recall is 0.52 against 0.43, precision 0.96 against 0.95.
    resized = cv2.resize(_bgr(frame), (detector.width, detector.height), interpolation=cv2.INTER_LINEAR)
    image_BCHW = ((resized - NANODET_MEAN) / NANODET_STD).transpose(2, 0, 1)[None]
    names = [name for _, *pair in detector.heads for name in pair]
    outputs = iter(detector.session.run(names, {detector.input: image_BCHW}))
    boxes, scores = [NO_BOXES], [np.zeros(0, np.float32)]
    for stride, _, _ in detector.heads:
        best, sides = next(outputs)[0].max(1), next(outputs)[0]
        sure = np.flatnonzero(best > confidence)
        boxes.append(_decode(sides[sure], sure, stride, detector.width // stride))
        scores.append(best[sure])
    found, sureness = np.concatenate(boxes), np.concatenate(scores)
    corner_and_size = np.hstack([found[:, :2], found[:, 2:] - found[:, :2]])
    kept = cv2.dnn.NMSBoxes(corner_and_size.tolist(), sureness.tolist(), confidence, SAME_THING_IOU)
    native = np.array([frame.shape[1] / detector.width, frame.shape[0] / detector.height] * 2, np.float32)
    detections: Boxes = found[np.asarray(kept, int)] * native
    return detections


def _decode(sides: npt.NDArray[np.float32], cells: npt.NDArray[np.intp], stride: int, columns: int) -> Boxes:
    """Boxes in input pixels from distributions of the distances, in strides, from a cell's centre to four sides.

    Args:
        sides: logits, (n, 4 x bins), left top right bottom.
        cells: number of each row's cell, row by row.
    """
    logits = sides.reshape(len(sides), 4, sides.shape[1] // 4)
    weights = np.exp(logits - logits.max(2, keepdims=True))
    left, top, right, bottom = (weights @ np.arange(weights.shape[2]) / weights.sum(2)).T
    x, y = cells % columns + 0.5, cells // columns + 0.5
    return (np.stack([x - left, y - top, x + right, y + bottom], axis=1) * stride).astype(np.float32)


def torchvision(config: BoxConfig) -> BoxesOf:
    """Faster R-CNN (ResNet-50 FPN v2), all COCO classes, and the moving regions it misses.

    Runs on a GPU where there is one; fetches torchvision's own COCO weights on first use.

    Raises:
        ConfigError: torchvision is not installed, or not for this torch.
        RunError: its weights cannot be downloaded.
    """
    try:
        import torch
        from torchvision.models.detection import FasterRCNN_ResNet50_FPN_V2_Weights, fasterrcnn_resnet50_fpn_v2
    except (ImportError, RuntimeError) as error:  # RuntimeError: torchvision was built for another torch
        raise ConfigError(
            f"boxes provider torchvision needs a torchvision made for this torch ({error}); "
            "run: pip install 'amsrc-bench[raft]', or use --boxes motion, onnx:FILE or file:DIR/boxes_{split}.npz"
        ) from error
    device = "cuda" if torch.cuda.is_available() else "cpu"
    weights = FasterRCNN_ResNet50_FPN_V2_Weights.DEFAULT
    try:
        model = fasterrcnn_resnet50_fpn_v2(weights=weights, box_score_thresh=config.confidence).eval().to(device)
    except OSError as error:
        raise RunError(f"the detector's weights could not be fetched from {weights.url}: {error}") from error

    def detect(frame: Frame) -> Boxes:
        rgb = np.ascontiguousarray(_bgr(frame)[..., ::-1].transpose(2, 0, 1))
        with torch.inference_mode():
            (found,) = model([torch.from_numpy(rgb).to(device) / 255])
        boxes: Boxes = found["boxes"].cpu().numpy()
        return boxes

    return detected(detect, config)


def drop_small(boxes: Boxes, min_side_px: float) -> Boxes:
    """Boxes whose area is that of a square of this side, or more, and that are nowhere thinner than a pixel."""
    sides = boxes[:, 2:] - boxes[:, :2]
    kept: Boxes = boxes[(sides.prod(1) >= min_side_px**2) & (sides >= 1).all(1)]
    return kept


def drop_covered(boxes: Boxes, overlap: float) -> Boxes:
    """Going up in area, drop a box when a larger one covers more than the part `overlap` of it.

    Returns what is left in ascending area. Of equal boxes one is left. Source: released.
    """
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    order = np.argsort(areas, kind="stable")
    boxes, areas = boxes[order], areas[order]
    low = np.maximum(boxes[:, None, :2], boxes[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], boxes[None, :, 2:])
    shared = np.clip(high - low, 0, None).prod(2)
    larger = np.triu(np.ones(shared.shape, bool), k=1)
    covered = (shared > overlap * areas[:, None]) & larger
    kept: Boxes = boxes[~covered.any(1)]
    return kept


def _moving_regions(config: BoxConfig) -> Callable[[Moment, Boxes], Boxes]:
    """Regions where a frame differs from its neighbours, outside the boxes already known."""
    blurred = once_a_frame(_blurred)

    def regions_of(moment: Moment, known: Boxes) -> Boxes:
        mask = (_change(moment, blurred) > config.motion_threshold).astype(np.uint8)
        for x0, y0, x1, y1 in _inside(_grown(known, config.grow_px), moment.frame).astype(int).tolist():
            mask[y0:y1, x0:x1] = 0
        contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
        regions = np.array([cv2.boundingRect(contour) for contour in contours], np.float32).reshape(-1, 4)
        sides = regions[:, 2:]
        wanted = (sides.prod(1) > config.min_side_px**2) & (sides.max(1) < config.max_aspect * sides.min(1))
        boxes = np.hstack([regions[:, :2], regions[:, :2] + sides])[wanted]
        return _inside(_grown(boxes, config.grow_px), moment.frame)

    return regions_of


def _change(moment: Moment, blurred: Callable[[Frame], npt.NDArray[np.uint8]]) -> npt.NDArray[np.uint8]:
    """Sum of the absolute differences to the neighbouring frames, (H, W); the largest over the channels.

    Both operations saturate at 255 instead of wrapping (Deviation 7: released wraps).
    """
    frame = blurred(moment.frame)
    change = np.zeros_like(frame)
    for neighbour in (moment.before, moment.after):
        if neighbour is not None:
            change = cv2.add(change, cv2.absdiff(frame, blurred(neighbour)))  # type: ignore[assignment]
    # Channel by channel: NumPy's maximum over a last axis of three costs half as much as the optical flow.
    largest: npt.NDArray[np.uint8] = reduce(cv2.max, cv2.split(change))  # type: ignore[arg-type]
    return largest


def _blurred(frame: Frame) -> npt.NDArray[np.uint8]:
    return cv2.GaussianBlur(frame, (BLUR_PX, BLUR_PX), 0)  # type: ignore[return-value]


def _grown(boxes: Boxes, by_px: int) -> Boxes:
    return boxes + np.array([-by_px, -by_px, by_px, by_px], np.float32)


def _bgr(frame: Frame) -> Frame:
    return cv2.cvtColor(frame, cv2.COLOR_GRAY2BGR) if frame.shape[2] == 1 else frame  # type: ignore[return-value]


def _inside(boxes: Boxes, frame: Frame) -> Boxes:
    """Boxes cut off at the frame's edges."""
    height, width = frame.shape[:2]
    inside: Boxes = np.clip(boxes, 0, np.array([width, height, width, height], np.float32))
    return inside


def from_file(path: Path, first_frames: Mapping[str, int], frames: int | None) -> BoxesOf:
    """Boxes computed elsewhere, already final, in one .npz file a split.

    Its arrays: `boxes` float32 (M, 4), x0 y0 x1 y1 in native pixels; `offsets` int64 (F+1,): frame f of the
    split's concatenated videos has the rows offsets[f]:offsets[f+1].

    Args:
        first_frames: by video, the position of its first frame among the split's frames.
        frames: frames of the split; None where that is not known.

    Raises:
        DataError: the file is missing, not of that form, or for another number of frames.
    """
    boxes, offsets = _read(path)
    if frames is not None and len(offsets) - 1 != frames:
        raise DataError(
            f"{path}: boxes for another number of frames: it holds {len(offsets) - 1}, this split has {frames}. "
            "Pass the file made from this copy of the data set and this split."
        )

    def boxes_of(moment: Moment) -> Boxes:
        position = first_frames[moment.video] + moment.index
        if position >= len(offsets) - 1:
            raise DataError(
                f"{path}: boxes for another number of frames: it holds {len(offsets) - 1}, video {moment.video} "
                f"frame {moment.index} is number {position + 1}. Pass the file made from this copy of the data set."
            )
        return boxes[offsets[position] : offsets[position + 1]]

    return boxes_of


def _read(path: Path) -> tuple[Boxes, npt.NDArray[np.int64]]:
    try:
        with path.open("rb") as file:
            arrays = np.load(file, allow_pickle=False)
            boxes, offsets = arrays["boxes"], arrays["offsets"]
    except FileNotFoundError:
        raise DataError(f"{path}: no such boxes file. Pass --boxes file:DIR/boxes_{{split}}.npz") from None
    except KeyError:
        raise DataError(f"{path}: needs two arrays, boxes and offsets") from None
    except (OSError, ValueError, EOFError, IndexError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: not an .npz file of plain arrays ({why(error)})") from error
    form = "boxes must be float (M, 4), offsets int (frames + 1,) rising from 0 to M"
    if boxes.ndim != 2 or boxes.shape[1] != 4 or boxes.dtype.kind != "f":
        raise DataError(f"{path}: boxes are {boxes.dtype} {boxes.shape}; {form}")
    if offsets.ndim != 1 or not len(offsets) or offsets.dtype.kind not in "iu":
        raise DataError(f"{path}: offsets are {offsets.dtype} {offsets.shape}; {form}")
    if offsets[0] != 0 or offsets[-1] != len(boxes) or (offsets[1:] < offsets[:-1]).any():
        raise DataError(f"{path}: offsets do not rise from 0 to the number of boxes, {len(boxes)}; {form}")
    return boxes.astype(np.float32), offsets.astype(np.int64)
