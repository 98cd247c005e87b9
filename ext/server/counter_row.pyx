# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Row of counters that one worker writes."""


cdef enum:
    N_OUTCOMES = 3              # requests answered below 400, below 500, and else


cdef class CounterRow:
    """Counters in `row`, float64 (n,): `scalars` by name, and from the place in `routes` on for each route its requests
    by outcome, by latency and their seconds; from `appends` on the same of appends, without outcomes.

    A latency is counted at the first of `bounds` (in seconds, rising) that it does not pass, and behind them if none is
    so large; its sum comes last.
    """

    cdef double[::1] row
    cdef dict scalars, routes
    cdef Py_ssize_t appends
    cdef const double[::1] bounds

    def __init__(
        self, double[::1] row not None, dict scalars not None, dict routes not None, Py_ssize_t appends,
        const double[::1] bounds not None,
    ):
        cdef Py_ssize_t histogram = bounds.shape[0] + 2, n = row.shape[0]
        widths = [(scalars.values(), 1), (routes.values(), N_OUTCOMES + histogram), ([appends], histogram)]
        for places, width in widths:
            if not all([0 <= start <= n - width for start in places]):
                raise ValueError("expected a row with a place for each counter")
        self.row, self.bounds, self.appends = row, bounds, appends
        self.scalars, self.routes = dict(scalars), dict(routes)

    cdef inline void observe(self, Py_ssize_t start, double seconds) noexcept:
        cdef Py_ssize_t i = 0, n = self.bounds.shape[0]
        while i < n and self.bounds[i] < seconds:
            i += 1
        self.row[start + i] += 1.0
        self.row[start + n + 1] += seconds

    def add(self, str scalar not None, double amount=1.0):
        self.row[<Py_ssize_t> self.scalars[scalar]] += amount

    def set(self, str scalar not None, double value):
        self.row[<Py_ssize_t> self.scalars[scalar]] = value

    def request(self, str route not None, int status, double seconds):
        """Counts an answer."""
        cdef Py_ssize_t start = self.routes[route]
        self.row[start + (0 if status < 400 else 1 if status < 500 else 2)] += 1.0
        self.observe(start + N_OUTCOMES, seconds)

    def append(self, double seconds):
        """Counts an append to a log."""
        self.observe(self.appends, seconds)
