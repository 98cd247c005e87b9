# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Best mixtures of arms whose mean costs keep bounds: one small linear program a draw of the arms' means.

    maximise    sum_k r_k x_k - LARGEST sum_j v_j
    subject to  sum_k c_jk x_k - v_j + s_j = 0,   sum_k x_k = 1,   x, v, s >= 0

c_jk is how far arm k is above the bound j, and v_j how far the mixture is. A lack costs the largest price, so that
the program always has a solution: where no mixture keeps the bounds, it is the one that lacks least. The dual of
row j is the bound's price, from 0 to the largest. An optimum mixes at most one arm more than there are bounds.

It is the simplex method with an explicit inverse. It begins with one arm, so that every basis on the way is a
mixture; Bland's rule comes in before it could cycle. Rewards and each bound's costs are scaled to 1 first, so
units do not matter.
"""

from libc.math cimport fabs, fmax, isfinite
from libc.stdlib cimport free, malloc

import numpy as np

from bandit_serve.errors import InvalidInput

cdef enum:
    BOUNDS = 4
    ROWS = BOUNDS + 1
    QUICK = 40      # pivots by the largest gain; then Bland's rule
    PIVOTS = 400

MAX_BOUNDS = BOUNDS

cdef double LARGEST = 1e5       # price of a lack, of scaled rewards and costs
cdef double ROUNDING = 1e-11    # below which a gain is none, of a price of 1
cdef double LEAST_STEP = 1e-12

cdef struct Program:
    # Scaled: r (n_arms,), c (n_bounds, n_arms).
    double *r
    double *c
    Py_ssize_t n_arms
    int n_bounds
    # Of each row of the basis: its variable, its value, its gain. Variables are arms, then slacks, then lacks.
    Py_ssize_t variable[ROWS]
    double value[ROWS]
    double gain[ROWS]
    double inverse[ROWS][ROWS]
    double price[ROWS]


cdef void begin(Program *program) noexcept nogil:
    """Basis of the arm that is best of those that keep all bounds, or else lacks least."""
    cdef Py_ssize_t k, arm = 0
    cdef int i, j, m = program.n_bounds
    cdef double lack, least = 0.0, best = 0.0, above
    for k in range(program.n_arms):
        lack = 0.0
        for j in range(m):
            lack += fmax(program.c[j * program.n_arms + k], 0.0)
        if k == 0 or lack < least or (lack == least and program.r[k] > best):
            arm, least, best = k, lack, program.r[k]
    for i in range(m + 1):
        for j in range(m + 1):
            program.inverse[i][j] = 0.0
    for j in range(m):
        above = program.c[j * program.n_arms + arm]
        program.value[j] = fabs(above)
        program.variable[j] = program.n_arms + (m + j if above > 0.0 else j)
        program.gain[j] = -LARGEST if above > 0.0 else 0.0
        program.inverse[j][j] = -1.0 if above > 0.0 else 1.0
        program.inverse[j][m] = fabs(above)
    program.variable[m], program.value[m], program.gain[m] = arm, 1.0, program.r[arm]
    program.inverse[m][m] = 1.0


cdef void set_prices(Program *program) noexcept nogil:
    cdef int i, j, m = program.n_bounds
    for i in range(m + 1):
        program.price[i] = 0.0
        for j in range(m + 1):
            program.price[i] += program.gain[j] * program.inverse[j][i]


cdef Py_ssize_t entering(const Program *program, bint first) noexcept nogil:
    """Variable that gains most where it enters the basis, or the first that gains; -1 for none."""
    cdef Py_ssize_t k, best = -1, n = program.n_arms
    cdef int i, j, m = program.n_bounds
    cdef double gain, most, size = 1.0
    for j in range(m + 1):
        size = fmax(size, fabs(program.price[j]))
    most = ROUNDING * size
    for k in range(n + 2 * m):
        if k < n:
            gain = program.r[k] - program.price[m]
            for j in range(m):
                gain -= program.price[j] * program.c[j * n + k]
        elif k < n + m:
            gain = -program.price[k - n]
        else:
            gain = program.price[k - n - m] - LARGEST
        if gain > most:
            for i in range(m + 1):
                if program.variable[i] == k:
                    break
            else:
                best, most = k, gain
                if first:
                    return best
    return best


cdef bint pivot(Program *program, Py_ssize_t k) noexcept nogil:
    """Brings variable k into the basis; returns whether it could."""
    cdef Py_ssize_t n = program.n_arms
    cdef int i, j, out = -1, m = program.n_bounds
    cdef double column[ROWS]
    cdef double step[ROWS]
    cdef double ratio, least = 0.0
    for j in range(m + 1):
        if k < n:
            column[j] = program.c[j * n + k] if j < m else 1.0
        else:
            column[j] = (1.0 if k < n + m else -1.0) if j < m and (k - n) % m == j else 0.0
    for i in range(m + 1):
        step[i] = 0.0
        for j in range(m + 1):
            step[i] += program.inverse[i][j] * column[j]
        if step[i] > LEAST_STEP:
            ratio = program.value[i] / step[i]
            if out < 0 or ratio < least or (ratio == least and program.variable[i] < program.variable[out]):
                out, least = i, ratio
    if out < 0:
        return False
    for i in range(m + 1):
        if i != out:
            program.value[i] = fmax(program.value[i] - least * step[i], 0.0)
    program.value[out], program.variable[out] = least, k
    program.gain[out] = program.r[k] if k < n else (0.0 if k < n + m else -LARGEST)
    for j in range(m + 1):
        program.inverse[out][j] /= step[out]
    for i in range(m + 1):
        if i != out:
            for j in range(m + 1):
                program.inverse[i][j] -= step[i] * program.inverse[out][j]
    return True


cdef void solve(Program *program) noexcept nogil:
    cdef int round
    cdef Py_ssize_t k
    begin(program)
    for round in range(PIVOTS):
        set_prices(program)
        k = entering(program, round >= QUICK)
        if k < 0 or not pivot(program, k):
            break
    set_prices(program)


cdef double scaled_to_one(const double *values, double *scaled, Py_ssize_t n, bint shifts) noexcept nogil:
    """Writes values over their largest size, with `shifts` from the least on; returns by what they were divided."""
    cdef Py_ssize_t k
    cdef double least = 0.0, size = 0.0
    if shifts:
        least = values[0]
        for k in range(n):
            least = min(least, values[k])
    for k in range(n):
        size = fmax(size, fabs(values[k] - least))
    if not size > 0.0:
        size = 1.0
    for k in range(n):
        scaled[k] = (values[k] - least) / size
    return size


def best_mixtures(const double[:, ::1] rewards, const double[:, :, ::1] excesses):
    """Means over M draws of the best mixtures: shares, float64 (E,); prices, float64 (C,); lacks, float64 (C,).

    rewards: (M, E), of E arms; more is better. excesses: (M, C, E), by how much each arm is above each of up to
    `MAX_BOUNDS` bounds, 0 or less where it keeps it; finite. A price is in units of reward by unit of cost, a lack in
    units of cost.
    """
    cdef Py_ssize_t n_draws = rewards.shape[0], n_arms = rewards.shape[1], n_bounds = excesses.shape[1], d, k, i
    cdef Py_ssize_t n_excesses = n_draws * n_bounds * n_arms
    if n_draws < 1 or n_arms < 1 or excesses.shape[0] != n_draws or excesses.shape[2] != n_arms:
        raise InvalidInput("rewards and excesses must be of the same draws of the same arms, at least one")
    if n_bounds > MAX_BOUNDS:
        raise InvalidInput(f"expected at most {MAX_BOUNDS} bounds, not {n_bounds}")
    for i in range(n_draws * n_arms):
        if not isfinite((&rewards[0, 0])[i]):
            raise InvalidInput("rewards must be finite")
    for i in range(n_excesses):
        if not isfinite((&excesses[0, 0, 0])[i]):
            raise InvalidInput("excesses must be finite")
    shares_array, prices_array, lacks_array = np.zeros(n_arms), np.zeros(n_bounds), np.zeros(n_bounds)
    cdef double[::1] shares = shares_array, prices = prices_array, lacks = lacks_array
    cdef double whole, unit, part = 1.0 / <double>n_draws
    cdef double units[BOUNDS]
    cdef Program program
    cdef double *room = <double *>malloc((n_bounds + 1) * n_arms * sizeof(double))
    if room is NULL:
        raise MemoryError()
    program.r, program.c = room, room + n_arms
    program.n_arms, program.n_bounds = n_arms, <int>n_bounds
    with nogil:
        for d in range(n_draws):
            unit = scaled_to_one(&rewards[d, 0], program.r, n_arms, True)
            for i in range(n_bounds):
                units[i] = scaled_to_one(&excesses[d, i, 0], program.c + i * n_arms, n_arms, False)
            solve(&program)
            whole = 0.0
            for i in range(n_bounds + 1):
                if program.variable[i] < n_arms:
                    whole += program.value[i]
            for i in range(n_bounds + 1):
                k = program.variable[i]
                if k < n_arms:
                    shares[k] += part * (program.value[i] / whole)
                elif k >= n_arms + n_bounds:
                    lacks[k - n_arms - n_bounds] += part * program.value[i] * units[k - n_arms - n_bounds]
            for i in range(n_bounds):
                prices[i] += part * (min(fmax(program.price[i], 0.0), LARGEST) * (unit / units[i]))
    free(room)
    return shares_array, prices_array, lacks_array
