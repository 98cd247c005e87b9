# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Probabilities that an arm is best, and expected losses of choosing it, by quadrature over the arms' posteriors.

    P(k is best)        = integral of f_k(x) prod_{j != k} F_j(x) dx
    E[max_j t_j - t_k]  = integral of F_b(x) - G(x) dx + E[t_b] - E[t_k],   G = prod_j F_j, any arm b

The line is cut into panels of Gauss-Legendre nodes. On a panel each density is evaluated at the nodes, and
its distribution function there is the integral of the polynomial through these values, so no special function is
evaluated at a node. A panel is as long as the sharpest arm allows that still has mass to its right: a sharp
arm soon lies behind, and panels grow geometrically with the distance from it. A panel's shares must add
up to the rise of G over it, which is computed without them; where they do not, the panel is halved.

`posteriors.pxd` says over which coordinate each family is integrated. Arms are sorted first: an arm's share is the same
to the last bit wherever it stands in the input.
"""

from libc.math cimport INFINITY, fabs, fmax, fmin
from libc.stdlib cimport free, malloc

from posteriors cimport (
    BETA,
    GAMMA,
    MIN_PANEL,
    STUDENT,
    Arm,
    Family,
    Panel,
    beta_below,
    beta_reach,
    is_behind,
    make_beta,
    make_gamma,
    make_student,
    place_nodes,
    posterior_density,
    student_below,
    student_excess,
    student_reach,
)
from quadrature cimport NODES, PARTIAL, WEIGHT, make_quadrature

import numpy as np

from bandit_serve.errors import InvalidInput

cdef enum:
    MAX_PANELS = 5000       # ordinary problems take 5 to 200
    MAX_CUTS = 40           # of one panel
    MAX_ROUNDS = 3          # each with panels half as long as the last

cdef double NEGLIGIBLE = 1e-12      # where G is less, it adds to no share
cdef double REST = 1e-9             # 1 - G at which integration ends; beyond, P(k best) is 1 - F_k to order REST^2
cdef double LOSS_REST = 1e-6        # the same for a Student-t loss: F's error counts times the length of the way
cdef double MAX_PANEL_ERROR = 1e-9  # |sum of a panel's shares - rise of G| above which it is halved
cdef double MAX_DEVIATION = 1e-7    # of the whole, above which it is integrated again on shorter panels

make_quadrature()


cdef struct Problem:
    Family family
    Py_ssize_t n_arms
    Py_ssize_t n_active     # arms with mass to the right: the first entries of `active`, in ascending order
    Py_ssize_t anchor       # the arm b of the expected loss
    Py_ssize_t n_panels
    double fineness         # scales every panel
    double loss             # E[max_j t_j - t_b]
    bint loss_complete
    double deviation        # |sum of raw shares - 1|, or a distribution function's deviation from 1 if larger
    Arm* arms
    Py_ssize_t* active
    double* start           # F at the panel's ends and nodes, f at the nodes, and its tentative share, per arm
    double* end
    double* cdf
    double* density
    double* rise
    double* shares


cdef double longest_width(const Problem* problem, double x, double rest) noexcept nogil:
    cdef double longest = INFINITY
    cdef Py_ssize_t j
    for j in range(problem.n_active):
        if problem.family != STUDENT:
            longest = fmin(longest, beta_reach(&problem.arms[problem.active[j]], x))
        else:
            longest = fmin(longest, student_reach(&problem.arms[problem.active[j]], x, rest))
    longest *= problem.fineness
    return fmax(longest, MIN_PANEL * fabs(x)) if problem.family != STUDENT else longest


cdef void evaluate_arms(Problem* problem, Panel* panel) noexcept nogil:
    """Every active arm's density and distribution function on the panel, and their product G."""
    cdef double* density
    cdef double* cdf
    cdef double f, total
    cdef Py_ssize_t i, j, k, m
    place_nodes(problem.family, panel)
    panel.best_start = 1.0
    panel.best_end = 1.0
    for i in range(NODES):
        panel.best[i] = 1.0
    for m in range(problem.n_active):
        k = problem.active[m]
        density = &problem.density[k * NODES]
        cdf = &problem.cdf[k * NODES]
        posterior_density(problem.family, &problem.arms[k], panel, density)
        total = 0.0
        for i in range(NODES):
            cdf[i] = 0.0
        for j in range(NODES):
            f = density[j]
            total += WEIGHT[j] * f
            for i in range(NODES):
                cdf[i] += PARTIAL[j][i] * f
        for i in range(NODES):
            # A lower tail may come out below 0 by the rule's error.
            cdf[i] = fmax(problem.start[k] + panel.width * cdf[i], 1e-300)
            panel.best[i] *= cdf[i]
        problem.end[k] = problem.start[k] + panel.width * total
        panel.best_start *= problem.start[k]
        panel.best_end *= problem.end[k]


