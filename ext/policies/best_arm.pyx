# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""The probability that each arm is best, and what choosing it costs, by quadrature over the arms' posteriors.

    P(k is best)        = integral of f_k(x) prod_{j != k} F_j(x) dx
    E[max_j t_j - t_k]  = integral of F_b(x) - G(x) dx + E[t_b] - E[t_k],   G = prod_j F_j, any arm b

The line is cut into panels of Gauss-Legendre nodes. On a panel each density is evaluated at the nodes, and
its distribution function there is the integral of the polynomial through these values, so no special function is
evaluated at a node. A panel is as long as the sharpest arm allows that still has mass to its right: a sharp
arm soon lies behind, and panels grow geometrically with the distance from it. A panel's shares must add
up to the rise of G over it, which is computed without them; where they do not, the panel is halved.

Beta posteriors are integrated over u = logit(x): there each is log-concave with exponential tails, and nothing
is lost next to 0 or 1; Gamma posteriors likewise over u = log(x). Student-t posteriors are integrated over x itself,
with panels proportional to the distance from the arms, and their far upper tails in closed form.
Arms are sorted first: an arm's share is the same to the last bit wherever it stands in the input.
"""

from libc.math cimport INFINITY, M_PI, cos, exp, expm1, fabs, fmax, fmin, log, log1p, sqrt
from libc.stdlib cimport free, malloc

from stirling cimport HALF_LOG_2PI, stirling_rest
from student cimport student_above

import numpy as np

from bandit_serve.errors import InvalidInput

cdef enum:
    NODES = 12
    MOST_PANELS = 5000      # a bound; ordinary problems take 5 to 200
    MOST_CUTS = 40          # of one panel
    MOST_ROUNDS = 3         # each with panels half as long as the last

cdef enum Family:
    BETA
    GAMMA
    STUDENT

cdef double DEPTH = 28.0            # a Beta or Gamma arm's ends: where the density over u is exp(-DEPTH) of its peak
cdef double TAIL = 1e-12            # a Student-t arm's ends: the mass beyond each
cdef double NEGLIGIBLE = 1e-12      # where G is less, it adds to no share
cdef double REST = 1e-9             # 1 - G at which integration ends; beyond, P(k best) is 1 - F_k to order REST^2
cdef double LOSS_REST = 1e-6        # the same for a Student-t loss: F's error counts times the length of the way
cdef double PANEL_ERROR = 1e-9      # |sum of a panel's shares - rise of G| above which it is halved
cdef double DEVIATION = 1e-7        # of the whole, above which it is integrated again on shorter panels
cdef double RESOLUTION = 1e-13      # shortest panel of a Beta or Gamma problem, relative to its coordinate

cdef double NODE[NODES]                 # on [0, 1]
cdef double WEIGHT[NODES]
cdef double PARTIAL[NODES][NODES]       # [j][i]: the j-th Lagrange polynomial's integral from 0 to NODE[i]


cdef struct Arm:
    double a, b             # alpha, beta | shape, 0 | df, (df + 1) / 2
    double centre           # of the density, where it is exp(log_peak)
    double scale
    double log_peak
    double peak             # Student-t only: log_peak where the scale is 1
    double low, high        # from the centre; next to no mass lies outside
    double left, right      # Beta and Gamma only: outside, the density is a pure exponential
    double reach            # longest panel at the centre


cdef struct Panel:
    double start, width
    double rest             # start + rest has the digits of two doubles: arms may be sharper than one
    double step[NODES]      # from start to the nodes
    double log_p[NODES]     # Beta only: log x and log(1 - x), less their values at the panel's start
    double log_q[NODES]
    double slope[NODES]     # of the reward scale against the coordinate
    double best[NODES]      # G at the nodes and at both ends
    double best_start, best_end


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


cdef void legendre(double x, double* p) noexcept nogil:
    """P_0 .. P_NODES at x."""
    cdef Py_ssize_t k
    p[0] = 1.0
    p[1] = x
    for k in range(1, NODES):
        p[k + 1] = ((2 * k + 1) * x * p[k] - k * p[k - 1]) / (k + 1)


cdef void make_rule() noexcept nogil:
    cdef double at[NODES][NODES + 1]
    cdef double x, slope, total
    cdef Py_ssize_t _, i, j, k
    for i in range(NODES):
        x = -cos(M_PI * (i + 0.75) / (NODES + 0.5))
        for _ in range(8):
            legendre(x, at[i])
            slope = NODES * (x * at[i][NODES] - at[i][NODES - 1]) / (x * x - 1.0)
            x -= at[i][NODES] / slope
        legendre(x, at[i])
        slope = NODES * (x * at[i][NODES] - at[i][NODES - 1]) / (x * x - 1.0)
        NODE[i] = 0.5 * (1.0 + x)
        WEIGHT[i] = 1.0 / ((1.0 - x * x) * slope * slope)
    for j in range(NODES):
        for i in range(NODES):
            # The polynomial's Legendre series is (k + 1/2) w_j P_k(x_j); (2k + 1) P_k integrates to P_k+1 - P_k-1.
            total = 2.0 * NODE[i]
            for k in range(1, NODES):
                total += at[j][k] * (at[i][k + 1] - at[i][k - 1])
            PARTIAL[j][i] = WEIGHT[j] * 0.5 * total


make_rule()


cdef inline double beta_depth(const Arm* arm, double u) noexcept nogil:
    """How far log f(u) lies below the peak: n log(1 + r (e^y - 1)) - a y, for the smaller parameter a = n r."""
    cdef double n = arm.a + arm.b
    cdef double a = fmin(arm.a, arm.b)
    cdef double y = (u - arm.centre) if arm.a <= arm.b else (arm.centre - u)
    cdef double r = a / n
    cdef double v
    if y < 35.0:
        return n * log1p(r * expm1(y)) - a * y
    v = y + log(r)
    if v > 0.0:
        return n * (v + log1p((1.0 - r) * exp(-v))) - a * y
    return n * log1p(exp(v) - r) - a * y


cdef double beta_end(const Arm* arm, double side) noexcept nogil:
    """How far from the centre the depth is DEPTH, on side -1 or 1. It is convex: Newton never falls short."""
    cdef double near = arm.a if side < 0 else arm.b
    cdef double far = arm.b if side < 0 else arm.a
    cdef double n = near + far
    cdef double most = (DEPTH + n * log1p(near / far)) / near      # where the asymptote, which lies below, gets there
    cdef double distance = fmin(sqrt(2.0 * DEPTH) * arm.scale, most)
    cdef double slope, e
    cdef Py_ssize_t _
    for _ in range(5):
        e = exp(-distance)
        slope = near * far * -expm1(-distance) / (far + near * e)
        distance = fmin(most, distance + (DEPTH - beta_depth(arm, arm.centre + side * distance)) / slope)
    return side * distance


cdef void make_beta(Arm* arm, double alpha, double beta) noexcept nogil:
    cdef double n = alpha + beta
    arm.a = alpha
    arm.b = beta
    arm.centre = log(alpha) - log(beta)
    arm.scale = sqrt(1.0 / alpha + 1.0 / beta)
    arm.log_peak = (0.5 * (log(alpha) + log(beta) - log(n)) - HALF_LOG_2PI
                    - stirling_rest(alpha) - stirling_rest(beta) + stirling_rest(n))
    arm.low = beta_end(arm, -1.0)
    arm.high = beta_end(arm, 1.0)
    arm.right = fmax(0.0, log(n)) + DEPTH
    arm.left = -arm.right
    # logit(x) has its singularities at +-pi i from the line.
    arm.reach = fmin(3.2 * arm.scale, 1.8)


cdef inline double gamma_depth(const Arm* arm, double u) noexcept nogil:
    """How far log f(u) lies below the peak: a (e^y - 1 - y)."""
    cdef double y = u - arm.centre
    return arm.a * (expm1(y) - y)


cdef double gamma_end(const Arm* arm, double side) noexcept nogil:
    """As `beta_end`. Below, the depth is at least a (d - 1); above, at least a d^2 / 2 and nearly a e^d."""
    cdef double distance = sqrt(2.0 * DEPTH) * arm.scale
    cdef double most = (DEPTH + arm.a) / arm.a if side < 0.0 else fmin(distance, log1p(DEPTH / arm.a) + 2.0)
    cdef Py_ssize_t _
    distance = fmin(distance, most)
    for _ in range(5):
        distance = fmin(
            most,
            distance
            + (DEPTH - gamma_depth(arm, arm.centre + side * distance)) / (arm.a * fabs(expm1(side * distance))),
        )
    return side * distance


cdef void make_gamma(Arm* arm, double shape, double rate) noexcept nogil:
    arm.a = shape
    arm.b = 0.0
    arm.centre = log(shape) - log(rate)
    arm.scale = 1.0 / sqrt(shape)
    arm.log_peak = 0.5 * log(shape) - HALF_LOG_2PI - stirling_rest(shape)
    arm.low = gamma_end(arm, -1.0)
    arm.high = gamma_end(arm, 1.0)
    arm.left = arm.centre - fmax(0.0, log(shape)) - DEPTH
    arm.right = INFINITY
    arm.reach = fmin(3.2 * arm.scale, 1.8)


cdef inline double beta_reach(const Arm* arm, double u) noexcept nogil:
    """Of a Gamma arm, too."""
    if u < arm.left:
        return fmax(arm.reach, fmin(8.0 / arm.a, arm.left - u))
    if u >= arm.right:
        return fmax(arm.reach, 8.0 / arm.b)
    return arm.reach


cdef inline double log_sigmoid(double u) noexcept nogil:
    return u - log1p(exp(u)) if u < 0.0 else -log1p(exp(-u))


cdef void place_beta(Panel* panel) noexcept nogil:
    cdef double p = 1.0 / (1.0 + exp(-panel.start))
    cdef double q = 1.0 / (1.0 + exp(panel.start))
    cdef double d, u
    cdef Py_ssize_t i
    for i in range(NODES):
        d = panel.step[i]
        u = panel.start + d
        if panel.width < 4.0:
            # The short panels of sharp arms: their parameters multiply a difference that keeps its digits.
            panel.log_p[i] = -log1p(q * expm1(-d))
            panel.log_q[i] = -log1p(p * expm1(d))
        else:
            panel.log_p[i] = log_sigmoid(u) - log_sigmoid(panel.start)
            panel.log_q[i] = log_sigmoid(-u) - log_sigmoid(-panel.start)
        panel.slope[i] = exp(log_sigmoid(u) + log_sigmoid(-u))


cdef inline void beta_values(const Arm* arm, const Panel* panel, double* density) noexcept nogil:
    cdef double base = arm.log_peak - beta_depth(arm, panel.start)
    cdef Py_ssize_t i
    for i in range(NODES):
        density[i] = exp(base + arm.a * panel.log_p[i] + arm.b * panel.log_q[i])


cdef inline void gamma_values(const Arm* arm, const Panel* panel, double* density) noexcept nogil:
    cdef double base = arm.log_peak - gamma_depth(arm, panel.start)
    cdef double y = panel.start - arm.centre
    cdef double start = arm.a * exp(y)
    cdef double step, rise
    cdef Py_ssize_t i
    for i in range(NODES):
        step = panel.step[i]
        # Far below the peak start is 0 and exp(step) may be infinite.
        rise = start * expm1(step) if step < 30.0 else arm.a * exp(y + step) - start
        density[i] = exp(base + arm.a * step - rise)


cdef inline void values(Family family, const Arm* arm, const Panel* panel, double* density) noexcept nogil:
    if family == BETA:
        beta_values(arm, panel, density)
    elif family == GAMMA:
        gamma_values(arm, panel, density)
    else:
        student_values(arm, panel, density)


cdef void place(Family family, Panel* panel) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(NODES):
        panel.step[i] = panel.width * NODE[i]
        panel.slope[i] = 1.0
    if family == BETA:
        place_beta(panel)


cdef double beta_below(Family family, const Arm* arm, double u) noexcept nogil:
    """F(u) of a Beta or a Gamma arm, by the same rule.

    A special function takes 37 us next to the mode at 1e9 observations.
    """
    cdef Panel panel
    cdef double density[NODES]
    cdef double total = 0.0
    cdef Py_ssize_t i
    panel.start = arm.centre + arm.low
    panel.rest = 0.0
    while panel.start < u:
        panel.width = fmin(fmax(beta_reach(arm, panel.start), RESOLUTION * fabs(panel.start)), u - panel.start)
        place(family, &panel)
        values(family, arm, &panel, density)
        for i in range(NODES):
            total += panel.width * WEIGHT[i] * density[i]
        panel.start += panel.width
    return total


cdef void make_student(Arm* arm, double loc, double scale, double df) noexcept nogil:
    cdef double h = 0.5 * df
    cdef double log_peak = h * log1p(0.5 / h) - 0.5 - HALF_LOG_2PI + stirling_rest(h + 0.5) - stirling_rest(h)
    cdef double end
    if df < 40.0:
        # 1 - F(z) <= f(0) df^((df - 1) / 2) z^-df
        end = exp((log_peak + 0.5 * (df - 1.0) * log(df) - log(TAIL)) / df)
    else:
        end = sqrt(df * expm1(-2.0 * log(TAIL) / (df + 1.0)))
    arm.a = df
    arm.b = 0.5 * (df + 1.0)
    arm.centre = loc
    arm.scale = scale
    arm.log_peak = log_peak - log(scale)
    arm.peak = log_peak
    arm.low = -end * scale
    arm.high = end * scale
    arm.left = 0.0
    arm.right = 0.0
    # The density has its singularities at +-sqrt(df) i.
    arm.reach = fmin(4.0 / sqrt(df + 1.0), 1.6)


cdef inline double student_reach(const Arm* arm, double x, double rest) noexcept nogil:
    """Proportional to the distance from the centre, at the panel's end that is nearer to it."""
    cdef double z = ((x - arm.centre) + rest) / arm.scale
    cdef double core = sqrt(arm.a)
    if z >= 0.0:
        return arm.scale * arm.reach * (core + z)
    if -z > arm.reach * core:
        return arm.scale * arm.reach * (core - z) / (1.0 + arm.reach)
    return arm.scale * arm.reach * core


