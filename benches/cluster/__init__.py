"""A cluster of Dask: processes on one loop that compute together."""
