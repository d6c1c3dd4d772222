"""Mistakes put into our own code, one at a time, and the proof that a test catches each.

    python -m mutants                       all of them (`tox -e mutants`)
    python -m mutants "sync" "torn end"     those in whose name one of these stands
    python -m mutants --rotate 5            five that change with the commit; what is printed repeats them

``list.toml`` is the list. A mutant that survives is a missing test: write it. Lowest first: ``listing`` (the list),
``proof`` (runs inside pytest: the package that is tested is the mutated one), ``runner`` (one run of tests on a copy of
the package), ``__main__`` (which mutants, and what is said of them).
"""