cdef inline void student_values(const Arm* arm, const Panel* panel, double* density) noexcept nogil:
    cdef double start = (panel.start - arm.centre) + panel.rest
    cdef double per_scale = 1.0 / arm.scale
    cdef double per_df = 1.0 / arm.a
    cdef double z, t, s
    cdef Py_ssize_t i
    for i in range(NODES):
        z = fmin(fabs(start + panel.step[i]) * per_scale, 1e145)
        t = z * z * per_df
        s = 1.0 + t
        # log1p(t), in less time
        density[i] = exp(arm.log_peak - arm.b * (log(s) + (t - (s - 1.0)) / s))


cdef double student_below(const Arm* arm, double x, double rest) noexcept nogil:
    """F(x)."""
    cdef double z = ((x - arm.centre) + rest) / arm.scale
    cdef double above = student_above(arm.a, arm.peak, fabs(z))
    return 1.0 - above if z > 0.0 else above


cdef double student_excess(const Arm* arm, double z) noexcept nogil:
    """E[max(0, T - z)] in the arm's units, for df > 1: f(z) (df + z^2) / (df - 1) - z (1 - F(z))."""
    cdef double df = arm.a
    cdef double density
    if z < 0.0:
        return student_excess(arm, -z) - z
    density = arm.scale * exp(arm.log_peak - arm.b * log1p(z * z / df))
    return fmax(0.0, density * (df + z * z) / (df - 1.0) - z * student_above(df, arm.peak, z))


