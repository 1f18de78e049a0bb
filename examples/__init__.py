"""Example applications: each reads as a guide to using Sidestream."""
