"""Whether a model knows its pictures better with red and blue changed over."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgeclin.convert.judging import Judge
from edgeclin.convert.stages import Stage, ask
from edgeclin.description import Task
from edgeclin.gates import Gate
from edgeclin.gates.samples import colour_axis
from edgeclin.gates.source import reverse_gate

_MOST = 200


def judge_colours(judge: Judge, model: Stage, judged: np.ndarray) -> Sequence[Gate]:
    """A gate for a classifier of labelled pictures of three colours, on up to `_MOST` of them.

    Args:
        model: a float form of the source that this machine executes.
        judged: prepared validation samples, float32 [n, …].
    """
    axis = colour_axis(judged.shape[1:])
    if judge.truth is None or axis is None or judge.description.task is not Task.CLASSIFICATION:
        return []
    some = np.linspace(0, len(judged) - 1, min(_MOST, len(judged))).astype(int)
    turned = ask(model.form, model.path, np.flip(judged[some], axis)).outputs
    assert turned is not None
    truth = judge.truth[some]
    answers = (judge.answers(outputs) for outputs in (judge.source[some], turned))
    right = [(one.decisions == truth)[:, 0] for one in answers]
    return [reverse_gate(*right)]
