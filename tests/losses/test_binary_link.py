"""The links of two classes: against mpmath in the tails, against R's fits, and what is claimed of their optima."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any
from unittest.mock import Mock

import mpmath
import numpy as np
import pytest
import torch
from scipy.special import erf
from torch import Tensor

from logreg import config
from logreg.errors import ConfigError
from logreg.losses import LINKS, LOSSES, BinaryLink
from logreg.losses.binary_link import Terms
from logreg.losses.objective import Objective
from logreg.rows import MemoryRows
from logreg.solvers.fit import bound_of, fit, problem_of
from logreg.solvers.passes.base import drive
from logreg.solvers.paths.l1_path import fit_elastic_net_path
from logreg.solvers.paths.l2_path import Strength
from logreg.solvers.state import certified

CONVEX = {"probit", "erf", "cloglog", "loglog", "tanh", "gudermannian"}

SIZES = (0, 1e-3, 0.02, 0.1, 0.36, 0.37, 0.7, 1, 2, 4.9, 6.9, 7.1, 12, 30, 88, 300, 1e3, 1e4, 1e5, 1e6)
LOGITS = sorted({sign * size for size in SIZES for sign in (-1, 1)})

Exact = Callable[[Any], Any]


def exact(name: str) -> tuple[Exact, Exact, Exact]:
    """F, F' and the derivative of log F' by mpmath, of an argument z of any size."""
    half = mpmath.pi / 2
    if name == "loglog":
        return (
            lambda z: mpmath.exp(-mpmath.exp(-z)),
            lambda z: mpmath.exp(-mpmath.exp(-z) - z),
            lambda z: mpmath.exp(-z) - 1,
        )
    if name == "cloglog":
        return (
            lambda z: -mpmath.expm1(-mpmath.exp(z)),
            lambda z: mpmath.exp(z - mpmath.exp(z)),
            lambda z: 1 - mpmath.exp(z),
        )
    if name == "probit":
        return lambda z: mpmath.erfc(-z / mpmath.sqrt(2)) / 2, lambda z: mpmath.npdf(z), lambda z: -z
    if name == "erf":
        scale = mpmath.sqrt(half)
        ndtr, npdf, _ = exact("probit")
        return lambda z: ndtr(scale * z), lambda z: scale * npdf(scale * z), lambda z: -half * z
    if name == "tanh":
        return lambda z: 1 / (1 + mpmath.exp(-2 * z)), lambda z: mpmath.sech(z) ** 2 / 2, lambda z: -2 * mpmath.tanh(z)
    if name == "cauchit":
        return (
            lambda z: mpmath.atan2(1, -z) / mpmath.pi,
            lambda z: 1 / (mpmath.pi * (1 + z * z)),
            lambda z: -2 * z / (1 + z * z),
        )
    if name == "arctan":
        chance, density, slope = exact("cauchit")
        return lambda z: chance(half * z), lambda z: half * density(half * z), lambda z: half * slope(half * z)
    if name == "gudermannian":
        return (
            lambda z: mpmath.atan(mpmath.exp(half * z)) / half,
            lambda z: mpmath.sech(half * z) / 2,
            lambda z: -half * mpmath.tanh(half * z),
        )
    if name == "algebraic":
        return (
            lambda z: (1 + z / mpmath.sqrt(1 + z * z)) / 2,
            lambda z: (1 + z * z) ** mpmath.mpf(-1.5) / 2,
            lambda z: -3 * z / (1 + z * z),
        )
    return (
        lambda z: (1 + z / (1 + abs(z))) / 2,
        lambda z: 1 / (2 * (1 + abs(z)) ** 2),
        lambda z: (-2 if z >= 0 else 2) / (1 + abs(z)),
    )


def exact_terms(name: str, z: float, of_one: bool) -> tuple[Any, Any, Any]:
    """Minus the logarithm of the probability of a class, and its derivatives, by mpmath."""
    if not of_one:
        mirrored = {"cloglog": "loglog", "loglog": "cloglog"}.get(name, name)
        value, slope, curvature = exact_terms(mirrored, -z, of_one=True)
        return value, -slope, curvature
    if name == "loglog":  # -log F = exp(-z)
        hazard = mpmath.exp(-mpmath.mpf(z)) if z > -800 else mpmath.inf
        return hazard, -hazard, hazard
    if name == "cloglog" and z > 20:
        return mpmath.mpf(0), mpmath.mpf(0), mpmath.mpf(0)
    light = name in ("tanh", "gudermannian", "cloglog")
    # digits for 1 - F = exp(-c |z|), or for cancellations of |z|^4
    is_far = light and abs(z) >= 5000
    with mpmath.workdps(80 + (0 if is_far else int(3 * abs(z)) if light else 0)):
        if is_far and z > 0:
            return mpmath.mpf(0), mpmath.mpf(0), mpmath.mpf(0)
        chance, density, log_slope = exact(name)
        at = mpmath.mpf(z)
        f, p, ell = density(at), chance(at), log_slope(at)
        value = -mpmath.log(p)
        if name in ("probit", "erf") and z > 5:
            value = -mpmath.log1p(-chance(-at))
        return value, -f / p, mpmath.mpf(0) if is_far else (f / p) ** 2 - f / p * ell


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", LINKS)
def test_value_and_derivatives_are_those_of_mpmath_up_to_a_million(name: str, dtype: torch.dtype) -> None:
    link, limits = LINKS[name], torch.finfo(dtype)
    rtol = 1e-5 if dtype == torch.float32 else 2e-13
    logits = torch.tensor(LOGITS, dtype=dtype)
    for of_one, terms in ((True, link.of_one(logits)), (False, link.of_zero(logits))):
        for found in zip(logits.tolist(), *(part.tolist() for part in terms), strict=True):
            for ours, true in zip(found[1:], exact_terms(name, found[0], of_one), strict=True):
                assert math.isfinite(ours)
                if abs(true) <= limits.max:
                    assert abs(ours - true) <= rtol * abs(true) + 100 * limits.tiny, (found, of_one, true)
                else:  # the largest number takes the place of one that the type has not
                    assert abs(ours) == limits.max


@pytest.mark.parametrize("name", LINKS)
def test_convexity_is_as_stated(name: str) -> None:
    link, logits = LINKS[name], torch.linspace(-30, 30, 60_001, dtype=torch.float64)
    assert link.is_convex == (name in CONVEX)
    for terms in (link.of_one(logits), link.of_zero(logits)):
        assert bool((terms.curvature >= 0).all()) == link.is_convex


@pytest.mark.parametrize("name", LINKS)
def test_the_bounds_of_a_link_hold_and_are_not_far(name: str) -> None:
    link, step = LINKS[name], 1e-3
    logits = torch.arange(-6, 6, step, dtype=torch.float64)
    near = logits[1:].abs().maximum(logits[:-1].abs())
    steepest = 0.0
    for terms in (link.of_one(logits), link.of_zero(logits)):
        assert float(terms.curvature.max()) <= link.max_curvature * (1 + 1e-12)
        assert float(terms.slope.abs().max()) <= link.lipschitz
        assert float((terms.slope / terms.value).abs().max()) <= link.relative_lipschitz
        if not link.is_convex:
            continue
        third = terms.curvature.log().diff().abs() / step
        for reach in (0.5, 1.0, 3.0, 6.0):
            assert float(third[near <= reach].max()) <= link.self_concordance_within(reach) * (1 + 1e-3)
        steepest = max(steepest, float(third[near <= 3].max()))
    assert not link.is_convex or steepest >= link.self_concordance_within(3.0) / 2  # else it would prove little
    labels, weights = torch.arange(len(logits)) % 2, torch.linspace(0.1, 3, len(logits), dtype=torch.float64)
    value, residual, curvature = link.evaluate_precisely(logits.unsqueeze(1), labels)
    total, weight = float(value @ weights), float(weights.sum())
    assert float(residual[:, 0].abs() @ weights) <= link.residual_bound(total, weight)
    assert float(curvature[:, 0] @ weights) <= link.curvature_sum(total, weight)


@pytest.mark.parametrize("name", LINKS)
def test_the_expected_curvature_is_the_mean_of_the_observed_one(name: str) -> None:
    link = LINKS[name]
    logits = torch.linspace(-4, 2.5, 41, dtype=torch.float64).unsqueeze(1)
    p, ones = link.inverse_link(logits), torch.ones_like(logits)
    mean = p * link.curvature(logits, ones) + (1 - p) * link.curvature(logits, 0 * ones)
    torch.testing.assert_close(link.expected_curvature(logits), mean)
    torch.testing.assert_close(link.class_probabilities(logits), torch.cat([1 - p, p], dim=1))


@pytest.mark.parametrize("name", LINKS)
def test_optimizers_build_on_a_curvature_that_is_not_negative(name: str) -> None:
    logits = torch.linspace(-9, 9, 37, dtype=torch.float64).unsqueeze(1)
    for label in (0, 1):
        labels = torch.full((len(logits),), label)
        found = LINKS[name].evaluate(logits, labels).curvature
        assert bool((found >= 0).all())
        torch.testing.assert_close(LINKS[name].curvature_at(logits, labels), found)


def test_targets_between_the_classes_weigh_both_losses() -> None:
    link, logits = LINKS["probit"], torch.tensor([[0.3]], dtype=torch.float64)
    one, zero = link.of_one(logits), link.of_zero(logits)
    mixed = link.terms(logits, torch.tensor([[0.25]], dtype=torch.float64))
    for ours, first, second in zip(mixed, one, zero, strict=True):
        torch.testing.assert_close(ours, 0.25 * first + 0.75 * second)


@pytest.mark.parametrize(
    ("name", "other", "factor"),
    [("tanh", "bce", 2), ("erf", "probit", math.sqrt(math.pi / 2)), ("arctan", "cauchit", math.pi / 2)],
)
def test_three_names_are_another_link_of_a_multiple(name: str, other: str, factor: float) -> None:
    logits = torch.linspace(-3, 3, 13, dtype=torch.float64).unsqueeze(1)
    torch.testing.assert_close(LINKS[name].inverse_link(logits), LOSSES[other].inverse_link(factor * logits))


@pytest.mark.parametrize("name", ["erf", "algebraic", "tanh", "arctan", "gudermannian", "softsign"])
def test_the_sigmoid_functions_of_the_figure_have_slope_1_at_0(name: str) -> None:
    zero = torch.zeros(1, dtype=torch.float64)
    terms: Terms = LINKS[name].of_one(zero)
    assert float(terms.value) == pytest.approx(math.log(2), rel=1e-15)
    assert float(-terms.slope / 2) == pytest.approx(1 / 2)  # F' = (g' / 2) of F = (1 + g) / 2


@pytest.mark.parametrize("name", LINKS)
def test_the_formula_for_other_programs_is_the_inverse_link(name: str) -> None:
    class Functions:
        exp, arctan, sqrt, tanh, abs, erf = np.exp, np.arctan, np.sqrt, np.tanh, np.abs, erf

    logits = torch.linspace(-3, 3, 13, dtype=torch.float64)
    np.testing.assert_allclose(LINKS[name].probability(logits.numpy(), Functions), LINKS[name].inverse_link(logits))
    even = torch.tensor([LINKS[name].even_logit], dtype=torch.float64)
    assert float(LINKS[name].inverse_link(even)) == pytest.approx(0.5)
    mirrored = LINKS[LINKS[name].mirror].inverse_link(-logits)
    torch.testing.assert_close(mirrored, 1 - LINKS[name].inverse_link(logits))


def test_a_user_may_type_every_link_that_there_is() -> None:
    assert ("logit", *LINKS) == config.LINKS


def test_a_link_is_for_two_classes() -> None:
    with pytest.raises(ConfigError, match=r"`link=probit` must be used with two classes, got 3\. Use link=logit"):
        fit(torch.eye(3), torch.arange(3), Objective("probit"))


# i <- 1:40; x1 <- ((i*7) %% 40)/10 - 2; x2 <- ((i*13) %% 40)/10 - 2; y <- as.integer(x1 - 0.5*x2 + 3*sin(i^2) > 0.3)
# f <- glm(y ~ x1 + x2, binomial(link=...), control=glm.control(epsilon=1e-15, maxit=500)); coef(f); -logLik(f)
# with R 4.2; links that R lacks by an object of class "link-glm"
FITS_OF_R = {
    "probit": ((-0.0359306587, 0.3927069514, 0.1754450360), 25.1006743247),
    "cloglog": ((-0.4579468323, 0.5189599737, 0.2413467661), 24.8173892838),
    "cauchit": ((-0.1411205893, 0.5461746141, 0.2785957943), 25.1295527619),
    "loglog": ((0.3539914813, 0.4024498599, 0.1669301940), 25.3147132262),
    "gudermannian": ((-0.0439105312, 0.3201818154, 0.1468878837), 25.1165549863),
    "algebraic": ((-0.0546910458, 0.3254328081, 0.1522037899), 25.1242484376),
    "softsign": ((-0.2151915623, 0.5112464717, 0.3250056106), 25.0849673016),
    "erf": ((-0.0286685178, 0.3133348134, 0.1399848855), 25.1006743247),
    "tanh": ((-0.0363876755, 0.3165256672, 0.1429802116), 25.1098917086),
    "arctan": ((-0.0898401575, 0.3477055585, 0.1773595912), 25.1295527619),
}


def rows() -> tuple[Tensor, Tensor]:
    """The rows of `FITS_OF_R`."""
    i = torch.arange(1, 41)
    x = torch.stack([(7 * i) % 40, (13 * i) % 40], dim=1).double() / 10 - 2
    return x, (x[:, 0] - 0.5 * x[:, 1] + 3 * torch.sin(i.double().square()) > 0.3).long()


@pytest.mark.parametrize("name", LINKS)
@pytest.mark.parametrize("optimizer", ["newton", "lbfgs"])
def test_fits_are_those_of_r(name: str, optimizer: str) -> None:
    features, labels = rows()
    found = fit(features, labels, Objective(name, "sum"), optimizer=optimizer, tolerance=1e-13)
    coef, value = FITS_OF_R[name]
    assert found.bound.value == pytest.approx(value, abs=1e-9)
    assert [*found.intercept.tolist(), *found.coef[0].tolist()] == pytest.approx(list(coef), abs=2e-6)
    if name in CONVEX:
        assert found.bound.rigorous
        assert found.bound.gap <= 1e-12 * value
        assert found.bound.decrement is None
    else:
        assert not found.converged
        assert found.bound.gap >= found.bound.value
        assert found.bound.decrement is not None
        assert found.bound.decrement <= 1e-12
        assert found.bound.starts == 3


@pytest.mark.parametrize("name", sorted(CONVEX))
@pytest.mark.parametrize("penalty", [{}, {"l2": 0.05}, {"l2": 0.05, "l1": 0.02}])
def test_a_bound_is_never_below_the_true_distance(name: str, penalty: dict[str, Any], draw: torch.Generator) -> None:
    features, labels = rows()
    memory, objective = MemoryRows(features, labels), Objective(name, **penalty)
    problem = problem_of(memory, objective)
    best = fit(features, labels, objective, tolerance=1e-13)
    point, proven = torch.cat([best.coef, best.intercept.unsqueeze(1)], dim=1), 0
    for size in (1e-8, 1e-4, 1e-2, 0.1, 1.0, 5.0):
        away = point + size * torch.randn(point.shape, generator=draw, dtype=torch.float64)
        found = bound_of(problem, away, memory)
        true = found.value - best.bound.value
        assert found.rigorous
        assert found.gap + found.rounding + found.error >= true - best.bound.error
        proven += found.gap < 0.5 * found.value
    assert proven >= 3


def test_without_a_hessian_the_bound_by_strong_convexity_is_enough(draw: torch.Generator) -> None:
    features = torch.randn(300, 600, generator=draw, dtype=torch.float64)  # more than a certificate forms a Hessian of
    labels = (features[:, :5].sum(1) + torch.randn(300, generator=draw, dtype=torch.float64) > 0).long()
    for name in ("probit", "cloglog"):
        found = fit(features, labels, Objective(name, l2=0.05))
        assert found.converged
        assert found.bound.rigorous


def test_with_l1_alone_the_gap_is_an_estimate() -> None:
    features, labels = rows()
    found = fit(features, labels, Objective("probit", l1=0.2))
    assert not found.bound.rigorous
    assert found.bound.gap <= 1e-6 * found.bound.value
    assert bool((found.coef == 0).any())


@pytest.mark.long
def test_separation_is_no_optimum_of_any_link() -> None:
    features, labels = torch.arange(6.0, dtype=torch.float64).unsqueeze(1), torch.tensor([0, 0, 0, 1, 1, 1])
    for name in LINKS:
        found = fit(features, labels, Objective(name))
        assert not found.converged, name


@pytest.mark.parametrize("intercept", [0.0, 50.0])
def test_further_starts_lead_to_the_lowest_minimum(intercept: float) -> None:
    features, labels = rows()
    # at an intercept of 50 the loss of every row of class 0 is concave, and from there one start ends at 172 nats
    start = torch.zeros(1, 2, dtype=torch.float64), torch.tensor([intercept], dtype=torch.float64)
    found = fit(features, labels, Objective("algebraic", "sum"), start=start, optimizer="newton")
    assert found.bound.value == pytest.approx(FITS_OF_R["algebraic"][1], abs=1e-9)


def test_every_link_is_a_binary_link() -> None:
    assert all(isinstance(LOSSES[name], BinaryLink) for name in LINKS)


@pytest.mark.long
@pytest.mark.parametrize("name", ["probit", "cauchit"])
def test_paths_of_l1_fit_each_strength(name: str) -> None:
    features, labels = rows()
    problem = problem_of(MemoryRows(features, labels), Objective(name))
    for point in drive(
        fit_elastic_net_path(problem, [Strength(l1=0.1), Strength(l1=0.02)]), MemoryRows(features, labels)
    ):
        alone = fit(features, labels, Objective(name, l1=point.l1))
        assert point.bound.value == pytest.approx(alone.bound.value, rel=1e-6)


def test_a_stationary_point_that_no_bound_certifies_ends_the_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    certify = Mock(wraps=certified)
    monkeypatch.setattr("logreg.solvers.methods.lbfgs.certified", certify)
    found = fit(*rows(), Objective("cauchit", l1=0.1))
    assert float(found.bound.gradient.abs().max()) < 1e-9
    assert 0 < certify.call_count < 100
