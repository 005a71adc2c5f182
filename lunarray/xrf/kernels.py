"""X-ray fluorescence and scattering of a thick, flat, homogeneous surface: pure kernels.

Notation of the paper (eqs. 1–9, after Shiraiwa & Fujino 1966): Φ and Ψ are the angles of the incident and the emergent
beam with the surface, μ/ρ mass attenuation coefficients in cm²/g, W weight fractions. Intensities are those for which
the photon flux at a distant detector is ``intensity × solid angle / 4π``, the solid angle being that of the seen
surface; they carry the unit of the incident spectrum, photons/s/cm² (per bin).

With a_k = (μ/ρ)(E_k)/sin Φ, b_p = (μ/ρ)(E_p)/sin Ψ and m_q = (μ/ρ)(E_q), eqs. 1 and 2 of line p of element i become

    I_p = W_i / sin Ψ · Σ_k d_p(k) [X_p(k) + ½ Σ_q W_j(q) S_pq X_q(k) (h(b_p, m_q) + h(a_k, m_q))],
    d_p(k) = 1 / (a_k + b_p),  h(x, m) = log(1 + x/m) / x,

where X_q(k) is the excitation of line q times the incident photons of bin k, and S_pq the excitation of line p by
photons of line q, both for unit weight. X and S do not depend on the composition; h(a_k, m_q) is computed once for each
exciting line and serves all lines that it excites.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numba import njit, types
from numba.extending import intrinsic

from lunarray.errors import InputError
from lunarray.xrf.atomic import AtomicTables
from lunarray.xrf.constants import ELECTRON_REST_ENERGY

#: Reassociation lets sums run in vector registers; NaN and infinities keep their meaning.
_FAST = {"reassoc", "contract", "nsz"}
#: Energies in a block: what is summed many times stays in the nearest caches.
_BLOCK = 512


@dataclass(frozen=True, eq=False)
class FluorescenceTables:
    """What the kernels need of `AtomicTables` on one grid of incident energies; independent of the composition.

    Attributes
    ----------
    energy : ndarray of float64, (energy,)
        Incident energies, keV, rising.
    mu : ndarray of float64, (element, energy)
        Total mass attenuation coefficients, cm²/g.
    excitation : ndarray of float64, (line, energy)
        Emission of each line for unit weight, cm²/g; 0 below its edge.
    begin : ndarray of int64, (line,)
        First energy that excites each line.
    mu_line : ndarray of float64, (element, line)
        Total mass attenuation coefficients at the energies of the lines.
    secondary : ndarray of float64, (line, line)
        Emission of line p (first axis) for unit weight, excited by photons of line q (second axis).
    line_element : ndarray of int64, (line,)
    line_energy : ndarray of float64, (line,)
    base, base_ratio : ndarray, (line,)
        The first line whose excitation this line's is a multiple of (Kβ's is of Kα's), and the multiple.
    parent, parent_ratio : ndarray, (line,)
        An earlier line such that `secondary` is a multiple of that line's wherever that is not 0, and the multiple; −1
        for none. What excites both needs to be summed once.
    """

    energy: np.ndarray
    mu: np.ndarray
    excitation: np.ndarray
    begin: np.ndarray
    mu_line: np.ndarray
    secondary: np.ndarray
    line_element: np.ndarray
    line_energy: np.ndarray
    base: np.ndarray
    base_ratio: np.ndarray
    parent: np.ndarray
    parent_ratio: np.ndarray


def fluorescence_tables(
    tables: AtomicTables,
    energy: Any,
    *,
    secondary: bool = True,
    secondary_jump: Literal["own", "exciting"] = "own",
) -> FluorescenceTables:
    """Tabulate cross sections on a grid of incident energies.

    Parameters
    ----------
    tables : AtomicTables
    energy : array_like of float64, (energy,)
        Incident energies, keV, rising.
    secondary : bool
        Whether lines excite other lines (eq. 2).
    secondary_jump : {"own", "exciting"}
        Whose jump factor stands in eq. 4 for K lines: that of the element that is excited, or, a mistake of published
        software, that of the exciting one.

    Returns
    -------
    FluorescenceTables
    """
    energy = np.ascontiguousarray(energy, np.float64)
    if energy.ndim != 1 or energy.size == 0 or np.any(np.diff(energy) <= 0) or energy[0] <= 0:
        raise InputError(
            "incident energies must be positive and rise", remedy="sort the solar model's bins"
        )
    _, mu = tables.cross_sections(energy)
    excitation = tables.excitation(energy)
    _, mu_line = tables.cross_sections(tables.line_energy)
    pairs = tables.excitation(tables.line_energy)
    if secondary_jump == "exciting":
        share = 1 - 1 / tables.jump[tables.line_element, 0]
        pairs = np.where(
            (tables.line_shell == 0)[:, None], pairs * share[None, :] / share[:, None], pairs
        )
    if not secondary:
        pairs = np.zeros_like(pairs)
    base, base_ratio = _multiples(excitation, tables.line_element, whole=True)
    parent, parent_ratio = _multiples(pairs, tables.line_element, whole=False)
    own = np.arange(base.size)
    return FluorescenceTables(
        energy=energy,
        mu=mu,
        excitation=excitation,
        begin=np.array(
            [np.flatnonzero(row)[0] if row.any() else energy.size for row in excitation], np.int64
        ),
        mu_line=mu_line,
        secondary=pairs,
        line_element=np.array(tables.line_element),
        line_energy=np.array(tables.line_energy),
        base=np.where(base < 0, own, base),
        base_ratio=base_ratio,
        parent=parent,
        parent_ratio=parent_ratio,
    )


def _multiples(
    rows: np.ndarray, element: np.ndarray, *, whole: bool
) -> tuple[np.ndarray, np.ndarray]:
    """The earlier row of the same element that each row is a multiple of (where that is not 0, unless `whole`)."""
    parent, ratio = np.full(len(rows), -1, np.int64), np.ones(len(rows))
    for p in range(len(rows)):
        best = 0
        for other in np.flatnonzero(element[:p] == element[p]):
            common = rows[other] != 0
            if common.sum() <= best or (whole and np.any(rows[p][~common])):
                continue
            quotient = rows[p][common] / rows[other][common]
            if np.ptp(quotient) <= 1e-12 * abs(quotient[0]):
                best, parent[p], ratio[p] = common.sum(), other, quotient[0]
                if whole:
                    break
    return parent, ratio


def line_intensities(
    weights: Any,
    photons: Any,
    sin_in: float,
    sin_out: float,
    tables: FluorescenceTables,
    *,
    jacobian: bool = False,
) -> np.ndarray | tuple[np.ndarray, np.ndarray]:
    """Intensities of all lines, primary and secondary (eqs. 1–6).

    Parameters
    ----------
    weights : array_like of float64, (element,)
        Weight fractions (not percent); they are taken as they are, whatever their sum.
    photons : array_like of float64, (energy,)
        Incident photons/s/cm² in each bin, on a plane normal to the beam.
    sin_in, sin_out : float
        Sines of the angles of the incident (Φ) and the emergent (Ψ) beam with the surface.
    tables : FluorescenceTables
    jacobian : bool
        Whether to return the derivatives, too.

    Returns
    -------
    intensity : ndarray of float64, (line,)
        In the unit of `photons`.
    derivative : ndarray of float64, (line, element)
        d intensity / d weight, the weights being independent; only with `jacobian`.

    References
    ----------
    Shiraiwa, T., & Fujino, N. (1966), Jpn. J. Appl. Phys. 5, 886; eqs. 1–6 of the paper.
    """
    excited = tables.excitation * np.asarray(photons, np.float64)
    intensity = np.zeros(excited.shape[0])
    derivative = np.zeros((excited.shape[0], tables.mu.shape[0]))
    wanted = np.ones(excited.shape[0], np.bool_)
    arguments = (
        np.ascontiguousarray(weights, np.float64), excited, tables.mu, tables.begin, tables.mu_line,
        tables.secondary, tables.line_element,
    )  # fmt: skip
    geometry = (float(sin_in), float(sin_out), wanted, intensity)
    if not jacobian:
        family = (tables.base, tables.base_ratio, tables.parent, tables.parent_ratio)
        intensity_kernel(*arguments, *family, *geometry)
        return intensity
    jacobian_kernel(*arguments, tables.base, tables.base_ratio, *geometry, derivative)
    return intensity, derivative


# --- A logarithm that the compiler can vectorise ----------------------------------------------------


@intrinsic
def _as_bits(typingctx, x):
    def codegen(context, builder, signature, arguments):
        return builder.bitcast(arguments[0], context.get_value_type(types.int64))

    return types.int64(types.float64), codegen


@intrinsic
def _from_bits(typingctx, x):
    def codegen(context, builder, signature, arguments):
        return builder.bitcast(arguments[0], context.get_value_type(types.float64))

    return types.float64(types.int64), codegen


@njit(nogil=True, cache=True, fastmath=_FAST, error_model="numpy", inline="always")
def _log_bits(x):
    # x = 2^e · m with m in [√½, √2); log m = 2 artanh(s), s = (m − 1)/(m + 1).
    bits: Any = _as_bits(x)  # type: ignore[call-arg]
    shifted = bits - 0x3FE6A09E667F3BCD
    exponent = shifted >> 52
    m = _from_bits(bits - (exponent << 52))
    s = (m - 1.0) / (m + 1.0)
    t = s * s
    series = 1.0 / 19.0 + t * (1.0 / 21.0)
    series = 1.0 / 17.0 + t * series
    series = 1.0 / 15.0 + t * series
    series = 1.0 / 13.0 + t * series
    series = 1.0 / 11.0 + t * series
    series = 1.0 / 9.0 + t * series
    series = 1.0 / 7.0 + t * series
    series = 1.0 / 5.0 + t * series
    series = 1.0 / 3.0 + t * series
    return exponent * 0.6931471805599453 + 2.0 * s * (1.0 + t * series)


@njit(nogil=True, cache=True, error_model="numpy")
def log(x):
    """Natural logarithm of a positive, normal number, to 2e-16 of max(1, |log x|)."""
    return _log_bits(x)


# --- Fluorescence -----------------------------------------------------------------------------------


@njit(nogil=True, cache=True, fastmath=_FAST, error_model="numpy")
def _absorption(weights, mu, sin_in, k0, k1, a):
    n = k1 - k0
    for k in range(n):
        a[k] = 0.0
    for j in range(weights.size):
        w = weights[j] / sin_in
        for k in range(n):
            a[k] += w * mu[j, k0 + k]


@njit(nogil=True, cache=True, fastmath=_FAST, error_model="numpy")
def _h(x, m):
    return np.log1p(x / m) / x


@njit(nogil=True, cache=True, fastmath=_FAST, error_model="numpy")
def _excite(excited, q, a, m, k0, n, product):
    # product = X_q h(a, m)
    inverse = 1.0 / m
    for k in range(n):
        product[k] = excited[q, k0 + k] * _log_bits(1.0 + a[k] * inverse) / a[k]


@njit(nogil=True, cache=True, fastmath=_FAST, error_model="numpy")
def _dot_inverse(f, a, b, n):
    total = 0.0
    for k in range(n):
        total += f[k] / (a[k] + b)
    return total


@njit(nogil=True, cache=True, error_model="numpy")
def _line_constants(weights, mu_line, sin_out, b, m):
    for p in range(b.size):
        m[p] = 0.0
        for j in range(weights.size):
            m[p] += weights[j] * mu_line[j, p]
        b[p] = m[p] / sin_out


@njit(nogil=True, cache=True, fastmath=_FAST, error_model="numpy")
def _add_rows(f, rows, which, factors, count, n):
    # f += Σ factors × rows; four at a time, so that f is loaded and stored a quarter as often.
    i = 0
    while i + 4 <= count:
        c0, c1, c2, c3 = factors[i], factors[i + 1], factors[i + 2], factors[i + 3]
        x0, x1, x2, x3 = rows[which[i]], rows[which[i + 1]], rows[which[i + 2]], rows[which[i + 3]]
        for k in range(n):
            f[k] += c0 * x0[k] + c1 * x1[k] + c2 * x2[k] + c3 * x3[k]
        i += 4
    while i < count:
        c0, x0 = factors[i], rows[which[i]]
        for k in range(n):
            f[k] += c0 * x0[k]
        i += 1


@njit(nogil=True, cache=True, error_model="numpy")
def intensity_kernel(
    weights, excited, mu, begin, mu_line, secondary, line_element, base, base_ratio, parent, parent_ratio,
    sin_in, sin_out, wanted, intensity,
):  # fmt: skip
    """Intensities of the wanted lines. `excited` is excitation × photons, (line, energy); see `line_intensities`."""
    lines, energies = excited.shape
    b, m = np.empty(lines), np.empty(lines)
    _line_constants(weights, mu_line, sin_out, b, m)
    # What to add up for each line: rows of h(a, m) X (those that its parent does not add already), and rows of X.
    needed = np.zeros(lines, np.bool_)
    for p in range(lines):
        intensity[p] = 0.0
        needed[p] = wanted[p] and weights[line_element[p]] != 0.0
    exciting = np.zeros(lines, np.bool_)
    passed, passed_count = np.empty((lines, lines), np.int64), np.zeros(lines, np.int64)
    passed_factor = np.empty((lines, lines))
    direct, direct_count = np.empty((lines, lines), np.int64), np.zeros(lines, np.int64)
    direct_factor = np.empty((lines, lines))
    by_base = np.empty(lines)
    for p in range(lines - 1, -1, -1):
        if not needed[p]:
            continue
        if parent[p] >= 0:
            needed[parent[p]] = True
        by_base[:] = 0.0
        for q in range(lines):
            factor = 0.5 * secondary[p, q] * weights[line_element[q]]
            if factor == 0.0:
                continue
            by_base[base[q]] += factor * base_ratio[q] * _h(b[p], m[q])
            if parent[p] < 0 or secondary[parent[p], q] == 0.0:
                exciting[q] = True
                passed[p, passed_count[p]] = q
                passed_factor[p, passed_count[p]] = factor
                passed_count[p] += 1
        by_base[base[p]] += base_ratio[p]
        for q in range(lines):
            if by_base[q] != 0.0:
                direct[p, direct_count[p]] = q
                direct_factor[p, direct_count[p]] = by_base[q]
                direct_count[p] += 1
    a, f = np.empty(_BLOCK), np.empty(_BLOCK)
    products, sums = np.zeros((lines, _BLOCK)), np.zeros((lines, _BLOCK))
    local = np.zeros((lines, _BLOCK))
    for k0 in range(0, energies, _BLOCK):
        k1 = min(k0 + _BLOCK, energies)
        n = k1 - k0
        _absorption(weights, mu, sin_in, k0, k1, a)
        for q in range(lines):
            if begin[q] < k1:
                # What is summed many times is summed from the nearest cache.
                if base[q] == q:
                    local[q, :n] = excited[q, k0:k1]
                if exciting[q]:
                    _excite(excited, q, a, m[q], k0, n, products[q])
        for p in range(lines):
            if not needed[p] or begin[p] >= k1:
                continue
            _scaled(sums, p, parent[p], parent_ratio[p], n)
            _add_rows(sums[p], products, passed[p], passed_factor[p], passed_count[p], n)
            if wanted[p]:
                f[:n] = sums[p, :n]
                _add_rows(f, local, direct[p], direct_factor[p], direct_count[p], n)
                intensity[p] += _dot_inverse(f, a, b[p], n)
    for p in range(lines):
        intensity[p] *= weights[line_element[p]] / sin_out


@njit(nogil=True, cache=True, fastmath=_FAST, error_model="numpy")
def _scaled(sums, p, parent, ratio, n):
    for k in range(n):
        sums[p, k] = 0.0
    if parent >= 0:
        x, y = sums[parent], sums[p]
        for k in range(n):
            y[k] = ratio * x[k]


@njit(nogil=True, cache=True, fastmath=_FAST, error_model="numpy")
def _excite_with_slopes(excited, q, a, m, k0, n, product, slope_a, slope_m):
    inverse = 1.0 / m
    for k in range(n):
        x = excited[q, k0 + k]
        h = _log_bits(1.0 + a[k] * inverse) / a[k]
        other = 1.0 / (a[k] + m)
        product[k] = x * h
        slope_a[k] = x * (other - h) / a[k]
        slope_m[k] = -x * other * inverse


@njit(nogil=True, cache=True, fastmath=_FAST, error_model="numpy")
def _two_sums(product, slope_m, d, n):
    one, two = 0.0, 0.0
    for k in range(n):
        one += product[k] * d[k]
        two += slope_m[k] * d[k]
    return one, two


@njit(nogil=True, cache=True, fastmath=_FAST, error_model="numpy")
def _finish_block(f, slope, d, v, n):
    # v = d(f d)/da; returns Σ f d and Σ f d².
    one, two = 0.0, 0.0
    for k in range(n):
        fd = f[k] * d[k]
        one += fd
        two += fd * d[k]
        v[k] = (slope[k] - fd) * d[k]
    return one, two


@njit(nogil=True, cache=True, fastmath=_FAST, error_model="numpy")
def _dot(x, y, n):
    total = 0.0
    for k in range(n):
        total += x[k] * y[k]
    return total


@njit(nogil=True, cache=True, error_model="numpy")
def jacobian_kernel(
    weights, excited, mu, begin, mu_line, secondary, line_element, base, base_ratio, sin_in, sin_out, wanted,
    intensity, derivative,
):  # fmt: skip
    """Intensities of the wanted lines and their derivatives with respect to the weights, (line, element)."""
    lines, energies = excited.shape
    elements = weights.size
    b, m = np.empty(lines), np.empty(lines)
    _line_constants(weights, mu_line, sin_out, b, m)
    exciting = np.zeros(lines, np.bool_)
    h = np.zeros((lines, lines))
    passed, passed_count = np.empty((lines, lines), np.int64), np.zeros(lines, np.int64)
    passed_factor = np.empty((lines, lines))
    direct, direct_count = np.empty((lines, lines), np.int64), np.zeros(lines, np.int64)
    direct_factor = np.empty((lines, lines))
    by_base, used = np.empty(lines), np.empty(lines, np.bool_)
    for p in range(lines):
        if not wanted[p]:
            continue
        by_base[:] = 0.0
        used[:] = False
        by_base[base[p]] = base_ratio[p]
        used[base[p]] = True
        for q in range(lines):
            if secondary[p, q] != 0.0:
                exciting[q] = True
                h[p, q] = _h(b[p], m[q])
                factor = 0.5 * secondary[p, q] * weights[line_element[q]]
                by_base[base[q]] += factor * base_ratio[q] * h[p, q]
                used[base[q]] = True
                passed[p, passed_count[p]] = q
                passed_factor[p, passed_count[p]] = factor
                passed_count[p] += 1
        for q in range(lines):
            if used[q]:
                direct[p, direct_count[p]] = q
                direct_factor[p, direct_count[p]] = by_base[q]
                direct_count[p] += 1
    a, d, f = np.empty(_BLOCK), np.empty(_BLOCK), np.empty(_BLOCK)
    slope, v = np.empty(_BLOCK), np.empty(_BLOCK)
    local, near_mu = np.zeros((lines, _BLOCK)), np.zeros((elements, _BLOCK))
    products = np.zeros((lines, _BLOCK))
    slopes_a, slopes_m = np.zeros((lines, _BLOCK)), np.zeros((lines, _BLOCK))
    total, total_d = np.zeros(lines), np.zeros(lines)
    # Σ X d by line that X is a multiple of; Σ X h d; Σ X dh/dm d.
    direct_sums, product_sums = np.zeros((lines, lines)), np.zeros((lines, lines))
    slope_sums = np.zeros((lines, lines))
    derivative[:] = 0.0
    for k0 in range(0, energies, _BLOCK):
        k1 = min(k0 + _BLOCK, energies)
        n = k1 - k0
        _absorption(weights, mu, sin_in, k0, k1, a)
        for j in range(elements):
            near_mu[j, :n] = mu[j, k0:k1]
        for q in range(lines):
            if begin[q] < k1:
                if base[q] == q:
                    local[q, :n] = excited[q, k0:k1]
                if exciting[q]:
                    _excite_with_slopes(
                        excited, q, a, m[q], k0, n, products[q], slopes_a[q], slopes_m[q]
                    )
        for p in range(lines):
            if not wanted[p] or begin[p] >= k1:
                continue
            for k in range(n):
                d[k] = 1.0 / (a[k] + b[p])
            f[:n] = 0.0
            slope[:n] = 0.0
            _add_rows(f, local, direct[p], direct_factor[p], direct_count[p], n)
            _add_rows(f, products, passed[p], passed_factor[p], passed_count[p], n)
            _add_rows(slope, slopes_a, passed[p], passed_factor[p], passed_count[p], n)
            if passed_count[p] > 0:
                for i in range(direct_count[p]):
                    q = direct[p, i]
                    direct_sums[p, q] += _dot(d, local[q], n)
                for i in range(passed_count[p]):
                    q = passed[p, i]
                    one, two = _two_sums(products[q], slopes_m[q], d, n)
                    product_sums[p, q] += one
                    slope_sums[p, q] += two
            one, two = _finish_block(f, slope, d, v, n)
            total[p] += one
            total_d[p] += two
            for j in range(elements):
                derivative[p, j] += _dot(v, near_mu[j], n)
    for p in range(lines):
        i = line_element[p]
        for j in range(elements):
            own = derivative[p, j] / sin_in - mu_line[j, p] / sin_out * total_d[p]
            for n in range(passed_count[p]):
                q = passed[p, n]
                half = 0.5 * secondary[p, q]
                x_d = direct_sums[p, base[q]] * base_ratio[q]
                if line_element[q] == j:
                    own += half * (h[p, q] * x_d + product_sums[p, q])
                other = 1.0 / (b[p] + m[q])
                change = (other - h[p, q]) / b[p] * mu_line[j, p] / sin_out
                change -= other / m[q] * mu_line[j, q]
                own += (
                    half
                    * weights[line_element[q]]
                    * (change * x_d + mu_line[j, q] * slope_sums[p, q])
                )
            derivative[p, j] = weights[i] * own / sin_out
            if j == i:
                derivative[p, j] += total[p] / sin_out
        intensity[p] = weights[i] * total[p] / sin_out


# --- Scattering -------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class ScatterTables:
    """What the scattered continuum needs on one grid of incident energies and for one angle.

    Attributes
    ----------
    mu, mu_shifted : ndarray of float64, (element, energy)
        Total mass attenuation coefficients before scattering, and at the energies after Compton scattering, cm²/g.
    rayleigh, compton : ndarray of float64, (element, energy)
        4π dσ/dΩ at the angle, or the cross section over a range of angles (eq. 8), cm²/g.
    shift : ndarray of float64, (energy,)
        Energy after Compton scattering / energy before.
    """

    mu: np.ndarray
    mu_shifted: np.ndarray
    rayleigh: np.ndarray
    compton: np.ndarray
    shift: np.ndarray


def scatter_tables(
    tables: AtomicTables,
    energy: Any,
    angle: float,
    *,
    compton: bool = True,
    theta_range: tuple[float, float] | None = None,
) -> ScatterTables:
    """Tabulate scattering cross sections on a grid of incident energies.

    Parameters
    ----------
    tables : AtomicTables
    energy : array_like of float64, (energy,)
        Incident energies, keV, rising.
    angle : float
        Scattering angle in degrees: 180 − phase angle.
    compton : bool
        Whether to include Compton scattering.
    theta_range : (float, float), optional
        Integrate over these scattering angles, in degrees, as eq. 8 has it, and take the result as if it were
        isotropic; the energies then do not shift. By default the differential cross section at `angle` is used.

    Returns
    -------
    ScatterTables
    """
    energy = np.ascontiguousarray(energy, np.float64)
    _, mu = tables.cross_sections(energy)
    kinds = ("rayleigh", "compton") if compton else ("rayleigh",)
    parts = {"compton": np.zeros_like(mu)}
    if theta_range is None:
        for kind in kinds:
            parts[kind] = 4 * np.pi * tables.scattering(energy, angle, kinds=(kind,))
        cos = np.cos(np.deg2rad(angle))
        shift = (
            1 / (1 + energy / ELECTRON_REST_ENERGY * (1 - cos)) if compton else np.ones_like(energy)
        )
        _, mu_shifted = tables.cross_sections(energy * shift)
    else:
        low, high = np.deg2rad(theta_range)
        nodes, node_weights = np.polynomial.legendre.leggauss(24)
        theta = (high + low) / 2 + (high - low) / 2 * nodes
        for kind in kinds:
            parts[kind] = sum(
                w * (high - low) / 2 * 2 * np.pi * np.sin(t)
                * tables.scattering(energy, float(np.rad2deg(t)), kinds=(kind,))
                for t, w in zip(theta, node_weights, strict=True)
            )  # fmt: skip
        shift, mu_shifted = np.ones_like(energy), mu
    return ScatterTables(
        mu=mu,
        mu_shifted=mu_shifted,
        rayleigh=parts["rayleigh"],
        compton=parts["compton"],
        shift=shift,
    )


@njit(nogil=True, cache=True, error_model="numpy")
def scatter_kernel(
    weights,
    photons,
    mu,
    mu_shifted,
    cross_section,
    sin_in,
    sin_out,
    derivative,
    out,
    out_derivative,
):
    """Scattered photons of each bin of incident energy (eq. 9), into `out` (energy,).

    ``photons × σ / ((μ(E)/sin Φ + μ(E')/sin Ψ) sin Ψ)`` with σ = Σ W σ_j, E' the energy after scattering; with
    `derivative`, d out / d weight goes into `out_derivative`, (element, energy).
    """
    elements = weights.size
    for k in range(photons.size):
        absorption, sigma = 0.0, 0.0
        for j in range(elements):
            absorption += weights[j] * (mu[j, k] / sin_in + mu_shifted[j, k] / sin_out)
            sigma += weights[j] * cross_section[j, k]
        factor = photons[k] / (absorption * sin_out)
        out[k] = factor * sigma
        if derivative:
            for j in range(elements):
                change = mu[j, k] / sin_in + mu_shifted[j, k] / sin_out
                out_derivative[j, k] = factor * (cross_section[j, k] - sigma * change / absorption)


def scattered_continuum(
    weights: Any,
    photons: Any,
    sin_in: float,
    sin_out: float,
    tables: ScatterTables,
    *,
    jacobian: bool = False,
) -> tuple[np.ndarray, ...]:
    """Incident photons that are scattered towards the detector (eqs. 7–9).

    Parameters
    ----------
    weights : array_like of float64, (element,)
        Weight fractions.
    photons : array_like of float64, (energy,)
        Incident photons/s/cm² in each bin.
    sin_in, sin_out : float
        Sines of the angles of the incident (Φ) and the emergent (Ψ) beam with the surface.
    tables : ScatterTables
    jacobian : bool
        Whether to return the derivatives, too.

    Returns
    -------
    rayleigh, compton : ndarray of float64, (energy,)
        By bin of incident energy; Compton photons leave at `tables.shift` times it.
    rayleigh_derivative, compton_derivative : ndarray of float64, (element, energy)
        With respect to the weights, these being independent; only with `jacobian`.

    References
    ----------
    Eqs. 7–9 of the paper. Eq. 9 lacks the 1/sin Ψ that eq. 1 has; here both are radiances, so both have it.
    """
    weights = np.ascontiguousarray(weights, np.float64)
    photons = np.ascontiguousarray(photons, np.float64)
    out, slopes = np.empty((2, photons.size)), np.empty((2, weights.size, photons.size))
    for i, (mu_after, sigma) in enumerate(
        ((tables.mu, tables.rayleigh), (tables.mu_shifted, tables.compton))
    ):
        scatter_kernel(
            weights, photons, tables.mu, mu_after, sigma, float(sin_in), float(sin_out), jacobian,
            out[i], slopes[i],
        )  # fmt: skip
    if jacobian:
        return out[0], out[1], slopes[0], slopes[1]
    return out[0], out[1]
