# cython: cdivision=True
"""Symmetric matrices in float64, of which the upper triangle is kept in stripes of eight rows.

Row j of a matrix of order `width`, a multiple of 8, starts at the column 8 · ⌊j / 8⌋, so the diagonal blocks
of 8 × 8 are kept whole and everything is a loop over eight lanes without a rest. Rows and columns from a model's
own order up to `width` are 0. Vectors have `width` entries, those beyond the order 0.

Every sum is in an order that the source fixes: over the rows from the first to the last, and where columns are
summed in eight lanes that are added at the end in one order. The compiler may not reassociate or fuse
(-ffp-contract=off), so the wider instructions that are chosen when the module is loaded give the same bits as the
narrow ones.
"""

cdef extern from *:
    """
    #include <math.h>
    #include <stddef.h>
    #include <string.h>

    #if defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__) && !defined(__clang__)
    #define BY_PROCESSOR __attribute__((target_clones("avx512f", "avx2", "default")))
    #else
    #define BY_PROCESSOR
    #endif

    /* As the memory's alignment is not known to the compiler, that of a double is all it may use. */
    typedef double lanes_t __attribute__((vector_size(64), aligned(8), may_alias));
    #define LANES(place) (*(lanes_t *)(place))
    #define SUM_OF(v) ((((v)[0] + (v)[4]) + ((v)[2] + (v)[6])) + (((v)[1] + (v)[5]) + ((v)[3] + (v)[7])))

    BY_PROCESSOR static double dot_product(const double *a, const double *b, ptrdiff_t width)
    {
        lanes_t sum = {0.0};
        for (ptrdiff_t i = 0; i < width; i += 8)
            sum += LANES(a + i) * LANES(b + i);
        return SUM_OF(sum);
    }

    /* y += factor x */
    BY_PROCESSOR static void add_multiple(double *y, double factor, const double *x, ptrdiff_t width)
    {
        for (ptrdiff_t i = 0; i < width; i += 8)
            LANES(y + i) += factor * LANES(x + i);
    }

    /* x'Ax */
    BY_PROCESSOR static double symmetric_quadratic(const double *a, const double *x, ptrdiff_t width)
    {
        lanes_t near = {0.0}, far = {0.0};
        for (ptrdiff_t b = 0; b < width; b += 8) {
            const ptrdiff_t length = width - b;
            const double *f = x + b;
            for (ptrdiff_t c = 0; c < length; c += 8) {
                const double *p = a + c;
                lanes_t row = f[0] * LANES(p);
                row += f[1] * LANES(p + length);
                row += f[2] * LANES(p + 2 * length);
                row += f[3] * LANES(p + 3 * length);
                row += f[4] * LANES(p + 4 * length);
                row += f[5] * LANES(p + 5 * length);
                row += f[6] * LANES(p + 6 * length);
                row += f[7] * LANES(p + 7 * length);
                if (c == 0)
                    near += row * LANES(f);
                else
                    far += row * LANES(f + c);
            }
            a += 8 * length;
        }
        near += 2.0 * far;
        return SUM_OF(near);
    }

    /* y = Ax */
    BY_PROCESSOR static void symmetric_multiply(const double *a, const double *x, double *y, ptrdiff_t width)
    {
        memset(y, 0, (size_t)width * sizeof(double));
        for (ptrdiff_t b = 0; b < width; b += 8) {
            const ptrdiff_t length = width - b;
            for (ptrdiff_t r = 0; r < 8; r += 4) {
                const double *f = x + b + r;
                const double *p = a, *q = a + length, *s = a + 2 * length, *t = a + 3 * length;
                lanes_t u = {0.0}, v = {0.0}, w = {0.0}, z = {0.0};
                lanes_t sum = LANES(y + b);
                sum += f[0] * LANES(p);
                sum += f[1] * LANES(q);
                sum += f[2] * LANES(s);
                sum += f[3] * LANES(t);
                LANES(y + b) = sum;
                for (ptrdiff_t c = 8; c < length; c += 8) {
                    const lanes_t here = LANES(x + b + c);
                    const lanes_t p8 = LANES(p + c), q8 = LANES(q + c), s8 = LANES(s + c), t8 = LANES(t + c);
                    sum = LANES(y + b + c);
                    sum += f[0] * p8;
                    sum += f[1] * q8;
                    sum += f[2] * s8;
                    sum += f[3] * t8;
                    LANES(y + b + c) = sum;
                    u += p8 * here;
                    v += q8 * here;
                    w += s8 * here;
                    z += t8 * here;
                }
                y[b + r] += SUM_OF(u);
                y[b + r + 1] += SUM_OF(v);
                y[b + r + 2] += SUM_OF(w);
                y[b + r + 3] += SUM_OF(z);
                a += 4 * length;
            }
        }
    }

    /* A += weight xx' */
    BY_PROCESSOR static void symmetric_add(double *a, double weight, const double *x, ptrdiff_t width)
    {
        for (ptrdiff_t b = 0; b < width; b += 8) {
            const ptrdiff_t length = width - b;
            for (ptrdiff_t r = 0; r < 8; r++) {
                const double factor = weight * x[b + r];
                for (ptrdiff_t c = 0; c < length; c += 8)
                    LANES(a + c) += factor * LANES(x + b + c);
                a += length;
            }
        }
    }

    /* Row j of the matrix, j < order, from its diagonal on, to or from `row`, which has order - j entries. */
    static ptrdiff_t symmetric_start(ptrdiff_t j, ptrdiff_t width)
    {
        const ptrdiff_t b = j / 8;
        return 8 * (b * width - 4 * b * (b - 1)) + (j - 8 * b) * (width - 8 * b) + (j - 8 * b);
    }

    /* Makes both halves of the diagonal blocks those above the diagonal. */
    static void symmetric_mirror(double *a, ptrdiff_t width)
    {
        for (ptrdiff_t b = 0; b < width; b += 8) {
            const ptrdiff_t length = width - b;
            for (ptrdiff_t r = 0; r < 8; r++)
                for (ptrdiff_t c = 0; c < r; c++)
                    a[r * length + c] = a[c * length + r];
            a += 8 * length;
        }
    }

    /* The upper triangular W with WW' = (A + P)⁻¹, P the diagonal `precision`: the inverse of the Cholesky factor U.

       A is a sum of squares, so no pivot of A + P is below the entry of P, and none that rounding has put there is
       let through. Where P is lost in the rounding of A, a pivot is what that rounding is, and its row is dropped:
       it would be nothing else either. A column of U has the length of the root of its diagonal entry of A + P, and a
       row of W is at most as long as 1 / √P's: what rounding makes of nearly dependent rows is held to that, so that
       it does not grow from row to row without end. `root` and `work`: width · width each; W comes in `root`, by rows,
       0 below its diagonal. */
    BY_PROCESSOR static void symmetric_inverse_root(
        const double *a, const double *precision, double *root, double *work, ptrdiff_t order, ptrdiff_t width)
    {
        double *longest = root;
        memset(work, 0, (size_t)(width * width) * sizeof(double));
        for (ptrdiff_t j = 0; j < order; j++) {
            const double *row = a + symmetric_start(j, width);
            for (ptrdiff_t c = j; c < order; c++)
                work[j * width + c] = row[c - j];
            work[j * width + j] += precision[j];
            longest[j] = sqrt(work[j * width + j]);
        }
        for (ptrdiff_t k = 0; k < order; k++) {
            double *pivotal = work + k * width;
            const double noise = 4e-16 * (double)order * (a[symmetric_start(k, width)] + precision[k]);
            double pivot = pivotal[k] > precision[k] ? pivotal[k] : precision[k];
            if (pivot < noise) {
                pivot = noise;
                memset(pivotal + k + 1, 0, (size_t)(width - k - 1) * sizeof(double));
            }
            pivot = sqrt(pivot);
            for (ptrdiff_t c = k + 1; c < order; c++)
                pivotal[c] = fmax(-longest[c], fmin(longest[c], pivotal[c] / pivot));
            pivotal[k] = pivot;
            for (ptrdiff_t j = k + 1; j < order; j++) {
                const double factor = pivotal[j];
                double *row = work + j * width;
                for (ptrdiff_t c = j & ~(ptrdiff_t)7; c < width; c += 8)
                    LANES(row + c) -= factor * LANES(pivotal + c);
            }
        }
        memset(root, 0, (size_t)(width * width) * sizeof(double));
        /* The subtraction above has also filled parts below the diagonal, which nothing reads. */
        for (ptrdiff_t j = 0; j < order; j++) {
            double *row = root + j * width;
            const double most = 1.0 / sqrt(precision[j]);
            row[j] = 1.0;
            for (ptrdiff_t k = j; k < order; k++) {
                const double *u = work + k * width;
                const double factor = fmax(-most, fmin(most, row[k] / u[k]));
                row[k] = factor;
                for (ptrdiff_t c = k + 1; c < order && (c & 7); c++)
                    row[c] -= factor * u[c];
                for (ptrdiff_t c = (k + 8) & ~(ptrdiff_t)7; c < width; c += 8)
                    LANES(row + c) -= factor * LANES(u + c);
            }
        }
    }

    /* The inverse itself, WW'. */
    BY_PROCESSOR static void symmetric_from_root(const double *root, double *a, ptrdiff_t order, ptrdiff_t width)
    {
        memset(a, 0, (size_t)symmetric_start(width, width) * sizeof(double));
        for (ptrdiff_t j = 0; j < order; j++) {
            double *row = a + symmetric_start(j, width);
            const double *w = root + j * width;
            for (ptrdiff_t i = j; i < order; i++) {
                const double *other = root + i * width;
                lanes_t sum = {0.0};
                for (ptrdiff_t c = i & ~(ptrdiff_t)7; c < width; c += 8)
                    sum += LANES(w + c) * LANES(other + c);
                row[i - j] = SUM_OF(sum);
            }
        }
        symmetric_mirror(a, width);
    }
    """
    double dot_product(const double *a, const double *b, Py_ssize_t width) noexcept nogil
    void add_multiple(double *y, double factor, const double *x, Py_ssize_t width) noexcept nogil
    double symmetric_quadratic(const double *a, const double *x, Py_ssize_t width) noexcept nogil
    void symmetric_multiply(const double *a, const double *x, double *y, Py_ssize_t width) noexcept nogil
    void symmetric_add(double *a, double weight, const double *x, Py_ssize_t width) noexcept nogil
    Py_ssize_t symmetric_start(Py_ssize_t j, Py_ssize_t width) noexcept nogil
    void symmetric_mirror(double *a, Py_ssize_t width) noexcept nogil
    void symmetric_inverse_root(
        const double *a, const double *precision, double *root, double *work, Py_ssize_t order, Py_ssize_t width
    ) noexcept nogil
    void symmetric_from_root(const double *root, double *a, Py_ssize_t order, Py_ssize_t width) noexcept nogil
