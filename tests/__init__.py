"""ferroloop's tests: `make test` runs them all."""
