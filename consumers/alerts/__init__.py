"""Alerts: rules over committed windows, level-triggered, each incident once whatever workers race."""
