"""One file per family of workloads; importing this package fills the table."""

from benches.workloads import (  # noqa: F401
    bulk,
    echo,
    memory,
    names,
    processes,
    scheduling,
    servers,
    startup,
    synchronisation,
    tasks,
    threads,
    trees,
)
