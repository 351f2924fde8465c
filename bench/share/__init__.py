"""Trained networks outside of their run: load, verify, export, model card."""