cdef double weigh_shares(Problem* problem, Panel* panel) noexcept nogil:
    """Puts the panel's part of each active arm's share into `rise`; the error of their sum."""
    cdef double* density
    cdef double* cdf
    cdef double share, total = 0.0
    cdef double weight[NODES]
    cdef Py_ssize_t i, k, m
    for i in range(NODES):
        weight[i] = panel.width * WEIGHT[i] * panel.best[i]
    for m in range(problem.n_active):
        k = problem.active[m]
        density = &problem.density[k * NODES]
        cdf = &problem.cdf[k * NODES]
        share = 0.0
        for i in range(NODES):
            share += weight[i] * density[i] / cdf[i]
        problem.rise[k] = share
        total += share
    return fabs(total - (panel.best_end - panel.best_start))


cdef void commit_panel(Problem* problem, const Panel* panel, bint weighed) noexcept nogil:
    cdef double anchor
    cdef bint anchored = not is_behind(&problem.arms[problem.anchor], panel)
    cdef Py_ssize_t i, k, m
    for i in range(NODES if not problem.loss_complete else 0):
        anchor = problem.cdf[problem.anchor * NODES + i] if anchored else 1.0
        problem.loss += panel.width * WEIGHT[i] * panel.slope[i] * (anchor - panel.best[i])
    for m in range(problem.n_active):
        k = problem.active[m]
        problem.start[k] = problem.end[k]
        if weighed:
            problem.shares[k] += problem.rise[k]


cdef void add_loss_above(Problem* problem, Py_ssize_t k, const Panel* panel) noexcept nogil:
    """Adds what arm k alone makes of F_b - G above the panel's start; from here on its F is taken to be 1."""
    cdef Arm* arm = &problem.arms[k]
    # A Beta arm's tail is short; below df = 1 there is no expectation.
    if problem.family == STUDENT and arm.a > 1.0 and k != problem.anchor and not problem.loss_complete:
        problem.loss += arm.scale * student_excess(arm, ((panel.start - arm.centre) + panel.rest) / arm.scale)


cdef void begin_problem(Problem* problem, const Panel* panel) noexcept nogil:
    cdef Arm* arm
    cdef Py_ssize_t k
    problem.n_active = 0
    problem.n_panels = 0
    problem.deviation = 0.0
    problem.loss = 0.0
    # What choosing a Gamma arm costs is not asked for.
    problem.loss_complete = problem.family == GAMMA
    for k in range(problem.n_arms):
        arm = &problem.arms[k]
        problem.shares[k] = 0.0
        if is_behind(arm, panel):
            add_loss_above(problem, k, panel)
            continue
        problem.active[problem.n_active] = k
        problem.n_active += 1
        if problem.family != STUDENT:
            problem.start[k] = beta_below(problem.family, arm, panel.start)
        else:
            problem.start[k] = student_below(arm, panel.start, panel.rest)
    arm = &problem.arms[problem.anchor]
    if problem.family == STUDENT and arm.a > 1.0:
        problem.loss += arm.scale * student_excess(arm, ((arm.centre - panel.start) - panel.rest) / arm.scale)


cdef double retire_arms(Problem* problem, const Panel* panel) noexcept nogil:
    """Lets go of arms that lie below, whose F must have come out as 1; returns sum (1 - F) of the others."""
    cdef double rest = 0.0
    cdef Py_ssize_t k, m, kept = 0
    for m in range(problem.n_active):
        k = problem.active[m]
        if is_behind(&problem.arms[k], panel):
            problem.deviation = fmax(problem.deviation, fabs(1.0 - problem.start[k]))
            add_loss_above(problem, k, panel)
        else:
            problem.active[kept] = k
            kept += 1
            rest += fabs(1.0 - problem.start[k])
    problem.n_active = kept
    if rest <= LOSS_REST and problem.family == STUDENT and not problem.loss_complete:
        for m in range(kept):
            add_loss_above(problem, problem.active[m], panel)
        problem.loss_complete = True
    return rest


