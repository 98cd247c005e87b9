# cython: cdivision=True
"""Posteriors of an arm's mean reward, Beta, Gamma or Student's t, on the panels of an integral.

Beta posteriors are integrated over u = logit(x): there each is log-concave with exponential tails, and nothing
is lost next to 0 or 1. Gamma posteriors are integrated likewise over u = log(x). Student-t posteriors are integrated
over x itself, with panels proportional to the distance from the arms, and their far upper tails in closed form.
"""

from libc.math cimport INFINITY, erfc, exp, expm1, fabs, fmax, fmin, log, log1p, sqrt

from quadrature cimport NODE, NODES, WEIGHT
from stirling cimport HALF_LOG_2PI, stirling_rest
from student cimport student_above

cdef extern from *:
    """
    /* A Beta or Gamma arm's ends: where the density over u is exp(-DEPTH) of its peak. */
    static const double DEPTH = 28.0;
    /* A Student-t arm's ends: the mass beyond each. */
    static const double TAIL = 1e-12;
    /* From so many degrees of freedom on, Student's t is the Normal to 1e-9, and its ends are the Normal's. */
    static const double NORMAL = 1e9;
    static const double NORMAL_END = 7.4338444767;
    static const double SQRT_HALF = 0.70710678118654752;
    /* Shortest panel of a Beta or Gamma problem, relative to its coordinate. */
    static const double MIN_PANEL = 1e-13;
    """
    const double DEPTH
    const double TAIL
    const double NORMAL
    const double NORMAL_END
    const double SQRT_HALF
    const double MIN_PANEL

cdef enum Family:
    BETA
    GAMMA
    STUDENT


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


cdef inline double beta_depth(const Arm* arm, double u) noexcept nogil:
    """Depth of log f(u) below the peak: n log(1 + r (e^y - 1)) - a y, for the smaller parameter a = n r."""
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


cdef inline double beta_end(const Arm* arm, double side) noexcept nogil:
    """Distance from the centre at which the depth is DEPTH, on side -1 or 1. It is convex: Newton never falls short."""
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


cdef inline void make_beta(Arm* arm, double alpha, double beta) noexcept nogil:
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
    """Depth of log f(u) below the peak: a (e^y - 1 - y)."""
    cdef double y = u - arm.centre
    return arm.a * (expm1(y) - y)


cdef inline double gamma_end(const Arm* arm, double side) noexcept nogil:
    """End on one `side` of a Gamma arm, as `beta_end`.

    Below, the depth is at least a (d - 1); above, at least a d^2 / 2 and nearly a e^d.
    """
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


cdef inline void make_gamma(Arm* arm, double shape, double rate) noexcept nogil:
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
    """Reach of a Beta or Gamma arm."""
    if u < arm.left:
        return fmax(arm.reach, fmin(8.0 / arm.a, arm.left - u))
    if u >= arm.right:
        return fmax(arm.reach, 8.0 / arm.b)
    return arm.reach


cdef inline double log_sigmoid(double u) noexcept nogil:
    return u - log1p(exp(u)) if u < 0.0 else -log1p(exp(-u))


cdef inline void place_beta_nodes(Panel* panel) noexcept nogil:
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


cdef inline void beta_density(const Arm* arm, const Panel* panel, double* density) noexcept nogil:
    cdef double base = arm.log_peak - beta_depth(arm, panel.start)
    cdef Py_ssize_t i
    for i in range(NODES):
        density[i] = exp(base + arm.a * panel.log_p[i] + arm.b * panel.log_q[i])


cdef inline void gamma_density(const Arm* arm, const Panel* panel, double* density) noexcept nogil:
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


cdef inline void student_density(const Arm* arm, const Panel* panel, double* density) noexcept nogil:
    cdef double start = (panel.start - arm.centre) + panel.rest
    cdef double per_scale = 1.0 / arm.scale
    cdef double per_df = 1.0 / arm.a
    cdef double z, t, s
    cdef Py_ssize_t i
    if arm.a >= NORMAL:
        for i in range(NODES):
            z = fmin(fabs(start + panel.step[i]) * per_scale, 1e145)
            density[i] = exp(arm.log_peak - 0.5 * z * z)
        return
    for i in range(NODES):
        z = fmin(fabs(start + panel.step[i]) * per_scale, 1e145)
        t = z * z * per_df
        s = 1.0 + t
        # log1p(t), in less time
        density[i] = exp(arm.log_peak - arm.b * (log(s) + (t - (s - 1.0)) / s))


cdef inline void posterior_density(Family family, const Arm* arm, const Panel* panel, double* density) noexcept nogil:
    if family == BETA:
        beta_density(arm, panel, density)
    elif family == GAMMA:
        gamma_density(arm, panel, density)
    else:
        student_density(arm, panel, density)


cdef inline void place_nodes(Family family, Panel* panel) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(NODES):
        panel.step[i] = panel.width * NODE[i]
        panel.slope[i] = 1.0
    if family == BETA:
        place_beta_nodes(panel)


cdef inline double beta_below(Family family, const Arm* arm, double u) noexcept nogil:
    """F(u) of a Beta or a Gamma arm, by the same rule.

    A special function takes 37 us next to the mode of a sharp arm.
    """
    cdef Panel panel
    cdef double density[NODES]
    cdef double total = 0.0
    cdef Py_ssize_t i
    panel.start = arm.centre + arm.low
    panel.rest = 0.0
    while panel.start < u:
        panel.width = fmin(fmax(beta_reach(arm, panel.start), MIN_PANEL * fabs(panel.start)), u - panel.start)
        place_nodes(family, &panel)
        posterior_density(family, arm, &panel, density)
        for i in range(NODES):
            total += panel.width * WEIGHT[i] * density[i]
        panel.start += panel.width
    return total


cdef inline void make_student(Arm* arm, double loc, double scale, double df) noexcept nogil:
    cdef double h = 0.5 * df
    cdef double log_peak = -HALF_LOG_2PI
    cdef double end
    if df < NORMAL:
        log_peak += h * log1p(0.5 / h) - 0.5 + stirling_rest(h + 0.5) - stirling_rest(h)
    if df >= NORMAL:
        end = NORMAL_END
    elif df < 40.0:
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


cdef inline double student_below(const Arm* arm, double x, double rest) noexcept nogil:
    """F(x)."""
    cdef double z = ((x - arm.centre) + rest) / arm.scale
    if arm.a >= NORMAL:
        return 0.5 * erfc(-z * SQRT_HALF)
    cdef double above = student_above(arm.a, arm.peak, fabs(z))
    return 1.0 - above if z > 0.0 else above


cdef inline double student_excess(const Arm* arm, double z) noexcept nogil:
    """E[max(0, T - z)] in the arm's units, for df > 1: f(z) (df + z^2) / (df - 1) - z (1 - F(z))."""
    cdef double df = arm.a
    cdef double density
    if z < 0.0:
        return student_excess(arm, -z) - z
    density = arm.scale * exp(arm.log_peak - arm.b * log1p(z * z / df))
    return fmax(0.0, density * (df + z * z) / (df - 1.0) - z * student_above(df, arm.peak, z))


cdef inline bint is_behind(const Arm* arm, const Panel* panel) noexcept nogil:
    """Return whether the arm lies below the panel."""
    return (panel.start - arm.centre) + panel.rest >= arm.high
