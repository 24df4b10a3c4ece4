"""FedMed: federated learning across hospital sites.

Patient data stays in each hospital; a shared model learns from all of them.
The package holds the capabilities; `fedmed_site`, `fedmed_server` and
`fedmed_sim` put them to work.
"""

__version__ = "0.1.0"
