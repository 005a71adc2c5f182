"""X-ray fluorescence of a thick, flat, homogeneous surface: pure kernels.

Notation of the paper (eqs. 1–6, after Shiraiwa & Fujino 1966): Φ and Ψ are the angles of the incident and the emergent
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

from typing import Any, Literal, NamedTuple

import numpy as np
from numba import types
from numba.extending import intrinsic

from lunarray.engine.compiling import njit
from lunarray.errors import InputError
from lunarray.xrf.atomic import AtomicTables

#: Reassociation lets sums run in vector registers; NaN and infinities keep their meaning.
_FAST = {"reassoc", "contract", "nsz"}
#: Energies in a block: what is summed many times stays in the nearest caches.
_BLOCK = 512


class FluorescenceTables(NamedTuple):
    """What the kernels need of `AtomicTables` on one grid of incident energies; independent of the composition.

    `base` and `base_ratio` are the first line whose excitation a line's is a multiple of (Kβ's is of Kα's), and the
    multiple; `parent` and `parent_ratio` an earlier line such that `secondary` is a multiple of that line's wherever
    that is not 0 (−1 for none): what excites both needs to be summed once. Units: cm²/g, keV.
    """

    energy: np.ndarray  # (energy,) float64: incident energies, rising
    mu: np.ndarray  # (element, energy): total mass attenuation coefficients
    excitation: np.ndarray  # (line, energy): emission for unit weight; 0 below the edge
    begin: np.ndarray  # (line,) int64: first energy that excites the line
    mu_line: np.ndarray  # (element, line): total mass attenuation at the energies of the lines
    secondary: np.ndarray  # (line, line): emission for unit weight, excited by the second
    line_element: np.ndarray  # (line,) int64
    line_energy: np.ndarray  # (line,)
    base: np.ndarray
    base_ratio: np.ndarray
    parent: np.ndarray
    parent_ratio: np.ndarray


class Surface(NamedTuple):
    """A surface under one Sun, seen from one direction: what its lines depend on beside the composition."""

    excited: np.ndarray  # (line, energy): excitation × incident photons/s/cm² of each bin
    tables: FluorescenceTables
    sin_in: float  # of the angle of the incident beam with the surface (Φ)
    sin_out: float  # of that of the emergent beam (Ψ)


def fluorescence_tables(
    tables: AtomicTables,
    energy: Any,
    *,
    secondary: bool = True,
    secondary_jump: Literal["own", "exciting"] = "own",
) -> FluorescenceTables:
    """Tabulate cross sections on a grid of incident energies.

    `energy` (energy,) float64: incident energies, keV, rising; `secondary` bool: whether lines excite other lines (eq.
    2); `secondary_jump` {"own", "exciting"}: whose jump factor stands in eq. 4 for K lines: that of the element that is
    excited, or, a mistake of published software, that of the exciting one.
    """
    # A copy: compiled kernels tell arrays that may be written from those that may not.
    energy = np.array(energy, np.float64)
    if energy.ndim != 1 or energy.size == 0 or np.any(np.diff(energy) <= 0) or energy[0] <= 0:
        raise InputError(
            "incident energies must be positive and rise", remedy="Sort the solar model's bins"
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

    `weights` (element,) float64: weight fractions (not percent); they are taken as they are, whatever their sum;
    `photons` (energy,) float64: incident photons/s/cm² in each bin, on a plane normal to the beam; `sin_in`, `sin_out`:
    sines of the angles of the incident (Φ) and the emergent (Ψ) beam with the surface; `jacobian` bool: whether to
    return the derivatives, too. Returns `intensity` (line,) float64: in the unit of `photons`; `derivative` (line,
    element) float64: d intensity / d weight, the weights being independent; only with `jacobian`.

    References: Shiraiwa, T., & Fujino, N. (1966), Jpn. J. Appl. Phys. 5, 886; eqs. 1–6 of the paper.
    """
    excited = tables.excitation * np.asarray(photons, np.float64)
    surface = Surface(excited, tables, float(sin_in), float(sin_out))
    weights = np.ascontiguousarray(weights, np.float64)
    intensity, wanted = np.zeros(excited.shape[0]), np.ones(excited.shape[0], np.bool_)
    if not jacobian:
        intensity_kernel(weights, surface, wanted, intensity)
        return intensity
    derivative = np.zeros((excited.shape[0], tables.mu.shape[0]))
    jacobian_kernel(weights, surface, wanted, intensity, derivative)
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


class _Rows(NamedTuple):
    """What is added up for each line: so many rows (line, line), and their factors."""

    which: np.ndarray
    factor: np.ndarray
    used: np.ndarray


@njit(nogil=True, cache=True, error_model="numpy")
def _empty_rows(lines):
    return _Rows(
        np.empty((lines, lines), np.int64), np.empty((lines, lines)), np.zeros(lines, np.int64)
    )


