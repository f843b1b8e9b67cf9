"""The comparison suite: every workload on every installed event loop, in fresh processes."""
