"""Running many recipes: what is to do (plan), and doing it, on this machine (local) or on a cluster (slurm)."""