@njit(nogil=True, cache=True, error_model="numpy")
def intensity_kernel(weights, surface, wanted, intensity):
    """Intensities of the wanted lines of a `Surface`, into `intensity`; see `line_intensities`."""
    excited, tables = surface.excited, surface.tables
    begin, secondary, line_element = tables.begin, tables.secondary, tables.line_element
    base, base_ratio = tables.base, tables.base_ratio
    parent, parent_ratio = tables.parent, tables.parent_ratio
    lines, energies = excited.shape
    b, m = np.empty(lines), np.empty(lines)
    _line_constants(weights, tables.mu_line, surface.sin_out, b, m)
    # What to add up for each line: rows of h(a, m) X (those that its parent does not add already), and rows of X.
    needed = np.zeros(lines, np.bool_)
    for p in range(lines):
        intensity[p] = 0.0
        needed[p] = wanted[p] and weights[line_element[p]] != 0.0
    exciting = np.zeros(lines, np.bool_)
    passed, direct = _empty_rows(lines), _empty_rows(lines)
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
                passed.which[p, passed.used[p]] = q
                passed.factor[p, passed.used[p]] = factor
                passed.used[p] += 1
        by_base[base[p]] += base_ratio[p]
        for q in range(lines):
            if by_base[q] != 0.0:
                direct.which[p, direct.used[p]] = q
                direct.factor[p, direct.used[p]] = by_base[q]
                direct.used[p] += 1
    a, f = np.empty(_BLOCK), np.empty(_BLOCK)
    products, sums = np.zeros((lines, _BLOCK)), np.zeros((lines, _BLOCK))
    local = np.zeros((lines, _BLOCK))
    for k0 in range(0, energies, _BLOCK):
        k1 = min(k0 + _BLOCK, energies)
        n = k1 - k0
        _absorption(weights, tables.mu, surface.sin_in, k0, k1, a)
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
            _add_rows(sums[p], products, passed.which[p], passed.factor[p], passed.used[p], n)
            if wanted[p]:
                f[:n] = sums[p, :n]
                _add_rows(f, local, direct.which[p], direct.factor[p], direct.used[p], n)
                intensity[p] += _dot_inverse(f, a, b[p], n)
    for p in range(lines):
        intensity[p] *= weights[line_element[p]] / surface.sin_out


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
def _excitations(weights, tables, wanted, b, m, h, exciting, passed, direct):
    """Rows of h(a, m) X (`passed`) and of X (`direct`) of each wanted line, h(b, m), and which lines excite others."""
    lines = b.size
    secondary, base, base_ratio = tables.secondary, tables.base, tables.base_ratio
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
                factor = 0.5 * secondary[p, q] * weights[tables.line_element[q]]
                by_base[base[q]] += factor * base_ratio[q] * h[p, q]
                used[base[q]] = True
                passed.which[p, passed.used[p]] = q
                passed.factor[p, passed.used[p]] = factor
                passed.used[p] += 1
        for q in range(lines):
            if used[q]:
                direct.which[p, direct.used[p]] = q
                direct.factor[p, direct.used[p]] = by_base[q]
                direct.used[p] += 1


@njit(nogil=True, cache=True, error_model="numpy")
def jacobian_kernel(weights, surface, wanted, intensity, derivative):
    """Intensities of the wanted lines of a `Surface`, and derivatives with respect to the weights, (line, element)."""
    excited, tables = surface.excited, surface.tables
    sin_in, sin_out = surface.sin_in, surface.sin_out
    mu, begin, base, mu_line = tables.mu, tables.begin, tables.base, tables.mu_line
    lines, energies = excited.shape
    elements = weights.size
    b, m = np.empty(lines), np.empty(lines)
    _line_constants(weights, mu_line, sin_out, b, m)
    exciting = np.zeros(lines, np.bool_)
    h = np.zeros((lines, lines))
    passed, direct = _empty_rows(lines), _empty_rows(lines)
    _excitations(weights, tables, wanted, b, m, h, exciting, passed, direct)
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
            rows, factors, count = passed.which[p], passed.factor[p], passed.used[p]
            _add_rows(f, local, direct.which[p], direct.factor[p], direct.used[p], n)
            _add_rows(f, products, rows, factors, count, n)
            _add_rows(slope, slopes_a, rows, factors, count, n)
            if count > 0:
                for i in range(direct.used[p]):
                    q = direct.which[p, i]
                    direct_sums[p, q] += _dot(d, local[q], n)
                for i in range(count):
                    q = rows[i]
                    one, two = _two_sums(products[q], slopes_m[q], d, n)
                    product_sums[p, q] += one
                    slope_sums[p, q] += two
            one, two = _finish_block(f, slope, d, v, n)
            total[p] += one
            total_d[p] += two
            for j in range(elements):
                derivative[p, j] += _dot(v, near_mu[j], n)
    for p in range(lines):
        for j in range(elements):
            derivative[p, j] = derivative[p, j] / sin_in - mu_line[j, p] / sin_out * total_d[p]
        _add_secondary(
            weights, surface, p, b[p], m, h[p], passed, direct_sums[p], product_sums[p], slope_sums[p], derivative[p]
        )  # fmt: skip
        i = tables.line_element[p]
        for j in range(elements):
            derivative[p, j] = weights[i] * derivative[p, j] / sin_out
        derivative[p, i] += total[p] / sin_out
        intensity[p] = weights[i] * total[p] / sin_out


@njit(nogil=True, cache=True, error_model="numpy")
def _add_secondary(
    weights, surface, p, b, m, h, passed, direct_sums, product_sums, slope_sums, derivative
):
    """What the lines that excite line p add to its derivatives, beside the attenuation of the beam."""
    tables = surface.tables
    mu_line = tables.mu_line
    for j in range(weights.size):
        own = derivative[j]
        for n in range(passed.used[p]):
            q = passed.which[p, n]
            half = 0.5 * tables.secondary[p, q]
            x_d = direct_sums[tables.base[q]] * tables.base_ratio[q]
            if tables.line_element[q] == j:
                own += half * (h[q] * x_d + product_sums[q])
            other = 1.0 / (b + m[q])
            change = (other - h[q]) / b * mu_line[j, p] / surface.sin_out
            change -= other / m[q] * mu_line[j, q]
            weight = weights[tables.line_element[q]]
            own += half * weight * (change * x_d + mu_line[j, q] * slope_sums[q])
        derivative[j] = own
