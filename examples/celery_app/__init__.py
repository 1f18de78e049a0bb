"""A Celery application whose tasks ask a model, watched by Sidestream."""
