"""Draws the picture of docs/links.md: `python docs/links.py`.

Left: the sigmoid functions g of the links p = (1 + g(z)) / 2, with slope 1 at 0.  Right: the three students, who
studied 1, 2 and 3 hours, and the curve that each link fits to them with l2=0.1 and reduction=sum.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure

from logreg.losses import LINKS, LOSSES
from logreg.losses.objective import Objective
from logreg.solvers.fit import fit

PICTURE = Path("docs/images/links.png")

SIGMOIDS = {
    "erf": "erf(√π z / 2)",
    "tanh": "tanh(z)",
    "gudermannian": "(2/π) gd(π z / 2)",
    "algebraic": "z / √(1 + z²)",
    "arctan": "(2/π) arctan(π z / 2)",
    "softsign": "z / (1 + |z|)",
}
"""The formulas of g, from the one that ends soonest at 1 to the one that ends last."""

HOURS, PASSED = torch.tensor([[1.0], [2.0], [3.0]], dtype=torch.float64), torch.tensor([0, 0, 1])

SAME_WITHOUT_PENALTY = {"erf": "probit", "tanh": "bce", "arctan": "cauchit"}
"""Links that are another one of a multiple of the logit, and that one."""

CURVES = ("probit", "bce", "gudermannian", "algebraic", "cauchit", "softsign", "cloglog", "loglog")
"""What is drawn on the right; on the left a link has the color of its curve there."""

COLORS = {name: f"C{place}" for place, name in enumerate(CURVES)}


def draw() -> Figure:
    """The picture."""
    figure = Figure(figsize=(11, 5.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    z = torch.linspace(-5, 5, 501, dtype=torch.float64)
    for name, formula in SIGMOIDS.items():
        color = COLORS[SAME_WITHOUT_PENALTY.get(name, name)]
        left.plot(z, 2 * LINKS[name].inverse_link(z) - 1, color=color, label=f"{name}: {formula}")
    left.plot(z, z.clamp(-1, 1), ":", color="0.5", linewidth=1)
    left.set(xlabel="z", ylabel="g(z)", title="sigmoid functions with slope 1 at 0", xlim=(-5, 5))
    hours = torch.linspace(0, 4, 401, dtype=torch.float64)
    for name in CURVES:
        found = fit(HOURS, PASSED, Objective(name, "sum", l2=0.1))
        p = LOSSES[name].inverse_link(found.coef[0] * hours + found.intercept)
        right.plot(hours, p, color=COLORS[name], label="logit" if name == "bce" else name)
    right.plot(HOURS[:, 0], PASSED, "o", color="black", markersize=7, clip_on=False, zorder=3)
    right.set(xlabel="hours", ylabel="probability of a pass", title="three students, l2=0.1", xlim=(0, 4), ylim=(0, 1))
    right.set_xticks(np.arange(5))
    for axes, columns in ((left, 2), (right, 4)):
        axes.grid(alpha=0.3)
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=columns, frameon=False, fontsize=9)
    return figure


if __name__ == "__main__":
    PICTURE.parent.mkdir(parents=True, exist_ok=True)
    draw().savefig(PICTURE, dpi=110)
