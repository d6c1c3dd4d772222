"""Work shared by processes: who has taken which object, and a parallel map whose outcomes are in the log.

Lowest first: ``text`` (bytes as text, reversibly), ``shortage`` (what a machine is short of, and how starts pause),
``workers`` (a worker lives as long as its lock), ``claims``, ``permit`` (whether a map that halts may begin items),
``refusals`` (what cannot be run), ``inputs`` (items and their object keys), ``outcomes`` (what is recorded of an item),
``reruns`` (whose outcomes count), ``runs`` (which run a start works on, and how it stands with an object), ``results``
(what was recorded, given out again), ``retries`` and ``deaths`` (how often, and after which pause), ``forked`` (the end
of a forked child), ``perform`` (one item, in a worker), ``crew``, ``start_process``, ``worker_process`` and
``processes`` (who works), ``asking`` (an iterable that may wait), ``outlet`` (the order of outcomes), ``presence`` (who
runs a map now), ``status`` (how far a map is, for others), ``waiting`` (what a map waits for), ``map`` (the loop).
"""