cdef void finish_shares(Problem* problem) noexcept nogil:
    """Gives what lies above, where at most one arm can still be, and makes the shares' sum 1."""
    cdef double total = 0.0
    cdef Py_ssize_t k, m
    for m in range(problem.n_active):
        k = problem.active[m]
        problem.shares[k] += fmax(0.0, 1.0 - problem.start[k])
    for k in range(problem.n_arms):
        total += problem.shares[k]
    problem.deviation = fmax(problem.deviation, fabs(total - 1.0))
    for k in range(problem.n_arms):
        problem.shares[k] /= total


cdef inline double panel_stretch(double error) noexcept nogil:
    """Factor by which the panel may be longer: the rule's error falls with about the NODES-th power of its length."""
    return fmax(0.25, fmin(4.0, (0.5 * MAX_PANEL_ERROR / fmax(error, 1e-300)) ** (1.0 / NODES)))


cdef inline void advance_panel(Panel* panel) noexcept nogil:
    """Moves the start to the end of the panel (Knuth's two-sum, then renormalised)."""
    cdef double near = panel.start + panel.width
    cdef double moved = near - panel.start
    cdef double rest = (panel.start - (near - moved)) + (panel.width - moved) + panel.rest
    panel.start = near + rest
    panel.rest = rest - (panel.start - near)


cdef Panel first_panel(const Problem* problem) noexcept nogil:
    """Starts at the highest of the arms' lower ends.

    Student-t arms have long lower tails: there at the highest location where G is negligible, if that is higher.
    """
    cdef Panel panel
    cdef Arm* anchor = &problem.arms[problem.anchor]
    cdef Py_ssize_t low = 0, high = problem.n_arms, middle
    panel.start = anchor.centre
    panel.rest = 0.0
    panel.width = anchor.low
    advance_panel(&panel)
    if problem.family != STUDENT:
        return panel
    while low < high:
        middle = (low + high) // 2
        if is_negligible(problem, problem.arms[middle].centre):
            low = middle + 1
        else:
            high = middle
    if low > 0 and problem.arms[low - 1].centre > panel.start:
        panel.start = problem.arms[low - 1].centre
        panel.rest = 0.0
    return panel


cdef bint is_negligible(const Problem* problem, double x) noexcept nogil:
    """Return whether G(x) is negligible."""
    cdef double best = 1.0
    cdef Py_ssize_t k
    for k in range(problem.n_arms - 1, -1, -1):
        best *= student_below(&problem.arms[k], x, 0.0)
        if best < NEGLIGIBLE:
            return True
    return False


cdef void integrate_problem(Problem* problem) noexcept nogil:
    cdef Panel panel = first_panel(problem)
    cdef double error
    cdef double wanted = INFINITY       # the length that G's curvature asked for last
    cdef Py_ssize_t cut
    cdef bint counts
    begin_problem(problem, &panel)
    while retire_arms(problem, &panel) > REST and problem.n_panels < MAX_PANELS:
        panel.width = fmin(wanted, longest_width(problem, panel.start, panel.rest))
        for cut in range(MAX_CUTS):
            if cut > 0:
                panel.width *= fmin(panel_stretch(error), 0.8)
            evaluate_arms(problem, &panel)
            problem.n_panels += 1
            counts = panel.best_end > NEGLIGIBLE
            error = weigh_shares(problem, &panel) if counts else 0.0
            if error <= MAX_PANEL_ERROR:
                break
        wanted = panel.width * panel_stretch(error)
        commit_panel(problem, &panel, counts)
        advance_panel(&panel)
    finish_shares(problem)


cdef void solve_problem(Problem* problem) noexcept nogil:
    cdef Py_ssize_t _
    problem.fineness = 1.0
    for _ in range(MAX_ROUNDS):
        integrate_problem(problem)
        if problem.deviation <= MAX_DEVIATION:
            break
        problem.fineness *= 0.5


