"""Settings of all tests."""

from hypothesis import settings

# These machines are shared: no test is judged by its time.
settings.register_profile("headrace", deadline=None)
settings.load_profile("headrace")
