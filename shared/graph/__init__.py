"""The only code that speaks to Microsoft Graph.

`shared.graph.gateway.GraphIntune` is the way in; `endpoint` and `credential` say where Graph is and who we are.
Importing this package, or the gateway, does not import msgraph-sdk: that costs a third of a second of cold start, and
waits until `GraphIntune.create`.
"""
