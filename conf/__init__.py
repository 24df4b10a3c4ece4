"""The configuration that ships with FedMed; a folder of YAML, a package so that a wheel can hold it."""
