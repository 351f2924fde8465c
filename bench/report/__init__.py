"""Tables, figures and the page of a suite, all drawn from `results/<suite>/records.jsonl` alone."""
