"""Views: what an operator asks of the state and of the pipeline. They read; the front door prints."""
