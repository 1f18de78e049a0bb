"""A script that asks a model over plain HTTP, watched by Sidestream."""
