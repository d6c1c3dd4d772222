"""Everything the tests share stands in `support`: the options, hooks and fixtures in `support.plugin`,
what tests of a store begin with in `support.stores`."""

pytest_plugins = ["support.plugin", "support.stores"]
