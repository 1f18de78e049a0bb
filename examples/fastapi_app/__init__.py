"""A FastAPI application with a model behind it, watched by Sidestream."""
