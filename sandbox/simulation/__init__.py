"""Bad days: a seed draws a tenant, its devices, what people ask and what breaks; rules are checked at every step.

`plan` draws, `trouble` breaks, `day` plays the plan in virtual time with the app's own stages, `rules` judges by what
happened in the simulated tenant. One seed is one run, to the byte.
"""
