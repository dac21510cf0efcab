"""What all tests share."""

from hypothesis import HealthCheck, settings

# A busy machine must not fail a test: no limit of time, neither for an example nor for making one.
settings.register_profile("unhurried", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("unhurried")
