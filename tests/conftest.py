"""Everything the tests share stands in `support`: the options, hooks and fixtures in `support.plugin`."""

pytest_plugins = ["support.plugin"]