cdef object parameter_vector(object values, str name):
    """A contiguous float64 vector of at least one finite number."""
    try:
        given = np.asarray(values)
    except (TypeError, ValueError):
        raise InvalidInput(f"{name} must be a vector of numbers.") from None
    if given.dtype.kind not in "fiu" or given.ndim != 1:
        raise InvalidInput(f"{name} must be a vector of numbers, not of type {given.dtype} and shape {given.shape}.")
    if given.size == 0:
        raise InvalidInput(f"{name} must hold at least one arm.")
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(given, dtype=np.float64)


cdef check_range(object values, str name, double low, double high):
    # Written so that NaN fails.
    if not (np.all(values >= low) and np.all(values <= high)):
        raise InvalidInput(f"{name} must lie between {low:g} and {high:g} for every arm.")


cdef tuple solution_of(Family family, const double[::1] a, const double[::1] b, const double[::1] c):
    """Solution for sorted arms: the shares, the loss of one arm, its index, the deviation and the number of panels."""
    cdef Py_ssize_t n = a.shape[0]
    cdef Py_ssize_t k
    cdef double ahead
    cdef Problem problem
    shares = np.empty(n)
    cdef double[::1] out = shares
    problem.family = family
    problem.n_arms = n
    problem.shares = &out[0]
    problem.arms = <Arm*> malloc(n * (sizeof(Arm) + sizeof(Py_ssize_t) + (3 + 2 * NODES) * sizeof(double)))
    if problem.arms == NULL:
        raise MemoryError
    problem.start = <double*> (problem.arms + n)
    problem.end = problem.start + n
    problem.rise = problem.end + n
    problem.cdf = problem.rise + n
    problem.density = problem.cdf + n * NODES
    problem.active = <Py_ssize_t*> (problem.density + n * NODES)
    with nogil:
        problem.anchor = 0
        for k in range(n):
            if family == BETA:
                make_beta(&problem.arms[k], a[k], b[k])
            elif family == GAMMA:
                make_gamma(&problem.arms[k], a[k], b[k])
            else:
                make_student(&problem.arms[k], a[k], b[k], c[k])
            # Centres first: far from 0 a short low would be lost in the sum.
            ahead = problem.arms[k].centre - problem.arms[problem.anchor].centre
            if ahead + (problem.arms[k].low - problem.arms[problem.anchor].low) > 0.0:
                problem.anchor = k
        solve_problem(&problem)
        free(problem.arms)
    return shares, problem.loss, problem.anchor, problem.deviation, problem.n_panels


cdef tuple beta_problem(object alpha, object beta):
    alpha = parameter_vector(alpha, "alpha")
    beta = parameter_vector(beta, "beta")
    if alpha.size != beta.size:
        raise InvalidInput(f"alpha has {alpha.size} arms and beta {beta.size}.")
    check_range(alpha, "alpha", 1e-6, 1e15)
    check_range(beta, "beta", 1e-6, 1e15)
    order = np.lexsort((beta, alpha))
    return order, alpha[order], beta[order]


cdef tuple gamma_problem(object shape, object rate):
    shape = parameter_vector(shape, "shape")
    rate = parameter_vector(rate, "rate")
    if shape.size != rate.size:
        raise InvalidInput(f"shape has {shape.size} arms and rate {rate.size}.")
    check_range(shape, "shape", 1e-6, 1e15)
    check_range(rate, "rate", 1e-100, 1e100)
    order = np.lexsort((rate, shape))
    return order, shape[order], rate[order]


cdef tuple student_problem(object loc, object scale, object df):
    loc = parameter_vector(loc, "loc")
    scale = parameter_vector(scale, "scale")
    df = parameter_vector(df, "df")
    if not loc.size == scale.size == df.size:
        raise InvalidInput(f"loc has {loc.size} arms, scale {scale.size} and df {df.size}.")
    check_range(loc, "loc", -1e100, 1e100)
    check_range(scale, "scale", 1e-100, 1e100)
    check_range(df, "df", 0.1, 1e100)
    order = np.lexsort((df, scale, loc))
    return order, loc[order], scale[order], df[order]


cdef object in_given_order(object order, object values):
    result = np.empty_like(values)
    result[order] = values
    return result


