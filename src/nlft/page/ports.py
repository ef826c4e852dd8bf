"""The ports that the pages listen on if they are free. This module imports nothing, so that help needs no server."""

USUAL_PORTS = {"map": 8642, "label": 8643}
