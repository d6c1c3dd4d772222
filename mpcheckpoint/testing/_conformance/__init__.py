"""The parts of the conformance suite: `stores`, `logs`, `readers`, one a Protocol; on top `handles` and `processes`.

``mpcheckpoint.testing.conformance`` puts them together; `base` holds what the author of a storage states, and `verbs`
what the tests are made of.
"""
