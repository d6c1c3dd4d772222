"""Work shared by processes: claims on objects, and a parallel map whose outcomes are in the log.

Lowest first: ``shortage`` (what a machine is short of, and how starts pause), ``workers`` (files that are locked while
a worker lives), ``claims``, ``permit`` (whether a map that halts may start items), ``refusals`` (what cannot run),
``inputs`` (items and their object keys), ``reruns`` (which outcomes count), ``runs`` (the run that a start joins, and
the state of an item), ``outcomes`` (what is recorded of an item), ``retries`` and ``deaths`` (how often, after which
pause), ``forked_child`` (how it ends), ``plan`` and ``report`` (what a worker is told, and what it tells), ``run_item``
(one item, in a worker), ``pool``, ``start_process``, ``worker_process`` and ``process_pool`` (workers),
``input_thread`` (an iterable that may wait), ``output_queue`` (the order of outcomes), ``presence`` (which processes
run a map), ``status`` (how far a map is), ``held_items`` (what a map waits for), ``dispatch`` (items given out and
settled), ``map`` (the loop), ``start_map`` (the start of a map of a function).
"""
