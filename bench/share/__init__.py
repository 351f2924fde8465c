"""Trained networks after their run: load, verify, export, model card."""