cdef inline bint behind(const Arm* arm, const Panel* panel) noexcept nogil:
    """Whether the arm lies below the panel."""
    return (panel.start - arm.centre) + panel.rest >= arm.high


cdef double longest_panel(const Problem* problem, double x, double rest) noexcept nogil:
    cdef double longest = INFINITY
    cdef Py_ssize_t j
    for j in range(problem.n_active):
        if problem.family != STUDENT:
            longest = fmin(longest, beta_reach(&problem.arms[problem.active[j]], x))
        else:
            longest = fmin(longest, student_reach(&problem.arms[problem.active[j]], x, rest))
    longest *= problem.fineness
    return fmax(longest, RESOLUTION * fabs(x)) if problem.family != STUDENT else longest


cdef void evaluate(Problem* problem, Panel* panel) noexcept nogil:
    """Every active arm's density and distribution function on the panel, and their product G."""
    cdef double* density
    cdef double* cdf
    cdef double f, total
    cdef Py_ssize_t i, j, k, m
    place(problem.family, panel)
    panel.best_start = 1.0
    panel.best_end = 1.0
    for i in range(NODES):
        panel.best[i] = 1.0
    for m in range(problem.n_active):
        k = problem.active[m]
        density = &problem.density[k * NODES]
        cdf = &problem.cdf[k * NODES]
        values(problem.family, &problem.arms[k], panel, density)
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


