# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Rules of audiences, as objects that are asked of each request."""

from cpython.bool cimport PyBool_Check
from cpython.dict cimport PyDict_GetItemWithError
from cpython.float cimport PyFloat_AS_DOUBLE, PyFloat_CheckExact
from cpython.long cimport PyLong_Check
from cpython.object cimport Py_GE, Py_GT, Py_LE, Py_LT, PyObject, PyObject_RichCompareBool
from cpython.set cimport PySet_Contains
from cpython.unicode cimport PyUnicode_Check

ORDERINGS = {"lt": Py_LT, "le": Py_LE, "gt": Py_GT, "ge": Py_GE}


cdef class Condition:
    """Condition on a context: a call says whether it fits. Of values that are no scalars nothing holds."""

    cdef bint fits(self, dict context) except -1:
        raise NotImplementedError

    def __call__(self, dict context not None):
        return bool(self.fits(context))


cdef class Every(Condition):
    """Fits where all of `parts` do."""

    cdef tuple parts

    def __init__(self, parts):
        self.parts = tuple(<Condition?> part for part in parts)

    cdef bint fits(self, dict context) except -1:
        for part in self.parts:
            if not (<Condition> part).fits(context):
                return False
        return True


cdef class Some(Condition):
    """Fits where one of `parts` does."""

    cdef tuple parts

    def __init__(self, parts):
        self.parts = tuple(<Condition?> part for part in parts)

    cdef bint fits(self, dict context) except -1:
        for part in self.parts:
            if (<Condition> part).fits(context):
                return True
        return False


cdef class Negation(Condition):
    """Fits where `part` does not."""

    cdef Condition part

    def __init__(self, Condition part not None):
        self.part = part

    cdef bint fits(self, dict context) except -1:
        return not self.part.fits(context)


cdef class OfField(Condition):
    """Condition on the value of one field."""

    cdef str field

    cdef bint fits(self, dict context) except -1:
        cdef PyObject *value = PyDict_GetItemWithError(context, self.field)
        return self.holds(None if value == NULL else <object> value)

    cdef bint holds(self, value) except -1:
        raise NotImplementedError


cdef class Presence(OfField):
    """Fits where the field is there, or with `wanted` False where it is missing."""

    cdef bint wanted

    def __init__(self, str field not None, bint wanted):
        self.field = field
        self.wanted = wanted

    cdef bint holds(self, value) except -1:
        return (value is not None) == self.wanted


cdef class Equality(OfField):
    """Fits where the field is one of `values`, or with `wanted` False where it is there and none of them.

    Truth values are no numbers: 1 is not true.
    """

    cdef frozenset others
    cdef bint takes_true, takes_false, wanted

    def __init__(self, str field not None, values, bint wanted=True):
        self.field = field
        self.others = frozenset(value for value in values if not isinstance(value, bool))
        self.takes_true = any(value is True for value in values)
        self.takes_false = any(value is False for value in values)
        self.wanted = wanted

    cdef bint holds(self, value) except -1:
        if value is None:
            return False
        if PyBool_Check(value):
            return (self.takes_true if value is True else self.takes_false) == self.wanted
        if PyUnicode_Check(value) or PyFloat_CheckExact(value) or PyLong_Check(value):
            return (PySet_Contains(self.others, value) == 1) == self.wanted
        return not self.wanted


cdef class Ordering(OfField):
    """Fits where the field is a number that is in this order to `bound`: `lt`, `le`, `gt` or `ge` it."""

    cdef double bound
    cdef int order

    def __init__(self, str field not None, str operator not None, double bound):
        self.field = field
        self.order = ORDERINGS[operator]
        self.bound = bound

    cdef bint holds(self, value) except -1:
        cdef double number
        if not PyFloat_CheckExact(value):
            if not PyLong_Check(value) or PyBool_Check(value):
                return False
            return PyObject_RichCompareBool(value, self.bound, self.order)
        number = PyFloat_AS_DOUBLE(value)
        if self.order == Py_LT:
            return number < self.bound
        if self.order == Py_LE:
            return number <= self.bound
        if self.order == Py_GT:
            return number > self.bound
        return number >= self.bound
