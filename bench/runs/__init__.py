"""What a run leaves on disk: its record, folder and environment."""
