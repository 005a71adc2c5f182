"""The documentation of lunarray: ``python -m docs`` builds it."""
