"""Work shared by processes: who has taken which object, and a parallel map whose outcomes are in the log.

Lowest first: ``text`` (bytes as text, reversibly), ``workers`` (a worker lives as long as its lock), ``claims``,
``inputs`` (items and their object keys), ``outcomes`` (what is recorded of an item), ``reruns`` (whose outcomes count),
``runs`` (which run a start works on, and how it stands with an object), ``results`` (what was recorded, given out
again), ``retries`` (how often, and after which pause), ``perform`` (one item, in a worker), ``crew``,
``worker_process`` and ``processes`` (who works), ``outlet`` (the order of outcomes), ``presence`` (who runs a map now),
``map`` (the loop), ``status`` (how far a map is, for others).
"""
