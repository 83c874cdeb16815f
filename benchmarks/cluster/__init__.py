"""Studies on Ray: overhead, scale, lost processes and hosts."""