def beta_best(alpha, beta):
    """P(arm k has the highest mean) for independent Beta(alpha_k, beta_k) posteriors.

    alpha, beta: K >= 1 numbers each, between 1e-6 and 1e15. Returns K shares, none negative, that sum to 1;
    each is within 1e-6 of the integral. Raises InvalidInput.
    Source: P = integral of f_k(x) prod_{j != k} F_j(x) dx (Thompson 1933, for two arms).
    """
    order, a, b = beta_problem(alpha, beta)
    return in_given_order(order, solution_of(BETA, a, b, a)[0])


def gamma_best(shape, rate):
    """P(arm k has the highest mean) for independent Gamma(shape_k, rate_k) posteriors.

    shape: K >= 1 numbers between 1e-6 and 1e15; rate: between 1e-100 and 1e100. Returns and raises what `beta_best`
    does, by the same formula.
    """
    order, a, b = gamma_problem(shape, rate)
    return in_given_order(order, solution_of(GAMMA, a, b, a)[0])


def student_best(loc, scale, df):
    """P(arm k has the highest mean) for independent posteriors loc_k + scale_k T(df_k), T Student's t.

    loc: K >= 1 numbers within +-1e100; scale: between 1e-100 and 1e100; df: between 0.1 and 1e100. Returns and raises
    what `beta_best` does, by the same formula.
    """
    order, m, s, v = student_problem(loc, scale, df)
    return in_given_order(order, solution_of(STUDENT, m, s, v)[0])


def beta_expected_loss(alpha, beta):
    """E[max_j t_j - t_k]: what choosing arm k costs in expectation, for the posteriors of `beta_best`.

    Returns K losses in the unit of the means, none negative, to about 1e-9.
    """
    order, a, b = beta_problem(alpha, beta)
    _, least, anchor, _, _ = solution_of(BETA, a, b, a)
    n = a + b
    # The means' differences, without the cancellation of two means next to 1.
    behind = (a[anchor] * (b / n) - a * (b[anchor] / n)) / n[anchor]
    return in_given_order(order, np.maximum(0.0, least + behind))


def student_expected_loss(loc, scale, df):
    """E[max_j t_j - t_k]: what choosing arm k costs in expectation, for the posteriors of `student_best`.

    Returns K losses in the unit of the means, none negative, to about 1e-6 of themselves. With two arms or
    more, one arm with df <= 1 makes every loss infinite: of the other arms by its upper tail, of itself by its lower.
    """
    order, m, s, v = student_problem(loc, scale, df)
    if len(m) == 1:
        return np.zeros(1)
    if np.any(v <= 1.0):
        return np.full(len(m), np.inf)
    _, least, anchor, _, _ = solution_of(STUDENT, m, s, v)
    return in_given_order(order, np.maximum(0.0, least + (m[anchor] - m)))


def beta_best_deviation(alpha, beta):
    """Deviation from 1 of the shares' sum, or of a distribution function at its end, before normalising; and panels."""
    _, a, b = beta_problem(alpha, beta)
    return solution_of(BETA, a, b, a)[3:]


def student_below_at(z, df):
    """P(T <= z_k) for T Student's t of df_k degrees of freedom, as `student_best` has it; z, df: K >= 1 numbers."""
    z, df = parameter_vector(z, "z"), parameter_vector(df, "df")
    check_range(df, "df", 0.1, 1e100)
    cdef const double[::1] at = z, freedom = df
    cdef Arm arm
    cdef Py_ssize_t k
    below = np.empty(len(z))
    cdef double[::1] out = below
    for k in range(at.shape[0]):
        make_student(&arm, 0.0, 1.0, freedom[k])
        out[k] = student_below(&arm, at[k], 0.0)
    return below


def student_best_deviation(loc, scale, df):
    """Deviation as in `beta_best_deviation`, for the posteriors of `student_best`."""
    _, m, s, v = student_problem(loc, scale, df)
    return solution_of(STUDENT, m, s, v)[3:]


def gamma_best_deviation(shape, rate):
    """Deviation as in `beta_best_deviation`, for the posteriors of `gamma_best`."""
    _, a, b = gamma_problem(shape, rate)
    return solution_of(GAMMA, a, b, a)[3:]
