# cython: cdivision=True
"""A binary heap of (time, row), earliest first and the lower row first among equals: inline code that kernels share.

The order is total, so what comes out does not depend on how the heap came to be.
"""

from libc.stdint cimport int64_t
from libc.stdlib cimport free, realloc

cdef struct Due:
    int64_t time
    int64_t row

cdef struct TimeHeap:
    Due *items
    Py_ssize_t size
    Py_ssize_t capacity


cdef inline bint due_before(Due a, Due b) noexcept nogil:
    return a.time < b.time or (a.time == b.time and a.row < b.row)


cdef inline void heap_free(TimeHeap *heap) noexcept nogil:
    free(heap.items)
    heap.items = NULL
    heap.size = 0
    heap.capacity = 0


cdef inline int heap_push(TimeHeap *heap, int64_t time, int64_t row) except -1 nogil:
    cdef Py_ssize_t at = heap.size, parent, capacity
    cdef Due item
    cdef Due *items
    if heap.size == heap.capacity:
        capacity = 2 * heap.capacity if heap.capacity else 64
        items = <Due *> realloc(heap.items, capacity * sizeof(Due))
        if items == NULL:
            raise MemoryError()
        heap.items = items
        heap.capacity = capacity
    item.time = time
    item.row = row
    heap.size += 1
    while at > 0:
        parent = (at - 1) >> 1
        if not due_before(item, heap.items[parent]):
            break
        heap.items[at] = heap.items[parent]
        at = parent
    heap.items[at] = item
    return 0


cdef inline void heap_replace_top(TimeHeap *heap, int64_t time, int64_t row) noexcept nogil:
    cdef Py_ssize_t at = 0, child
    cdef Due item
    item.time = time
    item.row = row
    while True:
        child = 2 * at + 1
        if child >= heap.size:
            break
        if child + 1 < heap.size and due_before(heap.items[child + 1], heap.items[child]):
            child += 1
        if not due_before(heap.items[child], item):
            break
        heap.items[at] = heap.items[child]
        at = child
    heap.items[at] = item


cdef inline void heap_pop(TimeHeap *heap) noexcept nogil:
    """Drops the top of a heap that is not empty."""
    heap.size -= 1
    if heap.size > 0:
        heap_replace_top(heap, heap.items[heap.size].time, heap.items[heap.size].row)
