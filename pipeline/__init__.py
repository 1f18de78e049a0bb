"""What producers and consumers share: events, frames, keys, scripts and the door to Redis."""