cdef double weigh(Problem* problem, Panel* panel) noexcept nogil:
    """The panel's part of each active arm's share; returns the error of their sum."""
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


cdef void commit(Problem* problem, const Panel* panel, bint weighed) noexcept nogil:
    cdef double anchor
    cdef bint anchored = not behind(&problem.arms[problem.anchor], panel)
    cdef Py_ssize_t i, k, m
    for i in range(NODES if not problem.loss_complete else 0):
        anchor = problem.cdf[problem.anchor * NODES + i] if anchored else 1.0
        problem.loss += panel.width * WEIGHT[i] * panel.slope[i] * (anchor - panel.best[i])
    for m in range(problem.n_active):
        k = problem.active[m]
        problem.start[k] = problem.end[k]
        if weighed:
            problem.shares[k] += problem.rise[k]


cdef void lose_above(Problem* problem, Py_ssize_t k, const Panel* panel) noexcept nogil:
    """Adds what arm k alone makes of F_b - G above the panel's start; from here on its F is taken to be 1."""
    cdef Arm* arm = &problem.arms[k]
    # A Beta arm's tail is short; below df = 1 there is no expectation.
    if problem.family == STUDENT and arm.a > 1.0 and k != problem.anchor and not problem.loss_complete:
        problem.loss += arm.scale * student_excess(arm, ((panel.start - arm.centre) + panel.rest) / arm.scale)


