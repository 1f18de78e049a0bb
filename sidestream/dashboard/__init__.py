"""The web page: what is being spent, how fast, what fails, and whether the figures can be trusted. It only reads.

    address ─► sources (read once a second at most, for all who look) ─► view ─► parts of the page, or a JSON document

`address` is what is looked at; `sources` the one place that reads Redis; `view` puts the figures together, all of them
from `consumers.views`; `charts` draws; `access` decides who may look; `app` answers HTTP; `serve` runs it.
"""
