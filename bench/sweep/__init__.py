"""Running many recipes: what is left to do (plan), and doing it, on this machine (local) or on a cluster (slurm)."""
