# SPDX-License-Identifier: Apache-2.0
"""Draw the two drawings of the pages, in both languages: ``python scripts/draw.py``."""

from __future__ import annotations

from pathlib import Path
from xml.sax.saxutils import escape

FOLDER = Path(__file__).parents[1] / "docs" / "pictures"

PLAIN, GOOD, SHUT = ("#ffffff", "#607d8b"), ("#e0f2e9", "#2e7d52"), ("#fdecea", "#b3473c")

WORDS = {
    "en": {
        "cluster": ["SCnet", "one region"],
        "request": ["one request", "per interval"],
        "triggerer": "a triggerer",
        "watch": ["one connection, one user"],
        "read": ["1 read the connection anew"],
        "ask": ["2 poll once, in bounded time and size"],
        "hear": ["3 read claims, ask what became of them"],
        "hand": ["4 let all decide: priority, then arrival"],
        "write": ["5 write the claims, before any gate opens"],
        "look": ["running 4", "queued 3"],
        "passes": "gate {}: 3 + {} < 5, opens, claims 1",
        "waits": "gate {}: 3 + {}, waits",
        "more": "… gate 100",
        "airflow": ["Airflow", "states of tasks", "Variables"],
        "gate passes": ["the gate opens:", "claims its jobs"],
        "not started": ["submission has", "not started"],
        "runs": ["submission", "runs"],
        "ended": ["submission", "has ended"],
        "over": ["the claim", "has expired"],
        "long": ["stays, while others", "of its task start"],
        "ttl": ["stays for claim_ttl", "at most"],
        "counted": ["stays for", "counted_after"],
        "dropped": ["none will run: skipped, or gone with the DAG run", "→ dropped at once"],
        "silent": ["Airflow does not answer, or no task stands behind the gate", "→ expires claim_ttl later"],
        "retry": ["a retry"],
        "longer": ["runs for longer than claim_ttl"],
    },
    "zh": {
        "cluster": ["SCnet", "一个区域"],
        "request": ["每个间隔", "一次请求"],
        "triggerer": "一个 triggerer",
        "watch": ["同一连接、同一用户"],
        "read": ["1 重新读取连接"],
        "ask": ["2 只查询一次，时间和大小都有上限"],
        "hear": ["3 读取预占，询问它们的进展"],
        "hand": ["4 所有闸门依次判断：先优先级，再先后"],
        "write": ["5 写下预占，然后才放行"],
        "look": ["running 4", "queued 3"],
        "passes": "闸门 {}：3 + {} < 5，放行，预占 1",
        "waits": "闸门 {}：3 + {}，等待",
        "more": "…… 闸门 100",
        "airflow": ["Airflow", "任务的状态", "变量"],
        "gate passes": ["闸门放行，", "为作业预占空位"],
        "not started": ["提交任务", "尚未开始"],
        "runs": ["提交任务", "正在运行"],
        "ended": ["提交任务", "已经结束"],
        "over": ["预占", "失效"],
        "long": ["同一任务的提交还在", "陆续开始，就有效"],
        "ttl": ["最多保留", "claim_ttl"],
        "counted": ["再保留", "counted_after"],
        "dropped": ["不会再运行：被跳过，或整个 DAG run 已不存在", "→ 立即失效"],
        "silent": ["Airflow 没有响应，或闸门后面没有任务", "→ 再过 claim_ttl 失效"],
        "retry": ["重试"],
        "longer": ["运行超过 claim_ttl"],
    },
}


