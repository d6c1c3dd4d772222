"""A real PostgreSQL for the tests: clusters of their own, a proxy that loses messages, and what else harms a server."""
