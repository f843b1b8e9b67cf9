"""One file per family of workloads; importing this package fills the table."""

from benches.workloads import (  # noqa: F401
    memory,
    scheduling,
    startup,
    synchronisation,
    tasks,
    threads,
    trees,
)
