"""Composition: which functions this app hosts. The setting TURNAROUND_ROLE decides (front, engine or all)."""

import azure.functions as func

from functions import blueprints

app = func.FunctionApp()
for blueprint in blueprints():
    app.register_functions(blueprint)
