"""Derive math_tables.h: `python math_tables.py > math_tables.h` (needs mpmath, takes minutes).

Every fit is a weighted least-squares one with Lawson's reweighting, which tends to the minimax
polynomial (Rice 1964), in 60 digits. Coefficients are rounded one at a time, from the lowest, and
the others fitted again to what is left.
"""

import random

from mpmath import (
    cholesky_solve,
    cos,
    erf,
    erfc,
    exp,
    fdot,
    floor,
    frexp,
    ldexp,
    linspace,
    log,
    log1p,
    matrix,
    mp,
    mpf,
    nint,
    pi,
    polyval,
    sqrt,
    tanh,
)

mp.dps = 60
BITS = {"float": 24, "double": 53}


def rounded(x, bits):
    mantissa, exponent = frexp(x)
    return ldexp(nint(ldexp(mantissa, bits)), int(exponent) - bits)


def ulp(x, bits):
    return ldexp(mpf(1), int(frexp(abs(x))[1]) - bits)


def least_squares(goal, rows, rounds):
    importance, n, best = [mpf(1)] * len(rows), len(rows[0]), None
    for _ in range(rounds + 1):
        normal, right = matrix(n, n), matrix(n, 1)
        for share, row, g in zip(importance, rows, goal, strict=True):
            for i, x in enumerate(row):
                right[i] += share * x * g
                for j in range(i + 1):
                    normal[i, j] += share * x * row[j]
                    normal[j, i] = normal[i, j]
        found = list(cholesky_solve(normal, right))
        errors = [abs(g - fdot(row, found)) for row, g in zip(rows, goal, strict=True)]
        largest = max(errors)
        if best is None or largest < best[0]:
            best = largest, found
        importance = [s * (e / largest + 0.02) for s, e in zip(importance, errors, strict=True)]
    return best[1]


def fit(f, weight, low, high, count, bits, known=()):
    """Coefficients of 1, x, x^2, ..., the first of them known, and the largest weighted error."""
    n = 4 * count + 9
    points = [(low + high + (high - low) * cos(pi * (i + 0.5) / n)) / 2 for i in range(n)]
    found = list(known)
    while len(found) < count:
        powers = range(len(found), count)
        rest = [weight(x) * (f(x) - polyval(found[::-1], x)) for x in points]
        rows = [[weight(x) * x**p for p in powers] for x in points]
        rounds = 6 if len(found) == len(known) else 3
        found.append(rounded(least_squares(rest, rows, rounds)[0], bits))
    grid = [x for x in linspace(low, high, 400) if x]
    return found, max(abs(weight(x) * (f(x) - polyval(found[::-1], x))) for x in grid)


# ---- single polynomials ----------------------------------------------------------------------


def exponential(bits, count):
    """exp(r) on |r| <= ln(2) / 2."""
    end = log(2) / 2
    return fit(exp, lambda r: exp(-r), -end, end, count, bits, known=[mpf(1), mpf(1)])


def logarithm(bits, count):
    """(log(1 + f) - f) / f^2 on 2^-1/2 <= 1 + f <= 2^1/2."""

    def quotient(f):
        return (log1p(f) - f) / f**2

    low, high = 1 / sqrt(2) - 1, sqrt(2) - 1
    return fit(quotient, lambda f: f**2 / log1p(f), low, high, count, bits)


def logarithm_unit(bits, count):
    """log(1 + x) / x on 0 <= x <= 1."""
    return fit(lambda x: log1p(x) / x, lambda x: x / log1p(x), 0, 1, count, bits, known=[mpf(1)])


# ---- piecewise polynomials -------------------------------------------------------------------


def slots(offset, limit):
    """Intervals of x for which the exponent's last 2 bits and the mantissa's first 2 of x + offset
    are the same: {those 4 bits: (low, high)}.
    """
    intervals, v = {}, mpf(offset)
    while v < offset + limit:
        exponent = int(floor(log(v, 2) + mpf(10) ** -20))
        step = ldexp(mpf(1), exponent - 2)
        quarter = int(nint(floor(v / step + mpf(10) ** -20)))
        slot = (exponent + 1023) % 4 * 4 + quarter % 4
        assert slot not in intervals
        intervals[slot] = v - offset, (quarter + 1) * step - offset
        v = (quarter + 1) * step
    return intervals


def centre(f, low, high, bits):
    """A number near the middle at which f is almost exactly a number of the type."""

    def error(x):
        return abs(f(x) - rounded(f(x), bits)) / ulp(f(x), bits)

    choices = (rounded(low + (high - low) * random.uniform(0.45, 0.55), bits) for _ in range(1000))
    return min(choices, key=error)


