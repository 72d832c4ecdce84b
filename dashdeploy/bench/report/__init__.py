"""The record as tables, plots and one HTML page."""
