"""Studies: many trainings of one recipe under different settings, and what they say together."""
