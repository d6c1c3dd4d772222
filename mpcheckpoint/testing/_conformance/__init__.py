"""The parts of the conformance suite: `stores`, `logs` and `readers`, one for each Protocol; `handles` and `processes`.

``mpcheckpoint.testing.conformance`` puts them together. `base` is what the author of a storage states, `verbs` what the
tests are made of.
"""
