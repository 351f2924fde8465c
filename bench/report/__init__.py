"""From the records of runs to tables, figures and the page. Read in this order:

records (the runs of a suite; a run is bench/runs/finished.py), definition (what a suite was when it ran), unite (one run
counts per recipe and seed) > frame (runs as data frames), stats (gains, speed-ups), papers (numbers of papers),
suite_report (all of one suite) > tables, documents (Markdown, LaTeX), figures/, page/ > output (the files of a suite).

Two places are written: local, this machine's `results/local/`, and committed, the published results in `results/`.
The verbs are in commands (`report`) and publish (`publish`, `merge`); results is `bench.results` and `bench.curves`.
Published: in `results/<suite>/`, written by `publish` or `merge` and committed to git. The origin of a run is "local",
"published" or "reproduction".
"""