def piecewise(f, bits, count, offset, limit, odd):
    """{slot: [centre, coefficients of f(centre + t)]}, and the largest error in ulps. For an odd f
    the first interval is about 0 and its polynomial (f(t) - t) / t.
    """
    random.seed(1)
    table, worst = {}, 0
    for slot, (low, high) in slots(offset, limit).items():
        if odd and low == 0:
            known = [mpf(0)] if mp.diff(f, 0) == 1 else []
            found, error = fit(
                lambda t: f(t) / t - 1,
                lambda t: t / ulp(f(t), bits),
                low,
                high,
                count - 1,
                bits,
                known,
            )
            table[slot] = [mpf(0), mpf(0), *found]
        else:
            c = centre(f, low, high, bits)
            found, error = fit(
                lambda t, c=c: f(c + t),
                lambda t, c=c: 1 / ulp(f(c + t), bits),
                low - c,
                high - c,
                count,
                bits,
                [rounded(f(c), bits)],
            )
            table[slot] = [c, *found]
        worst = max(worst, error)
    return [
        [table[s][i] if s in table else mpf(0) for s in range(16)] for i in range(count + 1)
    ], worst


def mills(x):
    return exp(x**2 / 2) * erfc(x / sqrt(2)) / 2


# ---- the header ------------------------------------------------------------------------------


def literal(x):
    digits, exponent = float(x).hex().split("p")
    return digits.rstrip("0").rstrip(".") + "p" + exponent if x else "0"


def lines(numbers, indent):
    text, line = [], ""
    for number in numbers:
        word = literal(number) + ","
        if len(indent + line + word) > 99:
            text.append(indent + line.rstrip())
            line = ""
        line += word + " "
    return "\n".join([*text, indent + line.rstrip().rstrip(",")])


def emit_polynomial(name, derive, counts):
    print(f"\n// {derive.__doc__}")
    for kind, count in counts.items():
        found, error = derive(BITS[kind], count)
        bits = BITS[kind]
        print(f"// Relative error before rounding: {mp.nstr(error * 2**bits, 2)} * 2^-{bits}.")
        print(f"FNN_TABLE {kind} {name}_{kind}[] = {{")
        print(lines(found, "    ") + "};")


def emit_piecewise(name, formula, f, odd, specifications):
    print(f"\n// {formula}")
    for kind, (count, offset, limit) in specifications.items():
        table, error = piecewise(f, BITS[kind], count, mpf(offset), mpf(limit), odd)
        first = min(high for low, high in slots(mpf(offset), mpf(limit)).values())
        print(f"// Error before rounding: {mp.nstr(error, 2)} ulp.")
        print(f"FNN_TABLE Piecewise<{kind}, {count}> {name}_{kind} = {{")
        print(lines([offset, limit, first], "    ") + ",")
        rows = ["     {" + lines(row, "      ").lstrip() + "}" for row in table]
        print("    {" + ",\n".join(rows).lstrip() + "}};")


HEAD = """\
// Coefficients of math.h, derived by math_tables.py.
#pragma once
// clang-format off: a table, one line each

#ifndef FNN_TABLE  // cuda/math.cuh has another
#define FNN_TABLE static constexpr
#endif

// A function by 16 polynomials about 16 centres. The last 2 bits of the exponent and the first 2
// of the mantissa of |x| + offset choose one; beyond limit the function has reached its end.
template <class T, int count> struct Piecewise {
  T offset, limit, first;            // first: end of the interval that begins at 0
  alignas(64) T rows[count + 1][16]; // centres; coefficients of 1, t, ..., t = |x| - centre
};"""

if __name__ == "__main__":
    print(HEAD)
    emit_polynomial("kExp", exponential, {"float": 7, "double": 12})
    emit_polynomial("kLog", logarithm, {"float": 10, "double": 21})
    emit_polynomial("kLogUnit", logarithm_unit, {"float": 10, "double": 22})
    # Type: number of coefficients, offset, limit.
    sizes = {"float": (7, 1, 9.5), "double": (15, 1.5, 19.5)}
    emit_piecewise("kTanh", "tanh(x)", tanh, True, sizes)
    sizes = {"float": (7, 0.5, 4.25), "double": (15, 0.5, 6.25)}
    emit_piecewise("kErf", "erf(x)", erf, True, sizes)
    sizes = {"float": (7, 1, 14.9375), "double": (15, 3, 38.75)}
    emit_piecewise(
        "kMills", "exp(x^2 / 2) (1 - Phi(x)), but for a constant Mills' ratio", mills, False, sizes
    )
