"""Trained networks after their run: load, compare, verify, export, model card."""
