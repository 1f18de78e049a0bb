"""Commands that look: `report`, `top`, `states`, `session`, `status`, `tail`. None of them writes."""
