"""The selection rules: where the epoch and the fusion ratio behind a number may come from.

`bench.evaluation.selection` applies them to scores. Names and words alone; imports nothing.
"""

RULES = {
    "paper": "the last epoch and the weights of the score's parts as configured (the paper's, unless the row says "
    "otherwise); no test label chooses.",
    "oracle": "the epoch and the weights of the score's parts with the best AUROC on all test labels: those that "
    "measure have chosen.",
    "crossfit": "the test videos in folds; the epoch and the weights for a fold are the best on the labels of the "
    "other folds, so that no video's label chooses for that video. A fold's scores count as their ranks among all test "
    "frames under its choice.",
    "label-free": "the epoch and the weights that best tell held-out normal training videos from pseudo-anomalies made "
    "of them; no test label chooses. Missing where nothing was held out.",
}
"""The rules in the order of the tables, and what each may look at to choose."""