cdef void begin(Problem* problem, const Panel* panel) noexcept nogil:
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
        if behind(arm, panel):
            lose_above(problem, k, panel)
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


cdef double retire(Problem* problem, const Panel* panel) noexcept nogil:
    """Lets go of arms that lie below, whose F must have come out as 1; returns sum (1 - F) of the others."""
    cdef double rest = 0.0
    cdef Py_ssize_t k, m, kept = 0
    for m in range(problem.n_active):
        k = problem.active[m]
        if behind(&problem.arms[k], panel):
            problem.deviation = fmax(problem.deviation, fabs(1.0 - problem.start[k]))
            lose_above(problem, k, panel)
        else:
            problem.active[kept] = k
            kept += 1
            rest += fabs(1.0 - problem.start[k])
    problem.n_active = kept
    if rest <= LOSS_REST and problem.family == STUDENT and not problem.loss_complete:
        for m in range(kept):
            lose_above(problem, problem.active[m], panel)
        problem.loss_complete = True
    return rest


cdef void finish(Problem* problem) noexcept nogil:
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


cdef inline double stretch(double error) noexcept nogil:
    """How much longer the panel may be: the rule's error falls with about the NODES-th power of its length."""
    return fmax(0.25, fmin(4.0, (0.5 * PANEL_ERROR / fmax(error, 1e-300)) ** (1.0 / NODES)))


cdef inline void advance(Panel* panel) noexcept nogil:
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
    advance(&panel)
    if problem.family != STUDENT:
        return panel
    while low < high:
        middle = (low + high) // 2
        if student_hopeless(problem, problem.arms[middle].centre):
            low = middle + 1
        else:
            high = middle
    if low > 0 and problem.arms[low - 1].centre > panel.start:
        panel.start = problem.arms[low - 1].centre
        panel.rest = 0.0
    return panel


cdef bint student_hopeless(const Problem* problem, double x) noexcept nogil:
    """Whether G(x) is negligible."""
    cdef double best = 1.0
    cdef Py_ssize_t k
    for k in range(problem.n_arms - 1, -1, -1):
        best *= student_below(&problem.arms[k], x, 0.0)
        if best < NEGLIGIBLE:
            return True
    return False


cdef void integrate(Problem* problem) noexcept nogil:
    cdef Panel panel = first_panel(problem)
    cdef double error
    cdef double wanted = INFINITY       # the length that G's curvature asked for last
    cdef Py_ssize_t cut
    cdef bint counts
    begin(problem, &panel)
    while retire(problem, &panel) > REST and problem.n_panels < MOST_PANELS:
        panel.width = fmin(wanted, longest_panel(problem, panel.start, panel.rest))
        for cut in range(MOST_CUTS):
            if cut > 0:
                panel.width *= fmin(stretch(error), 0.8)
            evaluate(problem, &panel)
            problem.n_panels += 1
            counts = panel.best_end > NEGLIGIBLE
            error = weigh(problem, &panel) if counts else 0.0
            if error <= PANEL_ERROR:
                break
        wanted = panel.width * stretch(error)
        commit(problem, &panel, counts)
        advance(&panel)
    finish(problem)


cdef void solve(Problem* problem) noexcept nogil:
    cdef Py_ssize_t _
    problem.fineness = 1.0
    for _ in range(MOST_ROUNDS):
        integrate(problem)
        if problem.deviation <= DEVIATION:
            break
        problem.fineness *= 0.5


cdef object column(object values, str name):
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


cdef check(object values, str name, double low, double high):
    # Written so that NaN fails.
    if not (np.all(values >= low) and np.all(values <= high)):
        raise InvalidInput(f"{name} must lie between {low:g} and {high:g} for every arm.")


