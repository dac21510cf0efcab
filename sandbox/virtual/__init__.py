"""The real pipeline in one process and in virtual time: hours of a turnover in a fraction of a second.

`world.World` puts the app's own stages, the real Graph gateway and the Graph SDK between a table and queues in memory
and the simulated tenant. One seed gives one run.
"""
