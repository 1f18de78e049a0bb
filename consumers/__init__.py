"""Whatever takes events out: the runtime, handlers that fold them into state, sinks, alerts and views."""
