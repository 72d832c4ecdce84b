"""Comparisons of training methods: variants × seeds of one recipe, and what they add up to."""