cdef tuple solved(Family family, const double[::1] a, const double[::1] b, const double[::1] c):
    """Of sorted arms: the shares, the loss of one of them, which one, the deviation and the number of panels."""
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
        solve(&problem)
        free(problem.arms)
    return shares, problem.loss, problem.anchor, problem.deviation, problem.n_panels


cdef tuple beta_problem(object alpha, object beta):
    alpha = column(alpha, "alpha")
    beta = column(beta, "beta")
    if alpha.size != beta.size:
        raise InvalidInput(f"alpha has {alpha.size} arms and beta {beta.size}.")
    check(alpha, "alpha", 1e-6, 1e15)
    check(beta, "beta", 1e-6, 1e15)
    order = np.lexsort((beta, alpha))
    return order, alpha[order], beta[order]


cdef tuple gamma_problem(object shape, object rate):
    shape = column(shape, "shape")
    rate = column(rate, "rate")
    if shape.size != rate.size:
        raise InvalidInput(f"shape has {shape.size} arms and rate {rate.size}.")
    check(shape, "shape", 1e-6, 1e15)
    check(rate, "rate", 1e-100, 1e100)
    order = np.lexsort((rate, shape))
    return order, shape[order], rate[order]


cdef tuple student_problem(object loc, object scale, object df):
    loc = column(loc, "loc")
    scale = column(scale, "scale")
    df = column(df, "df")
    if not loc.size == scale.size == df.size:
        raise InvalidInput(f"loc has {loc.size} arms, scale {scale.size} and df {df.size}.")
    check(loc, "loc", -1e100, 1e100)
    check(scale, "scale", 1e-100, 1e100)
    check(df, "df", 0.1, 1e100)
    order = np.lexsort((df, scale, loc))
    return order, loc[order], scale[order], df[order]


cdef object unsorted(object order, object values):
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
    return unsorted(order, solved(BETA, a, b, a)[0])


def gamma_best(shape, rate):
    """P(arm k has the highest mean) for independent Gamma(shape_k, rate_k) posteriors.

    shape: K >= 1 numbers between 1e-6 and 1e15; rate: between 1e-100 and 1e100. Returns and raises what `beta_best`
    does, by the same formula.
    """
    order, a, b = gamma_problem(shape, rate)
    return unsorted(order, solved(GAMMA, a, b, a)[0])


def student_best(loc, scale, df):
    """P(arm k has the highest mean) for independent posteriors loc_k + scale_k T(df_k), T Student's t.

    loc: K >= 1 numbers within +-1e100; scale: between 1e-100 and 1e100; df: between 0.1 and 1e100. Returns and raises
    what `beta_best` does, by the same formula.
    """
    order, m, s, v = student_problem(loc, scale, df)
    return unsorted(order, solved(STUDENT, m, s, v)[0])


def beta_expected_loss(alpha, beta):
    """E[max_j t_j - t_k]: what choosing arm k costs in expectation, for the posteriors of `beta_best`.

    Returns K losses in the unit of the means, none negative, to about 1e-9.
    """
    order, a, b = beta_problem(alpha, beta)
    _, least, anchor, _, _ = solved(BETA, a, b, a)
    n = a + b
    # The means' differences, without the cancellation of two means next to 1.
    behind = (a[anchor] * (b / n) - a * (b[anchor] / n)) / n[anchor]
    return unsorted(order, np.maximum(0.0, least + behind))


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
    _, least, anchor, _, _ = solved(STUDENT, m, s, v)
    return unsorted(order, np.maximum(0.0, least + (m[anchor] - m)))


def beta_best_deviation(alpha, beta):
    """How far the shares' sum, or a distribution function at its end, was from 1 before normalising; panels used."""
    _, a, b = beta_problem(alpha, beta)
    return solved(BETA, a, b, a)[3:]


def student_below_at(z, df):
    """P(T <= z_k) for T Student's t of df_k degrees of freedom, as `student_best` has it.

    z, df: K >= 1 numbers each.
    """
    z, df = column(z, "z"), column(df, "df")
    check(df, "df", 0.1, 1e100)
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
    """As `beta_best_deviation`, for the posteriors of `student_best`."""
    _, m, s, v = student_problem(loc, scale, df)
    return solved(STUDENT, m, s, v)[3:]


def gamma_best_deviation(shape, rate):
    """As `beta_best_deviation`, for the posteriors of `gamma_best`."""
    _, a, b = gamma_problem(shape, rate)
    return solved(GAMMA, a, b, a)[3:]