class Drawing:
    """
    A drawing, on a light ground in dark pages, too.

    :param width: pixels
    :param height: pixels
    :param title: what it shows, for those who cannot see it
    """

    def __init__(self, width: int, height: int, title: str) -> None:
        self._parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" '
            "font-family=\"Arial, 'Noto Sans CJK SC', 'Microsoft YaHei', sans-serif\" font-size=\"13\">",
            f"<title>{escape(title)}</title>",
            '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
            'orient="auto"><path d="M0 0 8 4 0 8z" fill="#455a64"/></marker></defs>',
            f'<rect width="{width}" height="{height}" rx="8" fill="#f6f8f9"/>',
        ]

    def text(self, x: float, y: float, lines: list[str], colour: str = "#263238", anchor: str = "middle") -> None:
        """Write lines, the middle of them at a point."""
        for number, line in enumerate(lines):
            at = y + 5 + 17 * (number - (len(lines) - 1) / 2)
            self._parts.append(
                f'<text x="{x}" y="{at:g}" text-anchor="{anchor}" fill="{colour}">{escape(line)}</text>'
            )

    def box(
        self, x: int, y: int, width: int, height: int, lines: list[str], paint: tuple[str, str] = PLAIN
    ) -> None:
        """Draw a box with lines in its middle."""
        fill, stroke = paint
        self._parts.append(
            f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="6" fill="{fill}" stroke="{stroke}"/>'
        )
        self.text(x + width / 2, y + height / 2, lines)

    def arrow(self, path: str) -> None:
        """Draw an arrow along a path."""
        self._parts.append(f'<path d="{path}" fill="none" stroke="#455a64" marker-end="url(#tip)"/>')

    def __str__(self) -> str:
        """Return it as SVG."""
        return "\n".join([*self._parts, "</svg>", ""])


def look(words: dict[str, list[str] | str]) -> Drawing:
    """
    Draw the way of a poll from the cluster to a hundred gates.

    :param words: in one language
    """
    w: dict = words
    drawing = Drawing(900, 330, "SCnet → triggerer → gates")
    drawing.box(20, 95, 110, 60, w["cluster"])
    drawing.text(177, 75, w["request"])
    drawing.arrow("M225 115 H136")
    drawing.text(177, 177, w["look"], GOOD[1])
    drawing.arrow("M130 138 H219")
    drawing.box(225, 20, 655, 290, [], ("#eceff1", "#90a4ae"))
    drawing.text(240, 38, [w["triggerer"]], "#546e7a", "start")
    drawing.box(240, 58, 300, 188, [], PLAIN)
    drawing.text(390, 76, w["watch"], "#546e7a")
    for number, step in enumerate(("read", "ask", "hear", "hand", "write")):
        drawing.text(252, 106 + 30 * number, w[step], anchor="start")
    drawing.box(20, 240, 110, 66, w["airflow"])
    drawing.arrow("M390 246 V273 H136")
    for number in range(6):
        y = 42 + 43 * number
        if number == 5:
            drawing.text(735, y + 17, [w["more"]], "#546e7a")
            continue
        passes = number < 2
        says = w["passes" if passes else "waits"].format(number + 1, min(number, 2))
        drawing.box(600, y, 265, 33, [says], GOOD if passes else SHUT)
        drawing.arrow(f"M540 140 H570 V{y + 16} H594")
    return drawing


def claim(words: dict[str, list[str] | str]) -> Drawing:
    """
    Draw a claim's life.

    :param words: in one language
    """
    w: dict = words
    drawing = Drawing(900, 250, "gate → submission → cluster")
    stages = ("gate passes", "not started", "runs", "ended", "over")
    for number, stage in enumerate(stages):
        x = 20 + 180 * number
        drawing.box(x, 60, 140, 56, w[stage], GOOD if stage == "over" else PLAIN)
        if number:
            drawing.arrow(f"M{x - 40} 88 H{x - 6}")
    for number, bound in ((1, "long"), (2, "ttl"), (3, "counted")):
        drawing.text(90 + 180 * number, 138, w[bound], GOOD[1])
    drawing.arrow("M450 60 V36 H270 V54")
    drawing.text(360, 23, w["retry"], "#546e7a")
    drawing.arrow("M470 60 V36 H810 V54")
    drawing.text(640, 23, w["longer"], "#546e7a")
    drawing.box(20, 176, 415, 54, w["dropped"], SHUT)
    drawing.box(465, 176, 415, 54, w["silent"], SHUT)
    return drawing


def drawings() -> dict[str, str]:
    """Return all drawings, by the names of their files."""
    return {
        f"{draw.__name__}.{language}.svg": str(draw(words))
        for language, words in WORDS.items()
        for draw in (look, claim)
    }


if __name__ == "__main__":
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, svg in drawings().items():
        (FOLDER / name).write_text(svg, encoding="utf-8")
