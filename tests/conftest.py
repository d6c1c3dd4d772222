"""Everything the tests share stands in `support`: the options, hooks and fixtures in `support.plugin`,
what tests of a store begin with in `support.stores`, and the plugin that users have."""

pytest_plugins = [
    "support.plugin",
    "support.postgres.fixtures",
    "support.slow_tests",
    "support.stores",
    "mpcheckpoint.testing.pytest_plugin",
]
