# SPDX-License-Identifier: Apache-2.0
"""The pictures beside the tables, for the READMEs."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[1] / "docs" / "pictures"


# What stands in the picture of the queue, by language.
_WORDS = {
    "en": ("seconds since there was room", "jobs in the queue", "limit: {}", "all submitted after {:.0f} s"),
    "zh": ("腾出空位之后的秒数", "队列里的作业数", "上限：{}", "{:.0f} s 后全部提交"),
}
# And in that of their growth: two axes, the number of gates, and the two lines.
_GROWTH = {
    "en": ("CPU per gate and poll, µs", "the loop stands still, ms", "gates", "no claims", "a tenth claims"),
    "zh": ("每个闸门每次查询的 CPU，µs", "事件循环停顿，ms", "闸门数", "没有预占", "十分之一有预占"),
}


def queues(over_time: Mapping[str, Sequence[tuple[float, int]]], limit: int) -> None:
    """
    Draw how many jobs were in the queue, once in each language.

    :param over_time: by name, moments in seconds, and how many jobs were in the queue from then on
    :param limit: how many there may be
    """
    for language, (seconds, jobs, most, submitted) in _WORDS.items():
        figure, axes = _axes()
        for (name, steps), colour in zip(over_time.items(), ("tab:green", "tab:red", "tab:orange"), strict=True):
            axes.step(*zip(*steps, strict=True), where="post", color=colour, label=name)
            # A line ends with the last submission, which is why one is so much shorter.
            axes.plot(*steps[-1], marker="o", color=colour)
            axes.annotate(
                submitted.format(steps[-1][0]),
                steps[-1],
                xytext=(0, 8) if steps[-1][1] <= limit else (8, -4),
                textcoords="offset points",
                ha="right" if steps[-1][1] <= limit else "left",
                color=colour,
            )
        axes.axhline(limit, color="black", linestyle="--", linewidth=1, label=most.format(limit))
        axes.set_xlabel(seconds)
        axes.set_ylabel(jobs)
        axes.set_xlim(left=0)
        axes.set_ylim(bottom=0)
        axes.legend(frameon=False)
        _save(figure, f"admission.{language}")


def growth(cpu: Sequence[Mapping[int, float]], still: Sequence[Mapping[int, float]]) -> None:
    """
    Draw what gates cost an event loop as they grow in number, once in each language.

    :param cpu: without claims and with them, microseconds of CPU per gate and poll, by the number of gates
    :param still: likewise, milliseconds for which the loop stands still at the longest, by the number of gates
    """
    for language, (cpu_label, still_label, gates, *names) in _GROWTH.items():
        figure, panels = _axes(columns=2)
        for axes, lines, label in zip(panels, (cpu, still), (cpu_label, still_label), strict=True):
            for name, values in zip(names, lines, strict=True):
                axes.loglog(list(values), list(values.values()), marker="o", label=name)
            axes.set_xlabel(gates)
            axes.set_ylabel(label)
            axes.set_ylim(0.5, 200)
            axes.legend(frameon=False)
        _save(figure, f"growth.{language}")


def _axes(columns: int = 1) -> tuple[Any, Any]:
    import matplotlib

    matplotlib.use("svg")
    # The same picture from the same figures; text as text, in whatever font the reader has.
    matplotlib.rcParams.update(
        {
            "svg.hashsalt": "scnet",
            "svg.fonttype": "none",
            "font.sans-serif": ["DejaVu Sans", "Arial", "Noto Sans CJK SC", "Microsoft YaHei", "PingFang SC"],
        }
    )
    # That is for the reader to have.
    logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", "Glyph .* missing")
    from matplotlib import pyplot

    return pyplot.subplots(ncols=columns, figsize=(7, 3.2), layout="constrained")


def _save(figure: Any, name: str) -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    figure.savefig(FOLDER / f"{name}.svg", metadata={"Date": None})
